"""The cost of a network: by hand, against published counts, and against PyTorch's FLOP counter."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from scaletut.errors import ParameterError
from scaletut.models import MODES, adapt, build, complexity, time_layers

NETS = {"resnet20": 1.0, "resnet8": 0.5, "plain20": 1.0, "speednet-s": 0.5, "tutorial": 1.0, "resnet18": None}


def counted(model: nn.Module, *, backward: bool) -> int:
    """FLOPs of one image by `torch.utils.flop_counter`, through autograd when `backward`."""
    model.eval()
    with FlopCounterMode(display=False) as counter:
        logits = model(torch.randn(1, 3, 32, 32))
        if backward:
            logits.sum().backward()
    return counter.get_total_flops()


def test_a_small_net_by_hand() -> None:
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1),  # 3*4*9 = 108 weights, 4 biases, 8*8 positions
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Conv2d(4, 4, 3, stride=2, padding=1, groups=2, bias=False),  # 4*2*9 = 72 weights, 4*4 positions
        nn.Flatten(),
        nn.Linear(64, 5),  # 320 weights, one use
    )
    table = complexity(net, (3, 8, 8))
    conv, norm, relu, grouped, flatten, linear = table.layers
    assert (conv.weights, conv.uses, conv.macs, conv.parameters) == (108, 64, 6912, 112)
    assert (grouped.weights, grouped.uses, grouped.macs, grouped.parameters) == (72, 16, 1152, 72)
    assert (linear.weights, linear.uses, linear.macs, linear.parameters) == (320, 1, 320, 325)
    assert [(layer.parameters, layer.flops) for layer in (norm, relu, flatten)] == [(8, 0), (0, 0), (0, 0)]
    assert [layer.output_shape for layer in table.layers] == [(4, 8, 8)] * 3 + [(4, 4, 4), (64,), (5,)]
    assert [layer.activation_bytes for layer in table.layers] == [1024, 1024, 1024, 256, 256, 20]
    assert (table.macs, table.flops, table.parameters) == (8384, 16768, 517)
    # The first layer needs no gradient of the image: 2 passes; the others need 3.
    assert [layer.training_flops for layer in table.layers] == [2 * 13824, 0, 0, 3 * 2304, 0, 3 * 640]
    assert table.outside_flops == 0


def test_what_autograd_keeps_by_hand() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(256, 5))
    # The image (768 bytes) for the filters' gradient; the ReLU's output (1024) once, though two keep it.
    assert complexity(net, (3, 8, 8)).saved_bytes == 768 + 1024
    net.requires_grad_(False)
    assert complexity(net, (3, 8, 8)).saved_bytes == 0


@pytest.mark.parametrize("name", NETS)
def test_weights_times_uses_is_the_flop_counter(name: str) -> None:
    net = build(name, width=NETS[name])
    table = complexity(net)
    assert sum(layer.weights * layer.uses for layer in table.layers) == table.macs
    assert 2 * table.macs == table.flops == counted(net, backward=False)
    assert table.training_flops == counted(net, backward=True)
    assert sum(layer.parameters for layer in table.layers) == table.parameters
    assert table.outside_flops == 0


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", ["resnet8", "speednet-s"])
def test_training_flops_of_frozen_parts_are_not_counted(name: str, mode: str) -> None:
    net = adapt(build(name, width=0.5), mode, num_classes=5, seed=0)
    assert complexity(net).training_flops == counted(net, backward=True)


def test_head_alone_costs_little_more_than_inference() -> None:
    net = build("resnet20")
    head, full = (complexity(adapt(net, mode, 5, seed=0)) for mode in ("head", "full"))
    assert head.training_flops == head.flops + 2 * 64 * 5
    assert full.training_flops > 2.9 * full.flops


@pytest.mark.parametrize(
    ("name", "mmac"),
    [("resnet20", 40.8), ("resnet56", 125.7), ("resnet18", 555.4)],  # resnet18 at 32 pixels: 0.56 GMAC
)
def test_published_multiply_accumulates(name: str, mmac: float) -> None:
    assert round(complexity(build(name)).macs / 1e6, 1) == mmac


def test_torchvision_resnet18_at_224_is_1_8_gmac() -> None:
    from torchvision import models

    table = complexity(models.resnet18(), (3, 224, 224))
    assert table.parameters == 11_689_512
    assert table.macs == 1_814_073_344


def test_cost_grows_with_the_square_of_width_and_side() -> None:
    one, two = (complexity(build("resnet20", width=width)).macs for width in (2, 4))
    assert two / one == pytest.approx(4, rel=0.02)
    small, large = (complexity(build("resnet20"), (3, side, side)).macs for side in (32, 64))
    assert large / small == pytest.approx(4, rel=0.001)


def test_a_layer_that_is_used_twice_counts_twice_but_holds_its_weights_once() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 1, bias=False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.conv(self.conv(x))

    table = complexity(Twice(), (3, 4, 4))
    (layer,) = table.layers
    assert (layer.parameters, layer.weights, layer.uses, table.macs) == (9, 9, 32, 288)
    assert table.flops == 576 == forward_flops(Twice(), 4)


def forward_flops(net: nn.Module, side: int) -> int:
    with FlopCounterMode(display=False) as counter:
        net(torch.zeros(1, 3, side, side))
    return counter.get_total_flops()


def test_work_outside_the_layers_is_reported() -> None:
    class Functional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.matrix = nn.Parameter(torch.ones(48, 7))
            self.fc = nn.Linear(7, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.fc(x.flatten(1) @ self.matrix)

    table = complexity(Functional(), (3, 4, 4))
    assert table.outside_flops == 2 * 48 * 7
    assert table.parameters == 48 * 7 + 16


def test_counting_leaves_the_network_as_it_was() -> None:
    net = build("resnet8")
    net.stage1.eval()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    modes = [module.training for module in net.modules()]
    complexity(net)
    assert [module.training for module in net.modules()] == modes
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert all(not module._forward_hooks and not module._forward_pre_hooks for module in net.modules())
    assert all(parameter.grad is None for parameter in net.parameters())


def test_a_wrong_image_shape_is_explained_and_hooks_are_removed() -> None:
    net = build("tutorial")
    with pytest.raises(ParameterError, match="cannot take an image"):
        complexity(net, (3, 40, 40))
    assert all(not module._forward_hooks for module in net.modules())


def test_the_table_as_a_frame() -> None:
    table = complexity(build("resnet8"))
    frame = table.frame()
    assert len(frame) == len(table.layers)
    assert frame["macs"].sum() == table.macs
    assert math.prod(frame["output_shape"].iloc[0]) * 4 == frame["activation_bytes"].iloc[0]


def test_time_by_layer_covers_the_layers_and_little_is_lost() -> None:
    net, x = build("resnet20").train(), torch.randn(16, 3, 32, 32)
    times = time_layers(net, x, repeats=3)
    assert [t.name for t in times] == [layer.name for layer in complexity(net).layers]
    assert all(0 < t.minimum <= t.median for t in times)
    assert net.training
    by_kind = {kind: sum(t.median for t in times if t.kind == kind) for kind in ("Conv2d", "Linear")}
    assert by_kind["Conv2d"] > 5 * by_kind["Linear"]
    with pytest.raises(ParameterError, match="repeats"):
        time_layers(net, x, repeats=0)
