"""CIFAR-10 from disk or by torchvision's download, refused unless it is whole."""

from __future__ import annotations

import hashlib
import os
import pickle
import shutil
import tarfile
import tempfile
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from scaletut.data.imageset import ImageSet, TrainTest, Truth
from scaletut.errors import DataError

CLASS_NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
N_TRAIN, N_TEST = 50_000, 10_000
NPZ = "cifar10.npz"
FOLDER = "cifar-10-batches-py"
URL = "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz"
ARCHIVE_MD5 = "c58f30108f718f92721af3b95e74349a"
BATCH_MD5 = {  # as torchvision publishes them (torchvision.datasets.CIFAR10)
    "data_batch_1": "c99cafc152244af753f735de768cd75f",
    "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
    "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
    "data_batch_4": "634d18415352ddfa80567beed471001a",
    "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
    "test_batch": "40351d587109b95175f43aff81a1287e",
}
WAYS_OUT = 'set SCALETUT_DATA to the folder that holds cifar10.npz, or use data="zipf10"'


def cifar10() -> TrainTest:
    """CIFAR-10 (Krizhevsky 2009): 50,000 training and 10,000 test images, 32 x 32, ten classes.

    Looked for in `$SCALETUT_DATA`, then in the user's cache; in each as `cifar10.npz` (`read_npz`) or as torchvision's
    folder `cifar-10-batches-py` (`read_batches`); else downloaded into the cache.
    Raises `DataError` when a file found is not whole, or none is found and the download fails.
    """
    path = locate() or download(cache_folder())
    return read_npz(path) if path.name == NPZ else read_batches(path)


def locate() -> Path | None:
    """The file or folder that `cifar10` would read, unread yet; None when it would have to be downloaded."""
    for folder in filter(None, (data_folder(), cache_folder())):
        if (folder / NPZ).is_file():
            return folder / NPZ
        if (folder / FOLDER).is_dir():
            return folder / FOLDER
    return None


def data_folder() -> Path | None:
    """The folder that `SCALETUT_DATA` names, None when it is unset or empty; `DataError` if there is no such folder."""
    named = os.environ.get("SCALETUT_DATA", "")
    if not named:
        return None
    folder = Path(named).expanduser()
    if not folder.is_dir():
        raise DataError(f"SCALETUT_DATA names {folder}, which is not a folder; correct the variable or unset it")
    return folder


def cache_folder() -> Path:
    """Where downloads are kept: `$XDG_CACHE_HOME/scaletut`, else `~/.cache/scaletut`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "scaletut"


def read_npz(path: Path) -> TrainTest:
    """Read an archive with keys `x_train`, `y_train`, `x_test`, `y_test`.

    Images uint8 (n, 32, 32, 3), labels of any integer type, (n,) or (n, 1).
    Optional `jpeg_train_idx`, `jpeg_test_idx` list rows that are not the published pixels: see `Truth.lossy`.
    Raises `DataError`, naming the file, when it is truncated, altered, or not CIFAR-10.
    """
    try:  # the zip holds a CRC-32 of each array, so altered bytes are seen
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            arrays = {key: archive[key] for key in archive.files}
    except Exception as error:  # a damaged archive fails in a dozen ways; all mean the same
        raise _refused(path, f"cannot be read ({_one_line(error)})") from error
    missing = {"x_train", "y_train", "x_test", "y_test"} - arrays.keys()
    if missing:
        raise _refused(path, f"has no array named {', '.join(sorted(missing))}")
    return TrainTest(
        *(
            _checked(path, arrays[f"x_{part}"], arrays[f"y_{part}"], part, arrays.get(f"jpeg_{part}_idx"))
            for part in ("train", "test")
        )
    )


def read_batches(folder: Path) -> TrainTest:
    """Read torchvision's folder of pickled batches, each only after its md5 is the published one.

    Raises `DataError`, naming the file, when one is missing, truncated or altered.
    Such a folder is deleted if it lies in the cache, so that the next call downloads it again.
    """
    try:
        parts = {name: _read_batch(folder / name, md5) for name, md5 in BATCH_MD5.items()}
    except DataError:
        if folder.parent == cache_folder():
            shutil.rmtree(folder)
        raise
    test = parts.pop("test_batch")
    images, labels = (np.concatenate(arrays) for arrays in zip(*parts.values(), strict=True))
    return TrainTest(_checked(folder, images, labels, "train"), _checked(folder, *test, "test"))


def download(cache: Path) -> Path:
    """Download CIFAR-10 by torchvision into `cache`; returns the folder of batches.

    Everything is checked in a temporary folder, which is then renamed: the cache holds the whole data set or nothing.
    Raises `DataError` without a network, and when what came is not the published archive.
    """
    try:
        from torchvision.datasets.utils import download_url
    except ImportError as error:
        raise DataError(
            f"CIFAR-10 was not found and torchvision, which downloads it, is not installed; {WAYS_OUT}"
        ) from error
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache, prefix=".download-") as temporary:
            archive = Path(temporary) / "cifar-10-python.tar.gz"
            # torchvision is given no md5: with one, a file of an earlier attempt may be trusted unread.
            download_url(URL, temporary, archive.name)
            _check_md5(archive, ARCHIVE_MD5)
            return _unpack(archive, Path(temporary) / FOLDER).rename(cache / FOLDER)
    except DataError as error:
        raise DataError(f"the download of CIFAR-10 was damaged on its way and is deleted ({error})") from error
    except (OSError, RuntimeError, tarfile.TarError, EOFError, KeyError) as error:
        if (cache / FOLDER).is_dir():  # another process was first
            return cache / FOLDER
        raise DataError(
            f"CIFAR-10 was not found and could not be downloaded ({_one_line(error)}), usually for want of a network; "
            f"{WAYS_OUT}"
        ) from error


def _unpack(archive: Path, folder: Path) -> Path:
    """Write the batches in `archive`, and nothing else that it may hold, into `folder`."""
    folder.mkdir()
    with tarfile.open(archive) as tar:
        for name, md5 in BATCH_MD5.items():
            member = tar.extractfile(f"{FOLDER}/{name}")
            (folder / name).write_bytes(member.read() if member else b"")
            _check_md5(folder / name, md5)
    return folder


def _check_md5(path: Path, expected: str) -> None:
    digest = hashlib.md5(usedforsecurity=False)
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    if digest.hexdigest() != expected:
        raise _refused(path, f"has the md5 {digest.hexdigest()}, not the published {expected}")


def _read_batch(path: Path, md5: str) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 (n, 32, 32, 3) and labels int64 (n,) of one of torchvision's files."""
    if not path.is_file():
        raise _refused(path, "is missing")
    _check_md5(path, md5)
    try:
        with path.open("rb") as file:
            batch = _ArraysOnly(file, encoding="latin1").load()
        images = batch["data"].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
        return np.ascontiguousarray(images), np.asarray(batch["labels"], np.int64)
    except Exception as error:  # a pickle that is not what it should be may fail in any way
        raise _refused(path, f"is not a batch of CIFAR-10 ({_one_line(error)})") from error


class _ArraysOnly(pickle.Unpickler):
    """Unpickles plain containers and numpy arrays; anything else could run code and is refused."""

    def __init__(self, file: BinaryIO, encoding: str) -> None:
        super().__init__(file, encoding=encoding)

    def find_class(self, module: str, name: str) -> Any:
        if name == "_reconstruct" and module in ("numpy.core.multiarray", "numpy._core.multiarray"):
            return np.empty(0).__reduce__()[0]  # wherever this version of numpy keeps it
        if module == "numpy" and name in ("ndarray", "dtype"):
            return getattr(np, name)
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")


def _checked(
    path: Path, images: np.ndarray, labels: np.ndarray, part: str, lossy: np.ndarray | None = None
) -> ImageSet:
    """One part of CIFAR-10, or `DataError` that says in what it differs from the published one."""
    n = {"train": N_TRAIN, "test": N_TEST}[part]
    if images.dtype != np.uint8 or images.shape != (n, 32, 32, 3):
        raise _refused(path, f"has {part} images {images.dtype} {images.shape}, not uint8 {(n, 32, 32, 3)}")
    if labels.dtype.kind not in "iu" or labels.shape not in ((n,), (n, 1)):
        raise _refused(path, f"has {part} labels {labels.dtype} {labels.shape}, not {n} integers")
    labels = labels.reshape(n).astype(np.int64)
    if labels.min() < 0 or labels.max() > 9:
        raise _refused(path, f"has {part} labels from {labels.min()} to {labels.max()}, not from 0 to 9")
    counts = np.bincount(labels, minlength=10)
    if (counts != n // 10).any():
        raise _refused(path, f"has {counts.min()} to {counts.max()} {part} images a class, not {n // 10} each")
    truth = None
    if lossy is not None:
        if lossy.dtype.kind not in "iu" or (lossy.size and not 0 <= lossy.min() <= lossy.max() < n):
            raise _refused(path, f"has jpeg_{part}_idx outside 0 to {n - 1}")
        truth = Truth(lossy=np.isin(np.arange(n), lossy))
    return ImageSet(images, labels, CLASS_NAMES, "cifar10", truth)


def _refused(path: Path, fault: str) -> DataError:
    return DataError(
        f"{path} {fault}; usually a download or copy that was cut short, or another data set: "
        'replace it by a whole one, or use data="zipf10"'
    )


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
