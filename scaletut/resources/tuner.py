"""The tuner: which setting reaches the goal soonest on this device, found in a stated time, with reasons."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from scaletut.errors import ParameterError
from scaletut.resources.allocator import can_keep
from scaletut.resources.batch import largest_batch, memory_limit
from scaletut.resources.memory import predict_memory
from scaletut.resources.racing import CHECKS, Race, race
from scaletut.resources.setting import Setting, emulated, knobs
from scaletut.resources.throughput import Ledger, Report, Row, measure
from scaletut.resources.trial import Task, Trial
from scaletut.train import pick_device

DEFAULTS, TOGETHER, COMPILED = "PyTorch's defaults", "together", "together, compiled"
KEPT = "together, freed memory kept"
# Shares of the budget: single knobs, knobs together with several batch sizes, the race between these, compiling.
SINGLES, JOINT, RACE, COMPILING = 0.40, 0.20, 0.25, 0.15
# Knobs are told apart by many short steps sooner than by few long ones: beyond so many seconds a smaller batch does.
STEP_SECONDS, PROBE_IMAGES = 0.5, 128
START_SECONDS = 2.5  # that the process of a race needs before its first step
LEAST_BUDGET = 20.0
RESERVE = 0.1  # share of the memory limit that stays free
LEARNING = ("half the batch", "twice the batch", "checkpointing", "compiled")  # knobs that are not taken by speed alone
SEEDS = (0, 1)
BUSY = 0.25  # processes a core, from which the machine is called busy


@dataclass(frozen=True)
class Tuning:
    """What the tuner found.

    Attributes:
        task: what is to be trained.
        device: `cuda`, `mps` or `cpu`.
        setting: the choice.
        singles: each knob alone against PyTorch's defaults.
        joint: the knobs that pay, together, at several batch sizes, against the same defaults.
        race: batch sizes against the clock; None when the time did not suffice for one.
        reasons: why, a sentence each.
        memory_limit: bytes that training may take.
        predicted_peak_bytes: of the choice, without the process and its libraries.
        planned_images: images of the whole training: epochs times the size of the set.
        seconds: what the tuning took.
    """

    task: Task
    device: str
    setting: Setting
    singles: Ledger
    joint: Ledger
    race: Race | None
    reasons: tuple[str, ...]
    memory_limit: int
    predicted_peak_bytes: int
    planned_images: int
    seconds: float

    def first_changes(self) -> tuple[Row, ...]:
        """Single knobs that ran, the one that gains most first: what to change first."""
        return tuple(row for row in self.singles.ranked() if row.name != DEFAULTS)

    @property
    def speedup(self) -> Row:
        """The row of the choice in `joint`: its ratio is to PyTorch's defaults."""
        return next(row for row in self.joint.rows if row.setting == self.setting)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)

    def code(self) -> str:
        """Python that trains with the choice."""
        changes = ", ".join(f"{name}={value!r}" for name, value in self.setting.changes(Setting()).items())
        return (
            "from scaletut.resources import Setting\n"
            f"setting = Setting({changes})\n"
            "result = fit(model, train, setting.recipe(recipe), seed, how=setting.apply())"
        )


def tune(
    task: Task,
    *,
    budget: float = 120.0,
    limit_bytes: int = 0,
    device: str = "",
    rounds: int = 30,
    report: Report = lambda _: None,
) -> Tuning:
    """Find the setting that trains `task` soonest, within `budget` seconds and `limit_bytes` of memory.

    Each knob is timed alone against PyTorch's defaults, in turns, where a step is long at a smaller batch; those whose
    whole 95 % interval is above 1 are put together and timed once more; batch sizes are chosen by the time to a
    held-out loss, not by images a second; a compiled network must earn its compilation back within the planned
    training.

    Args:
        task: what is trained, and where its batch size starts.
        budget: seconds; a slow network may need more for the three rounds that an interval takes.
        limit_bytes: memory that training may take; 0 for what `memory_limit` finds.
        device: `cuda`, `mps`, `cpu`, or empty for the best present.
        rounds: turns of a setting at most.
        report: told what is being done.

    Raises:
        ParameterError: a budget below 20 seconds, or a limit in which not even one image fits.
        TrialFailed: the task cannot be run at all.
    """
    if budget < LEAST_BUDGET:
        raise ParameterError(
            f"a budget of {budget:g} s is too short to compare anything: give {LEAST_BUDGET:g} s or more"
        )
    return _Tuner(task, budget, limit_bytes, device, rounds, report).run()


class _Tuner:
    """The stages of one tuning; each adds to the reasons."""

    def __init__(self, task: Task, budget: float, limit_bytes: int, device: str, rounds: int, report: Report) -> None:
        self.task, self.budget, self.rounds, self.report = task, budget, rounds, report
        self.started = time.perf_counter()
        self.device = pick_device(device)
        self.limit = limit_bytes or memory_limit(self.device)
        self.train = task.train_set()
        self.model = task.build(self.train)
        self.reasons: list[str] = []

    def run(self) -> Tuning:
        base = self.fitting(Setting(batch_size=self.task.recipe.batch_size))
        brief = self.brief(base)
        singles = self.singles(brief)
        self.warn(singles.load)
        together = self.composed(base, brief, singles)
        joint, raced = self.joint(base, together, doubted=brief != base), None
        together = self.kept(joint, together)
        candidates = self.ran(joint, together)
        winner = together
        if len(candidates) > 1:
            raced, winner = self.raced(candidates, together)
        winner, joint = self.compiled(base, winner, joint)
        forecast = predict_memory(
            self.model, self.task.recipe, batch_size=winner.batch_size, side=self.side, how=self.how(winner)
        )
        return Tuning(
            task=self.task,
            device=self.device.type,
            setting=winner,
            singles=singles,
            joint=joint,
            race=raced,
            reasons=tuple(self.reasons),
            memory_limit=self.limit,
            predicted_peak_bytes=forecast.peak,
            planned_images=self.planned,
            seconds=time.perf_counter() - self.started,
        )

    # --- what several stages ask

    @property
    def side(self) -> int:
        return self.train.images.shape[1]

    @property
    def planned(self) -> int:
        return round(self.task.recipe.epochs * len(self.train))

    def how(self, setting: Setting) -> Any:
        return setting.execution(self.device.type)

    def left(self, share_of_budget: float) -> float:
        """Seconds of a stage: its share, and at most what is left."""
        spent = time.perf_counter() - self.started
        return max(1.0, min(share_of_budget * self.budget, self.budget - spent))

    def measured(self, settings: Mapping[str, Setting], share_of_budget: float, at_once: int) -> Ledger:
        return measure(
            self.task,
            settings,
            seconds=self.left(share_of_budget),
            rounds=self.rounds,
            device=self.device.type,
            at_once=at_once,
            report=self.report,
        )

    # --- the stages

    def warn(self, load: float | None) -> None:
        """A ratio survives a busy machine better than a rate does, but not unharmed."""
        cores = os.cpu_count() or 1
        if load is not None and load > BUSY * cores:
            self.reasons.insert(
                0,
                f"the machine was busy before this began ({load:.1f} processes on {cores} cores): threads that wait "
                "for each other suffer most; repeat it when nothing else runs",
            )

    def fitting(self, base: Setting) -> Setting:
        """`base`, in micro-batches where its batch does not fit into memory."""
        own = base.batch_size
        self.choice = largest_batch(
            self.model,
            self.task.recipe,
            limit_bytes=self.limit,
            side=self.side,
            how=self.how(base),
            reserve=RESERVE,
            most=4 * own,
            confirm=False,  # the trials are the real steps
        )
        micro = self.choice.micro_batch
        if not micro:
            return base
        self.reasons.append(
            f"batch {own} needs {self.peak(own) / 1e9:.3g} GB of {self.limit / 1e9:.3g} GB, {RESERVE:.0%} of it in "
            f"reserve: micro-batches of {micro} keep the effective batch"
        )
        return replace(base, micro_batch=micro)

    def brief(self, base: Setting) -> Setting:
        """`base`, or where its step is long the same at a smaller batch."""
        own = base.batch_size
        trial = Trial(self.task, replace(base, batch_size=min(own, PROBE_IMAGES)), self.device.type)
        try:
            size = int(STEP_SECONDS * min(own, PROBE_IMAGES) / trial.ready().step_seconds)
        finally:
            trial.close()
        if own <= 2 * size:
            return base
        size = max(size, PROBE_IMAGES)
        self.reasons.append(
            f"single knobs are timed at batch {size}: a step of {own} takes {own / size * STEP_SECONDS:.1f} s"
        )
        return replace(base, batch_size=size)

    def singles(self, base: Setting) -> Ledger:
        """Each knob alone. Compiling has a stage of its own, because it takes so long."""
        offered = knobs(base, self.device)
        hopeless = emulated(self.device)
        for name in hopeless:
            self.reasons.append(f"{name}: not tried, this hardware has no instructions for it and would emulate it")
        chosen = {name: one for name, one in offered.items() if name not in hopeless and not one.compiled}
        settings = {DEFAULTS: base}
        settings |= {
            name: one for name, one in chosen.items() if (one.micro_batch or one.batch_size) <= self.choice.batch_size
        }
        return self.measured(settings, SINGLES, self.at_once(base))

    def peak(self, batch_size: int) -> float:
        """Bytes, by the line of the forecasts."""
        start, slope = self.choice.line
        return start + slope * batch_size

    def at_once(self, base: Setting) -> int:
        """Processes that fit side by side; each also holds the images as bytes and, on a GPU, a context of its own."""
        each = self.peak(base.micro_batch or base.batch_size) + self.train.images.nbytes
        each += 5 * 10**8 if self.device.type == "cuda" else 10**8
        return max(2, min(16, int(self.limit / each)))

    def composed(self, base: Setting, brief: Setting, singles: Ledger) -> Setting:
        """The knobs that pay beside `brief`, put into `base`: of the ways to load images the best one, of the rest
        all."""
        changes: dict[str, Any] = {}
        loading = [row for row in singles.rows if {"data", "workers"} & set(row.setting.changes(brief))]
        best = max((row for row in loading if row.faster), key=lambda row: row.ratio.value, default=None)
        for row in singles.rows[1:]:
            if row.ratio is None:
                self.reasons.append(f"{row.name}: {row.failure}")
                continue
            found = f"{row.name}: {_ratio(row)}"
            if row.name in LEARNING:
                self.reasons.append(f"{found}, judged apart" if "batch" in row.name else found)
                continue
            taken = row is best if row in loading else row.faster
            if taken:
                changes |= row.setting.changes(brief)
            self.reasons.append(found + (", taken" if taken else ", left"))
        return replace(base, **changes)

    def joint(self, base: Setting, together: Setting, doubted: bool) -> Ledger:
        """The composed setting at several batch sizes, beside the defaults.

        Where the single knobs were timed at a smaller batch, memory that is kept gets a second chance, for it pays with
        large blocks alone.
        """
        own = together.batch_size
        most = min(self.choice.batch_size, len(self.train) // CHECKS)
        sizes = [size for size in (own // 2, own * 2, own // 4, own * 4) if 1 <= size <= most]
        settings = {DEFAULTS: base, TOGETHER: together}
        if doubted and not together.keep_memory and self.device.type == "cpu" and can_keep():
            settings[KEPT] = replace(together, keep_memory=True)
        if not together.micro_batch:
            settings |= {f"{TOGETHER}, batch {size}": replace(together, batch_size=size) for size in sizes}
        return self.measured(settings, JOINT, self.at_once(replace(base, batch_size=max([own, *sizes]))))

    def kept(self, joint: Ledger, together: Setting) -> Setting:
        """`together`, or with freed memory kept where that was seen to be faster."""
        rows = {row.name: row for row in joint.rows if row.ratio is not None}
        if KEPT not in rows or TOGETHER not in rows:
            return together
        row, plain = rows[KEPT], rows[TOGETHER]
        pays = row.ratio.low > plain.ratio.value
        self.reasons.append(
            f"freed memory kept, at batch {together.batch_size}: {_ratio(row)} beside {_ratio(plain)} without"
            + (", taken" if pays else ", left")
        )
        return row.setting if pays else together

    def ran(self, joint: Ledger, together: Setting) -> dict[int, Row]:
        """Rows of `joint` that are candidates for the race, by batch size, the recipe's own first."""
        rows = (row for row in joint.rows[1:] if row.ratio is not None)
        own = together.batch_size
        return {row.setting.batch_size: row for row in rows if replace(row.setting, batch_size=own) == together}

    def raced(self, candidates: Mapping[int, Row], together: Setting) -> tuple[Race | None, Setting]:
        """Batch sizes against the clock, as many as the time allows."""
        time_left = self.left(RACE)
        rows = dict(candidates)
        while len(rows) > 1:
            seconds = time_left / (len(rows) * len(SEEDS)) - START_SECONDS
            needed = max(CHECKS * size / row.images_per_second.value for size, row in rows.items())
            if seconds >= needed:
                break
            rows.popitem()  # the one farthest from the recipe's own
        if len(rows) < 2:
            self.reasons.append(f"batch {together.batch_size}: kept, the time did not suffice for a race")
            return None, together
        result = race(
            self.task,
            {size: row.setting for size, row in rows.items()},
            {size: row.images_per_second.value for size, row in rows.items()},
            seconds=seconds,
            seeds=SEEDS,
            device=self.device.type,
            report=self.report,
        )
        winner = result.winner()
        for size in result.batch_sizes():
            times = " and ".join("never" if one == float("inf") else f"{one:.1f} s" for one in result.seconds(size))
            rate = rows[size].images_per_second.value
            self.reasons.append(
                f"batch {size}: {rate:,.0f} images/s, and {times} to a held-out loss of {result.target:.3f}"
                + (", taken" if size == winner else "")
            )
        return result, rows[winner].setting

    def compiled(self, base: Setting, winner: Setting, joint: Ledger) -> tuple[Setting, Ledger]:
        """The winner beside its compiled form, which must pay for its compilation within the planned training."""
        plain = next(row.name for row in joint.rows if row.setting == winner)
        settings = {DEFAULTS: base, plain: winner, COMPILED: replace(winner, compiled=True)}
        ledger = self.measured(settings, 1.0, 3)
        row = ledger[COMPILED]
        joint = replace(joint, rows=(*joint.rows, row))
        if row.ratio is None:
            self.reasons.append(f"compiled: {row.failure}")
            return winner, joint
        times = {one: _seconds(ledger[one], self.planned) for one in (plain, COMPILED)}
        pays = times[COMPILED] < times[plain] and row.ratio.low > ledger[plain].ratio.value
        self.reasons.append(
            f"compiled: {_ratio(row)} beside {_ratio(ledger[plain])} without, after {row.setup_seconds:.0f} s of "
            f"compiling; the planned {self.planned:,} images take {times[COMPILED]:.0f} s beside {times[plain]:.0f} s"
            + (", taken" if pays else ", left")
        )
        return (row.setting if pays else winner), joint


def _seconds(row: Row, images: int) -> float:
    """Of a whole training, compilation included."""
    return row.setup_seconds + images / row.images_per_second.value


def _ratio(row: Row) -> str:
    value = row.ratio
    return f"{value.value:.2f} times ({value.low:.2f} to {value.high:.2f})"
