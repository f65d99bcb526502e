"""Run tables: what is read, derived and refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from scaletut.scaling import RunTable, TableError, as_table
from scaletut.scaling.table import MAX_RUNS

GOOD = {"params": [1e6, 1e7, 1e8], "examples": [1e4, 2e4, 4e4], "loss": [3.0, 2.5, 2.2]}


def test_frames_mappings_and_files_agree(tmp_path: Path) -> None:
    frame = pd.DataFrame(GOOD)
    frame.to_csv(tmp_path / "runs.csv", index=False)
    digests = {as_table(source).digest for source in (GOOD, frame, tmp_path / "runs.csv", str(tmp_path / "runs.csv"))}
    assert len(digests) == 1


def test_names_are_mapped_and_compute_derived() -> None:
    table = as_table({"N": GOOD["params"], "C": [6e10, 1.2e12, 2.4e13], "nll": GOOD["loss"]},
                     columns={"params": "N", "flops": "C", "loss": "nll"}, cost="6ND")  # fmt: skip
    assert table.examples == pytest.approx([1e4, 2e4, 4e4])
    assert as_table(GOOD, cost="6ND").flops == pytest.approx(6 * np.multiply(GOOD["params"], GOOD["examples"]))
    assert as_table(GOOD | {"flops": [1.0, 2.0, 3.0]}, cost="measured").flops == pytest.approx([1, 2, 3])


def test_drop_highest_keeps_order() -> None:
    assert as_table(GOOD).drop_highest(1).loss.tolist() == [2.5, 2.2]
    with pytest.raises(TableError, match="cannot drop"):
        as_table(GOOD).drop_highest(3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"loss": [3.0, 0.0, 2.2]}, "loss is 0 in row 2"),
        ({"loss": [3.0, -1.0, 2.2]}, "loss is -1"),
        ({"loss": [3.0, float("nan"), 2.2]}, "nan"),
        ({"loss": [3.0, float("inf"), 2.2]}, "inf"),
        ({"loss": [3.0, "2.5 nats", 2.2]}, "'2.5 nats', which is no number"),
        ({"params": [0.0, 1.0, 2.0]}, "params is 0"),
        ({"tokens": [1.0, 2.0, 3.0]}, "both examples and tokens"),
        ({"weight": [0.0, 0.0, 0.0]}, "all weights are 0"),
        ({"weight": [1.0, -1.0, 0.0]}, "weight is -1"),
        ({"params": [1e6, 1e6, 1e8], "examples": [1e4, 1e4, 4e4], "loss": [3.0, 3.0, 2.2]}, "1 and 2 are identical"),
        ({"params": [1e6], "examples": [1.0], "loss": [2.0]}, "1 run"),
        ({"params": [1e6, 2e6], "loss": [2.0, 1.9, 1.8]}, "one value a run"),
    ],
)
def test_bad_tables_are_refused_in_one_line(change: dict, message: str) -> None:
    with pytest.raises(TableError, match=message) as caught:
        as_table(GOOD | change)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("params,params,loss\n1,2,3\n", "twice"),
        ("params,examples,loss\n1,2\n", "row 2: 2 cells for 3 columns"),
        ("params,examples,nll\n1,2,3\n", "no column 'loss'"),
        ("params,examples,loss\n", "0 runs"),
        ("params,examples,loss\n" + "1,2,3\n" * (MAX_RUNS + 5), "more than 100,000 rows"),
    ],
)
def test_bad_files_are_refused_in_one_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "runs.csv"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(TableError, match=message):
        as_table(path)


def test_what_is_no_table_is_refused(tmp_path: Path) -> None:
    (tmp_path / "image.csv").write_bytes(b"\xff\xd8\xff\xe0" * 10)
    for source in (tmp_path / "none.csv", tmp_path / "image.csv", 3, tmp_path):
        with pytest.raises(TableError):
            as_table(source)
    with pytest.raises(TableError, match="unknown column role"):
        as_table(GOOD, columns={"size": "params"})
    with pytest.raises(TableError, match="both missing"):
        as_table({"params": [1.0, 2.0], "loss": [2.0, 1.0]}, cost="6ND")


def test_repeats_with_seeds_are_no_duplicates() -> None:
    table = as_table({"examples": [10, 10, 20], "loss": [1.0, 1.0, 0.5], "seed": [0, 1, 0]})
    assert isinstance(table, RunTable)
    assert len(table) == 3
