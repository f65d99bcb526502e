"""Named training set-ups: the ones that the book records, and the ablations of the first.

Every rate here was chosen on 5,000 images held out of CIFAR-10's training set, never on its test set.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from scaletut.data import ImageSet, channel_statistics, to_tensor
from scaletut.errors import ParameterError
from scaletut.models import build
from scaletut.train.loop import Progress, TrainingResult, fit
from scaletut.train.recipe import Recipe

WHITEN_IMAGES = 5000  # patches of so many images give the whitening layer; more change nothing


@dataclass(frozen=True)
class Preset:
    """A network, a recipe, and how many views of an image the prediction averages.

    `whiten` and `identity` switch the two initialisations of the speed net, for ablations.
    `width` is a factor on the network's channels, for runs that must be cheaper; None leaves it as it is.
    """

    network: str
    recipe: Recipe
    about: str
    views: int = 1
    whiten: bool = True
    identity: bool = True
    width: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for records."""
        flags = {"views": self.views, "whiten": self.whiten, "identity": self.identity}
        if self.width is not None:
            flags["width"] = self.width
        return {"network": self.network, **flags, **self.recipe.to_dict()}


SPEED_RECIPE = Recipe(
    epochs=8,
    batch_size=512,
    optimizer="muon",
    lr=0.12,
    head_lr=343.0,  # the head's input is divided by its width, and the loss is a mean: hence the large number
    vector_lr=27.0,  # norms have a bias only, which may move fast
    momentum=0.6,
    weight_decay=0.0,
    warmup=0.0,
    label_smoothing=0.2,
    crop=2,
    flip="alternate",
    normalise_filters=True,
)

FAST = Preset("speednet-s", SPEED_RECIPE, "whitened speed net, small: minutes on two cores", views=6)

PRESETS: dict[str, Preset] = {
    "fast": FAST,
    "strong": Preset("speednet-m", replace(SPEED_RECIPE, epochs=10), "whitened speed net, medium", views=6),
    "scaling": Preset(
        "speednet-s",
        Recipe(
            epochs=8,
            batch_size=64,
            lr=0.3,
            head_lr=150.0,  # times the width: the head divides its input by the number of channels
            vector_lr=4.8,
            momentum=0.85,
            weight_decay=1.6e-5,
            warmup=0.25,
            crop=2,
            flip="alternate",
        ),
        "speed net with Nesterov SGD, whose cost a step is in proportion to the network, one view: for sweeps",
    ),
    "resnet20": Preset(
        "resnet20",
        Recipe(
            epochs=4,
            batch_size=128,
            lr=0.2,
            weight_decay=5e-4,
            warmup=0.2,
            crop=2,
            flip="random",
            label_smoothing=0.1,
        ),
        "residual net of 20 layers (He et al. 2016) with a one-cycle schedule",
    ),
    "tutorial": Preset(
        "tutorial",
        Recipe(
            epochs=7,
            batch_size=32,
            optimizer="adam",
            lr=1e-3,
            weight_decay=0.0,
            schedule="constant",
            warmup=0.0,
            precision="fp32",
            channels_last=False,
        ),
        "the stack of convolutions of many first tutorials: Adam, constant rate, no augmentation",
    ),
}

ABLATIONS: dict[str, Preset] = {
    "no_whitening": replace(FAST, whiten=False, about="first layer learned from random weights"),
    "no_identity": replace(FAST, identity=False, about="random filters instead of the identity"),
    "no_muon": replace(
        FAST,
        recipe=replace(
            SPEED_RECIPE,
            optimizer="sgd",
            lr=1.0,  # the best of ten random draws of all six on 2,500 held-out images, after 5,000 for training
            momentum=0.85,
            weight_decay=1.6e-5,
            warmup=0.25,
            head_lr=3.3,
            vector_lr=4.8,
            normalise_filters=False,
        ),
        about="Nesterov SGD, its rates tuned by ten random draws",
    ),
    "no_smoothing": replace(FAST, recipe=replace(SPEED_RECIPE, label_smoothing=0.0), about="hard labels"),
    "no_crop": replace(FAST, recipe=replace(SPEED_RECIPE, crop=0), about="no random crops"),
    "no_flip": replace(FAST, recipe=replace(SPEED_RECIPE, flip="none"), about="no flips in training"),
    "random_flip": replace(FAST, recipe=replace(SPEED_RECIPE, flip="random"), about="coin-toss flips"),
    "constant_rate": replace(FAST, recipe=replace(SPEED_RECIPE, schedule="constant"), about="no decay of the rate"),
    "one_view": replace(FAST, views=1, about="one view of each test image"),
}


def preset(name: str) -> Preset:
    """The preset or ablation called `name`; ParameterError names the nearest one otherwise."""
    known = {**PRESETS, **ABLATIONS}
    if name not in known:
        nearest = difflib.get_close_matches(name, known, 1, 0.0)[0]
        raise ParameterError(f"unknown preset {name!r}; did you mean {nearest!r}? known: {', '.join(known)}")
    return known[name]


def make_network(preset: Preset, train: ImageSet, seed: int) -> nn.Module:
    """The preset's network, initialised from `seed`, its first layer whitened on `train` where it has one."""
    classes = len(train.class_names)
    if not preset.network.startswith("speednet"):
        return build(preset.network, num_classes=classes, width=preset.width, seed=seed)
    mean, std = channel_statistics(train)
    images = to_tensor(train.images[:WHITEN_IMAGES], mean, std) if preset.whiten else None
    model = build(preset.network, num_classes=classes, width=preset.width, seed=seed, whiten=images)
    if not preset.whiten:
        model.whiten.weight.requires_grad_(True)
    if not preset.identity:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            for layer in model.groups.modules():
                if isinstance(layer, nn.Conv2d):
                    layer.reset_parameters()
    return model


def run_preset(
    preset: Preset, train: ImageSet, seed: int, progress: Callable[[Progress], None] | None = None, **options: Any
) -> TrainingResult:
    """Build the preset's network from `seed` and train it on `train`; `options` go to `fit`."""
    return fit(make_network(preset, train, seed), train, preset.recipe, seed, progress=progress, **options)
