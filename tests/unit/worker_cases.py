"""What the scripts that torchrun starts for the tests share."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from scaletut.errors import ParameterError


def messages_of(calls: Mapping[str, Callable[[], object]]) -> dict[str, str]:
    """By name, the message of each call that is refused; calls that are not refused are left out."""
    found = {}
    for name, call in calls.items():
        try:
            call()
        except ParameterError as error:
            found[name] = str(error)
    return found
