"""The chapter on cleaning: its own detectors, its interval, its links and claims."""

from __future__ import annotations

import ast
import json
import re
import types
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import t as student

from scaletut.chapters import pairs
from scaletut.records import Value

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def book():
    return pairs.read_notebook(ROOT / "notebooks" / "cleaning.ipynb")


@pytest.fixture(scope="module")
def cells(book) -> list[str]:
    return [cell.source for cell in book.cells if cell.cell_type == "code"]


@pytest.fixture(scope="module")
def prose(book) -> str:
    return "\n\n".join(cell.source for cell in book.cells if cell.cell_type == "markdown")


def defined(cells: list[str], name: str, **names: object) -> types.FunctionType:
    """A function that the chapter defines, with what it needs given."""
    (source,) = [cell for cell in cells if re.search(rf"^def {name}\(", cell, re.MULTILINE)]
    body = [node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef) and node.name == name]
    space: dict[str, object] = {"np": np, **names}
    exec(compile(ast.Module(body, []), "<cell>", "exec"), space)
    return space[name]


def test_small_vectors_do_not_see_brightness(cells: list[str]) -> None:
    small = defined(cells, "small")
    image = np.random.default_rng(0).integers(20, 200, (1, 32, 32, 3)).astype(np.uint8)
    one, brighter = small(image), small(image + 30)
    assert one.shape == (1, 192)
    assert (one @ brighter.T).item() == pytest.approx(1, abs=1e-5)


def test_sharpness_falls_when_an_image_is_smoothed(cells: list[str]) -> None:
    sharpness = defined(cells, "sharpness")
    image = np.random.default_rng(0).integers(0, 256, (1, 32, 32, 3)).astype(np.float32)
    smooth = (image + np.roll(image, 1, 1) + np.roll(image, 1, 2)) / 3
    assert sharpness(smooth)[0] < sharpness(image)[0] - 0.3


def test_the_vote_is_the_share_among_neighbours(cells: list[str]) -> None:
    vote = defined(cells, "vote", K=3)
    alike = np.array([[-1, 3, 2, 1.0], [3, -1, 2, 1], [1, 2, -1, 3], [1, 2, 3, -1]])
    np.testing.assert_allclose(vote(alike, np.array([0, 1, 2, 2]), 2)[0], [0, 0.5, 0.5])


def test_confident_learning_by_hand_is_its_rule(cells: list[str]) -> None:
    """A label is doubted when another class reaches the mean confidence of those that carry it."""
    doubted = defined(cells, "doubted", K=2)
    probability = np.array([[0.9, 0.1], [0.8, 0.2], [0.1, 0.9], [0.2, 0.8], [0.14, 0.86]])
    assert doubted(np.array([0, 0, 1, 1, 0]), probability).tolist() == [4]
    assert doubted(np.array([0, 0, 1, 1, 1]), probability).tolist() == []


def test_the_interval_of_the_share_is_fiellers(cells: list[str]) -> None:
    """At its ends the mean of (cleaned - dirty) - f (oracle - dirty) is just as far from zero as t allows."""
    recovered = defined(cells, "recovered", student=student, Value=Value)
    scores = {"dirty": [50, 51, 49, 50, 52], "cleaned": [55, 55, 54.5, 56, 56], "oracle": [60, 60.5, 59, 61, 60]}
    share = recovered(scores)
    base, ours, best = (np.array(scores[name], float) for name in scores)
    assert share.value == pytest.approx(100 * (ours - base).mean() / (best - base).mean())
    for end in (share.low, share.high):
        rest = (ours - base) - end / 100 * (best - base)
        statistic = abs(rest.mean()) / (rest.std(ddof=1) / np.sqrt(5))
        assert statistic == pytest.approx(student.ppf(0.975, 4), rel=0.02)


def test_links_lead_to_numbers_in_the_record(prose: str) -> None:
    linked = set(re.findall(r"\]\(#cleaning\.(\w+)\)", prose))
    record = json.loads((ROOT / "results" / "cleaning.json").read_text(encoding="utf-8"))
    assert len(linked) >= 15
    assert linked <= set(record["values"]) | {"run_minutes", "run_peak_memory"}


def test_takeaways_end_with_evidence(prose: str) -> None:
    takeaways = re.findall(r"^> \*\*Takeaway\.\*\*\n((?:> .*\n?)+)", prose, re.MULTILINE)
    assert len(takeaways) >= 3
    assert all("](#cleaning." in text for text in takeaways)


def test_claims_hold_in_both_records() -> None:
    for name in ("cleaning.json", "quick/cleaning.json"):
        record = json.loads((ROOT / "results" / name).read_text(encoding="utf-8"))
        assert len(record["claims"]) >= 9
        assert all(record["claims"].values())


def test_the_list_of_copies_is_what_its_readme_says() -> None:
    import csv

    folder = ROOT / "results" / "near_duplicates"
    with open(folder / "cifar10.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    counts = {name: sum(row["judgement"] == name for row in rows) for name in ("duplicate", "similar", "different")}
    told = (folder / "README.md").read_text(encoding="utf-8")
    assert f"Of the {len(rows)} pairs {counts['duplicate']} were judged `duplicate`, {counts['similar']}" in told
    assert len({row["test_index"] for row in rows}) == len(rows)
    assert sum(counts.values()) == len(rows) == 800
