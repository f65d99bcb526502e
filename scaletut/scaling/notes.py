"""What a fit has to say about itself: notes with a stable code, a severity and one sentence."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Severity = Literal["info", "warning", "error"]
Code = Literal[
    "not_converged",
    "bound_hit",
    "floor_not_identified",
    "exponent_not_identified",
    "flat_direction",
    "few_runs",
    "starts_disagree",
    "bootstrap_failed",
    "extrapolation",
    "law_chosen",
    "runs_dropped",
    "budget_refused",
    "outlier",
    "params_derived",
]


@dataclass(frozen=True)
class Note:
    """One remark: `code` never changes its meaning, `text` is for people."""

    code: Code
    severity: Severity
    text: str
