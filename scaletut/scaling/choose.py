"""Which law to believe: the one that predicts the larger runs from the smaller ones.

Roll-out back-test: hide the largest runs, fit the rest, compare; once for each horizon. The refits are rows of 0/1
weights in one batched call. BIC stands beside it, for what it says about the runs that were fitted.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from scaletut.scaling.fitting import Loss, Prepared, default_x, law_named, prepare, solve
from scaletut.scaling.forecast import forecast
from scaletut.scaling.newton import Solution, minimise
from scaletut.scaling.table import RunTable, TableError, as_table

ONE_VARIABLE = ("power", "power_floor", "shifted", "saturating", "broken")
TWO_VARIABLES = ("additive", "additive_tied", "kaplan", "product")
# Shares of the runs, the largest ones, that a rolling back-test hides: not half of them, for the beginning of a curve
# says little about its end.
HORIZONS = (0.15, 0.25, 0.35)
STARTS, STEPS = 6, 25  # a law that needs more to be fitted is not one to extrapolate with
GAIN = 1e-6  # of the objective: a step that wins less moves no prediction that a back-test could tell
DRAWS = 2000
LEVEL = 0.95
BAND = 0.9


@dataclass(frozen=True)
class Backtest:
    """How well laws predicted runs that they had not seen.

    rmse: root mean square of log predicted - log observed over all hidden runs, by law; infinite where a fit failed.
    errors: those log errors (m,), by law, in the same order of hidden runs. hidden: largest share, or number, hidden.
    differences: of each law's mean square error to the best one's: mean, low, high over a paired bootstrap of hidden
    runs. bic: of the fit to all runs, under errors with density ~ exp(-c huber). best: name of the lowest rmse.
    """

    laws: tuple[str, ...]
    best: str
    rmse: Mapping[str, float]
    errors: Mapping[str, np.ndarray]
    differences: Mapping[str, tuple[float, float, float]]
    bic: Mapping[str, float]
    refused: Mapping[str, str]
    hold_out: str

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON: numbers that are not finite become None."""
        finite = {name: value if np.isfinite(value) else None for name, value in self.rmse.items()}
        return {
            "laws": list(self.laws), "best": self.best, "hold_out": self.hold_out, "rmse": finite,
            "differences": {
                name: dict(zip(("mean", "low", "high"), found, strict=True)) for name, found in self.differences.items()
            },
            "bic": dict(self.bic), "refused": dict(self.refused),
            "errors": {name: errors.tolist() for name, errors in self.errors.items()},
        }  # fmt: skip


def backtest(
    table: Any, laws: Sequence[str] = (), *, hold_out: str = "rolling", loss: Loss = "huber", delta: float = 1e-3,
    x: str = "", seed: int = 0, **reading: Any,
) -> Backtest:  # fmt: skip
    """Compare laws by how they predict the largest runs.

    laws: names; by default those that fit the table's columns. hold_out: "largest:K" hides the K largest runs once,
    "rolling" hides growing shares of them. Large means compute, N x D, or x, whichever the table varies.

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
    differences = {name: _paired(errors[name], errors[best], groups, seed) for name in errors if name != best}
    return Backtest(tuple(errors), best, rmse, errors, differences, bic, refused, hold_out)


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


def _masks(size: np.ndarray, hold_out: str) -> list[np.ndarray]:
    """Runs that may be seen (n,), one mask a horizon."""
    count = len(size)
    order = np.argsort(size, kind="stable")
    asked = re.fullmatch(r"largest:(\d+)", hold_out)
    if asked:
        hidden = [int(asked[1])]
    elif hold_out == "rolling":
        hidden = sorted({max(1, round(share * count)) for share in HORIZONS})
    else:
        raise TableError(f"unknown hold-out {hold_out!r}; it is rolling, or largest:K such as largest:5")
    if not 0 < hidden[0] < count - 1:
        raise TableError(f"cannot hide {hidden[0]} of {count} runs; hide at least 1 and leave at least 2")
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


def choose_law(
    table: RunTable, *, loss: Loss = "huber", delta: float = 1e-3, x: str = "", seed: int = 0
) -> tuple[str, str]:
    """Name of the law that predicts the table's own larger runs best, and the reason in one sentence."""
    found = backtest(table, loss=loss, delta=delta, x=x, seed=seed)
    others = [name for name in found.rmse if name != found.best]
    why = f"{found.best} predicted the largest runs best (error {found.rmse[found.best]:.2%} of the loss"
    if others:
        second = min(others, key=lambda name: found.rmse[name])
        sure = found.differences[second][1] > 0
        why += f"; next {second}, {found.rmse[second]:.2%}, {'a sure' if sure else 'not a sure'} difference"
    return found.best, why + ")"


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
