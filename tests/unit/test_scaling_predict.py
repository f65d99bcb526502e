"""Predictions before the runs: intervals that widen, a round trip through JSON, verdicts that tell misses."""

from __future__ import annotations

import json

import numpy as np
import pytest

from scaletut import scaling
from scaletut.scaling import Predictions, TableError, predict_runs, verdicts

TRUTH = {"E": 0.3, "A": 12.0, "alpha": 0.35, "B": 25.0, "beta": 0.4}
FAR = {"params": [3e6, 3e6], "examples": [3e4, 3e6]}


def runs(seed: int, noise: float = 0.01) -> scaling.RunTable:
    params, examples = (grid.ravel() for grid in np.meshgrid(np.geomspace(3e3, 3e5, 6), np.geomspace(500, 16000, 6)))
    where = {"params": params, "examples": examples}
    return scaling.simulate("additive", TRUTH, where, noise="normal", scale=noise, seed=seed)


def accuracy_of(loss: np.ndarray) -> np.ndarray:
    """A law of the tests' own: logit accuracy = 1 - 2 log loss."""
    return 1 / (1 + np.exp(-(1 - 2 * np.log(loss))))


def truth_at(at: dict[str, list[float]]) -> np.ndarray:
    n, d = (np.array(at[name]) for name in ("params", "examples"))
    return TRUTH["E"] + TRUTH["A"] * n ** -TRUTH["alpha"] + TRUTH["B"] * d ** -TRUTH["beta"]


def test_intervals_hold_the_truth_in_most_tables_and_widen_with_distance_and_level() -> None:
    held = []
    for seed in range(20):
        found = predict_runs(runs(seed), FAR)
        for row, true in zip(found.rows, truth_at(FAR), strict=True):
            low, high = row.loss_intervals["95"]
            held.append(low <= true <= high)
        near, far = (np.log(row.loss_intervals["95"][1] / row.loss_intervals["95"][0]) for row in found.rows)
        assert far > near
        narrow, wide = (found.rows[0].loss_intervals[level] for level in ("80", "95"))
        assert wide[0] < narrow[0] < narrow[1] < wide[1]
    assert np.mean(held) >= 0.85


def test_accuracy_follows_loss_by_its_logit() -> None:
    table = runs(0)
    found = predict_runs(table, FAR, accuracy=accuracy_of(table.loss))
    for row in found.rows:
        assert row.accuracy == pytest.approx(accuracy_of(np.array(row.loss)), abs=1e-6)
        low, high = row.accuracy_intervals["80"]
        assert low < row.accuracy < high


def test_predictions_survive_json_and_name_what_they_rest_on() -> None:
    table = runs(1)
    found = predict_runs(table, FAR, accuracy=accuracy_of(table.loss))
    again = Predictions.from_dict(json.loads(json.dumps(found.to_dict())))
    assert again.rows == found.rows
    assert again.runs_digest == table.digest
    assert again.runs == 36
    assert sum(found.law["weights"].values()) == pytest.approx(1)


def test_a_verdict_tells_the_miss_with_its_sign_and_what_held() -> None:
    (row, _) = predict_runs(runs(2), FAR, accuracy=accuracy_of(runs(2).loss)).rows
    right, wrong = verdicts([row, row], [row.loss, 1.5 * row.loss], [row.accuracy, row.accuracy - 0.3])
    assert right.loss_miss == 0
    assert all(right.loss_held.values())
    assert wrong.loss_miss == pytest.approx(0.5)
    assert not any(wrong.loss_held.values())
    assert wrong.accuracy_miss == pytest.approx(-0.3)
    assert not wrong.accuracy_held["80"]


def test_without_accuracy_none_is_predicted_or_judged() -> None:
    (row, _) = predict_runs(runs(2), FAR).rows
    assert row.accuracy is None
    assert verdicts([row], [row.loss], [0.5])[0].accuracy is None


@pytest.mark.parametrize("accuracy", [np.full(36, 1.2), np.full(5, 0.5), np.full(36, np.nan)])
def test_an_accuracy_that_is_none_is_refused(accuracy: np.ndarray) -> None:
    with pytest.raises(TableError, match="one share a run"):
        predict_runs(runs(0), FAR, accuracy=accuracy)
