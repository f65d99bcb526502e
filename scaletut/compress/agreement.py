"""How near two versions of a classifier come to each other."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from scaletut.errors import DataError


@dataclass(frozen=True)
class Agreement:
    """How near two versions of a classifier come on the same images.

    Attributes:
        images: compared.
        largest_difference: of any two logits.
        same_class: share of images with the same largest logit (0 to 1).
    """

    images: int
    largest_difference: float
    same_class: float


def compare_logits(expected: np.ndarray, found: np.ndarray) -> Agreement:
    """Compare logits, float (n, K) both.

    Raises:
        DataError: other shapes, no images, or a logit that is not finite.
    """
    if expected.shape != found.shape or not expected.size:
        raise DataError(
            f"logits {found.shape} cannot be compared with {expected.shape}: give the same images, 1 or more"
        )
    if not (np.isfinite(expected).all() and np.isfinite(found).all()):
        raise DataError("a logit is not finite: the network diverged, or its normalisation has a deviation of 0")
    same = float((expected.argmax(axis=1) == found.argmax(axis=1)).mean())
    return Agreement(len(expected), float(np.abs(expected - found).max()), same)
