"""The receipt: bands from intervals, what is judged and what is told, and a page that says so."""

import json
import math

import pytest

from scaletut.chapters import receipt
from scaletut.records import Value, new_record, write_record


def record(folder, *, accuracy=80.0, half=2.0, claim=True, loss=1.0, minutes=2.0, extra=None):
    values = {
        "accuracy": Value(accuracy, "%", accuracy - half, accuracy + half, 3),
        "loss": Value(loss, "nats"),
        "speed": Value(100.0 * minutes, "images/s"),
        **(extra or {}),
    }
    made = new_record(
        "finetune", profile="quick", parameters={"epochs": 2}, data_digest="0" * 64, seeds=[0], values=values,
        claims={"it learns": claim}, wall_seconds=60 * minutes, peak_memory_bytes=10**9,
    )  # fmt: skip
    write_record(made, folder, name="finetune.json", replace=True)


@pytest.fixture
def root(tmp_path):
    record(tmp_path / "results" / "quick")
    return tmp_path


def statuses(slip):
    return {row.name: row.status for row in slip.rows}


def test_the_same_run_is_within_every_band(root):
    record(root / "_build" / "records" / "quick", minutes=9.0)
    slip = receipt.compare(root)
    assert slip.faults == ()
    assert statuses(slip) == {
        "accuracy": "within",
        "loss": "within",
        "speed": "machine",
        "claim: it learns": "within",
        "minutes": "machine",
        "peak memory": "machine",
    }


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"accuracy": 80 - 2 * 2.83 * 1.01}, "accuracy"),
        ({"accuracy": 80 + 2 * 2.83 * 1.01}, "accuracy"),
        ({"loss": 1.26}, "loss"),
        ({"loss": 0.74}, "loss"),
        ({"claim": False}, "claim: it learns"),
        ({"extra": {"new": Value(1.0)}}, "new"),
    ],
)
def test_what_leaves_its_band_is_a_fault(root, change, fault):
    record(root / "_build" / "records" / "quick", **change)
    assert [row.name for row in receipt.compare(root).faults] == [fault]


@pytest.mark.parametrize("change", [{"accuracy": 80 - 2 * 2.82}, {"loss": 1.24}, {"minutes": 100.0}])
def test_what_stays_in_its_band_is_none(root, change):
    record(root / "_build" / "records" / "quick", **change)
    assert receipt.compare(root).faults == ()


def test_bands_have_a_floor_and_follow_both_sides():
    low, high = receipt.band(Value(50.0, "%", 49.99, 50.01, 3))
    assert (low, high) == pytest.approx((48.0, 52.0))
    low, high = receipt.band(Value(50.0, "%", 48.0, 50.5, 3))
    assert (low, high) == pytest.approx((50 - 4 * math.sqrt(2), 52.0))
    assert receipt.band(Value(0.1, "points", 0.0, 0.2, 3)) == pytest.approx((-1.9, 2.1))
    assert receipt.band(Value(50.0, "%")) == (45.0, 55.0)
    assert receipt.band(Value(2.0, "nats", 2.0, 2.0, 3)) == pytest.approx((1.96, 2.04))
    for unit in ("s", "min", "GB", "images/s"):
        assert receipt.band(Value(3.0, unit)) is None


def test_a_chapter_that_only_one_side_has_is_a_fault(root, tmp_path):
    slip = receipt.compare(root)
    assert [(row.recorded, row.here, row.status) for row in slip.faults] == [("recorded", "not run", "missing")]
    (root / "results" / "quick" / "finetune.json").unlink()
    record(root / "_build" / "records" / "quick")
    slip = receipt.compare(root)
    assert [(row.recorded, row.here, row.status) for row in slip.faults] == [("–", "run", "missing")]


def test_a_book_without_any_run_still_has_the_page(tmp_path):
    slip = receipt.compare(tmp_path)
    assert slip.rows == ()
    receipt.write(slip, tmp_path / "receipt.json", tmp_path / "receipt.md")
    assert "No quick run is recorded yet" in (tmp_path / "receipt.md").read_text(encoding="utf-8")


def test_page_and_json_tell_the_same(root):
    record(root / "_build" / "records" / "quick", accuracy=10.0)
    slip = receipt.compare(root)
    receipt.write(slip, root / "_build" / "receipt.json", root / "book" / "receipt.md")
    told = json.loads((root / "_build" / "receipt.json").read_text(encoding="utf-8"))
    assert told["passed"] is False
    assert len(told["rows"]) == len(slip.rows)
    page = (root / "book" / "receipt.md").read_text(encoding="utf-8")
    assert "1 of 6 rows are outside" in page
    assert "| accuracy | 80 ± 2 % | 10 ± 2 % |" in page
    assert "2.8 times its half-width" in page


def test_what_follows_from_times_is_told_and_not_judged() -> None:
    near, far = Value(1.4, "×", 1.3, 1.5, 5), Value(2.9, "×", 2.8, 3.0, 5)
    assert receipt._value_row("tuning", "gain_resnet8", near, far).status == "machine"
    assert receipt._value_row("tuning", "rule_least", near, far).status == "outside"
    assert receipt._value_row("finetune", "gain_resnet8", near, far).status == "outside"
