"""Learning from images without labels, so that few labels go further.

A network that is to tell how far an image was turned must see what is in it: which way is up for this kind of thing.
Source: Gidaris, Singh and Komodakis 2018, "Unsupervised Representation Learning by Predicting Image Rotations"
(arXiv:1803.07728), section 3.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import nn

from scaletut.data import ImageSet
from scaletut.errors import ParameterError
from scaletut.models import adapt
from scaletut.train.loop import TrainingResult, fit
from scaletut.train.recipe import Recipe

TURNS = ("0°", "90°", "180°", "270°")


def quarter_turns(data: ImageSet) -> ImageSet:
    """Each image in its four orientations, 4 n images, labelled by the turn (counter-clockwise); old labels are gone.

    The four copies of an image follow each other. Raises `ParameterError` unless height and width are equal.
    """
    height, width = data.images.shape[1:3]
    if height != width:
        raise ParameterError(f"{data.name} has images of {height} x {width} pixels: turned, they would not fit")
    turned = np.stack([np.rot90(data.images, turn, axes=(1, 2)) for turn in range(len(TURNS))], axis=1)
    labels = np.tile(np.arange(len(TURNS), dtype=np.int64), len(data))
    return ImageSet(turned.reshape(-1, height, width, 3), labels, TURNS, f"{data.name}, turned")


def pretrain(model: nn.Module, data: ImageSet, recipe: Recipe, seed: int, **options: Any) -> TrainingResult:
    """Train a copy of `model` to predict by how many quarter turns an image was turned; `data.labels` are not used.

    What comes back is ready for `scaletut.models.adapt(result.model, "full", classes, seed)` and a few labels.

    Args:
        model: any network whose last layer is `Linear`; it gets a new one with four outputs, drawn from `seed`.
        data: n square images, of which the network sees 4 n in an epoch.
        recipe: how; without flips, since a mirrored quarter turn looks like three quarters.
        seed: of the new last layer, order and augmentation.
        options: to `scaletut.train.fit`, such as `checkpoint`, by which a run that was killed goes on.

    Raises:
        ParameterError: images that are not square, a recipe that flips, or a network without a linear last layer.
    """
    if recipe.flip != "none":
        raise ParameterError("a mirrored quarter turn looks like three of them: pre-train with flip='none'")
    return fit(adapt(model, "full", len(TURNS), seed), quarter_turns(data), recipe, seed, **options)
