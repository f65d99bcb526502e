"""Plans: against closed forms, cited constants and each other."""

from __future__ import annotations

import numpy as np
import pytest
from scaling_cases import epoch_runs, table_for

from scaletut.scaling import Fit, RunTable, TableError, compute_for, cost_of_miss, fit, plan, worth_of_data

pytestmark = pytest.mark.filterwarnings("error")


@pytest.fixture(scope="module")
def additive() -> Fit:
    return fit(table_for("additive", scale=0.01, seed=1), "additive", bootstrap=100)


def closed_form(found: Fit, flops: float) -> tuple[float, float]:
    """N and D of Hoffmann et al. 2022, equation 4."""
    _, a, b, alpha, beta = found.vector
    scale = (alpha * a / (beta * b)) ** (1 / (alpha + beta))
    params = scale * (flops / 6) ** (beta / (alpha + beta))
    return params, flops / 6 / params


@pytest.mark.parametrize("flops", [1e17, 1e21, 5.88e23, 1e27])
def test_plan_is_the_closed_form(additive: Fit, flops: float) -> None:
    best = plan(additive, flops)
    params, examples = closed_form(additive, flops)
    assert best.params == pytest.approx(params, rel=1e-6)
    assert best.examples == pytest.approx(examples, rel=1e-6)
    assert best.loss == pytest.approx(additive.predict({"params": params, "examples": examples})[0])
    for name in ("params", "examples", "ratio", "loss"):
        assert best.intervals[name].low < getattr(best, name) < best.intervals[name].high


@pytest.mark.parametrize(
    ("drop", "options", "ratio"),
    [
        (5, {}, 17.91),
        (5, {"delta": 1e-2}, 16.93),
        (5, {"loss": "squared"}, 14.25),
        (0, {}, 6.80),
        (0, {"loss": "squared"}, 2.03),
    ],
)
def test_published_headlines(drop: int, options: dict, ratio: float) -> None:
    found = fit(epoch_runs(), "additive", drop_highest=drop, **options)
    assert plan(found, 5.88e23).ratio == pytest.approx(ratio, abs=0.006)


def test_intervals_are_those_of_the_draws(additive: Fit) -> None:
    best = plan(additive, 1e21)
    ratios = [examples / params for params, examples in (closed_form_of(row) for row in additive.samples)]
    assert best.intervals["ratio"].low == pytest.approx(np.quantile(ratios, 0.025), rel=1e-3)


def closed_form_of(row: np.ndarray) -> tuple[float, float]:
    _, a, b, alpha, beta = row
    params = (alpha * a / (beta * b)) ** (1 / (alpha + beta)) * (1e21 / 6) ** (beta / (alpha + beta))
    return params, 1e21 / 6 / params


def test_inference_makes_the_model_smaller_and_is_paid_from_the_budget(additive: Fit) -> None:
    alone, served = plan(additive, 1e22), plan(additive, 1e22, inference_tokens=1e12)
    assert served.params < alone.params
    assert 6 * served.params * served.examples + 2 * served.params * 1e12 == pytest.approx(1e22)
    # No other size on the same line does better.
    for factor in (0.8, 1.25):
        params = served.params * factor
        examples = (1e22 / params - 2e12) / 6
        assert additive.predict({"params": params, "examples": examples})[0] > served.loss


def test_scarce_data_repeats_and_costs(additive: Fit) -> None:
    free, scarce = plan(additive, 1e22), plan(additive, 1e22, unique_examples=1e9)
    assert scarce.loss > free.loss
    assert scarce.repeats > 5
    plenty = plan(additive, 1e22, unique_examples=1e15)
    assert plenty.loss == pytest.approx(free.loss, rel=1e-9)


def test_compute_for_inverts_plan(additive: Fit) -> None:
    for flops in (1e19, 3e21):
        back = compute_for(additive, plan(additive, flops).loss)
        assert back.flops == pytest.approx(flops, rel=1e-4)
        assert back.interval.low < back.flops < back.interval.high


def test_worth_of_data_and_cost_of_a_miss(additive: Fit) -> None:
    worth = worth_of_data(additive, 1e9, 2e10)
    same = additive.predict({"params": 1e9 * worth.equal_params, "examples": 2e10})[0]
    assert same == pytest.approx(worth.after, rel=1e-5)
    assert worth_of_data(additive, 1e14, 1e9).equal_params == np.inf
    miss = cost_of_miss(additive, 1e21, np.array([0.5, 0.9, 1.0, 1.1, 2.0]))
    assert miss.wasted[2] == pytest.approx(0, abs=1e-3)
    assert 0 < miss.wasted[1] < 0.01
    assert miss.wasted[0] > 0.05
    for loss, wasted in zip(miss.loss, miss.wasted, strict=True):
        assert plan(additive, 1e21 * (1 - wasted)).loss == pytest.approx(loss, rel=1e-4)


def test_measured_cost_comes_from_the_table() -> None:
    table = table_for("additive")
    flops = 9 * table.params * table.examples
    costly = RunTable(loss=table.loss, params=table.params, examples=table.examples, flops=flops)
    found = fit(costly, "additive")
    dear = plan(found, 1e21, cost="measured")
    assert 9 * dear.params * dear.examples == pytest.approx(1e21)
    with pytest.raises(TableError, match="no flops column"):
        plan(fit(table, "additive"), 1e21, cost="measured")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"flops": 0.0}, "above 0"),
        ({"flops": np.nan}, "above 0"),
        ({"flops": 1e21, "inference_tokens": -1.0}, "0 or more"),
        ({"flops": 1e21, "unique_examples": 0.0}, "above 0"),
        ({"flops": 1e21, "cost": "8ND"}, "unknown cost"),
    ],
)
def test_refusals(additive: Fit, options: dict, message: str) -> None:
    with pytest.raises(TableError, match=message):
        plan(additive, **options)


def test_laws_without_a_best_size_are_refused(additive: Fit) -> None:
    with pytest.raises(TableError, match="no best size"):
        plan(fit(table_for("product"), "product"), 1e21)
    with pytest.raises(TableError, match="params and examples"):
        plan(fit(table_for("power"), "power"), 1e21)
    with pytest.raises(TableError, match="floor"):
        compute_for(additive, additive.parameters["E"] * 0.9)
