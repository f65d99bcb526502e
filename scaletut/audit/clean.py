"""From a report to a cleaned set: what leaves and why, written down beside it. Nothing is ever deleted."""

from __future__ import annotations

import io
import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from scaletut.data import ImageSet, TrainTest
from scaletut.errors import DataError, ParameterError
from scaletut.files import atomic_write

if TYPE_CHECKING:
    from scaletut.audit.report import Report

Fault = Literal["exact_duplicates", "near_duplicates", "low_quality", "label_issues"]
# What an image may leave the training set for.
FAULTS: tuple[Fault, ...] = get_args(Fault)
Place = tuple[str, int]  # split and row: ("train", 17)
TRAIN = "train"


@dataclass(frozen=True)
class Removal:
    """A training image that leaves, and all the reasons why."""

    index: int
    reasons: tuple[str, ...]


def removals(report: Report, faults: Sequence[Fault] = FAULTS) -> tuple[Removal, ...]:
    """The training images that leave because of `faults`, by row.

    Images of low quality and with doubted labels leave.
    Of a family of duplicates that reaches into the test set, all training images leave, so that none straddles the
    splits; of any other family one stays, the first that has no other fault.
    The test set stays as it is: a figure measured on another test set is another figure.

    Raises `ParameterError` for an unknown fault.
    """
    for fault in faults:
        if fault not in FAULTS:
            raise ParameterError(f"unknown fault {fault!r}; use {', '.join(FAULTS)}")
    reasons: defaultdict[int, list[str]] = defaultdict(list)
    if "low_quality" in faults:
        for one in report.low_quality:
            if one.split == TRAIN:
                reasons[one.index].append(one.kind)
    if "label_issues" in faults:
        for issue in report.label_issues:
            if issue.split == TRAIN:
                given, suggested = report.class_names[issue.given], report.class_names[issue.suggested]
                reasons[issue.index].append(f"labelled {given}, probably {suggested}")
    spoilt = set(reasons)
    equal = list(report.exact_duplicates) if "exact_duplicates" in faults else []
    alike = [(pair.first, pair.second) for pair in report.near_duplicates] if "near_duplicates" in faults else []
    twins = {place: number for number, group in enumerate(report.exact_duplicates) for place in group}
    for family in _families([*equal, *alike]):
        stays = _survivor(family, spoilt)
        for place in family:
            if place[0] == TRAIN and place != stays:
                kind = "exact" if twins.get(place, -1) == twins.get(stays, -2) else "near"
                reasons[place[1]].append(f"{kind} duplicate of {stays[0]} {stays[1]}")
    return tuple(Removal(row, tuple(reasons[row])) for row in sorted(reasons))


def _families(links: Iterable[Sequence[Place]]) -> list[list[Place]]:
    """Places that are linked, directly or through others: sorted lists of two or more."""
    links = list(links)
    places = sorted({place for link in links for place in link})
    number = {place: i for i, place in enumerate(places)}
    ends = np.array([(number[link[0]], number[place]) for link in links for place in link], np.int64).reshape(-1, 2)
    graph = coo_array((np.ones(len(ends)), (ends[:, 0], ends[:, 1])), shape=(len(places), len(places)))
    families: defaultdict[int, list[Place]] = defaultdict(list)
    for place, family in zip(places, connected_components(graph, directed=False)[1] if places else (), strict=True):
        families[int(family)].append(place)
    return list(families.values())


def _survivor(family: list[Place], spoilt: set[int]) -> Place:
    """The image that the others of its family make needless: one of the test set, else the best of training."""
    return min(family, key=lambda place: (place[0] == TRAIN, place[0] == TRAIN and place[1] in spoilt, place))


def splits(data: ImageSet | TrainTest) -> dict[str, ImageSet]:
    """The image sets of `data` by the name of their split."""
    return {TRAIN: data} if isinstance(data, ImageSet) else {TRAIN: data.train, "test": data.test}


def check_audited(report: Report, data: ImageSet | TrainTest) -> None:
    """Raise `DataError` unless `data` is, to the last pixel and label, what `report` is about."""
    digests = {split: part.digest for split, part in splits(data).items()}
    if digests != dict(report.digests):
        odd = ", ".join(
            sorted(split for split in digests | dict(report.digests) if digests.get(split) != report.digests.get(split))
        )
        raise DataError(
            f"the report on {report.name} is about other images or labels ({odd}); audit this set, or load the same one"
        )


def cleaned(report: Report, data: ImageSet | TrainTest, faults: Sequence[Fault] = FAULTS) -> ImageSet | TrainTest:
    """`data` without what `removals` lists; see `Report.clean`."""
    check_audited(report, data)
    train = splits(data)[TRAIN]
    keep = np.ones(len(train), bool)
    keep[[one.index for one in removals(report, faults)]] = False
    emptied = (train.class_counts() > 0) & (np.bincount(train.labels[keep], minlength=train.num_classes) == 0)
    if emptied.any():
        names = ", ".join(np.array(train.class_names)[emptied])
        raise DataError(
            f"cleaning would leave no training image of {names}; look at the findings and name fewer faults"
        )
    return train.take(keep) if isinstance(data, ImageSet) else replace(data, train=train.take(keep))


def manifest(report: Report, after: ImageSet | TrainTest, faults: Sequence[Fault] = FAULTS) -> dict[str, Any]:
    """What left and why, as plain data for JSON; `after` is the cleaned set."""
    files = report.files.get(TRAIN, {})
    left = []
    for one in removals(report, faults):
        file = {"file": files[one.index]} if one.index in files else {}
        left.append({"split": TRAIN, "index": one.index, **file, "reasons": list(one.reasons)})
    return {
        "name": report.name,
        "audited": report.created,
        "faults": list(faults),
        "digests_before": dict(report.digests),
        "digests_after": {split: part.digest for split, part in splits(after).items()},
        "images_before": {split: sum(counts) for split, counts in report.class_counts.items()},
        "images_after": {split: len(part) for split, part in splits(after).items()},
        "thresholds": {name: asdict(one) for name, one in report.thresholds.items()},
        "left": left,
    }


def write_cleaned(
    report: Report, data: ImageSet | TrainTest, path: Path | str, *, faults: Sequence[Fault] = FAULTS
) -> tuple[Path, Path]:
    """Write the cleaned set as `path`, an npz, and its manifest beside it: the two paths.

    The npz has the keys `x_train`, `y_train`, `class_names` and, if there is a test set, `x_test`, `y_test`, and is
    read by `scaletut.data.load`. Both files are written whole or not at all, the manifest first.

    Raises `ParameterError` unless the name ends in .npz.
    """
    path = Path(path)
    if path.suffix != ".npz":
        raise ParameterError(f"the cleaned set is an npz; name it {path.with_suffix('.npz').name}")
    after = cleaned(report, data, faults)
    arrays: dict[str, np.ndarray] = {"class_names": np.array(report.class_names)}
    for split, part in splits(after).items():
        arrays |= {f"x_{split}": part.images, f"y_{split}": part.labels}
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    text = json.dumps(manifest(report, after, faults), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    beside = atomic_write(path.with_suffix(".manifest.json"), text)
    return atomic_write(path, buffer.getbuffer()), beside
