"""The chapter on spending: its four lines, its links, its claims."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path

import numpy as np
import pytest

from scaletut import scaling
from scaletut.chapters import pairs
from scaletut.chapters.published import simulated_runs

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def cells() -> list[str]:
    book = pairs.read_notebook(ROOT / "notebooks" / "spending.ipynb")
    return [cell.source for cell in book.cells if cell.cell_type == "code"]


@pytest.fixture(scope="module")
def prose() -> str:
    book = pairs.read_notebook(ROOT / "notebooks" / "spending.ipynb")
    return "\n\n".join(cell.source for cell in book.cells if cell.cell_type == "markdown")


@pytest.mark.parametrize("flops", [1e18, 5.88e23])
def test_the_four_lines_find_the_lowest_loss_on_the_budget_line(cells: list[str], flops: float) -> None:
    law = scaling.fit(simulated_runs(2).drop_highest(5), "additive")
    (source,) = [cell for cell in cells if "= law.vector" in cell]
    space = {"np": np, "law": law, "p": type("P", (), {"flops": flops})}
    exec(compile(source, "<cell>", "exec"), space)
    best = law.predict({"params": space["params"], "examples": space["examples"]})[0]
    for factor in (0.9, 1.1):
        params = space["params"] * factor
        assert law.predict({"params": params, "examples": flops / 6 / params})[0] > best


def test_links_lead_to_numbers_that_the_chapter_keeps(prose: str) -> None:
    kept = json.loads((ROOT / "results" / "spending.json").read_text(encoding="utf-8"))["values"]
    linked = set(re.findall(r"\]\(#spending\.(\w+)\)", prose))
    assert len(linked) >= 10
    assert linked <= {*kept, "run_minutes", "run_peak_memory"}


def test_code_and_claims_fit_the_page(cells: list[str]) -> None:
    """The site's column holds 75 characters of code at 1,280 pixels; a claim stands behind its verdict."""
    assert not [line for source in cells for line in source.splitlines() if len(line) > 75]
    claims = json.loads((ROOT / "results" / "spending.json").read_text(encoding="utf-8"))["claims"]
    assert max(map(len, claims)) <= 70


@pytest.mark.parametrize("flops", [1e18, 5.88e23])
def test_what_a_miss_wastes_depends_on_the_exponents_alone(cells: list[str], flops: float) -> None:
    law = scaling.fit(simulated_runs(2).drop_highest(5), "additive")
    (source,) = [cell for cell in cells if "def closed_form" in cell]
    (function,) = [node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)]
    space: dict = {}
    exec(compile(ast.Module([function], []), "<cell>", "exec"), space)
    factors = np.array([0.25, 0.5, 1.0, 2.0, 4.0])
    wasted = scaling.cost_of_miss(law, flops, factors).wasted
    found = space["closed_form"](factors, law.parameters["alpha"], law.parameters["beta"])
    np.testing.assert_allclose(found, wasted, atol=2e-3)
    assert found[2] == pytest.approx(0)


def test_the_interactive_figure_is_stored_and_asks_nothing_of_elsewhere() -> None:
    book = pairs.read_notebook(ROOT / "notebooks" / "spending.ipynb")
    (cell,) = [one for one in book.cells if one.cell_type == "code" and one.source.startswith("explore_budget(")]
    (output,) = cell.outputs
    assert output.data["text/plain"].startswith("Interactive figure: the loss over model size and data")
    assert not re.findall(r"https?:|\bsrc=", output.data["text/html"])
    (handed,) = re.findall(r'<script type="application/json">(.*?)</script>', output.data["text/html"], re.DOTALL)
    record = json.loads((ROOT / "results" / "spending.json").read_text(encoding="utf-8"))
    data = json.loads(handed)
    share = data["law"]["beta"] / (data["law"]["alpha"] + data["law"]["beta"])
    assert share == pytest.approx(record["values"]["exponent"]["value"], rel=1e-5), "another law than the chapter's"
    assert data["flops"] == record["parameters"]["flops"]


def test_takeaways_end_with_evidence(prose: str) -> None:
    takeaways = re.findall(r"^> \*\*Takeaway\.\*\*\n((?:> .*\n?)+)", prose, re.MULTILINE)
    assert len(takeaways) >= 5
    assert all("](#spending." in text for text in takeaways)


def test_claims_are_many_and_hold_in_both_records(cells: list[str]) -> None:
    calls = [
        node
        for source in cells
        if "%pip" not in source
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "claims.check"
    ]
    texts = {ast.literal_eval(call.args[0]) for call in calls}
    assert len(texts) == len(calls) >= 12
    for name in ("spending.json", "quick/spending.json"):
        record = json.loads((ROOT / "results" / name).read_text(encoding="utf-8"))
        assert set(record["claims"]) == texts
        assert all(record["claims"].values())
