"""Pruning: weights to zero, or whole channels out of the network.

A weight that is set to zero is still multiplied: on ordinary hardware it saves bytes, once compressed, and no time. A
channel that goes takes a filter here, a norm's entry there and a slice of every later kernel with it; what belongs
together is found by torch-pruning's dependency graph.

Sources: S. Han, J. Pool, J. Tran, W. Dally, "Learning both Weights and Connections for Efficient Neural Networks",
NeurIPS 2015 (magnitude, in rounds, and the sensitivity of layers); G. Fang, X. Ma, M. Song, M. Bi Mi, X. Wang,
"DepGraph: Towards Any Structural Pruning", CVPR 2023 (groups, their importance); Z. Liu et al., "Learning Efficient
Convolutional Networks through Network Slimming", ICCV 2017 (the norm's scale as importance).
"""

from __future__ import annotations

import copy
import difflib
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from scaletut.errors import DataError, ParameterError
from scaletut.models.adapters import head_name
from scaletut.models.build import NetSpec
from scaletut.models.resnet import Projection
from scaletut.models.speednet import BiasNorm, SpeedNet
from scaletut.models.surgery import add_step, set_layer

if TYPE_CHECKING:
    from types import ModuleType

Importance = Literal["magnitude", "norm"]
Spread = Literal["global", "uniform"]
Kind = Literal["channels", "weights"]
NARROW = 8  # input channels below which a strided 1x1 convolution is done by a Projection


@dataclass(frozen=True)
class ChannelGroup:
    """Channels that must go together: filters, norms and the later kernels that read them.

    Attributes:
        name: dotted path of the first layer that makes them, by which the group is called.
        layers: all convolutions and linear layers that make them (a stage's residual sum ties many).
        importance: float (channels,), mean 1 over the group, so that groups compare.
        readers: convolutions and linear layers that read them.
    """

    name: str
    layers: tuple[str, ...]
    readers: tuple[str, ...]
    importance: Tensor

    @property
    def channels(self) -> int:
        """How many there are."""
        return len(self.importance)


@dataclass(frozen=True)
class Sensitivity:
    """What a score loses when one layer, or one group of tied layers, is pruned alone and not trained again.

    Attributes:
        layer: dotted path; for channels that of the group's first layer.
        kind: what was pruned.
        size: channels or weights of the layer before.
        shares: how much was pruned, shares of `size`.
        scores: of the pruned network, one for each share.
        base: score of the whole network.
    """

    layer: str
    kind: Kind
    size: int
    shares: tuple[float, ...]
    scores: tuple[float, ...]
    base: float

    @property
    def drops(self) -> tuple[float, ...]:
        """`base` less each of the `scores`."""
        return tuple(self.base - score for score in self.scores)


# --- weights


def prune_weights(net: nn.Module, share: float, *, scope: Literal["global", "layer"] = "global") -> nn.Module:
    """Set the weights of least magnitude to zero, in convolutions and linear layers; biases, norms and filters that the
    design holds frozen are kept.

    The result has the same layers and, without special kernels, the same latency. To train it on with its zeros, see
    `hold_zeros`.

    Args:
        net: any network; it is not touched.
        share: of the weights to be zero (0 to below 1), those that are zero already included.
        scope: `global` ranks all weights together, `layer` takes the share of each layer.

    Returns:
        A copy of the network with zeros.

    Raises:
        ParameterError: a share or scope out of range, or nothing to prune.
    """
    _check_share(share)
    if scope not in ("global", "layer"):
        raise ParameterError(f"there is no scope {scope!r}: take 'global' or 'layer'")
    new = copy.deepcopy(net)
    weights = {name: layer.weight for name, layer in _weighted(new)}
    if not weights:
        raise ParameterError("the network has no convolution or linear layer whose weights could be pruned")
    for part in [weights] if scope == "global" else [{name: weight} for name, weight in weights.items()]:
        _zero_smallest(list(part.values()), share)
    zeros = sum(int((weight == 0).sum()) for weight in weights.values())
    total = sum(weight.numel() for weight in weights.values())
    step = {"step": "prune_weights", "share": share, "scope": scope, "zeros": zeros, "weights": total}
    return add_step(new, step)


@contextmanager
def hold_zeros(net: nn.Module) -> Iterator[nn.Module]:
    """Inside, weights of `net` that are zero now stay zero, whatever an optimiser does; train it there.

    A parametrisation multiplies each weight by its mask in the forward pass, so a masked weight has neither effect nor
    gradient. Afterwards the layers are plain again and can be saved and exported. Parameters are exchanged on the way
    in and out: make the optimiser inside, as `fit` does.

    Raises:
        ParameterError: no weight is zero.
    """
    layers = [layer for _, layer in _weighted(net) if bool((_stored(layer) == 0).any())]
    if not layers:
        raise ParameterError("no weight of this network is zero: call prune_weights() first")
    for layer in layers:
        parametrize.register_parametrization(layer, "weight", _Mask(_stored(layer).detach() != 0))
    try:
        yield net
    finally:
        for layer in layers:
            if len(layer.parametrizations.weight) == 1:
                parametrize.remove_parametrizations(layer, "weight", leave_parametrized=True)
            else:  # the rounding of quantisation-aware training stays
                del layer.parametrizations.weight[-1]


def _stored(layer: nn.Module) -> Tensor:
    """The layer's weight as its parameter has it, before any parametrisation."""
    return layer.parametrizations.weight.original if parametrize.is_parametrized(layer, "weight") else layer.weight


class _Mask(nn.Module):
    """Multiplies by a fixed mask of zeros and ones."""

    def __init__(self, mask: Tensor) -> None:
        super().__init__()
        self.register_buffer("mask", mask)

    def forward(self, weight: Tensor) -> Tensor:
        return weight * self.mask


# --- channels


def channel_groups(net: nn.Module, *, side: int, importance: Importance = "magnitude") -> tuple[ChannelGroup, ...]:
    """The groups of channels that can go, in the order of the network, with the importance of each channel.

    The classifier's outputs and filters that the design holds frozen are in none.

    Args:
        net: any network of convolutions, linear layers and norms; it is not touched.
        side: of the square images that it takes, in pixels.
        importance: `magnitude` is the mean square of all weights that make or read the channel, over all layers of the
            group (Fang et al. 2023, group norm), `norm` the magnitude of the batch norms' scales (Liu et al. 2017).
            Either is divided by the group's mean.

    Raises:
        ParameterError: `norm` for channels whose norms learn no scale, or nothing to prune.
        DataError: torch-pruning is absent.
    """
    net = copy.deepcopy(net)
    return tuple(group for group, _ in _grouped(net, side, importance))


def prune_channels(
    net: nn.Module,
    share: float,
    *,
    side: int,
    round_to: int = 8,
    importance: Importance = "magnitude",
    spread: Spread = "global",
    shares: Mapping[str, float] | None = None,
    most: float | None = None,
) -> nn.Module:
    """Remove the least important channels, for good: the layers become narrower.

    Channels go in blocks, so that the widths that are left are multiples of `round_to`; the number of blocks is the
    one that comes nearest to the share. A network that is pruned computes what it would with the removed channels held
    at zero (up to rounding); it usually needs training after.

    Args:
        net: any network of convolutions, linear layers and norms; it is not touched.
        share: of all channels in groups that can be pruned (0 to below 1).
        side: of the square images that the network takes, in pixels.
        round_to: widths that remain are multiples of this; groups that are not wider stay whole.
        importance: see `channel_groups`.
        spread: `global` ranks the channels of all groups together, `uniform` takes the share of each group.
        shares: a share of their own for the groups of these layers, by dotted path; `share` is for the others.
        most: the largest share that one group may lose; by default (1 + share) / 2, so that no layer is emptied to
            spare the others.

    Returns:
        A copy of the network without the channels. Its last step tells the widths of each group before and after.

    Raises:
        ParameterError: an argument out of range, a group that would vanish, shares that contradict each other or
            cannot be reached, or nothing that could go at this `round_to`.
        DataError: torch-pruning is absent.
    """
    how = _Channels(side, round_to, importance, spread, most)
    how.check(share, shares or {})
    how = how.with_most(share)
    new = copy.deepcopy(net)
    widths = _remove(new, share, shares or {}, how, {})
    if not widths:
        raise ParameterError(
            f"no channel can go: share {share:g} of groups this narrow is less than half a block of {round_to}; "
            "give a larger share or a smaller round_to"
        )
    return add_step(new, {"step": "prune_channels", "share": share, **how.told(shares), "widths": widths})


def prune_in_rounds(
    net: nn.Module,
    share: float,
    rounds: int,
    between: Callable[[nn.Module, int], nn.Module],
    *,
    kind: Kind = "channels",
    **how: Any,
) -> nn.Module:
    """Prune a little, train, and again, until `share` of what was there at first is gone (Han et al. 2015).

    Args:
        net: as for `prune_channels` or `prune_weights`; it is not touched.
        share: of the channels or weights of `net` that go in all; after round k of R, share k / R.
        rounds: R, 1 or more.
        between: called after each round with the network and the round's number from 1; gives it back trained. For
            weights it is called inside `hold_zeros`.
        kind: what is pruned.
        how: further arguments of `prune_channels` (`side` is needed) or of `prune_weights`.

    Returns:
        The network as the last call of `between` gave it back.

    Raises:
        ParameterError: as the functions of a single round, or rounds below 1.
    """
    if rounds < 1:
        raise ParameterError(f"rounds is {rounds}: give at least 1")
    if kind == "weights":
        return _weights_in_rounds(net, share, rounds, between, how)
    shares: Mapping[str, float] = how.pop("shares", None) or {}
    channels = _Channels(**how)
    channels.check(share, shares)
    original = {group.name: group.channels for group in channel_groups(net, side=channels.side)}
    new = copy.deepcopy(net)
    limits = channels.with_most(share)
    for number in range(1, rounds + 1):
        part = number / rounds
        widths = _remove(new, share * part, {name: own * part for name, own in shares.items()}, limits, original)
        step = {"step": "prune_channels", "share": share * part, **limits.told(shares), "widths": widths}
        new = between(add_step(new, step | {"round": number, "rounds": rounds}), number)
    return new


def sensitivity(
    net: nn.Module,
    score: Callable[[nn.Module], float],
    *,
    shares: tuple[float, ...] = (0.25, 0.5, 0.75),
    side: int,
    kind: Kind = "channels",
    importance: Importance = "magnitude",
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Sensitivity, ...]:
    """Prune one layer at a time, the others whole and nothing trained after, and score each such network.

    Args:
        net: as for `prune_channels`; it is not touched.
        score: of a network, larger is better, such as its accuracy on held-out training images.
        shares: of the layer that go (0 to below 1).
        side: of the square images that the network takes, in pixels.
        kind: `channels` prunes each group of tied channels, `weights` the weights of each layer.
        importance: of channels, see `channel_groups`.
        progress: called after each score with (scores done, scores in all).

    Returns:
        One entry a layer or group, in the order of the network.

    Raises:
        ParameterError: shares out of range, or nothing to prune.
    """
    for share in shares:
        _check_share(share)
    if kind == "channels":
        sizes = {group.name: group.channels for group in channel_groups(net, side=side, importance=importance)}
        how = _Channels(side=side, round_to=1, importance=importance, most=1.0)
    else:
        sizes = {name: layer.weight.numel() for name, layer in _weighted(net)}
    base, result = score(net), []
    for layer, size in sizes.items():
        scores = []
        for share in shares:
            pruned = copy.deepcopy(net)
            if kind == "channels":
                _remove(pruned, 0.0, {layer: share}, how, {})
            else:
                _zero_smallest([pruned.get_submodule(layer).weight], share)
            scores.append(score(pruned))
            if progress is not None:
                progress(len(result) * len(shares) + len(scores), len(sizes) * len(shares))
        result.append(Sensitivity(layer, kind, size, tuple(shares), tuple(scores), base))
    return tuple(result)


# --- how channels are chosen


@dataclass(frozen=True)
class _Channels:
    """The arguments of `prune_channels` that stay the same from round to round."""

    side: int
    round_to: int = 8
    importance: Importance = "magnitude"
    spread: Spread = "global"
    most: float | None = None

    def check(self, share: float, shares: Mapping[str, float]) -> None:
        for value in (share, *shares.values()):
            _check_share(value)
        if self.round_to < 1:
            raise ParameterError(f"round_to is {self.round_to}: give 1 channel or more")
        if self.spread not in ("global", "uniform"):
            raise ParameterError(f"there is no spread {self.spread!r}: take 'global' or 'uniform'")
        if self.most is not None and not share <= self.most <= 1:
            raise ParameterError(f"most is {self.most}: give a share from {share:g}, that of all groups, to 1")

    def with_most(self, share: float) -> _Channels:
        return replace(self, most=(1 + share) / 2) if self.most is None else self

    def told(self, shares: Mapping[str, float] | None) -> dict[str, Any]:
        own = {"shares": dict(shares)} if shares else {}
        names = ("round_to", "importance", "spread", "most")
        return {name: getattr(self, name) for name in names} | own


@dataclass(frozen=True)
class _Block:
    """Channels of one group that go together or stay."""

    group: int
    size: int
    importance: float


def _remove(
    net: nn.Module, share: float, shares: Mapping[str, float], how: _Channels, original: Mapping[str, int]
) -> dict[str, list[int]]:
    """Remove channels in place until `share` of the `original` ones (by default of those now there) is gone.

    Returns {group: [channels before, after]} of the groups that changed.
    """
    how = how.with_most(share)
    found = _grouped(net, how.side, how.importance)
    groups = [group for group, _ in found]
    first = [original.get(group.name, group.channels) for group in groups]
    own = _own_shares(groups, shares)
    removed = [0] * len(groups)
    for number, group in enumerate(groups):
        if number in own:
            goal = own[number]
        elif how.spread == "uniform":
            goal = share
        else:
            continue
        if goal * first[number] > first[number] - 1:
            raise ParameterError(
                f"a share of {goal:g} would leave none of the {first[number]} channels of '{group.name}': give less"
            )
        limit = replace(how, most=1.0) if number in own else how
        blocks = _blocks(number, group, first[number], limit)
        removed[number] = _nearest(blocks, goal * first[number] - (first[number] - group.channels)).get(number, 0)
    if how.spread == "global":
        ranked = [number for number in range(len(groups)) if number not in own]
        blocks = [block for n in ranked for block in _blocks(n, groups[n], first[n], how)]
        goal = share * sum(first[n] for n in ranked) - sum(first[n] - groups[n].channels for n in ranked)
        _check_reachable(blocks, goal, share, how)
        for number, count in _nearest(blocks, goal).items():
            removed[number] = count
    _apply(net, found, removed, how.side)
    return {
        group.name: [group.channels, group.channels - count]
        for group, count in zip(groups, removed, strict=True)
        if count
    }


def _blocks(number: int, group: ChannelGroup, first: int, how: _Channels) -> list[_Block]:
    """The group's channels in blocks of rising importance, without those that must stay.

    The first block takes the odd channels, so that the rest is a multiple of `round_to`.
    """
    assert how.most is not None
    stay = max(how.round_to, first - int(how.most * first + 1e-9))
    stay = min(group.channels, -(-stay // how.round_to) * how.round_to)
    free = group.channels - stay
    ascending = group.importance.sort().values
    edges = [0, *range(group.channels % how.round_to or how.round_to, free + 1, how.round_to)] if free > 0 else [0]
    return [_Block(number, stop - start, float(ascending[start:stop].mean())) for start, stop in pairwise(edges)]


def _nearest(blocks: list[_Block], goal: float) -> dict[int, int]:
    """Channels to remove by group: blocks of least importance first, as many as come nearest to `goal` channels.

    Importance rises within a group, and the sort is stable, so a group's blocks go in their order.
    """
    removed = {block.group: 0 for block in blocks}
    total = 0
    for block in sorted(blocks, key=lambda block: block.importance):
        if total + block.size / 2 > goal:
            break
        removed[block.group] += block.size
        total += block.size
    return removed


def _check_reachable(blocks: list[_Block], goal: float, share: float, how: _Channels) -> None:
    free, largest = sum(block.size for block in blocks), max((block.size for block in blocks), default=0)
    if goal > free + largest / 2:
        raise ParameterError(
            f"share {share:g} cannot be reached: only {free} of the {goal:.0f} channels could go when each group keeps "
            f"{how.round_to} and at least {1 - how.most:.0%}; groups would vanish. Give a smaller share, a smaller "
            "round_to or a larger `most`"
        )


def _own_shares(groups: list[ChannelGroup], shares: Mapping[str, float]) -> dict[int, float]:
    """Shares by the group's number, from shares by the name of any of its layers."""
    member = {layer: number for number, group in enumerate(groups) for layer in group.layers}
    own: dict[int, float] = {}
    for layer, share in shares.items():
        if layer not in member:
            nearest = difflib.get_close_matches(layer, member, 1, 0.0)[0]
            raise ParameterError(f"there is no layer '{layer}' whose channels can go: the nearest is '{nearest}'")
        if own.setdefault(member[layer], share) != share:
            group = groups[member[layer]]
            raise ParameterError(f"'{layer}' is tied to '{group.name}', whose channels go together: give one share")
    return own


# --- the dependency graph


def _grouped(net: nn.Module, side: int, importance: Importance) -> list[tuple[ChannelGroup, Any]]:
    """Groups that can be pruned, each with torch-pruning's own group of `net`; `net` is left as it was."""
    if importance not in ("magnitude", "norm"):
        raise ParameterError(f"there is no importance {importance!r}: take 'magnitude' or 'norm'")
    tp = _torch_pruning()
    names = {layer: name for name, layer in net.named_modules()}
    order = {name: number for number, name in enumerate(names.values())}
    fixed = _fixed_layers(net)
    rate = _importance(tp, net, importance)
    found = []
    with _prunable(net), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        images = torch.zeros(1, 3, side, side)
        try:
            graph = tp.DependencyGraph().build_dependency(net, images, forward_fn=lambda model, x: model(x))
        except RuntimeError as error:
            raise ParameterError(
                f"the network cannot take an image of {side} x {side} pixels ({str(error).splitlines()[0]}): "
                "give the side of your images"
            ) from error
        for group in graph.get_all_groups(ignored_layers=fixed):
            makers, readers = (tuple(sorted(some, key=order.get)) for some in _members(graph, group, names))
            values = rate(group)
            if values is None or not bool(values.isfinite().all()):
                raise ParameterError(
                    f"importance {importance!r} says nothing of the channels of '{makers[0]}': they have no norm that "
                    "learns a scale; take importance='magnitude'"
                )
            found.append((ChannelGroup(makers[0], makers, readers, values.detach().clone()), group))
    if not found:
        raise ParameterError("the network has no channels that can go: all are outputs of the classifier or frozen")
    return sorted(found, key=lambda pair: order[pair[0].name])


def _apply(net: nn.Module, found: list[tuple[ChannelGroup, Any]], removed: list[int], side: int) -> None:
    """Take the least important channels out of each group, in place; frozen parameters stay frozen."""
    head = net.get_submodule(head_name(net))
    frozen = {name for name, parameter in net.named_parameters() if not parameter.requires_grad}
    inputs = head.in_features
    for (group, members), count in zip(found, removed, strict=True):
        if count:
            going = group.importance.argsort(stable=True)[:count].tolist()
            root, prune = members[0].dep.target.module, members[0].dep.handler
            members._DG.get_pruning_group(root, prune, sorted(going)).prune()
    for name, parameter in net.named_parameters():
        parameter.requires_grad_(name not in frozen)
    if isinstance(net, SpeedNet):  # its head divides by the number of channels, which must not change the logits
        head.weight.data *= head.in_features / inputs
        _check_alive(net)
    _project_narrow(net)


def _check_alive(net: nn.Module) -> None:
    """Refuse filters that are left with zeros only: a speed net's norms would divide their gradient by nearly zero.

    So it is where untrained filters are still the identity, each copying one channel.
    """
    for name, layer in net.named_modules():
        if isinstance(layer, nn.Conv2d) and not bool(layer.weight.flatten(1).any(dim=1).all()):
            raise ParameterError(
                f"filters of '{name}' read only channels that would go, usually because the network is untrained and "
                "they copy one channel each: train it first, then prune"
            )


def _project_narrow(net: nn.Module) -> None:
    """Exchange strided 1x1 convolutions that have become narrow, for which torch's own is unsafe (see Projection)."""
    for name, layer in list(net.named_modules()):
        strided = type(layer) is nn.Conv2d and layer.kernel_size == (1, 1) and layer.stride[0] > 1
        if strided and layer.in_channels < NARROW and layer.bias is None:
            new = Projection(layer.in_channels, layer.out_channels, layer.stride[0])
            new.weight = layer.weight
            set_layer(net, name, new.train(layer.training))


def _fixed_layers(net: nn.Module) -> list[nn.Module]:
    """The classifier, and layers whose weights the design holds frozen, such as whitening."""
    spec = getattr(net, "spec", None)
    frozen = spec.frozen if isinstance(spec, NetSpec) else ()
    layers = [net.get_submodule(name.removesuffix(".weight")) for name in frozen if name.endswith(".weight")]
    return [net.get_submodule(head_name(net)), *(layer for layer in layers if isinstance(layer, nn.Conv2d))]


def _importance(tp: ModuleType, net: nn.Module, importance: Importance) -> Callable[[Any], Tensor | None]:
    norms = [layer for layer in net.modules() if isinstance(layer, nn.BatchNorm2d)]
    scaled = bool(norms) and not any(isinstance(norm, BiasNorm) for norm in norms)
    if importance == "norm":
        if not scaled:
            raise ParameterError(
                "importance 'norm' needs batch norms that learn a scale, which this network has not: "
                "take importance='magnitude'"
            )
        return tp.importance.BNScaleImportance()
    kinds = [nn.Conv2d, nn.Linear, *([nn.BatchNorm2d] if scaled else [])]  # a scale that is always 1 tells nothing
    return tp.importance.GroupMagnitudeImportance(p=2, group_reduction="mean", normalizer="mean", target_types=kinds)


def _members(graph: Any, group: Any, names: Mapping[nn.Module, str]) -> tuple[list[str], list[str]]:
    """Convolutions and linear layers that make the group's channels, and those that read them."""
    makers, readers = [], []
    for dependency, _ in group:
        layer = dependency.target.module
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            makes = graph.is_out_channel_pruning_fn(dependency.handler)
            (makers if makes else readers).append(names[layer])
    return makers, readers


@contextmanager
def _prunable(net: nn.Module) -> Iterator[None]:
    """Evaluation mode and gradients everywhere, which the tracing needs; afterwards as it was."""
    modes = [layer.training for layer in net.modules()]
    wanted = [parameter.requires_grad for parameter in net.parameters()]
    net.eval().requires_grad_(True)
    try:
        with torch.enable_grad():
            yield
    finally:
        for layer, mode in zip(net.modules(), modes, strict=True):
            layer.training = mode
        for parameter, flag in zip(net.parameters(), wanted, strict=True):
            parameter.requires_grad_(flag)


def _torch_pruning() -> ModuleType:
    try:
        import torch_pruning
    except ImportError as error:
        raise DataError(
            "torch-pruning is not installed, which finds the channels that belong together: "
            "run  pip install 'scaletut[compress]'"
        ) from error
    return torch_pruning


# --- shared


def _weighted(net: nn.Module) -> list[tuple[str, nn.Module]]:
    """Convolutions and linear layers, except those that the design holds frozen."""
    spec = getattr(net, "spec", None)
    frozen = spec.frozen if isinstance(spec, NetSpec) else ()
    kinds = (nn.Conv2d, nn.Linear)
    return [
        (name, layer)
        for name, layer in net.named_modules()
        if isinstance(layer, kinds) and f"{name}.weight" not in frozen
    ]


@torch.no_grad()
def _zero_smallest(weights: list[Tensor], share: float) -> None:
    """Set `share` of the entries, those of least magnitude over all tensors together, to zero, in place."""
    sizes = torch.cat([weight.abs().flatten() for weight in weights])
    mask = torch.ones_like(sizes)
    mask[sizes.argsort(stable=True)[: round(share * len(sizes))]] = 0
    for weight, part in zip(weights, mask.split([weight.numel() for weight in weights]), strict=True):
        weight.mul_(part.view_as(weight))


def _weights_in_rounds(
    net: nn.Module,
    share: float,
    rounds: int,
    between: Callable[[nn.Module, int], nn.Module],
    how: dict[str, Any],
) -> nn.Module:
    new = net
    for number in range(1, rounds + 1):
        new = prune_weights(new, share * number / rounds, **how)
        with hold_zeros(new):
            trained = between(new, number)
        if trained is not new:
            raise ParameterError("for weights, `between` must train the network in place and give the same one back")
    return new


def _check_share(share: float) -> None:
    if not 0 <= share < 1:
        raise ParameterError(f"share is {share}: give a number from 0 to below 1")
