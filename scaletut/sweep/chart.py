"""A drawing of a sweep in plain characters, for a terminal: losses on logarithmic axes, and a law's lines."""

from __future__ import annotations

import math
import string
from collections.abc import Callable, Mapping, Sequence

Predict = Callable[[Mapping[str, Sequence[float]]], Sequence[float]]
LINE, MARGIN = "·", 9


def draw(
    table: Mapping[str, Sequence[float]], predict: Predict | None = None, *, columns: int = 76, rows: int = 16
) -> str:
    """Loss against examples, a letter a network size; or against parameters, a letter a number of examples.

    table: columns params, examples and loss (`run_table`); what takes more different values lies along the axis.
    predict: losses at columns params and examples by a law (`scaletut.scaling.Fit.predict`), drawn as a dotted line
    for each letter; None where there is no law yet.
    columns, rows: size of the frame's inside, in characters.
    Returns an empty text where nothing has a loss yet.
    """
    if not table["loss"]:
        return ""
    along, by = "examples", "params"
    if len(set(table[along])) < len(set(table[by])):
        along, by = by, along
    letters = dict(zip(sorted(set(table[by])), string.ascii_letters, strict=False))  # beyond 52 sizes: no letter left
    grid = _Grid(table[along], table["loss"], columns, rows)
    for group in letters if predict else ():
        xs = grid.along()
        for x, loss in zip(xs, predict({along: xs, by: [group] * len(xs)}), strict=True):
            grid.point(x, loss, LINE)
    for x, loss, group in zip(table[along], table["loss"], table[by], strict=True):
        grid.point(x, loss, letters.get(group, "+"))
    legend = ", ".join(f"{letter} {group:,.0f}" for group, letter in letters.items())
    return "\n".join(["loss, nats", *grid.lines(along), f"{by}: {legend}" + (f"; {LINE} the law" if predict else "")])


class _Grid:
    """Characters on two logarithmic axes that hold all of `xs` and `ys`."""

    def __init__(self, xs: Sequence[float], ys: Sequence[float], columns: int, rows: int) -> None:
        self.x, self.y = _span(xs), _span(ys)
        self.cells = [[" "] * columns for _ in range(rows)]

    def along(self) -> list[float]:
        """Values over the width of the frame, two a column."""
        low, high, steps = *self.x, 2 * len(self.cells[0])
        return [low * (high / low) ** (step / steps) for step in range(steps + 1)]

    def point(self, x: float, y: float, letter: str) -> None:
        """Write `letter` at (x, y), if that lies inside."""
        if not (y > 0 and math.isfinite(y)):
            return
        rows, columns = len(self.cells), len(self.cells[0])
        row, column = round((rows - 1) * (1 - _share(y, *self.y))), round((columns - 1) * _share(x, *self.x))
        if 0 <= row < rows and 0 <= column < columns:
            self.cells[row][column] = letter

    def lines(self, name: str) -> list[str]:
        """The frame with its cells, the losses at its left and the values of `name` below."""
        rows, columns, plain = len(self.cells), len(self.cells[0]), " " * (MARGIN - 1) + "│"
        marked = {row: self.y[0] * (self.y[1] / self.y[0]) ** (1 - row / (rows - 1)) for row in range(0, rows, 5)}
        sides = [f"{marked[row]:{MARGIN - 2}.3g} ┤" if row in marked else plain for row in range(rows)]
        low, high, middle = (f"{value:,.0f}" for value in (*self.x, math.sqrt(self.x[0] * self.x[1])))
        below = low + middle.center(columns - len(low) - len(high)) + high
        return [
            *(side + "".join(cells) for side, cells in zip(sides, self.cells, strict=True)),
            " " * (MARGIN - 1) + "└" + "─" * columns,
            " " * MARGIN + below,
            " " * MARGIN + name.center(columns).rstrip(),
        ]


def _span(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    return (low, high) if low < high else (low / 1.1, high * 1.1)


def _share(value: float, low: float, high: float) -> float:
    return math.log(value / low) / math.log(high / low)
