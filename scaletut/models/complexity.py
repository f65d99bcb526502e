"""What a network costs, layer by layer: parameters, multiply-accumulates, FLOPs, activations, time.

The count behind the table is C = Σ_k N_k D_k: layer k has N_k weights, each of which is used at D_k positions
of one image, and each use is one multiply-accumulate. A convolution uses its weights at every position of its
output map, a linear layer once an image (or once a token). FLOPs here are 2 per multiply-accumulate, the
convention of `torch.utils.flop_counter`; biases, norms, activations and pooling count 0 there and here.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from statistics import median
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from scaletut.errors import ParameterError

if TYPE_CHECKING:
    import pandas as pd

Call = tuple[str, nn.Module, Tensor, Tensor]  # name, module, its input, its output
MATRIX_LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)


@dataclass(frozen=True)
class Layer:
    """One layer's share, for one image.

    Attributes:
        name: dotted path in the network.
        kind: class name, such as `Conv2d`.
        output_shape: of one image's output, without the batch axis.
        parameters: of this layer itself (weights, biases, norm scales).
        weights: N_k, entries of the filter bank or matrix; 0 for layers that multiply by none.
        uses: D_k, positions of one image at which each weight is used.
        macs: N_k D_k.
        flops: 2 a multiply-accumulate, forward.
        training_flops: forward and backward. The gradient of the input costs as much as the forward pass, and
            so does the gradient of the weights; each is counted only where it is needed (not the first
            layer's input gradient, not the weights of a frozen layer).
        activation_bytes: size of the output as it stands in memory, in the dtype of the run.
    """

    name: str
    kind: str
    output_shape: tuple[int, ...]
    parameters: int
    weights: int
    uses: int
    macs: int
    flops: int
    training_flops: int
    activation_bytes: int


@dataclass(frozen=True)
class Complexity:
    """The table of a network for one image.

    Attributes:
        layers: in the order of the forward pass.
        input_shape: (channels, height, width).
        parameters: of the whole network, shared ones once.
        saved_bytes: what autograd keeps of one image for the backward pass, with the present `requires_grad`
            flags: distinct buffers, parameters not counted. Times the batch size it is the activation memory
            of training.
        outside_flops: forward FLOPs that PyTorch's counter saw outside the layers (functional matrix
            products, such as attention); 0 when the table is complete.
    """

    layers: tuple[Layer, ...]
    input_shape: tuple[int, ...]
    parameters: int
    saved_bytes: int
    outside_flops: int

    @property
    def macs(self) -> int:
        """Σ_k N_k D_k: multiply-accumulates of one image, forward."""
        return sum(layer.macs for layer in self.layers)

    @property
    def flops(self) -> int:
        """FLOPs of one image, forward."""
        return sum(layer.flops for layer in self.layers)

    @property
    def training_flops(self) -> int:
        """FLOPs of one image, forward and backward, with the parameters that are frozen now left frozen."""
        return sum(layer.training_flops for layer in self.layers)

    @property
    def activation_bytes(self) -> int:
        """Sum of all layers' outputs for one image, functional operations between layers not counted."""
        return sum(layer.activation_bytes for layer in self.layers)

    def frame(self) -> pd.DataFrame:
        """The layers as a pandas table, one row a layer."""
        import pandas as pd

        return pd.DataFrame([asdict(layer) for layer in self.layers])


def complexity(model: nn.Module, input_shape: tuple[int, int, int] = (3, 32, 32)) -> Complexity:
    """Count a network by running one blank image through it; the model is left as it was.

    Args:
        model: any module that takes (1, channels, height, width) and is built of Conv, Linear, norm and
            parameter-free layers. `requires_grad` flags are honoured in `training_flops`.
        input_shape: (channels, height, width) in pixels.

    Raises:
        ParameterError: the network cannot take an image of this shape.
    """
    calls: list[Call] = []
    saved: dict[int, int] = {}
    own = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            saved[storage.data_ptr()] = storage.nbytes()  # views and repeats share one storage
        return tensor

    counter = FlopCounterMode(display=False)
    watch = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
    with (
        _at_rest(model),
        _hooked(model, lambda *call: calls.append(call)),
        torch.enable_grad(),
        watch,
        counter,
    ):
        try:
            output = model(_blank(model, input_shape))
        except RuntimeError as error:
            raise ParameterError(
                f"the network cannot take an image of shape {input_shape} ({str(error).splitlines()[0]}): "
                "give input_shape as (channels, height, width) of your images"
            ) from error
    del output  # it held the graph, so that no address was used twice
    layers = _layers(calls)
    outside = counter.get_total_flops() - sum(layer.flops for layer in layers)
    parameters = sum(p.numel() for p in model.parameters())
    return Complexity(layers, tuple(input_shape), parameters, sum(saved.values()), outside)


@dataclass(frozen=True)
class LayerTime:
    """Forward seconds of one layer for a whole batch: the smallest and the median of the repeats."""

    name: str
    kind: str
    minimum: float
    median: float


def time_layers(model: nn.Module, images: Tensor, *, repeats: int = 5) -> tuple[LayerTime, ...]:
    """Measure each layer's forward pass, in evaluation mode and without gradients, after one pass to warm up.

    The hooks themselves cost some microseconds a layer, so take a batch on which a layer takes far longer.

    Args:
        model: as for `complexity`.
        images: float (n, channels, height, width) on the model's device.
        repeats: passes that are measured (> 0).

    Returns:
        One entry a layer, in the order of the forward pass; a layer called several times is summed.
    """
    if repeats < 1:
        raise ParameterError(f"repeats is {repeats}: give at least 1 pass to measure")
    kinds: dict[str, str] = {}
    passes: list[dict[str, float]] = []
    started: dict[str, float] = {}

    def before(name: str) -> None:
        started[name] = _now(images.device)

    def after(name: str, module: nn.Module, _input: Tensor, _output: Tensor) -> None:
        kinds.setdefault(name, type(module).__name__)
        passes[-1][name] = passes[-1].get(name, 0.0) + _now(images.device) - started[name]

    with _at_rest(model), _hooked(model, after, before), torch.inference_mode():
        for _ in range(repeats + 1):
            passes.append({})
            model(images)
    measured = {name: [run[name] for run in passes[1:]] for name in kinds}
    return tuple(LayerTime(name, kinds[name], min(times), median(times)) for name, times in measured.items())


def _layers(calls: list[Call]) -> tuple[Layer, ...]:
    """One row a module: a module that is called several times uses its weights that often."""
    rows: dict[str, dict[str, Any]] = {}
    for name, module, given, made in calls:
        weights = module.weight.numel() if isinstance(module, MATRIX_LAYERS) else 0
        uses = made.numel() // _outputs(module) if weights else 0
        flops = 2 * weights * uses
        passes = 1 + (weights > 0 and module.weight.requires_grad) + given.requires_grad
        row = rows.setdefault(name, dict.fromkeys(("uses", "macs", "flops", "training_flops", "activation_bytes"), 0))
        row |= {
            "name": name,
            "kind": type(module).__name__,
            "output_shape": tuple(made.shape[1:]),
            "weights": weights,
        }
        row["parameters"] = sum(p.numel() for p in module.parameters(recurse=False))
        row["uses"] += uses
        row["macs"] += weights * uses
        row["flops"] += flops
        row["training_flops"] += flops * passes
        row["activation_bytes"] += made.numel() * made.element_size()
    return tuple(Layer(**row) for row in rows.values())


def _outputs(module: nn.Module) -> int:
    """Values that a layer makes at each position: one for each row of its weight matrix."""
    return module.out_features if isinstance(module, nn.Linear) else module.out_channels


def counted_modules(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Modules that compute something themselves: those with parameters of their own, and leaves."""
    for name, module in model.named_modules():
        own = next(module.parameters(recurse=False), None) is not None
        leaf = next(module.children(), None) is None
        if (own or leaf) and "Identity" not in type(module).__name__:
            yield name, module


@contextmanager
def _hooked(
    model: nn.Module,
    after: Callable[[str, nn.Module, Tensor, Tensor], None],
    before: Callable[[str], None] | None = None,
) -> Iterator[None]:
    """Call `before(name)` and `after(name, module, input, output)` around every counted module."""
    handles = []
    for name, module in counted_modules(model):
        if before is not None:
            handles.append(module.register_forward_pre_hook(lambda _m, _i, name=name: before(name)))
        handles.append(module.register_forward_hook(lambda m, i, o, name=name: after(name, m, i[0], _first(o))))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _first(output: Tensor | tuple) -> Tensor:
    """The tensor of layers that return a tuple, such as attention with its weights."""
    return output[0] if isinstance(output, tuple) else output


@contextmanager
def _at_rest(model: nn.Module) -> Iterator[None]:
    """Evaluation mode inside (no statistics move, one image suffices for a batch norm), the old modes
    afterwards."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training


def _blank(model: nn.Module, shape: tuple[int, ...]) -> Tensor:
    like = next(model.parameters(), torch.empty(0))
    return torch.zeros(1, *shape, dtype=like.dtype, device=like.device)


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
    return time.perf_counter()
