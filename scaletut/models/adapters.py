"""Fine-tuning: which weights of a trained network a new task may change.

Sources: E. Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", ICLR 2022, equation 3; J.
    Frankle,
D. Schwab, A. Morcos, "Training BatchNorm and Only BatchNorm", ICLR 2021 (norms alone can learn).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from scaletut.errors import ParameterError
from scaletut.models.build import NetSpec, seeded
from scaletut.models.norms import BATCH_NORMS, FROZEN_KINDS, FrozenBatchNorm
from scaletut.models.surgery import changed_layers, rebuild, set_layer

Mode = Literal["full", "head", "norms", "lora", "scratch"]
MODES: tuple[Mode, ...] = get_args(Mode)
NORMS = (*BATCH_NORMS, nn.LayerNorm, nn.GroupNorm)


class LoRA(nn.Module):
    """A frozen layer plus a trained low-rank correction: base(x) + scale * up(down(x)), that is W + scale * B
    A.

    `down` (A) is a layer like the base with only `rank` outputs; `up` (B) mixes these into the base's outputs
    and starts at zero, so that the network first computes exactly what it did before. A rank above the full
    rank of the base adds nothing and is cut to it.

    Args:
        base: `Conv2d` without groups, or `Linear`; its weights are frozen here.
        rank: of the correction (> 0).
        scale: factor on the correction.
    """

    def __init__(self, base: nn.Conv2d | nn.Linear, rank: int, scale: float = 1.0) -> None:
        super().__init__()
        outputs, inputs = base.weight.flatten(1).shape
        rank = min(rank, outputs, inputs)
        self.base, self.scale = base.requires_grad_(False), scale
        self.down = copy.deepcopy(base)  # keeps stride, padding and what a subclass adds to them
        self.down.weight = nn.Parameter(torch.empty(rank, *base.weight.shape[1:]).to(base.weight))
        self.down.bias = None
        nn.init.kaiming_uniform_(self.down.weight, a=5**0.5)  # as PyTorch starts a layer of this kind
        if isinstance(base, nn.Linear):
            self.down.out_features = rank
            self.up: nn.Module = nn.Linear(rank, outputs, bias=False)
        else:
            self.down.out_channels = rank
            self.up = nn.Conv2d(rank, outputs, 1, bias=False)
        nn.init.zeros_(self.up.weight)
        self.up.to(base.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Same shapes as the base."""
        return self.base(x) + self.scale * self.up(self.down(x))

    def delta(self) -> Tensor:
        """scale * B A in the shape of the base's weight."""
        product = self.up.weight.flatten(1) @ self.down.weight.flatten(1)
        return self.scale * product.view_as(self.base.weight)

    def merged(self) -> nn.Module:
        """A plain layer with the weight W + scale * B A: the same function at the base's own cost."""
        plain = copy.deepcopy(self.base)
        plain.weight.data += self.delta().detach()
        return plain.requires_grad_(True)


def adapt(
    model: nn.Module,
    mode: Mode,
    num_classes: int,
    seed: int,
    *,
    rank: int = 4,
    alpha: float | None = None,
) -> nn.Module:
    """A copy of `model` made ready for a new task; the original is not touched.

    Every mode gets a new last layer, drawn from `seed`. Besides it there train:

    | mode      | trains                                         | statistics of batch norms        |
    |-----------|------------------------------------------------|----------------------------------|
    | `full`    | all weights                                    | of the batch, running ones move  |
    | `head`    | nothing more: the features are a fixed function | fixed                            |
    | `norms`   | scale and shift of the norms                   | of the batch, running ones move  |
    | `lora`    | low-rank corrections of Conv2d and Linear      | fixed, so that `merge` is exact  |
    | `scratch` | all weights, drawn anew from `seed`            | of the batch, running ones move  |

    With fixed statistics the network in training mode computes what it does in evaluation mode (dropout
    apart). `norms` lets them move because fitting the norms to the new images is all that this mode can do.
    What a design holds frozen (whitening filters, the scales of a bias-only norm) stays as it is in every
    mode, `scratch` too: it is computed from images without labels, or constant. `lora` leaves grouped
    convolutions alone, whose filters are too small for a low-rank part to be smaller.

    Args:
        model: any network whose last `Linear` is its classifier.
        mode: see the table.
        num_classes: outputs for the new task (> 0).
        seed: of the new last layer, the adapters, and with `scratch` of all weights.
        rank: of the corrections in `lora` (> 0).
        alpha: `lora` scales its corrections by alpha / rank; None is alpha = rank, that is W + B A.

    Returns:
        The copy, on the model's device, in training mode, with `requires_grad` set.

    Raises:
        ParameterError: an unknown mode, a rank below 1, a network without a Linear layer, or with `scratch`
            one that does not say how to reset its weights.
    """
    if mode not in MODES:
        raise ParameterError(f"there is no fine-tuning mode {mode!r}: take one of {', '.join(MODES)}")
    if num_classes < 1 or rank < 1:
        raise ParameterError(f"num_classes is {num_classes} and rank is {rank}: both must be at least 1")
    if any(isinstance(module, LoRA) for module in model.modules()):
        raise ParameterError("the network carries LoRA layers already: call merge(model) first, then adapt it again")
    fixed = _frozen_by_design(model)
    net = copy.deepcopy(model)
    if mode == "scratch":
        net = _scratch(net, num_classes, seed, fixed)
    else:
        _replace_head(net, num_classes, seed)
    head = head_name(net)
    if mode == "lora":
        _add_lora(net, head, fixed, rank, 1.0 if alpha is None else alpha / rank, seed)
    _set_statistics(net, fixed=mode in ("head", "lora"))
    _set_trainable(net, mode, head, fixed)
    if isinstance(getattr(model, "spec", None), NetSpec):
        net.spec = NetSpec(model.spec.name, num_classes, model.spec.width, fixed)
    return net.train()


def merge(model: nn.Module) -> nn.Module:
    """A copy in which every LoRA layer is a plain layer with W + B A: same outputs, no extra cost at
    inference.

    Raises:
        ParameterError: there is no LoRA layer to merge.
    """
    net = copy.deepcopy(model)
    found = [(name, module) for name, module in net.named_modules() if isinstance(module, LoRA)]
    if not found:
        raise ParameterError("there is no LoRA layer to merge: give a network made by adapt(model, 'lora', ...)")
    for name, module in found:
        set_layer(net, name, module.merged())
    return net


def trainable_parameters(model: nn.Module) -> list[nn.Parameter]:
    """The parameters that an optimiser should get: those with `requires_grad`."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def head_name(model: nn.Module) -> str:
    """Dotted path of the classifier: the last `Linear` of the network.

    Raises:
        ParameterError: there is none, or the network itself is a single Linear.
    """
    linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    if not linear or not linear[-1]:
        raise ParameterError("no last layer found: fine-tuning needs a network whose classifier is a Linear")
    return linear[-1]


def _frozen_by_design(model: nn.Module) -> tuple[str, ...]:
    """Nets from `build` say which parameters they hold fixed; of others, those that are frozen now."""
    spec = getattr(model, "spec", None)
    if isinstance(spec, NetSpec):
        return spec.frozen
    return tuple(name for name, parameter in model.named_parameters() if not parameter.requires_grad)


def _replace_head(net: nn.Module, num_classes: int, seed: int) -> None:
    """A new last layer, started as the network's own design starts it (speed nets scale theirs)."""
    name = head_name(net)
    old = net.get_submodule(name)
    if isinstance(getattr(net, "spec", None), NetSpec):
        new = _fresh(net.spec, num_classes, seed).get_submodule(name)
        new.in_features = old.in_features  # fewer than the design's, where channels were pruned
        new.weight.data = new.weight.data[:, : old.in_features].clone()
    else:
        with seeded(seed):
            new = nn.Linear(old.in_features, num_classes, bias=old.bias is not None)
    set_layer(net, name, new.to(old.weight))


def _fresh(spec: NetSpec, num_classes: int, seed: int, layers: Mapping[str, Any] | None = None) -> nn.Module:
    return rebuild(NetSpec(spec.name, num_classes, spec.width), layers or {}, seed=seed)


def _scratch(net: nn.Module, num_classes: int, seed: int, fixed: tuple[str, ...]) -> nn.Module:
    """All learned weights drawn anew; what the design holds frozen is kept."""
    kept = {name: parameter.data for name, parameter in net.named_parameters() if name in fixed}
    if isinstance(getattr(net, "spec", None), NetSpec):
        like = next(net.parameters())
        new = _fresh(net.spec, num_classes, seed, changed_layers(net)).to(device=like.device, dtype=like.dtype)
        for name in ("normalisation", "steps"):
            if hasattr(net, name):
                setattr(new, name, getattr(net, name))
    else:
        new = net
        _replace_head(new, num_classes, seed)
        with seeded(seed):
            for name, module in new.named_modules():
                _reset(name, module)
    for name, parameter in new.named_parameters():
        if name in kept:
            parameter.data.copy_(kept[name])
    return new


def _reset(name: str, module: nn.Module) -> None:
    if hasattr(module, "reset_parameters"):
        module.reset_parameters()
    elif next(module.parameters(recurse=False), None) is not None:
        raise ParameterError(
            f"layer '{name}' ({type(module).__name__}) has weights but no reset_parameters(): it cannot "
            "be started from scratch; add that method, or build the network anew and pass it with mode 'full'"
        )


def _add_lora(net: nn.Module, head: str, fixed: tuple[str, ...], rank: int, scale: float, seed: int) -> None:
    targets = [
        (name, module)
        for name, module in net.named_modules()
        if isinstance(module, (nn.Conv2d, nn.Linear)) and name != head and f"{name}.weight" not in fixed
        if getattr(module, "groups", 1) == 1
    ]
    with seeded(seed):
        for name, module in targets:
            set_layer(net, name, LoRA(module, rank, scale))


def _set_statistics(net: nn.Module, *, fixed: bool) -> None:
    """Exchange batch norms for their frozen kin, or back: weights, statistics and state names stay the same."""
    for name, module in list(net.named_modules()):
        kind = next((kind for kind in FROZEN_KINDS if isinstance(module, kind)), None)
        if kind is None or not module.track_running_stats or isinstance(module, FrozenBatchNorm) == fixed:
            continue
        new = (FROZEN_KINDS[kind] if fixed else kind)(module.num_features, module.eps, module.momentum, module.affine)
        new.load_state_dict(module.state_dict())
        set_layer(net, name, new.to(module.running_mean.device, module.running_mean.dtype))


def _set_trainable(net: nn.Module, mode: Mode, head: str, fixed: tuple[str, ...]) -> None:
    everything = mode in ("full", "scratch")
    for name, parameter in net.named_parameters():
        parameter.requires_grad_(everything and name not in fixed)
    net.get_submodule(head).requires_grad_(True)
    for path, module in net.named_modules():
        if mode == "norms" and isinstance(module, NORMS):
            for name, parameter in module.named_parameters(recurse=False):
                parameter.requires_grad_(f"{path}.{name}" not in fixed)
        if isinstance(module, LoRA):
            module.down.requires_grad_(True)
            module.up.requires_grad_(True)
