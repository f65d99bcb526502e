"""Claims: what nbval compares must be the same wherever all hold, and differ as soon as one fails."""

from __future__ import annotations

import numpy as np
import pytest

from scaletut.errors import CheckFailed, RecordError
from scaletut.records import Claims


def test_the_table_does_not_depend_on_the_margins():
    texts = []
    for margin in (0.3, 41.0):
        claims = Claims("finetune")
        claims.check("fine-tuning beats from-scratch at 50 labels a class", margin > 0, margin, unit="points")
        claims.check("a longer run is better", np.float64(margin) > 0)
        texts.append(repr(claims.table()))
    assert texts[0] == texts[1]
    assert texts[0].splitlines() == [
        "holds  fine-tuning beats from-scratch at 50 labels a class",
        "holds  a longer run is better",
    ]


def test_a_failed_claim_shows_and_is_kept():
    claims = Claims("finetune")
    assert claims.check("two and two is four", 2 + 2 == 4) is True
    assert claims.check("a longer run is better", np.bool_(False), -0.4, "of accuracy", unit="points") is False
    assert "FAILS  a longer run is better" in repr(claims.table())
    assert claims.results == {"two and two is four": True, "a longer run is better": False}
    assert repr(claims.margins()) == "−0.400 points  a longer run is better (of accuracy)"
    with pytest.raises(CheckFailed, match="1 of 2 claims of finetune failed: a longer run is better"):
        claims.require()


def test_claims_that_hold_may_be_required():
    claims = Claims("finetune")
    claims.check("two and two is four", True)
    claims.require()
    assert repr(claims.margins()) == "no claim gave a margin"


@pytest.mark.parametrize("passed", [1, 0, None, "yes", 0.3, np.array([True]), np.array(True), np.int64(1)])
def test_only_a_boolean_is_an_answer(passed):
    claims = Claims("finetune")
    with pytest.raises(RecordError, match="True or False"):
        claims.check("it works", passed)
    assert claims.results == {}


@pytest.mark.parametrize("margin", [float("nan"), float("inf"), "0.3", True])
def test_a_margin_is_one_finite_number(margin):
    claims = Claims("finetune")
    with pytest.raises(RecordError):
        claims.check("it works", True, margin)
    assert claims.results == {}


def test_a_claim_is_made_once_and_has_words():
    claims = Claims("finetune")
    claims.check("it works", True)
    with pytest.raises(RecordError, match="twice"):
        claims.check(" it  works ", False)
    with pytest.raises(RecordError, match="without words"):
        claims.check("  ", True)
    assert claims.results == {"it works": True}


def test_an_empty_table_is_refused():
    for show in (Claims("finetune").table, Claims("finetune").margins, Claims("finetune").require):
        with pytest.raises(RecordError, match="claims nothing"):
            show()
    with pytest.raises(RecordError, match="experiment name"):
        Claims("Fine tune")


def test_a_long_claim_is_folded_under_itself():
    claims = Claims("finetune")
    claims.check("word " * 40, True)
    lines = repr(claims.table()).splitlines()
    assert len(lines) > 1
    assert all(len(line) <= 88 for line in lines)
    assert all(line.startswith("       word") for line in lines[1:])


def test_a_notebook_stores_plain_text_only():
    """Any other representation would be compared, or shown, instead of the text."""
    formatters = pytest.importorskip("IPython.core.formatters")
    claims = Claims("finetune")
    claims.check("it works", True)
    data, _ = formatters.DisplayFormatter().format(claims.table())
    assert data == {"text/plain": "holds  it works"}


def test_nbval_goes_red_when_a_claim_fails(tmp_path):
    """The stored table says `holds`; a run in which the claim fails must not pass."""
    import subprocess
    import sys
    from pathlib import Path

    pytest.importorskip("nbval")
    import nbformat
    from nbformat import v4

    root = Path(__file__).resolve().parents[2]
    for name, truth in (("good", True), ("bad", False)):
        source = (
            "# NBVAL_CHECK_OUTPUT\n"
            f"import sys; sys.path.insert(0, {str(root)!r})\n"
            "from scaletut.records import Claims\n"
            f"claims = Claims('finetune'); claims.check('it works', {truth}, margin=0.5)\n"
            "claims.table()"
        )
        output = v4.new_output("execute_result", {"text/plain": "holds  it works"}, execution_count=1)
        cell = v4.new_code_cell(source, outputs=[output], execution_count=1)
        notebook = v4.new_notebook(cells=[cell], metadata={"kernelspec": {"name": "python3", "display_name": "p"}})
        nbformat.write(notebook, tmp_path / f"{name}.ipynb")
    command = [sys.executable, "-m", "pytest", "--nbval-lax", "-q", "-rA", "-p", "no:cacheprovider"]
    done = subprocess.run([*command, "-c", "/dev/null", "."], cwd=tmp_path, capture_output=True, text=True)
    assert "PASSED good.ipynb" in done.stdout, done.stdout + done.stderr
    assert "FAILED bad.ipynb" in done.stdout
    assert "FAILED good.ipynb" not in done.stdout
