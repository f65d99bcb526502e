"""Numbers as text: as many digits as the interval supports, never 0 for what is not 0."""

from __future__ import annotations

import math
import re
from decimal import Decimal

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from scaletut.errors import RecordError
from scaletut.records import Value, format_value
from scaletut.records.formatting import FORMS, all_forms, canonical, guess_form

numbers = st.floats(-1e100, 1e100)
common = st.floats(-1e6, 1e6)
units = st.sampled_from(["", "%", "points", "s", "images/s", "×"])


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (Value(93.1, "%"), "93.1 %"),
        (Value(93.14, "%"), "93.1 %"),
        (Value(9.999, "s"), "10.0 s"),
        (Value(0.09999, "s"), "0.100 s"),
        (Value(417.4, "s"), "417 s"),
        (Value(5.984, "min"), "5.98 min"),
        (Value(1538.2, "images/s"), "1,540 images/s"),
        (Value(272474), "272,474"),
        (Value(0.0), "0"),
        (Value(-0.4, "points"), "−0.400 points"),
        (Value(12.3, "×"), "12.3×"),
        (Value(3.2e15, "FLOP"), "3.20 × 10¹⁵ FLOP"),
        (Value(1e-5, "s"), "1.00 × 10⁻⁵ s"),
        (Value(99.97, "%"), "99.97 %"),
        (Value(99.9996, "%"), "99.9996 %"),
        (Value(100.0, "%"), "100 %"),
        (Value(91.83, "%", 91.6, 92.06, 5), "91.8 %"),
        (Value(91.83, "%", 91.69, 91.97, 5), "91.83 %"),
        (Value(1538, "images/s", 1515, 1561, 3), "1,540 images/s"),
        (Value(0.001, "points", -0.4, 0.402, 3), "0.001 points"),
    ],
)
def test_value_alone(value, text):
    assert format_value(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (Value(91.83, "%", 91.6, 92.06, 5), "91.8 ± 0.2 %"),
        (Value(91.83, "%", 91.69, 91.97, 5), "91.83 ± 0.14 %"),
        (Value(1538, "images/s", 1515, 1561, 3), "1,540 ± 20 images/s"),
        (Value(91.8, "%", 90.2, 92.1, 200), "91.8 (90.2 to 92.1) %"),
        (Value(1.0, "s", 0.904, 1.096, 3), "1.00 ± 0.10 s"),
        (Value(2.5, "s", 2.5, 2.5, 3), "2.50 ± 0 s"),
        (Value(-3.2, "points", -3.9, -2.5, 3), "−3.2 ± 0.7 points"),
        (Value(0.0241, "GB", 0.02403, 0.02417, 3), "0.02410 ± 0.00007 GB"),
        (Value(3.2e15, "FLOP", 3.15e15, 3.25e15, 3), "(3.20 ± 0.05) × 10¹⁵ FLOP"),
        (Value(2e-6, "s", 1e-6, 5e-6, 3), "(2 (1 to 5)) × 10⁻⁶ s"),
        (Value(0.1, "points", -0.4, 1.6, 3), "0.1 (−0.4 to 1.6) points"),
    ],
)
def test_value_with_interval(value, text):
    assert format_value(value, "interval") == text
    assert format_value(value, "full") == f"{text} (n = {value.n})"


def test_the_forms_are_a_closed_set():
    value = Value(91.83, "%", 91.6, 92.06, 1234)
    assert all_forms(value) == {
        "value": "91.8 %",
        "interval": "91.8 ± 0.2 %",
        "count": "n = 1,234",
        "full": "91.8 ± 0.2 % (n = 1,234)",
        "number": "91.8",
    }
    assert set(all_forms(value)) == set(FORMS)
    assert set(all_forms(Value(91.8, "%"))) == {"value", "count", "number"}
    with pytest.raises(RecordError, match="not a form"):
        format_value(value, "percent")
    with pytest.raises(RecordError, match="no interval"):
        format_value(Value(91.8, "%"), "interval")


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("field", ["value", "low", "high"])
def test_what_is_not_finite_is_never_shown(bad, field):
    value = Value(91.8, "%", 91.6, 92.0)
    object.__setattr__(value, field, bad)  # a Value refuses it; the formatter does not rely on that
    with pytest.raises(RecordError, match="not finite"):
        format_value(value)


def leading(text: str) -> str:
    """The first number of a text, its power of ten left out."""
    return re.split(r"[×±(]", text.removeprefix("("))[0]


@settings(max_examples=200, deadline=None)
@given(numbers, numbers, numbers, units)
def test_zero_is_shown_for_zero_only(a, b, c, unit):
    low, middle, high = sorted([a, b, c])
    for value in (Value(middle, unit), Value(middle, unit, low, high, 4)):
        for form, text in all_forms(value).items():
            if form != "count":
                assert bool(re.search("[1-9]", leading(text))) == (middle != 0), text
                assert leading(text).startswith("−") == (middle < 0), text


@settings(max_examples=150, deadline=None)
@given(st.floats(0, 100))
def test_a_share_below_the_whole_is_not_shown_as_the_whole(share):
    assume(share < 100)
    assert format_value(Value(share, "%", 0.0, 100.0)) != "100 %"
    assert not format_value(Value(share, "%")).startswith("100")


@settings(max_examples=150, deadline=None)
@given(common, st.floats(1e-4, 1e4))
def test_the_half_width_has_at_most_two_digits_and_the_value_its_decimals(middle, half):
    value = Value(middle, "s", middle - half, middle + half, 3)
    text = format_value(value, "interval").replace(",", "")
    assume("±" in text and "×" not in text)
    number, width = re.fullmatch(r"−?([\d.]+) ± ([\d.]+) s", text).groups()
    assert len(width.replace(".", "").strip("0")) <= 2
    assert float(width) == pytest.approx(half, rel=0.5)
    if abs(middle) > half:
        decimals = -Decimal(width).as_tuple().exponent
        assert -Decimal(number).as_tuple().exponent == max(decimals, 0)
        assert float(number) == pytest.approx(abs(middle), abs=half)


@settings(max_examples=150, deadline=None)
@given(numbers, units)
def test_three_digits_stay_true(number, unit):
    text = format_value(Value(number, unit), "number").replace(",", "").replace("−", "-")
    if "×" in text:
        mantissa, power = text.split(" × 10")
        shown = float(f"{mantissa}e{power.translate(str.maketrans('⁻⁰¹²³⁴⁵⁶⁷⁸⁹', '-0123456789'))}")
    else:
        shown = float(text)
    assert shown == pytest.approx(number, rel=0.0051)


def test_large_counts_are_grouped_and_exact():
    assert format_value(Value(123456789.0)) == "123,456,789"
    assert format_value(Value(50000, "images")) == "50,000 images"


@pytest.mark.parametrize("text", ["91.8\u00a0±\u202f0.2\u2009%", " 91.8  ±\n0.2 % "])
def test_an_author_may_type_other_spaces(text):
    assert canonical(text) == "91.8 ± 0.2 %"
    assert canonical("-0.4 points") == "−0.4 points"


@settings(max_examples=200, deadline=None)
@given(common, st.floats(1e-3, 1e3), st.floats(1e-3, 1e3), st.sampled_from(["%", "points", "s", "images/s", "×"]))
def test_the_form_of_a_stale_text_is_recognised(middle, below, above, unit):
    for form, text in all_forms(Value(middle, unit, middle - below, middle + above, 7)).items():
        if unit == "×" and form == "number" and "×" in text:
            continue  # a power of ten carries the same sign as this unit
        assert guess_form(text, unit) == form
