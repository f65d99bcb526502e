"""The runs of a sweep that are still to do, and what becomes of those that do not end well, whoever executes them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from scaletut.sweep.plan import RunSpec
from scaletut.sweep.store import Store, halved
from scaletut.sweep.train import failed_record

TRIES = 3  # deaths of a worker on one run before the run is given up


@dataclass(frozen=True)
class Event:
    """What happened to a run: `kind` is started, progress, done, halved, retried or failed."""

    kind: str
    spec: RunSpec
    facts: dict[str, Any] = field(default_factory=dict)


Listener = Callable[[Event], None]
More = Callable[[], Iterable[RunSpec]]


class Todo:
    """A queue of runs; `listen` hears what happens to them, `more` is asked for others when all have ended."""

    def __init__(
        self, specs: Iterable[RunSpec], store: Store, listen: Listener | None = None, more: More | None = None
    ) -> None:
        self.waiting, self.store = deque(specs), store
        self.listen = listen or (lambda event: None)
        self.more = more
        self.deaths: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self.waiting)

    def next(self) -> RunSpec:
        """The next run, told as started."""
        spec = self.waiting.popleft()
        self.listen(Event("started", spec))
        return spec

    def ask_for_more(self) -> None:
        self.waiting.extend(self.more() if self.more else ())

    def out_of_memory(self, spec: RunSpec, why: str) -> None:
        """Once more with half the batch; after that the run is given up."""
        self.store.checkpoint(spec).unlink(missing_ok=True)  # it is of no use to half the batch
        if spec.halved:
            self.fail(spec, f"out of memory, also with half the batch ({why})")
        else:
            self.waiting.appendleft(halved(spec))
            self.listen(Event("halved", spec, {"error": why}))

    def died(self, spec: RunSpec, why: str) -> None:
        """A worker died on the run: it is tried anew, `TRIES` times in all."""
        if self.store.path(spec).exists():  # killed between its record and its answer
            self.listen(Event("done", spec))
            return
        self.deaths[spec.key] = self.deaths.get(spec.key, 0) + 1
        if self.deaths[spec.key] >= TRIES:
            self.fail(spec, f"its worker died {TRIES} times ({why})")
        else:
            self.waiting.appendleft(spec)
            self.listen(Event("retried", spec, {"error": f"its worker died ({why})"}))

    def fail(self, spec: RunSpec, why: str) -> None:
        """Keep a record that says why, so that the run is neither silent nor tried for ever."""
        self.store.write(spec, failed_record(spec, "failed", why))
        self.listen(Event("failed", spec, {"error": why}))
