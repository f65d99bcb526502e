"""Many runs from one plan: validated first, resumable at any moment, on this machine or on Ray."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from scaletut.sweep.plan import RunSpec, SweepPlan, WidthRule, checked_plan, load_plan

if TYPE_CHECKING:
    from scaletut.sweep.collect import gather
    from scaletut.sweep.cost import Forecast, forecast
    from scaletut.sweep.local import run_local
    from scaletut.sweep.on_ray import run_on_ray
    from scaletut.sweep.search import Found, Search, Searcher, Trial
    from scaletut.sweep.store import Store, SweepError, left_out, run_table
    from scaletut.sweep.todo import Event

__all__ = [
    "Event",
    "Forecast",
    "Found",
    "RunSpec",
    "Search",
    "Searcher",
    "Store",
    "SweepError",
    "SweepPlan",
    "Trial",
    "WidthRule",
    "checked_plan",
    "forecast",
    "gather",
    "left_out",
    "load_plan",
    "run_local",
    "run_on_ray",
    "run_table",
]

_ROOMS = {
    "cost": ("Forecast", "forecast"),
    "collect": ("gather",),
    "local": ("run_local",),
    "on_ray": ("run_on_ray",),
    "search": ("Found", "Search", "Searcher", "Trial"),
    "store": ("Store", "SweepError", "left_out", "run_table"),
    "todo": ("Event",),
}


def __getattr__(name: str) -> Any:
    """Import what needs torch only when it is asked for."""
    import importlib

    for module, names in _ROOMS.items():
        if name in names:
            return getattr(importlib.import_module(f"scaletut.sweep.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
