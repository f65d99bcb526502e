"""`scaletut watch`: the drawing shows the runs where they lie, and the law through them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sweep_cases import opened, plan, recorded

from scaletut import cli
from scaletut.sweep.chart import LINE, MARGIN, draw

SIZES, COUNTS = [1e3, 1e4, 1e5], [100.0, 1_000.0, 10_000.0, 100_000.0]
TABLE = {
    "params": [n for n in SIZES for _ in COUNTS],
    "examples": [d for _ in SIZES for d in COUNTS],
    "loss": [10 * n**-0.25 + 5 * d**-0.25 for n in SIZES for d in COUNTS],
}


def law(table):
    n, d = (np.asarray(table[name], float) for name in ("params", "examples"))
    return 10 * n**-0.25 + 5 * d**-0.25


def cells(drawing: str) -> list[str]:
    """The inside of the frame."""
    return [line[MARGIN:] for line in drawing.splitlines()[1:] if line[MARGIN - 1 : MARGIN] in "│┤"]


def test_runs_lie_where_their_values_say() -> None:
    rows = cells(draw(TABLE, columns=61, rows=13))
    assert len(rows) == 13
    where = {letter: sorted(row.index(letter) for row in rows if letter in row) for letter in "abc"}
    assert where == {letter: [0, 20, 40, 60] for letter in "abc"}  # decades lie evenly on a logarithmic axis
    assert rows[0][0] == "a"  # the smallest network on the fewest examples has the highest loss
    assert rows[-1][-1] == "c"
    heights = {letter: [next(r for r, row in enumerate(rows) if row[x] == letter) for x in (0, 60)] for letter in "ac"}
    assert heights["a"][0] < heights["c"][0] < heights["c"][1]


def test_a_law_that_holds_runs_through_every_letter_and_one_that_does_not_misses() -> None:
    with_runs = cells(draw(TABLE, law, columns=61, rows=13))
    dots = cells(draw({name: column[:1] + column[-1:] for name, column in TABLE.items()}, law, columns=61, rows=13))
    assert all(row.count(LINE) for row in dots[1:-1])
    plain = cells(draw(TABLE, columns=61, rows=13))
    assert [[c if c in "abc" else " " for c in row] for row in with_runs] == [list(row) for row in plain]
    beside = [row[x - 1] + row[x + 1] for row in with_runs for x in (20, 40) if row[x] in "abc"]
    assert all(LINE in pair for pair in beside)
    assert LINE not in "".join(cells(draw(TABLE, lambda table: 100 + law(table), columns=61, rows=13)))


def test_what_takes_more_values_lies_along_the_axis() -> None:
    assert draw(TABLE).splitlines()[-2].strip() == "examples"
    turned = {"params": TABLE["examples"], "examples": TABLE["params"], "loss": TABLE["loss"]}
    assert draw(turned).splitlines()[-2].strip() == "params"
    assert draw(TABLE).splitlines()[-1] == "params: a 1,000, b 10,000, c 100,000"


@pytest.mark.parametrize("count", [0, 1])
def test_few_runs_are_drawn_too(count: int) -> None:
    drawing = draw({name: column[:count] for name, column in TABLE.items()})
    assert "".join(cells(drawing)).count("a") == count


def test_many_sizes_and_losses_that_are_not_numbers_do_no_harm() -> None:
    many = {"params": list(range(1, 61)), "examples": [10.0] * 60, "loss": [1.0 + k for k in range(60)]}
    turned = {"params": many["params"], "examples": [float(k) for k in range(1, 61)], "loss": many["loss"]}
    assert "+" in draw(turned)
    assert draw(many, lambda table: [float("nan")] * len(table["params"]))


def test_watch_shows_the_law_as_soon_as_there_is_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = opened(tmp_path)
    runs = plan(widths=[0.125, 0.25, 0.5], examples=[500, 1000, 2000, 4000]).runs()
    for number, run in enumerate(runs):
        params = 1e6 * run.width**2
        store.write(run, recorded(run, 0.3 + 12 * params**-0.35 + 30 * run.examples**-0.4))
        if number in (2, len(runs) - 1):
            assert cli.main(["watch", str(tmp_path), "--once"]) == 0
            told = capsys.readouterr().out
            assert f"{number + 1} runs recorded" in told
            assert (LINE in told) == ("L = E + A" in told) == (number > 2)
            assert "params: a 15,625" in told or number == 2
    store.path(runs[0]).write_bytes(b"{}")  # a record that was altered is refused
    assert cli.main(["watch", str(tmp_path), "--once"]) == 2


def test_watch_of_no_folder_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["watch", str(tmp_path / "absent"), "--once"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
