"""Which law to believe: the one that predicts the larger runs from the smaller ones.

Roll-out back-test: hide the largest runs, fit the rest, compare; once for each horizon. The refits are rows of 0/1
weights in one batched call. BIC stands beside it, for what it says about the runs that were fitted.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from scaletut.scaling.accounting import Counted, recount
from scaletut.scaling.combine import Combination, drift_of, shares
from scaletut.scaling.fitting import Fit, Loss, Prepared, default_x, fit, law_named, prepare, solve
from scaletut.scaling.forecast import forecast
from scaletut.scaling.newton import Solution, minimise
from scaletut.scaling.table import RunTable, TableError, as_table

ONE_VARIABLE = ("power", "power_floor", "shifted", "saturating", "broken")
TWO_VARIABLES = ("additive", "additive_tied", "kaplan", "product", "rosenfeld")
# Shares of the runs, the largest ones, that a rolling back-test hides: not half of them, for the beginning of a curve
# says little about its end.
HORIZONS = (0.15, 0.25, 0.35)
STARTS, STEPS = 6, 25  # a law that needs more to be fitted is not one to extrapolate with
GAIN = 1e-6  # of the objective: a step that wins less moves no prediction that a back-test could tell
DRAWS = 2000
LEVEL = 0.95
BAND = 0.9
# Protocols: D / N below which a run ends before the regime of the law (20: about the optimum of Hoffmann et al. 2022).
LEAST_RATIOS = (0.0, 10.0, 20.0)
LOSSES: tuple[tuple[Loss, float], ...] = (("squared", 1.0), ("huber", 1e-2), ("huber", 1e-3))
EARLY = 0.05
FEWEST_SIZES = 4


@dataclass(frozen=True)
class Backtest:
    """How well laws predicted runs that they had not seen.

    rmse: root mean square of log predicted - log observed over all hidden runs, by law; infinite where a fit failed.
    errors: those log errors (m,), by law, in the same order of hidden runs. hidden: largest share, or number, hidden.
    differences: of each law's mean square error to the best one's: mean, low, high over a paired bootstrap of hidden
    runs. bic: of the fit to all runs, under errors with density ~ exp(-c huber). best: name of the lowest rmse.
    beyond: e-folds of size between each hidden run and the largest seen (m,). horizon: number of its hold-out (m,).
    combined: rmse of all laws together, each horizon weighted by the others' errors; infinite with one law or horizon.
    """

    laws: tuple[str, ...]
    best: str
    rmse: Mapping[str, float]
    errors: Mapping[str, np.ndarray]
    differences: Mapping[str, tuple[float, float, float]]
    bic: Mapping[str, float]
    refused: Mapping[str, str]
    hold_out: str
    beyond: np.ndarray
    horizon: np.ndarray
    combined: float

    @property
    def weights(self) -> dict[str, float]:
        """Share of each law in a combination, by its error (see `combine`); of the best alone where that is better."""
        if self.combined < self.rmse[self.best]:
            return shares({name: value**2 for name, value in self.rmse.items()})
        return {self.best: 1.0}

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON: numbers that are not finite become None."""
        finite = {name: value if np.isfinite(value) else None for name, value in self.rmse.items()}
        return {
            "laws": list(self.laws), "best": self.best, "hold_out": self.hold_out, "rmse": finite,
            "differences": {
                name: dict(zip(("mean", "low", "high"), found, strict=True)) for name, found in self.differences.items()
            },
            "bic": dict(self.bic), "refused": dict(self.refused),
            "combined": self.combined if np.isfinite(self.combined) else None, "weights": self.weights,
            "errors": {name: errors.tolist() for name, errors in self.errors.items()},
        }  # fmt: skip


def backtest(
    table: Any, laws: Sequence[str] = (), *, hold_out: str = "rolling", loss: Loss = "huber", delta: float = 1e-3,
    x: str = "", seed: int = 0, **reading: Any,
) -> Backtest:  # fmt: skip
    """Compare laws by how they predict the largest runs.

    laws: names; by default those that fit the table's columns. hold_out: "largest:K" hides the K largest runs,
    "largest:K,L" first the K, then the L largest ones, "rolling" growing shares of them.
    Large means compute, N x D, or x, whichever the table varies.

    Raises TableError for an unknown law, a K that leaves too few runs, or when no law can be fitted.
    """
    runs = as_table(table, **reading)
    x = x or default_x(runs)
    names = tuple(laws) or candidates(runs)
    size = _size(runs, x)
    masks = _masks(size, hold_out)
    errors, bic, refused = {}, {}, {}
    for name in names:
        law_named(name)
        try:
            ready = prepare(runs, name, loss=loss, delta=delta, x=x)
            errors[name], bic[name] = _hidden_errors(ready, masks, seed)
        except TableError as error:
            refused[name] = str(error)
    if not errors:
        raise TableError(f"no law could be compared: {next(iter(refused.values()))}")
    rmse = {name: _rms(found) for name, found in errors.items()}
    best = min(rmse, key=lambda name: rmse[name])
    groups = np.concatenate([np.flatnonzero(~mask) for mask in masks])
    beyond = np.concatenate([size[~mask] - size[mask].max() for mask in masks])
    horizon = np.concatenate([np.full(int((~mask).sum()), number) for number, mask in enumerate(masks)])
    differences = {name: _paired(errors[name], errors[best], groups, seed) for name in errors if name != best}
    combined = _combined(errors, horizon)
    return Backtest(
        tuple(errors), best, rmse, errors, differences, bic, refused, hold_out, beyond, horizon, combined
    )  # fmt: skip


def _combined(errors: Mapping[str, np.ndarray], horizon: np.ndarray) -> float:
    """Root mean square error of the laws' weighted mean, where the weights never saw the horizon that they predict."""
    finite = {name: found for name, found in errors.items() if np.isfinite(found).all()}
    if len(finite) < 2 or len(np.unique(horizon)) < 2:
        return np.inf
    found = np.empty(horizon.size)
    for number in np.unique(horizon):
        here = horizon == number
        weights = shares({name: float(np.mean(each[~here] ** 2)) for name, each in finite.items()})
        found[here] = sum(weights[name] * finite[name][here] for name in finite)
    return _rms(found)


def _rms(errors: np.ndarray) -> float:
    return float(np.sqrt(np.mean(errors**2))) if np.isfinite(errors).all() else np.inf


def candidates(runs: RunTable) -> tuple[str, ...]:
    """Laws that suit the table: in N and D where both vary, else in one variable."""
    both = all(column is not None and np.ptp(column) > 0 for column in (runs.params, runs.examples))
    return TWO_VARIABLES if both else ONE_VARIABLE


def _size(runs: RunTable, x: str) -> np.ndarray:
    if runs.params is not None and runs.examples is not None:
        return np.log(runs.params) + np.log(runs.examples)
    return np.log(runs.column(x))


def rolling(count: int) -> list[int]:
    """How many of `count` runs a rolling back-test hides, one number a horizon."""
    return sorted({max(1, round(share * count)) for share in HORIZONS})


def _masks(size: np.ndarray, hold_out: str) -> list[np.ndarray]:
    """Runs that may be seen (n,), one mask a horizon."""
    count = len(size)
    order = np.argsort(size, kind="stable")
    asked = re.fullmatch(r"largest:(\d+(?:,\d+)*)", hold_out)
    if asked:
        hidden = sorted({int(number) for number in asked[1].split(",")})
    elif hold_out == "rolling":
        hidden = rolling(count)
    else:
        raise TableError(f"unknown hold-out {hold_out!r}; it is rolling, or largest:K such as largest:5")
    if not 0 < hidden[0] <= hidden[-1] < count - 1:
        raise TableError(f"cannot hide {hidden[-1]} of {count} runs; hide at least 1 and leave at least 2")
    masks = []
    for number in hidden:
        mask = np.ones(count, dtype=bool)
        mask[order[count - number :]] = False
        masks.append(mask)
    return masks


def _hidden_errors(ready: Prepared, masks: list[np.ndarray], seed: int) -> tuple[np.ndarray, float]:
    """Log errors (m,) on the hidden runs of all masks, and BIC of the fit to all runs."""
    free = len(ready.problem.constraint.free)
    usable = [mask for mask in masks if mask.sum() > free]
    if len(usable) < len(masks):
        raise TableError(f"{ready.law.name} has {free} free parameters, too many for the runs left by the hold-out")
    full = solve(ready, starts=min(STARTS, ready.law.starts), seed=seed, steps=STEPS, gain=GAIN)
    best = int(np.argmin(full.objective))
    weights = ready.weights * np.array(masks)
    phi = _refits(ready, full, weights)
    residuals = ready.problem.residuals(phi)
    hidden = np.concatenate([row[~mask] for row, mask in zip(residuals, masks, strict=True)])
    return hidden, _bic(ready, float(full.objective[best]), free)


def _refits(ready: Prepared, full: Solution, weights: np.ndarray) -> np.ndarray:
    """phi (b, f) of fits under each row of weights, the best from the two lowest points that the full fit found."""
    starts = full.phi[np.argsort(full.objective)[:2]]
    both = np.repeat(weights, len(starts), axis=0)
    found = minimise(ready.problem, np.tile(starts, (len(weights), 1)), both, steps=STEPS, gain=GAIN)
    objective = found.objective.reshape(len(weights), len(starts))
    phi = found.phi.reshape(len(weights), len(starts), -1)
    return phi[np.arange(len(weights)), objective.argmin(1)]


def _bic(ready: Prepared, objective: float, free: int) -> float:
    from scaletut.scaling.uncertainty import log_likelihood

    runs = float(ready.weights.sum())
    return -2 * runs * log_likelihood(objective / runs, ready.problem.delta) + (free + 1) * float(np.log(runs))


def _paired(errors: np.ndarray, best: np.ndarray, groups: np.ndarray, seed: int) -> tuple[float, float, float]:
    """Mean and 95 % interval of the difference of squared errors, by resampling hidden runs (a run is one group)."""
    labels, rows = np.unique(groups, return_inverse=True)
    difference = np.bincount(rows, errors**2 - best**2) / np.bincount(rows)
    picked = np.random.default_rng(seed).integers(0, len(labels), size=(DRAWS, len(labels)))
    low, high = np.nanquantile(difference[picked].mean(1), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(difference.mean()), float(low), float(high)


def why_best(found: Backtest) -> str:
    """The reason for the best law, in one sentence."""
    others = [name for name in found.rmse if name != found.best]
    why = f"{found.best} predicted the largest runs best (error {found.rmse[found.best]:.2%} of the loss"
    if others:
        second = min(others, key=lambda name: found.rmse[name])
        sure = found.differences[second][1] > 0
        why += f"; next {second}, {found.rmse[second]:.2%}, {'a sure' if sure else 'not a sure'} difference"
    if len(found.weights) > 1:
        why += f"; all together {found.combined:.2%}, so they predict together"
    return why + ")"


def combination(runs: RunTable, found: Backtest, *, loss: Loss, delta: float, seed: int) -> Combination:
    """The laws that a back-test weighs, fitted to all runs, with the band that its misses set."""
    parameters, errors, noise = {}, np.zeros(found.beyond.size), 0.0
    for name, weight in found.weights.items():
        ready = prepare(runs, name, loss=loss, delta=delta)
        solution = solve(ready, starts=min(STARTS, ready.law.starts), seed=seed)
        phi = solution.phi[[int(np.argmin(solution.objective))]]
        parameters[name] = dict(zip(ready.law.names, map(float, ready.public(phi)[0]), strict=True))
        errors = errors + weight * found.errors[name]
        spare = max(len(runs) - phi.shape[1], 1)
        noise += weight * float(np.sqrt(np.sum(ready.problem.residuals(phi)[0] ** 2) / spare))
    horizons = len(np.unique(found.horizon))
    drift = drift_of(errors, found.beyond, noise, horizons)
    edge = float(_size(runs, "").max())
    return Combination(found.weights, parameters, edge, noise, drift, horizons)


# --- protocols: not only the law ---------------------------------------------------------


@dataclass(frozen=True)
class Protocol:
    """How a law in N and D is fitted: what besides the law decides the answer (Li et al. 2025).

    least_ratio: runs with fewer examples a parameter are left out of the fit. late: weights that rise with log N x D
    from EARLY to 1. counting: of N, where the table has embedding_params; "unstated" as it stands.
    """

    law: str
    loss: Loss = "huber"
    delta: float = 1e-3
    least_ratio: float = 0.0
    late: bool = False
    counting: Counted = "unstated"

    def table(self, runs: RunTable) -> RunTable:
        """The runs, counted as the protocol does."""
        return runs if self.counting == "unstated" else recount(runs, self.counting)

    def weights(self, runs: RunTable) -> np.ndarray:
        """Weight of each run (n,), times the table's own."""
        size = _size(runs, "")
        found = (
            EARLY + (1 - EARLY) * (size - size.min()) / max(np.ptp(size), 1e-12) if self.late else np.ones(len(runs))
        )
        found = found * (_ratio(runs) >= self.least_ratio)
        return found if runs.weight is None else found * runs.weight

    def fit(self, runs: RunTable, **options: Any) -> Fit:
        """The law, fitted so. options: as of `fit` (bootstrap, seed, ...)."""
        counted = self.table(runs)
        chosen = self.weights(counted)
        kept = counted.take(chosen > 0)
        return fit(kept, self.law, loss=self.loss, delta=self.delta, weights=chosen[chosen > 0], **options)


@dataclass(frozen=True)
class ProtocolChoice:
    """The protocol whose fits to smaller models predicted the larger ones best, and the error of all, in log loss.

    rmse: by protocol, over all tables, horizons and hidden runs, from lowest to highest. hidden: sizes hidden, by
    horizon.
    """

    best: Protocol
    rmse: Mapping[Protocol, float]
    hidden: tuple[int, ...]


def protocols(runs: RunTable) -> tuple[Protocol, ...]:
    """The candidates for a table: every combination of the usual choices that its columns allow."""
    ratios = [least for least in LEAST_RATIOS if least == 0 or np.sum(_ratio(runs) >= least) >= len(runs) / 2]
    countings: tuple[Counted, ...] = ("unstated",)
    if runs.embedding_params is not None:
        countings = ("all", "without_embeddings")
    return tuple(
        Protocol(law, loss, delta, least, late, counting)
        for law, (loss, delta), least, late, counting in itertools.product(
            ("additive", "additive_tied", "kaplan"), LOSSES, ratios, (False, True), countings
        )
    )


def choose_protocol(
    tables: RunTable | Sequence[RunTable], candidates: Sequence[Protocol] = (), *, seed: int = 0
) -> ProtocolChoice:
    """Choose a fit's protocol by roll-out over model sizes: hide the largest size, the two largest, to half of them.

    tables: the runs; or several tables of the same runs with losses on other validation sets, judged together, for the
    choice among so many candidates on a handful of sizes is else decided by the noise of one loss. All hidden runs
    count, for every protocol alike, also those that it would leave out of its own fit.

    Raises TableError for tables without params and examples, with fewer than four sizes, or when no protocol can be
    fitted at all horizons.
    """
    given = [tables] if isinstance(tables, RunTable) else list(tables)
    names = tuple(candidates) or protocols(given[0])
    sizes = np.unique(given[0].column("params"))
    given[0].column("examples")
    if len(sizes) < FEWEST_SIZES:
        raise TableError(f"the table has {len(sizes)} model sizes; a roll-out over sizes needs {FEWEST_SIZES}")
    hidden = tuple(range(1, len(sizes) // 2 + 1))
    seen = [given[0].column("params") < sizes[-count] for count in hidden]
    squares: dict[Protocol, list[float]] = {}
    for group in _alike(names):
        try:
            found = [_roll_out(runs, group, seen, seed) for runs in given]
        except TableError:
            continue
        for protocol, errors in zip(group, np.swapaxes(found, 0, 1), strict=True):
            squares[protocol] = errors.tolist()
    rmse = {protocol: float(np.sqrt(np.mean(found))) for protocol, found in squares.items() if np.isfinite(found).all()}
    if not rmse:
        raise TableError("no protocol could be fitted when the largest sizes were hidden; add runs or sizes")
    ordered = dict(sorted(rmse.items(), key=lambda item: item[1]))
    return ProtocolChoice(next(iter(ordered)), ordered, hidden)


def _alike(names: Sequence[Protocol]) -> list[list[Protocol]]:
    """Protocols that differ in weights alone, together: they are one batch of fits."""
    groups: dict[tuple[Any, ...], list[Protocol]] = {}
    for name in names:
        groups.setdefault((name.law, name.loss, name.delta, name.counting), []).append(name)
    return list(groups.values())


def _roll_out(runs: RunTable, group: Sequence[Protocol], seen: Sequence[np.ndarray], seed: int) -> np.ndarray:
    """Mean square log error (protocols, horizons) on the hidden runs."""
    first = group[0]
    counted = first.table(runs)
    ready = prepare(counted, first.law, loss=first.loss, delta=first.delta)
    weights = np.array([protocol.weights(counted) * mask for protocol in group for mask in seen])
    if ((weights > 0).sum(axis=1) <= len(ready.problem.constraint.free)).any():
        raise TableError(f"too few runs are left for {first.law!r} when the largest sizes are hidden")
    full = solve(ready, starts=STARTS, seed=seed, steps=STEPS, gain=GAIN)
    residuals = ready.problem.residuals(_refits(ready, full, weights)).reshape(len(group), len(seen), -1)
    return np.array([[np.mean(row[~mask] ** 2) for row, mask in zip(part, seen, strict=True)] for part in residuals])


def _ratio(runs: RunTable) -> np.ndarray:
    return runs.column("examples") / runs.column("params")


# --- extrapolation of a curve ----------------------------------------------------------


@dataclass(frozen=True)
class Extrapolation:
    """A curve's predicted losses (n,), with the low and high ends (n,) of a 90 % band for a new run's loss there."""

    loss: np.ndarray
    low: np.ndarray
    high: np.ndarray


def extrapolate(curve: Any, at: np.ndarray, *, x: str = "", seed: int = 0, **reading: Any) -> Extrapolation:
    """Predict the loss of a learning curve at larger scales `at` (n,), by the average over many curves: `forecast`.

    curve: as `as_table` takes it, three runs of different scale or more; x: its column, by default the one that varies.
    Raises TableError for a shorter curve, or scales that are not finite and above 0.
    """
    runs = as_table(curve, **reading)
    at = np.atleast_1d(np.asarray(at, dtype=float))
    if not (np.isfinite(at).all() and (at > 0).all()):
        raise TableError("the scales to extrapolate to must be finite and above 0; check for zeros and blanks")
    found = forecast(runs.column(x or default_x(runs)), runs.loss, seed=seed)
    low, high = found.interval(at, BAND, seed=seed)
    return Extrapolation(found.predict(at), low, high)
