"""Serving: an exported program behind HTTP, loaded until it bends, and the formulas that say where it does."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from scaletut.serve.load import Load, closed_loop, join, knee_of, open_loop, sweep
    from scaletut.serve.queueing import batch_cost, knee, mean_wait, poisson_arrivals, simulate, utilisation
    from scaletut.serve.run import Service, running, serve
    from scaletut.serve.settings import ServeError, Settings

__all__ = [
    "Load",
    "ServeError",
    "Service",
    "Settings",
    "batch_cost",
    "closed_loop",
    "join",
    "knee",
    "knee_of",
    "mean_wait",
    "open_loop",
    "poisson_arrivals",
    "running",
    "serve",
    "simulate",
    "sweep",
    "utilisation",
]

_HOME = {
    **dict.fromkeys(("Load", "closed_loop", "join", "knee_of", "open_loop", "sweep"), "load"),
    **dict.fromkeys(("batch_cost", "knee", "mean_wait", "poisson_arrivals", "simulate", "utilisation"), "queueing"),
    **dict.fromkeys(("Service", "running", "serve"), "run"),
    **dict.fromkeys(("ServeError", "Settings"), "settings"),
}


def __getattr__(name: str) -> Any:
    """Import a name's module only when the name is asked for: an inference process needs no web server."""
    if name in _HOME:
        return getattr(import_module(f"scaletut.serve.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
