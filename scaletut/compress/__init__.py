"""Compression: smaller and faster programs from trained networks, measured as they are deployed."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from scaletut.compress.distil import Distillation, fit_student, soft_loss

__all__ = [
    "Distillation",
    "fit_student",
    "soft_loss",
]

# Each name and the module that has it: a server that runs programs does not wait for torch.
_HOME = {
    "Distillation": "distil",
    "fit_student": "distil",
    "soft_loss": "distil",
}


def __getattr__(name: str) -> Any:
    """Import a name's module only when the name is asked for."""
    if name in _HOME:
        return getattr(import_module(f"scaletut.compress.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
