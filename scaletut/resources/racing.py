"""Batch sizes raced against the clock: which one reaches a held-out loss first, whatever its images a second."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from scaletut.errors import ParameterError
from scaletut.resources.setting import Setting
from scaletut.resources.throughput import Report
from scaletut.resources.trial import Task, TrialFailed, apart
from scaletut.train import report as score
from scaletut.train.loop import Run, predict

CHECKS = 12  # times that the held-out images are scored in a race
HELD_OUT = 1000  # images at most, and a fifth of the set at most


@dataclass(frozen=True)
class Curve:
    """Held-out loss of one run against the images that it has trained on.

    Attributes:
        batch_size: images a step.
        seed: of weights and batches.
        rate: images a second, as measured apart, in turns with the other batch sizes.
        images, loss, accuracy: equally long; loss in nats, accuracy 0 to 1.
    """

    batch_size: int
    seed: int
    rate: float
    images: tuple[int, ...]
    loss: tuple[float, ...]
    accuracy: tuple[float, ...]

    @property
    def seconds(self) -> tuple[float, ...]:
        """When each loss was reached, by `rate`: a slow moment of the machine during the race changes nothing."""
        return tuple(images / self.rate for images in self.images)

    def seconds_to(self, loss: float) -> float:
        """When the best loss so far first fell to `loss`, between two checks by straight line; inf if it never did."""
        best = np.minimum.accumulate(np.nan_to_num(self.loss, nan=np.inf))
        reached = np.flatnonzero(best <= loss)
        if not len(reached):
            return float("inf")
        last = int(reached[0])
        if last == 0 or not np.isfinite(best[last - 1]):
            return self.seconds[last]
        return float(np.interp(-loss, -best[last - 1 : last + 1], self.seconds[last - 1 : last + 1]))


@dataclass(frozen=True)
class Race:
    """Runs of several batch sizes, and the loss that is the finishing line.

    Attributes:
        curves: one a batch size and seed.
        target: nats; the worst of what the seeds of the recipe's own batch size reached by the end.
        own: the recipe's own batch size.
    """

    curves: tuple[Curve, ...]
    target: float
    own: int

    def seconds(self, batch_size: int) -> tuple[float, ...]:
        """Seconds to the target, one a seed."""
        return tuple(curve.seconds_to(self.target) for curve in self.curves if curve.batch_size == batch_size)

    def batch_sizes(self) -> tuple[int, ...]:
        """Those that raced, in order of size."""
        return tuple(sorted({curve.batch_size for curve in self.curves}))

    def winner(self, margin: float = 0.05) -> int:
        """The batch size that was first: for each seed at least `margin` (a share) ahead of the recipe's own.

        Where none is, the recipe's own: a difference that the seeds do not agree on is not worth a change.
        """
        own = self.seconds(self.own)
        ahead = {
            size: float(np.mean(self.seconds(size)))
            for size in self.batch_sizes()
            if all(mine <= (1 - margin) * theirs for mine, theirs in zip(self.seconds(size), own, strict=True))
        }
        return min(ahead, key=ahead.__getitem__, default=self.own)


def race(
    task: Task,
    settings: Mapping[int, Setting],
    rates: Mapping[int, float],
    *,
    seconds: float,
    seeds: Sequence[int] = (0, 1),
    device: str = "",
    report: Report = lambda _: None,
) -> Race:
    """Train with each setting for equally many seconds at a constant rate, and score held-out training images.

    A constant rate, because with a falling one a loss is reached at the end of the schedule only; the first tenth
    warms up. Learning rates follow the batch as in `Setting.recipe`.

    Args:
        task: what is trained; the first setting's batch size is its recipe's own.
        settings: by batch size; the first is the recipe's own.
        rates: images a second of each, from `measure`: they are the clock.
        seconds: of training, for each run.
        seeds: each batch size runs once with each.
        device: as for `fit`.
        report: told what is being done.

    Raises:
        ParameterError: so few seconds that some batch size would make no step between two checks.
        TrialFailed: the recipe's own batch size cannot be run.
    """
    short = [size for size in settings if seconds * rates[size] < CHECKS * size]
    if short:
        needed = max(CHECKS * size / rates[size] for size in short)
        raise ParameterError(
            f"a race of {seconds:.2g} s tells nothing at batch {short[0]}: give {needed:.2g} s or more"
        )
    own = next(iter(settings))
    curves: list[Curve] = []
    for seed in seeds:
        for size, setting in settings.items():
            report(f"race: batch {size}, seed {seed}")
            try:
                curves.append(apart(run_curve, replace(task, seed=seed), setting, rates[size], seconds, device))
            except TrialFailed:
                if size == own:
                    raise
    whole = {size for size in settings if sum(curve.batch_size == size for curve in curves) == len(seeds)}
    curves = [curve for curve in curves if curve.batch_size in whole]
    target = max(min(curve.loss) for curve in curves if curve.batch_size == own)
    return Race(tuple(curves), target, own)


def run_curve(task: Task, setting: Setting, rate: float, seconds: float, device: str = "") -> Curve:
    """One run of a race, in this process."""
    how = setting.apply(device)
    everything = task.train_set()
    train, held_out = everything.split(min(HELD_OUT, len(everything) // 5), seed=task.seed)
    recipe = replace(setting.recipe(task.recipe), schedule="constant", averaging=0.0, patience=0)
    run = Run(task.build(train), train, recipe, task.seed, None, None, how)
    peaks = [[group["peak"] for group in optimizer.param_groups] for optimizer in run.optimizers]
    curve: list[tuple[int, float, float]] = []
    batches = run.batches.endless()
    budget = rate * seconds
    while run.images < budget:
        run.model.train()
        while run.images < budget * (len(curve) + 1) / CHECKS:
            _warm(run, peaks, run.images / budget)
            run.train_step(*next(batches))
        logits = predict(run.model, held_out, run.normalisation, how=how)
        found = score(np.nan_to_num(logits), held_out.labels)
        curve.append((run.images, found.cross_entropy, found.accuracy))
    return Curve(setting.batch_size, task.seed, rate, *(tuple(column) for column in zip(*curve, strict=True)))


def _warm(run: Run, peaks: list[list[float]], done: float) -> None:
    """Rates that rise over the first tenth of the images, whatever the number of steps that fit into it."""
    share = min(1.0, 0.05 + done / 0.1)
    for optimizer, highest in zip(run.optimizers, peaks, strict=True):
        for group, peak in zip(optimizer.param_groups, highest, strict=True):
            group["peak"] = peak * share
