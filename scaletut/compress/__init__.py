"""Compression: smaller and faster programs from trained networks, measured as they are deployed."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from scaletut.compress.agreement import Agreement, compare_logits
    from scaletut.compress.aware import finish_quantisation_aware, quantisation_aware, simulate_weights
    from scaletut.compress.distil import Distillation, fit_student, soft_loss
    from scaletut.compress.driver import Bench, Stage, compress, record_of
    from scaletut.compress.frontier import Cost, Point, front, plot_front, points
    from scaletut.compress.graph import export, fold_norms
    from scaletut.compress.instructions import instruction_set, int8_warning
    from scaletut.compress.latency import Latency, compiled, eager, latencies, runner
    from scaletut.compress.lowrank import (
        RankSearch,
        RankTrial,
        cp,
        factorise,
        rank_for_latency,
        svd_conv,
        svd_linear,
        tucker,
    )
    from scaletut.compress.planner import Found, Limit, Space, Target, Tried, Way, search
    from scaletut.compress.program import Predictor, Program
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
    from scaletut.compress.quantize import (
        Affine,
        affine,
        dequantise,
        nodes,
        quantise,
        quantise_dynamic,
        quantise_static,
        weight_scales,
    )
    from scaletut.compress.recipe import Role, Step, parse

__all__ = [
    "Affine",
    "Agreement",
    "Bench",
    "ChannelGroup",
    "Cost",
    "Distillation",
    "Found",
    "Latency",
    "Limit",
    "Point",
    "Predictor",
    "Program",
    "RankSearch",
    "RankTrial",
    "Role",
    "Sensitivity",
    "Space",
    "Stage",
    "Step",
    "Target",
    "Tried",
    "Way",
    "affine",
    "channel_groups",
    "compare_logits",
    "compiled",
    "compress",
    "cp",
    "dequantise",
    "eager",
    "export",
    "factorise",
    "finish_quantisation_aware",
    "fit_student",
    "fold_norms",
    "front",
    "hold_zeros",
    "instruction_set",
    "int8_warning",
    "latencies",
    "nodes",
    "parse",
    "plot_front",
    "points",
    "prune_channels",
    "prune_in_rounds",
    "prune_weights",
    "quantisation_aware",
    "quantise",
    "quantise_dynamic",
    "quantise_static",
    "rank_for_latency",
    "record_of",
    "runner",
    "search",
    "sensitivity",
    "simulate_weights",
    "soft_loss",
    "svd_conv",
    "svd_linear",
    "tucker",
    "weight_scales",
]

# Each name and the module that has it: a server that runs programs does not wait for torch.
_HOME = {
    "Affine": "quantize",
    "Agreement": "agreement",
    "Bench": "driver",
    "ChannelGroup": "prune",
    "Cost": "frontier",
    "Distillation": "distil",
    "Found": "planner",
    "Latency": "latency",
    "Limit": "planner",
    "Point": "frontier",
    "Predictor": "program",
    "Program": "program",
    "RankSearch": "lowrank",
    "RankTrial": "lowrank",
    "Role": "recipe",
    "Sensitivity": "prune",
    "Space": "planner",
    "Stage": "driver",
    "Step": "recipe",
    "Target": "planner",
    "Tried": "planner",
    "Way": "planner",
    "affine": "quantize",
    "channel_groups": "prune",
    "compare_logits": "agreement",
    "compiled": "latency",
    "compress": "driver",
    "cp": "lowrank",
    "dequantise": "quantize",
    "eager": "latency",
    "export": "graph",
    "factorise": "lowrank",
    "finish_quantisation_aware": "aware",
    "fit_student": "distil",
    "fold_norms": "graph",
    "front": "frontier",
    "hold_zeros": "prune",
    "instruction_set": "instructions",
    "int8_warning": "instructions",
    "latencies": "latency",
    "nodes": "quantize",
    "parse": "recipe",
    "plot_front": "frontier",
    "points": "frontier",
    "prune_channels": "prune",
    "prune_in_rounds": "prune",
    "prune_weights": "prune",
    "quantisation_aware": "aware",
    "quantise": "quantize",
    "quantise_dynamic": "quantize",
    "quantise_static": "quantize",
    "rank_for_latency": "lowrank",
    "record_of": "driver",
    "runner": "latency",
    "search": "planner",
    "sensitivity": "prune",
    "simulate_weights": "aware",
    "soft_loss": "distil",
    "svd_conv": "lowrank",
    "svd_linear": "lowrank",
    "tucker": "lowrank",
    "weight_scales": "quantize",
}


def __getattr__(name: str) -> Any:
    """Import a name's module only when the name is asked for."""
    if name in _HOME:
        return getattr(import_module(f"scaletut.compress.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
