"""From a source string to a training and a test set."""

from __future__ import annotations

import re

from scaletut.data.cifar import cifar10
from scaletut.data.folder import SIDE, folder
from scaletut.data.imageset import ImageSet, TrainTest
from scaletut.data.zipf import zipf10
from scaletut.errors import ParameterError


def load(source: str, *, seed: int = 0, n_train: int | None = None, n_test: int | None = None) -> TrainTest:
    """Load a data set by name.

    * `cifar10`: see `scaletut.data.cifar.cifar10`;
    * `zipf10`, `zipf10:a=0.5,noise=0.1,…`: generated, see `scaletut.data.zipf.zipf10`;
    * `folder:PATH`, `folder:PATH,size=64`: one sub-folder a class, see `scaletut.data.folder.folder`.

    `n_train`, `n_test`: images wanted, drawn by `seed`, each class in its proportion; None means all
    (`zipf10`: any size; None means its defaults).
    Raises `ParameterError` for an unknown source or more images than there are, `DataError` for bad data.
    """
    kind, colon, rest = source.partition(":")
    if kind == "zipf10":
        return zipf10(rest, seed=seed, n_train=n_train, n_test=n_test)
    if kind == "cifar10" and not colon:
        data = cifar10()
    elif kind == "folder" and rest:
        path, size = re.fullmatch(r"(.*?)(?:,size=(\d+))?", rest, re.DOTALL).groups()
        data = folder(path, size=int(size or SIDE), seed=seed)
    else:
        raise ParameterError(f"unknown data source {source!r}; use cifar10, zipf10, zipf10:a=0.5 or folder:PATH")
    return TrainTest(_some(data.train, n_train, seed, "n_train"), _some(data.test, n_test, seed, "n_test"))


def _some(data: ImageSet, n: int | None, seed: int, name: str) -> ImageSet:
    """`n` images of `data` in their order, each class in its proportion; all of them for None."""
    if n is None or n == len(data):
        return data
    if not 0 < n < len(data):
        raise ParameterError(f"{name}={n} but {data.name} has {len(data)} such images; ask for 1 to {len(data)}")
    return data.split(n, seed)[1]
