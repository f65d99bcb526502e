"""The chapter on cleaning: its own detectors, its interval, its links and claims."""

from __future__ import annotations

import ast
import csv
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


def test_the_seeds_needed_give_the_width_asked_for(cells: list[str]) -> None:
    """At so many seeds Fieller's half-width, at the scatter seen, is within 20 points; at one fewer it is not."""
    needed = defined(cells, "runs_needed", student=student)
    scores = {"dirty": [50, 51, 49, 50, 52], "cleaned": [55, 52, 54.5, 56, 56], "oracle": [60, 60.5, 59, 61, 60]}
    n = needed(scores)
    base, ours, best = (np.array(scores[name], float) for name in scores)
    gain = (best - base).mean()
    scatter = (ours - base - (ours - base).mean() / gain * (best - base)).std(ddof=1)
    widths = [student.ppf(0.975, m - 1) * scatter / np.sqrt(m) / gain for m in (n - 1, n)]
    assert widths[1] <= 0.2 < widths[0]
    assert needed(scores, half=5) > 4 * n


def test_the_share_found_is_marked_with_wilsons_interval(cells: list[str]) -> None:
    """Wilson (1927): 9 of 10 gives 59.6 % to 98.2 %, as in the tables."""
    from scipy.stats import binomtest

    share = defined(cells, "found_share", binomtest=binomtest, Value=Value)
    value = share(set(range(1, 30)), set(range(10)))
    assert (value.value, value.n) == (90, 10)
    assert (value.low, value.high) == pytest.approx((59.6, 98.2), abs=0.05)


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


FOLDER = ROOT / "results" / "near_duplicates"
JUDGEMENTS = ("duplicate", "similar", "different")


def judged(name: str) -> list[dict[str, str]]:
    """The judged pairs of one list."""
    with open(FOLDER / name, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def copies(rows: list[dict[str, str]]) -> set[str]:
    """Test images with a pair that was judged a duplicate."""
    return {row["test_index"] for row in rows if row["judgement"] == "duplicate"}


def test_the_lists_of_copies_are_what_their_readme_says() -> None:
    first, second = judged("cifar10.csv"), judged("cifar10_second_look.csv")
    told = (FOLDER / "README.md").read_text(encoding="utf-8")
    one, two, three = (sum(row["judgement"] == name for row in first) for name in JUDGEMENTS)
    assert f"Of the {len(first)} pairs {one} were judged `duplicate`, {two} `similar` and {three} `different`" in told
    assert one + two + three == len(first) == len({row["test_index"] for row in first})
    one, two, three = (sum(row["judgement"] == name for row in second) for name in JUDGEMENTS)
    assert f"Of them {one} were judged `duplicate`, {two} `similar` and {three} `different`" in told
    both = copies(first) | copies(second)
    assert f"{len(both)} test images with a near duplicate" in told
    assert f"{len(both) - len(copies(first))} of the duplicates are of test images that the first file" in told


def test_the_chapter_counts_the_copies_of_both_lists() -> None:
    record = json.loads((ROOT / "results" / "cleaning.json").read_text(encoding="utf-8"))
    listed = copies(judged("cifar10.csv")) | copies(judged("cifar10_second_look.csv"))
    assert record["values"]["copies"]["value"] == len(listed)
