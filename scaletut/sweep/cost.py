"""What a plan will cost, told before the first run: FLOPs by counting, memory by adding up, hours by a short trial."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from scaletut.models import count_parameters
from scaletut.models.hooks import observe
from scaletut.sweep.plan import RunSpec
from scaletut.sweep.train import Prepared, prepare
from scaletut.train.loop import fit

TRIAL_STEPS = 6
BASE_MEMORY = 500e6  # bytes: Python with torch loaded
COPIES = 4  # of each parameter: itself, its gradient, the optimiser's moments, their temporaries


@dataclass(frozen=True)
class Forecast:
    """Of one width at its largest number of examples.

    `params`; `flops` of all its runs together; `memory` bytes of one run at its largest batch;
    `seconds` of all its runs, one after the other on one worker.
    """

    width: float
    runs: int
    params: int
    flops: float
    memory: float
    seconds: float


def forecast(specs: Sequence[RunSpec]) -> list[Forecast]:
    """Costs by width. A short trial a width measures the speed, so this takes seconds a width.

    Raises ParameterError where a run asks for what the data or the network cannot give.
    """
    result = []
    for width in sorted({spec.width for spec in specs}):
        mine = [spec for spec in specs if spec.width == width]
        largest = max(mine, key=lambda spec: spec.examples or float("inf"))
        ready = prepare(largest)
        images = sum(_images(spec, ready) for spec in mine)
        speed = _images_per_second(ready, largest.seed)
        memory = BASE_MEMORY + _bytes(ready)
        params = count_parameters(ready.model, trainable=True)
        result.append(Forecast(width, len(mine), params, images * ready.flops_an_image, memory, images / speed))
    return result


def free_memory() -> float:
    """Bytes of memory that are available here, infinite where the system does not tell."""
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            facts = dict(line.split(":", 1) for line in file)
        return float(facts["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return float("inf")


def _images(spec: RunSpec, ready: Prepared) -> float:
    """Training images that a run sees, over all its epochs."""
    if spec.flops:
        return spec.flops / ready.flops_an_image
    return spec.epochs * (spec.examples or len(ready.train))


def _images_per_second(ready: Prepared, seed: int) -> float:
    recipe = ready.preset.recipe
    epochs = TRIAL_STEPS * recipe.batch_size / len(ready.train)
    recipe = replace(recipe, epochs=max(epochs, 1e-9))
    return fit(ready.model, ready.train, recipe, seed).images_per_second


def _bytes(ready: Prepared) -> float:
    """Images in memory, parameters with gradients and moments, and every layer's output at the batch's size."""
    recipe = ready.preset.recipe
    weights = sum(p.numel() * p.element_size() for p in ready.model.parameters())
    outputs = _output_numbers(ready.model, ready.train.images.shape[1]) * recipe.batch_size * 4
    return ready.train.images.nbytes * 2 + COPIES * weights + 2 * outputs


def _output_numbers(model: nn.Module, side: int) -> int:
    """Numbers that the layers give out for one image: what the backward pass keeps."""
    numbers = 0

    def count(module: nn.Module, inputs: Any, output: Any) -> None:
        nonlocal numbers
        numbers += output.numel() if isinstance(output, torch.Tensor) else 0

    leaves = [module for module in model.modules() if not list(module.children())]
    training = model.training
    try:
        observe(model.eval(), torch.zeros(1, 3, side, side, device=next(model.parameters()).device), leaves, count)
    finally:
        model.train(training)
    return numbers
