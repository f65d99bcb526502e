"""How well an audit did, where it is known what is wrong with the set: precision and recall of each detector."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.stats import norm

from scaletut.audit.clean import TRAIN, check_audited, splits
from scaletut.data import ImageSet, TrainTest, Truth
from scaletut.errors import DataError

if TYPE_CHECKING:
    from scaletut.audit.report import Report

LEVEL = 0.95
SOFTENED = ("rescale", "jpeg")  # near duplicates that lost fine detail when they were made: a blur, planted or not


@dataclass(frozen=True)
class DetectorScore:
    """Marks of one detector, or of one kind of what it finds.

    `right` of the `found` findings are true; `recalled` of the `planted` faults are among them.
    """

    detector: str
    planted: int
    found: int
    right: int
    recalled: int

    @property
    def precision(self) -> float:
        """Share of the findings that are true, 0 to 1; 1 when nothing was found."""
        return self.right / self.found if self.found else 1.0

    @property
    def recall(self) -> float:
        """Share of the faults that were found, 0 to 1; 1 when there were none."""
        return self.recalled / self.planted if self.planted else 1.0

    @property
    def precision_interval(self) -> tuple[float, float]:
        """95 % interval of Wilson (1927) for the precision."""
        return wilson(self.right, self.found)

    @property
    def recall_interval(self) -> tuple[float, float]:
        """95 % interval of Wilson (1927) for the recall."""
        return wilson(self.recalled, self.planted)


def wilson(hits: int, n: int, level: float = LEVEL) -> tuple[float, float]:
    """Interval of a share estimated by `hits` of `n`: (0, 1) when n is 0.

    Wilson 1927, "Probable Inference, the Law of Succession, and Statistical Inference", JASA 22.
    """
    if n == 0:
        return 0.0, 1.0
    z = norm.ppf((1 + level) / 2)
    share = hits / n
    middle = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    # Exact at the ends, where rounding would leave 1e-16.
    return (0.0 if hits == 0 else float(middle - half)), (1.0 if hits == n else float(middle + half))


def score(report: Report, data: ImageSet | TrainTest) -> tuple[DetectorScore, ...]:
    """Precision and recall of what was found in the training set of `data`, by its `truth`.

    One entry for each kind that the truth knows: "exact_duplicates", "near_duplicates" and, by how the copy was made,
    "near_duplicates.shift" …, "blurred" …, "label_issues".
    A pair is right when both images have one original, or are it. A wrong pair has no kind and counts against each.
    A copy that was resized or compressed has truly lost detail, so to call it blurred is neither right nor wrong.

    Raises `DataError` when nothing is known about the training set, or `data` is not what was audited.
    """
    check_audited(report, data)
    train = splits(data)[TRAIN]
    if train.truth is None:
        raise DataError(
            f"nothing is known about what is wrong with {train.name}; zipf10 with planted faults has a truth"
        )
    return tuple(_scores(report, train, train.truth))


def _scores(report: Report, train: ImageSet, truth: Truth) -> Iterator[DetectorScore]:
    if truth.duplicate_of is not None and truth.near_duplicate_of is not None:
        yield from _duplicate_scores(report, truth, truth.duplicate_of, truth.near_duplicate_of)
    for kind in ("blurred", "blank", "dark", "bright", "noisy"):
        planted = getattr(truth, kind)
        if planted is not None:
            found = _rows(one.index for one in report.low_quality if one.split == TRAIN and one.kind == kind)
            if kind == "blurred" and truth.near_duplicate_kind is not None:
                found = found[~np.isin(truth.near_duplicate_kind[found], SOFTENED)]
            yield _of_rows(kind, found, planted)
    if truth.clean_labels is not None:
        found = _rows(one.index for one in report.label_issues if one.split == TRAIN)
        yield _of_rows("label_issues", found, train.labels != truth.clean_labels)


def _duplicate_scores(
    report: Report, truth: Truth, exact_of: np.ndarray, near_of: np.ndarray
) -> Iterator[DetectorScore]:
    original = np.where(exact_of >= 0, exact_of, np.where(near_of >= 0, near_of, np.arange(len(exact_of))))
    same = [(group[0], place) for group in report.exact_duplicates for place in group[1:]]
    yield _of_pairs("exact_duplicates", _pairs(same), original, exact_of >= 0)
    near = _pairs((pair.first, pair.second) for pair in report.near_duplicates)
    yield _of_pairs("near_duplicates", near, original, near_of >= 0)
    if truth.near_duplicate_kind is not None:
        for kind in sorted(set(truth.near_duplicate_kind[near_of >= 0].tolist())):
            copies = truth.near_duplicate_kind == kind
            wrong = original[near[:, 0]] != original[near[:, 1]]
            yield _of_pairs(f"near_duplicates.{kind}", near[wrong | copies[near].any(axis=1)], original, copies)


def _of_pairs(name: str, pairs: np.ndarray, original: np.ndarray, copies: np.ndarray) -> DetectorScore:
    right = original[pairs[:, 0]] == original[pairs[:, 1]]
    recalled = np.zeros(len(copies), bool)
    recalled[pairs[right].ravel()] = True
    return DetectorScore(name, int(copies.sum()), len(pairs), int(right.sum()), int((recalled & copies).sum()))


def _of_rows(name: str, found: np.ndarray, planted: np.ndarray) -> DetectorScore:
    right = int(planted[found].sum())
    return DetectorScore(name, int(planted.sum()), len(found), right, right)


def _pairs(places: Iterable[tuple[tuple[str, int], tuple[str, int]]]) -> np.ndarray:
    """Rows of the pairs that lie in the training set, int64 (m, 2)."""
    inside = [(first[1], second[1]) for first, second in places if first[0] == second[0] == TRAIN]
    return np.array(inside, np.int64).reshape(-1, 2)


def _rows(rows: Iterable[int]) -> np.ndarray:
    return np.array(sorted(set(rows)), np.int64)
