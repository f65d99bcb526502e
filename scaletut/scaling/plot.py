"""Pictures of a fit: the law over the runs, a profile, influence, isoFLOP valleys. matplotlib is imported on call."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from scaletut import figures
from scaletut.scaling.fitting import Fit
from scaletut.scaling.laws import LAWS
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
