"""Train a preset and keep the record: what `scaletut train` does, and how the book's large runs were made."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from scaletut.data import load
from scaletut.models import count_parameters, save_weights
from scaletut.records import Record, Value, new_record
from scaletut.train.distributed import ALONE, Ranks
from scaletut.train.loop import Progress, TrainingResult
from scaletut.train.metrics import report
from scaletut.train.presets import preset, run_preset


def recorded_run(
    name: str,
    source: str,
    seed: int,
    *,
    experiment: str,
    profile: str,
    epochs: float = 0,
    hold_out: int = 0,
    checkpoint: Path | None = None,
    progress: Callable[[Progress], None] | None = None,
    ranks: Ranks = ALONE,
) -> tuple[TrainingResult, Record]:
    """Train preset `name` once, score it once, and describe the run.

    Args:
        name: a preset or an ablation.
        source: data source, as for `scaletut.data.load`.
        seed: of weights, order and augmentation.
        experiment: dotted name of the record; runs that differ in their seed alone share it.
        profile: name of the profile that the run belongs to.
        epochs: instead of the preset's; 0 keeps them.
        hold_out: images taken from the training set and scored instead of the test set: for making choices.
        checkpoint: file to save to and to resume from.
        progress: called after each step.
        ranks: processes that train it together and share the scoring; the first one's record is to be kept.

    Raises:
        ParameterError: unknown preset, epochs below 0, or more images held out than there are.
    """
    chosen = preset(name)
    if epochs:
        chosen = replace(chosen, recipe=replace(chosen.recipe, epochs=epochs))
    data = load(source)
    train, scored = data.train.split(hold_out, seed=0) if hold_out else (data.train, data.test)
    started = time.perf_counter()
    result = run_preset(chosen, train, seed, progress, checkpoint=checkpoint, ranks=ranks)
    logits = ranks.spread(lambda some: result.predict(some, views=chosen.views), scored)
    outcome, plain = report(logits, scored.labels), report(ranks.spread(result.predict, scored), scored.labels)
    values = {
        "accuracy": Value(100 * outcome.accuracy, "%"),
        "accuracy_one_view": Value(100 * plain.accuracy, "%"),
        "cross_entropy": Value(outcome.cross_entropy, "nats"),
        "calibration_error": Value(100 * outcome.calibration_error, "%"),
        "minutes": Value(result.seconds / 60, "min"),
        "images_per_second": Value(result.images_per_second, "images/s"),
        "epochs": Value(chosen.recipe.epochs),
        "parameters": Value(count_parameters(result.model) / 1e6, "M"),
        "petaflop": Value(result.flops / 1e15, "PFLOP"),
    }
    together = {} if ranks.alone else {"ranks": ranks.size, "mode": ranks.mode}
    start = "" if ranks.alone else f"torchrun --nproc-per-node {ranks.size} -m "
    options = (f" --epochs {epochs:g}" if epochs else "") + (f" --hold-out {hold_out}" if hold_out else "")
    options += "" if ranks.alone else f" --mode {ranks.mode}"
    record = new_record(
        experiment,
        profile=profile,
        parameters={"preset": name, "data": source, "hold_out": hold_out, **together, **chosen.to_dict()},
        data_digest=train.digest,
        seeds=[seed],
        values=values,
        series={
            "loss": [stats.loss for stats in result.history],
            "training_accuracy": [stats.accuracy for stats in result.history],
            "seconds": [stats.seconds for stats in result.history],
        },
        wall_seconds=time.perf_counter() - started,
        peak_memory_bytes=result.peak_memory_bytes,
        flops=result.flops,
        dtype=result.execution,
        command=f"{start}scaletut train {name} --data {source} --seed {seed} --experiment {experiment}{options}",
    )
    return result, record


def save_run(result: TrainingResult, record: Record, path: Path | str) -> Path:
    """Write the weights of a `recorded_run`, with what a later use of them must know.

    The manifest tells the data, how many images were held out (by `split(hold_out, seed=0)`), the normalisation, the
    seed, the accuracy in % and the training in PFLOP.
    Raises ParameterError for a network that cannot be saved.
    """
    manifest = {
        "data": record.parameters["data"],
        "hold_out": record.parameters["hold_out"],
        "preset": record.parameters["preset"],
        "seed": record.seeds[0],
        "normalisation": [list(part) for part in result.normalisation],
        "accuracy": record.values["accuracy"].value,
        "petaflop": record.values["petaflop"].value,
        "record": record.id,
    }
    return save_weights(result.model, path, manifest)
