"""The frontier: of all points that were measured, those that no other beats in both accuracy and cost. No torch here.

A point is one experiment in the ledger, `compress.NETWORK.STEPS`: records that differ in their seed alone are joined.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from scaletut.errors import ParameterError, RecordError
from scaletut.records import Ledger, Record, Value

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PREFIX = "compress."
Cost = Literal["latency", "latency64", "bytes", "cpu"]
COSTS: dict[Cost, tuple[str, str]] = {  # the value of a record, and the words for it
    "latency": ("latency_1", "latency of one image (ms)"),
    "latency64": ("latency_64", "latency of 64 images (ms)"),
    "bytes": ("bytes", "bytes on disk (kB)"),
    "cpu": ("cpu_seconds", "CPU seconds for 1,000 images"),
}
COMPARED = ("data", "scored", "threads")  # parameters that points on one plot must share
SHOWN = 12  # points of a front that are named in a drawing


@dataclass(frozen=True)
class Point:
    """One program, or one network run by PyTorch: what it costs and what it gets right.

    Attributes:
        name: of its experiment, without `compress.`.
        network: what was compressed.
        steps: what was done to it, as in a recipe; empty for the network as given.
        values: `accuracy` (%), `drop` (points below the network as given), `latency_1` and `latency_64` (ms a call of
            1 and of 64 images), `bytes` (kB), `cpu_seconds` (for 1,000 images), `parameters`, `petaflop` (all training
            that went into it). Means over the seeds, with 95 % intervals; of one seed those of its record.
        seeds: of the runs that were joined.
    """

    name: str
    network: str
    steps: tuple[str, ...]
    values: Mapping[str, Value]
    seeds: tuple[int, ...]

    @property
    def accuracy(self) -> Value:
        """In percent."""
        return self.values["accuracy"]

    def cost(self, x: Cost) -> Value:
        """What it costs on the axis `x`."""
        return self.values[COSTS[x][0]]

    @property
    def label(self) -> str:
        """Network and steps in one line."""
        return f"{self.network}: {', '.join(self.steps) or 'as given'}"

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        values = {
            name: {"value": one.value, "unit": one.unit, "low": one.low, "high": one.high, "n": one.n}
            for name, one in self.values.items()
        }
        return {
            "name": self.name,
            "network": self.network,
            "steps": list(self.steps),
            "seeds": list(self.seeds),
            "values": values,
        }


def points(records: Iterable[Record]) -> tuple[Point, ...]:
    """One point for each experiment `compress.…` among `records` that holds accuracy and costs; others are passed over.

    Raises:
        RecordError: records of one experiment that cannot be joined, or points that cannot be compared: of other data,
            scored on other images, or measured on another processor or with another number of threads.
    """
    wanted = [record for record in records if _is_point(record)]
    _check_comparable(wanted)
    return tuple(_point(name, entries) for name, entries in Ledger.of(wanted).experiments().items())


def front(points: Sequence[Point], x: Cost = "latency") -> tuple[Point, ...]:
    """The points that no other beats, from cheap to dear: none costs less or as much and is at least as accurate.

    Of two that are equal in both, the first stays.
    Raises ParameterError for an unknown axis.
    """
    if x not in get_args(Cost):
        raise ParameterError(f"there is no axis {x!r}: take one of {', '.join(get_args(Cost))}")
    kept: list[Point] = []
    for point in sorted(points, key=lambda point: (point.cost(x).value, -point.accuracy.value)):
        if not kept or point.accuracy.value > kept[-1].accuracy.value:
            kept.append(point)
    return tuple(kept)


def beaten_by(point: Point, best: Sequence[Point], x: Cost = "latency") -> Point | None:
    """The most accurate point of the front `best` that costs no more than `point`; None for a point of the front."""
    if any(point.name == other.name for other in best):
        return None
    return max(
        (other for other in best if other.cost(x).value <= point.cost(x).value), key=lambda other: other.accuracy.value
    )


def plot_front(points: Sequence[Point], x: Cost = "latency") -> Figure:
    """Accuracy against cost: the front in colour, named in order of cost, and what it dominates in grey.

    Raises ParameterError when there are no points, or for an unknown axis.
    """
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    from scaletut import figures

    best = front(points, x)
    if not best:
        raise ParameterError("there are no points to draw: run `scaletut compress`, or name a folder with its records")
    height = figures.HEIGHT + 0.17 * min(len(best), SHOWN)
    figure, axes = figures.panels(1, 1, height=height)
    kept = {point.name for point in best}
    _scatter(axes, [point for point in points if point.name not in kept], x, figures.QUIET, alpha=0.35)
    costs, accuracies = ([value.value for value in some] for some in _ends(best, x))
    axes.step(costs, accuracies, where="post", color=figures.PALETTE[0], linewidth=1.2, alpha=0.6)
    _scatter(axes, best, x, figures.PALETTE[0])
    for number, point in enumerate(best, 1):
        where = (point.cost(x).value, point.accuracy.value)
        axes.annotate(str(number), where, (-4, 5), textcoords="offset points", ha="right", fontsize=9, weight="bold")
    axes.set(xscale="log", xlabel=COSTS[x][1], ylabel="accuracy (%)", title="What no other point beats, and the rest")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    named = [f"{number}  {point.label}" for number, point in enumerate(best[:SHOWN], 1)]
    named += [f"… and {len(best) - SHOWN} more"] if len(best) > SHOWN else []
    figure.supxlabel("\n".join(named), x=0.02, ha="left", fontsize=8, color=figures.INK)
    return figure


def _scatter(axes: Axes, points: Sequence[Point], x: Cost, colour: str, alpha: float = 1.0) -> None:
    """Dots with their intervals, where these are known."""
    if not points:
        return
    costs, accuracies = _ends(points, x)
    axes.errorbar(
        [value.value for value in costs],
        [value.value for value in accuracies],
        xerr=_bars(costs),
        yerr=_bars(accuracies),
        fmt="o",
        markersize=5,
        color=colour,
        alpha=alpha,
        elinewidth=1,
    )


def _ends(points: Sequence[Point], x: Cost) -> tuple[list[Value], list[Value]]:
    return [point.cost(x) for point in points], [point.accuracy for point in points]


def _bars(values: Sequence[Value]) -> np.ndarray:
    """(2, n) lengths of the bars below and above each value; 0 where there is no interval."""
    ends = [(v.value, v.value) if v.low is None else (v.low, v.high) for v in values]
    middle = np.array([v.value for v in values])
    low, high = np.array(ends).T
    return np.array([middle - low, high - middle])


def _is_point(record: Record) -> bool:
    needed = {"accuracy", *(value for value, _ in COSTS.values())}
    return record.experiment.startswith(PREFIX) and needed <= set(record.values) and "steps" in record.parameters


def _check_comparable(records: Sequence[Record]) -> None:
    for name in (*COMPARED, "processor"):
        found = {
            record.device.get("name") if name == "processor" else record.parameters.get(name): record
            for record in records
        }
        if len(found) > 1:
            (one, first), (other, second), *_ = found.items()
            raise RecordError(
                f"points cannot be compared: {name} is {one} in {first.experiment} and {other} in {second.experiment}; "
                "give a folder with records of one kind"
            )


def _point(experiment: str, entries: Sequence[Any]) -> Point:
    records = entries[0].records
    values = {entry.key.removeprefix(f"{experiment}."): entry.measured for entry in entries}
    parameters = records[0].parameters
    seeds = tuple(seed for record in records for seed in record.seeds)
    steps = tuple(parameters["steps"])
    return Point(experiment.removeprefix(PREFIX), parameters["network"], steps, values, seeds)
