"""Amounts of memory and of time as people write them."""

from __future__ import annotations

import re

from scaletut.errors import ParameterError

_SECONDS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "min": 60.0}


def size_in_bytes(text: str) -> int:
    """`12GB`, `500 MB` or `8GiB` as bytes.

    Raises:
        ParameterError: another form, or nothing above 0.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?)(i?)B\s*", text, re.IGNORECASE)
    if not found or not float(found[1]):
        raise ParameterError(f"{text!r} is not an amount of memory: give a number with a unit, such as 12GB or 500MB")
    power = " KMGT".index(found[2].upper() or " ")
    return round(float(found[1]) * (1024 if found[3] else 1000) ** power)


def time_in_seconds(text: str) -> float:
    """`2ms`, `0.5 s` or `1min` as seconds; `0` needs no unit.

    Raises:
        ParameterError: another form.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(us|ms|s|min)?\s*", text, re.IGNORECASE)
    if not found or (not found[2] and float(found[1])):
        raise ParameterError(f"{text!r} is not a time: give a number with a unit, such as 2ms or 10s")
    return float(found[1]) * _SECONDS[(found[2] or "s").lower()]
