"""CIFAR-10N: read from either file, refused unless it is whole."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from scaletut.data.cifar10n import KEYS, NPZ, PUBLISHED, WRONG, human_labels
from scaletut.errors import DataError, ParameterError

N = 50_000


def published() -> dict[str, np.ndarray]:
    """Labels with the published shares of wrong ones."""
    clean = np.arange(N, dtype=np.int64) % 10
    arrays = {KEYS["clean"]: clean}
    for kind, share in WRONG.items():
        wrong = np.random.default_rng(0).permutation(N) < round(share * N)
        arrays[KEYS[kind]] = np.where(wrong, (clean + 1) % 10, clean)
    return arrays


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SCALETUT_DATA", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path


def test_both_files_give_the_same_labels(folder: Path) -> None:
    import torch

    arrays = published()
    torch.save(arrays, folder / PUBLISHED)
    from_pt = human_labels("worst")
    np.savez(folder / NPZ, **{key: labels.astype(np.uint8) for key, labels in arrays.items()})
    assert from_pt.dtype == np.int64
    np.testing.assert_array_equal(human_labels("worst"), from_pt)
    np.testing.assert_array_equal(from_pt, arrays["worse_label"])


def test_without_a_file_it_says_where_to_get_one(folder: Path) -> None:
    with pytest.raises(DataError, match="download CIFAR-10_human"):
        human_labels("worst")


def test_an_unknown_kind_is_refused(folder: Path) -> None:
    with pytest.raises(ParameterError, match="worst, random1, aggregate, clean"):
        human_labels("best")


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda arrays: arrays.pop("worse_label"), "no array named worse_label"),
        (lambda arrays: arrays.update(worse_label=arrays["worse_label"][:-1]), "not 50000 integers"),
        (lambda arrays: arrays.update(worse_label=arrays["worse_label"] + 0.5), "not 50000 integers"),
        (lambda arrays: arrays.update(worse_label=arrays["worse_label"] + 5), "from 5 to 14"),
        (lambda arrays: arrays.update(worse_label=arrays["clean_label"]), "0.00 % wrong labels"),
    ],
)
def test_labels_that_are_not_the_published_ones_are_refused(folder: Path, spoil, says: str) -> None:
    arrays = published()
    spoil(arrays)
    np.savez(folder / NPZ, **arrays)
    with pytest.raises(DataError, match=says):
        human_labels("worst")


def test_a_file_cut_short_is_refused_by_name(folder: Path) -> None:
    np.savez(folder / NPZ, **published())
    whole = (folder / NPZ).read_bytes()
    (folder / NPZ).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=NPZ):
        human_labels("worst")


class Harmful:
    def __reduce__(self) -> tuple:
        return os.mkdir, ("unpickled",)


def test_nothing_but_arrays_is_unpickled(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.chdir(folder)
    torch.save({"worse_label": Harmful()}, folder / PUBLISHED)
    with pytest.raises(DataError, match="cannot be read"):
        human_labels("worst")
    assert not (folder / "unpickled").exists()


@pytest.mark.data
def test_the_real_labels_have_the_published_shares() -> None:
    from scaletut.data.cifar10n import locate

    if locate() is None:
        pytest.skip("CIFAR-10N is not here: set SCALETUT_DATA to the folder of cifar10n.npz")
    clean = human_labels("clean")
    for kind, share in WRONG.items():
        assert np.mean(human_labels(kind) != clean) == pytest.approx(share, abs=5e-4)
