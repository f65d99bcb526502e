"""Every law: exact derivatives, and its own truth found again."""

from __future__ import annotations

import numpy as np
import pytest
from scaling_cases import TRUTH, columns_for, table_for

from scaletut.scaling import LAWS, RunTable, fit, simulate
from scaletut.scaling.fitting import prepare

pytestmark = pytest.mark.filterwarnings("error")
STEP = np.finfo(float).eps ** (1 / 3)


def differences(function, point: np.ndarray) -> np.ndarray:
    """Central differences of a function of (b, f) with any trailing shape, along a new last axis."""
    steps = STEP * np.maximum(1.0, np.abs(point))
    columns = []
    for i, step in enumerate(steps):
        up, down = point.copy(), point.copy()
        up[i] += step
        down[i] -= step
        columns.append((function(up[None])[0] - function(down[None])[0]) / (up[i] - down[i]))
    return np.stack(columns, axis=-1)


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("delta", [np.inf, 0.02])
def test_gradient_and_hessian_are_exact(law: str, delta: float) -> None:
    table = table_for(law, scale=0.05, seed=3)
    loss = "squared" if delta == np.inf else "huber"
    ready = prepare(table, law, loss=loss, delta=min(delta, 1.0))
    weights = np.random.default_rng(0).uniform(0.5, 2.0, (1, len(table)))
    truth = np.array([[TRUTH[law][name] for name in LAWS[law].names]])
    theta = ready.problem.coordinates.from_public(truth)[0]
    phi = theta[list(ready.problem.constraint.free)] + 0.01
    value, gradient, hessian = ready.problem.expand(phi[None], weights)
    assert value == pytest.approx(ready.problem.value(phi[None], weights))
    measured = differences(lambda p: ready.problem.value(p, weights), phi)
    scale = np.abs(gradient).max()
    np.testing.assert_allclose(gradient[0], measured, atol=2e-7 * scale)
    measured = differences(lambda p: ready.problem.expand(p, weights)[1], phi)
    np.testing.assert_allclose(hessian[0], measured, atol=2e-6 * np.abs(hessian).max())


@pytest.mark.parametrize("law", LAWS)
def test_noise_free_truth_is_found(law: str) -> None:
    found = fit(table_for(law), law)
    assert found.certificate.converged
    reached = [found.parameters[name] / value - 1 for name, value in TRUTH[law].items()]
    assert np.abs(reached).max() < 1e-5, found.parameters


@pytest.mark.parametrize(("alpha", "beta"), [(0.15, 0.15), (0.34, 0.28), (0.6, 0.6), (0.15, 0.6), (0.5, 0.2)])
def test_additive_surfaces_are_recovered_to_eight_digits(alpha: float, beta: float) -> None:
    at = [float(np.exp(np.log(column).mean())) for column in columns_for("additive").values()]
    truth = {"E": 1.7, "A": 0.4 * at[0] ** alpha, "B": 0.6 * at[1] ** beta, "alpha": alpha, "beta": beta}
    table = simulate("additive", truth, columns_for("additive"), noise="normal", scale=0.0, seed=0)
    found = fit(table, "additive")
    for name, value in truth.items():
        assert found.parameters[name] == pytest.approx(value, rel=1e-8)


def test_over_training_law_is_the_tied_one_in_other_words() -> None:
    table = table_for("additive", scale=0.01)
    one, other = fit(table, "overtraining"), fit(table, "additive_tied")
    assert one.objective == pytest.approx(other.objective, rel=1e-9)
    assert 2 * one.parameters["eta"] == pytest.approx(other.parameters["alpha"], rel=1e-6)


def test_repeats_count_for_less_and_at_last_for_nothing() -> None:
    seen = np.array([1e9, 4e9, 4e10, 4e12])
    table = RunTable(loss=np.ones(4), params=np.full(4, 1e9), examples=seen, unique_examples=np.full(4, 1e9))
    fresh = simulate("repeated", TRUTH["repeated"], table.columns() | {"unique_examples": seen},
                     noise="normal", scale=0, seed=0)  # fmt: skip
    repeated = simulate("repeated", TRUTH["repeated"], table.columns(), noise="normal", scale=0, seed=0)
    excess = repeated.loss - fresh.loss
    assert excess[0] == pytest.approx(0, abs=1e-12)
    assert np.all(np.diff(excess) > 0)
    limit = simulate("repeated", TRUTH["repeated"], table.columns() | {"examples": seen * 1e3},
                     noise="normal", scale=0, seed=0)  # fmt: skip
    assert limit.loss[3] == pytest.approx(repeated.loss[3], rel=1e-6)
