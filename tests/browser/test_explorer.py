"""The interactive figure of a budget: moved in a browser, it says what the library says."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
from checks import DESKTOP, PHONE, barriers, set_theme, wide_elements

from scaletut import scaling
from scaletut.chapters.published import simulated_runs
from scaletut.scaling.explorer import explore_budget

FLOPS = 1e22
SUPERSCRIPTS = str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789")


@pytest.fixture(scope="module")
def law():
    return scaling.fit(simulated_runs(1).drop_highest(5), "additive", bootstrap=200)


def numbers(text):
    """Numbers as people write them: 1.5 × 10²³, 12,000, 0.3."""
    text = re.sub(r" × 10([⁻⁰¹²³⁴⁵⁶⁷⁸⁹]+)", lambda found: "e" + found[1].translate(SUPERSCRIPTS), text)
    return [float(one.replace(",", "")) for one in re.findall(r"\d[\d,]*(?:\.\d+)?(?:e-?\d+)?", text)]


def move(page, number, value):
    page.locator(".budget-explorer input").nth(number).evaluate(
        "(one, value) => { one.value = value; one.dispatchEvent(new Event('input')) }", value
    )


@pytest.mark.parametrize(("offset", "octaves"), [(0, 1), (-4, -2), (2, 0.5), (-1.55, -3)])
def test_what_it_tells_is_what_the_library_plans(law, page, offset, octaves):
    page.set_content(explore_budget(law, FLOPS).html)
    move(page, 0, str(offset))
    move(page, 1, str(octaves))
    flops, factor = FLOPS * 10**offset, 2**octaves
    best, miss = scaling.plan(law, flops), scaling.cost_of_miss(law, flops, [factor])
    interval, sure = best.intervals["params"], best.intervals["loss"]
    told = numbers(page.locator(".budget-explorer p").inner_text())
    near = {
        "params": (told[0], best.params), "low": (told[2], interval.low), "high": (told[3], interval.high),
        "examples": (told[4], best.examples), "ratio": (told[5], best.ratio), "loss": (told[6], best.loss),
        "lowest": (told[8], sure.low), "highest": (told[9], sure.high), "factor": (told[10], factor),
        "missed": (told[11], miss.loss[0]),
    }  # fmt: skip
    wrong = {name: pair for name, pair in near.items() if not math.isclose(*pair, rel_tol=0.05)}
    assert not wrong
    np.testing.assert_allclose([told[6], told[11]], [best.loss, miss.loss[0]], atol=6e-4)
    assert told[12] == pytest.approx(100 * miss.wasted[0], abs=0.3)


def test_the_chapters_figure_starts_at_the_pages_budget_and_moves(page, origin):
    page.goto(f"{origin}/notebooks/spending.html")
    figure = page.locator(".budget-explorer")
    assert figure.count() == 1
    told = figure.locator("p")
    before = told.inner_text()
    assert "5.88 × 10²³ FLOP" in figure.inner_text()
    slider = figure.locator("input").first
    slider.focus()
    slider.press("ArrowRight")
    moved = figure.locator("output").first.inner_text()
    assert numbers(moved)[0] == pytest.approx(5.88e23 * 10**0.05, rel=2e-3)
    assert numbers(told.inner_text())[0] > numbers(before)[0], "a larger budget buys no larger model"


def test_it_is_legible_and_without_barriers_on_a_phone_and_a_desk(law, page, origin):
    page.goto(f"{origin}/notebooks/spending.html")
    for size, theme in ((PHONE, "light"), (PHONE, "dark"), (DESKTOP, "dark")):
        page.set_viewport_size(size)
        set_theme(page, theme)
        assert not wide_elements(page)
        drawn = page.eval_on_selector_all(
            ".budget-explorer svg text", "all => all.map(one => one.getBoundingClientRect().height)"
        )
        assert len(drawn) > 10
        assert min(drawn) > 14, "letters of fewer than about 12 pixels"
    assert not [one for one in barriers(page) if "budget-explorer" in one]
