"""The back-test picks the law that made the data, and several laws together extrapolate a curve."""

from __future__ import annotations

import numpy as np
import pytest
from scaling_cases import TRUTH, epoch_runs, table_for

from scaletut.scaling import RunTable, TableError, backtest, extrapolate, fit, simulate

pytestmark = pytest.mark.filterwarnings("error")


def test_the_additive_law_beats_the_product_where_it_made_the_runs() -> None:
    found = backtest(table_for("additive", scale=0.005, seed=2), ["additive", "product"], hold_out="largest:20")
    assert found.best == "additive"
    mean, low, high = found.differences["product"]
    assert 0 < low < mean < high
    assert found.bic["additive"] < found.bic["product"]
    assert len(found.errors["additive"]) == 20


def test_the_product_wins_where_it_made_the_runs() -> None:
    assert backtest(table_for("product", scale=0.002), ["additive", "product"]).rmse["product"] < 0.004


def test_product_law_fails_on_epochs_runs() -> None:
    found = backtest(epoch_runs().drop_highest(5), ["additive", "product"], hold_out="largest:40")
    assert found.best == "additive"
    assert found.differences["product"][1] > 0


def test_hidden_runs_do_not_touch_the_fit() -> None:
    table = table_for("additive", scale=0.005, seed=2)
    before = backtest(table, ["additive"], hold_out="largest:10").errors["additive"]
    largest = np.argsort(table.params * table.examples, kind="stable")[-10:]
    loss = table.loss.copy()
    loss[largest] *= 1.5
    spoiled = RunTable(loss=loss, params=table.params, examples=table.examples)
    after = backtest(spoiled, ["additive"], hold_out="largest:10").errors["additive"]
    assert after == pytest.approx(before - np.log(1.5), abs=1e-6)


def test_auto_names_its_choice_and_reason() -> None:
    found = fit(table_for("power_floor", scale=0.003, seed=1))
    assert found.law != "power"
    assert next(note.text for note in found.notes if note.code == "law_chosen").startswith(found.law)


@pytest.mark.parametrize("law", ["power_floor", "saturating", "broken"])
def test_extrapolation_of_a_curve(law: str) -> None:
    curve = table_for(law, scale=0.005, seed=3)
    seen = curve.examples < 1e5
    found = extrapolate(curve.take(seen), curve.examples[~seen])
    truth = simulate(law, TRUTH[law], {"x": curve.examples[~seen]}, noise="normal", scale=0.0, seed=0).loss
    assert np.sqrt(np.mean(np.log(found.loss / truth) ** 2)) < 0.1
    assert np.all(found.low < found.high)


def test_refusals() -> None:
    table = table_for("additive")
    for hold_out in ("largest", "largest:0", "largest:144", "smallest:3"):
        with pytest.raises(TableError):
            backtest(table, ["additive"], hold_out=hold_out)
    with pytest.raises(TableError, match="unknown law"):
        backtest(table, ["chinchilla"])
    few = {"examples": [1.0, 2.0, 4.0, 8.0], "loss": [4.0, 3.0, 2.5, 2.2]}
    found = backtest(few, ["power", "broken"], hold_out="largest:1")
    assert found.laws == ("power",)
    assert "broken" in found.refused
