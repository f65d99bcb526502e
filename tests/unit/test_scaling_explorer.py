"""The figures of a budget: what the page is handed is what the library plans, and nothing is asked of elsewhere."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from scaling_cases import GRID_D, GRID_N, MINIMUM

from scaletut.scaling import Fit, RunTable, TableError, fit, plan, simulate
from scaletut.scaling.explorer import explore_budget

FLOPS = 1e21


@pytest.fixture(scope="module")
def runs() -> RunTable:
    return simulate("additive", MINIMUM, {"params": GRID_N, "examples": GRID_D}, noise="normal", scale=0.01, seed=0)


@pytest.fixture(scope="module")
def law(runs: RunTable) -> Fit:
    return fit(runs, "additive", bootstrap=50, seed=0)


def handed(html: str) -> dict:
    (found,) = re.findall(r'<script type="application/json">(.*?)</script>', html, re.DOTALL)
    return json.loads(found)


def test_the_page_is_handed_the_law_and_the_plans_intervals(law: Fit) -> None:
    data = handed(explore_budget(law, FLOPS, level=0.9).html)
    assert data["law"] == pytest.approx(dict(law.parameters), rel=1e-6)
    assert data["ranges"]["params"] == pytest.approx([GRID_N.min(), GRID_N.max()], rel=1e-6)
    for number in (0, 4, len(data["offsets"]) - 1):
        best = plan(law, FLOPS * 10 ** data["offsets"][number], level=0.9)
        for name in ("params", "loss"):
            interval = best.intervals[name]
            assert data["ends"][name][number] == pytest.approx([interval.low, interval.high], rel=1e-6)


def test_a_tied_law_and_one_without_bootstrap_are_shown_too(runs: RunTable) -> None:
    tied = fit(runs, "additive_tied")
    data = handed(explore_budget(tied, FLOPS).html)
    assert data["law"]["alpha"] == data["law"]["beta"] == pytest.approx(tied.parameters["alpha"], rel=1e-6)
    assert data["ends"] is None


def test_the_page_stands_alone(law: Fit) -> None:
    figure = explore_budget(law, FLOPS)
    assert not re.findall(r"https?:|\bsrc=|\bhref=|@\w+", figure.html)
    assert figure._repr_html_() == figure.html
    assert "parameters" in repr(figure)
    assert "<" not in repr(figure)


def test_pages_of_two_fits_do_not_meet(law: Fit) -> None:
    one, same, other = (
        re.findall(r'data-explorer="([\w-]+)"', explore_budget(law, c).html)[0] for c in (1e20, 1e20, 1e21)
    )
    assert one == same != other


@pytest.mark.parametrize(("name", "flops"), [("product", FLOPS), ("additive", 0.0), ("additive", float("nan"))])
def test_what_cannot_be_shown_is_refused_in_a_line(runs: RunTable, name: str, flops: float) -> None:
    with pytest.raises(TableError) as caught:
        explore_budget(fit(runs, name), flops)
    assert "\n" not in str(caught.value)


def test_the_still_figure_marks_the_plan_and_its_interval(law: Fit, runs: RunTable) -> None:
    pyplot = pytest.importorskip("matplotlib.pyplot")
    from scaletut.scaling.plot import plot_budget

    figure = plot_budget(law, FLOPS, runs)
    surface, frontier = figure.axes
    best = plan(law, FLOPS)
    (diamond,) = [line for line in surface.lines if line.get_marker() == "D"]
    assert diamond.get_xydata()[0] == pytest.approx([best.params, best.examples])
    (thick,) = [line for line in surface.lines if line.get_label() == "95 %"]
    assert thick.get_xdata() == pytest.approx([best.intervals["params"].low, best.intervals["params"].high])
    assert thick.get_ydata() * thick.get_xdata() == pytest.approx([FLOPS / 6] * 2)
    (curve,) = [line for line in frontier.lines if line.get_label().startswith("best")]
    assert (np.diff(curve.get_ydata()) < 0).all()
    assert all(axes.get_xlabel() and axes.get_ylabel() for axes in figure.axes)
    pyplot.close(figure)
