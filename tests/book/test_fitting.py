"""The chapter on fitting: what it says is what its cells do."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path

import pytest

from scaletut.chapters import pairs
from scaletut.chapters.published import DIGEST, SHORT_RUNS, SIMULATED_RUNS, chinchilla_runs, simulated_runs
from scaletut.errors import DataError

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def book():
    return pairs.read_notebook(ROOT / "notebooks" / "fitting.ipynb")


@pytest.fixture(scope="module")
def prose(book) -> str:
    return "\n\n".join(cell.source for cell in book.cells if cell.cell_type == "markdown")


def test_links_lead_to_numbers_that_the_chapter_keeps(prose: str) -> None:
    kept = json.loads((ROOT / "results" / "fitting.json").read_text(encoding="utf-8"))["values"]
    linked = set(re.findall(r"\]\(#fitting\.(\w+)\)", prose))
    assert len(linked) >= 20
    assert linked <= {*kept, "run_minutes", "run_peak_memory"}


def test_code_and_claims_fit_the_page(book) -> None:
    """The site's column holds 75 characters of code at 1,280 pixels; a claim stands behind its verdict."""
    sources = [cell.source for cell in book.cells if cell.cell_type == "code"]
    assert not [line for source in sources for line in source.splitlines() if len(line) > 75]
    claims = json.loads((ROOT / "results" / "fitting.json").read_text(encoding="utf-8"))["claims"]
    assert max(map(len, claims)) <= 70


def test_takeaways_end_with_evidence(prose: str) -> None:
    takeaways = re.findall(r"^> \*\*Takeaway\.\*\*\n((?:> .*\n?)+)", prose, re.MULTILINE)
    assert len(takeaways) >= 5
    assert all("](#fitting." in text for text in takeaways)


def test_claims_are_many_and_hold_in_both_records(book) -> None:
    calls = [
        node
        for cell in book.cells
        if cell.cell_type == "code" and "%pip" not in cell.source
        for node in ast.walk(ast.parse(cell.source))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "claims.check"
    ]
    texts = {ast.literal_eval(call.args[0]) for call in calls}
    assert len(texts) == len(calls) >= 14
    for name in ("fitting.json", "quick/fitting.json"):
        record = json.loads((ROOT / "results" / name).read_text(encoding="utf-8"))
        assert set(record["claims"]) == texts
        assert all(record["claims"].values())


def test_simulated_runs_are_like_the_published_ones() -> None:
    one, same, other = simulated_runs(0), simulated_runs(0), simulated_runs(1)
    assert one.digest == same.digest != other.digest
    assert len(one) == SIMULATED_RUNS + SHORT_RUNS
    assert set(one.columns()) == {"params", "examples", "flops", "loss"}


def test_published_table_is_refused_when_absent_or_altered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCALETUT_DATA", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with pytest.raises(DataError, match="download = True"):
        chinchilla_runs()
    altered = tmp_path / "scaling" / "svg_extracted_data.csv"
    altered.parent.mkdir()
    altered.write_text("Model Size,Training FLOP,loss\n1,6,2\n", encoding="utf-8")
    with pytest.raises(DataError, match="not the table that was published"):
        chinchilla_runs()
    assert len(DIGEST) == 64


def test_download_is_verified_and_kept_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCALETUT_DATA", "")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("scaletut.chapters.published._fetched", lambda: b"half a ta")
    with pytest.raises(DataError, match="sha256"):
        chinchilla_runs(download=True)
    assert not list(tmp_path.rglob("*.csv"))
