"""IsoFLOP profiles: the best size at each budget without a law for the loss (Hoffmann et al. 2022, approach 2).

At each budget the loss is a valley in log N. A parabola through it is biased where the valley leans, which it does
whenever the exponents of N and D differ or the runs lie to one side (Open-Athena 2026); a cubic follows the lean, and
the noise too: on simulated valleys of nine runs with 0.2 % noise its exponents scatter 1.5 to 5 times as much.
So the degree is chosen by leaving each run out, over all budgets together.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np

from scaletut.scaling.fit import LEVEL, Interval
from scaletut.scaling.jets import Array
from scaletut.scaling.notes import Note
from scaletut.scaling.table import RunTable, TableError, as_table

Method = Literal["auto", "cubic", "quadratic"]
Status = Literal["ok", "edge", "not_convex", "few_runs"]
SAME_BUDGET = 0.1  # e-folds of compute within which runs share a budget
FEWEST = {3: 6, 2: 4}  # by degree: runs a valley needs, one or more beyond its coefficients
OUTLIER = 6.0  # robust standard deviations from the valley that the other runs draw
CLEARLY = 0.7  # of the parabola's left-out square error, below which the cubic's is no luck
DRAWS = 400


@dataclass(frozen=True)
class Valley:
    """The runs of one budget and the curve through them.

    flops: FLOP, the runs' geometric mean. params, loss: of the runs (n,), by size. kept: which of them the curve uses
    (n,). best_params, best_loss: at the lowest point; nan unless `status` is "ok". degree: of the polynomial.
    curve: its coefficients in log N - `centre`, highest power first.
    """

    flops: float
    params: Array
    loss: Array
    kept: Array
    status: Status
    degree: int
    centre: float
    curve: Array
    best_params: float
    best_loss: float

    def predict(self, params: Array) -> Array:
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
            valley.update({name: np.asarray(valley[name]).tolist() for name in ("params", "loss", "kept", "curve")})
            valley.update({name: None for name in ("best_params", "best_loss") if np.isnan(valley[name])})
        return plain


def isoflop(
    table: Any, *, method: Method = "auto", level: float = LEVEL, seed: int = 0, **reading: Any
) -> IsoFlop:
    """Find the lowest point of each budget's valley, and the power law of those points.

    table: with params and flops; see `as_table` for `reading` (columns, cost). Budgets are runs within 0.1 e-folds of
    compute. A lowest point at the edge of its runs, a valley that is no valley, or too few runs: the budget is left
    out and a note says so. A run far from the curve that the others draw is left out of it, with a note.

    Raises TableError when fewer than two budgets have a lowest point.
    """
    if method not in ("auto", "cubic", "quadratic"):
        raise TableError(f"unknown method {method!r}; it is auto, cubic or quadratic")
    runs = as_table(table, **reading)
    budgets = _budgets(runs)
    parts = [runs.take(rows) for rows in budgets]
    degree = {"cubic": 3, "quadratic": 2}.get(method) or _degree(parts)
    valleys = tuple(_valley(part, degree) for part in parts)
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


def _budgets(runs: RunTable) -> list[Array]:
    """Row numbers of each budget, cheapest first."""
    flops = np.log(runs.column("flops"))
    runs.column("params")
    order = np.argsort(flops, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(flops[order]) > SAME_BUDGET) + 1)


def _degree(parts: list[RunTable]) -> int:
    """3 when a cubic predicts left-out inner runs better than a parabola, over all budgets that can tell; else 2."""
    errors = {2: 0.0, 3: 0.0}
    for part in parts:
        x, loss = np.log(part.column("params")), part.loss
        if len(np.unique(x)) > FEWEST[3]:
            order = np.argsort(x, kind="stable")
            for degree in errors:
                misses = _left_out(x[order] - x.mean(), loss[order], degree)[1:-1]
                errors[degree] += float(np.sum((misses / loss.min()) ** 2))
    return 3 if errors[3] < CLEARLY * errors[2] else 2


def _left_out(x: Array, loss: Array, degree: int) -> Array:
    """loss - curve of the others (n,), for each run."""
    rows = np.arange(len(x))
    return np.array([loss[i] - np.polyval(np.polyfit(x[rows != i], loss[rows != i], degree), x[i]) for i in rows])


def _valley(runs: RunTable, wanted: int) -> Valley:
    order = np.argsort(runs.column("params"), kind="stable")
    params, loss = runs.column("params")[order], runs.loss[order]
    flops = float(np.exp(np.log(runs.column("flops")).mean()))
    x = np.log(params)
    centre = float(x[np.argmin(loss)])
    kept = np.ones(len(loss), dtype=bool)
    empty = Valley(flops, params, loss, kept, "few_runs", 0, centre, np.zeros(1), np.nan, np.nan)
    sizes = len(np.unique(params))
    degree = wanted if sizes >= FEWEST[wanted] else 2
    if sizes < FEWEST[2]:
        return empty
    kept = _without_outlier(x - centre, loss, degree)
    curve = np.polyfit(x[kept] - centre, loss[kept], degree)
    found = replace(empty, kept=kept, degree=degree, curve=curve, status="not_convex")
    lowest = _lowest(curve, x[kept] - centre)
    if np.isnan(lowest):
        ends = np.polyval(curve, [x[kept].min() - centre, x[kept].max() - centre])
        inside = np.polyval(curve, np.linspace(x[kept].min(), x[kept].max(), 50)[1:-1] - centre)
        return replace(found, status="edge" if inside.min() >= ends.min() else "not_convex")
    if np.argmin(loss[kept]) in (0, kept.sum() - 1):
        return replace(found, status="edge")
    return replace(
        found, status="ok", best_params=float(np.exp(centre + lowest)), best_loss=float(np.polyval(curve, lowest))
    )


def _lowest(curve: Array, x: Array) -> float:
    """The polynomial's local minimum between the outermost runs; nan where it has none."""
    roots = np.roots(np.polyder(curve))
    real = np.sort(roots[np.abs(roots.imag) < 1e-9].real)
    bend = np.polyval(np.polyder(curve, 2), real)
    inside = real[(bend > 0) & (real > x.min()) & (real < x.max())]
    return float(inside[0]) if inside.size else np.nan


def _without_outlier(x: Array, loss: Array, degree: int) -> Array:
    """Mask (n,) that drops the one run that the others' curve misses by far, if there is one and runs to spare."""
    kept = np.ones(len(x), dtype=bool)
    if len(x) < degree + 4:
        return kept
    misses = _left_out(x, loss, degree)
    inner = np.sort(np.abs(misses[1:-1]))  # at the ends a curve extrapolates, and misses by nature
    scale = max(1.4826 * float(np.median(inner)), 1e-12)
    worst = 1 + int(np.argmax(np.abs(misses[1:-1])))
    if abs(misses[worst]) > OUTLIER * scale and inner[-2] < OUTLIER * scale:
        kept[worst] = False
    return kept


def _draws(valleys: list[Valley], flops: Array, generator: np.random.Generator) -> Array:
    """Exponents of N (draws,) when each valley's residuals are resampled onto its curve."""
    best = np.empty((DRAWS, len(valleys)))
    for number, valley in enumerate(valleys):
        x = np.log(valley.params[valley.kept]) - valley.centre
        curve = np.polyval(valley.curve, x)
        wider = np.sqrt(len(x) / max(len(x) - valley.degree - 1, 1))
        residuals = wider * (valley.loss[valley.kept] - curve)
        solve = np.linalg.pinv(np.vander(x, valley.degree + 1))
        losses = curve + generator.choice(residuals, size=(DRAWS, len(x)))
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
        for params in valley.params[~valley.kept]:
            text = f"the run of {params:.3g} parameters at {valley.flops:.3g} FLOP lies far from its valley; left out"
            found.append(Note("outlier", "warning", text))
    return found
