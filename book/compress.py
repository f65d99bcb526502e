"""The recorded runs of the chapter *Making it small*: a preset, compressed in many ways, on all of CIFAR-10.

    python book/compress.py train --work DIR      # networks and programs: hours; one process a seed with --seeds 0
    python book/compress.py measure --work DIR    # test accuracy, bytes, latency: minutes, when nothing else runs

What is in DIR is not made again, so a run that was stopped goes on.
Networks are chosen and scored by 5,000 images held out of the training set; the test set is asked by `measure` alone.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn
from tqdm import tqdm

from scaletut.compress import Bench, Distillation, Program, compress, fit_student, parse, record_of
from scaletut.compress.driver import BATCHES, EAGER, EXPORTED, files, stage_of, trained_flops
from scaletut.compress.latency import Latency, eager, latencies, runner
from scaletut.data import ImageSet, load
from scaletut.errors import ScaletutError
from scaletut.models import load_weights, read_manifest, save_weights
from scaletut.records import write_record
from scaletut.resources import Setting
from scaletut.train import fit, predict, training_flops
from scaletut.train.presets import Preset, make_network, preset

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "results"
DATA, HELD_OUT, SEEDS = "cifar10", 5000, (0, 1, 2)
RETRAINING = 0.5  # share of the first rates at which a network is trained on after a cut
HOW = Setting(channels_last=True, data="memory", keep_memory=True, fused=True, threads=1)
# What is done to the given network. The first ones carry the chapter's findings, and come first for every seed.
RECIPES = (
    "int8",
    "prune=0.42,distil=8,int8",
    "prune=0.5,distil=3,int8",
    "dynamic",
    "w4",
    "weights=0.8",
    "prune=0.5,finetune=3,int8",
    "prune=0.25,distil=3,int8",
    "tucker=0.85,distil=1,int8",
    "prune=0.12,distil=2,int8",
    "prune=0.65,distil=2,int8",
    "prune=0.25,tucker=0.85,distil=1,int8",
    "weights=0.8,finetune=1",
    "qat=0.5,int8",
)
HALF = 0.5  # width of the student, and of the thin network: a quarter of the multiply-adds
# Networks trained from scratch beside the given one: the student alone and taught for as many epochs as the given
# network had, and alone with all the compute that went into the given network and its pruned form.
SCRATCH = ("half", "half_taught", "half_long")
PRUNED = "prune=0.5,distil=3"  # the form whose compute `half_long` is given


@dataclass(frozen=True)
class Study:
    """Where the networks lie, and what they are learned from."""

    name: str
    work: Path
    train: ImageSet
    held_out: ImageSet

    @property
    def preset(self) -> Preset:
        """Of the given network."""
        return preset(self.name)

    def folder(self, network: str, seed: int) -> Path:
        """Of a network and all that was made from it."""
        return self.work / f"{network}-{seed}"

    def given(self, network: str, seed: int) -> Path:
        """Weights of a network before any recipe."""
        return self.folder(network, seed) / "given.safetensors"

    def bench(self, network: str, seed: int, scored: ImageSet, **more: Any) -> Bench:
        """To carry out recipes on a network."""
        facts = read_manifest(self.given(network, seed))
        return Bench(
            self.train,
            scored,
            tuple(tuple(part) for part in facts["normalisation"]),
            self.folder(network, seed),
            epochs=0.0,
            seed=seed,
            petaflop=facts["petaflop"],
            resume=True,
            **more,
        )

    def recipes(self, network: str) -> tuple[str, ...]:
        """What is done to a network."""
        return RECIPES if network == self.name else ("int8",)


# --- networks and programs


def jobs(study: Study, seeds: Sequence[int]) -> Iterator[Callable[[], None]]:
    """All that is to be made, in an order in which each finds what it needs."""
    given = study.name
    yield from (partial(train_given, study, given, seed) for seed in seeds)
    yield from (partial(carry_out, study, given, seed, recipe) for recipe in RECIPES[:3] for seed in seeds)
    for seed in seeds:
        for network in SCRATCH:
            yield partial(train_given, study, network, seed)
            yield partial(carry_out, study, network, seed, "int8")
    yield from (partial(carry_out, study, given, seed, recipe) for recipe in RECIPES[3:] for seed in seeds)


def train_given(study: Study, network: str, seed: int) -> None:
    """Train a network from scratch, unless that was done."""
    path = study.given(network, seed)
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    chosen = study.preset if network == study.name else replace(study.preset, width=HALF)
    model = make_network(chosen, study.train, seed)
    recipe = chosen.recipe
    if network == "half_long":
        recipe = replace(recipe, epochs=equal_epochs(study, model, seed))
    options = {"how": HOW.apply(), "checkpoint": path.with_suffix(".pt")}
    if network == "half_taught":
        teacher = load_weights(study.given(study.name, seed))
        objective = Distillation(teacher, label_smoothing=recipe.label_smoothing)
        result = fit_student(model, study.train, recipe, seed, objective, **options)
    else:
        result = fit(model, study.train, recipe, seed, **options)
    facts = {
        "preset": replace(chosen, recipe=recipe).to_dict(),
        "seed": seed,
        "petaflop": result.flops / 1e15,
        "normalisation": [list(part) for part in result.normalisation],
    }
    save_weights(result.model, path, facts)


def equal_epochs(study: Study, model: nn.Module, seed: int) -> float:
    """Epochs of `model` with the compute of the given network, its pruning and what followed."""
    spent = 1e15 * read_manifest(study.given(study.name, seed))["petaflop"]
    spent += trained_flops(load_weights(files(PRUNED.split(","), study.folder(study.name, seed))[1]))
    return spent / (training_flops(model, study.train.images.shape[1]) * len(study.train))


def carry_out(study: Study, network: str, seed: int, recipe: str) -> None:
    """Make the programs of a recipe, unless that was done."""
    if all(file.exists() for file in files(recipe.split(","), study.folder(network, seed))):
        return
    options = {"seconds": 0.05, "recipe": study.preset.recipe.at_rate(RETRAINING)}  # these latencies are not used
    bench = study.bench(network, seed, study.held_out, **options)
    HOW.apply()
    for stage in compress(load_weights(study.given(network, seed)), parse(recipe), bench):
        tqdm.write(f"{network}, seed {seed}, {','.join(stage.steps) or stage.name}: {stage.accuracy.value:.2f} %")


def make_all(study: Study, seeds: Sequence[int]) -> None:
    """Carry out all jobs of some seeds; what is there already is not made again."""
    study.work.mkdir(parents=True, exist_ok=True)
    for job in tqdm(list(jobs(study, seeds)), unit="job"):
        job()


# --- measurement


@dataclass(frozen=True)
class Made:
    """A program that lies in the work folder, or with no program its network run by PyTorch."""

    network: str
    name: str
    steps: tuple[str, ...]
    net: nn.Module
    bytes: int
    program: Program | None = None

    def classes(self, test: ImageSet, bench: Bench) -> np.ndarray:
        """Of each test image, int64 (n,)."""
        if self.program is None:
            return predict(self.net, test, bench.normalisation).argmax(1)
        return self.program.logits(test.images, threads=os.cpu_count() or 1).argmax(1)

    def call(self, images: np.ndarray) -> Callable[[], Any]:
        """What is timed."""
        return eager(self.net, images) if self.program is None else runner(self.program, images)


def made(study: Study, seed: int) -> Iterator[Made]:
    """All that there is of a seed; the given network first."""
    for network in (study.name, *SCRATCH):
        if not study.given(network, seed).exists():
            continue
        folder, given = study.folder(network, seed), study.given(network, seed)
        yield Made(network, EAGER, (), load_weights(given), given.stat().st_size)
        paths: dict[tuple[str, ...], None] = {(): None}
        for recipe in study.recipes(network):
            steps = tuple(str(step) for step in parse(recipe))
            paths |= {steps[:stop]: None for stop in range(1, len(steps) + 1)}
        for steps in paths:
            path, weights = files(steps, folder)
            if path.exists() and weights.exists():
                program, name = Program.load(path), steps[-1] if steps else EXPORTED
                yield Made(network, name, steps, load_weights(weights), program.bytes, program)


def measure(study: Study, test: ImageSet, seeds: Sequence[int], seconds: float) -> None:
    """Score and time what there is, seed by seed, and write a record of each."""
    where = f"--work DIR --preset {study.name}"
    command = f"python book/compress.py train {where}; python book/compress.py measure {where} --seconds {seconds:g}"
    for seed in seeds:
        started = time.perf_counter()
        found = list(made(study, seed))
        benches = {one.network: study.bench(one.network, seed, test) for one in found}
        classes = [one.classes(test, benches[one.network]) for one in tqdm(found, desc=f"seed {seed}: accuracy")]
        timed = {batch: timings(found, study.train.images[:batch], seconds) for batch in tqdm(BATCHES, desc="latency")}
        took = (time.perf_counter() - started) / len(found)
        for number, one in enumerate(found):
            bench, timing = benches[one.network], {batch: timed[batch][number] for batch in BATCHES}
            stage = stage_of(one.name, one.steps, one.net, classes[number], classes[0], bench)
            record = record_of(
                replace(stage, bytes=one.bytes, latency=timing, program=one.program),
                bench,
                one.network,
                profile="laptop",
                data=DATA,
                given=study.name,
                wall_seconds=took,
                command=command,
                note="drop and speed-up are against the given network run by PyTorch",
            )
            write_record(record, RESULTS, replace=True)


def timings(found: list[Made], images: np.ndarray, seconds: float) -> tuple[Latency, ...]:
    """Of all of a seed in turns; ratios are to the first."""
    calls = {str(number): one.call(images) for number, one in enumerate(found)}
    return latencies(calls, images_a_call=len(images), seconds=seconds * len(calls))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("train", "measure"))
    parser.add_argument("--work", type=Path, required=True, help="folder for networks and programs")
    parser.add_argument("--preset", default="fast", help="the given network")
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS, choices=SEEDS)
    parser.add_argument("--seconds", type=float, default=1.0, help="of each latency")
    options = parser.parse_args()
    data = load(DATA)
    train, held_out = data.train.split(HELD_OUT, seed=0)
    study = Study(options.preset, options.work, train, held_out)
    if options.what == "train":
        make_all(study, options.seeds)
    else:
        measure(study, data.test, options.seeds, options.seconds)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except ScaletutError as error:
        sys.exit(f"compress.py: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
