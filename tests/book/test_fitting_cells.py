"""The chapter on fitting, proven from outside: what its cells define is held against the library and the literature."""

from __future__ import annotations

import ast
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.optimize import minimize

from scaletut import scaling
from scaletut.chapters import pairs
from scaletut.chapters.published import PUBLISHED, simulated_runs
from scaletut.records import Value

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOK = ROOT / "notebooks" / "fitting.ipynb"
# E, A, B, alpha, beta of minima on the 245 published runs, and the best D / N at 5.88e23 FLOP that follows from each
WITHOUT_FIVE = (1.817218, 477.826, 2143.417, 0.347310, 0.367172)
ALL = (1.891338, 495.726, 12845.613, 0.349313, 0.453049)


@pytest.fixture(scope="module")
def cells() -> list[str]:
    """The sources of the chapter's code cells."""
    return [cell.source for cell in pairs.read_notebook(NOTEBOOK).cells if cell.cell_type == "code"]


@pytest.fixture(scope="module")
def runs() -> scaling.RunTable:
    """Simulated runs without the five that lie above the law."""
    return simulated_runs(3).drop_highest(5)


def defined(cells: list[str], text: str, **names: Any) -> dict[str, Any]:
    """Run the definitions and assignments of the one cell that holds `text`, with `names` in reach."""
    (source,) = [cell for cell in cells if text in cell]
    body = [node for node in ast.parse(source).body if isinstance(node, (ast.FunctionDef, ast.Assign))]
    space: dict[str, Any] = {"np": np, "scaling": scaling, **names}
    exec(compile(ast.Module(body, []), "<cell>", "exec"), space)
    return space


def function(cells: list[str], name: str, **names: Any) -> Any:
    """The function of that name and nothing else of its cell, whose other lines need the chapter's runs."""
    (source,) = [cell for cell in cells if f"def {name}(" in cell]
    (found,) = [node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef) and node.name == name]
    space: dict[str, Any] = {"np": np, "scaling": scaling, **names}
    exec(compile(ast.Module([found], []), "<cell>", "exec"), space)
    return space[name]


def by_hand(cells: list[str], runs: scaling.RunTable, delta: float) -> Any:
    names = {"runs": runs, "p": types.SimpleNamespace(delta=delta), "huber": function(cells, "huber")}
    return defined(cells, "def objective", **names)["objective"]


@pytest.mark.parametrize("delta", [1e-3, 1e-2, 1.0])
def test_the_ten_lines_are_the_librarys_objective(cells: list[str], runs: scaling.RunTable, delta: float) -> None:
    law = scaling.fit(runs, "additive", delta=delta)
    logs = [np.log(law.parameters[name]) for name in "ABE"]
    theta = np.array([*logs, law.parameters["alpha"], law.parameters["beta"]])
    objective = by_hand(cells, runs, delta)
    assert objective(theta) == pytest.approx(law.objective, rel=1e-9)
    steps = 1e-3 * np.random.default_rng(0).normal(size=(20, 5))
    assert all(objective(theta + step) > law.objective for step in steps)


def test_the_ten_lines_pull_a_far_run_no_harder_than_a_near_one(cells: list[str], runs: scaling.RunTable) -> None:
    """Beyond delta Huber's loss is a straight line, of slope delta in the residual."""
    theta = [*np.log([PUBLISHED[name] for name in "ABE"]), PUBLISHED["alpha"], PUBLISHED["beta"]]
    values = []
    for factor in (2.0, 4.0, 8.0):
        loss = runs.loss.copy()
        loss[0] *= factor
        columns = {"params": runs.params, "examples": runs.examples, "loss": loss}
        values.append(by_hand(cells, scaling.as_table(columns), 1e-3)(theta))
    np.testing.assert_allclose(np.diff(values), 1e-3 * np.log(2), rtol=1e-9)


def test_no_step_of_an_optimiser_overflows_the_ten_lines(cells: list[str], runs: scaling.RunTable) -> None:
    with np.errstate(over="raise", invalid="raise"):  # exp(800) is beyond the largest double
        assert np.isfinite(by_hand(cells, runs, 1e-3)([800.0, 25.0, 1.0, 0.0, 0.0]))


@pytest.mark.parametrize(("values", "ratio"), [(WITHOUT_FIVE, 17.91), (ALL, 6.80)])
def test_the_best_ratio_is_the_published_runs_headline(cells: list[str], values: tuple, ratio: float) -> None:
    found = defined(cells, "def best_ratio")["best_ratio"](np.array([values]))[0]
    assert found == pytest.approx(ratio, abs=0.005)


def test_the_best_ratio_is_where_the_loss_at_the_budget_is_lowest(cells: list[str]) -> None:
    space = defined(cells, "def best_ratio")
    E, A, B, alpha, beta = WITHOUT_FIVE
    ratios = np.geomspace(1, 400, 20_001)
    params = np.sqrt(space["BUDGET"] / 6 / ratios)
    loss = E + A * params**-alpha + B * (ratios * params) ** -beta
    found = space["best_ratio"](np.array([WITHOUT_FIVE]))[0]
    assert found == pytest.approx(ratios[loss.argmin()], rel=1e-3)


def test_the_certificate_tells_the_minimum_from_the_truth_and_from_print(
    cells: list[str], runs: scaling.RunTable
) -> None:
    from scaletut.scaling.fitting import prepare, scaled_gradient

    law = scaling.fit(runs, "additive")
    space = defined(
        cells, "def examine", runs=runs, law=law, prepare=prepare, scaled_gradient=scaled_gradient,
        p=types.SimpleNamespace(delta=1e-3),
    )  # fmt: skip
    lowest, gradient = space["examine"](law.parameters)
    assert lowest == pytest.approx(law.objective, rel=1e-9)
    assert gradient < 1e-6
    printed = defined(cells, '"Besiroglu et al. 2024":', law=law)["candidates"]
    for parameters in (PUBLISHED, printed["Hoffmann et al. 2022"], printed["Besiroglu et al. 2024"]):
        value, slope = space["examine"](parameters)
        assert value > lowest
        assert slope > 1e-3


# --- least squares, broken and mended -------------------------------------------------

CURVE = {"E": 0.3, "A": 3.0, "alpha": 0.4}


@pytest.fixture(scope="module")
def points() -> scaling.RunTable:
    """A curve with a floor, as the chapter's."""
    return scaling.simulate(
        "power_floor", CURVE, {"x": np.geomspace(100, 1e4, 30)}, noise="normal", scale=0.01, seed=4
    )  # fmt: skip


def test_ten_lines_of_squares_are_the_librarys_squares(cells: list[str], points: scaling.RunTable) -> None:
    fitted = function(cells, "ten_lines", minimize=minimize)
    law = scaling.fit(points, "power_floor", loss="squared")
    np.testing.assert_allclose(fitted(points, function(cells, "squares")), law.vector, rtol=2e-3)


def test_three_spoiled_runs_break_squares_and_not_a_bounded_pull(cells: list[str], points: scaling.RunTable) -> None:
    fitted = function(cells, "ten_lines", minimize=minimize)
    squares, huber = (function(cells, name) for name in ("squares", "huber"))
    spoiled = defined(cells, "def spoil")["spoil"](points)
    assert sorted(spoiled.loss / points.loss) == pytest.approx([1.0] * 27 + [1.5] * 3)
    miss = function(cells, "far_miss", really=CURVE["E"] + CURVE["A"] * 1e7**-0.4, far=1e7)
    assert miss(**CURVE) == pytest.approx(0)
    robust = fitted(spoiled, huber)
    assert abs(miss(*robust)) < 10 < 20 < miss(*fitted(spoiled, squares))
    np.testing.assert_allclose(robust, scaling.fit(spoiled, "power_floor", delta=0.01).vector, rtol=2e-3)


# --- traps ----------------------------------------------------------------------------


def test_wrong_labels_give_the_error_that_the_chapter_computes(cells: list[str]) -> None:
    """Ten classes, a learner that errs evenly: labels drawn one by one agree with the closed form."""
    (source,) = [cell for cell in cells if "wrong, images" in cell]
    wanted = ast.parse(source).body[:4]
    space: dict[str, Any] = {"np": np}
    exec(compile(ast.Module(wanted, []), "<cell>", "exec"), space)
    generator, many = np.random.default_rng(0), 400_000
    for true, share in zip(space["true"][[0, 8]], space["share"][[0, 8]], strict=True):
        guess = np.where(generator.random(many) < true, generator.integers(1, 10, many), 0)  # the right class is 0
        label = np.where(generator.random(many) < space["wrong"], generator.integers(1, 10, many), 0)
        error = 4 * np.sqrt(share * (1 - share) / many)
        assert np.mean(guess != label) == pytest.approx(share, abs=error)


def test_the_bootstrap_of_three_points_tells_its_trouble(cells: list[str]) -> None:
    through = function(cells, "through", power={"A": 3.0, "alpha": 0.4})
    few, many = through(3, 0), through(30, 0)
    assert "bootstrap_failed" in {note.code for note in few.notes}
    assert not {note.code for note in many.notes}
    assert len(few.samples) < len(many.samples) == 100


def test_a_miss_is_a_root_mean_square_with_its_interval(cells: list[str]) -> None:
    errors = np.random.default_rng(1).normal(0.01, 0.02, 400)
    found = function(cells, "miss", Value=Value, p=types.SimpleNamespace(seed=0))(errors)
    assert found.value == pytest.approx(100 * np.sqrt(np.mean(errors**2)))
    spread = 100 * np.std(errors**2) / np.sqrt(400) / (2 * np.sqrt(np.mean(errors**2)))  # delta method
    assert found.high - found.low == pytest.approx(2 * 1.96 * spread, rel=0.15)
