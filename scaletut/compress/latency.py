"""How long a call takes: several programs in turns, so that the machine's moods fall on all of them alike."""

from __future__ import annotations

import copy
import itertools
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from scaletut.compress.program import Level, Program
from scaletut.errors import ParameterError
from scaletut.records import Value
from scaletut.resources.throughput import FEWEST_ROUNDS, load_average, summary, turn_order

TURN_SECONDS = 0.02  # a turn is so long at least: the neighbour's data have left the cache, the clock is exact enough
WARM_CALLS, WARM_SECONDS = 5, 0.1  # before anything counts: memory is asked for, code compiled

Call = Callable[[], Any]


@dataclass(frozen=True)
class Latency:
    """What one call takes.

    Attributes:
        name: of what was called.
        seconds: median over the turns of a turn's median, with its 95 % interval and the number of turns.
        p10, p90, p99: quantiles over all single calls, in seconds.
        calls: how many these were.
        cpu_seconds: of the process, all its threads, for 1,000 images: what energy goes with.
        ratio: how many times faster than the first of the run, whose is 1 (median over the rounds, 95 % interval).
        images_a_call: given to each call.
        threads: that a call may use.
        load: other processes' load on the machine before the run (1-minute average; None if unknown).
    """

    name: str
    seconds: Value
    p10: float
    p90: float
    p99: float
    calls: int
    cpu_seconds: float
    ratio: Value
    images_a_call: int
    threads: int
    load: float | None


def latencies(
    calls: Mapping[str, Call],
    *,
    images_a_call: int,
    threads: int = 1,
    seconds: float = 10.0,
    rounds: int = 200,
) -> tuple[Latency, ...]:
    """Time calls in turns; the first is the one that ratios are to.

    Each is warmed up, then has a turn in each round, in an order that changes from round to round; ratios are taken
    within a round.

    Args:
        calls: by name, without arguments (see `eager`, `compiled`, `runner`).
        images_a_call: that each handles; for `cpu_seconds`.
        threads: set for PyTorch during the run; a program's are set by `runner`.
        seconds: stop when this is over, warm-up apart; at least three rounds are made.
        rounds: at most so many.

    Raises:
        ParameterError: nothing to time, or a count or time that is not above 0.
    """
    if not calls or images_a_call < 1 or threads < 1 or seconds <= 0 or rounds < FEWEST_ROUNDS:
        raise ParameterError(
            f"images_a_call={images_a_call}, threads={threads} and seconds={seconds} must be above 0, "
            f"rounds={rounds} {FEWEST_ROUNDS} or more, and there must be something to time"
        )
    load = load_average()
    with _threads(threads):
        repeats = {name: _warm(call) for name, call in calls.items()}
        turns: dict[str, list[_Turn]] = {name: [] for name in calls}
        deadline = time.perf_counter() + seconds
        made = 0
        while made < rounds and (made < FEWEST_ROUNDS or time.perf_counter() < deadline):
            for name in turn_order(list(calls), made):
                turns[name].append(_turn(calls[name], repeats[name]))
            made += 1
    first = [turn.median for turn in next(iter(turns.values()))]
    return tuple(_latency(name, had, first, images_a_call, threads, load) for name, had in turns.items())


def eager(net: nn.Module, images: np.ndarray, *, channels_last: bool = False) -> Call:
    """A call of a copy of `net` by PyTorch, in evaluation mode, on `images` uint8 (n, h, w, 3).

    What they show does not matter, so they are scaled and not normalised, before the call.
    """
    net, batch = _placed(net, images, channels_last)

    def call() -> Tensor:
        with torch.inference_mode():
            return net(batch)

    return call


def compiled(net: nn.Module, images: np.ndarray, *, channels_last: bool = False) -> Call:
    """As `eager`, compiled by `torch.compile` (which needs a C++ compiler on a CPU) at the first call.

    The code is made for this batch size alone.
    """
    net, batch = _placed(net, images, channels_last)
    fast = torch.compile(net, dynamic=False)

    def call() -> Tensor:
        with torch.no_grad():  # as `torch.compile` is tested most; inference mode makes it compile anew
            return fast(batch)

    return call


def runner(program: Program, images: np.ndarray, *, threads: int = 1, level: Level = "all") -> Call:
    """A call of `program` by ONNX Runtime on `images` uint8 (n, side, side, 3), normalised before the call."""
    predictor = program.predictor(threads=threads, level=level)
    batch = predictor.prepare(images)
    return lambda: predictor.run(batch)


@dataclass(frozen=True)
class _Turn:
    seconds: tuple[float, ...]  # of each call
    cpu_seconds: float  # of all of them

    @property
    def median(self) -> float:
        return median(self.seconds)


def _placed(net: nn.Module, images: np.ndarray, channels_last: bool) -> tuple[nn.Module, Tensor]:
    layout = torch.channels_last if channels_last else torch.contiguous_format
    net = copy.deepcopy(net).cpu().eval().to(memory_format=layout)
    batch = torch.tensor(images).permute(0, 3, 1, 2).float().div_(255)
    return net, batch.to(memory_format=layout).contiguous(memory_format=layout)


def _warm(call: Call) -> int:
    """Call until nothing is new; how many calls fill a turn."""
    taken, start = [], time.perf_counter()
    while len(taken) < WARM_CALLS or time.perf_counter() - start < WARM_SECONDS:
        before = time.perf_counter()
        call()
        taken.append(time.perf_counter() - before)
    return max(1, round(TURN_SECONDS / max(median(taken[len(taken) // 2 :]), 1e-7)))


def _turn(call: Call, repeats: int) -> _Turn:
    call()  # brings its data back into the cache: all are timed as if they were called again and again
    marks, cpu = [time.perf_counter()], time.process_time()
    for _ in range(repeats):
        call()
        marks.append(time.perf_counter())
    cpu = time.process_time() - cpu
    return _Turn(tuple(after - before for before, after in itertools.pairwise(marks)), cpu)


def _latency(
    name: str, turns: list[_Turn], first: list[float], images_a_call: int, threads: int, load: float | None
) -> Latency:
    medians = [turn.median for turn in turns]
    single = np.concatenate([turn.seconds for turn in turns])
    p10, p90, p99 = (float(one) for one in np.quantile(single, (0.1, 0.9, 0.99)))
    cpu = sum(turn.cpu_seconds for turn in turns) / len(single) / images_a_call * 1000
    ratio = summary([base / mine for base, mine in zip(first, medians, strict=True)])
    return Latency(name, summary(medians, "s"), p10, p90, p99, len(single), cpu, ratio, images_a_call, threads, load)


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """PyTorch with `count` threads, and afterwards with as many as before."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
