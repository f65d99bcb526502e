"""From a source string to a training and a test set."""

from __future__ import annotations

import re

from scaletut.data.cifar import cifar10
from scaletut.data.folder import SIDE, halves, read_folder
from scaletut.data.imageset import ImageSet, TrainTest
from scaletut.data.npz import read_npz
from scaletut.data.zipf import zipf10
from scaletut.errors import ParameterError


def load(source: str, *, seed: int = 0, n_train: int | None = None, n_test: int | None = None) -> TrainTest:
    """Load a data set by name.

    * `cifar10`: see `scaletut.data.cifar.cifar10`;
    * `zipf10`, `zipf10:a=0.5,noise=0.1,…`: generated, see `scaletut.data.zipf.zipf10`;
    * `folder:PATH`, `folder:PATH,size=64`: one sub-folder a class, see `scaletut.data.folder.folder`;
    * `npz:PATH`, or a path that ends in .npz: arrays, see `scaletut.data.npz.read_npz`.

    A folder or an archive without a test set gives a fifth of each class, drawn by `seed`, to be one.
    `n_train`, `n_test`: images wanted, drawn by `seed`, each class in its proportion; None means all
    (`zipf10`: any size; None means its defaults).
    Raises `ParameterError` for an unknown source or more images than there are, `DataError` for bad data.
    """
    kind, _, rest = source.partition(":")
    if kind == "zipf10":
        return zipf10(rest, seed=seed, n_train=n_train, n_test=n_test)
    data = load_whole(source)
    data = halves(data, seed) if isinstance(data, ImageSet) else data
    return TrainTest(_some(data.train, n_train, seed, "n_train"), _some(data.test, n_test, seed, "n_test"))


def load_whole(source: str, *, seed: int = 0) -> ImageSet | TrainTest:
    """As `load`, but what is stored without a test set stays one image set, in its order.

    `seed` is that of `zipf10`.
    """
    kind, path = kind_of(source)
    if kind == "zipf10":
        return zipf10(path, seed=seed)
    if kind == "cifar10":
        return cifar10()
    if kind == "npz":
        return read_npz(path)
    path, size = re.fullmatch(r"(.*?)(?:,size=(\d+))?", path, re.DOTALL).groups()
    return read_folder(path, size=int(size or SIDE))


def kind_of(source: str) -> tuple[str, str]:
    """What a source is, cifar10, zipf10, folder or npz, and what it names: options or a path, both unread.

    Raises `ParameterError` for an unknown source.
    """
    kind, colon, rest = source.partition(":")
    if kind == "zipf10" or (kind == "cifar10" and not colon) or (kind in ("folder", "npz") and rest):
        return kind, rest
    if source.endswith(".npz"):
        return "npz", source
    raise ParameterError(
        f"unknown data source {source!r}; use cifar10, zipf10, zipf10:a=0.5, folder:PATH or an npz file"
    )


def _some(data: ImageSet, n: int | None, seed: int, name: str) -> ImageSet:
    """`n` images of `data` in their order, each class in its proportion; all of them for None."""
    if n is None or n == len(data):
        return data
    if not 0 < n < len(data):
        raise ParameterError(f"{name}={n} but {data.name} has {len(data)} such images; ask for 1 to {len(data)}")
    return data.split(n, seed)[1]
