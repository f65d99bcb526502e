"""A small trained network and its programs, made once for all tests of compression."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import nn

from scaletut.compress import Program, export, quantise_static
from scaletut.data import TrainTest, load
from scaletut.models import build
from scaletut.train import Recipe, fit
from scaletut.train.loop import TrainingResult

CLASSES = tuple("abcdefghij")
NORMALISATION = ((0.5, 0.45, 0.4), (0.25, 0.2, 0.3))
_FOLDER = tempfile.TemporaryDirectory()  # gone when the tests are


def images(n: int = 100, side: int = 32, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, side, side, 3), dtype=np.uint8)


def noise(n: int = 4) -> torch.Tensor:
    """Images as a network takes them, (n, 3, 32, 32)."""
    return torch.randn(n, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def moved(name: str, width: float | None, *, num_classes: int = 10, seed: int = 1) -> nn.Module:
    """Weights, norms and statistics that differ from channel to channel, as training leaves them."""
    net = build(name, num_classes=num_classes, width=width, seed=seed)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in net.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    net(noise())
    return net.eval()


def settled(name: str, **how: float) -> nn.Module:
    """A network whose norms have seen images: their statistics, scales and shifts are nobody's defaults."""
    net = build(name, **how).train()
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for _ in range(3):
            net(torch.randn(64, 3, 32, 32, generator=draw) * 1.5 + 0.3)
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.bias.normal_(0, 0.3, generator=draw)
                if module.weight.requires_grad:
                    module.weight.uniform_(0.5, 1.5, generator=draw)
    return net.eval()


@cache
def data() -> TrainTest:
    return load("zipf10", n_train=600, n_test=300, seed=0)


@cache
def trained() -> TrainingResult:
    result = fit(build("resnet8", width=0.5), data().train, Recipe(epochs=5, batch_size=50), seed=0)
    result.model.to("cpu", memory_format=torch.contiguous_format)
    return result


@cache
def exported() -> Program:
    result = trained()
    return export(
        result.model,
        Path(_FOLDER.name) / "net.onnx",
        normalisation=result.normalisation,
        class_names=data().train.class_names,
        images=data().test.images,
    )


@cache
def quantised() -> Program:
    path = Path(_FOLDER.name) / "net.int8.onnx"
    return quantise_static(exported(), path, data().train.images[:200], check=data().test.images)
