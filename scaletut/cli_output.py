"""What several rooms' commands write: JSON to a file or to the screen, with an error that is one line."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from scaletut.errors import ParameterError
from scaletut.files import atomic_write


def write_json(plain: Mapping[str, Any], path: str) -> bool:
    """Write JSON to `path`, or to the screen for "-"; True when the screen is taken."""
    if not path:
        return False
    text = json.dumps(plain, indent=1, allow_nan=False) + "\n"
    if path == "-":
        print(text, end="")
        return True
    written(path, lambda: atomic_write(path, text))
    return False


def written(path: str, write: Callable[[], Any]) -> None:
    """Call `write`; a place that cannot be written to is told in one line."""
    try:
        write()
    except OSError as error:
        raise ParameterError(f"{path} cannot be written ({error.strerror or error}); name another place") from None
