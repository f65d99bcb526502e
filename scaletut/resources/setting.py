"""A setting: all that decides how fast a recipe runs, and how little of it changes what is learned."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal

import torch

from scaletut.errors import ParameterError
from scaletut.resources.allocator import can_keep, keep_freed_memory
from scaletut.train import Execution, Recipe, execution
from scaletut.train.device import fast_bf16

LINEAR = ("sgd",)  # optimisers whose rate goes with the batch; the others' go with its square root


@dataclass(frozen=True)
class Setting:
    """One way to run a training step. As it stands it is what a script in plain PyTorch does: its defaults.

    Attributes:
        batch_size: images an optimiser step.
        precision: `fp32`, or the type of autocast.
        channels_last: memory layout of weights and activations.
        data: `loader` is a DataLoader of PIL images with torchvision's transforms, `memory` is `scaletut.data.Batches`.
        workers: processes of the loader; 0 loads in the training process.
        threads: of one operator; 0 is torch's choice.
        keep_memory: see `keep_freed_memory`.
        fused: the optimiser's faster step, see `Execution`.
        compiled: `torch.compile`.
        recompute: activation checkpointing.
        micro_batch: images at a time, 0 for the whole batch.
    """

    batch_size: int = 128
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    channels_last: bool = False
    data: Literal["loader", "memory"] = "loader"
    workers: int = 0
    threads: int = 0
    keep_memory: bool = False
    fused: bool = False
    compiled: bool = False
    recompute: bool = False
    micro_batch: int = 0

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ParameterError(f"batch_size is {self.batch_size}: give 1 image or more")
        if self.workers < 0 or self.threads < 0:
            raise ParameterError(f"workers={self.workers} and threads={self.threads} are counts: give 0 or more")
        if self.workers and self.data == "memory":
            raise ParameterError("images in memory need no loader workers: give workers=0, or data='loader'")

    def execution(self, device: str = "") -> Execution:
        """The part that `fit` takes as `how`."""
        how = execution(device, self.precision, self.channels_last)
        return replace(
            how, micro_batch=self.micro_batch, recompute=self.recompute, compiled=self.compiled, fused=self.fused
        )

    def apply(self, device: str = "") -> Execution:
        """Set this process's threads and allocator, and give the rest for `fit(..., how=...)`."""
        if self.threads:
            torch.set_num_threads(self.threads)
        if self.keep_memory:
            keep_freed_memory()
        return self.execution(device)

    def recipe(self, recipe: Recipe) -> Recipe:
        """`recipe` at this batch size, its rates moved along: SGD's in proportion (Goyal et al. 2017,
        arXiv:1706.02677), those of Adam and Muon, whose step has a size of its own, with the square root."""
        ratio = self.batch_size / recipe.batch_size
        root = ratio**0.5
        first = ratio if recipe.optimizer in LINEAR else root
        others = root if recipe.optimizer in ("adam", "adamw") else ratio  # Muon leaves heads and vectors to SGD
        return replace(
            recipe,
            batch_size=self.batch_size,
            lr=recipe.lr * first,
            head_lr=(recipe.head_lr or recipe.lr) * others if recipe.head_lr or first != others else None,
            vector_lr=(recipe.vector_lr or recipe.lr) * others if recipe.vector_lr or first != others else None,
        )

    def changes(self, base: Setting) -> dict[str, Any]:
        """What differs from `base`, by field."""
        mine, theirs = asdict(self), asdict(base)
        return {field.name: mine[field.name] for field in fields(self) if mine[field.name] != theirs[field.name]}


def knobs(base: Setting, device: torch.device) -> dict[str, Setting]:
    """`base` with one thing changed, by the name of the change; what makes no sense on `device` is not offered."""
    cpu = device.type == "cpu"
    cores, threads = os.cpu_count() or 1, torch.get_num_threads()
    offered: list[tuple[str, bool, dict[str, Any]]] = [  # the most promising first, should the time be over
        ("images in memory", True, {"data": "memory", "workers": 0}),
        ("channels-last", True, {"channels_last": True}),
        ("freed memory kept", cpu and can_keep(), {"keep_memory": True}),
        ("bf16 autocast", True, {"precision": "bf16"}),
        ("fp16 autocast", device.type == "cuda", {"precision": "fp16"}),
        ("faster optimiser step", True, {"fused": True}),
        ("half the batch", True, {"batch_size": max(1, base.batch_size // 2)}),
        ("twice the batch", True, {"batch_size": 2 * base.batch_size}),
        ("1 loader worker", True, {"data": "loader", "workers": 1}),
        ("2 loader workers", True, {"data": "loader", "workers": 2}),
        ("1 thread", cpu and threads > 1, {"threads": 1}),
        ("all threads", cpu and cores > threads, {"threads": cores}),
        ("checkpointing", True, {"recompute": True}),
        ("compiled", True, {"compiled": True}),
    ]
    changed = {name: change for name, possible, change in offered if possible}
    settings = {name: replace(base, **change) for name, change in changed.items()}
    return {name: setting for name, setting in settings.items() if setting != base}


def emulated(device: torch.device) -> tuple[str, ...]:
    """Names of `knobs` that this hardware has no instructions for: it computes them by many others, far slower."""
    return () if fast_bf16(device) else ("bf16 autocast",)
