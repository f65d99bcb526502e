"""IsoFLOP profiles: the best size at each budget without a law for the loss (Hoffmann et al. 2022, approach 2).

At each budget the loss is a valley in log N. A curve through all of a wide one is biased, for the walls of a valley
bend any polynomial, and more so where sizes do not move with the budget (Open-Athena 2026). So the curve is local: the
runs within REACH of the lowest point, or the seven nearest where that is fewer. Most published valleys lie within REACH
as a whole, and there every run counts: on simulated tables of their shapes (4 to 13 runs a budget, off centre, noise
of 0.1 to 0.5 %) seven runs alone made the error of the exponent up to two thirds larger. The parabola is robust, for
one diverged run in a valley of six moves its lowest point more than all noise; and it was off by less than a cubic on
all shapes (benchmarks/scaling_isoflop.py).
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
NEAREST = 7  # runs, at least, to draw a valley's curve through
REACH = 2.0  # e-folds of N to each side of the lowest point that a parabola follows
TUNING, ROUNDS = 2.0, 20  # Huber's: residuals beyond this many robust standard deviations pull no harder; reweightings
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

    exponent_params: a. exponent_examples: b, from valleys in log D where the table has examples, else 1 - a.
    intervals of both, from the valleys' resampled residuals.
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

    table: with flops and params, examples or both; see `as_table` for `reading` (columns, cost). Where one of the two
    is missing the other's valleys stand for it, since C ~ N D; a note says so. Budgets are runs within 0.1 e-folds of
    compute. A lowest point at the edge of its runs, a valley that is no valley, or too few runs: the budget is left
    out and a note says so. A run far from the curve that the others draw is left out of it, with a note.

    Raises TableError when fewer than two budgets have a lowest point.
    """
    if method not in DEGREES:
        raise TableError(f"unknown method {method!r}; it is quadratic or cubic")
    runs, notes = _with_params(as_table(table, **reading))
    found = _law(runs, method)
    notes += _notes(found.valleys)
    if len(found.good) < 2:
        told = "; ".join(note.text for note in notes) or "there is one budget"
        raise TableError(
            f"{len(found.good)} of {len(found.valleys)} budgets have a lowest point, a law needs two: {told}"
        )
    ends = [(1 - level) / 2, (1 + level) / 2]
    generator = np.random.default_rng(seed)
    low, high = np.quantile(_draws(found, generator), ends)
    by_params = Interval(level, float(low), float(high))
    slope, by_examples = 1 - found.slope, Interval(level, 1 - by_params.high, 1 - by_params.low)
    if not _mirrored(runs):
        mirror = _law(replace(runs, params=runs.column("examples")), method)
        if len(mirror.good) >= 2:
            slope = mirror.slope
            by_examples = Interval(level, *map(float, np.quantile(_draws(mirror, generator), ends)))
    return IsoFlop(
        found.valleys, found.slope, slope, float(np.exp(found.start)),
        {"exponent_params": by_params, "exponent_examples": by_examples}, tuple(notes),
    )  # fmt: skip


@dataclass(frozen=True)
class _Law:
    """Valleys, those with a lowest point, and the line through those: log N* = start + slope log C."""

    valleys: tuple[Valley, ...]
    good: tuple[Valley, ...]
    slope: float
    start: float

    @property
    def log_flops(self) -> np.ndarray:
        return np.log([valley.flops for valley in self.good])


def _law(runs: RunTable, method: Method) -> _Law:
    valleys = tuple(_valley(runs.take(rows), DEGREES[method]) for rows in _budgets(runs))
    good = tuple(valley for valley in valleys if valley.status == "ok")
    if len(good) < 2:
        return _Law(valleys, good, np.nan, np.nan)
    flops = np.log([valley.flops for valley in good])
    slope, start = np.polyfit(flops, np.log([valley.best_params for valley in good]), 1)
    return _Law(valleys, good, float(slope), float(start))


def _with_params(runs: RunTable) -> tuple[RunTable, list[Note]]:
    if runs.params is not None or runs.examples is None or runs.flops is None:
        return runs, []
    text = "the table has no params; they are taken as C / (6 D), which fixes both exponents but not the size itself"
    return replace(runs, params=runs.flops / (6 * runs.examples)), [Note("params_derived", "info", text)]


def _mirrored(runs: RunTable) -> bool:
    """Whether D says no more than C / N: then a valley in log D is the mirror image of the one in log N."""
    if runs.examples is None:
        return True
    return bool(np.ptp(np.log(runs.column("flops") / (runs.column("params") * runs.examples))) < 1e-6)


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
    curve = _robust(x[kept] - centre, loss[kept], degree)[0]
    lowest = float(_lowest(curve[None], x[kept] - centre)[0])
    if np.isfinite(lowest):  # once more, around that point
        kept = _nearest(x, usable, centre + lowest)
        curve = _robust(x[kept] - centre, loss[kept], degree)[0]
        lowest = float(_lowest(curve[None], x[kept] - centre)[0])
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
    """Mask (n,) of the usable runs within REACH of `centre`, and of the NEAREST: far walls bend any polynomial."""
    distance = np.where(usable, np.abs(x - centre), np.inf)
    return usable & (distance <= max(np.sort(distance)[min(NEAREST, int(usable.sum())) - 1], REACH))


def _robust(x: np.ndarray, loss: np.ndarray, degree: int) -> tuple[np.ndarray, np.ndarray]:
    """Polynomial (degree + 1,) by Huber's reweighted least squares, and its last weights (n,)."""
    weights = np.ones(len(x))
    spare = len(x) - degree - 1
    for _ in range(ROUNDS if spare > 1 else 1):
        curve = np.polyfit(x, loss, degree, w=np.sqrt(weights))
        rest = np.abs(loss - np.polyval(curve, x))
        scale = 1.4826 * np.median(rest) * np.sqrt(len(x) / max(spare, 1))
        weights = 1 / np.maximum(1.0, rest / max(TUNING * scale, 1e-15))
    return curve, weights


def _lowest(curves: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Local minimum (b,) of each polynomial (b, degree + 1) between the outermost runs; nan where it has none."""
    with np.errstate(all="ignore"):
        if curves.shape[1] == 3:
            second, first = curves[:, 0], curves[:, 1]
            lowest = np.where(second > 0, -first / (2 * second), np.nan)
        else:
            third, second, first = curves[:, 0], curves[:, 1], curves[:, 2]
            root = np.sqrt(second**2 - 3 * third * first)  # nan where the cubic only falls or only rises
            lowest = np.where(second > 0, -first / (second + root), (root - second) / (3 * third))
    return np.where((lowest > x.min()) & (lowest < x.max()), lowest, np.nan)


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


def _draws(law: _Law, generator: np.random.Generator) -> np.ndarray:
    """Exponents (draws,) when residuals, pooled over the valleys, are resampled onto the curves."""
    valleys, flops = law.good, law.log_flops
    positions = [np.log(valley.params[valley.kept]) - valley.centre for valley in valleys]
    curves = [np.polyval(valley.curve, x) for valley, x in zip(valleys, positions, strict=True)]
    residuals = [valley.loss[valley.kept] / curve - 1 for valley, curve in zip(valleys, curves, strict=True)]
    spare = sum(max(len(x) - valley.degree - 1, 0) for valley, x in zip(valleys, positions, strict=True))
    pooled = np.concatenate(residuals)
    pooled = pooled * np.sqrt(pooled.size / max(spare, 1))  # a curve takes up part of the noise
    best = np.empty((DRAWS, len(valleys)))
    for number, (valley, x, curve) in enumerate(zip(valleys, positions, curves, strict=True)):
        pull = np.sqrt(_robust(x, valley.loss[valley.kept], valley.degree)[1])
        solve = np.linalg.pinv(np.vander(x, valley.degree + 1) * pull[:, None])
        losses = curve * (1 + generator.choice(pooled, size=(DRAWS, len(x))))
        lowest = _lowest((losses * pull) @ solve.T, x)
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
