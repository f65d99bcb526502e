"""The frontier: what is on it is beaten by nothing, seeds are joined, and points that do not compare are refused."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scaletut.compress.frontier import COSTS, Point, beaten_by, front, plot_front, points
from scaletut.errors import ParameterError, RecordError
from scaletut.records import Record, Value, new_record


def record(name: str, accuracy: float, latency: float, seed: int = 0, **changes) -> Record:
    values = {
        "accuracy": Value(accuracy, "%", accuracy - 1, accuracy + 1),
        "latency_1": Value(latency, "ms", 0.9 * latency, 1.1 * latency, 7),
        "latency_64": Value(20 * latency, "ms"),
        "bytes": Value(100 * latency, "kB"),
        "cpu_seconds": Value(0.3 * latency, "s"),
    }
    for left_out in changes.pop("without", ()):
        del values[left_out]
    parameters = {"network": "resnet8", "steps": [name], "data": "zipf10", "scored": "200", "threads": 1, "seed": seed}
    return new_record(
        f"compress.resnet8.{name}",
        profile="quick",
        parameters={**parameters, **changes},
        data_digest="ab",
        seeds=[seed],
        values=values,
        wall_seconds=1.0,
    )


def made(pairs) -> tuple[Point, ...]:
    """Points with the given (latency, accuracy)."""
    return points([record(f"p{n}", accuracy, latency) for n, (latency, accuracy) in enumerate(pairs)])


def test_the_front_of_five_points() -> None:
    found = made([(1.0, 80.0), (2.0, 79.0), (2.0, 85.0), (3.0, 85.0), (4.0, 90.0)])
    assert [point.name for point in front(found)] == ["resnet8.p0", "resnet8.p2", "resnet8.p4"]
    assert beaten_by(found[1], front(found)).name == "resnet8.p2"
    assert beaten_by(found[3], front(found)).name == "resnet8.p2"
    assert beaten_by(found[4], front(found)) is None


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(50, 60)), min_size=1, max_size=12))
def test_nothing_on_the_front_is_beaten_and_all_else_is(pairs) -> None:
    """Against the definition, by comparing all with all."""

    def beats(one, other) -> bool:
        return one[0] <= other[0] and one[1] >= other[1] and one != other

    found = _points(pairs)
    best = front(found)
    unbeaten = {pair for pair in pairs if not any(beats(other, pair) for other in pairs)}
    assert [(point.cost("latency").value, point.accuracy.value) for point in best] == sorted(unbeaten)
    for point, (cost, accuracy) in zip(found, pairs, strict=True):
        other = beaten_by(point, best)
        assert (other is None) == (point in best)
        if other:
            assert other.cost("latency").value <= cost
            assert other.accuracy.value >= accuracy


def _points(pairs) -> list[Point]:
    """As `made`, without records, which take longer."""
    return [
        Point(f"p{n}", "net", (), {"latency_1": Value(float(x), "ms"), "accuracy": Value(float(y), "%")}, (0,))
        for n, (x, y) in enumerate(pairs)
    ]


def test_seeds_are_joined_into_a_mean_with_an_interval() -> None:
    found = points([record("int8", 80 + seed, 2.0, seed) for seed in (0, 1, 2)])
    assert len(found) == 1
    assert found[0].seeds == (0, 1, 2)
    accuracy = found[0].accuracy
    assert accuracy.value == pytest.approx(81)
    assert accuracy.n == 3
    assert accuracy.high - accuracy.value == pytest.approx(4.3027 / 3**0.5, rel=1e-3)  # t(0.975, 2) s / sqrt(3)
    assert points([record("int8", 80, 2.0)])[0].accuracy.low == 79  # of one seed: that of its images


def test_what_is_no_point_is_passed_over() -> None:
    other = new_record(
        "train.fast", profile="quick", parameters={}, data_digest="ab", seeds=[0], values={"accuracy": Value(9.0, "%")},
        wall_seconds=1.0,
    )  # fmt: skip
    assert len(points([other, record("a", 80, 1.0), record("b", 80, 1.0, without=("bytes",))])) == 1
    assert points([]) == ()


@pytest.mark.parametrize("changes", [{"data": "cifar10"}, {"scored": "the test set"}, {"threads": 2}])
def test_points_that_do_not_compare_are_refused(changes: dict) -> None:
    with pytest.raises(RecordError, match=next(iter(changes))):
        points([record("a", 80, 1.0), record("b", 81, 2.0, **changes)])


def test_another_axis_gives_another_front() -> None:
    found = _points([(1, 50), (2, 60)])
    small = [
        Point(p.name, p.network, p.steps, {**p.values, "bytes": Value(size, "kB")}, p.seeds)
        for p, size in zip(found, (5.0, 1.0), strict=True)
    ]
    assert [point.name for point in front(small)] == ["p0", "p1"]
    assert [point.name for point in front(small, "bytes")] == ["p1"]
    with pytest.raises(ParameterError, match="latency64"):
        front(small, "speed")


def test_the_drawing_has_every_point_once_and_its_front_in_colour(tmp_path: Path) -> None:
    from matplotlib.colors import to_rgba

    from scaletut.figures import PALETTE

    found = made([(1.0, 80.0), (2.0, 79.0), (3.0, 90.0), (4.0, 88.0), (5.0, 87.0)])
    figure = plot_front(found)
    (axes,) = figure.axes
    grey, line, coloured = axes.lines
    assert sorted(grey.get_xdata()) == [2, 4, 5]
    assert sorted(coloured.get_xdata()) == [1, 3]
    assert coloured.get_color() == line.get_color() == PALETTE[0]
    assert to_rgba(grey.get_color()) != to_rgba(PALETTE[0])
    assert [text.get_text() for text in axes.texts] == ["1", "2"]
    assert "resnet8: p2" in figure.get_supxlabel()
    bars = np.concatenate([segment for one in axes.collections for segment in one.get_segments()])
    assert {79.0, 81.0, 0.9, 1.1} <= set(np.round(bars, 6).flatten())  # intervals of the first point
    with pytest.raises(ParameterError, match="no points"):
        plot_front(())


def test_every_axis_names_a_value_of_the_records() -> None:
    point = made([(1.0, 80.0)])[0]
    for axis in COSTS:
        assert point.cost(axis).value > 0
    assert point.to_dict()["values"]["accuracy"] == {"value": 80.0, "unit": "%", "low": 79.0, "high": 81.0, "n": 1}
