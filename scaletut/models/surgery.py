"""Networks whose layers were changed: the changes as plain JSON, and the network built again from them.

A network from `build` is told by its `spec`. Compression changes its layers: channels go, norms are folded away, a
convolution becomes a chain of smaller ones. What has changed against the network of the spec is a short list, from
which the network is built again without unpickling anything.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from scaletut.errors import ParameterError
from scaletut.models.build import NetSpec, seeded, skeleton
from scaletut.models.norms import BATCH_NORMS, FROZEN_KINDS
from scaletut.models.resnet import Projection
from scaletut.models.speednet import BiasNorm

# What a file may ask for, and what decides such a layer, in the order of its constructor's arguments. The list is
# closed: a name in a file never reaches anything else.
KINDS: dict[str, tuple[type[nn.Module], tuple[str, ...]]] = {
    "Conv2d": (
        nn.Conv2d,
        ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups", "bias"),
    ),
    "Projection": (Projection, ("in_channels", "out_channels", "every")),
    "Linear": (nn.Linear, ("in_features", "out_features", "bias")),
    "BatchNorm2d": (nn.BatchNorm2d, ("num_features", "eps", "momentum")),
    "BiasNorm": (BiasNorm, ("num_features",)),
    "ZeroPad2d": (nn.ZeroPad2d, ("padding",)),
    "Identity": (nn.Identity, ()),
}
SIZES: tuple[tuple[Any, tuple[str, ...]], ...] = (  # what may differ in a layer that is otherwise the same
    (nn.Conv2d, ("in_channels", "out_channels", "groups", "bias")),
    (nn.Linear, ("in_features", "out_features", "bias")),
    (BATCH_NORMS, ("num_features",)),
)
SHAPE = ("kernel_size", "stride", "padding", "dilation", "every", "eps")  # what must be equal for that
LARGEST = 2**20  # channels of a layer that a file may ask for


def steps_of(net: nn.Module) -> tuple[dict[str, Any], ...]:
    """What was done to a network since it was built, in order: plain values, kept by `save_weights`."""
    return tuple(getattr(net, "steps", ()))


def add_step(net: nn.Module, step: dict[str, Any]) -> nn.Module:
    """`net` itself, with one more entry of `steps_of`."""
    net.steps = (*steps_of(net), step)
    return net


def changed_layers(net: nn.Module) -> dict[str, dict[str, Any]]:
    """How the layers of `net` differ from those of the network that its `spec` names.

    Returns:
        Plain JSON values by the layer's dotted path: either the sizes that differ (`{"out_channels": 24}`), or a new
        layer (`{"kind": "Conv2d", "in_channels": ...}`, or a `Sequential` with its `layers`). Empty for a network as
        `build` makes it.

    Raises:
        ParameterError: the network has no `spec`, or a layer that cannot be built again from such a description.
    """
    spec = getattr(net, "spec", None)
    if not isinstance(spec, NetSpec):
        raise ParameterError(
            "only networks from build() can be saved: this one has no `spec` that tells how to rebuild it"
        )
    built = skeleton(spec)
    layers = dict(_differences("", built, net))
    for name, entry in layers.items():
        _change(built, name, entry)
    if shapes(built.state_dict()) != shapes(net.state_dict()):
        raise ParameterError(f"the layers are not those of '{spec.name}' and cannot be described, so not loaded again")
    return layers


def rebuild(spec: NetSpec, layers: Mapping[str, Mapping[str, Any]], *, seed: int = 0) -> nn.Module:
    """The network of `spec` with its layers changed as `changed_layers` told.

    Args:
        spec: as the changed network carries it.
        layers: from `changed_layers`, also after a trip through JSON.
        seed: of the weights. Changed layers start as PyTorch starts them, not as the design of the network does.

    Returns:
        The network on the CPU in float32, in training mode, with `.spec`.

    Raises:
        ParameterError: an entry that names no layer of the network, or that describes none.
    """
    net = skeleton(spec, seed=seed)
    with seeded(seed):
        for name, entry in layers.items():
            try:
                _change(net, name, entry)
            except (AttributeError, KeyError, TypeError, ValueError, RuntimeError) as error:
                raise ParameterError(
                    f"layer {name!r} of '{spec.name}' cannot be rebuilt ({str(error).splitlines()[0]}): "
                    "the description was altered, or written by another version"
                ) from error
    return net


def shapes(state: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """The shape of each tensor of a state dict."""
    return {name: tuple(value.shape) for name, value in state.items()}


def set_layer(net: nn.Module, name: str, layer: nn.Module) -> None:
    """Put `layer` at the dotted path `name`."""
    parent, _, child = name.rpartition(".")
    setattr(net.get_submodule(parent), child, layer)


def _differences(name: str, built: nn.Module, now: nn.Module) -> Iterator[tuple[str, dict[str, Any]]]:
    """Walk both trees of layers together; where they part, the layer is described."""
    if type(built) is not _plain(now):
        yield name, _description(name, now)
    elif sizes := _sizes(built):
        same = all(_value(built, field) == _value(now, field) for field in SHAPE)
        different = {field: value for field, value in _sizes(now).items() if value != sizes[field]}
        if not same:
            yield name, _description(name, now)
        elif different:
            yield name, different
    else:
        children = dict(now.named_children())
        if list(children) != [child for child, _ in built.named_children()]:
            yield name, _description(name, now)
            return
        for child, layer in built.named_children():
            yield from _differences(f"{name}.{child}".lstrip("."), layer, children[child])


def _plain(layer: nn.Module) -> type[nn.Module]:
    """The layer's class; a batch norm whose statistics are frozen for a while is still a batch norm."""
    for plain, frozen in FROZEN_KINDS.items():
        if type(layer) is frozen:
            return plain
    return type(layer)


def _sizes(layer: nn.Module) -> dict[str, Any]:
    for kind, fields in SIZES:
        if isinstance(layer, kind):
            return {field: _value(layer, field) for field in fields}
    return {}


def _value(layer: nn.Module, field: str) -> Any:
    value = getattr(layer, field, None)
    if field == "bias":
        return value is not None
    return list(value) if isinstance(value, tuple) else value


def _description(name: str, layer: nn.Module) -> dict[str, Any]:
    if type(layer) is nn.Sequential:
        return {"kind": "Sequential", "layers": [_description(f"{name}.{n}", part) for n, part in enumerate(layer)]}
    for kind, (made, fields) in KINDS.items():
        if _plain(layer) is made and getattr(layer, "padding_mode", "zeros") == "zeros":
            return {"kind": kind} | {field: _value(layer, field) for field in fields}
    raise ParameterError(
        f"layer '{name}' is a {type(layer).__name__}, which cannot be described, so the network could not be loaded "
        "again: after LoRA call merge(model), leave hold_zeros(), finish training for quantisation, then save"
    )


def _change(net: nn.Module, name: str, entry: Mapping[str, Any]) -> None:
    if "kind" in entry:
        net.get_submodule(name)  # must be there: nothing is added beside the network's own layers
        set_layer(net, name, _made(entry))
    else:
        _resize(net.get_submodule(name), entry)


def _made(entry: Mapping[str, Any]) -> nn.Module:
    if entry["kind"] == "Sequential":
        return nn.Sequential(*(_made(part) for part in entry["layers"]))
    made, fields = KINDS[entry["kind"]]
    values = [entry[field] for field in fields]
    _check_sizes(values)
    return made(*(tuple(value) if isinstance(value, list) else value for value in values))


def _resize(layer: nn.Module, sizes: Mapping[str, Any]) -> None:
    """Give a layer other sizes; what else decides it (stride, padding, the extras of a subclass) stays."""
    known = _sizes(layer)
    if unknown := set(sizes) - set(known):
        raise ValueError(f"unknown sizes {sorted(unknown)}")
    _check_sizes(list(sizes.values()))
    values = known | dict(sizes)
    for field in set(values) - {"bias"}:
        setattr(layer, field, values[field])
    if isinstance(layer, BATCH_NORMS):
        for name in ("weight", "bias", "running_mean", "running_var"):
            _renew(layer, name, (layer.num_features,))
    else:
        convolution = isinstance(layer, nn.Conv2d)
        outputs = layer.out_channels if convolution else layer.out_features
        inputs = layer.in_channels // layer.groups if convolution else layer.in_features
        _renew(layer, "weight", (outputs, inputs, *layer.weight.shape[2:]))
        layer.bias = nn.Parameter(layer.weight.detach().new_empty(outputs)) if values["bias"] else None
    layer.reset_parameters()


def _renew(layer: nn.Module, name: str, shape: tuple[int, ...]) -> None:
    old = getattr(layer, name)
    new = torch.empty(shape, dtype=old.dtype, device=old.device)
    setattr(layer, name, nn.Parameter(new, old.requires_grad) if isinstance(old, nn.Parameter) else new)


def _check_sizes(values: list[Any]) -> None:
    """Refuse what only a damaged or hostile file asks for, before memory is asked for."""
    for value in values:
        if isinstance(value, list):
            _check_sizes(value)
        elif isinstance(value, int) and not 0 <= value <= LARGEST:
            raise ValueError(f"{value} is no size of a layer")
