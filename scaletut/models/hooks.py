"""A look at what passes through a network."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn


def observe(
    net: nn.Module, images: Tensor, modules: Iterable[nn.Module], note: Callable[[nn.Module, tuple, Any], None]
) -> None:
    """Run `net` once on `images` without gradients and tell `note` of each of `modules` that ran, in their order.

    Args:
        net: run in the mode that it is in.
        images: float (n, 3, h, w).
        modules: parts of `net`.
        note: called with the module, its inputs and its output.
    """
    hooks = [module.register_forward_hook(note) for module in modules]
    try:
        with torch.no_grad():
            net(images)
    finally:
        for hook in hooks:
            hook.remove()
