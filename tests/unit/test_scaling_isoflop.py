"""IsoFLOP valleys on surfaces whose exponents are known."""

from __future__ import annotations

import numpy as np
import pytest

from scaletut.scaling import TableError, isoflop

pytestmark = pytest.mark.filterwarnings("error")
E, A, B, ALPHA, BETA = 1.69, 406.4, 410.7, 0.34, 0.28
TRUE = BETA / (ALPHA + BETA)


def surface(width=2.0, offset=0.0, noise=0.0, runs=9, seed=0, fixed=False) -> dict[str, np.ndarray]:
    """Runs at six budgets, sizes `width` e-folds to each side of the best (or the same sizes at all, `fixed`)."""
    generator = np.random.default_rng(seed)
    scale = (ALPHA * A / (BETA * B)) ** (1 / (ALPHA + BETA))
    params, flops, loss = [], [], []
    for budget in np.geomspace(6e18, 3e21, 6):
        best = scale * ((1.3e20 if fixed else budget) / 6) ** TRUE
        sizes = best * np.exp(np.linspace(-width, width, runs) + offset)
        params.append(sizes)
        flops.append(np.full(runs, budget))
        clean = E + A * sizes**-ALPHA + B * (budget / 6 / sizes) ** -BETA
        loss.append(clean * np.exp(noise * generator.normal(size=runs)))
    return {name: np.concatenate(part) for name, part in (("params", params), ("flops", flops), ("loss", loss))}


@pytest.mark.parametrize(("width", "offset"), [(1.5, 0.0), (2.5, 0.0), (2.0, 0.5)])
def test_exponents_of_centred_budgets(width: float, offset: float) -> None:
    found = isoflop(surface(width, offset))
    assert found.exponent_params == pytest.approx(TRUE, abs=0.001)
    assert found.exponent_params + found.exponent_examples == pytest.approx(1)
    assert not found.notes


@pytest.mark.parametrize("width", [3.0, 4.0, 6.0])
def test_sizes_that_do_not_move_with_the_budget_leave_no_bias(width: float, monkeypatch: pytest.MonkeyPatch) -> None:
    table = surface(width, fixed=True, runs=15)
    assert isoflop(table).exponent_params == pytest.approx(TRUE, abs=0.002)
    monkeypatch.setattr("scaletut.scaling.valleys.NEAREST", 15)  # through all of the valley, the cubic falls for it
    assert abs(isoflop(table, method="cubic").exponent_params - TRUE) > 0.02


def test_intervals_hold_the_truth() -> None:
    held = 0
    for seed in range(12):
        ends = isoflop(surface(2.0, noise=0.002, seed=seed), method="quadratic").intervals["exponent_params"]
        held += ends.low <= TRUE <= ends.high
    assert held >= 10


def test_edges_outliers_and_short_budgets_are_told() -> None:
    table = surface(1.5, offset=2.5)
    with pytest.raises(TableError, match="edge of its sizes"):
        isoflop(table)
    table = surface(2.0)
    table["loss"][13] *= 1.05
    found = isoflop(table)
    assert [note.code for note in found.notes] == ["outlier"]
    assert found.exponent_params == pytest.approx(TRUE, abs=0.002)
    keep = np.ones(54, dtype=bool)
    keep[:6] = False
    short = isoflop({name: column[keep] for name, column in surface(2.0).items()})
    assert short.valleys[0].status == "few_runs"
    assert [note.code for note in short.notes] == ["budget_refused"]


def test_refusals() -> None:
    with pytest.raises(TableError, match="unknown method"):
        isoflop(surface(), method="spline")
    with pytest.raises(TableError, match="no column 'flops'"):
        isoflop({"params": [1.0, 2.0], "loss": [2.0, 1.0]})


def test_tokens_alone_give_both_exponents() -> None:
    table = surface(2.0, noise=0.001)
    tokens = {"tokens": table["flops"] / (6 * table["params"]), "flops": table["flops"], "loss": table["loss"]}
    by_params, by_tokens = isoflop(table), isoflop(tokens)
    assert by_tokens.exponent_examples == pytest.approx(by_params.exponent_examples, rel=1e-9)
    assert [note.code for note in by_tokens.notes] == ["params_derived"]
    dear = table | {"tokens": tokens["tokens"] * table["params"] ** -0.1}  # small models cost more a parameter
    found = isoflop(dear)
    assert found.exponent_params == pytest.approx(by_params.exponent_params)
    assert found.exponent_examples == pytest.approx(1 - 1.1 * by_params.exponent_params, abs=0.003)
    ends = found.intervals["exponent_examples"]
    assert ends.low < found.exponent_examples < ends.high


def test_unequal_off_centre_valleys_with_a_bad_run() -> None:
    errors = []
    for seed in range(6):
        generator = np.random.default_rng(seed)
        parts = []
        for number, runs in enumerate(generator.integers(5, 12, 6)):
            offset = generator.normal(0, 0.4)
            whole = surface(1.6, offset, noise=0.001, runs=int(runs), seed=100 * seed + number)
            budget = np.unique(whole["flops"])[number]
            parts.append({name: column[whole["flops"] == budget] for name, column in whole.items()})
        table = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        clean = isoflop(table).exponent_params
        spoiled = table | {"loss": table["loss"] * np.where(np.arange(len(table["loss"])) == 2, 1.04, 1)}
        errors.append((clean - TRUE, isoflop(spoiled).exponent_params - TRUE))
    plain, hurt = np.median(np.abs(errors), axis=0)
    assert plain < 0.006
    assert hurt < 0.02
