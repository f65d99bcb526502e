"""One audit, one report: what is wrong with a set of images, with the threshold and the reason of each finding."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timezone
from functools import partial
from typing import Any, Literal, get_args

import numpy as np

from scaletut.audit import clean as cleaning
from scaletut.audit.clean import Fault, Place
from scaletut.audit.duplicates import exact_duplicates, groups, near_duplicates
from scaletut.audit.labels import FOLDS, label_issues, out_of_fold
from scaletut.audit.quality import Threshold, low_quality
from scaletut.data import ImageSet, TrainTest
from scaletut.errors import DataError, ParameterError

Check = Literal["duplicates", "quality", "labels"]
# What an audit looks for.
CHECKS: tuple[Check, ...] = get_args(Check)
Progress = Callable[[str, float], None]
FORMAT = 1  # of the JSON


@dataclass(frozen=True)
class NearDuplicate:
    """Two images that show the same, and how sure that is; the higher `score`, the surer."""

    first: Place
    second: Place
    score: float


@dataclass(frozen=True)
class LowQualityImage:
    """An image that shows too little; `score` is 1 at the threshold of its `kind` and grows beyond it."""

    index: int
    split: str
    kind: str
    score: float


@dataclass(frozen=True)
class LabelIssue:
    """A label that is probably wrong: class numbers given and suggested; the higher `score`, the surer."""

    index: int
    split: str
    given: int
    suggested: int
    score: float


@dataclass(frozen=True)
class Report:
    """What an audit found, best first within each kind; all of it survives `to_json` and `from_json`.

    A place is a split and a row: `("train", 17)`, in JSON `["train", 17]`.

    * `exact_duplicates`: groups of places with equal pixels;
    * `near_duplicates`: pairs of places that show the same in other pixels;
    * `low_quality`, `label_issues`: images, each with its score;
    * `summary`: counts and shares, flat; `thresholds`: where each line was drawn, and why there;
    * `digests`, `class_counts`: of each split; `files`: by split, the files of the images that were found, where
      images came from files; `skipped`: files that could not be read, each with the reason.
    """

    name: str
    created: str
    digests: Mapping[str, str]
    class_names: tuple[str, ...]
    class_counts: Mapping[str, tuple[int, ...]]
    exact_duplicates: tuple[tuple[Place, ...], ...]
    near_duplicates: tuple[NearDuplicate, ...]
    low_quality: tuple[LowQualityImage, ...]
    label_issues: tuple[LabelIssue, ...]
    summary: Mapping[str, Any]
    thresholds: Mapping[str, Threshold]
    skipped: tuple[tuple[str, str], ...] = ()
    files: Mapping[str, Mapping[int, str]] = field(default_factory=dict)

    def to_json(self) -> str:
        """The whole report as JSON, its fields under their names."""
        return json.dumps({"format": FORMAT, **asdict(self)}, indent=1, ensure_ascii=False, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Report:
        """The report that `to_json` wrote. Raises `DataError` for any other text."""
        try:
            plain = json.loads(text)
            version = plain.pop("format")
            if version != FORMAT:
                raise ValueError(f"its format is {version}, and this version reads {FORMAT}")
            return cls(**{name: _READERS.get(name, _as_is)(value) for name, value in plain.items()})
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            wanted = "give the text that `scaletut audit --json` wrote"
            raise DataError(f"not the JSON of an audit ({' '.join(str(error).split())}); {wanted}") from None

    def clean(self, data: ImageSet | TrainTest, *, faults: Sequence[Fault] = cleaning.FAULTS) -> ImageSet | TrainTest:
        """`data` without the training images that have one of the `faults`; a new set, and the test set as it was.

        `scaletut.audit.removals` tells which images leave and why.
        Raises `DataError` when `data` is not what was audited, or when a class would be left without images.
        """
        return cleaning.cleaned(self, data, faults)

    def html(self, data: ImageSet | TrainTest | None = None) -> str:
        """A data sheet: one HTML page that needs no other file, with pictures of what was found in `data`.

        Without `data` there are no pictures. Raises `DataError` when `data` is not what was audited.
        """
        from scaletut.audit.datasheet import datasheet

        return datasheet(self, data)


def audit(
    data: ImageSet | TrainTest,
    *,
    checks: Sequence[Check] = CHECKS,
    seed: int = 0,
    progress: Progress | None = None,
) -> Report:
    """Look for duplicates, images of low quality and wrong labels in `data`, which is not changed.

    Args:
        data: a training and a test set, or one image set, which then counts as "train".
        checks: which of "duplicates", "quality" and "labels" to make.
        seed: decides the folds and the learners that judge the labels.
        progress: told what is being done and the share of it that is done, 0 to 1.

    Duplicates are looked for within and across the splits; quality is judged by its distribution over all images.
    The labels of a split are judged from the labels of that split alone: what the test set says must not reach the
    training set, which is cleaned by this report.

    Raises `DataError` when there are no images or the splits do not fit together, `ParameterError` for an unknown
    check.
    """
    known_checks(checks)
    whole = _Whole.of(data)
    thresholds: dict[str, Threshold] = {}
    same, near, group = (), (), np.arange(len(whole.images))
    if "duplicates" in checks:
        same, near, group, thresholds["near_duplicates"] = _duplicates(whole, seed, progress)
    poor: tuple[LowQualityImage, ...] = ()
    if "quality" in checks:
        found = low_quality(whole.images, sizes=whole.known("original_size"), progress=_told(progress, "quality"))
        poor = tuple(LowQualityImage(*whole.place(one.index)[::-1], one.kind, one.score) for one in found)
        thresholds |= found.thresholds
    wrong: tuple[LabelIssue, ...] = ()
    if "labels" in checks:
        for split, part in whole.parts.items():
            told = _told(progress, f"labels of {split}")
            issues, line = _label_issues(split, part, group[whole.split == split], seed, told)
            wrong, thresholds[f"label_issues.{split}"] = wrong + issues, line
    report = Report(
        name=whole.first.name,
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        digests={split: part.digest for split, part in whole.parts.items()},
        class_names=whole.first.class_names,
        class_counts={split: tuple(part.class_counts().tolist()) for split, part in whole.parts.items()},
        exact_duplicates=same,
        near_duplicates=near,
        low_quality=poor,
        label_issues=tuple(sorted(wrong, key=lambda one: -one.score)),
        summary={},
        thresholds=thresholds,
        skipped=tuple(one for part in whole.parts.values() for one in part.skipped),
    )
    return replace(report, summary=_summary(report, whole, group, checks), files=whole.files(report))


def known_checks(checks: Sequence[str]) -> tuple[Check, ...]:
    """`checks` if each of them is one of `CHECKS`; `ParameterError` otherwise."""
    for check in checks:
        if check not in CHECKS:
            raise ParameterError(f"unknown check {check!r}; use {', '.join(CHECKS)}")
    return tuple(checks)  # type: ignore[arg-type]  # each was found in CHECKS


# --- the set, splits joined ------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Whole:
    """All images of a set in one array, and which split and row each of them is."""

    parts: Mapping[str, ImageSet]
    images: np.ndarray
    split: np.ndarray
    row: np.ndarray

    @classmethod
    def of(cls, data: ImageSet | TrainTest) -> _Whole:
        parts = cleaning.splits(data)
        for split, part in parts.items():
            if not len(part):
                raise DataError(f"{part.name} has no {split} images; an audit takes one or more")
        shapes = {part.images.shape[1:3] for part in parts.values()}
        if len(shapes) > 1 or len({part.class_names for part in parts.values()}) > 1:
            raise DataError("the training and the test set differ in image size or in class names; give both the same")
        images = [part.images for part in parts.values()]
        return cls(
            parts,
            images[0] if len(images) == 1 else np.concatenate(images),
            np.repeat(list(parts), [len(part) for part in parts.values()]),
            np.concatenate([np.arange(len(part)) for part in parts.values()]),
        )

    @property
    def first(self) -> ImageSet:
        return next(iter(self.parts.values()))

    @property
    def labels(self) -> np.ndarray:
        return np.concatenate([part.labels for part in self.parts.values()])

    def place(self, number: int) -> Place:
        return str(self.split[number]), int(self.row[number])

    def known(self, name: str) -> np.ndarray | None:
        """What `Truth` knows under `name` of all images; None where it does not know it of each split."""
        found = [getattr(part.truth, name, None) for part in self.parts.values()]
        return None if any(one is None for one in found) else np.concatenate(found)

    def files(self, report: Report) -> dict[str, dict[int, str]]:
        """The files of the images in a report, by split and row."""
        names = {split: getattr(part.truth, "file", None) for split, part in self.parts.items()}
        found: dict[str, dict[int, str]] = {}
        for split, row in sorted(set(_places(report))):
            if names[split] is not None:
                found.setdefault(split, {})[row] = str(names[split][row])
        return found


def _places(report: Report) -> Iterable[Place]:
    for group in report.exact_duplicates:
        yield from group
    for pair in report.near_duplicates:
        yield from (pair.first, pair.second)
    for one in (*report.low_quality, *report.label_issues):
        yield one.split, one.index


# --- the checks ------------------------------------------------------------------------------


def _duplicates(
    whole: _Whole, seed: int, progress: Progress | None
) -> tuple[tuple[tuple[Place, ...], ...], tuple[NearDuplicate, ...], np.ndarray, Threshold]:
    """Groups of equal images, pairs of alike ones, the number of each image's family, and the threshold."""
    equal = exact_duplicates(whole.images)
    pairs = near_duplicates(whole.images, progress=_told(progress, "duplicates"), seed=seed)
    n = len(whole.images)
    twin = groups(replace(pairs, first=equal[:, 0], second=equal[:, 1], score=np.ones(len(equal))), n)
    alike = twin[pairs.first] != twin[pairs.second]
    near = tuple(
        NearDuplicate(whole.place(first), whole.place(second), float(score))
        for first, second, score in zip(pairs.first[alike], pairs.second[alike], pairs.score[alike], strict=True)
    )
    both = replace(
        pairs,
        first=np.concatenate([equal[:, 0], pairs.first]),
        second=np.concatenate([equal[:, 1], pairs.second]),
        score=np.concatenate([np.ones(len(equal)), pairs.score]),
    )
    families = [np.flatnonzero(twin == number) for number in np.unique(twin[equal[:, 0]])]
    same = tuple(tuple(whole.place(row) for row in rows) for rows in families)
    return same, near, groups(both, n), Threshold(_finite(pairs.threshold), pairs.reason)


def _label_issues(
    split: str, part: ImageSet, group: np.ndarray, seed: int, progress: Callable[[float], None] | None
) -> tuple[tuple[LabelIssue, ...], Threshold]:
    folds = min(FOLDS, len(np.unique(group)))
    if part.num_classes < 2 or folds < 2:
        return (), Threshold(None, "not judged: it takes two classes and two images that are no copies of each other")
    probabilities = out_of_fold(
        part.images, part.labels, part.num_classes, folds=folds, groups=group, seed=seed, progress=progress
    )
    found = label_issues(part.labels, probabilities)
    rows = zip(found.index, found.given, found.suggested, found.score, strict=True)
    issues = tuple(LabelIssue(int(row), split, int(a), int(b), float(score)) for row, a, b, score in rows)
    return issues, Threshold(_finite(found.threshold), found.reason)


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _told(progress: Progress | None, what: str) -> Callable[[float], None] | None:
    return partial(progress, what) if progress else None


def _summary(report: Report, whole: _Whole, group: np.ndarray, checks: Sequence[Check]) -> dict[str, Any]:
    """Counts, and three measures of a set's quality.

    `label_accuracy`: share of labels that are not doubted. `consistency`: share of the families of duplicates whose
    labels agree. `completeness`: share of the files that could be read, and 1 where there are none.
    """
    images = len(whole.images)
    found: dict[str, Any] = {f"images.{split}": len(part) for split, part in whole.parts.items()}
    found |= {"classes": len(report.class_names), "skipped_files": len(report.skipped)}
    found["completeness"] = images / (images + len(report.skipped))
    if "duplicates" in checks:
        pairs = report.near_duplicates
        found["exact_duplicates"] = sum(len(rows) - 1 for rows in report.exact_duplicates)
        found["near_duplicates"] = len(pairs)
        found["near_duplicates_across_splits"] = sum(pair.first[0] != pair.second[0] for pair in pairs)
        found["consistency"] = _consistency(group, whole.labels)
    if "quality" in checks:
        kinds = [one.kind for one in report.low_quality]
        found["low_quality"] = len({(one.split, one.index) for one in report.low_quality})
        found |= {f"low_quality.{kind}": kinds.count(kind) for kind in dict.fromkeys(kinds)}
    if "labels" in checks:
        found["label_issues"] = len(report.label_issues)
        found["label_accuracy"] = 1 - len(report.label_issues) / images
    return found


def _consistency(group: np.ndarray, labels: np.ndarray) -> float:
    families, members = np.unique(group, return_inverse=True)
    low, high = np.full(len(families), labels.max()), np.full(len(families), labels.min())
    np.minimum.at(low, members, labels)
    np.maximum.at(high, members, labels)
    many = np.bincount(members) > 1
    return float((low == high)[many].mean()) if many.any() else 1.0


# --- from JSON -------------------------------------------------------------------------------


def _as_is(value: Any) -> Any:
    return value


def _place(value: list[Any]) -> Place:
    split, row = value
    return str(split), int(row)


_READERS: dict[str, Callable[[Any], Any]] = {
    "class_names": tuple,
    "class_counts": lambda value: {split: tuple(counts) for split, counts in value.items()},
    "exact_duplicates": lambda value: tuple(tuple(_place(one) for one in group) for group in value),
    "near_duplicates": lambda value: tuple(
        NearDuplicate(_place(one["first"]), _place(one["second"]), one["score"]) for one in value
    ),
    "low_quality": lambda value: tuple(LowQualityImage(**one) for one in value),
    "label_issues": lambda value: tuple(LabelIssue(**one) for one in value),
    "thresholds": lambda value: {name: Threshold(**one) for name, one in value.items()},
    "skipped": lambda value: tuple((path, reason) for path, reason in value),
    "files": lambda value: {split: {int(row): name for row, name in rows.items()} for split, rows in value.items()},
}
