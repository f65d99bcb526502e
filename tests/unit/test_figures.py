"""The figure style: colours that everyone can tell apart, intervals drawn where they are."""

from __future__ import annotations

import itertools

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pytest

from scaletut import figures
from scaletut.errors import ParameterError
from scaletut.records import Value

# How dichromats see linear RGB (Machado, Oliveira and Fernandes 2009, severity 1).
SIGHT = {
    "usual": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}
TO_XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
FAR_APART = 30  # CIE76 distance; side by side an eye can just tell 2.3


def linear(colour: str) -> np.ndarray:
    rgb = np.array(mpl.colors.to_rgb(colour))
    return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)


def lab(rgb: np.ndarray) -> np.ndarray:
    xyz = TO_XYZ @ np.clip(rgb, 0, 1) / (TO_XYZ @ np.ones(3))
    x, y, z = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def contrast_with_white(colour: str) -> float:
    return 1.05 / (TO_XYZ[1] @ linear(colour) + 0.05)


@pytest.fixture
def axes():
    figure, axes = plt.subplots()
    yield axes
    plt.close(figure)


@pytest.mark.parametrize("colour", figures.PALETTE)
def test_each_colour_stands_out_from_white(colour: str) -> None:
    assert contrast_with_white(colour) >= 3


def test_text_is_legible() -> None:
    assert contrast_with_white(figures.INK) >= 7
    assert contrast_with_white(figures.QUIET) >= 4.5


@pytest.mark.parametrize("sight", SIGHT)
def test_any_two_colours_can_be_told_apart(sight: str) -> None:
    seen = [lab(np.asarray(SIGHT[sight]) @ linear(colour)) for colour in figures.PALETTE]
    nearest = min(np.linalg.norm(a - b) for a, b in itertools.combinations(seen, 2))
    assert nearest >= FAR_APART


def test_markers_are_a_second_cue() -> None:
    assert len(set(figures.MARKERS)) == len(figures.MARKERS) == len(figures.PALETTE)


def test_style_reaches_the_next_figure() -> None:
    with mpl.rc_context():
        figures.use_style()
        figure, axes = figures.panels(1, 2, height=2.5)
        assert tuple(figure.get_size_inches()) == (figures.WIDTH, 2.5)
        (line,) = axes[0].plot([0, 1], [0, 1])
        assert mpl.colors.same_color(line.get_color(), figures.PALETTE[0])
        assert not axes[0].spines["top"].get_visible()
        plt.close(figure)


def test_a_line_carries_the_interval_of_each_value(axes) -> None:
    values = [Value(2, "%", 1, 4, 3), Value(5, "%"), Value(6, "%", 5.5, 6.5, 3)]
    figures.line_with_band(axes, [10, 50, 200], values, "full", number=1)
    (line,) = axes.lines
    assert list(line.get_ydata()) == [2, 5, 6]
    assert line.get_label() == "full"
    corners = axes.collections[0].get_paths()[0].vertices
    spans = {x: (corners[corners[:, 0] == x, 1].min(), corners[corners[:, 0] == x, 1].max()) for x in (10, 50, 200)}
    assert spans == {10: (1, 4), 50: (5, 5), 200: (5.5, 6.5)}  # one run has no spread to show


def test_dots_are_rows_from_the_top_with_their_intervals(axes) -> None:
    figures.dots_with_intervals(axes, ["crop", "flip"], [Value(-2, "points", -3, -1, 3), Value(1, "points")])
    (dots,) = axes.lines
    assert list(dots.get_xdata()) == [-2, 1]
    assert [text.get_text() for text in axes.get_yticklabels()] == ["crop", "flip"]
    assert axes.yaxis_inverted()
    first, second = axes.collections[0].get_segments()
    assert sorted(first[:, 0]) == [-3, -1]
    assert sorted(second[:, 0]) == [1, 1]


def test_no_rows_are_no_warning(axes, recwarn) -> None:
    figures.dots_with_intervals(axes, [], [])
    assert not recwarn.list


def test_images_are_drawn_unsmoothed_and_named() -> None:
    figure, axes = plt.subplots(1, 2)
    pictures = np.arange(2 * 4 * 4 * 3, dtype=np.uint8).reshape(2, 4, 4, 3)
    figures.show_images(axes, pictures, ["a", "b"])
    for ax, picture, title in zip(axes, pictures, "ab", strict=True):
        assert np.array_equal(ax.images[0].get_array(), picture)
        assert ax.images[0].get_interpolation() == "nearest"
        assert ax.get_title() == title
    plt.close(figure)


def test_epochs_have_no_halves(axes) -> None:
    axes.plot([1, 2], [0, 1])
    figures.count_in_whole_numbers(axes)
    ticks = [tick for tick in axes.get_xticks() if 1 <= tick <= 2]
    assert ticks == [1, 2]


def test_rows_of_images_share_a_grid_and_carry_their_names(axes) -> None:
    rows = [np.full((n, 4, 5, 3), shade, np.uint8) for n, shade in ((3, 10), (2, 20))]
    figures.image_rows(axes, rows, ["cat", "dog"])
    picture = axes.images[0].get_array()
    assert picture.shape == (2 * 6, 2 * 7, 3)  # two rows of two images, each in a frame of one pixel
    assert (picture[1:5, 1:6] == 10).all()
    assert (picture[7:11, 8:13] == 20).all()
    assert (picture[0] == 255).all()
    assert [text.get_text() for text in axes.get_yticklabels()] == ["cat", "dog"]
    with pytest.raises(ParameterError, match="1 names for 2 rows"):
        figures.image_rows(axes, rows, ["cat"])


def test_a_heat_map_tells_each_number_in_a_legible_colour(axes) -> None:
    figures.heat_map(axes, np.array([[90.4, 9.6], [0, 100]]), ["cat", "dog"])
    assert [text.get_text() for text in axes.texts] == ["90", "10", "0", "100"]
    shades = axes.images[0]
    for text, value in zip(axes.texts, (90.4, 9.6, 0, 100), strict=True):
        behind, ink = (contrast_with_white(mpl.colors.to_hex(c)) for c in (shades.cmap(value / 100), text.get_color()))
        assert max(behind, ink) / min(behind, ink) >= 4.5
    with pytest.raises(ParameterError, match="3 names"):
        figures.heat_map(axes, np.zeros((2, 2)), ["a", "b", "c"])


@pytest.mark.parametrize("draw", [figures.dots_with_intervals, figures.line_with_band])
def test_counts_that_differ_are_refused(axes, draw) -> None:
    extra = ("name",) if draw is figures.line_with_band else ()
    with pytest.raises(ParameterError, match="1 values"):
        draw(axes, ["a", "b"], [Value(1)], *extra)
