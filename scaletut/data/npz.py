"""Images of one's own in one file: an npz of arrays."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from scaletut.data.imageset import ImageSet, TrainTest
from scaletut.errors import DataError

KEYS = "x_train, y_train and, if there is a test set, x_test, y_test"
MOST_CLASSES = 1000  # without class names: labels beyond it are taken for something else than classes
LARGEST, MOST_RATIO = 2**32, 200  # bytes unpacked, and times its packed size: both exceeded is a decompression bomb


def read_npz(path: Path | str) -> ImageSet | TrainTest:
    """Read an archive with the keys `x_train`, `y_train` and, together or not at all, `x_test`, `y_test`.

    Images uint8 (n, height, width, 3), or grey as (n, height, width) or (n, height, width, 1); labels of any integer
    type, (n,) or (n, 1), from 0. An optional `class_names` holds one text a class; without it they are numbered.

    Raises `DataError`, naming the file and the array, for anything else. Nothing is unpickled.
    """
    path = Path(path).expanduser()
    arrays = _arrays(path)
    missing = {"x_train", "y_train"} - arrays.keys()
    missing |= {"x_test", "y_test"} - arrays.keys() if {"x_test", "y_test"} & arrays.keys() else set()
    if missing:
        has = ", ".join(sorted(arrays)) or "no arrays"
        raise DataError(f"{path} has no array named {', '.join(sorted(missing))}; needed are {KEYS}, and it has {has}")
    parts = [part for part in ("train", "test") if f"x_{part}" in arrays]
    images = [_images(path, f"x_{part}", arrays[f"x_{part}"]) for part in parts]
    labels = [_labels(path, f"y_{part}", arrays[f"y_{part}"], len(x)) for part, x in zip(parts, images, strict=True)]
    if len({x.shape[1:] for x in images}) > 1:
        raise DataError(f"{path}: x_train is {images[0].shape}, x_test {images[1].shape}; give images of one size")
    names = _class_names(path, arrays.get("class_names"), max(int(y.max()) for y in labels), len(labels[0]))
    sets = [ImageSet(x, y, names, path.stem) for x, y in zip(images, labels, strict=True)]
    return sets[0] if len(sets) == 1 else TrainTest(*sets)


def _arrays(path: Path) -> dict[str, np.ndarray]:
    if not path.is_file():
        raise DataError(f"{path} is not a file; give an npz with {KEYS}")
    try:
        with zipfile.ZipFile(path) as archive:
            inside = archive.infolist()
        unpacked, packed = sum(one.file_size for one in inside), sum(one.compress_size for one in inside)
        if unpacked > LARGEST and unpacked > MOST_RATIO * packed:
            raise ValueError(f"{packed} bytes claim to unpack to {unpacked}, a decompression bomb")
        with np.load(path, allow_pickle=False) as archive:
            return {key: archive[key] for key in archive.files}
    except (Exception, MemoryError) as error:  # a damaged archive fails in a dozen ways; all mean the same
        reason = " ".join(str(error).split()) or type(error).__name__
        wanted = f"usually a copy that was cut short, or arrays of objects; save plain arrays {KEYS} with numpy.savez"
        raise DataError(f"{path} cannot be read ({reason}); {wanted}") from error


def _images(path: Path, key: str, images: np.ndarray) -> np.ndarray:
    if images.dtype.kind == "f" and not np.isfinite(images).all():
        bad = int((~np.isfinite(images)).reshape(len(images), -1).any(axis=1).sum()) if images.ndim else 1
        raise DataError(f"{path}: {key} has {bad} images with NaN or infinite pixels; leave them out or mend them")
    if images.ndim == 3:
        images = images[..., None]
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] not in (1, 3):
        raise DataError(
            f"{path}: {key} is {images.dtype} {images.shape}; needed is uint8 (n, height, width, 3), "
            "so move the channels last and scale to 0..255"
        )
    if not images.size:
        raise DataError(f"{path}: {key} is empty, {images.shape}; give one image or more")
    return np.repeat(images, 3, axis=3) if images.shape[3] == 1 else images


def _labels(path: Path, key: str, labels: np.ndarray, n: int) -> np.ndarray:
    if labels.dtype.kind not in "iu" or labels.shape not in ((n,), (n, 1)):
        raise DataError(
            f"{path}: {key} is {labels.dtype} {labels.shape}; needed is one whole number for each of {n} images"
        )
    if labels.min() < 0 or labels.max() > np.iinfo(np.int64).max:
        raise DataError(f"{path}: {key} runs from {labels.min()} to {labels.max()}; number the classes from 0")
    return labels.reshape(n).astype(np.int64)


def _class_names(path: Path, names: np.ndarray | None, highest: int, n: int) -> tuple[str, ...]:
    if names is None:
        if highest >= max(MOST_CLASSES, n):
            raise DataError(
                f"{path}: labels run to {highest} for {n} images; number the classes 0, 1, 2, … without gaps"
            )
        return tuple(str(number) for number in range(highest + 1))
    if names.dtype.kind != "U" or names.ndim != 1 or len(names) <= highest:
        raise DataError(
            f"{path}: class_names is {names.dtype} {names.shape} for labels up to {highest}; give one text a class"
        )
    return tuple(str(name) for name in names)


def replace_labels(data: ImageSet | TrainTest, path: Path | str) -> ImageSet | TrainTest:
    """`data` with the training labels of a .npy file: one whole number an image, numbered as the classes are.

    Raises `DataError`, naming the file, when it is absent, unreadable, or its labels do not fit.
    """
    path = Path(path).expanduser()
    train = data if isinstance(data, ImageSet) else data.train
    try:
        labels = np.load(path, allow_pickle=False)
    except Exception as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise DataError(
            f"{path} cannot be read ({reason}); give labels saved by numpy.save, one whole number an image"
        ) from error
    if isinstance(labels, Mapping):
        raise DataError(f"{path} is an archive of arrays; save the labels alone with numpy.save")
    labels = _labels(path, "the array", labels, len(train))
    if labels.max() >= train.num_classes:
        raise DataError(
            f"{path}: labels run to {labels.max()} but {train.name} has {train.num_classes} classes, from 0"
        )
    train = replace(train, labels=labels)
    return train if isinstance(data, ImageSet) else replace(data, train=train)
