"""Images a second of several settings, timed in turns so that the machine's moods fall on all of them alike."""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, median, stdev

from scipy.stats import t as student

from scaletut.errors import ParameterError
from scaletut.records import Value
from scaletut.resources.setting import Setting
from scaletut.resources.trial import Ready, Task, Trial, TrialFailed

TURN_SECONDS = 0.4  # at least so long is timed at a stretch
FEWEST_ROUNDS = 3

Report = Callable[[str], None]


@dataclass(frozen=True)
class Row:
    """One setting of a ledger.

    Attributes:
        name: of the change.
        setting: what was run.
        images_per_second: median over the rounds, with their 95 % interval (Student t on logarithms) and their number.
        ratio: to the reference's turn of the same round, in the same form.
        peak_bytes: what the process grew by at most, images included (of the allocator on CUDA).
        setup_seconds: what the first step took beyond a later one: compilation, mostly.
        failure: why it could not be run; the figures are None then.
    """

    name: str
    setting: Setting
    images_per_second: Value | None = None
    ratio: Value | None = None
    peak_bytes: int = 0
    setup_seconds: float = 0.0
    failure: str = ""

    @property
    def faster(self) -> bool:
        """Whether the whole interval of the ratio lies above 1."""
        return self.ratio is not None and (self.ratio.low or 0) > 1


@dataclass(frozen=True)
class Ledger:
    """What each setting gives, measured in one interleaved run.

    Attributes:
        rows: the reference first.
        rounds: turns that each setting had.
        load: other processes' load on the machine before the run, in processes (1-minute average; None if unknown).
        flops_per_image: of training, 2 a multiply-add.
    """

    rows: tuple[Row, ...]
    rounds: int
    load: float | None
    flops_per_image: float

    def __getitem__(self, name: str) -> Row:
        """The row called `name`; KeyError otherwise."""
        for row in self.rows:
            if row.name == name:
                return row
        raise KeyError(name)

    def flops_per_second(self, name: str) -> float:
        """Training FLOP/s of a setting, 2 a multiply-add."""
        return self[name].images_per_second.value * self.flops_per_image

    def ranked(self) -> tuple[Row, ...]:
        """The rows that ran, the fastest first."""
        return tuple(sorted((row for row in self.rows if row.ratio), key=lambda row: -row.ratio.value))


def measure(
    task: Task,
    settings: Mapping[str, Setting],
    *,
    seconds: float = 60.0,
    rounds: int = 30,
    device: str = "",
    at_once: int = 16,
    report: Report = lambda _: None,
) -> Ledger:
    """Time training steps of `settings` in turns.

    Each runs in a process of its own, which waits while another has its turn; the order of the turns changes from
    round to round.

    Args:
        task: what is trained.
        settings: by name; the first is the reference that ratios are to.
        seconds: stop when this is over, warm-up included; at least three rounds are made.
        rounds: at most so many.
        device: `cuda`, `mps`, `cpu`, or empty for the best present.
        at_once: processes that memory has room for, 2 or more; more settings are timed in groups, each with the
            reference.
        report: told what is being done.

    Raises:
        TrialFailed: the reference itself cannot be run.
    """
    names = list(settings)
    reference, others = names[0], names[1:]
    if seconds <= 0 or at_once < 2:
        raise ParameterError(f"seconds={seconds} must be above 0 and at_once={at_once} 2 or more")
    size = max(1, at_once - 1)
    groups = [others[first : first + size] for first in range(0, len(others), size)] or [[]]
    load = load_average()
    rows: dict[str, Row] = {}
    made: list[int] = []
    for number, group in enumerate(groups):
        share = seconds / len(groups)
        report(f"settings {number * size + 1} to {number * size + len(group)} of {len(others)}")
        chosen = {name: settings[name] for name in (reference, *group)}
        found, turns, flops = _group(task, chosen, share, rounds, device, report)
        rows = {**found, **rows}  # the reference as its first group saw it
        made.append(turns)
    return Ledger(tuple(rows[name] for name in names), min(made), load, flops)


def _group(
    task: Task, settings: Mapping[str, Setting], seconds: float, rounds: int, device: str, report: Report
) -> tuple[dict[str, Row], int, float]:
    deadline = time.perf_counter() + seconds
    with contextlib.ExitStack() as stack:
        trials, ready, failures = _started(task, settings, device, stack, deadline, report)
        reference = next(iter(settings))
        if reference in failures:
            raise TrialFailed(f"the reference setting {reference!r} cannot be run: {failures[reference]}")
        rates: dict[str, list[float]] = {name: [] for name in trials}
        made = 0
        while made < rounds and (made < FEWEST_ROUNDS or time.perf_counter() < deadline):
            for name in turn_order(list(trials), made):
                steps = _steps(ready[name])
                taken = trials[name].time(steps)
                rates[name].append(steps * ready[name].batch_size / taken)
            made += 1
            report(f"round {made}")
        peaks = {name: trial.peak_bytes() for name, trial in trials.items()}
    rows = {name: Row(name, settings[name], failure=why) for name, why in failures.items()}
    for name in trials:
        pairs = [mine / base for mine, base in zip(rates[name], rates[reference], strict=True)]
        extra = max(0.0, ready[name].first_step_seconds - ready[name].step_seconds)
        rows[name] = Row(name, settings[name], summary(rates[name], "images/s"), summary(pairs), peaks[name], extra)
    return rows, made, ready[reference].flops_per_image


def _started(
    task: Task,
    settings: Mapping[str, Setting],
    device: str,
    stack: contextlib.ExitStack,
    deadline: float,
    report: Report,
) -> tuple[dict[str, Trial], dict[str, Ready], dict[str, str]]:
    """Processes that are ready, one warmed up after the other: two at once would time each other.

    Settings for which no time is left, the least rounds of those before them reckoned in, are not tried; only the
    reference always is.
    """
    trials: dict[str, Trial] = {}
    ready: dict[str, Ready] = {}
    failures: dict[str, str] = {}
    for name, setting in settings.items():
        owed = FEWEST_ROUNDS * sum(_steps(one) * one.step_seconds for one in ready.values())
        left = deadline - time.perf_counter() - owed
        if trials and left <= 0:
            failures[name] = "not tried: the time was over"
            continue
        report(f"warming up: {name}")
        trial = Trial(task, setting, device)
        stack.callback(trial.close)
        try:
            ready[name] = trial.ready(left if trials else math.inf)
            trials[name] = trial
        except TrialFailed as error:
            failures[name] = str(error)
    return trials, ready, failures


def _steps(ready: Ready) -> int:
    """Steps of one turn."""
    return max(1, math.ceil(TURN_SECONDS / ready.step_seconds))


def turn_order(names: list[str], turn: int) -> list[str]:
    """Each round starts elsewhere, every second one runs backwards: none always follows the same neighbour."""
    shift = turn % len(names)
    turned = names[shift:] + names[:shift]
    return turned[::-1] if turn % 2 else turned


def load_average() -> float | None:
    """Processes that want to run, averaged over a minute; None where the system does not say."""
    with contextlib.suppress(OSError, AttributeError):
        return os.getloadavg()[0]
    return None


def summary(samples: Sequence[float], unit: str = "") -> Value:
    """Median of positive `samples` with a 95 % interval about it: Student t on their logarithms."""
    middle, n = median(samples), len(samples)
    if n < 2:
        return Value(middle, unit, n=n)
    logs = [math.log(one) for one in samples]
    half = student.ppf(0.975, n - 1) * stdev(logs) / math.sqrt(n)
    centre = mean(logs)
    low, high = math.exp(centre - half), math.exp(centre + half)
    return Value(middle, unit, low=min(low, middle), high=max(high, middle), n=n)
