"""A labelled set of small images, and what is known to be wrong with it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from scaletut.errors import DataError, ParameterError

if TYPE_CHECKING:
    from scaletut.data.zipf import ZipfLaw


@dataclass(frozen=True, eq=False)
class Truth:
    """What is known about each image of a set; a field is None where nothing is known.

    All arrays have one entry (`original_size`: one row) an image, and so follow it through `ImageSet.take`:

    * `pattern` int64: the sub-pattern that the image shows;
    * `clean_labels` int64: the right label, where the given one may be wrong;
    * `duplicate_of`, `near_duplicate_of` int64: the row of the image that it copies, -1 for an original
      (also -1 when that image was left out of the set);
    * `near_duplicate_kind` str: how the near-duplicate was made, "" for an original;
    * `blurred`, `blank`, `dark`, `bright`, `noisy` bool: the image was spoilt in this way;
    * `lossy` bool: the pixels were decoded from a lossy format and are not the published ones;
    * `file` str: the file that the image was read from;
    * `original_size` int64 (n, 2): width and height of that file in pixels.

    `law` is the closed form behind a generated set, `skipped` the files that could not be read, each with the reason.
    """

    pattern: np.ndarray | None = None
    clean_labels: np.ndarray | None = None
    duplicate_of: np.ndarray | None = None
    near_duplicate_of: np.ndarray | None = None
    near_duplicate_kind: np.ndarray | None = None
    blurred: np.ndarray | None = None
    blank: np.ndarray | None = None
    dark: np.ndarray | None = None
    bright: np.ndarray | None = None
    noisy: np.ndarray | None = None
    lossy: np.ndarray | None = None
    file: np.ndarray | None = None
    original_size: np.ndarray | None = None
    law: ZipfLaw | None = None
    skipped: tuple[tuple[str, str], ...] = ()

    def take(self, rows: np.ndarray, size: int) -> Truth:
        """The truth of the images at `rows` of a set of `size`, references between images renumbered."""
        position = np.full(size + 1, -1, np.int64)  # the last entry answers for "no original", index -1
        position[rows] = np.arange(len(rows))
        changed = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, np.ndarray):
                changed[field.name] = position[value[rows]] if field.name.endswith("_of") else value[rows]
        return replace(self, **changed)


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Images with labels, held in memory and never changed.

    `images` uint8 (n, height, width, 3), RGB; `labels` int64 (n,), 0 to `len(class_names) - 1`.
    The arrays are read-only views: what is cached about them (the digest) stays true.
    Use `scaletut.data.to_tensor` to hand them to torch, which warns about read-only memory otherwise.

    Raises `DataError` when shapes, types or labels do not fit together.
    """

    images: np.ndarray
    labels: np.ndarray
    class_names: tuple[str, ...]
    name: str
    truth: Truth | None = None

    def __post_init__(self) -> None:
        images, labels = np.asarray(self.images), np.asarray(self.labels)
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3:
            raise DataError(
                f"{self.name}: images are {images.dtype} {images.shape}; needed is uint8 (n, height, width, 3), "
                "so move the channels last and scale to 0..255"
            )
        if labels.dtype != np.int64 or labels.shape != images.shape[:1]:
            raise DataError(
                f"{self.name}: labels are {labels.dtype} {labels.shape} for {len(images)} images; "
                "needed is one int64 an image"
            )
        if len(labels) and not 0 <= labels.min() <= labels.max() < len(self.class_names):
            raise DataError(
                f"{self.name}: labels run from {labels.min()} to {labels.max()} but there are "
                f"{len(self.class_names)} class names; name every class or relabel with classes()"
            )
        object.__setattr__(self, "images", _read_only(images))
        object.__setattr__(self, "labels", _read_only(labels))
        object.__setattr__(self, "class_names", tuple(self.class_names))

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @cached_property
    def digest(self) -> str:
        """Hexadecimal sha256 of images, labels and class names (not of `name` or `truth`)."""
        digest = hashlib.sha256(repr((self.images.shape, self.class_names)).encode("utf-8"))
        digest.update(np.ascontiguousarray(self.images))
        digest.update(np.ascontiguousarray(self.labels.astype("<i8", copy=False)))
        return digest.hexdigest()

    @property
    def skipped(self) -> tuple[tuple[str, str], ...]:
        """Files that could not be read, each with the reason."""
        return self.truth.skipped if self.truth else ()

    def class_counts(self) -> np.ndarray:
        """Images in each class, int64 (classes,)."""
        return np.bincount(self.labels, minlength=self.num_classes)

    def take(self, rows: Sequence[int] | np.ndarray) -> ImageSet:
        """The images at `rows` (integers, or a boolean mask), in that order."""
        rows = np.asarray(rows)
        rows = np.flatnonzero(rows) if rows.dtype == bool else rows.astype(np.int64)
        truth = self.truth.take(rows, len(self)) if self.truth else None
        return replace(self, images=self.images[rows], labels=self.labels[rows], truth=truth)

    def split(self, n: int, seed: int) -> tuple[ImageSet, ImageSet]:
        """Hold out `n` images drawn at random, each class in its proportion: (rest, held out).

        Raises `ParameterError` unless 0 < n < len(self).
        """
        if not 0 < n < len(self):
            raise ParameterError(
                f"{self.name} has {len(self)} images, cannot hold out {n}; ask for 1 to {len(self) - 1}"
            )
        held = np.zeros(len(self), bool)
        for rows, count in zip(self._shuffled_classes(seed), _apportion(self.class_counts(), n), strict=True):
            held[rows[:count]] = True
        return self.take(~held), self.take(held)

    def per_class(self, k: int, seed: int) -> ImageSet:
        """`k` images of each class, drawn at random and kept in their order.

        Raises `ParameterError` when a class has fewer than `k`.
        """
        counts = self.class_counts()
        if not 0 < k <= counts.min(initial=len(self)):
            raise ParameterError(
                f"cannot take {k} images of each class of {self.name}: its classes have {counts.min()} to "
                f"{counts.max()}; ask for 1 to {counts.min()}"
            )
        return self.take(np.sort(np.concatenate([rows[:k] for rows in self._shuffled_classes(seed)])))

    def shrink(self, side: int) -> ImageSet:
        """The same images at `side` × `side` pixels: each new pixel is the mean of a square of old ones.

        Raises `ParameterError` unless height and width are equal and a multiple of `side`.
        """
        n, height, width, channels = self.images.shape
        if side < 1 or height != width or height % side:
            raise ParameterError(
                f"{self.name}: images of {height} x {width} pixels cannot shrink to {side} a side; "
                "ask for a divisor of the side of square images"
            )
        blocks = self.images.reshape(n, side, height // side, side, width // side, channels)
        return replace(self, images=blocks.mean(axis=(2, 4)).round().astype(np.uint8))

    def classes(self, keep: Sequence[int | str]) -> ImageSet:
        """The images of the classes in `keep` (numbers or names), relabelled 0, 1, … in the order of `keep`.

        Raises `ParameterError` for an unknown or repeated class.
        """
        numbers = [self.class_names.index(one) if one in self.class_names else one for one in keep]
        known = [n for n in numbers if not isinstance(n, str) and 0 <= n < self.num_classes]
        if not numbers or len(set(known)) != len(numbers):
            raise ParameterError(
                f"cannot keep classes {list(keep)} of {self.name}; give different ones out of "
                f"{', '.join(self.class_names)} (or their numbers 0 to {self.num_classes - 1})"
            )
        new_label = np.full(self.num_classes, -1, np.int64)
        new_label[numbers] = np.arange(len(numbers))
        rows = np.flatnonzero(new_label[self.labels] >= 0)
        kept = self.take(rows)
        truth = kept.truth
        if truth:  # the law speaks of all classes; a right label outside the kept ones becomes -1
            clean = None if truth.clean_labels is None else new_label[truth.clean_labels]
            truth = replace(truth, clean_labels=clean, law=None)
        names = tuple(self.class_names[number] for number in numbers)
        return replace(kept, labels=new_label[kept.labels], class_names=names, truth=truth)

    def _shuffled_classes(self, seed: int) -> list[np.ndarray]:
        """The rows of each class, shuffled by `seed`."""
        order = np.random.default_rng(seed).permutation(len(self))
        return [order[self.labels[order] == number] for number in range(self.num_classes)]


@dataclass(frozen=True)
class TrainTest:
    """A training set and the test set that belongs to it."""

    train: ImageSet
    test: ImageSet


def _read_only(array: np.ndarray) -> np.ndarray:
    view = array.view()
    view.flags.writeable = False
    return view


def _apportion(counts: np.ndarray, n: int) -> np.ndarray:
    """Share `n` among classes in proportion to `counts` by largest remainder: int64, sums to `n`."""
    exact = counts * (n / counts.sum())
    shares = np.floor(exact).astype(np.int64)
    shares[np.argsort(shares - exact, kind="stable")[: n - shares.sum()]] += 1
    return shares
