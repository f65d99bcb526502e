"""Carry out a recipe on a network, and measure what each of its steps leaves: accuracy, bytes, latency."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from scaletut.audit.scores import wilson
from scaletut.compress.aware import finish_quantisation_aware, quantisation_aware, simulate_weights
from scaletut.compress.distil import Distillation
from scaletut.compress.graph import export, fold_norms
from scaletut.compress.latency import Latency, eager, latencies, runner
from scaletut.compress.lowrank import factorise
from scaletut.compress.program import Program
from scaletut.compress.prune import hold_zeros, prune_channels, prune_weights
from scaletut.compress.quantize import quantise_dynamic, quantise_static
from scaletut.compress.recipe import Step, check_order, complete, slug
from scaletut.data import ImageSet
from scaletut.errors import CheckFailed, ParameterError
from scaletut.models import NetSpec, count_parameters, save_weights
from scaletut.models.surgery import add_step, steps_of
from scaletut.records import Record, Value, new_record
from scaletut.train import Objective, Recipe, fit, predict
from scaletut.train.loop import Normalisation, Progress

BATCHES = (1, 64)  # images a call whose latency is measured
ROUNDING_RATE = 0.1  # share of the rates in training for int8: the network need only get used to its rounding
EAGER, EXPORTED = "eager", "onnx"  # the network run by PyTorch, and its program before any step

Report = Callable[[str, float], None]  # what is being done, and the share of it that is done


@dataclass(frozen=True)
class Bench:
    """What recipes are carried out with and measured on.

    Attributes:
        train: images that are learned from and calibrated on.
        scored: images that accuracy is measured on: held out of `train`, or for the final number the test set.
        normalisation: channel means and deviations that the network expects.
        folder: where programs and weights are written.
        epochs: of training steps without a number, and of what is put in after cuts; 0 puts nothing in.
        recipe: how the network is trained on; by default `retraining` for its kind. Its epochs are not used.
        seed: of every training.
        petaflop: training that the network has behind it, in 10^15 FLOP; what its `steps` tell not counted.
        facts: plain values for the manifests of the weights, such as where the images come from.
        distillation: further arguments of `Distillation`, such as its temperature.
        options: further arguments of what is behind a step, by the step's name: `{"prune": {"spread": "uniform"}}`.
        threads: of each call.
        seconds: that the measurement of one latency may take.
        calibration: training images that int8 is calibrated on.
        checked: images of `scored` on which a program is compared with its network.
        resume: training steps are saved to the folder as they run, and go on from there.
        report: told what is being done.

    Raises:
        ParameterError: a number out of range.
    """

    train: ImageSet
    scored: ImageSet
    normalisation: Normalisation
    folder: Path
    epochs: float = 1.0
    recipe: Recipe | None = None
    seed: int = 0
    petaflop: float = 0.0
    facts: Mapping[str, Any] = field(default_factory=dict)
    distillation: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    threads: int = 1
    seconds: float = 1.0
    calibration: int = 512
    checked: int = 1000
    resume: bool = False
    report: Report = lambda _stage, _share: None

    def __post_init__(self) -> None:
        least = {"epochs": 0, "seed": 0, "petaflop": 0, "threads": 1, "calibration": 1, "checked": 1}
        for name, low in least.items():
            if not low <= getattr(self, name) < math.inf:
                raise ParameterError(f"{name} is {getattr(self, name)}: give {low} or more")
        if not 0 < self.seconds < math.inf:
            raise ParameterError(f"seconds is {self.seconds}: give a time above 0 to measure a latency in")

    @property
    def side(self) -> int:
        """Of the images in pixels."""
        return self.train.images.shape[1]


@dataclass(frozen=True)
class Stage:
    """What there is after a step, with what was measured of it.

    Attributes:
        name: the step as in the recipe; `eager` for the network as given, `onnx` for its program.
        steps: all steps up to here, in order; empty for these two.
        parameters: of the network.
        accuracy: % of the scored images, with its 95 % interval (Wilson 1927).
        drop: percentage points that the reference is above it on the same images, with its 95 % interval
            (Agresti and Min 2005).
        bytes: of the program's file, or of the weights' file for `eager`; None where training follows, which changes
            neither bytes nor latency.
        latency: by images a call; None where `bytes` is.
        petaflop: training that went into it, in 10^15 FLOP.
        program: the program that was measured; None for `eager` and where training follows.
        weights: the network as a file that `load_weights` reads; of a quantised program the one before.
        predictions: class of each scored image, int64 (n,).
    """

    name: str
    steps: tuple[str, ...]
    parameters: int
    accuracy: Value
    drop: Value
    petaflop: float
    predictions: np.ndarray = field(repr=False)
    bytes: int | None = None
    latency: Mapping[int, Latency] | None = None
    program: Program | None = None
    weights: Path | None = None

    @property
    def measured(self) -> bool:
        """Whether it has bytes and a latency of its own."""
        return self.latency is not None

    @property
    def simulated_bytes(self) -> int | None:
        """What weights in fewer bits would take, where these were simulated: the file holds floats."""
        steps = self.program.manifest["steps"] if self.program else ()
        return next((step["bytes"] for step in steps if step["step"] == "simulate_weights"), None)

    def values(self) -> dict[str, Value]:
        """What a record of it holds; see `scaletut.compress.frontier.Point`."""
        if not self.measured:
            raise ParameterError(f"{self.name} was not measured, for training follows: take the stage after it")
        found = {
            "accuracy": self.accuracy,
            "drop": self.drop,
            "parameters": Value(self.parameters / 1e3, "k"),
            "bytes": Value(self.bytes / 1e3, "kB"),
            "petaflop": Value(self.petaflop, "PFLOP"),
            "cpu_seconds": Value(self.latency[BATCHES[-1]].cpu_seconds, "s"),
        }
        if (simulated := self.simulated_bytes) is not None:
            found["bytes_simulated"] = Value(simulated / 1e3, "kB")
        for images, latency in self.latency.items():
            found[f"latency_{images}"] = milliseconds(latency)
            found[f"speedup_{images}"] = latency.ratio
        return found


def compress(
    net: nn.Module,
    steps: Sequence[Step],
    bench: Bench,
    *,
    reference: nn.Module | None = None,
    exported: Program | None = None,
) -> tuple[Stage, ...]:
    """Carry out `steps`, completed by `recipe.complete`, and measure what they leave.

    All latencies are taken in turns at the end, so that they compare. Programs are scored as they are deployed; what is
    not exported, by PyTorch.

    Args:
        net: from `build` or `load_weights`; it is not touched. It is the teacher of `distil`.
        steps: as `recipe.parse` gives them; none is allowed: then the network and its program are measured.
        bench: what with and what on.
        reference: network that drops and ratios refer to, which takes the same images; `net` itself by default.
        exported: the program of `net` from an earlier call, which need not be made again.

    Returns:
        The network run by PyTorch, its program, and one stage a step.

    Raises:
        ParameterError: steps that cannot be carried out on this network.
        CheckFailed: a training diverged, or a program does not compute what its network does.
    """
    work = _Work(net, bench, complete(check_order(steps), bench.epochs), exported)
    return work.measured(reference)


def files(steps: Sequence[Step | str], folder: Path) -> tuple[Path, Path]:
    """Where `compress` puts the program of `steps`, and the weights before int8; for none, those of the network."""
    kept = [step for step in map(str, steps) if step not in ("int8", "dynamic")]
    return tuple(
        folder / f"{slug(some or (EXPORTED,))}{suffix}" for some, suffix in ((steps, ".onnx"), (kept, ".safetensors"))
    )


def score(net: nn.Module, program: Program, bench: Bench) -> tuple[Value, Value]:
    """Accuracy of `program` in %, and its drop against `net` in points, on the scored images of `bench`."""
    labels = bench.scored.labels
    given = predict(copy.deepcopy(net), bench.scored, bench.normalisation).argmax(1) == labels
    found = program.logits(bench.scored.images, threads=bench.threads).argmax(1) == labels
    return accuracy(found), paired_drop(given, found)


def retraining(spec: NetSpec) -> Recipe:
    """How a network is trained on after it was cut: at half the rate that it would be trained with at first.

    Nesterov SGD along a half cosine, random crops and flips. Of four rates for a ResNet-20 on `zipf10` that had lost
    0.3 and 0.5 of its channels this one, 0.1, did best or nearly so on held-out images (one seed); a tenth of the first
    rate left it 2 and 5 points lower. Speed nets have rates of their own for the head and the norms, as in their preset
    `scaling`; EfficientNet-Lite0, whose weights come from ImageNet, is trained on gently.
    """
    plain = Recipe(batch_size=128, lr=0.1, schedule="cosine", warmup=0.1, crop=2, flip="random")
    if spec.name.startswith("speednet"):
        return replace(plain, batch_size=64, lr=0.15, head_lr=75.0, vector_lr=2.4, momentum=0.85, weight_decay=1.6e-5)
    if spec.name == "efficientnet-lite0":
        return replace(plain, batch_size=64, lr=0.01, weight_decay=1e-5)
    return plain


def record_of(stage: Stage, bench: Bench, network: str, *, profile: str, data: str, **facts: Any) -> Record:
    """The record of a stage, a point of the frontier: experiment `compress.NETWORK.STEPS`.

    Args:
        stage: a measured one of `compress`.
        bench: as given to it.
        network: name for what was compressed, lower-case letters, digits and underscores; networks that differ in more
            than their seed need names of their own.
        profile: that the record is filed under.
        data: source of the images, as for `load`; what points on one plot must share.
        facts: further parameters, plain values; `command` and `note` go to the record.

    Raises:
        ParameterError: the stage was not measured.
        RecordError: a name or value that a record cannot hold.
    """
    told = {name: facts.pop(name) for name in ("command", "note", "wall_seconds") if name in facts}
    values = stage.values()
    return new_record(
        f"compress.{network}.{slug(stage.steps or (stage.name,))}",
        profile=profile,
        parameters={
            "network": network,
            "steps": list(stage.steps or (stage.name,)),
            "data": data,
            "scored": f"{len(bench.scored)} images, {bench.scored.digest[:12]}",
            "threads": bench.threads,
            "seed": bench.seed,
            **facts,
        },
        data_digest=bench.train.digest,
        seeds=[bench.seed],
        values=values,
        wall_seconds=told.pop("wall_seconds", 0.0),
        flops=1e15 * stage.petaflop,
        threads=bench.threads,
        dtype=stage.program.manifest["precision"] if stage.program else "float32",
        **told,
    )


# --- accuracy


def accuracy(right: np.ndarray) -> Value:
    """Share of true entries of bool (n,) in percent, with its 95 % interval (Wilson 1927)."""
    low, high = wilson(int(right.sum()), len(right))
    return _around(100 * float(right.mean()), 100 * low, 100 * high, "%")


def paired_drop(reference: np.ndarray, other: np.ndarray) -> Value:
    """Percentage points by which the share right of `reference` is above that of `other`, bool (n,) on the same images.

    The 95 % interval is that of Agresti and Min 2005, section 3: Wald's for matched pairs after half an image was
    added to each cell of the table. Only images on which the two differ widen it.
    """
    n, lost, won = len(reference), int((reference & ~other).sum()), int((other & ~reference).sum())
    b, c, m = lost + 0.5, won + 0.5, n + 2
    centre, half = (b - c) / m, 1.959964 * math.sqrt(b + c - (b - c) ** 2 / m) / m
    return _around(100 * (lost - won) / n, 100 * (centre - half), 100 * (centre + half), "points")


def _around(value: float, low: float, high: float, unit: str) -> Value:
    return Value(value, unit, min(low, value), max(high, value))


def stage_of(
    name: str, steps: tuple[str, ...], net: nn.Module, found: np.ndarray, reference: np.ndarray, bench: Bench
) -> Stage:
    """What there is after `steps`, not timed yet.

    Args:
        name, steps: as in `Stage`.
        net: the network, with what was done to it in its `steps`.
        found: class of each scored image of `bench`, int64 (n,).
        reference: the same by what drops refer to.
    """
    labels = bench.scored.labels
    return Stage(
        name,
        steps,
        count_parameters(net),
        accuracy(found == labels),
        paired_drop(reference == labels, found == labels),
        bench.petaflop + trained_flops(net) / 1e15,
        found,
    )


def trained_flops(net: nn.Module) -> float:
    """FLOP of all training among the `steps` of a network."""
    return sum(step.get("flops", 0.0) for step in steps_of(net))


def milliseconds(latency: Latency) -> Value:
    """Median in ms with its interval."""
    seconds = latency.seconds
    ends = (None, None) if seconds.low is None else (1e3 * seconds.low, 1e3 * seconds.high)
    return Value(1e3 * seconds.value, "ms", *ends, seconds.n)


# --- the steps


@dataclass
class _Draft:
    """A stage before it is measured."""

    name: str
    steps: tuple[str, ...]
    net: nn.Module
    program: Program | None = None


class _Work:
    """A recipe being carried out: the network as it is now, and what was kept on the way."""

    def __init__(self, net: nn.Module, bench: Bench, steps: Sequence[Step], exported: Program | None) -> None:
        self.bench, self.given = bench, copy.deepcopy(net).eval()
        self.recipe = bench.recipe or retraining(net.spec)
        bench.folder.mkdir(parents=True, exist_ok=True)
        exported = exported or self._export(self.given, ())
        self.drafts = [_Draft(EAGER, (), self.given), _Draft(EXPORTED, (), self.given, exported)]
        for number, step in enumerate(steps):
            following = steps[number + 1] if number + 1 < len(steps) else None
            self._do(step, tuple(str(one) for one in steps[: number + 1]), following)

    def _do(self, step: Step, done: tuple[str, ...], following: Step | None) -> None:
        self.bench.report(str(step), 0.0)
        before = self.drafts[-1]
        if step.role == "program":
            self.drafts.append(_Draft(str(step), done, before.net, self._quantised(step, before.program, done)))
            return
        net = self._changed(step, before.net, done)
        awaits = following is not None and (following.role == "training" or step.name == "qat")
        if step.name == "qat" or not awaits:
            self.drafts.append(_Draft(str(step), done, net, self._export(net, done)))
        else:
            self.drafts.append(_Draft(str(step), done, net))

    def _changed(self, step: Step, net: nn.Module, done: tuple[str, ...]) -> nn.Module:
        more = self.bench.options.get(step.name, {})
        if step.name == "weights":
            return prune_weights(net, step.value, **more)
        if step.name == "prune":
            return prune_channels(net, step.value, **{"side": self.bench.side, **more})
        if step.name in ("tucker", "cp", "svd"):
            return factorise(net, method=step.name, energy=step.value, **more)
        if step.name == "fold":
            return fold_norms(net, **{"side": self.bench.side, **more})
        if step.name == "w4":
            return simulate_weights(net, bits=4, **more)
        if step.name == "qat":
            return finish_quantisation_aware(
                self._trained(step, quantisation_aware(net, **{"side": self.bench.side, **more}), done)
            )
        teaching = Distillation(self.given, **self.bench.distillation) if step.name == "distil" else None
        return self._trained(step, copy.deepcopy(net), done, teaching)

    def _trained(
        self, step: Step, net: nn.Module, done: tuple[str, ...], objective: Objective | None = None
    ) -> nn.Module:
        """`net`, trained in place; zeros that pruning left stay zero."""
        bench = self.bench

        def tell(progress: Progress) -> None:
            bench.report(str(step), progress.step / progress.steps)

        keep = hold_zeros(net) if any(one["step"] == "prune_weights" for one in steps_of(net)) else nullcontext()
        with keep:
            result = fit(
                net,
                bench.train,
                replace(self.recipe.at_rate(ROUNDING_RATE if step.name == "qat" else 1.0), epochs=step.value),
                bench.seed,
                normalisation=bench.normalisation,
                objective=objective,
                progress=tell,
                checkpoint=bench.folder / f"{slug(done)}.pt" if bench.resume else None,
            )
        if result.status == "diverged":
            raise CheckFailed(f"the training of {step} diverged: give another recipe with a lower rate")
        entry = {"step": step.name, "epochs": step.value, "seed": bench.seed, "flops": result.flops}
        entry |= {"images": len(bench.train), "data": bench.train.digest[:12]}
        add_step(net, entry)
        return net.to("cpu", memory_format=torch.contiguous_format).eval()

    # --- programs

    def _export(self, net: nn.Module, steps: tuple[str, ...]) -> Program:
        bench = self.bench
        bench.report("export", 0.0)
        return export(
            net,
            files(steps, bench.folder)[0],
            normalisation=bench.normalisation,
            class_names=bench.train.class_names,
            images=bench.scored.images[: bench.checked],
            **bench.options.get("export", {}),
        )

    def _quantised(self, step: Step, program: Program, steps: tuple[str, ...]) -> Program:
        bench = self.bench
        path = files(steps, bench.folder)[0]
        more = {"check": bench.scored.images[: bench.checked], **bench.options.get(step.name, {})}
        if step.name == "dynamic":
            return quantise_dynamic(program, path, **more)
        return quantise_static(program, path, bench.train.images[: bench.calibration], **more)

    # --- measurement

    def measured(self, reference: nn.Module | None) -> tuple[Stage, ...]:
        classes = [self._classes(draft) for draft in self.drafts]
        best = classes[0] if reference is None else self._eager_classes(reference)
        timed = self._latencies(reference)
        stages = []
        for draft, found in zip(self.drafts, classes, strict=True):
            weights = self._saved(draft)
            size = None
            if draft.program or draft.name == EAGER:
                size = draft.program.bytes if draft.program else weights.stat().st_size
            stage = stage_of(draft.name, draft.steps, draft.net, found, best, self.bench)
            timing = timed.get(id(draft))
            stages.append(replace(stage, bytes=size, latency=timing, program=draft.program, weights=weights))
        return tuple(stages)

    def _classes(self, draft: _Draft) -> np.ndarray:
        self.bench.report(f"score {draft.name}", 0.0)
        if draft.program is None:
            return self._eager_classes(draft.net)
        return draft.program.logits(self.bench.scored.images, threads=self.bench.threads).argmax(1)

    def _eager_classes(self, net: nn.Module) -> np.ndarray:
        return predict(copy.deepcopy(net), self.bench.scored, self.bench.normalisation).argmax(1)

    def _latencies(self, reference: nn.Module | None) -> dict[int, dict[int, Latency]]:
        """By draft and images a call; the first of each call is what the ratios refer to."""
        drafts = [draft for draft in self.drafts if draft.program or draft.name == EAGER]
        found: dict[int, dict[int, Latency]] = {id(draft): {} for draft in drafts}
        for batch in BATCHES:
            self.bench.report(f"latency of {batch}", 0.0)
            images = self.bench.train.images[np.arange(batch) % len(self.bench.train)]
            calls: dict[str, Callable[[], Any]] = {}
            if reference is not None:
                calls["reference"] = self._call(reference, images)
            calls |= {str(id(draft)): self._call(draft.program or draft.net, images) for draft in drafts}
            timed = latencies(
                calls, images_a_call=batch, threads=self.bench.threads, seconds=self.bench.seconds * len(calls)
            )
            for name, latency in zip(calls, timed, strict=True):
                if name != "reference":
                    found[int(name)][batch] = latency
        return found

    def _call(self, what: nn.Module | Program, images: np.ndarray) -> Callable[[], Any]:
        if isinstance(what, Program):
            return runner(what, images, threads=self.bench.threads)
        return eager(what, images)

    def _saved(self, draft: _Draft) -> Path:
        """The network before export; its file is written once."""
        path = files(draft.steps, self.bench.folder)[1]
        manifest = {
            "normalisation": [list(part) for part in self.bench.normalisation],
            "class_names": list(self.bench.train.class_names),
            "petaflop": self.bench.petaflop,
            **self.bench.facts,
        }
        return save_weights(draft.net, path, manifest)
