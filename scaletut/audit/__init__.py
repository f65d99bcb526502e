"""Audit of a labelled set of images: duplicates, low quality, wrong labels; a report, and a cleaned set."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from scaletut.audit.clean import FAULTS, Fault, Removal, removals, write_cleaned
from scaletut.audit.labels import LabelIssues, label_issues, out_of_fold, ranking
from scaletut.audit.quality import LowQuality, QualityFinding, Threshold, low_quality

if TYPE_CHECKING:
    from scaletut.audit.duplicates import DuplicatePairs, exact_duplicates, groups, near_duplicates, nearest_partner
    from scaletut.audit.report import CHECKS, LabelIssue, LowQualityImage, NearDuplicate, Report, audit

_LATER = {
    **dict.fromkeys(
        ["DuplicatePairs", "exact_duplicates", "groups", "near_duplicates", "nearest_partner"], "duplicates"
    ),
    **dict.fromkeys(["CHECKS", "LabelIssue", "LowQualityImage", "NearDuplicate", "Report", "audit"], "report"),
}

__all__ = [
    "CHECKS",
    "FAULTS",
    "DuplicatePairs",
    "Fault",
    "LabelIssue",
    "LabelIssues",
    "LowQuality",
    "LowQualityImage",
    "NearDuplicate",
    "QualityFinding",
    "Removal",
    "Report",
    "Threshold",
    "audit",
    "exact_duplicates",
    "groups",
    "label_issues",
    "low_quality",
    "near_duplicates",
    "nearest_partner",
    "out_of_fold",
    "ranking",
    "removals",
    "write_cleaned",
]


def __getattr__(name: str) -> Any:
    if name in _LATER:
        return getattr(importlib.import_module(f"scaletut.audit.{_LATER[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
