"""What queueing theory says about a service, and a simulation of what formulas do not cover: batches.

Rates are requests a second, times seconds.
Sources: Harchol-Balter, "Performance Modeling and Design of Computer Systems" (2013), chapters 6 and 23; Kleinrock,
"Power and deterministic rules of thumb for probabilistic problems in computer communications" (ICC 1979) for the knee.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence

import numpy as np

from scaletut.errors import ParameterError


def utilisation(rate: float, seconds: float, workers: int = 1) -> float:
    """Share of their time for which `workers` are busy, when each request takes one of them `seconds`.

    1 or more: requests come faster than they can be served, and the queue grows without end.
    """
    if rate < 0 or seconds <= 0 or workers < 1:
        raise ParameterError(f"rate={rate}, seconds={seconds}, workers={workers}: give 0 or more, above 0, 1 or more")
    return rate * seconds / workers


def mean_wait(rate: float, seconds: float, squared_variation: float = 0.0) -> float:
    """Mean seconds in the queue of one worker when requests arrive at random (Pollaczek and Khinchine).

    Args:
        rate: of a Poisson process of arrivals.
        seconds: mean time of service.
        squared_variation: variance of that time over its squared mean: 0 if always the same, 1 if exponential.

    Returns:
        `rho / (1 - rho) * (1 + squared_variation) / 2 * seconds`; infinite from a utilisation `rho` of 1 on.
    """
    busy = utilisation(rate, seconds)
    if squared_variation < 0:
        raise ParameterError(f"squared_variation={squared_variation} is a ratio of squares; give 0 or more")
    return busy / (1 - busy) * (1 + squared_variation) / 2 * seconds if busy < 1 else float("inf")


def poisson_arrivals(rate: float, seconds: float, seed: int) -> np.ndarray:
    """Times of arrival at random in [0, seconds), float64 rising: gaps are exponential with mean 1 / rate."""
    if not rate > 0 or not seconds > 0:
        raise ParameterError(f"rate={rate} and seconds={seconds} must be above 0")
    rng = np.random.default_rng(seed)
    count = rng.poisson(rate * seconds)  # given their number, arrivals of a Poisson process are uniform
    return np.sort(rng.uniform(0, seconds, count))


def simulate(
    arrivals: Sequence[float],
    *,
    fixed: float,
    per_image: float = 0.0,
    most: int = 1,
    wait: float = 0.0,
    workers: int = 1,
) -> np.ndarray:
    """Seconds from arrival to answer, float64 (n,), of a service that takes waiting images in batches.

    A batch is closed when it holds `most` images or its first one has waited `wait`, by a worker that is free; it
    takes `fixed + per_image * images` seconds. With `most=1` this is the plain queue, first come first served.

    Args:
        arrivals: times, rising.
    """
    times = np.asarray(arrivals, np.float64)
    if times.ndim != 1 or (np.diff(times) < 0).any():
        raise ParameterError("arrivals must be one list of times that never fall; sort them")
    if min(fixed, per_image, wait) < 0 or most < 1 or workers < 1:
        raise ParameterError("times must be 0 or more, `most` and `workers` 1 or more")
    free, latencies = [0.0] * workers, np.empty(len(times))
    first, closed = 0, 0.0
    while first < len(times):
        full = times[first + most - 1] if first + most <= len(times) else np.inf
        start = max(heapq.heappop(free), times[first], closed)  # one worker collects at a time
        closed = max(start, min(full, times[first] + wait))
        behind = min(first + most, int(np.searchsorted(times, closed, side="right")))
        done = closed + fixed + per_image * (behind - first)
        latencies[first:behind] = done - times[first:behind]
        heapq.heappush(free, done)
        first = behind
    return latencies


def batch_cost(sizes: Sequence[int], seconds: Sequence[float]) -> tuple[float, float]:
    """(fixed, per_image): the line through the times of batches, fitted to relative misses; neither is below 0.

    Raises ParameterError for fewer than two sizes.
    """
    from scipy.optimize import nnls

    x, y = np.asarray(sizes, np.float64), np.asarray(seconds, np.float64)
    if len(set(x.tolist())) < 2 or x.shape != y.shape or (y <= 0).any():
        raise ParameterError("give times above 0 of batches of two sizes or more, one a batch")
    columns = np.column_stack([np.ones_like(x), x]) / y[:, None]
    fixed, per_image = nnls(columns, np.ones_like(y))[0]
    return float(fixed), float(per_image)


def knee(rates: Sequence[float], latencies: Sequence[float]) -> int:
    """Index of the load with the most power: throughput over mean latency (Kleinrock 1979).

    Below it more load buys throughput almost free, above it latency. For one worker and arrivals at random it lies
    where one request is in the system on average, whatever the times of service are.

    Args:
        rates: throughputs reached.
        latencies: mean seconds at each.
    """
    power = np.asarray(rates, np.float64) / np.asarray(latencies, np.float64)
    if power.ndim != 1 or not len(power) or not np.isfinite(power).all():
        raise ParameterError("give one throughput and one latency above 0 for each load")
    return int(power.argmax())
