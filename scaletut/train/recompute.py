"""Activation checkpointing: forget a block's inner activations and compute them again in the backward pass."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.utils.checkpoint import checkpoint

from scaletut.errors import ParameterError


def recompute_blocks(model: nn.Module) -> nn.Module:
    """Make each block of `model` keep its input alone, in place (Chen et al. 2016, arXiv:1604.06174).

    Weights, names and results stay what they were; batch norms count each batch once.

    Raises:
        ParameterError: the network is a flat stack without blocks.
    """
    found = list(blocks(model))
    if not found:
        raise ParameterError(
            "activation checkpointing needs a network of blocks, and this one is a flat stack of layers: "
            "leave it off, or take a smaller micro-batch to save memory"
        )
    for block in found:
        block.__class__ = _recomputed(type(block))
    return model


def blocks(module: nn.Module) -> Iterator[nn.Module]:
    """The blocks of a network: compound members of a list of modules (`nn.Sequential`, `nn.ModuleList`).

    A residual block, a group, a Transformer layer; blocks inside blocks are not told apart.
    """
    for child in module.children():
        compound = next(child.children(), None) is not None
        if compound and isinstance(module, nn.Sequential | nn.ModuleList):
            yield child
        else:
            yield from blocks(child)


@cache
def _recomputed(kind: type[nn.Module]) -> type[nn.Module]:
    """`kind` with a forward pass that is run again; a class of its own, so that copies of a network keep it."""
    if issubclass(kind, _Recomputed):
        return kind

    def forward(self: nn.Module, *inputs: Tensor, **options: Any) -> Tensor:
        if not (self.training and torch.is_grad_enabled()):
            return kind.forward(self, *inputs, **options)
        contexts = lambda: (contextlib.nullcontext(), _still_norms(self))  # noqa: E731
        return checkpoint(partial(kind.forward, self, **options), *inputs, use_reentrant=False, context_fn=contexts)

    return type(f"Recomputed{kind.__name__}", (_Recomputed, kind), {"forward": forward})


class _Recomputed:
    """Mark of a class that already computes its forward pass again."""


@contextlib.contextmanager
def _still_norms(block: nn.Module) -> Iterator[None]:
    """Running statistics as they were: the first forward pass has counted the batch."""
    norms = [module for module in block.modules() if isinstance(module, _NormBase) and module.track_running_stats]
    before = [(norm.momentum, norm.num_batches_tracked.clone()) for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, (momentum, counted) in zip(norms, before, strict=True):
            norm.momentum = momentum
            norm.num_batches_tracked.copy_(counted)
