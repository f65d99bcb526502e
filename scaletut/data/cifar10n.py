"""CIFAR-10N: what people answered when they were shown CIFAR-10's training images.

Wei et al., "Learning with Noisy Labels Revisited: A Study Using Real-World Human Annotations", ICLR 2022.
The authors publish the labels under CC BY-NC 4.0, for non-commercial use, so they are not part of this book.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np

from scaletut.data.cifar import N_TRAIN, cache_folder, data_folder
from scaletut.errors import DataError, ParameterError

HumanLabels = Literal["worst", "random1", "aggregate", "clean"]
KEYS: dict[HumanLabels, str] = {
    "worst": "worse_label",
    "random1": "random_label1",
    "aggregate": "aggre_label",
    "clean": "clean_label",
}
NPZ, PUBLISHED = "cifar10n.npz", "CIFAR-10_human.pt"
WRONG = {"worst": 0.4021, "random1": 0.1723, "aggregate": 0.0903}  # as published (Wei et al. 2022, table 1)
HOME = "https://github.com/UCSC-REAL/cifar-10-100n"


def human_labels(kind: HumanLabels) -> np.ndarray:
    """Labels of CIFAR-10's training images in their order, int64 (50000,).

    `worst` is a wrong answer wherever one of three people gave one, `random1` the first person's answer,
    `aggregate` the majority of the three, `clean` CIFAR-10's own label.
    Looked for in `$SCALETUT_DATA`, then in the user's cache; in each as `cifar10n.npz` (integer arrays under the
    authors' names) or as their own `CIFAR-10_human.pt`.

    Raises `ParameterError` for an unknown kind, `DataError` when there is no file or it is not whole.
    """
    if kind not in KEYS:
        raise ParameterError(f"unknown labels {kind!r}; use {', '.join(KEYS)}")
    path = locate()
    if path is None:
        raise DataError(
            f"CIFAR-10N is not here; download {PUBLISHED} from {HOME} (CC BY-NC 4.0) into the folder that "
            "SCALETUT_DATA names, or plant wrong labels instead"
        )
    arrays = _read(path)
    checked = {name: _checked(path, key, arrays.get(key)) for name, key in KEYS.items()}
    for name, share in WRONG.items():
        measured = float(np.mean(checked[name] != checked["clean"]))
        if abs(measured - share) > 5e-4:
            raise _refused(path, f"has {100 * measured:.2f} % wrong labels in {KEYS[name]}, not {100 * share:.2f} %")
    return checked[kind]


def locate() -> Path | None:
    """The file that `human_labels` would read, unread yet; None when there is none."""
    for folder in filter(None, (data_folder(), cache_folder())):
        for name in (NPZ, PUBLISHED):
            if (folder / name).is_file():
                return folder / name
    return None


def _read(path: Path) -> dict[str, np.ndarray]:
    """The arrays in a file by the authors' names; nothing but arrays is unpickled."""
    try:
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as archive:
                return {key: archive[key] for key in archive.files}
        import torch

        # A dictionary of numpy arrays: these constructors and no others may be called while it is read.
        rebuild = np.empty(0).__reduce__()[0]
        kinds = [type(np.dtype(name)) for name in ("i1", "u1", "i4", "i8")]
        with torch.serialization.safe_globals([rebuild, np.ndarray, np.dtype, *kinds, *_older_names(rebuild)]):
            return dict(torch.load(path, weights_only=True))
    except Exception as error:  # a damaged archive fails in a dozen ways; all mean the same
        raise _refused(path, f"cannot be read ({' '.join(str(error).split())[:200]})") from error


def _older_names(rebuild: object) -> list[tuple[object, str]]:
    """numpy 2 moved the constructor of arrays; files written before name its old place."""
    return [(rebuild, f"numpy.{core}.multiarray._reconstruct") for core in ("core", "_core")]


def _checked(path: Path, key: str, labels: np.ndarray | None) -> np.ndarray:
    if labels is None:
        raise _refused(path, f"has no array named {key}")
    labels = np.asarray(labels)
    if labels.dtype.kind not in "iu" or labels.shape != (N_TRAIN,):
        raise _refused(path, f"has {key} {labels.dtype} {labels.shape}, not {N_TRAIN} integers")
    if labels.min() < 0 or labels.max() > 9:
        raise _refused(path, f"has {key} from {labels.min()} to {labels.max()}, not from 0 to 9")
    return labels.astype(np.int64)


def _refused(path: Path, fault: str) -> DataError:
    return DataError(f"{path} {fault}; usually a copy that was cut short: download it again from {HOME}")
