"""The roofline of this device, measured, and the layers of a network placed under it.

A computation of F FLOPs that moves B bytes cannot be faster than max(F / peak, B / bandwidth): the roof over the
arithmetic intensity F / B (Williams, Waterman, Patterson 2009, "Roofline: an insightful visual performance model for
multicore architectures"). Conventions here: a multiply-accumulate is 2 FLOPs, the peak is dense, GB are 10^9 bytes.
"""

from __future__ import annotations

import copy
import math
import os
import platform
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from statistics import median
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from scaletut.errors import ParameterError
from scaletut.models import time_layers
from scaletut.models.complexity import MATRIX_LAYERS, counted_modules
from scaletut.train.device import pick_device, synchronise

Dtype = Literal["fp32", "bf16", "fp16", "int8"]
DTYPES: dict[str, torch.dtype] = {
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
    "int8": torch.int8,
}
SIDES = (256, 512, 1024, 2048, 4096, 8192)  # of square matrices
CONVOLUTIONS = ((64, 32), (128, 16), (256, 8))  # channels and side of the maps, 3 x 3, that are tried beside them
IMAGES = 8
WORKING_SETS = tuple(2**k for k in range(14, 29, 2))  # 16 KiB to 256 MiB
SHORTEST = 2e-3  # seconds of one reading: long against the clock and against waiting for the device
READINGS = 3
ROUNDS = 3  # so that a moment in which the machine is busy does not fall on all readings of one figure


@dataclass(frozen=True)
class Roof:
    """What a device can do at most, as PyTorch reaches it.

    Attributes:
        device: PyTorch's name of it, such as `cpu` or `cuda:0`.
        name: of the hardware.
        threads: of one operator on a CPU; 1 elsewhere.
        peak: FLOP/s by number format (operations a second for int8): the fastest of the shapes that were tried, run
            as PyTorch runs them by itself, which is in tf32 for fp32 convolutions on NVIDIA's GPUs.
        shape: what reached it, such as `matmul 1024`.
        bandwidth: (bytes of the working set, bytes a second) in rising order, each byte read or written counted once:
            the faster of copy and triad (McCalpin's STREAM), as one operator. Small sets lie in a cache; the smallest
            show the cost of calling an operator more than that of memory.
        call_seconds: of an operator on a single number.
    """

    device: str
    name: str
    threads: int
    peak: Mapping[str, float]
    shape: Mapping[str, str]
    bandwidth: tuple[tuple[int, float], ...]
    call_seconds: float

    @property
    def memory_bandwidth(self) -> float:
        """Bytes a second of the largest working set, which no cache of common size holds."""
        return self.bandwidth[-1][1]

    def bandwidth_at(self, working_set: float) -> float:
        """Bytes a second of a working set of so many bytes, between the measured ones by their logarithms."""
        sizes, rates = np.log(np.array(self.bandwidth, dtype=float)).T
        return float(np.exp(np.interp(math.log(max(1.0, working_set)), sizes, rates)))

    def ridge(self, dtype: str = "fp32") -> float:
        """FLOPs a byte from which on memory no longer limits: peak over memory bandwidth."""
        return self.peak_of(dtype) / self.memory_bandwidth

    def attainable(self, intensity: float, dtype: str = "fp32", working_set: float = math.inf) -> float:
        """FLOP/s under the roof at `intensity` FLOPs a byte, with the bandwidth of `working_set` bytes."""
        return min(self.peak_of(dtype), intensity * self.bandwidth_at(working_set))

    def peak_of(self, dtype: str) -> float:
        """FLOP/s of a number format.

        Raises:
            ParameterError: it was not measured, or the device cannot compute it.
        """
        if dtype not in self.peak:
            raise ParameterError(f"the roof of {self.name} has no {dtype}; it has {', '.join(self.peak)}")
        return self.peak[dtype]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON and records."""
        return {**asdict(self), "bandwidth": [list(pair) for pair in self.bandwidth]}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Roof:
        """The roof that `to_dict` wrote."""
        steps = tuple((int(size), float(rate)) for size, rate in values["bandwidth"])
        return cls(**{**values, "bandwidth": steps})


def measure_roof(device: str = "", *, seconds: float = 4.0) -> Roof:
    """Measure the roof of `device` (empty: the best one present) in about `seconds`.

    Every figure is the fastest of nine readings, in three rounds (of fewer where one takes long), each after a call to
    warm up. A machine that is busy all the time lowers it all the same.
    A number format that the device cannot compute is left out; one that it only emulates shows a low peak.

    Raises:
        ParameterError: the device does not exist, or no time is given.
    """
    if not seconds > 0:
        raise ParameterError(f"seconds is {seconds:g}: give the time that the measurement may take, such as 4")
    where = pick_device(device)
    rounds = [_round(where, seconds / ROUNDS) for _ in range(ROUNDS)]
    best = {dtype: max(found.peaks[dtype] for found in rounds) for dtype in rounds[0].peaks}
    rates = (max(found.bandwidths[size] for found in rounds) for size in WORKING_SETS)
    return Roof(
        device=str(where),
        name=hardware_name(where),
        threads=torch.get_num_threads() if where.type == "cpu" else 1,
        peak={dtype: rate for dtype, (rate, _) in best.items()},
        shape={dtype: name for dtype, (_, name) in best.items()},
        bandwidth=tuple(zip(WORKING_SETS, rates, strict=True)),
        call_seconds=min(found.call for found in rounds),
    )


@dataclass(frozen=True)
class _Round:
    """Everything measured once: (FLOP/s, shape) by number format, bytes a second by working set, seconds of a call."""

    peaks: Mapping[str, tuple[float, str]]
    bandwidths: Mapping[int, float]
    call: float


def _round(device: torch.device, seconds: float) -> _Round:
    share = seconds / (2 * (len(DTYPES) + 1))
    peaks = {dtype: _peak(dtype, device, 2 * share if dtype == "fp32" else share) for dtype in DTYPES}
    share = seconds / (2 * (len(WORKING_SETS) + 1))
    one = torch.ones(1, device=device)
    return _Round(
        {dtype: found for dtype, found in peaks.items() if found},
        {size: _bandwidth(size, device, share) for size in WORKING_SETS},
        _seconds(lambda: torch.add(one, one, out=one), device, share),
    )


def hardware_name(device: torch.device) -> str:
    """The name of the hardware behind `device`."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    cpu = platform.processor() or platform.machine()
    if os.path.exists("/proc/cpuinfo"):
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            cpu = next((line.split(":", 1)[1].strip() for line in file if line.startswith("model name")), cpu)
    return f"Apple GPU ({cpu})" if device.type == "mps" else cpu


# --- the two sides of the roof


def _peak(dtype: str, device: torch.device, seconds: float) -> tuple[float, str] | None:
    """Highest FLOP/s and the shape that reached it; None where the device cannot compute the format."""
    best: tuple[float, str] | None = None
    end = time.perf_counter() + seconds
    for name, flops, call in _products(dtype, device):
        try:
            took = _seconds(call, device, seconds / 8)
        except (RuntimeError, NotImplementedError, TypeError, AttributeError):  # torch's several ways to say no
            continue
        if best is None or flops / took > best[0]:
            best = flops / took, name
        if time.perf_counter() + 8 * took > end:  # larger matrices take 8 times as long
            break
    return best


def _products(dtype: str, device: torch.device) -> Iterator[tuple[str, float, Callable[[], Any]]]:
    """Name, FLOPs and call of a convolution and of ever larger matrix products."""
    kind = DTYPES[dtype]
    for channels, side in CONVOLUTIONS if dtype != "int8" else ():
        images = torch.ones(IMAGES, channels, side, side, device=device).to(kind, memory_format=torch.channels_last)
        filters = torch.ones(channels, channels, 3, 3, device=device).to(kind, memory_format=torch.channels_last)
        flops = 2.0 * IMAGES * side**2 * channels**2 * 9
        yield f"convolution {channels}", flops, partial(F.conv2d, images, filters, padding=1)
    product = torch.mm if dtype != "int8" else torch._int_mm
    for side in SIDES:
        one = torch.ones(side, side, device=device).to(kind)
        other = one.t().contiguous().t()  # columns together, as the int8 kernels want it
        yield f"matmul {side}", 2.0 * side**3, partial(product, one, other)


def _bandwidth(size: int, device: torch.device, seconds: float) -> float:
    """Bytes a second of copy or triad, the faster, over a working set of `size` bytes."""
    pair, triple = size // 8, size // 12
    source, target = (torch.ones(pair, device=device) for _ in range(2))
    a, b, c = (torch.ones(triple, device=device) for _ in range(3))
    copy_seconds = _seconds(lambda: target.copy_(source), device, seconds / 2)
    triad_seconds = _seconds(lambda: torch.add(b, c, alpha=2.0, out=a), device, seconds / 2)
    return max(8 * pair / copy_seconds, 12 * triple / triad_seconds)


def _seconds(call: Callable[[], Any], device: torch.device, budget: float) -> float:
    """Seconds of `call`: the fastest of `READINGS` readings, or of as many as `budget` allows, after one to warm up.

    The fastest, since a roof is what can be reached, and whatever else runs on the machine only slows a reading.
    """
    call()  # memory is found, kernels are chosen
    once = _reading(call, device, 1)
    if once * READINGS > budget:
        return min([once, *(_reading(call, device, 1) for _ in range(int(budget / once)))])
    repeats = max(1, round(max(SHORTEST, budget / READINGS) / max(once, 1e-7)))
    return min(_reading(call, device, repeats) for _ in range(READINGS))


def _reading(call: Callable[[], Any], device: torch.device, repeats: int) -> float:
    synchronise(device)
    started = time.perf_counter()
    for _ in range(repeats):
        call()
    synchronise(device)
    return (time.perf_counter() - started) / repeats


# --- layers under the roof


@dataclass(frozen=True)
class PlacedLayer:
    """One layer of a network for a whole batch, against the roof.

    Attributes:
        name: dotted path in the network.
        kind: class name, such as `Conv2d`.
        flops: by `torch.utils.flop_counter`; norms, activations and pooling count 0.
        bytes: moved at least, see `place_layers`.
        intensity: FLOPs a byte.
        attainable: FLOP/s under the roof.
        limit: the side of the roof that limits it.
        bound_seconds: the least time under the roof.
        seconds: measured, median.
        achieved: FLOP/s.
        share: `bound_seconds` over `seconds`. Above 1 where the last layer left its output in a nearer cache.
    """

    name: str
    kind: str
    flops: float
    bytes: float
    intensity: float
    attainable: float
    limit: Literal["compute", "memory"]
    bound_seconds: float
    seconds: float
    achieved: float
    share: float


def place_layers(
    model: nn.Module,
    input_shape: tuple[int, int, int],
    batch_size: int,
    roof: Roof,
    dtype: Dtype = "fp32",
    *,
    training: bool = False,
    channels_last: bool = True,
    repeats: int = 5,
) -> tuple[PlacedLayer, ...]:
    """Place each layer of `model` under `roof` and time it; `model` itself is left as it was.

    Bytes are counted so: each operation moves each of its tensors once. Forward: input, weights and output. With
    `training`, the gradients of the input and of the weights, where they are needed, are an operation each, and of a
    layer without matrix products the first reads the layer's input once more. The bandwidth is that of a working set
    of one operation's bytes. Layers that move nothing (views, dropout in evaluation) are left out.

    Args:
        model: any module that takes (n, channels, height, width).
        input_shape: (channels, height, width).
        batch_size: images.
        roof: of the device that the copy runs on.
        dtype: of weights and activations.
        training: forward and backward pass of each layer by itself, in training mode, instead of the forward pass
            inside the network, in evaluation mode.
        channels_last: memory layout.
        repeats: timed passes.

    Raises:
        ParameterError: a shape that the network cannot take, a number format that the roof lacks, or int8.
    """
    if dtype == "int8":
        raise ParameterError("layers cannot be placed in int8: the network would have to be quantised first; use fp32")
    roof.peak_of(dtype)
    if batch_size < 1 or repeats < 1:
        raise ParameterError(f"batch_size={batch_size} and repeats={repeats} are counts: give 1 or more")
    twin = _prepared(copy.deepcopy(model), roof, dtype, training, channels_last)
    images = torch.rand(batch_size, *input_shape, device=roof.device, dtype=DTYPES[dtype])
    images = images.to(memory_format=_layout(channels_last))
    calls = _calls(twin, images, training)
    if training:
        clock = partial(_training_seconds, device=images.device, repeats=repeats)
        times = {name: sum(clock(call) for call in group) for name, group in calls.items()}
    else:
        times = {layer.name: layer.median for layer in time_layers(twin, images, repeats=repeats)}
    return tuple(_placed(name, group, times[name], roof, dtype) for name, group in calls.items())


@dataclass(frozen=True)
class _Call:
    """One call of a layer: what it was given, and the FLOPs and bytes of its operations.

    `wanted`: what a backward pass finds the gradients of; empty in evaluation. `working_set`: bytes of one operation.
    """

    module: nn.Module
    inputs: tuple[Any, ...]
    keywords: Mapping[str, Any]
    wanted: tuple[Tensor, ...]
    flops: float
    bytes: float
    working_set: float

    def run(self) -> None:
        for one in self.wanted:
            one.grad = None
        made = _first(self.module(*self.inputs, **self.keywords))
        if self.wanted:
            made.backward(torch.ones_like(made))


def _calls(model: nn.Module, images: Tensor, training: bool) -> dict[str, list[_Call]]:
    """The calls of each layer in one pass, in their order, with inputs that can be used again."""
    found: dict[str, list[_Call]] = defaultdict(list)

    def note(name: str, module: nn.Module, inputs: tuple, keywords: dict, output: Any) -> None:
        if not _is_view(_first(output), inputs):
            found[name].append(_call(module, inputs, keywords, _first(output), training))

    with _watched(model, note), torch.set_grad_enabled(training):
        try:
            model(images)
        except RuntimeError as error:
            raise ParameterError(
                f"the network cannot take images of shape {tuple(images.shape)} ({str(error).splitlines()[0]}): "
                "give input_shape as (channels, height, width) of your images"
            ) from error
    # A module that calls other layers, such as a network with a parameter of its own, is told by those.
    return {name: calls for name, calls in found.items() if not any(_inside(inner, name) for inner in found)}


def _inside(name: str, outer: str) -> bool:
    return name != outer and (not outer or name.startswith(f"{outer}."))


def _call(module: nn.Module, inputs: tuple, keywords: dict, output: Tensor, training: bool) -> _Call:
    given = tuple(_leaf(one) for one in inputs)
    weights = tuple(module.parameters())
    learned = tuple(weight for weight in weights if weight.requires_grad)
    carried = tuple(one for one in given if isinstance(one, Tensor) and one.requires_grad)
    read, held, made = (sum(map(_bytes, tensors)) for tensors in (given, weights, (output,)))
    moved = once = read + held + made
    if training and carried:
        moved += once + (0 if isinstance(module, MATRIX_LAYERS) else read)
    if training and learned:
        moved += once
    call = _Call(module, given, keywords, learned + carried if training else (), 0.0, moved, once)
    with FlopCounterMode(display=False) as counter:
        call.run()
    return replace(call, flops=float(counter.get_total_flops()))


def _placed(name: str, calls: list[_Call], seconds: float, roof: Roof, dtype: str) -> PlacedLayer:
    flops, moved = sum(call.flops for call in calls), sum(call.bytes for call in calls)
    compute = flops / roof.peak_of(dtype)
    memory = sum(call.bytes / roof.bandwidth_at(call.working_set) for call in calls)
    bound = max(compute, memory)
    return PlacedLayer(
        name=name,
        kind=type(calls[0].module).__name__,
        flops=flops,
        bytes=moved,
        intensity=flops / moved,
        attainable=flops / bound,
        limit="compute" if compute >= memory else "memory",
        bound_seconds=bound,
        seconds=seconds,
        achieved=flops / seconds,
        share=bound / seconds,
    )


def _training_seconds(call: _Call, device: torch.device, repeats: int) -> float:
    """Median seconds of the layer's forward and backward pass by itself."""
    call.run()
    return median(_reading(call.run, device, 1) for _ in range(repeats))


def _prepared(twin: nn.Module, roof: Roof, dtype: str, training: bool, channels_last: bool) -> nn.Module:
    for module in twin.modules():
        if getattr(module, "inplace", False):
            module.inplace = False  # moves the same bytes, and leaves its input to be used again
    return twin.to(roof.device, DTYPES[dtype], memory_format=_layout(channels_last)).train(training)


@contextmanager
def _watched(model: nn.Module, note: Callable[[str, nn.Module, tuple, dict, Any], None]) -> Iterator[None]:
    handles: list[Any] = []

    def after(name: str, module: nn.Module, inputs: tuple, keywords: dict, output: Any) -> None:
        nonlocal again
        if not again:  # `note` runs the module once more
            again = True
            note(name, module, inputs, keywords, output)
            again = False

    again = False
    for name, module in counted_modules(model):
        handles.append(module.register_forward_hook(partial(after, name), with_kwargs=True))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _is_view(output: Tensor, inputs: tuple) -> bool:
    storages = (one.untyped_storage().data_ptr() for one in inputs if isinstance(one, Tensor))
    return output.untyped_storage().data_ptr() in storages


def _leaf(value: Any) -> Any:
    return value.detach().requires_grad_(value.requires_grad) if isinstance(value, Tensor) else value


def _first(output: Any) -> Tensor:
    """The tensor of layers that return a tuple, such as attention with its weights."""
    return output[0] if isinstance(output, tuple) else output


def _bytes(value: Any) -> int:
    return value.numel() * value.element_size() if isinstance(value, Tensor) else 0


def _layout(channels_last: bool) -> torch.memory_format:
    return torch.channels_last if channels_last else torch.contiguous_format
