"""Predictions of runs that were not made yet, to be printed before they are, and the verdict after.

The law is chosen by back-test, the band is as wide as the back-test's misses say (`combine`).
Accuracy follows from loss: its logit is taken as a straight line in log loss over the runs that were made.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from scaletut.scaling.choose import Backtest, backtest, combination, rolling, why_best
from scaletut.scaling.fitting import Loss
from scaletut.scaling.table import RunTable, TableError, as_table

LEVELS = (0.8, 0.95)
Ends = tuple[float, float]


@dataclass(frozen=True)
class Prediction:
    """Of one run: its size, and the loss (nats) and accuracy (0..1) that it will have.

    Intervals are by level, as text: "80" and "95" percent. `accuracy` is None where the runs told none.
    """

    params: float
    examples: float
    loss: float
    loss_intervals: Mapping[str, Ends]
    accuracy: float | None = None
    accuracy_intervals: Mapping[str, Ends] | None = None


@dataclass(frozen=True)
class Predictions:
    """Predictions, and what they rest on: laws with their weights and values, why these, digest and count of the runs.

    least_examples: runs with fewer were left out. runs, runs_digest: of those that were fitted.
    most_flops: the largest compute of these, 0 where the table does not tell.
    """

    rows: tuple[Prediction, ...]
    law: Mapping[str, Any]
    why: str
    least_examples: float
    runs: int
    runs_digest: str
    most_flops: float

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Predictions:
        """The inverse of `to_dict`, also after JSON made lists of the pairs."""
        rows = [Prediction(**{name: _pairs(value) for name, value in row.items()}) for row in values["rows"]]
        return cls(**{**values, "rows": tuple(rows)})


@dataclass(frozen=True)
class Verdict:
    """What became of one prediction.

    loss_miss: observed - predicted, as a share of the predicted loss; accuracy_miss: in accuracy, or None.
    loss_held, accuracy_held: by level, whether the observation lies within the interval.
    """

    prediction: Prediction
    loss: float
    loss_miss: float
    loss_held: Mapping[str, bool]
    accuracy: float | None = None
    accuracy_miss: float | None = None
    accuracy_held: Mapping[str, bool] | None = None


def predict_runs(
    table: Any,
    at: Mapping[str, Any],
    *,
    accuracy: Any = None,
    laws: Sequence[str] = (),
    least_examples: Sequence[float] = (0.0,),
    loss: Loss = "huber",
    delta: float = 1e-2,
    seed: int = 0,
    **reading: Any,
) -> Predictions:
    """Predict runs of `at["params"]` and `at["examples"]` (n,) from those of `table`.

    table: as `as_table` takes it, with params, examples and loss; accuracy: of its runs, 0..1 (m,), in the same order.
    laws: to choose among, by default all in N and D. least_examples: to choose among too: runs with fewer examples,
    which may end before the regime of any law, are left out of the fit. Both choices are the back-test's.
    loss, delta: of the fits, in log loss; a percent by default, about the scatter of small networks between seeds.

    Raises TableError for a table that no law fits, or an accuracy that is not one number from 0 to 1 a run.
    """
    runs = as_table(table, **reading)
    sizes = {name: np.atleast_1d(np.asarray(at[name], dtype=float)) for name in ("params", "examples")}
    ahead = None if accuracy is None else _accuracy_line(runs.loss, np.asarray(accuracy, dtype=float))
    least, found = _best_start(runs, least_examples, laws, loss=loss, delta=delta, seed=seed)
    runs = runs.take(runs.column("examples") >= least)
    law = combination(runs, found, loss=loss, delta=delta, seed=seed)
    central = law.predict(sizes)
    bands = {level: law.band(sizes, level) for level in LEVELS}
    rows = []
    for i, (params, examples) in enumerate(zip(*sizes.values(), strict=True)):
        ends = {level: (float(low[i]), float(high[i])) for level, (low, high) in bands.items()}
        row = Prediction(float(params), float(examples), float(central[i]), _named(ends))
        rows.append(row if ahead is None else ahead.complete(row, ends))
    cost = 0.0 if runs.flops is None else float(runs.flops.max())
    return Predictions(tuple(rows), law.to_dict(), why_best(found), float(least), len(runs), runs.digest, cost)


def _best_start(
    runs: RunTable, least_examples: Sequence[float], laws: Sequence[str], **options: Any
) -> tuple[float, Backtest]:
    """The cut whose back-test errs least, and that back-test; as many of the largest runs are hidden for each."""
    kept = {least: runs.take(runs.column("examples") >= least) for least in least_examples}
    hidden = ",".join(str(number) for number in rolling(min(len(table) for table in kept.values())))
    found = {least: backtest(table, laws, hold_out=f"largest:{hidden}", **options) for least, table in kept.items()}
    best = min(found, key=lambda least: min(found[least].rmse[found[least].best], found[least].combined))
    return best, found[best]


def verdicts(predictions: Sequence[Prediction], loss: Sequence[float], accuracy: Sequence[float] = ()) -> list[Verdict]:
    """One verdict a prediction; loss, accuracy: observed, in the same order."""
    result = []
    for i, row in enumerate(predictions):
        observed = float(loss[i])
        found = Verdict(row, observed, observed / row.loss - 1, _held(row.loss_intervals, observed))
        if len(accuracy) and row.accuracy is not None and row.accuracy_intervals is not None:
            right = float(accuracy[i])
            held = _held(row.accuracy_intervals, right)
            found = replace(found, accuracy=right, accuracy_miss=right - row.accuracy, accuracy_held=held)
        result.append(found)
    return result


def _held(intervals: Mapping[str, Ends], value: float) -> dict[str, bool]:
    return {level: low <= value <= high for level, (low, high) in intervals.items()}


# --- accuracy from loss ----------------------------------------------------------------


@dataclass(frozen=True)
class _AccuracyLine:
    """logit accuracy = intercept + slope × log loss, with the scatter of the runs about it."""

    intercept: float
    slope: float
    scatter: float
    freedom: int
    centre: float
    spread: float

    def complete(self, row: Prediction, ends: Mapping[float, Ends]) -> Prediction:
        """`row` with its accuracy: the loss's own interval and the line's scatter, added in squares."""
        from scipy.special import stdtrit

        log_loss = np.log(row.loss)
        middle = self.intercept + self.slope * log_loss
        own = self.scatter * np.sqrt(1 + ((log_loss - self.centre) / self.spread) ** 2)
        intervals = {}
        for level, (low, high) in ends.items():
            by_loss = abs(self.slope) * np.log(high / low) / 2
            width = np.hypot(by_loss, stdtrit(self.freedom, (1 + level) / 2) * own)
            intervals[level] = (_share(middle - width), _share(middle + width))
        return replace(row, accuracy=_share(middle), accuracy_intervals=_named(intervals))


def _accuracy_line(loss: np.ndarray, accuracy: np.ndarray) -> _AccuracyLine:
    if accuracy.shape != loss.shape or not ((accuracy > 0) & (accuracy < 1)).all():
        raise TableError(
            f"accuracy is {accuracy.shape} for {len(loss)} runs, or holds a number that is not between 0 and 1; "
            "give one share a run"
        )
    if len(loss) < 3:
        raise TableError("a line from loss to accuracy needs three runs; leave accuracy out or add runs")
    x, y = np.log(loss), np.log(accuracy / (1 - accuracy))
    slope, intercept = np.polyfit(x, y, 1)
    freedom = len(x) - 2
    scatter = float(np.sqrt(np.sum((y - intercept - slope * x) ** 2) / freedom))
    spread = float(np.sqrt(np.sum((x - x.mean()) ** 2)))
    return _AccuracyLine(float(intercept), float(slope), scatter, freedom, float(x.mean()), spread)


def _share(logit: float) -> float:
    return float(1 / (1 + np.exp(-logit)))


def _named(ends: Mapping[float, Ends]) -> dict[str, Ends]:
    return {f"{100 * level:.0f}": pair for level, pair in ends.items()}


def _pairs(value: Any) -> Any:
    return {level: tuple(pair) for level, pair in value.items()} if isinstance(value, dict) else value
