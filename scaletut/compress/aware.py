"""Networks that train with the rounding they will be deployed with, and weights in fewer bits by simulation.

Sources: B. Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only
Inference", CVPR 2018, section 3 (simulated quantisation, ranges by moving averages, folded norms); R. Krishnamoorthi,
"Quantizing deep convolutional networks for efficient inference", 2018, section 3.2 (the straight-through estimator).
"""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from scaletut.compress.graph import LAYERS, norm_pairs
from scaletut.compress.quantize import LARGEST, Headroom, weight_scales
from scaletut.errors import ParameterError
from scaletut.models.build import seeded
from scaletut.models.hooks import observe
from scaletut.models.norms import BATCH_NORMS
from scaletut.models.surgery import add_step

MOMENTUM = 0.05  # of the moving averages of an activation's extremes
AVERAGES = (nn.AdaptiveAvgPool2d, nn.AvgPool2d)  # their inputs are rounded too
MERGED = (nn.ReLU, nn.ReLU6, nn.MaxPool2d, *BATCH_NORMS)  # these round their layer's output for it, or not at all


class ActivationGrid(nn.Module):
    """Rounds an activation to 256 levels between moving averages of its extremes; gradients pass straight through."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("low", torch.tensor(math.nan))  # until something was seen
        self.register_buffer("high", torch.tensor(math.nan))

    def forward(self, x: Tensor) -> Tensor:
        """Any shape; in training mode the range moves first."""
        values = x.float()
        if self.training:
            with torch.no_grad():
                low, high = values.amin().clamp(max=0), values.amax().clamp(min=0)
                self.low.copy_(torch.where(self.low.isnan(), low, self.low.lerp(low, MOMENTUM)))
                self.high.copy_(torch.where(self.high.isnan(), high, self.high.lerp(high, MOMENTUM)))
        if bool(self.low.isnan()):
            return x
        scale = ((self.high - self.low) / 255).clamp(min=1e-12)
        zero_point = (-self.low / scale).round().clamp(0, 255).int()
        return torch.fake_quantize_per_tensor_affine(values, scale, zero_point, 0, 255).to(x.dtype)


class WeightGrid(nn.Module):
    """Rounds a weight as it will be after its norm was folded into it: to whole steps of `weight_scales`."""

    def __init__(self, layer: nn.Module, norm: nn.Module | None, per_channel: bool, headroom: Headroom) -> None:
        super().__init__()
        self.how: dict[str, Any] = {
            "groups": getattr(layer, "groups", 1), "per_channel": per_channel, "headroom": headroom
        }  # fmt: skip
        self.norm = (norm,)  # in a tuple: it is a part of the network already and must not become another one

    def forward(self, weight: Tensor) -> Tensor:
        """float (out, in / groups, ...), the same shape out."""
        factor = self._factor(weight)
        folded = weight * factor
        scales = weight_scales(folded.detach().float().cpu().numpy(), **self.how)
        scales = torch.from_numpy(scales).to(device=weight.device, dtype=torch.float32)
        zero = torch.zeros(len(weight), dtype=torch.int32, device=weight.device)
        rounded = torch.fake_quantize_per_channel_affine(folded.float(), scales, zero, 0, -LARGEST, LARGEST)
        return (rounded / factor).to(weight.dtype)

    def _factor(self, weight: Tensor) -> Tensor:
        """What the norm multiplies each channel with, by its running statistics: (out, 1, ...)."""
        norm = self.norm[0]
        if norm is None:
            return weight.new_ones(len(weight), *[1] * (weight.ndim - 1))
        with torch.no_grad():
            factor = (norm.running_var + norm.eps).rsqrt() * (1 if norm.weight is None else norm.weight)
            factor = torch.where(factor.abs() < 1e-8, torch.full_like(factor, 1e-8), factor)  # a dead channel
        return factor.view(-1, *[1] * (weight.ndim - 1))


def quantisation_aware(
    net: nn.Module, *, side: int = 32, per_channel: bool = True, headroom: Headroom = "pairs"
) -> nn.Module:
    """A copy that computes with the rounding of `quantise_static`, to be trained on by `scaletut.train.fit`.

    Every convolution and linear layer sees its weights rounded as they will be (with the norm behind it folded in, by
    the norm's running statistics) and its inputs rounded to 256 levels; what is added up in shortcuts is rounded too,
    and what a pooling layer averages.
    Gradients pass the rounding as if it were not there. `finish_quantisation_aware` takes all that away again.

    Args:
        net: any network; which layer feeds which norm is seen by running it once.
        side: of the images that it takes, in pixels.
        per_channel: as in `quantise_static`.
        headroom: as in `quantise_static`.

    Returns:
        The copy, in the mode of `net`. It is for training, not for saving.

    Raises:
        ParameterError: the network is prepared already, or has no layer to round.
    """
    if _prepared(net):
        raise ParameterError("the network rounds already: call finish_quantisation_aware() first")
    new = copy.deepcopy(net).eval()
    with seeded(0):
        images = torch.randn(2, 3, side, side).to(next(new.parameters()))
    pairs = norm_pairs(new, images)
    if not any(isinstance(module, LAYERS) for module in new.modules()):
        raise ParameterError("the network has no convolution or linear layer whose numbers could be rounded")
    norms = {layer: new.get_submodule(norm) for norm, layer in pairs.items()}
    lonely = _unmerged(new, images)
    for name, module in list(new.named_modules()):
        if isinstance(module, LAYERS):
            grid = WeightGrid(module, norms.get(name), per_channel, headroom)
            parametrize.register_parametrization(module, "weight", grid)
        if isinstance(module, (*LAYERS, *AVERAGES)):
            module.input_grid = ActivationGrid()
            module.register_forward_pre_hook(_round_input)
        if module in lonely:
            module.output_grid = ActivationGrid()
            module.register_forward_hook(_round_output)
    step = {"step": "quantisation_aware", "per_channel": per_channel, "headroom": headroom}
    add_step(new, step)
    return new.to(next(net.parameters()).device).train(net.training)


def finish_quantisation_aware(net: nn.Module) -> nn.Module:
    """A copy without the rounding: a plain network, whose weights fit the grids that `quantise_static` will give it.

    Raises:
        ParameterError: the network is not from `quantisation_aware`.
    """
    if not _prepared(net):
        raise ParameterError("the network does not round: make it with quantisation_aware() and train it first")
    new = copy.deepcopy(net)
    for module in list(new.modules()):
        if isinstance(module, LAYERS) and parametrize.is_parametrized(module, "weight"):
            parametrize.remove_parametrizations(module, "weight", leave_parametrized=False)
        for hooks, ours, grid in (
            (module._forward_pre_hooks, _round_input, "input_grid"),
            (module._forward_hooks, _round_output, "output_grid"),
        ):
            for key in [key for key, hook in hooks.items() if hook is ours]:
                del hooks[key]
                delattr(module, grid)
    return new


def simulate_weights(net: nn.Module, *, bits: int = 4, group: int = 32) -> nn.Module:
    """A copy whose weights are rounded to `bits` in groups that share a step, as formats for few bits store them.

    Only the accuracy is that of such a format: the copy still holds and multiplies floats. The bytes that it would take
    stand in `steps`: `bits` a weight, 2 for a group's step in half precision, 4 for every other number.

    Args:
        net: any network; biases and norms are kept.
        bits: of a weight, 2 to 8.
        group: weights of one output channel that share a step.

    Returns:
        The copy, its mode kept; weights that were 0 are 0.

    Raises:
        ParameterError: bits or group out of range, or no layer to round.
    """
    if not 2 <= bits <= 8 or group < 1:
        raise ParameterError(f"bits is {bits} and group {group}: give 2 to 8 bits and groups of at least 1 weight")
    new = copy.deepcopy(net)
    weights = [module.weight for module in new.modules() if isinstance(module, LAYERS)]
    if not weights:
        raise ParameterError("the network has no convolution or linear layer whose weights could be rounded")
    groups = sum(_round_groups(weight, bits, group) for weight in weights)
    rounded = sum(weight.numel() for weight in weights)
    others = sum(value.numel() for value in new.state_dict().values()) - rounded
    size = math.ceil(rounded * bits / 8) + 2 * groups + 4 * others
    step = {"step": "simulate_weights", "bits": bits, "group": group, "bytes": size}
    return add_step(new, step)


@torch.no_grad()
def _round_groups(weight: Tensor, bits: int, group: int) -> int:
    """Round in place; how many groups there are."""
    largest = 2 ** (bits - 1) - 1
    rows = weight.flatten(1).double()
    count = math.ceil(rows.shape[1] / group)
    padded = nn.functional.pad(rows, (0, count * group - rows.shape[1])).view(len(rows), count, group)
    step = (padded.abs().amax(dim=2, keepdim=True) / largest).half().double().clamp(min=2.0**-24)
    rounded = (padded / step).round().clamp(-largest, largest) * step
    weight.copy_(rounded.flatten(1)[:, : rows.shape[1]].view_as(weight).to(weight))
    return len(rows) * count


def _prepared(net: nn.Module) -> bool:
    return any(isinstance(module, WeightGrid) for module in net.modules())


def _round_input(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (module.input_grid(inputs[0]), *inputs[1:])


def _round_output(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
    return module.output_grid(output)


def _unmerged(net: nn.Module, images: Tensor) -> set[nn.Module]:
    """Layers and norms whose output goes elsewhere than into what ONNX Runtime makes one step with them.

    That output is stored, so it is rounded where it is; before a ReLU it never exists.
    """
    kinds = (*LAYERS, *BATCH_NORMS)
    made: dict[int, tuple[nn.Module, Tensor]] = {}  # by a tensor's id, which is another's as soon as the tensor is gone
    merged: set[nn.Module] = set()

    def note(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if isinstance(module, MERGED) and id(inputs[0]) in made:
            merged.add(made[id(inputs[0])][0])
        if isinstance(module, kinds):
            made[id(output)] = (module, output)

    observe(net, images, [module for module in net.modules() if isinstance(module, (*kinds, *MERGED))], note)
    return {module for module, _ in made.values()} - merged
