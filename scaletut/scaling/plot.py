"""Pictures of a fit: the law over the runs, a profile, influence, isoFLOP valleys, a budget. matplotlib is
imported on call.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from scaletut import figures
from scaletut.scaling.fitting import Fit
from scaletut.scaling.laws import LAWS
from scaletut.scaling.planning import TRAIN, Plan, plan
from scaletut.scaling.table import RunTable, as_table
from scaletut.scaling.uncertainty import Influence, Profile
from scaletut.scaling.valleys import IsoFlop

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FINE = 200  # points of a drawn curve
UNITS = {"params": "parameters", "flops": "FLOP"}


def plot_fit(fit: Fit, table: Any, **reading: Any) -> Figure:
    """The law with its bootstrap band over the runs, and the residuals in percent below."""
    runs = as_table(table, **reading)
    figure, (above, below) = figures.panels(2, 1, height=5.0, height_ratios=(3, 1), sharex=True)
    draw = _one_variable if LAWS[fit.law].variables == ("x",) else _two_variables
    scale = draw(above, fit, runs)
    residuals = 100 * (runs.loss / fit.predict(runs) - 1)
    below.axhline(0, color=figures.QUIET, linewidth=1)
    below.plot(scale, residuals, ".", color=figures.PALETTE[0], markersize=4)
    below.set(xscale="log", ylabel="miss (%)", xlabel=above.get_xlabel())
    above.set(xscale="log", yscale="log", ylabel="loss (nats)", xlabel="", title=f"{fit.law}: {LAWS[fit.law].formula}")
    return figure


def _one_variable(axes: Axes, fit: Fit, runs: RunTable) -> np.ndarray:
    x = runs.column(fit.x)
    line = np.geomspace(x.min(), x.max() * 3, FINE)
    axes.plot(x, runs.loss, "o", color=figures.PALETTE[0], markersize=4, label="runs")
    axes.plot(line, fit.predict(line), color=figures.PALETTE[1], label="law")
    if fit.samples is not None:
        axes.fill_between(line, *fit.interval(line), color=figures.PALETTE[1], alpha=0.2, linewidth=0, label="95 %")
    axes.set_xlabel(UNITS.get(fit.x, runs.unit))
    axes.legend()
    return x


def _two_variables(axes: Axes, fit: Fit, runs: RunTable) -> np.ndarray:
    """Loss against compute, one colour a quarter of the sizes, with the law along the middle size of each."""
    params, examples = runs.column("params"), runs.column("examples")
    edges = np.quantile(np.log(params), [0.25, 0.5, 0.75])
    quarter = np.searchsorted(edges, np.log(params))
    for number in range(4):
        here = quarter == number
        if not here.any():
            continue
        colour, size = figures.PALETTE[number], float(np.exp(np.median(np.log(params[here]))))
        axes.plot(6 * params[here] * examples[here], runs.loss[here], ".", color=colour, label=f"N about {size:.2g}")
        along = np.geomspace(examples[here].min(), examples[here].max(), FINE)
        if LAWS[fit.law].variables == ("params", "examples"):
            at = {"params": np.full(FINE, size), "examples": along}
            axes.plot(6 * size * along, fit.predict(at), color=colour, linewidth=1.2)
    axes.set_xlabel("6 N D (FLOP)")
    axes.legend(fontsize="small")
    return 6 * params * examples


def plot_profile(profile: Profile) -> Figure:
    """Likelihood ratio over a parameter's values, with the level that bounds its interval."""
    from statistics import NormalDist

    figure, axes = figures.panels(1, 1)
    axes.plot(profile.values, profile.ratio, color=figures.PALETTE[0])
    limit = NormalDist().inv_cdf((1 + profile.level) / 2) ** 2
    axes.axhline(limit, color=figures.PALETTE[1], linewidth=1, label=f"{profile.level:.0%}")
    axes.set(xlabel=profile.name, ylabel="twice the log likelihood ratio", ylim=(0, 4 * limit))
    axes.legend()
    return figure


def plot_influence(influence: Influence, quantity: str, *, most: int = 12) -> Figure:
    """What a quantity becomes without each of the `most` influential parts."""
    order = np.argsort(-np.abs(influence.shifts))[:most][::-1]
    figure, axes = figures.panels(1, 1, height=1 + 0.3 * len(order))
    axes.barh([str(influence.labels[i]) for i in order], influence.shifts[order], color=figures.PALETTE[0])
    axes.axvline(0, color=figures.QUIET, linewidth=1)
    title = f"{quantity}: {influence.base:.4g} with all"
    axes.set(xlabel=f"change in {quantity} without it", ylabel="left out", title=title)
    return figure


def plot_isoflop(found: IsoFlop) -> Figure:
    """Each budget's runs and curve, and the lowest points."""
    figure, axes = figures.panels(1, 1, height=4.2)
    good = [valley for valley in found.valleys if valley.status == "ok"]
    for number, valley in enumerate(good):
        colour = figures.PALETTE[number % len(figures.PALETTE)]
        line = np.geomspace(valley.params.min(), valley.params.max(), FINE)
        axes.plot(valley.params, valley.loss, ".", color=colour)
        axes.plot(line, valley.predict(line), color=colour, linewidth=1.2)
        axes.plot(valley.best_params, valley.best_loss, "D", color=colour, markersize=6)
        axes.annotate(f"{valley.flops:.1g} FLOP", (line[-1], valley.predict(line[-1:])[0]), fontsize="x-small")
    title = f"N* grows as C^{found.exponent_params:.3f}"
    axes.set(xscale="log", xlabel="parameters", ylabel="loss (nats)", title=title)
    return figure


def plot_budget(fit: Fit, flops: float, table: Any, **reading: Any) -> Figure:
    """Where a budget is spent best: the loss over N and D with the budget line, and the frontier over the runs.

    flops: the budget, FLOP at 6 N D. Bands and the thick part of the line are the fit's intervals, where it has draws.
    Raises TableError for a law that has no best size.
    """
    runs = as_table(table, **reading)
    budgets = np.geomspace(min(TRAIN * (runs.column("params") * runs.column("examples")).min(), flops), 10 * flops, 13)
    plans = [plan(fit, float(one)) for one in [flops, *budgets]]
    figure, (left, right) = figures.panels(1, 2, height=3.8)
    _surface(left, fit, runs, plans[0], plans[1:])
    _frontier(right, runs, plans[0], plans[1:])
    return figure


def _surface(axes: Axes, fit: Fit, runs: RunTable, best: Plan, frontier: Sequence[Plan]) -> None:
    params, examples = (np.array([getattr(one, name) for one in frontier]) for name in ("params", "examples"))
    n = np.geomspace(min(params.min(), runs.column("params").min()) / 2, 2 * params.max(), FINE)
    d = np.geomspace(min(examples.min(), runs.column("examples").min()) / 2, 2 * examples.max(), FINE)
    across, up = np.meshgrid(n, d)
    loss = fit.predict({"params": across.ravel(), "examples": up.ravel()}).reshape(across.shape)
    levels = sorted({round(one.loss, 2) for one in frontier[::2]})
    lines = axes.contour(across, up, loss, levels=levels, colors=figures.PALETTE[0], linewidths=0.8)
    axes.clabel(lines, fmt="%.2f", fontsize=8)
    axes.plot(runs.params, runs.examples, ".", color=figures.QUIET, markersize=2)
    axes.plot(params, examples, "--", color=figures.PALETTE[2], linewidth=1.2)
    axes.plot(n, best.flops / TRAIN / n, color=figures.PALETTE[1], linewidth=1.5, label=f"{best.flops:.3g} FLOP")
    if best.intervals:
        ends = np.array([best.intervals["params"].low, best.intervals["params"].high])
        axes.plot(ends, best.flops / TRAIN / ends, color=figures.PALETTE[2], linewidth=6, alpha=0.5, label="95 %")
    axes.plot(best.params, best.examples, "D", color=figures.PALETTE[2])
    axes.set(xscale="log", yscale="log", xlabel="parameters", ylabel="examples", xlim=(n[0], n[-1]), ylim=(d[0], d[-1]))
    axes.legend(fontsize="small", loc="lower left", frameon=True, framealpha=0.9, edgecolor="none")


def _frontier(axes: Axes, runs: RunTable, best: Plan, frontier: Sequence[Plan]) -> None:
    flops = np.array([one.flops for one in frontier])
    spent = TRAIN * runs.column("params") * runs.column("examples")
    axes.plot(spent, runs.loss, ".", color=figures.QUIET, markersize=3, label="runs")
    axes.plot(flops, [one.loss for one in frontier], color=figures.PALETTE[2], label="best at each budget")
    if best.intervals:
        low, high = np.array([(one.intervals["loss"].low, one.intervals["loss"].high) for one in frontier]).T
        axes.fill_between(flops, low, high, color=figures.PALETTE[2], alpha=0.2, linewidth=0, label="95 %")
    axes.plot(best.flops, best.loss, "D", color=figures.PALETTE[2])
    axes.set(xscale="log", xlabel="6 N D (FLOP)", ylabel="loss (nats)")
    axes.legend(fontsize="small")
