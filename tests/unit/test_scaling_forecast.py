"""The forecast of a curve: near to the truth, sure of itself as it should be, and never wild."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scaling_cases import TRUTH, table_for

from scaletut.scaling import Fit, Forecast, TableError, extrapolate, fit, forecast, simulate
from scaletut.scaling.forecast import log_shape

pytestmark = pytest.mark.filterwarnings("error")


def test_no_break_is_a_power_on_a_floor() -> None:
    """With the break's normal variable near 0 the shape is E + A x^-alpha exactly, whatever the break's place."""
    distance = np.linspace(-5, 3, 30)
    normal = np.array([[1.2, -0.4, 0.2, 0.9, -1.0]])
    level = np.exp(log_shape(normal, distance, 5.0)[0])
    alpha = 0.6 * np.exp(0.9 * -0.4)
    floor = np.linalg.lstsq(np.stack([np.ones(30), np.exp(-alpha * distance)], 1), level, rcond=None)
    assert floor[1][0] < 1e-20
    assert floor[0].sum() == pytest.approx(1)
    assert floor[0].min() > 0


LAWS = ("power_floor", "shifted", "saturating", "broken")


def test_bands_hold_the_truth_and_widen() -> None:
    held = []
    for law, seed in itertools.product(LAWS, range(6)):
        curve = table_for(law, scale=0.01, seed=seed)
        seen = curve.examples < 1e5
        found = forecast(curve.examples[seen], curve.loss[seen], draws=500, seed=seed)
        low, high = found.interval(curve.examples[~seen], 0.9)
        held.append(np.mean((low <= curve.loss[~seen]) & (curve.loss[~seen] <= high)))
        assert np.log(high / low)[-1] > np.log(high / low)[0]
        inner = found.interval(curve.examples[~seen], 0.9, noise=False)
        assert np.log(inner[1] / inner[0]).mean() < np.log(high / low).mean()
    assert 0.75 < np.mean(held) < 1


def test_nearer_than_the_law_that_the_back_test_chose() -> None:
    ours, theirs = [], []
    for law, seed in itertools.product(LAWS, range(2)):
        curve = simulate(law, TRUTH[law], {"x": np.geomspace(30, 1e6, 24)}, noise="normal", scale=0.02, seed=seed)
        half = np.arange(24) < 12
        found, hidden = fit(curve.take(half)), curve.take(~half)
        ours.append(np.sqrt(np.mean(np.log(found.predict(hidden) / hidden.loss) ** 2)))
        alone = found.draws(hidden, found.vector[None])[0]
        theirs.append(np.sqrt(np.mean(np.log(alone / hidden.loss) ** 2)))
    assert np.mean(ours) < 0.75 * np.mean(theirs)


def test_nothing_wild_far_out_on_flat_noisy_or_short_curves() -> None:
    generator = np.random.default_rng(0)
    x = np.geomspace(10, 1e3, 8)
    for loss in (
        0.9 * np.exp(0.01 * generator.normal(size=8)),  # chance level
        np.full(8, 2.0),
        np.geomspace(1.0, 0.9, 8),
        np.linspace(0.5, 0.6, 8),  # it rises
        x**-1.0,
    ):
        found = extrapolate({"examples": x, "loss": loss}, np.array([1e4, 1e6]))
        assert np.all(found.loss <= 1.1 * loss.max())
        assert np.all(found.loss > 0.2 * loss[-1] * (np.array([1e4, 1e6]) / 1e3) ** -1.2)
        assert np.all((found.low <= found.loss) & (found.loss <= found.high))


def test_auto_on_a_curve_predicts_by_its_forecast_also_from_json() -> None:
    curve = table_for("power_floor", scale=0.01, seed=2)
    found = fit(curve)
    at = np.geomspace(1e6, 1e8, 5)
    expected = extrapolate(curve, at)
    assert found.predict(at) == pytest.approx(expected.loss)
    assert np.stack(found.band(at)) == pytest.approx(np.stack([expected.low, expected.high]))
    again = Fit.from_json(found.to_json())
    assert again.predict(at) == pytest.approx(expected.loss, rel=1e-4)
    assert np.stack(again.interval(at, 0.9)) == pytest.approx(np.stack(found.interval(at, 0.9)), rel=1e-4)
    assert fit(curve, "power_floor").forecast is None


def test_seed_decides_and_short_curves_are_refused() -> None:
    curve = table_for("shifted", scale=0.01)
    one, same, other = (forecast(curve.examples, curve.loss, draws=200, seed=seed) for seed in (1, 1, 2))
    assert isinstance(one, Forecast)
    assert np.array_equal(one.draws, same.draws)
    assert not np.array_equal(one.draws, other.draws)
    with pytest.raises(TableError, match="at least 3 runs of different scale"):
        extrapolate({"examples": [1.0, 1.0, 2.0], "loss": [3.0, 3.1, 2.0]}, np.array([4.0]))
    with pytest.raises(TableError, match="finite and above 0"):
        extrapolate(curve, np.array([0.0]))
