"""The commands: JSON as documented, clear refusals, nothing but JSON on the screen when that is asked."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from scaling_cases import table_for

from scaletut.cli import main

KEYS = {
    "law", "parameters", "objective", "certificate", "standard_errors", "intervals", "notes", "checklist", "seconds",
    "predictions",
}  # fmt: skip


def write(path: Path, columns: dict[str, np.ndarray]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(zip(*(column.tolist() for column in columns.values()), strict=True))
    return path


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    return write(tmp_path / "runs.csv", table_for("additive", scale=0.01, seed=1).columns())


@pytest.fixture
def curve(tmp_path: Path) -> Path:
    table = table_for("power_floor", scale=0.005)
    return write(tmp_path / "curve.csv", {"images": table.examples, "error": table.loss})


def test_fit_prints_json_with_the_documented_keys(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--law", "additive", "--bootstrap", "50", "--predict", str(runs), "--json", "-"]
    assert main(["fit", str(runs), *options]) == 0
    plain = json.loads(capsys.readouterr().out)
    assert set(plain) >= KEYS
    assert plain["certificate"]["converged"] is True
    assert {"gradient", "curvature", "agreement"} <= set(plain["certificate"])
    assert {"form", "loss", "optimiser", "starts", "runs_dropped", "seed", "digest"} <= set(plain["checklist"])
    assert len(plain["predictions"]) == 144
    first = plain["predictions"][0]
    assert first["low"] < first["loss"] < first["high"]


def test_fit_then_plan(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kept = tmp_path / "fit.json"
    assert main(["fit", str(runs), "--law", "additive", "--bootstrap", "50", "--json", str(kept)]) == 0
    assert "certificate converged" in capsys.readouterr().out
    assert main(["plan", str(kept), "--flops", "1e21", "--json", "-"]) == 0
    best = json.loads(capsys.readouterr().out)
    assert 6 * best["params"] * best["examples"] == pytest.approx(1e21)
    assert main(["plan", str(kept), "--loss", str(best["loss"])]) == 0
    assert "budget" in capsys.readouterr().out
    assert main(["plan", str(kept), "--flops", "1e21", "--inference-tokens", "1e12", "--unique-examples", "1e9"]) == 0
    assert "repeats" in capsys.readouterr().out


def test_one_variable_with_names_of_its_own(curve: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--x", "images", "--y", "error", "--predict", str(curve), "--json", "-"]
    assert main(["fit", str(curve), *arguments]) == 0
    plain = json.loads(capsys.readouterr().out)
    assert plain["predictions"][0]["by"] == "forecast"
    assert main(["fit", str(curve), "--law", "power_floor", "--fix", "E=0.3", "--tie", "A=A", *arguments]) == 2
    assert main(["fit", str(curve), "--law", "power_floor", "--fix", "E=0.3", *arguments]) == 0
    assert json.loads(capsys.readouterr().out)["parameters"]["E"] == pytest.approx(0.3)


def test_compare_isoflop_and_plot(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", str(runs), "--laws", "additive,product", "--hold-out", "largest:20", "--json", "-"]) == 0
    assert json.loads(capsys.readouterr().out)["best"] == "additive"
    assert main(["compare", str(runs), "--laws", "additive,product"]) == 0
    assert capsys.readouterr().out.splitlines()[1].startswith("additive")
    picture = tmp_path / "fit.png"
    assert main(["fit", str(runs), "--law", "additive", "--bootstrap", "0", "--plot", str(picture)]) == 0
    assert picture.read_bytes()[:4] == b"\x89PNG"
    params = np.tile(np.geomspace(1e8, 1e10, 9), 3)
    flops = np.repeat([1e19, 1e20, 1e21], 9)
    loss = 1.7 + 400 * params**-0.34 + 410 * (flops / 6 / params) ** -0.28
    valley = write(tmp_path / "valley.csv", {"params": params, "flops": flops, "loss": loss})
    capsys.readouterr()
    assert main(["isoflop", str(valley), "--json", "-"]) == 0
    assert json.loads(capsys.readouterr().out)["exponent_params"] == pytest.approx(0.28 / 0.62, abs=0.01)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fit", "missing.csv"], "there is no file"),
        (["fit", "RUNS", "--law", "aditive"], "did you mean 'additive'"),
        (["fit", "RUNS", "--fix", "E"], "--fix 'E' must read"),
        (["fit", "RUNS", "--law", "additive", "--tie", "alpha"], "--tie 'alpha' must read"),
        (["fit", "RUNS", "--column", "N"], "must read role=name"),
        (["fit", "RUNS", "--y", "nll"], "no column 'nll'"),
        (["fit", "RUNS", "--law", "additive", "--drop-highest", "144"], "cannot drop"),
        (["fit", "RUNS", "--law", "additive", "--json", "/dev/null/x.json"], "cannot be written"),
        (["fit", "RUNS", "--law", "additive", "--delta", "-1"], "above 0"),
        (["fit", "RUNS", "--law", "repeated"], "no column 'unique_examples'"),
        (["plan", "RUNS", "--flops", "1e21"], "no JSON of a fit"),
        (["plan", "missing.json", "--flops", "1e21"], "cannot be read"),
        (["compare", "RUNS", "--hold-out", "some"], "unknown hold-out"),
        (["compare", "RUNS", "--laws", "additiv"], "did you mean"),
        (["isoflop", "RUNS"], "no column 'flops'"),
    ],
)
def test_bad_input_is_one_line_and_exit_two(
    runs: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(runs) if argument == "RUNS" else argument for argument in arguments]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1


def rows(count: int = 12, **changed: np.ndarray) -> dict[str, np.ndarray]:
    """A small table in N and D that can be fitted, with columns replaced or added."""
    params, examples = np.geomspace(1e7, 1e9, count), 20 * np.geomspace(1e7, 1e9, count)[::-1]
    loss = 1.7 + 400 * params**-0.34 + 410 * examples**-0.28
    return {"params": params, "examples": examples, "loss": loss} | changed


def spoiled(value: float) -> np.ndarray:
    loss = rows()["loss"].copy()
    loss[4] = value
    return loss


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (rows(4), "4 runs cannot fix the 5 free parameters"),
        (rows(params=np.full(12, 1e8)), "all runs have the same params"),
        (rows(loss=spoiled(0.0)), "loss is 0 in row 5"),
        (rows(loss=spoiled(-2.0)), "loss is -2 in row 5"),
        (rows(loss=spoiled(np.nan)), "loss is nan in row 5"),
        (rows(loss=spoiled(np.inf)), "loss is inf in row 5"),
        (rows(tokens=np.geomspace(1e8, 1e10, 12)), "both examples and tokens"),
        ({name: np.tile(column, 2) for name, column in rows().items()}, "rows 1 and 13 are identical"),
        (rows(params=np.array(["1B"] * 12)), "'1B', which is no number"),
        (rows(flops=rows()["params"] * rows()["examples"]), "times 6 N D"),
    ],
)
def test_hopeless_tables_are_refused(
    tmp_path: Path, columns: dict[str, np.ndarray], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    cost = ["--cost", "6ND"] if "flops" in columns else []
    assert main(["fit", str(write(tmp_path / "bad.csv", columns)), "--law", "additive", *cost]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1


def test_a_million_rows_are_refused_without_reading_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "curve.csv"
    path.write_text("examples,loss\n" + "100,2.5\n" * 1_000_000, encoding="utf-8")
    assert main(["fit", str(path)]) == 2
    assert "more than 100,000 rows" in capsys.readouterr().err


def test_weights_groups_and_counting_reach_the_fit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = table_for("additive", scale=0.01, seed=1)
    trust = np.where(np.arange(144) < 20, 0.0, 1.0)
    group = np.repeat(np.arange(12), 12)
    columns = table.columns() | {"trust": trust, "group": group, "embedding_params": 0.1 * table.params}
    path, options = (
        str(write(tmp_path / "runs.csv", columns)),
        ["--law", "additive", "--bootstrap", "60", "--json", "-"],
    )
    found = []
    for extra in ([], ["--weights", "trust"], ["--count", "without_embeddings"]):
        assert main(["fit", path, *options, *extra]) == 0
        found.append(json.loads(capsys.readouterr().out))
    plain, weighted, counted = found
    assert plain["checklist"]["resampled"] == "groups"
    assert (plain["checklist"]["weighted"], weighted["checklist"]["weighted"]) == (False, True)
    kept = str(write(tmp_path / "kept.csv", {name: column[20:] for name, column in columns.items()}))
    assert main(["fit", kept, *options]) == 0
    assert json.loads(capsys.readouterr().out)["objective"] == pytest.approx(weighted["objective"], rel=1e-9)
    assert counted["checklist"]["counting"] == "without_embeddings"
    ratio = counted["parameters"]["A"] / plain["parameters"]["A"]
    assert ratio == pytest.approx(0.9 ** plain["parameters"]["alpha"], rel=1e-5)


def test_parquet_is_read_like_csv(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow", reason="pyarrow is not installed; reading Parquet was NOT checked")
    table = table_for("additive", scale=0.01, seed=1)
    pandas.DataFrame(table.columns()).to_parquet(tmp_path / "runs.parquet")
    digests = []
    for path in (tmp_path / "runs.parquet", write(tmp_path / "runs.csv", table.columns())):
        assert main(["fit", str(path), "--law", "additive_tied", "--bootstrap", "0", "--json", "-"]) == 0
        digests.append(json.loads(capsys.readouterr().out)["checklist"]["digest"])
    assert digests[0] == digests[1]
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 no more")
    assert main(["fit", str(tmp_path / "broken.parquet")]) == 2
    said = capsys.readouterr().err
    assert "cannot be read as Parquet" in said
    assert said.count("\n") == 1


def test_auto_in_n_and_d_predicts_with_both_bands(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", str(runs), "--bootstrap", "50", "--predict", str(runs), "--json", "-"]) == 0
    plain = json.loads(capsys.readouterr().out)
    first = plain["predictions"][0]
    assert first["band"]["low"] < first["loss"] < first["band"]["high"]
    assert "law_chosen" in {note["code"] for note in plain["notes"]}


def test_plan_with_every_option(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = table_for("additive", scale=0.01, seed=1)
    path = write(tmp_path / "runs.csv", table.columns() | {"flops": 9 * table.params * table.examples})
    kept = tmp_path / "fit.json"
    assert main(["fit", str(path), "--law", "additive", "--bootstrap", "20", "--json", str(kept)]) == 0
    capsys.readouterr()
    for cost, each in (("6ND", 6), ("measured", 9)):
        options = ["--cost", cost, "--inference-tokens", "1e10", "--unique-examples", "1e9", "--json", "-"]
        assert main(["plan", str(kept), "--flops", "1e21", *options]) == 0
        best = json.loads(capsys.readouterr().out)
        assert each * best["params"] * best["examples"] + 2 * best["params"] * 1e10 == pytest.approx(1e21)
        assert best["repeats"] == pytest.approx(best["examples"] / 1e9)
        assert best["intervals"]["params"]["low"] < best["params"] < best["intervals"]["params"]["high"]
