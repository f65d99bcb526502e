"""The chapter *Predict, then verify*: predictions older than their runs, links, claims, plans."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest

from scaletut.chapters import pairs
from scaletut.records import find_records
from scaletut.scaling import Predictions
from scaletut.sweep import Store, load_plan

ROOT = Path(__file__).parents[2]
SWEEPS = ROOT / "results" / "sweeps"


@pytest.fixture(scope="module")
def book() -> list:
    return pairs.read_notebook(ROOT / "notebooks" / "predict.ipynb").cells


def printed(experiment: str) -> tuple[Path, Predictions]:
    (record,) = [one for one in find_records(ROOT / "results", recursive=False) if one.experiment == experiment]
    return record.path, Predictions.from_dict(record.parameters["predictions"])


def test_the_prediction_was_committed_before_the_runs_that_it_predicts() -> None:
    path, _ = printed("predict.printed")
    told = _git("log", "--diff-filter=A", "--format=%ct", "--", str(path.relative_to(ROOT)))
    if not told or _git("rev-parse", "--is-shallow-repository") == ["true"]:
        pytest.skip("no git history here; that the prediction is older than the runs was NOT checked")
    for record in Store(SWEEPS / "large").records():
        assert record.started > _stamp(int(told[-1])), f"{record.path} is older than the prediction"


def _git(*words: str) -> list[str]:
    return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=False).stdout.split()


def _stamp(seconds: int) -> str:
    import datetime

    return datetime.datetime.fromtimestamp(seconds, datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def test_every_large_run_was_predicted_from_runs_of_a_tenth_of_its_compute() -> None:
    _, found = printed("predict.printed")
    sizes = {(row.params, row.examples) for row in found.rows}
    for record in Store(SWEEPS / "large").records():
        assert (record.values["params"].value, record.values["examples"].value) in sizes
        assert record.values["training_flops"].value >= 10 * found.most_flops


@pytest.mark.parametrize(("name", "least"), [("small", 93), ("time", 35), ("large", 6), ("noise", 31), ("equal", 12)])
def test_every_run_of_a_plan_is_recorded_once(name: str, least: int) -> None:
    plan = load_plan(ROOT / "book" / "sweeps" / f"{name}.yaml")
    asked = sorted((run.width, run.examples, run.epochs, run.seed) for run in plan.runs())
    records = Store(SWEEPS / name).records()
    there = sorted(tuple(one.parameters[key] for key in ("width", "examples", "epochs", "seed")) for one in records)
    assert there == asked
    assert len(there) == least


@pytest.mark.parametrize("path", sorted((ROOT / "book" / "sweeps").glob("*.yaml")), ids=lambda path: path.stem)
def test_plans_are_valid_and_say_where_their_rates_come_from(path: Path) -> None:
    plan = load_plan(path)
    assert plan.runs()
    assert plan.lr_rule.head_exponent == 1


def test_links_lead_to_numbers_that_the_chapter_keeps(book: list) -> None:
    prose = "\n\n".join(cell.source for cell in book if cell.cell_type == "markdown")
    kept = json.loads((ROOT / "results" / "predict.json").read_text(encoding="utf-8"))["values"]
    linked = set(re.findall(r"\]\(#predict\.(\w+)\)", prose))
    assert len(linked) >= 20
    assert linked <= {*kept, "run_minutes", "run_peak_memory"}


def test_code_and_claims_fit_the_page(book: list) -> None:
    """The site's column holds 75 characters of code at 1,280 pixels; a claim stands behind its verdict."""
    sources = [cell.source for cell in book if cell.cell_type == "code"]
    assert not [line for source in sources for line in source.splitlines() if len(line) > 75]
    claims = json.loads((ROOT / "results" / "predict.json").read_text(encoding="utf-8"))["claims"]
    assert max(map(len, claims)) <= 70


def test_the_same_claims_hold_at_both_profiles() -> None:
    whole, quick = (
        json.loads((ROOT / "results" / name).read_text(encoding="utf-8"))["claims"]
        for name in ("predict.json", "quick/predict.json")
    )
    assert whole == quick
    assert all(whole.values())
