"""The headline of the landing page says what the records say."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path

import pytest

from scaletut.records import Ledger, Value, new_record, write_record

pytest.importorskip("matplotlib")
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def headline():
    spec = importlib.util.spec_from_file_location("headline", ROOT / "book" / "headline.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


@pytest.fixture
def ledger(tmp_path):
    """Stand-in records: two ways at three label budgets."""
    values = {}
    for budget, full, scratch in ((10, 60.0, 40.0), (100, 75.0, 61.0), (1000, 88.0, 89.0)):
        values[f"full_{budget}"] = Value(full, "%", full - 2, full + 2, 3)
        values[f"scratch_{budget}"] = Value(scratch, "%", scratch - 3, scratch + 3, 3)
    record = new_record(
        "finetune",
        profile="laptop",
        parameters={},
        data_digest="0" * 64,
        seeds=[0, 1, 2],
        values=values,
        wall_seconds=1.0,
    )
    write_record(record, tmp_path)
    return Ledger.load(tmp_path)


def test_committed_headline_is_that_of_the_records(headline):
    current = headline.page_part(headline.choose(Ledger.load(ROOT / "results")))
    written = (ROOT / "book" / "_headline.md").read_text(encoding="utf-8")
    assert written == current, "records changed: run `python book/headline.py` and commit what it writes"


def test_records_make_the_headline(headline, ledger):
    part = headline.page_part(headline.choose(ledger))
    assert re.findall(r"\]\(#(finetune\.\w+)\)", part) == [
        "finetune.full_10",
        "finetune.scratch_10",
        "finetune.full_1000",
        "finetune.scratch_1000",
    ]
    assert f"[{ledger.format('finetune.full_10')}](#finetune.full_10)" in part


def test_without_records_the_known_law_is_shown(headline, tmp_path):
    chosen = headline.choose(Ledger.load(tmp_path))
    assert "hutter2021" in chosen.caption
    assert "](#" not in chosen.caption


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_picture_loads_nothing(headline, ledger, scheme):
    """An SVG in a page may load nothing: its typeface is inside."""
    svg = headline.picture(headline.choose(ledger).draw, headline.SCHEMES[scheme])
    addresses = re.findall(r"(?:href=|url\()[\"']?([^\"')]+)", svg)
    assert addresses
    assert all(one.startswith(("#", "data:")) for one in addresses), addresses
    assert "fine-tuned" in svg
