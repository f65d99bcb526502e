"""IsoFLOP profiles: the best size at each budget without a law for the loss (Hoffmann et al. 2022, approach 2).

At each budget the loss is a valley in log N. A curve through all of it is biased, for the walls of a valley bend any
polynomial, and more so where sizes do not move with the budget (Open-Athena 2026). So the curve is local: the seven
runs nearest to the lowest point. On surfaces with exponents 0.2 to 0.6 and fifteen sizes that are the same at all
budgets, 3 to 6 e-folds to each side, the exponent of N* was then off by at most 0.002 with a parabola, 0.016 with a
cubic; with all runs by up to 0.08 and 0.32. With 0.2 % noise and nine runs the parabola scatters half as much.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np

from scaletut.scaling.fitting import LEVEL, Interval
from scaletut.scaling.notes import Note
from scaletut.scaling.table import RunTable, TableError, as_table

Method = Literal["quadratic", "cubic"]
Status = Literal["ok", "edge", "not_convex", "few_runs"]
SAME_BUDGET = 0.1  # e-folds of compute within which runs share a budget
DEGREES = {"quadratic": 2, "cubic": 3}
FEWEST = {3: 6, 2: 4}  # by degree: runs a valley needs, one or more beyond its coefficients
OUTLIER = 8.0  # standard deviations of the others from the curve that they draw; by chance one valley in 200
NEAREST = 7  # runs to draw a valley's curve through
DRAWS = 400


@dataclass(frozen=True)
class Valley:
    """The runs of one budget and the curve through them.

    flops: FLOP, the runs' geometric mean. params, loss: of the runs (n,), by size. kept: which of them the curve uses
    (n,). best_params, best_loss: at the lowest point; nan unless `status` is "ok". degree: of the polynomial.
    curve: its coefficients in log N - `centre`, highest power first.
    """

    flops: float
    params: np.ndarray
    loss: np.ndarray
    kept: np.ndarray
    outlier: np.ndarray
    status: Status
    degree: int
    centre: float
    curve: np.ndarray
    best_params: float
    best_loss: float

    def predict(self, params: np.ndarray) -> np.ndarray:
        """The curve's loss (n,), nats, at sizes (n,)."""
        return np.polyval(self.curve, np.log(params) - self.centre)


@dataclass(frozen=True)
class IsoFlop:
    """Valleys, and the power laws N* = k C^a, D* = k' C^b through their lowest points.

    exponent_params: a. exponent_examples: b. intervals of both, from the valleys' resampled residuals.
    """

    valleys: tuple[Valley, ...]
    exponent_params: float
    exponent_examples: float
    factor_params: float
    intervals: Mapping[str, Interval]
    notes: tuple[Note, ...]

    def best_params(self, flops: float) -> float:
        """N* at a budget, by the power law."""
        return self.factor_params * flops**self.exponent_params

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        plain = asdict(self)
        for valley in plain["valleys"]:
            arrays = ("params", "loss", "kept", "outlier", "curve")
            valley.update({name: np.asarray(valley[name]).tolist() for name in arrays})
            valley.update({name: None for name in ("best_params", "best_loss") if np.isnan(valley[name])})
        return plain


def isoflop(
    table: Any, *, method: Method = "quadratic", level: float = LEVEL, seed: int = 0, **reading: Any
) -> IsoFlop:
    """Find the lowest point of each budget's valley, and the power law of those points.

    table: with params and flops; see `as_table` for `reading` (columns, cost). Budgets are runs within 0.1 e-folds of
    compute. A lowest point at the edge of its runs, a valley that is no valley, or too few runs: the budget is left
    out and a note says so. A run far from the curve that the others draw is left out of it, with a note.

    Raises TableError when fewer than two budgets have a lowest point.
    """
    if method not in DEGREES:
        raise TableError(f"unknown method {method!r}; it is quadratic or cubic")
    runs = as_table(table, **reading)
    budgets = _budgets(runs)
    valleys = tuple(_valley(runs.take(rows), DEGREES[method]) for rows in budgets)
    notes = _notes(valleys)
    good = [valley for valley in valleys if valley.status == "ok"]
    if len(good) < 2:
        told = "; ".join(note.text for note in notes) or "there is one budget"
        raise TableError(f"{len(good)} of {len(valleys)} budgets have a lowest point, and a law needs two: {told}")
    flops = np.log([valley.flops for valley in good])
    slope, start = np.polyfit(flops, np.log([valley.best_params for valley in good]), 1)
    draws = _draws(good, flops, np.random.default_rng(seed))
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    intervals = {
        "exponent_params": Interval(level, float(low), float(high)),
        "exponent_examples": Interval(level, float(1 - high), float(1 - low)),
    }
    return IsoFlop(valleys, float(slope), float(1 - slope), float(np.exp(start)), intervals, tuple(notes))


def _budgets(runs: RunTable) -> list[np.ndarray]:
    """Row numbers of each budget, cheapest first."""
    flops = np.log(runs.column("flops"))
    runs.column("params")
    order = np.argsort(flops, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(flops[order]) > SAME_BUDGET) + 1)


def _valley(runs: RunTable, wanted: int) -> Valley:
    order = np.argsort(runs.column("params"), kind="stable")
    params, loss = runs.column("params")[order], runs.loss[order]
    flops = float(np.exp(np.log(runs.column("flops")).mean()))
    x = np.log(params)
    centre = float(x[np.argmin(loss)])
    kept = np.ones(len(loss), dtype=bool)
    empty = Valley(flops, params, loss, kept, ~kept, "few_runs", 0, centre, np.zeros(1), np.nan, np.nan)
    sizes = len(np.unique(params))
    degree = wanted if sizes >= FEWEST[wanted] else 2
    if sizes < FEWEST[2]:
        return empty
    usable = _without_outlier(x - centre, loss, degree)
    kept = _nearest(x, usable, centre)
    curve = np.polyfit(x[kept] - centre, loss[kept], degree)
    lowest = _lowest(curve, x[kept] - centre)
    if np.isfinite(lowest):  # once more, around that point
        kept = _nearest(x, usable, centre + lowest)
        curve = np.polyfit(x[kept] - centre, loss[kept], degree)
        lowest = _lowest(curve, x[kept] - centre)
    found = replace(empty, kept=kept, outlier=~usable, degree=degree, curve=curve, status="not_convex")
    if np.isnan(lowest):
        ends = np.polyval(curve, [x[kept].min() - centre, x[kept].max() - centre])
        inside = np.polyval(curve, np.linspace(x[kept].min(), x[kept].max(), 50)[1:-1] - centre)
        return replace(found, status="edge" if inside.min() >= ends.min() else "not_convex")
    if np.argmin(np.where(usable, loss, np.inf)) in (np.flatnonzero(usable)[0], np.flatnonzero(usable)[-1]):
        return replace(found, status="edge")
    return replace(
        found, status="ok", best_params=float(np.exp(centre + lowest)), best_loss=float(np.polyval(curve, lowest))
    )


def _nearest(x: np.ndarray, usable: np.ndarray, centre: float) -> np.ndarray:
    """Mask (n,) of the usable runs whose sizes are nearest to `centre`: far walls of a valley bend any polynomial."""
    distance = np.where(usable, np.abs(x - centre), np.inf)
    return usable & (distance <= np.sort(distance)[min(NEAREST, int(usable.sum())) - 1])


def _lowest(curve: np.ndarray, x: np.ndarray) -> float:
    """The polynomial's local minimum between the outermost runs; nan where it has none."""
    roots = np.roots(np.polyder(curve))
    real = np.sort(roots[np.abs(roots.imag) < 1e-9].real)
    bend = np.polyval(np.polyder(curve, 2), real)
    inside = real[(bend > 0) & (real > x.min()) & (real < x.max())]
    return float(inside[0]) if inside.size else np.nan


def _without_outlier(x: np.ndarray, loss: np.ndarray, degree: int) -> np.ndarray:
    """Mask (n,) that drops the one run that the others' curve misses by far, if there is one and runs to spare."""
    kept = np.ones(len(x), dtype=bool)
    if len(x) < degree + 4:
        return kept
    surprise = np.zeros(len(x))
    for i in range(1, len(x) - 1):  # at the ends a curve extrapolates, and misses by nature
        others = np.arange(len(x)) != i
        curve = np.polyfit(x[others], loss[others], degree)
        rest = loss[others] - np.polyval(curve, x[others])
        scale = np.sqrt(np.sum(rest**2) / (len(rest) - degree - 1))
        surprise[i] = abs(loss[i] - np.polyval(curve, x[i])) / max(scale, 1e-12)
    worst = int(np.argmax(surprise))
    kept[worst] = surprise[worst] <= OUTLIER
    return kept


def _draws(valleys: list[Valley], flops: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Exponents of N (draws,) when residuals, pooled over the valleys, are resampled onto the curves."""
    positions = [np.log(valley.params[valley.kept]) - valley.centre for valley in valleys]
    curves = [np.polyval(valley.curve, x) for valley, x in zip(valleys, positions, strict=True)]
    residuals = [valley.loss[valley.kept] / curve - 1 for valley, curve in zip(valleys, curves, strict=True)]
    spare = sum(max(len(x) - valley.degree - 1, 0) for valley, x in zip(valleys, positions, strict=True))
    pooled = np.concatenate(residuals)
    pooled = pooled * np.sqrt(pooled.size / max(spare, 1))  # a curve takes up part of the noise
    best = np.empty((DRAWS, len(valleys)))
    for number, (valley, x, curve) in enumerate(zip(valleys, positions, curves, strict=True)):
        solve = np.linalg.pinv(np.vander(x, valley.degree + 1))
        losses = curve * (1 + generator.choice(pooled, size=(DRAWS, len(x))))
        lowest = np.array([_lowest(solve @ draw, x) for draw in losses])
        best[:, number] = np.where(np.isnan(lowest), np.log(valley.best_params) - valley.centre, lowest) + valley.centre
    centred = flops - flops.mean()
    return best @ centred / (centred @ centred)


def _notes(valleys: tuple[Valley, ...]) -> list[Note]:
    reasons = {
        "edge": "its lowest loss is at the edge of its sizes; add runs beyond it",
        "not_convex": "its losses draw no valley; the noise is larger than the curve",
        "few_runs": "it has fewer than four sizes",
    }
    found = []
    for valley in valleys:
        if valley.status != "ok":
            text = f"the budget {valley.flops:.3g} FLOP is left out: {reasons[valley.status]}"
            found.append(Note("budget_refused", "warning", text))
        for params in valley.params[valley.outlier]:
            text = f"the run of {params:.3g} parameters at {valley.flops:.3g} FLOP lies far from its valley; left out"
            found.append(Note("outlier", "warning", text))
    return found
