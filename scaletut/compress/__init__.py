"""Compression: smaller and faster programs from trained networks, measured as they are deployed."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from scaletut.compress.distil import Distillation, fit_student, soft_loss
    from scaletut.compress.frontier import Cost, Point, front, plot_front, points
    from scaletut.compress.prune import (
        ChannelGroup,
        Sensitivity,
        channel_groups,
        hold_zeros,
        prune_channels,
        prune_in_rounds,
        prune_weights,
        sensitivity,
    )
    from scaletut.compress.recipe import Step, parse

__all__ = [
    "ChannelGroup",
    "Cost",
    "Distillation",
    "Point",
    "Sensitivity",
    "Step",
    "channel_groups",
    "fit_student",
    "front",
    "hold_zeros",
    "parse",
    "plot_front",
    "points",
    "prune_channels",
    "prune_in_rounds",
    "prune_weights",
    "sensitivity",
    "soft_loss",
]

# Each name and the module that has it: a server that runs programs does not wait for torch.
_HOME = {
    "ChannelGroup": "prune",
    "Cost": "frontier",
    "Distillation": "distil",
    "Point": "frontier",
    "Sensitivity": "prune",
    "Step": "recipe",
    "channel_groups": "prune",
    "fit_student": "distil",
    "front": "frontier",
    "hold_zeros": "prune",
    "parse": "recipe",
    "plot_front": "frontier",
    "points": "frontier",
    "prune_channels": "prune",
    "prune_in_rounds": "prune",
    "prune_weights": "prune",
    "sensitivity": "prune",
    "soft_loss": "distil",
}


def __getattr__(name: str) -> Any:
    """Import a name's module only when the name is asked for."""
    if name in _HOME:
        return getattr(import_module(f"scaletut.compress.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
