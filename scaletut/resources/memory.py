"""Peak memory of a training step: predicted without allocating, measured, and by the rule of thumb.

The prediction runs the very step of `scaletut.train` on a twin of the network whose tensors have shapes and no content
(torch's FakeTensorMode), and adds up the storages that live at the same time. What a compiled kernel takes for itself
is invisible there; the CPU's large cases are known by name (`_workspace`), a GPU's are not.

Left out of forecast and measurement: the process and its libraries (some hundred MB), what an allocator loses between
blocks, and the training images, which `Batches` holds as bytes.
"""

from __future__ import annotations

import copy
import math
import os
import weakref
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.autograd.profiler import profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from scaletut.errors import ParameterError
from scaletut.train import Execution, Recipe, execution
from scaletut.train.device import synchronise
from scaletut.train.loop import backward, prepare
from scaletut.train.optim import WeightAverage, make_optimizers
from scaletut.train.recompute import recompute_blocks

Kind = Literal["parameters", "buffers", "gradients", "optimizer", "activations", "temporaries", "inputs"]
MEASURED = ("cpu", "cuda")  # devices that tell their peak
STEPS = 2  # the optimiser makes its state in the first, so the second is the first that is like all others
SMALL_IMAGE = 20480  # elements up to which torch convolves a single image without oneDNN (Convolution.cpp, use_mkldnn)
LANES = 8  # float32 numbers in a vector of AVX2

aten = torch.ops.aten


@dataclass(frozen=True)
class MemoryForecast:
    """What lives at the moment when a training step needs most, in bytes; the parts add up to `peak`.

    Attributes:
        parameters: weights, frozen ones included.
        buffers: running statistics and other tensors that are not learned.
        gradients: of the parameters.
        optimizer: state of the optimiser, and the averaged weights where the recipe asks for them.
        activations: what the forward pass keeps for the backward pass, or is just making.
        temporaries: what the backward pass (recomputed activations among it), the optimiser and the kernels make and
            drop.
        inputs: the batch of images and its labels.
        peak: all of it.
    """

    parameters: int
    buffers: int
    gradients: int
    optimizer: int
    activations: int
    temporaries: int
    inputs: int
    peak: int


def predict_memory(
    model: nn.Module, recipe: Recipe, *, batch_size: int, side: int = 32, how: Execution | None = None
) -> MemoryForecast:
    """Peak memory of a training step of `model`, without running it and without its memory; takes about a second.

    Args:
        model: the network; it is not touched.
        recipe: its optimiser and averaging count; its batch size does not.
        batch_size: images a step (> 0).
        side: height and width of the images in pixels.
        how: device, number format, layout, micro-batches, recomputing; by default what `fit` would take for `recipe`.
            A compiled network is forecast as if it were not (`resnet8`, compiled, took 4 to 10 % less).

    Raises:
        ParameterError: a batch without images; a network whose forward pass looks at values, or has no blocks to
            recompute.
    """
    how = _settle(recipe, batch_size, how)
    fake = FakeTensorMode(allow_non_fake_inputs=True)  # for tensors that a network holds besides its weights
    with fake:
        twin = _twin(model, how)
        forward = recompute_blocks(twin) if how.recompute else twin
        training = _Training(twin, forward, recipe, how, batch_size, side)
        watch = _Watch(training)
        try:
            with watch:
                for _ in range(STEPS):
                    training.step()
                    watch.know("optimizer", training.state())
        except DataDependentOutputException as error:
            raise ParameterError(
                f"the network's forward pass decides by the value of a tensor ({error.func}), which a forecast without "
                "values cannot follow: use measure_memory for it"
            ) from error
    return MemoryForecast(**{kind: watch.parts[kind] for kind in get_args(Kind)}, peak=watch.peak)


def measure_memory(
    model: nn.Module,
    recipe: Recipe,
    *,
    batch_size: int,
    side: int = 32,
    how: Execution | None = None,
    steps: int = STEPS,
) -> int:
    """Peak bytes that torch's allocator gave out in training steps that are really run, on a copy of `model`.

    Args:
        model, recipe, batch_size, side, how: as for `predict_memory`.
        steps: at least 2, since the optimiser makes its state in the first.

    Returns:
        The peak on a CPU from the profiler's list of all allocations, on CUDA from the caching allocator's count.

    Raises:
        ParameterError: fewer than two steps, or a device that does not tell its peak.
    """
    how = _settle(recipe, batch_size, how)
    if steps < STEPS:
        raise ParameterError(f"steps is {steps}: give at least {STEPS}, for the optimiser makes its state in the first")
    if how.device.type not in MEASURED:
        raise ParameterError(
            f"the peak on {how.device.type} cannot be measured: its driver tells only what is in use now; "
            "predict_memory works there, and measuring does on a CPU or on CUDA"
        )

    def run() -> None:
        training = _Training(*prepare(copy.deepcopy(model), how), recipe, how, batch_size, side)
        for _ in range(steps):
            training.step()

    devices = [how.device] if how.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        return peak_bytes(run, how.device)


def rule_of_thumb(model: nn.Module, recipe: Recipe) -> int:
    """Bytes by the rule that popular estimators print: copies of the weights, activations left out.

    Weights, gradients, and one copy for momentum or two for Adam: 4 times the weights with Adam, as `accelerate
    estimate-memory` says, 3 times with momentum, 2 times with plain SGD.
    """
    state = {"adam": 2, "adamw": 2}.get(recipe.optimizer, int(recipe.momentum > 0))
    return (2 + state) * sum(p.numel() * p.element_size() for p in model.parameters())


# --- the step


def _settle(recipe: Recipe, batch_size: int, how: Execution | None) -> Execution:
    if batch_size < 1:
        raise ParameterError(f"batch_size is {batch_size}: give at least 1 image")
    return how or execution("", recipe.precision, recipe.channels_last)


class _Training:
    """Training steps as `fit` makes them, on one batch of random images: memory does not depend on what they show."""

    def __init__(
        self,
        model: nn.Module,
        forward: Callable[[Tensor], Tensor],
        recipe: Recipe,
        how: Execution,
        batch_size: int,
        side: int,
    ) -> None:
        self.model, self.forward, self.recipe, self.how = model.train(), forward, recipe, how
        self.model.zero_grad(set_to_none=True)
        self.optimizers = make_optimizers(model, recipe, fused=how.fused)
        self.average = WeightAverage(model, 1) if recipe.averaging else None
        shape, layout = (batch_size, 3, side, side), how.layout
        self.images = torch.empty(shape, dtype=how.dtype, device=how.device, memory_format=layout).normal_()
        self.labels = torch.zeros(batch_size, dtype=torch.int64, device=how.device)

    def step(self) -> None:
        backward(self.forward, self.images, self.labels, self.recipe, self.how)
        for optimizer in self.optimizers:
            optimizer.step()
        self.model.zero_grad(set_to_none=True)
        if self.average:
            self.average.update(self.model)

    def state(self) -> list[Any]:
        """What optimisers and averaging keep between steps."""
        return [self.average.state if self.average else {}, *(o.state_dict()["state"] for o in self.optimizers)]


def _twin(model: nn.Module, how: Execution) -> nn.Module:
    """A copy of `model` on fake tensors, placed as `how.place` would; that one cannot move fake tensors reliably."""

    def blank(tensor: Tensor) -> Tensor:
        layout = how.layout if tensor.ndim == 4 else torch.contiguous_format
        return torch.empty(tensor.shape, dtype=tensor.dtype, device=how.device, memory_format=layout)

    memo: dict[int, Tensor] = {id(p): nn.Parameter(blank(p), p.requires_grad) for p in model.parameters()}
    memo |= {id(buffer): blank(buffer) for buffer in model.buffers()}
    return copy.deepcopy(model, memo)


# --- counting


class _Watch(TorchDispatchMode):
    """Adds up the storages that live at the same time, by what they are for, and keeps the largest sum."""

    def __init__(self, training: _Training) -> None:
        super().__init__()
        self.kinds: dict[int, Kind] = {}
        self.live: Counter[Kind] = Counter()
        self.parts: Counter[Kind] = Counter()
        self.peak = 0
        self.how = training.how
        self.know("parameters", training.model.parameters())
        self.know("buffers", training.model.buffers())
        self.know("inputs", [training.images, training.labels])
        self.know("optimizer", training.state())
        for parameter in training.model.parameters():
            if parameter.requires_grad:
                parameter.register_post_accumulate_grad_hook(lambda p: self.know("gradients", [p.grad]))

    def know(self, kind: Kind, tensors: Iterable[Any], *, anew: bool = True) -> None:
        """Count the storages of all tensors found in `tensors` as `kind`; those counted before too when `anew`."""
        for tensor in tree_leaves(list(tensors)):
            if not isinstance(tensor, Tensor):
                continue
            storage = tensor.untyped_storage()
            key, size = id(storage), storage.nbytes()
            before = self.kinds.get(key)
            if before is None:
                weakref.finalize(storage, self.forget, key, size)
            elif anew:
                self.live[before] -= size
            else:
                continue
            self.kinds[key] = kind
            self.live[kind] += size

    def forget(self, key: int, size: int) -> None:
        self.live[self.kinds.pop(key)] -= size

    def __torch_dispatch__(self, operator: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        outputs = operator(*args, **(kwargs or {}))
        going_back = torch._C._current_graph_task_id() != -1
        kept = torch.is_grad_enabled() and not going_back
        self.know("activations" if kept else "temporaries", [outputs], anew=False)
        extra = _workspace(operator, args, outputs) if self.how.device.type == "cpu" else 0
        total = self.live.total() + extra
        if total >= self.peak:
            self.peak = total
            self.parts = self.live + Counter(temporaries=extra)
        return outputs


def _workspace(operator: Any, args: tuple, outputs: Any) -> int:
    """Bytes that a CPU kernel takes for itself, beyond its outputs, where torch 2.14 takes many."""
    if operator is aten.convolution.default and _by_columns(args[0], args[1]):
        return _columns(args[0], args[1], outputs)
    if operator is aten.convolution_backward.default:
        grad, images, weight = args[:3]
        if _by_columns(images, weight):
            return _columns(images, weight, grad)
        if _channels_last(images) or _channels_last(weight):
            return _packed(weight, args[-2]) + weight.nbytes  # the filters' gradient, and a copy on its way back
        pointwise = weight.shape[2:].numel() == 1  # its images' gradient is copied twice, before the filters' is made
        return max(images.nbytes + grad.nbytes, weight.nbytes, pointwise * (2 * images.nbytes - weight.nbytes))
    if operator is aten.native_batch_norm_backward.default:
        return outputs[0].nbytes
    if operator is aten.max_pool2d_with_indices_backward.default:
        grad, indices = args[0], args[-1]
        return indices.nbytes + outputs.nbytes if _channels_last(grad) != _channels_last(indices) else 0
    return 0


def _packed(weight: Tensor, groups: int) -> int:
    """Bytes of filters in oneDNN's layout, which fills the channels of each group up to whole vectors."""
    if groups == 1:
        return weight.nbytes
    channels = (len(weight) // groups, weight.shape[1])
    return weight.nbytes * math.prod(math.ceil(c / LANES) * LANES for c in channels) // math.prod(channels)


def _channels_last(tensor: Tensor) -> bool:
    return tensor.is_contiguous(memory_format=torch.channels_last) and not tensor.is_contiguous()


def _by_columns(images: Tensor, weight: Tensor) -> bool:
    """Whether a convolution unfolds its images: for a type without a kernel here, or for one small image."""
    if images.dtype == torch.bfloat16:
        return not torch.ops.mkldnn._is_mkldnn_bf16_supported()
    if images.dtype == torch.float16:
        return not torch.ops.mkldnn._is_mkldnn_fp16_supported()
    whole = images.shape[1] == weight.shape[1]  # one group of channels
    return whole and len(images) == 1 and images.numel() <= SMALL_IMAGE and max(weight.shape[2:]) <= 3


def _columns(images: Tensor, weight: Tensor, output: Tensor) -> int:
    """Bytes of all patches of `images` side by side; a 1 x 1 kernel on the image's own grid needs none."""
    pointwise = weight.shape[2:].numel() == 1 and images.shape[2:] == output.shape[2:]
    return 0 if pointwise else output[:, 0].numel() * weight[0].numel() * images.element_size()


# --- measuring


def peak_bytes(run: Callable[[], object], device: torch.device) -> int:
    """Peak bytes that torch's allocator gave out on `device`, a CPU or CUDA, while `run` ran, beyond what was there."""
    return _cuda_peak(run, device) if device.type == "cuda" else _cpu_peak(run)


def _cpu_peak(run: Callable[[], object]) -> int:
    os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # else it reports each start and stop on the error stream
    with profile(profile_memory=True, use_kineto=False) as profiler:
        run()
    events = (event for event in profiler.kineto_results.events() if event.name() == "[memory]")
    live = peak = 0
    for _, size in sorted((event.start_ns(), event.nbytes()) for event in events):
        live += size
        peak = max(peak, live)
    return peak


def _cuda_peak(run: Callable[[], object], device: torch.device) -> int:
    synchronise(device)
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    run()
    synchronise(device)
    return torch.cuda.max_memory_allocated(device) - before
