"""CIFAR-10 from disk or by torchvision's download, refused unless it is whole."""

from __future__ import annotations

import os
import zipfile
import zlib
from pathlib import Path

import numpy as np

from scaletut.data.imageset import ImageSet, TrainTest, Truth
from scaletut.errors import DataError

CLASS_NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
N_TRAIN, N_TEST = 50_000, 10_000
ARCHIVE = "cifar10.npz"


def cifar10() -> TrainTest:
    """CIFAR-10 (Krizhevsky 2009): 50,000 training and 10,000 test images, 32 x 32, ten classes."""
    for folder in (data_folder(), cache_folder()):
        if folder and (folder / ARCHIVE).is_file():
            return read_npz(folder / ARCHIVE)
    raise DataError("CIFAR-10 was not found; set SCALETUT_DATA to the folder that holds cifar10.npz")


def data_folder() -> Path | None:
    """The folder that `SCALETUT_DATA` names, None when it is unset or empty."""
    named = os.environ.get("SCALETUT_DATA", "")
    return Path(named).expanduser() if named else None


def cache_folder() -> Path:
    """Where downloads are kept: `$XDG_CACHE_HOME/scaletut`, else `~/.cache/scaletut`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "scaletut"


def read_npz(path: Path) -> TrainTest:
    """Read an archive with keys `x_train`, `y_train`, `x_test`, `y_test`.

    Images uint8 (n, 32, 32, 3), labels any integer type (n,) or (n, 1).
    Optional `jpeg_train_idx`, `jpeg_test_idx` list rows that are not the published pixels; they go to `truth.lossy`.
    Raises `DataError`, naming the file, when it is truncated, altered, or not CIFAR-10.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:  # zip members carry a CRC-32, so altered bytes are seen
            arrays = {key: archive[key] for key in archive.files}
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise _refused(path, f"it cannot be read ({_one_line(error)})") from error
    missing = {"x_train", "y_train", "x_test", "y_test"} - arrays.keys()
    if missing:
        raise _refused(path, f"it has no array named {', '.join(sorted(missing))}")
    return TrainTest(_part(path, arrays, "train", N_TRAIN), _part(path, arrays, "test", N_TEST))


def _part(path: Path, arrays: dict[str, np.ndarray], part: str, n: int) -> ImageSet:
    images, labels = arrays[f"x_{part}"], arrays[f"y_{part}"]
    lossy = arrays.get(f"jpeg_{part}_idx")
    return _checked(path, images, labels, part, n, lossy)


def _checked(
    path: Path, images: np.ndarray, labels: np.ndarray, part: str, n: int, lossy: np.ndarray | None = None
) -> ImageSet:
    """One part of CIFAR-10, or `DataError` that says in what it differs from the published one."""
    if images.dtype != np.uint8 or images.shape != (n, 32, 32, 3):
        raise _refused(path, f"x_{part} is {images.dtype} {images.shape}, not uint8 {(n, 32, 32, 3)}")
    if labels.dtype.kind not in "iu" or labels.size != n:
        raise _refused(path, f"y_{part} is {labels.dtype} {labels.shape}, not {n} integers")
    labels = labels.reshape(n).astype(np.int64)
    if labels.min() < 0 or labels.max() > 9:
        raise _refused(path, f"y_{part} runs from {labels.min()} to {labels.max()}, not from 0 to 9")
    counts = np.bincount(labels, minlength=10)
    if (counts != n // 10).any():
        raise _refused(path, f"the classes of y_{part} have {counts.min()} to {counts.max()} images, not {n // 10} each")
    truth = None
    if lossy is not None:
        if lossy.dtype.kind not in "iu" or (lossy.size and not 0 <= lossy.min() <= lossy.max() < n):
            raise _refused(path, f"jpeg_{part}_idx holds rows outside 0 to {n - 1}")
        truth = Truth(lossy=np.isin(np.arange(n), lossy))
    return ImageSet(images, labels, CLASS_NAMES, "cifar10", truth)


def _refused(path: Path, fault: str) -> DataError:
    return DataError(
        f"{path}: {fault}; usually a download or copy that was cut short or a different data set: "
        "replace the file by a complete one, delete it, or use zipf10"
    )


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
