"""What a setting does to the result: a whole training under it, scored on images that were not trained on."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch

from scaletut.data import load
from scaletut.errors import ParameterError
from scaletut.records import Value
from scaletut.resources.setting import Setting
from scaletut.resources.throughput import Report
from scaletut.resources.trial import Task, apart, batches_of
from scaletut.train import report as score
from scaletut.train.loop import Run


def accuracies(
    task: Task,
    settings: Mapping[str, Setting],
    *,
    seeds: Sequence[int] = (0, 1, 2),
    hold_out: int = 1000,
    device: str = "",
    report: Report = lambda _: None,
) -> dict[str, tuple[float, ...]]:
    """Accuracy in percent of a whole training with each setting, one a seed, each in a process of its own.

    Args:
        task: what is trained, for its recipe's epochs.
        settings: by name.
        seeds: of weights and batches.
        hold_out: training images that are scored and not trained on; 0 scores the test set, for final numbers.
        device: as for `fit`.
        report: told what is being done.

    Raises:
        ParameterError: no image would be left to train on.
        TrialFailed: a setting cannot be run here.
    """
    found: dict[str, list[float]] = {name: [] for name in settings}
    for seed in seeds:
        for name, setting in settings.items():
            report(f"training: {name}, seed {seed}")
            found[name].append(apart(train_once, replace(task, seed=seed), setting, hold_out, device))
    return {name: tuple(values) for name, values in found.items()}


def difference(mine: Sequence[float], theirs: Sequence[float], unit: str = "points") -> Value:
    """Mean difference of two settings' figures, seed by seed, with its 95 % interval."""
    return Value.of([one - other for one, other in zip(mine, theirs, strict=True)], unit)


def train_once(task: Task, setting: Setting, hold_out: int, device: str = "") -> float:
    """One training in this process, with the setting's own data path; accuracy in percent."""
    how = setting.apply(device)
    train = task.train_set()
    if hold_out >= len(train):
        raise ParameterError(f"{hold_out} of {len(train)} images are held out: leave some to train on")
    train, scored = train.split(hold_out, seed=task.seed) if hold_out else (train, load(task.data).test)
    torch.manual_seed(task.seed)  # the loader's order and transforms
    run = Run(task.build(train), train, setting.recipe(task.recipe), task.seed, None, None, how)
    batches = batches_of(run, train, setting)
    run.model.train()
    started = time.perf_counter()
    while run.step < run.steps:
        run.train_step(*next(batches))
    run.seconds = time.perf_counter() - started
    logits = run.result("finished").predict(scored)
    return 100 * score(np.nan_to_num(logits), scored.labels).accuracy
