"""Images that show too little: blurred, blank, too dark, too bright, noisy, or of an odd size.

What is usual differs from set to set: a limit that serves photographs calls half of a set of thumbnails blurred.
So each measure is compared with its own distribution over the set, and nothing is fixed in grey levels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from scaletut.errors import DataError

Kind = Literal["blank", "dark", "bright", "blurred", "noisy", "odd size"]
Progress = Callable[[float], None]

LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601: what a colour contributes to brightness
EXPECTED = 0.5  # ordinary images beyond a threshold, in a whole set
NORMAL_TAIL = np.log(1.2816 / 0.6745) / np.log(np.log(5) / np.log(2))  # `shape` of a normal distribution, 0.762
FEWEST = 20  # images from which a distribution can be told
SMALLEST = 8  # pixels along a side from which blur and noise can be told
CELL = 4  # pixels along a side of the cells that noise is measured in
BLOCK = 1 << 20  # pixels measured at a time


@dataclass(frozen=True)
class Measure:
    """How one kind of fault is measured: a number an image, the side on which it is suspicious, what it is called."""

    side: Literal[-1, 1]
    text: str
    least: float  # width of a distribution below which differences mean nothing
    hidden_by: tuple[Kind, ...] = ()  # faults that leave nothing to judge this one by


BEYOND_SIGHT: tuple[Kind, ...] = ("blank", "dark", "bright")
MEASURES: dict[Kind, Measure] = {
    "blank": Measure(-1, "log of contrast over distance to black or white", 0.05),
    "dark": Measure(-1, "log of the 95 % quantile of brightness", 0.05, ("blank",)),
    "bright": Measure(-1, "log of the mean distance to white", 0.05, ("blank",)),
    "blurred": Measure(-1, "log of the Laplacian over the gradient", 0.02, BEYOND_SIGHT),
    "noisy": Measure(1, "root of the diagonal detail in the quietest quarter", 0.02, BEYOND_SIGHT),
    "odd size": Measure(1, "log of how far area or shape are from the usual", 0.05),
}


@dataclass(frozen=True)
class Threshold:
    """Where a detector draws its line (None: it drew none), and why there."""

    value: float | None
    reason: str


@dataclass(frozen=True)
class QualityFinding:
    """An image of low quality: its row, what is wrong, and how far beyond the threshold it lies.

    `score` is the distance from the set's median in units of the threshold's distance: 1 at the threshold.
    """

    index: int
    kind: Kind
    score: float


@dataclass(frozen=True)
class LowQuality:
    """All findings, for each kind the worst first, and the threshold of each kind."""

    findings: tuple[QualityFinding, ...]
    thresholds: dict[str, Threshold]

    def __len__(self) -> int:
        return len(self.findings)

    def __iter__(self) -> Iterator[QualityFinding]:
        return iter(self.findings)


def low_quality(images: np.ndarray, *, sizes: np.ndarray | None = None, progress: Progress | None = None) -> LowQuality:
    """Images whose sharpness, exposure, contrast, noise or size is unlike what is usual in this set.

    Args:
        images: uint8 (n, height, width, 3).
        sizes: int (n, 2), width and height before resizing, in pixels; None where all were alike.
        progress: told the share done, 0 to 1.

    A blank image is not also called dark, and what is blank, dark or bright is not judged for blur or noise.
    Sets of fewer than 20 images have no distribution to speak of: there, only images of one colour are found.

    Raises `DataError` for anything but images.
    """
    values = measures(images, progress)
    if sizes is not None and len(sizes):
        values["odd size"] = _oddness(np.asarray(sizes, np.float64))
    flagged: dict[Kind, np.ndarray] = {}
    findings, thresholds = [], {}
    for kind, measure in MEASURES.items():
        if kind not in values:
            continue
        scores, thresholds[kind] = judge(values[kind], measure)
        if kind == "blank":  # one colour shows nothing, whatever is usual
            scores = np.where(np.ptp(images.reshape(len(images), -1, 3), axis=1).max(axis=1) == 0, np.inf, scores)
            scores = np.where(np.isinf(scores), max(2.0, np.max(scores, initial=0, where=np.isfinite(scores))), scores)
        hidden = np.any([flagged[other] for other in measure.hidden_by], axis=0) if measure.hidden_by else False
        flagged[kind] = (scores > 1) & ~np.asarray(hidden)
        rows = np.flatnonzero(flagged[kind])
        rows = rows[np.argsort(-scores[rows], kind="stable")]
        findings += [QualityFinding(int(row), kind, float(scores[row])) for row in rows]
    return LowQuality(tuple(findings), thresholds)


def judge(values: np.ndarray, measure: Measure) -> tuple[np.ndarray, Threshold]:
    """Score of each image, float64 (n,), and the threshold, at which the score is 1.

    The suspicious half of the distribution is described by its median, 75 % and 90 % quantiles, which faults of one
    kind move little while they are few: x(p) = median + scale * (-ln 2p) ** shape for the share p beyond x.
    A kind that is in a tenth of the set hides itself; among CIFAR-10's photographs a twentieth is enough for that.
    A shape of 1 is an exponential tail, 0.76 nearly a normal one; lighter tails than that are not believed.
    The threshold lies where `EXPECTED` images of the set are beyond it.
    """
    n, towards = len(values), measure.side * values
    if n < FEWEST:
        return np.zeros(n), Threshold(None, f"{n} images; a distribution takes {FEWEST} or more")
    middle, quarter, tenth = np.quantile(towards, (0.5, 0.75, 0.9))
    shape = NORMAL_TAIL
    if quarter - middle > measure.least / 2:
        shape = max(shape, np.log((tenth - middle) / (quarter - middle)) / np.log(np.log(5) / np.log(2)))
    scale = max((quarter - middle) / np.log(2) ** shape, measure.least)
    reach = scale * np.log(n / 2 / EXPECTED) ** shape
    reason = (
        f"{measure.text}: the median is {measure.side * middle:.3g}, and by the set's own 75 % and 90 % quantiles "
        f"{EXPECTED:g} of {n:,} images would lie beyond {measure.side * (middle + reach):.3g}"
    )
    return (towards - middle) / reach, Threshold(float(measure.side * (middle + reach)), reason)


def measures(images: np.ndarray, progress: Progress | None = None) -> dict[Kind, np.ndarray]:
    """The measure of each kind for each image, float64 (n,); see `MEASURES` for what they are.

    Blur is the ratio of second to first differences, so that contrast does not count.
    Noise is everywhere and texture is not: the detail along both diagonals, which edges along the axes do not touch,
    in the quarter of the cells where it is least. A square root evens out its distribution.
    Blur and noise are left out for images of fewer than 8 pixels along a side.
    """
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3 or not images.size:
        raise DataError(
            f"images are {images.dtype} {images.shape}; needed is uint8 (n, height, width, 3) with at least one pixel, "
            "so move the channels last and scale to 0..255"
        )
    n, height, width = images.shape[:3]
    block = max(1, BLOCK // (height * width))
    parts = []
    for first in range(0, n, block):
        parts.append(_measure(images[first : first + block].astype(np.float32)))
        if progress:
            progress(min(1.0, (first + block) / n))
    return {kind: np.concatenate([part[kind] for part in parts]).astype(np.float64) for kind in parts[0]}


def _measure(x: np.ndarray) -> dict[Kind, np.ndarray]:
    flat = x.reshape(len(x), -1, 3)
    mean, contrast = flat.mean(axis=(1, 2)), flat.std(axis=1).mean(axis=1)
    grey = x @ LUMA
    found: dict[Kind, np.ndarray] = {
        "blank": np.log((contrast + 0.1) / (np.minimum(mean, 255 - mean) + 1)),
        "dark": np.log(np.percentile(grey.reshape(len(x), -1), 95, axis=1) + 1),
        "bright": np.log(256 - mean),
    }
    if min(x.shape[1:3]) >= SMALLEST:
        found["blurred"] = np.log((_root_mean_square(_laplacian(grey)) + 0.5) / (_gradient(grey) + 0.5))
        found["noisy"] = np.sqrt(_quiet_detail(grey))
    return found


def _laplacian(grey: np.ndarray) -> np.ndarray:
    around = grey[:, :-2, 1:-1] + grey[:, 2:, 1:-1] + grey[:, 1:-1, :-2] + grey[:, 1:-1, 2:]
    return 4 * grey[:, 1:-1, 1:-1] - around


def _gradient(grey: np.ndarray) -> np.ndarray:
    return np.hypot(_root_mean_square(np.diff(grey, axis=1)), _root_mean_square(np.diff(grey, axis=2)))


def _quiet_detail(grey: np.ndarray) -> np.ndarray:
    """Lower quartile over cells of the mean absolute diagonal difference, grey levels (n,)."""
    diagonal = np.abs(grey[:, :-1, :-1] - grey[:, 1:, :-1] - grey[:, :-1, 1:] + grey[:, 1:, 1:]) / 2
    rows, columns = (side // CELL for side in diagonal.shape[1:])
    cells = diagonal[:, : rows * CELL, : columns * CELL].reshape(len(grey), rows, CELL, columns, CELL)
    return np.percentile(cells.mean(axis=(2, 4)).reshape(len(grey), -1), 25, axis=1)


def _root_mean_square(x: np.ndarray) -> np.ndarray:
    return np.sqrt(np.square(x).mean(axis=(1, 2)))


def _oddness(sizes: np.ndarray) -> np.ndarray:
    """The larger of |ln area - median| and |ln shape - median|, where shape is long side over short side."""
    area = np.log(sizes.prod(axis=1))
    shape = np.log(sizes.max(axis=1) / sizes.min(axis=1))
    return np.maximum(np.abs(area - np.median(area)), np.abs(shape - np.median(shape)))
