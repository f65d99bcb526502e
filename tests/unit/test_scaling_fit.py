"""The fit: its minimum, its certificate, what it refuses and what it notes."""

from __future__ import annotations

import csv
import json
import subprocess
import sys

import numpy as np
import pytest
from scaling_cases import MINIMUM, columns_for, epoch_runs, published, table_for

from scaletut.scaling import Fit, RunTable, TableError, fit, simulate
from scaletut.scaling.fitting import certify, prepare, solve
from scaletut.scaling.newton import minimise
from scaletut.scaling.seeds import starting_points

pytestmark = pytest.mark.filterwarnings("error")


@pytest.fixture(scope="module")
def noisy() -> RunTable:
    return table_for("additive", scale=0.01, seed=1)


def test_epoch_runs_reach_the_minimum_from_every_seed_and_random_start() -> None:
    runs = epoch_runs().drop_highest(5)
    assert len(runs) == 240
    for seed in range(200):
        assert fit(runs, "additive", seed=seed, starts=1 + seed % 2).objective <= 0.00101827402
    ready = prepare(runs, "additive")
    generator = np.random.default_rng(0)
    shapes = {"alpha": generator.uniform(0.02, 2, 200), "beta": generator.uniform(0.02, 2, 200)}
    ends = minimise(ready.problem, starting_points(ready.problem, ready.weights, shapes), ready.weights[None])
    assert ends.objective.max() <= 0.00101827402
    found = fit(runs, "additive")
    assert found.objective == pytest.approx(0.00101827401780, rel=1e-10)
    assert found.certificate.converged
    assert found.certificate.gradient < 1e-9
    for name, value in MINIMUM.items():
        assert found.parameters[name] == pytest.approx(value, rel=3e-6)


@pytest.mark.parametrize(
    ("drop", "options", "objective", "alpha"),
    [
        (5, {"delta": 1e-2}, 0.00469622488261601, 0.354416),
        (5, {"loss": "squared"}, 0.005730943495849312, 0.360253),
        (0, {}, 0.0018260105230693316, 0.349313),
        (0, {"loss": "squared"}, 0.03549521578931479, 0.372098),
    ],
)
def test_other_protocols_on_epoch_runs(drop: int, options: dict, objective: float, alpha: float) -> None:
    found = fit(epoch_runs(), "additive", drop_highest=drop, **options)
    assert found.objective == pytest.approx(objective, rel=1e-9)
    assert found.parameters["alpha"] == pytest.approx(alpha, abs=1e-6)


def test_gadres_five_run_law_is_reproduced() -> None:
    """Their least squares on the raw loss is ours on log residuals with weights L^2, to first order."""
    with published("gadre_c4.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    columns = {name: np.array([float(row[name]) for row in rows]) for name in ("N", "D", "loss_c4_val")}
    table = RunTable(loss=columns["loss_c4_val"], params=columns["N"], examples=columns["D"], unit="tokens")
    names = [(row["model"], float(row["chinchilla_multiplier"])) for row in rows]
    small = ("d=96_l=8_h=4", "d=512_l=8_h=4", "d=576_l=24_h=8", "d=1024_l=24_h=8")
    used = [names.index(pair) for pair in [*((model, 1.0) for model in small), (small[0], 16.0)]]
    five = table.take(np.array(used))
    found = fit(five, "overtraining", loss="squared", weights=five.loss**2)
    errors = 100 * np.abs(found.predict(table) / table.loss - 1)
    for pair, theirs in ((("open_lm_1b", 1.0), 0.7795), (("open_lm_1b", 4.0), 1.4979), (("open_lm_7b", 1.0), 4.2952)):
        assert errors[names.index(pair)] == pytest.approx(theirs, abs=0.007)
    unseen = np.delete(errors, used)
    assert [unseen.mean(), np.median(unseen), unseen.max()] == pytest.approx([2.079, 1.073, 14.29], abs=0.005)


def test_random_starts_agree_on_a_simulated_table(noisy: RunTable) -> None:
    ready = prepare(noisy, "additive")
    generator = np.random.default_rng(0)
    shapes = {"alpha": generator.uniform(0.02, 2, 200), "beta": generator.uniform(0.02, 2, 200)}
    ends = minimise(ready.problem, starting_points(ready.problem, ready.weights, shapes), ready.weights[None])
    lowest = ends.objective.min()
    assert np.mean(ends.objective <= lowest * (1 + 1e-9)) > 0.9  # the rest crawl along kinks, and say so
    assert not ends.finished[ends.objective > lowest * 1.5].any()
    for seed in range(40):
        assert fit(noisy, "additive", seed=seed, starts=1).objective == pytest.approx(lowest, rel=1e-9)


def test_a_fit_stopped_early_has_no_certificate(noisy: RunTable) -> None:
    ready = prepare(noisy, "additive")
    stopped = solve(ready, steps=2)
    assert not certify(ready, stopped).converged
    assert certify(ready, solve(ready)).converged


def test_integer_weights_are_repeated_rows(noisy: RunTable) -> None:
    weights = np.random.default_rng(2).integers(0, 3, len(noisy)).astype(float)
    rows = np.repeat(np.arange(len(noisy)), weights.astype(int))
    repeated = noisy.take(rows)
    repeated = RunTable(**repeated.columns() | {"seed": np.arange(len(rows)).astype(str)})
    one, other = fit(noisy, "additive", weights=weights), fit(repeated, "additive")
    assert one.objective == pytest.approx(other.objective, rel=1e-10)
    assert one.vector == pytest.approx(other.vector, rel=1e-6)


def test_pins_and_ties_hold_and_cost(noisy: RunTable) -> None:
    free = fit(noisy, "additive")
    pins, ties = ({"E": 1.8}, {"A": 400.0, "beta": 0.37}), ([("alpha", "beta")], [("A", "B")])
    for fixed, tied in [(pin, []) for pin in pins] + [({}, tie) for tie in ties]:
        found = fit(noisy, "additive", fixed=fixed, tied=tied)
        assert found.certificate.converged
        assert found.objective > free.objective
        for name, value in fixed.items():
            assert found.parameters[name] == pytest.approx(value, rel=1e-12)
        for first, second in tied:
            assert found.parameters[first] == pytest.approx(found.parameters[second], rel=1e-9)
    tied = fit(noisy, "additive", tied=[("alpha", "beta")])
    assert tied.objective == pytest.approx(fit(noisy, "additive_tied").objective, rel=1e-10)


def test_outliers_move_the_squared_fit_and_not_the_robust_one() -> None:
    clean = table_for("additive", scale=0.005, seed=4)
    loss = clean.loss.copy()
    loss[:4] *= 1.3
    dirty = RunTable(loss=loss, params=clean.params, examples=clean.examples)

    def shift(loss: str) -> float:
        floors = [fit(table, "additive", loss=loss).parameters["E"] for table in (dirty, clean)]
        return abs(floors[0] - floors[1])

    assert shift("squared") > 5 * shift("huber")


def test_notes_tell_a_missing_floor_and_an_unfounded_break() -> None:
    straight = simulate("power", {"A": 3.0, "alpha": 0.3}, columns_for("power"), noise="normal", scale=0.01, seed=0)
    bent = RunTable(loss=straight.loss - 0.9 * straight.loss.min(), examples=straight.examples)  # below any floor
    assert "floor_not_identified" in {note.code for note in fit(bent, "power_floor").notes}
    unsure = straight.take(np.arange(0, 40, 4))
    assert "floor_not_identified" in {note.code for note in fit(unsure, "power_floor", bootstrap=100).notes}
    seen = set()
    for seed in range(6):  # noise alone: an exponent at its bound, or one that the noise decides
        flat = simulate("power", {"A": 3.0, "alpha": 1e-4}, columns_for("power"), noise="normal", scale=0.1, seed=seed)
        codes = {note.code for note in fit(flat.take(np.arange(0, 40, 3)), "power").notes}
        seen |= codes & {"exponent_not_identified", "bound_hit"}
    assert seen == {"exponent_not_identified", "bound_hit"}
    short = straight.take(np.arange(6))
    assert "few_runs" in {note.code for note in fit(short, "power_floor").notes}


def test_bootstrap_intervals_and_json_round_trip(noisy: RunTable) -> None:
    found = fit(noisy, "additive", bootstrap=200, seed=3)
    again = Fit.from_json(found.to_json())
    at = {"params": np.array([1e9, 7e10]), "examples": np.array([2e10, 1.4e12])}
    assert again.predict(at) == pytest.approx(found.predict(at))
    assert again.parameters == found.parameters
    narrow, wide = found.interval(at, 0.5), found.interval(at, 0.95)
    assert np.all(wide[0] < narrow[0])
    assert np.all(narrow[1] < wide[1])
    assert np.all(found.interval(at, noise=True)[1] > wide[1])
    assert found.standard_errors["alpha"] == pytest.approx(fit(noisy, "additive").standard_errors["alpha"], rel=0.6)
    with pytest.raises(TableError, match="no JSON of a fit"):
        Fit.from_json('{"law": "additive"}')


def test_groups_are_resampled_whole() -> None:
    table = table_for("additive", scale=0.001, seed=0)
    group = np.repeat(np.arange(12), 12).astype(str)
    shifted = table.loss * np.exp(np.repeat(np.random.default_rng(0).normal(0, 0.02, 12), 12))
    plain = RunTable(loss=shifted, params=table.params, examples=table.examples)
    grouped = RunTable(loss=shifted, params=table.params, examples=table.examples, group=group)
    one, other = (fit(t, "additive", bootstrap=200, loss="squared") for t in (plain, grouped))
    assert other.checklist["resampled"] == "groups"
    assert other.standard_errors["beta"] > 1.5 * one.standard_errors["beta"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"law": "chinchilla"}, "unknown law"),
        ({"law": "additive", "loss": "mae"}, "huber or squared"),
        ({"law": "additive", "delta": 0.0}, "above 0"),
        ({"law": "additive", "fixed": {"gamma": 1.0}}, "no parameter"),
        ({"law": "additive", "fixed": {"E": -1.0}}, "outside its range"),
        ({"law": "additive", "tied": [("alpha", "A")]}, "cannot tie"),
        ({"law": "additive", "fixed": {"alpha": 0.3}, "tied": [("beta", "alpha")]}, "twice"),
        ({"law": "additive", "weights": np.ones(3)}, "weights must be"),
        ({"law": "additive", "bootstrap": 1}, "at least 2"),
        ({"law": "additive", "starts": -1}, "starts"),
    ],
)
def test_refusals_are_one_line(noisy: RunTable, options: dict, message: str) -> None:
    with pytest.raises(TableError, match=message) as caught:
        fit(noisy, **options)
    assert "\n" not in str(caught.value)


def test_room_is_light() -> None:
    heavy = ("torch", "pandas", "matplotlib", "pydantic")
    code = f"import sys, scaletut.scaling; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout.replace("'", '"')) == []
