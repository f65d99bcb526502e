"""An interactive figure of a fitted law: sliders for the budget and the model size, the loss surface, the valley.

The figure is one piece of HTML with its own script and no request to anywhere, so it works in Jupyter, in Colab and on
a page read from a disk. The script knows the additive law in closed form; intervals come with it, computed here.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from importlib import resources
from string import Template
from typing import Any

import numpy as np

from scaletut import figures
from scaletut.scaling.fitting import LEVEL, Fit
from scaletut.scaling.planning import FAR, TRAIN, plan
from scaletut.scaling.table import TableError

LAWS_KNOWN = ("additive", "additive_tied")
DECADES = (-6.0, 3.0)  # that the budget's slider reaches below and above the given budget
STEP = 1.0  # decades between the budgets at which intervals are computed
DIGITS = 7  # significant, of the numbers handed to the script


class _Page(Template):
    """The script has dollar signs of its own."""

    delimiter = "@"


@dataclass(frozen=True)
class BudgetExplorer:
    """The figure. html: a self-contained fragment, which notebooks show. summary: what it shows, in a line of text."""

    summary: str
    html: str = field(repr=False)

    def _repr_html_(self) -> str:
        return self.html

    def __repr__(self) -> str:
        return self.summary


def explore_budget(fit: Fit, flops: float, *, level: float = LEVEL) -> BudgetExplorer:
    """Sliders for budget and model size over the loss surface of a fit, starting at `flops` (FLOP, cost 6 N D).

    Shown: level lines of the loss over N and D, the budget line, the best point with its interval at `level` from the
    fit's bootstrap (none without), and the compute that another size wastes. For the additive law, also tied.

    Raises TableError for another law, or a budget that is not above 0.
    """
    if fit.law not in LAWS_KNOWN:
        raise TableError(f"the figure knows {' and '.join(LAWS_KNOWN)}, not {fit.law!r}; fit one of these")
    best = plan(fit, flops, level=level)
    offsets = np.arange(DECADES[0], DECADES[1] + STEP / 2, STEP)
    data = {
        "law": {name: _short(_public(fit)[name]) for name in ("E", "A", "B", "alpha", "beta")},
        "flops": flops,
        "flops_per_pair": TRAIN,
        "level": level,
        "ranges": {name: [_short(end) for end in fit.ranges[name]] for name in ("params", "examples")},
        "offsets": offsets.tolist(),
        "ends": _ends(fit, flops * 10**offsets, level) if best.intervals else None,
    }
    text = json.dumps(data).replace("<", "\\u003c")
    page = _Page(resources.files("scaletut.scaling").joinpath("explorer.html").read_text(encoding="utf-8"))
    blue, orange, teal = figures.PALETTE[:3]
    html = page.substitute(
        blue=blue, orange=orange, teal=teal, ink=figures.INK, quiet=figures.QUIET, grid=figures.GRID, far=FAR,
        data=text, id="explorer-" + hashlib.sha256(text.encode()).hexdigest()[:8],
    )  # fmt: skip
    summary = (
        f"Interactive figure: the loss over model size and data; at {flops:.3g} FLOP the best model has "
        f"{best.params:.3g} parameters, sees {best.examples:.3g} examples and reaches {best.loss:.3f} nats"
    )
    return BudgetExplorer(summary, html)


def _public(fit: Fit) -> dict[str, float]:
    """Parameters of the additive law, the tied exponent under both its names."""
    return {"beta": fit.parameters["alpha"], **fit.parameters}


def _ends(fit: Fit, budgets: np.ndarray, level: float) -> dict[str, list[Any]]:
    """Low and high of the best N and its loss at each budget."""
    found = [plan(fit, float(flops), level=level).intervals for flops in budgets]
    return {name: [[_short(one[name].low), _short(one[name].high)] for one in found] for name in ("params", "loss")}


def _short(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")
