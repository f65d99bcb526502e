"""What a service counts about itself, in the text format of Prometheus (version 0.0.4)."""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Iterable, Sequence

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
IMAGES = (1, 2, 4, 8, 16, 32, 64, 128)


class Histogram:
    """Counts by upper bounds, with the sum of what was counted."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def add(self, value: float) -> None:
        """Count `value` once."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    def lines(self, name: str) -> Iterable[str]:
        """Its lines; counts are cumulative, as the format has them."""
        below = 0
        for bound, count in zip((*self.bounds, "+Inf"), self.counts, strict=True):
            below += count
            yield f'{name}_bucket{{le="{bound}"}} {below}'
        yield f"{name}_sum {self.sum:.9g}"
        yield f"{name}_count {below}"


class Level:
    """A number that goes up and down, and its integral over time: two readings give the mean between them."""

    def __init__(self) -> None:
        self.now = 0
        self._area, self._since = 0.0, time.monotonic()

    def move(self, by: int) -> None:
        """Go up or down by so much."""
        self._area, self._since = self.area(), time.monotonic()
        self.now += by

    def area(self) -> float:
        """The integral so far, in units times seconds."""
        return self._area + self.now * (time.monotonic() - self._since)


class Metrics:
    """All counts of a service."""

    def __init__(self) -> None:
        self.requests: dict[int, int] = {}
        self.latency = Histogram(SECONDS)
        self.batches = Histogram(IMAGES)
        self.compute = Histogram(SECONDS)
        self.inside = Level()
        self.computing = 0
        self.retried = 0
        self.restarts = 0

    def answered(self, status: int, seconds: float) -> None:
        """A request to /predict was answered; its seconds count when it was answered with a prediction."""
        self.requests[status] = self.requests.get(status, 0) + 1
        if status == 200:
            self.latency.add(seconds)

    def computed(self, images: int, seconds: float) -> None:
        """A worker has computed a batch."""
        self.batches.add(images)
        self.compute.add(seconds)

    def text(self, waiting: int, workers: int) -> str:
        """Everything as Prometheus reads it; `waiting` images and `workers` that are ready."""
        numbers = [
            ("gauge", "scaletut_waiting_images", "images that wait for a worker", waiting),
            ("gauge", "scaletut_computing_images", "images that workers have taken", self.computing),
            ("gauge", "scaletut_workers_ready", "inference processes that can take a batch", workers),
            ("gauge", "scaletut_requests_inside", "requests to /predict between header and answer", self.inside.now),
            ("counter", "scaletut_request_seconds_inside_total", "integral of the former", f"{self.inside.area():.9g}"),
            ("counter", "scaletut_retried_images_total", "images given to another worker", self.retried),
            ("counter", "scaletut_worker_restarts_total", "workers that ended and were replaced", self.restarts),
        ]
        histograms = [
            ("scaletut_request_seconds", "from header to answer, of predictions", self.latency),
            ("scaletut_batch_images", "images in a batch", self.batches),
            ("scaletut_batch_seconds", "computation of a batch", self.compute),
        ]
        lines = [
            "# HELP scaletut_requests_total requests to /predict by status",
            "# TYPE scaletut_requests_total counter",
        ]
        lines += [f'scaletut_requests_total{{status="{code}"}} {n}' for code, n in sorted(self.requests.items())]
        for kind, name, about, value in numbers:
            lines += [f"# HELP {name} {about}", f"# TYPE {name} {kind}", f"{name} {value}"]
        for name, about, histogram in histograms:
            lines += [f"# HELP {name} {about}", f"# TYPE {name} histogram", *histogram.lines(name)]
        return "\n".join(lines) + "\n"
