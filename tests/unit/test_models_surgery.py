"""Networks whose layers were changed: described, saved, rebuilt to the bit; what cannot be is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import safetensors.torch
import torch
from compress_cases import moved, noise
from torch import nn

from scaletut.compress import factorise, prune_channels
from scaletut.errors import DataError, ParameterError
from scaletut.models import (
    adapt,
    build,
    changed_layers,
    complexity,
    load_weights,
    read_manifest,
    rebuild,
    save_weights,
)
from scaletut.models.resnet import Projection
from scaletut.models.surgery import KINDS

FAMILIES = {"resnet8": 0.5, "plain8": 0.5, "speednet-s": 0.25, "tutorial": 0.5}


def trained(name: str, width: float | None) -> nn.Module:
    """A network whose weights and norms have moved, so that a lost one shows."""
    return moved(name, width, num_classes=7, seed=4)


def pruned(name: str, width: float | None) -> nn.Module:
    return prune_channels(trained(name, width), 0.4, side=32, round_to=4)


def factorised(name: str, width: float | None) -> nn.Module:
    return factorise(trained(name, width), method="tucker", energy=0.6, round_to=2)


def check_round_trip(net: nn.Module, path: Path) -> None:
    before = net(noise())
    save_weights(net, path, {"accuracy": 91.5})
    again = load_weights(path)
    assert torch.equal(again(noise()), before)
    assert again.spec == net.spec
    assert again.steps == net.steps
    assert [name for name, p in again.named_parameters() if not p.requires_grad] == [
        name for name, p in net.named_parameters() if not p.requires_grad
    ]
    assert changed_layers(again) == changed_layers(net) == read_manifest(path)["layers"]


@pytest.mark.parametrize("change", [pruned, factorised])
@pytest.mark.parametrize("name", FAMILIES)
def test_each_family_comes_back_to_the_bit(name: str, change, tmp_path: Path) -> None:
    net = change(name, FAMILIES[name])
    assert complexity(net).macs < complexity(trained(name, FAMILIES[name])).macs
    check_round_trip(net, tmp_path / "net.safetensors")


@pytest.mark.parametrize("name", ["efficientnet-lite0", "resnet18"])
def test_nets_from_elsewhere_come_back_to_the_bit(name: str, tmp_path: Path) -> None:
    pytest.importorskip("efficientnet_lite_pytorch" if name.startswith("eff") else "torchvision")
    one = "net._blocks.1._expand_conv" if name.startswith("eff") else "layer1.0.conv1"
    net = prune_channels(trained(name, None), 0.0, side=32, shares={one: 0.5})
    net = factorise(net, energy=0.5, layers=["net._conv_stem" if name.startswith("eff") else "layer2.0.conv1"])
    check_round_trip(net, tmp_path / "net.safetensors")


def test_an_unchanged_network_has_no_entries_and_its_file_is_as_before(tmp_path: Path) -> None:
    for name in ("resnet8", "speednet-s"):
        assert changed_layers(build(name, width=0.5, seed=2)) == {}
    net = build("resnet8")
    state = net.state_dict().items()
    net.load_state_dict({name: (torch.arange(v.numel()) % 1024).reshape(v.shape).to(v.dtype) for name, v in state})
    manifest = read_manifest(save_weights(net, tmp_path / "a.safetensors"))
    assert set(manifest) == {"format", "net", "sha256"}
    # The digest that the version before changed layers were known wrote for the same weights.
    assert manifest["sha256"] == "c5418f9d28a8b29d856e0c2617f588458b52ca7a0b0454097f860df2bae4cc6b"
    assert load_weights(tmp_path / "a.safetensors").steps == ()


def test_only_what_differs_is_told() -> None:
    net = build("resnet8", width=0.5)
    net.stage1[0].bn1 = nn.Identity()
    net.stage1[0].conv1.bias = nn.Parameter(torch.ones(8))
    net.stage2[0].shortcut = nn.Sequential(nn.Conv2d(8, 16, 1, stride=2))
    layers = json.loads(json.dumps(changed_layers(net)))
    assert layers["stage1.0.conv1"] == {"bias": True}
    assert layers["stage1.0.bn1"] == {"kind": "Identity"}
    assert layers["stage2.0.shortcut"]["kind"] == "Sequential"
    assert len(layers) == 3
    again = rebuild(net.spec, layers, seed=1)
    assert again.stage2[0].shortcut[0].stride == (2, 2)
    again.load_state_dict(net.state_dict())
    assert torch.equal(again.eval()(noise()), net.eval()(noise()))


@pytest.mark.parametrize("geometry", [{"kernel_size": 5}, {"stride": 2}, {"padding": 2}, {"dilation": 2}])
def test_a_layer_of_another_geometry_is_described_whole(geometry: dict) -> None:
    net = build("resnet8", width=0.5)
    net.conv = nn.Conv2d(3, 8, **{"kernel_size": 3, "padding": 1, "bias": False} | geometry)
    again = rebuild(net.spec, json.loads(json.dumps(changed_layers(net))))
    assert repr(again.conv) == repr(net.conv)


def test_every_kind_can_be_made_again() -> None:
    """Planted: a field left out of a kind's list would build another layer."""
    layers = {
        "Conv2d": nn.Conv2d(4, 6, (3, 1), stride=2, padding=(1, 0), dilation=2, groups=2, bias=False),
        "Projection": Projection(4, 6, 2),
        "Linear": nn.Linear(3, 5, bias=False),
        "BatchNorm2d": nn.BatchNorm2d(5, eps=0.1, momentum=0.3),
        "BiasNorm": build("speednet-s", width=0.1).groups[0].norm1,
        "ZeroPad2d": nn.ZeroPad2d((1, 2, 0, 3)),
        "Identity": nn.Identity(),
    }
    assert set(layers) == set(KINDS)
    for kind, layer in layers.items():
        net = build("resnet8", width=0.5)
        net.stage1[0].bn1 = layer
        entry = json.loads(json.dumps(changed_layers(net)))["stage1.0.bn1"]
        assert entry.get("kind", kind) == kind
        again = rebuild(net.spec, {"stage1.0.bn1": entry}).stage1[0].bn1
        assert repr(again) == repr(layer)
        assert {n: v.shape for n, v in again.state_dict().items()} == {
            n: v.shape for n, v in layer.state_dict().items()
        }


@pytest.mark.parametrize(
    "layers",
    [
        {"nowhere": {"kind": "Identity"}},
        {"conv": {"kind": "Module"}},
        {"conv": {"kind": "Conv2d", "in_channels": 3}},
        {"conv": {"out_channels": -1}},
        {"conv": {"out_channels": 10**12}},
        {"conv": {"stride": 7}},
        {"conv": {"out_channels": "many"}},
        {"relu": {"out_channels": 3}},
        {"fc": {"kind": "Sequential", "layers": [{"kind": "Linear"}]}},
        {"fc": {"kind": "Linear", "in_features": 10**9, "out_features": 10**9, "bias": False}},
    ],
)
def test_a_damaged_description_is_refused_in_one_line(layers: dict, tmp_path: Path) -> None:
    net = build("resnet8", width=0.5)
    with pytest.raises(ParameterError, match="cannot be rebuilt") as refused:
        rebuild(net.spec, layers)
    assert "\n" not in str(refused.value)


def test_an_altered_description_in_a_file_is_refused(tmp_path: Path) -> None:
    net = pruned("resnet8", 0.5)
    path = save_weights(net, tmp_path / "a.safetensors")
    manifest = read_manifest(path)
    for layers in ({}, manifest["layers"] | {"relu": {"kind": "Identity"}}):
        tensors = safetensors.torch.load_file(path)
        text = json.dumps(manifest | {"layers": layers})
        other = tmp_path / "altered.safetensors"
        safetensors.torch.save_file(tensors, other, {"scaletut": text})
        with pytest.raises(DataError, match=r"altered\.safetensors was altered"):
            load_weights(other)


def test_a_layer_that_cannot_be_described_is_refused(tmp_path: Path) -> None:
    class Masked(nn.Conv2d):
        """Has the weights of a convolution and does something else."""

    net = build("resnet8", width=0.5)
    net.conv = Masked(3, 8, 3, padding=1, bias=False)
    with pytest.raises(ParameterError, match="'conv' is a Masked"):
        save_weights(net, tmp_path / "a.safetensors")
    net = build("resnet8", width=0.5)
    net.register_buffer("extra", torch.zeros(1))
    with pytest.raises(ParameterError, match="cannot be described"):
        save_weights(net, tmp_path / "a.safetensors")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("mode", ["full", "head", "norms", "scratch"])
@pytest.mark.parametrize("name", ["resnet8", "speednet-s"])
def test_a_pruned_network_is_fine_tuned_in_its_own_shape(name: str, mode: str, tmp_path: Path) -> None:
    net = pruned(name, FAMILIES[name])
    new = adapt(net, mode, 3, seed=1)
    assert complexity(new).macs == pytest.approx(complexity(net).macs, rel=0.01)
    assert new(noise()).shape == (4, 3)
    again = load_weights(save_weights(new, tmp_path / "a.safetensors"))
    assert torch.equal(again(noise()), new.eval()(noise()))
