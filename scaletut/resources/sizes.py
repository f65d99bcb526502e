"""Amounts of memory as people write them."""

from __future__ import annotations

import re

from scaletut.errors import ParameterError


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
