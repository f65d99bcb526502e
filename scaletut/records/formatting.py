"""The one place where a measured number becomes text.

A number is shown with the digits that its interval supports:
the half-width keeps one significant digit, or two when the first is a 1,
and the value stops at the same decimal.
Without an interval a value keeps three significant digits, and a whole number without unit keeps all of them.
"""

from __future__ import annotations

import math
from decimal import ROUND_HALF_EVEN, Context, Decimal
from typing import Literal, get_args

from scaletut.errors import RecordError
from scaletut.records.record import Value

Form = Literal["value", "interval", "count", "full", "number"]
FORMS: tuple[Form, ...] = get_args(Form)

_ATTACHED = ("×", "°")  # units that follow their number without a space
_NOISE = 1e-12  # relative width below which an interval is float64 rounding, not spread
_WIDE = Context(prec=500, rounding=ROUND_HALF_EVEN)  # room for any two numbers that a Value may hold
_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def format_value(value: Value, form: Form = "value") -> str:
    """`value` as text in one of the closed set of forms that prose may use.

    "value": 91.8 %. "interval": 91.8 ± 0.2 %, or 91.8 (91.2 to 92.1) % when the sides differ.
    "count": n = 5. "full": 91.8 ± 0.2 % (n = 5). "number": 91.8, for a table whose header carries the unit.
    A non-zero number is never shown as 0, and a share below 100 % never as 100 %.
    Raises RecordError for an unknown form, for a number that is not finite,
    and when an interval is asked for that was never measured.
    """
    if form not in FORMS:
        raise RecordError(f"{form!r} is not a form of a number; choose one of {', '.join(FORMS)}")
    if not all(math.isfinite(x) for x in (value.value, value.low or 0.0, value.high or 0.0)):
        raise RecordError("a number that is not finite cannot be shown; the run diverged, so record it again")
    if form == "count":
        return f"n = {value.n:,}"
    if form == "value":
        return _with_unit(_number(value), value.unit)
    if form == "number":
        return _number(value)
    text = _with_unit(_interval(value), value.unit)
    return text if form == "interval" else f"{text} (n = {value.n:,})"


def all_forms(value: Value) -> dict[Form, str]:
    """Every form that exists for `value`; those with an interval only where one was measured."""
    forms = FORMS if value.low is not None else ("value", "count", "number")
    return {form: format_value(value, form) for form in forms}


def canonical(text: str) -> str:
    """`text` with the spaces and minus signs that an author may type turned into those written here."""
    for space in ("\u00a0", "\u202f", "\u2009"):
        text = text.replace(space, " ")
    return " ".join(text.replace("-", "−").split())


def guess_form(text: str, unit: str) -> Form:
    """The form that a stale text was written in, so that a refreshed one keeps it."""
    text = canonical(text)
    ranged = "±" in text or " to " in text
    if "n =" in text:
        return "full" if ranged else "count"
    if ranged:
        return "interval"
    return "value" if not unit or canonical(unit) in text else "number"


def _number(value: Value) -> str:
    return _shown(value.value, _decimals(value), value.unit)


def _interval(value: Value) -> str:
    if value.low is None or value.high is None:
        raise RecordError('no interval was measured (n = 1); use the form "value", or record more seeds')
    half = (value.high - value.low) / 2
    if half <= _NOISE * abs(value.value):
        return f"{_number(value)} ± 0"
    largest = max(abs(value.value), half)
    if not _is_plain(largest) and (value.value == 0 or abs(value.value) > _NOISE * largest):
        power = _exponent(largest)  # one power of ten for the number and its interval
        number, low, high = (end / 10.0**power for end in (value.value, value.low, value.high))
        return f"({_interval(Value(number, '', low, high))}) × {_power(power)}"
    decimals = _decimals(value)
    number = _shown(value.value, decimals, value.unit, aligned=True)
    up, down = (_shown(side, decimals) for side in (value.high - value.value, value.value - value.low))
    if up == down:
        return f"{number} ± {_shown(half, decimals, aligned=True)}"
    low, high = (_shown(end, decimals, value.unit, aligned=True) for end in (value.low, value.high))
    return f"{number} ({low} to {high})"


def _with_unit(number: str, unit: str) -> str:
    return f"{number}{'' if unit in _ATTACHED or not unit else ' '}{unit}"


def _decimals(value: Value) -> int | None:
    """Digits after the decimal point (negative: zeros before it); None for a whole number shown in full."""
    half = 0.0 if value.low is None or value.high is None else (value.high - value.low) / 2
    if half > _NOISE * abs(value.value):
        two_digits = f"{half:e}"[0] == "1"
        return int(two_digits) - _exponent(half)
    if not value.unit and value.value == int(value.value) and abs(value.value) < 1e15:
        return None
    return 2 - int(f"{value.value:.2e}".split("e")[1])


def _shown(number: float, decimals: int | None, unit: str = "", *, aligned: bool = False) -> str:
    """`number` to `decimals` places; aligned: in plain digits even if small, so that it matches its neighbour."""
    if decimals is None:
        return _signed(f"{abs(int(number)):,}", number)
    if number and not _rounded(number, decimals):
        decimals, aligned = -_exponent(number), False  # one significant digit, not 0
    if unit == "%" and number < 100 and _rounded(number, decimals) == 100:
        decimals = -_exponent(100 - number)  # one significant digit of what is missing
    if number and not aligned and not _is_plain(number):
        return _scientific(number, max(0, _exponent(number) + decimals))
    return _signed(f"{_rounded(number, decimals):,f}", number)


def _rounded(number: float, decimals: int) -> Decimal:
    """|number| to `decimals` places, half to even on its shortest decimal spelling, zeros kept."""
    rounded = Decimal(repr(abs(number))).quantize(Decimal(1).scaleb(-decimals), context=_WIDE)
    return rounded if decimals >= 0 else rounded.quantize(Decimal(1), context=_WIDE)


def _scientific(number: float, digits: int) -> str:
    mantissa, exponent = f"{abs(number):.{min(digits, 16)}e}".split("e")
    return _signed(f"{mantissa} × {_power(int(exponent))}", number)


def _power(exponent: int) -> str:
    return f"10{str(exponent).translate(_SUPERSCRIPT)}"


def _is_plain(number: float) -> bool:
    """Whether plain digits are easier to read than a power of ten."""
    return 1e-4 <= abs(number) < 1e7


def _exponent(number: float) -> int:
    """Power of ten of the first significant digit."""
    return int(f"{abs(number):e}".split("e")[1])


def _signed(text: str, number: float) -> str:
    return f"−{text}" if number < 0 else text
