"""Which device, which number format, which memory layout: decided by what the hardware has, so that it repeats."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Literal

import torch

from scaletut.errors import ParameterError
from scaletut.records import peak_memory

Precision = Literal["auto", "fp32", "bf16", "fp16"]


@dataclass(frozen=True)
class Execution:
    """How a network is run. None of it changes what is learned, up to rounding and, with micro-batches, batch norms.

    Attributes:
        device: where.
        autocast: type of the matrix products; None for plain float32.
        channels_last: store activations as (n, height, width, channels).
        micro_batch: images at a time; their gradients add up to the batch's. 0 takes the batch whole.
        recompute: forget the activations inside blocks and compute them again (`scaletut.train.recompute`).
        compiled: `torch.compile` the network for training.
        fused: the optimiser's faster step: one kernel where torch has one, and Muon's products in float32 where the
            device would emulate bf16.
    """

    device: torch.device
    autocast: torch.dtype | None
    channels_last: bool
    micro_batch: int = 0
    recompute: bool = False
    compiled: bool = False
    fused: bool = False

    def __post_init__(self) -> None:
        if self.micro_batch < 0:
            raise ParameterError(f"micro_batch is {self.micro_batch} images: give 1 or more, or 0 for the whole batch")

    @property
    def dtype(self) -> torch.dtype:
        """Type of the images given to the network: the autocast type saves a conversion."""
        return self.autocast or torch.float32

    @property
    def layout(self) -> torch.memory_format:
        """Memory layout of images, activations and filters."""
        return torch.channels_last if self.channels_last else torch.contiguous_format

    @property
    def name(self) -> str:
        """Short description for records, e.g. `cpu bf16 channels-last`."""
        kind = {torch.bfloat16: "bf16", torch.float16: "fp16", None: "fp32"}[self.autocast]
        words = {
            "channels-last": self.channels_last,
            f"micro-batch {self.micro_batch}": self.micro_batch,
            "recompute": self.recompute,
            "compiled": self.compiled,
            "fused": self.fused,
        }
        return " ".join([self.device.type, kind, *(word for word, on in words.items() if on)])

    def context(self) -> contextlib.AbstractContextManager:
        """The autocast context, or one that does nothing."""
        if self.autocast is None:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, self.autocast)

    def place(self, model: torch.nn.Module) -> torch.nn.Module:
        """Move `model` to the device and into the memory layout, in place."""
        return model.to(self.device, memory_format=self.layout)


def pick_device(name: str = "") -> torch.device:
    """The named device, or the best one present: CUDA, then Apple's MPS, then the CPU.

    Raises:
        ParameterError: the named device does not exist here.
    """
    present = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name:
        if not present.get(name.split(":")[0], False):
            here = ", ".join(kind for kind, there in present.items() if there)
            raise ParameterError(f"device {name!r} is not available here; present: {here}")
        return torch.device(name)
    return torch.device(next(kind for kind in ("cuda", "mps", "cpu") if present[kind]))


def fast_bf16(device: torch.device) -> bool:
    """Whether bfloat16 has its own instructions on the device; emulated, it is slower than float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        probes = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
        return any(getattr(torch.cpu, probe, lambda: False)() for probe in probes)
    return False


def execution(device: str | torch.device = "", precision: Precision = "auto", channels_last: bool = True) -> Execution:
    """Settle device, precision and layout.

    `auto` takes bf16 where the hardware computes it, fp16 on older CUDA devices, float32 elsewhere. The rule looks at
    capabilities, not at a stopwatch, so that the same machine always decides the same way.
    """
    device = pick_device(device) if isinstance(device, str) else device
    if precision == "auto":
        fallback = "fp16" if device.type == "cuda" else "fp32"
        precision = "bf16" if fast_bf16(device) else fallback
    autocast = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    return Execution(device, autocast, channels_last)


def synchronise(device: torch.device) -> None:
    """Wait for queued work, so that a clock read afterwards means something."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def peak_memory_bytes(device: torch.device) -> int:
    """Peak memory in bytes: of the allocator on CUDA, of the whole process elsewhere (0 where unknown)."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return peak_memory() or 0
