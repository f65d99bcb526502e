"""Audit of a labelled set of images: duplicates, low quality, wrong labels; a report, and a cleaned set."""

from scaletut.audit.clean import FAULTS, Removal, removals, write_cleaned
from scaletut.audit.duplicates import DuplicatePairs, exact_duplicates, groups, near_duplicates, nearest_partner
from scaletut.audit.labels import LabelIssues, label_issues, out_of_fold, ranking
from scaletut.audit.quality import LowQuality, QualityFinding, Threshold, low_quality
from scaletut.audit.report import CHECKS, LabelIssue, LowQualityImage, NearDuplicate, Report, audit
from scaletut.audit.scores import DetectorScore, score
from scaletut.audit.select import doubt, el2n, k_center, keep, label_margin
from scaletut.audit.votes import Consensus, dawid_skene, majority

__all__ = [
    "CHECKS",
    "FAULTS",
    "Consensus",
    "DetectorScore",
    "DuplicatePairs",
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
    "dawid_skene",
    "doubt",
    "el2n",
    "exact_duplicates",
    "groups",
    "k_center",
    "keep",
    "label_issues",
    "label_margin",
    "low_quality",
    "majority",
    "near_duplicates",
    "nearest_partner",
    "out_of_fold",
    "ranking",
    "removals",
    "score",
    "write_cleaned",
]
