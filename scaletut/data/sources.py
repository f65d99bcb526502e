"""From a source string to a training and a test set."""

from __future__ import annotations

import numpy as np

from scaletut.data.cifar import cifar10
from scaletut.data.imageset import ImageSet, TrainTest
from scaletut.data.zipf import zipf10
from scaletut.errors import ParameterError


def load(source: str, *, seed: int = 0, n_train: int | None = None, n_test: int | None = None) -> TrainTest:
    """Load `cifar10`, `zipf10[:option=value,…]` or `folder:PATH`.

    `n_train`, `n_test`: images wanted; None means all (`zipf10`: its default sizes).
    Raises `ParameterError` for an unknown source or more images than there are, `DataError` for bad data.
    """
    kind, _, rest = source.partition(":")
    if kind == "cifar10" and not rest:
        data = cifar10()
    elif kind == "zipf10":
        return zipf10(rest, seed=seed, n_train=n_train, n_test=n_test)
    else:
        raise ParameterError(f"unknown data source {source!r}; use cifar10, zipf10 or folder:PATH")
    return TrainTest(_some(data.train, n_train, seed), _some(data.test, n_test, seed + 1))


def _some(data: ImageSet, n: int | None, seed: int) -> ImageSet:
    """`n` images of `data`, each class in its proportion, in an order drawn by `seed`; all of them for None."""
    if n is None or n == len(data):
        return data
    if not 0 < n < len(data):
        raise ParameterError(f"{data.name} has {len(data)} images, {n} were asked for; ask for 1 to {len(data)}")
    return data.split(n, seed)[1]
