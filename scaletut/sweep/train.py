"""One run of a sweep: from a specification to an outcome. What a worker does, whoever sent it the work."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from scaletut.data import ImageSet, load
from scaletut.errors import ParameterError
from scaletut.models import count_parameters
from scaletut.records import Record, Value, new_record
from scaletut.sweep.plan import RunSpec, automatic_batch
from scaletut.train.loop import Progress, TrainingResult, fit, training_flops
from scaletut.train.metrics import report
from scaletut.train.presets import Preset, make_network, preset
from scaletut.train.recipe import Recipe

NOISE_STREAM, SUBSET_STREAM = 11, 12  # keep the random choices of a run apart


@dataclass(frozen=True)
class Prepared:
    """A run that may start: network, data, and the preset as this run takes it."""

    model: torch.nn.Module
    train: ImageSet
    scored: ImageSet
    preset: Preset
    flops_an_image: float


def prepare(spec: RunSpec) -> Prepared:
    """Data, network and recipe of a run. Raises ParameterError where they do not go together."""
    pool, scored = _data(spec.data, spec.side, spec.hold_out, spec.scored)
    train = _training_set(pool, spec)
    chosen = preset(spec.preset)
    batch = spec.batch or automatic_batch(len(train))
    batch = max(1, batch // 2 if spec.halved else batch)
    recipe = replace(chosen.recipe, **dict(spec.recipe), batch_size=min(batch, len(train)))
    chosen = replace(chosen, recipe=_scaled(recipe, spec), width=spec.width)
    model = make_network(chosen, train, spec.seed)
    cost = training_flops(model, train.images.shape[1])
    epochs = spec.epochs or spec.flops / (cost * len(train))
    return Prepared(model, train, scored, replace(chosen, recipe=replace(chosen.recipe, epochs=epochs)), cost)


def _scaled(recipe: Recipe, spec: RunSpec) -> Recipe:
    """The recipe with its rates as the plan's rule has them at this width; a head without a rate takes the body's."""
    vector = None if recipe.vector_lr is None else recipe.vector_lr * spec.rate_factor
    head = (recipe.head_lr or recipe.lr) * spec.head_factor
    return replace(recipe, lr=recipe.lr * spec.rate_factor, head_lr=head, vector_lr=vector)


def execute(
    spec: RunSpec, checkpoint: Path | None = None, progress: Callable[[Progress], None] | None = None
) -> Record:
    """Train, score and describe one run; a run that diverges gives a record that says so.

    Raises MemoryError when the run does not fit into memory.
    """
    started = time.perf_counter()
    try:
        ready = prepare(spec)
        result = fit(ready.model, ready.train, ready.preset.recipe, spec.seed, checkpoint=checkpoint, progress=progress)
        values = _values(ready, result)
    except RuntimeError as error:
        if "out of memory" in str(error) or "not enough memory" in str(error) or "can't allocate" in str(error):
            raise MemoryError(str(error)) from error
        raise
    status = "finished" if "loss" in values else "diverged"
    return new_record(
        spec.plan,
        profile="laptop",
        parameters={**spec.to_dict(), "key": spec.key, "status": status, "batch_size": ready.preset.recipe.batch_size},
        data_digest=ready.train.digest,
        seeds=[spec.seed],
        values=values,
        series={"loss": [stats.loss for stats in result.history if math.isfinite(stats.loss)]},
        wall_seconds=time.perf_counter() - started,
        peak_memory_bytes=result.peak_memory_bytes,
        flops=result.flops,
        dtype=result.execution,
        command=f"scaletut sweep PLAN.yaml   # the run with key {spec.key}",
        note=_note(spec, status),
    )


def failed_record(spec: RunSpec, status: str, note: str) -> Record:
    """The record of a run that has no outcome, so that it is neither silent nor tried for ever."""
    return new_record(
        spec.plan,
        profile="laptop",
        parameters={**spec.to_dict(), "key": spec.key, "status": status},
        data_digest="0" * 64,
        seeds=[spec.seed],
        values={"width": Value(spec.width)},
        wall_seconds=0.0,
        command=f"scaletut sweep PLAN.yaml   # the run with key {spec.key}",
        note=note,
    )


def _note(spec: RunSpec, status: str) -> str:
    halved = "batch halved once, after the run had not fitted into memory" if spec.halved else ""
    diverged = "the loss was not finite; left out of fits" if status == "diverged" else ""
    return "; ".join(filter(None, (halved, diverged)))


def _values(ready: Prepared, result: TrainingResult) -> dict[str, Value]:
    learned = count_parameters(ready.model, trainable=True)
    values = {
        "params": Value(float(learned), "parameters"),
        "examples": Value(float(len(ready.train)), "images"),
        "epochs": Value(ready.preset.recipe.epochs, "epochs"),
        "training_flops": Value(result.flops, "FLOP"),
        "seconds": Value(result.seconds, "s"),
    }
    logits = result.predict(ready.scored, views=ready.preset.views)
    if result.status == "diverged" or not np.isfinite(logits).all():
        return values
    outcome = report(logits, ready.scored.labels)
    return values | {"loss": Value(outcome.cross_entropy, "nats"), "accuracy": Value(100 * outcome.accuracy, "%")}


# --- data ------------------------------------------------------------------------------


@functools.lru_cache(maxsize=2)  # a worker's runs mostly share their data
def _data(source: str, side: int, hold_out: int, scored: int) -> tuple[ImageSet, ImageSet]:
    """The training pool and the images that are scored."""
    data = load(source)
    pool, test = (data.train.split(hold_out, seed=0)) if hold_out else (data.train, data.test)
    if scored and scored < len(test):
        test = test.split(scored, seed=0)[1]
    return (pool.shrink(side), test.shrink(side)) if side else (pool, test)


def _training_set(pool: ImageSet, spec: RunSpec) -> ImageSet:
    """`examples` images of the pool, drawn by the run's seed; with label noise some labels are replaced."""
    if spec.examples > len(pool):
        raise ParameterError(f"{spec.examples} examples asked for, but {pool.name} has {len(pool)} to train on")
    train = pool
    if spec.examples and spec.examples < len(pool):
        seed = int(np.random.default_rng([spec.seed, SUBSET_STREAM]).integers(2**31))
        train = pool.split(spec.examples, seed)[1]
    if not spec.label_noise:
        return train
    draw = np.random.default_rng([spec.seed, NOISE_STREAM])
    return replace(train, labels=with_wrong_labels(train, spec.label_noise, draw), truth=None)


def with_wrong_labels(images: ImageSet, share: float, draw: np.random.Generator) -> np.ndarray:
    """The labels, int64 (n,), a `share` of them replaced by another class, each equally likely."""
    wrong = draw.random(len(images)) < share
    return (images.labels + wrong * draw.integers(1, images.num_classes, len(images))) % images.num_classes


def summary(record: Record) -> dict[str, Any]:
    """What a worker tells of a finished run."""
    values = {name: value.value for name, value in record.values.items()}
    return {"status": record.parameters["status"], **values}
