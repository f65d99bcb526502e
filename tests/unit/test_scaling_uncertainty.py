"""Profiles, regions, influence, coverage."""

from __future__ import annotations

import numpy as np
import pytest
from scaling_cases import GRID_D, GRID_N, MINIMUM, epoch_runs, table_for

from scaletut.scaling import RunTable, TableError, coverage, fit, influence, profile, profile_region
from scaletut.scaling.uncertainty import log_likelihood, resamples

pytestmark = pytest.mark.filterwarnings("error")


def ratio_at(flops: float):
    """D / N at the compute-optimum (Hoffmann et al. 2022, equation 4), from public parameters (b, 5)."""

    def ratio(p: np.ndarray) -> np.ndarray:
        _, a, b, alpha, beta = p.T
        scale = (alpha * a / (beta * b)) ** (1 / (alpha + beta))
        params = scale * (flops / 6) ** (beta / (alpha + beta))
        return flops / 6 / params**2

    return ratio


def test_five_runs_of_epochs_table_move_the_headline() -> None:
    found = influence(epoch_runs(), "additive", ratio_at(5.88e23), highest=5)
    assert found.base == pytest.approx(6.80, abs=0.005)
    assert found.highest[0] == pytest.approx(found.base)
    assert found.highest[5] == pytest.approx(17.91, abs=0.005)
    assert len(found.without) == 245


def test_influence_finds_the_planted_run_and_equals_a_plain_refit() -> None:
    table = table_for("additive", scale=0.005)
    loss = table.loss.copy()
    loss[7] *= 1.2
    dirty = RunTable(loss=loss, params=table.params, examples=table.examples)
    found = influence(dirty, "additive", lambda p: p[:, 3], loss="squared")
    assert np.argmax(np.abs(found.shifts)) == 7
    plain = fit(dirty.take(np.arange(len(dirty)) != 7), "additive", loss="squared")
    assert found.without[7] == pytest.approx(plain.parameters["alpha"], rel=1e-7)
    by_size = influence(dirty, "additive", lambda p: p[:, 3], by="params", loss="squared")
    assert by_size.labels.tolist() == np.unique(GRID_N).tolist()


def test_profile_brackets_the_fit_and_squares_with_the_sandwich() -> None:
    table = table_for("additive", scale=0.01, seed=5)
    found = fit(table, "additive", loss="squared")
    drawn = profile(table, "additive", "E", loss="squared")
    assert drawn.low < found.parameters["E"] < drawn.high
    assert drawn.ratio.min() == pytest.approx(0, abs=1e-6)
    width = (drawn.high - drawn.low) / (2 * 1.96)
    assert width == pytest.approx(found.standard_errors["E"], rel=0.3)


def test_profile_of_a_missing_floor_is_one_sided() -> None:
    x = np.geomspace(10, 1e4, 25)
    loss = (3 * x**-0.3 - 0.1) * np.exp(np.random.default_rng(0).normal(0, 0.02, 25))  # below any floor
    drawn = profile({"examples": x, "loss": loss}, "power_floor", "E", points=61)
    assert np.isnan(drawn.low)
    assert drawn.high > 0


def test_region_holds_the_fit_and_refuses_unknown_names() -> None:
    table = table_for("additive", scale=0.01, seed=5)
    region = profile_region(table, "additive", ("E", "alpha"), points=9)
    assert region.ratio[4, 4] == region.ratio.min()
    assert region.ratio[0, 0] > region.limit or region.ratio[0, -1] > region.limit
    with pytest.raises(TableError, match="not a free parameter"):
        profile(table, "additive", "gamma")
    with pytest.raises(TableError, match="not a free parameter"):
        profile(table, "additive", "E", fixed={"E": 1.8})


def test_scaled_likelihood_has_the_known_limits() -> None:
    """n log(S / S0) for squared loss, 2 n log(S / S0) for absolute loss."""
    for delta, factor in ((np.inf, 0.5), (10.0, 0.5), (1e-6, 1.0)):
        gain = log_likelihood(1e-3, delta) - log_likelihood(2e-3, delta)
        assert gain == pytest.approx(factor * np.log(2), rel=2e-3)


def test_resamples_keep_the_number_of_runs() -> None:
    counts = resamples(table_for("additive"), 50, seed=1)
    assert counts.shape == (50, GRID_D.size)
    assert np.all(counts.sum(1) == GRID_D.size)
    assert not np.array_equal(counts, resamples(table_for("additive"), 50, seed=2))


@pytest.mark.slow
@pytest.mark.parametrize("noise", ["normal", "laplace", "student"])
def test_nominal_ninety_percent_covers_about_that(noise: str) -> None:
    """30 tables: a band of three binomial deviations; the full count is in benchmarks/scaling_coverage.py."""
    columns = {"params": GRID_N, "examples": GRID_D}
    found = coverage("additive", MINIMUM, columns, noise=noise, scale=0.01, tables=30, draws=100)
    assert all(0.73 <= share <= 1.0 for share in found.share.values()), found.share
