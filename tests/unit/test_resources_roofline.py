"""The roofline: its figures by hand, its FLOPs by PyTorch's counter, a real measurement of this machine."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from scaletut import cli
from scaletut.errors import ParameterError
from scaletut.models import adapt, build, complexity
from scaletut.resources import roofline
from scaletut.resources.roofline import Roof, measure_roof, place_layers

SETS = roofline.WORKING_SETS[:4]
# 100 FLOP/s, 10 bytes/s from memory, 1000 in a cache of 100 bytes.
BY_HAND = Roof("cpu", "paper", 1, {"fp32": 100.0, "bf16": 50.0}, {}, ((100, 1000.0), (10_000, 10.0)), 1e-6)


@pytest.fixture(scope="module")
def here() -> Iterator[Roof]:
    """Of this machine, measured as always but once and in its caches alone: the test is not to take long."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(roofline, "ROUNDS", 1)
        patch.setattr(roofline, "WORKING_SETS", SETS)
        yield measure_roof("cpu", seconds=0.2)


def net() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1, bias=False),
        nn.BatchNorm2d(4),
        nn.ReLU(inplace=True),
        nn.Dropout(),
        nn.Flatten(),
        nn.Linear(256, 5),
    )


def test_the_roof_by_hand() -> None:
    assert BY_HAND.memory_bandwidth == 10
    assert BY_HAND.ridge() == 10
    assert BY_HAND.attainable(1) == pytest.approx(10)  # memory limits
    assert BY_HAND.attainable(50) == 100  # the peak does
    assert BY_HAND.attainable(0.05, working_set=100) == pytest.approx(50)  # from the cache
    assert BY_HAND.bandwidth_at(1) == pytest.approx(1000)
    assert BY_HAND.bandwidth_at(1000) == pytest.approx(100)  # half way by the logarithms
    assert BY_HAND.bandwidth_at(1e9) == pytest.approx(10)
    assert BY_HAND.attainable(50, "bf16") == 50
    with pytest.raises(ParameterError, match="has no fp16"):
        BY_HAND.attainable(1, "fp16")


def test_a_roof_goes_through_json() -> None:
    assert Roof.from_dict(json.loads(json.dumps(BY_HAND.to_dict()))) == BY_HAND


def test_the_working_sets_reach_from_the_caches_to_memory() -> None:
    assert roofline.WORKING_SETS[0] == 16 * 2**10
    assert roofline.WORKING_SETS[-1] == 256 * 2**20


def test_this_machine_has_a_roof(here: Roof) -> None:
    assert here.device == "cpu"
    assert here.name
    assert here.threads == torch.get_num_threads()
    assert 1e8 < here.peak["fp32"] < 1e14
    assert set(here.peak) == set(here.shape)
    assert [size for size, _ in here.bandwidth] == list(SETS)
    assert all(1e7 < rate < 1e13 for _, rate in here.bandwidth)
    assert 0 < here.call_seconds < 1e-2


@pytest.mark.parametrize("dtype", ["fp32", "bf16", "fp16"])
def test_the_products_of_the_peak_count_two_for_a_multiply_accumulate(
    dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(roofline, "SIDES", (16, 32))
    seen = []
    for name, flops, call in roofline._products(dtype, torch.device("cpu")):
        with FlopCounterMode(display=False) as counter:
            made = call()
        assert counter.get_total_flops() == flops, name
        assert made.dtype == roofline.DTYPES[dtype]
        seen.append(name)
    assert seen == ["convolution 64", "convolution 128", "convolution 256", "matmul 16", "matmul 32"]


def test_a_format_that_the_device_refuses_has_no_peak(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise RuntimeError("not implemented for 'Char'")

    monkeypatch.setattr(torch, "_int_mm", refuse)
    assert roofline._peak("int8", torch.device("cpu"), 0.01) is None


def test_the_bytes_of_a_reading_are_those_that_move(monkeypatch: pytest.MonkeyPatch) -> None:
    """Copy reads and writes half of the set each, triad reads two thirds and writes one; each takes a second here."""
    seconds = iter([1.0, 2.0])
    monkeypatch.setattr(roofline, "_seconds", lambda call, *_: call() is None or next(seconds))
    assert roofline._bandwidth(2400, torch.device("cpu"), 1.0) == 2400
    seconds = iter([2.0, 1.0])
    assert roofline._bandwidth(2400, torch.device("cpu"), 1.0) == 2400


# --- layers


def test_layers_by_hand() -> None:
    layers = place_layers(net(), (3, 8, 8), 2, BY_HAND, channels_last=False)
    assert [layer.kind for layer in layers] == ["Conv2d", "BatchNorm2d", "ReLU", "Linear"]  # the others move nothing
    conv, norm, relu, linear = layers
    assert conv.flops == 2 * 2 * 108 * 64
    assert conv.bytes == 4 * (2 * 3 * 64 + 108 + 2 * 4 * 64)
    assert norm.flops == relu.flops == norm.intensity == norm.attainable == 0
    assert norm.bytes == 4 * (512 + 8 + 512)
    assert relu.bytes == 4 * (512 + 512)  # in place or not
    assert linear.bytes == 4 * (2 * 256 + 256 * 5 + 5 + 2 * 5)
    assert [layer.limit for layer in layers] == ["compute", "memory", "memory", "memory"]
    assert conv.bound_seconds == conv.flops / 100
    assert norm.bound_seconds == pytest.approx(norm.bytes / BY_HAND.bandwidth_at(norm.bytes))
    for layer in layers:
        assert layer.seconds > 0
        assert layer.share == layer.bound_seconds / layer.seconds
        assert layer.achieved == layer.flops / layer.seconds
        assert layer.attainable == pytest.approx(layer.flops / layer.bound_seconds)


def test_training_moves_the_gradients_too() -> None:
    model = net()
    del model[3]  # in training, dropout is an operation of its own
    conv, norm, relu, linear = place_layers(model, (3, 8, 8), 2, BY_HAND, training=True, channels_last=False)
    once = 4 * (2 * 3 * 64 + 108 + 2 * 4 * 64)
    assert conv.bytes == 2 * once  # forward, weights; nobody wants the gradient of the images
    assert norm.bytes == 3 * 4 * (512 + 8 + 512) + 4 * 512  # that of the input needs the input again
    assert relu.bytes == 2 * 4 * (512 + 512) + 4 * 512
    assert linear.bytes == 3 * 4 * (2 * 256 + 256 * 5 + 5 + 2 * 5)
    assert linear.flops == 3 * 2 * 2 * 256 * 5


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("mode", ["full", "head"])
def test_flops_are_those_of_the_whole_network(mode: str, training: bool) -> None:
    model = adapt(build("resnet8", width=0.5), mode, num_classes=5, seed=0)
    table = complexity(model)
    layers = place_layers(model, (3, 32, 32), 4, BY_HAND, training=training, repeats=1)
    assert sum(layer.flops for layer in layers) == 4 * (table.training_flops if training else table.flops)
    assert [layer.name for layer in layers] == [layer.name for layer in table.layers]


def test_to_flatten_is_a_view_or_a_copy_by_the_layout() -> None:
    kinds = [layer.kind for layer in place_layers(net(), (3, 8, 8), 2, BY_HAND, channels_last=True)]
    assert kinds == ["Conv2d", "BatchNorm2d", "ReLU", "Flatten", "Linear"]


def test_half_precision_moves_half_the_bytes() -> None:
    whole, half = (place_layers(net(), (3, 8, 8), 2, BY_HAND, dtype)[0] for dtype in ("fp32", "bf16"))
    assert half.bytes * 2 == whole.bytes
    assert half.flops == whole.flops
    assert half.bound_seconds == 2 * whole.bound_seconds  # of half the peak


def test_a_layer_that_holds_others_is_told_by_them_and_a_shared_one_by_all_its_calls() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(1))
            self.conv = nn.Conv2d(3, 3, 1, bias=False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.scale * self.conv(self.conv(x))

    (layer,) = place_layers(Twice(), (3, 4, 4), 1, BY_HAND, training=True)
    assert layer.name == "conv"
    once = 4 * (48 + 9 + 48)
    assert layer.bytes == 2 * once + 3 * once
    assert layer.flops == (2 + 3) * 2 * 9 * 16


def test_the_network_is_left_as_it_was() -> None:
    model = net().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    place_layers(model, (3, 8, 8), 2, BY_HAND, training=True, repeats=1)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.training
    assert model[2].inplace
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(not module._forward_hooks for module in model.modules())


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"input_shape": (3, 9, 9)}, "cannot take images"),
        ({"dtype": "int8"}, "quantised first"),
        ({"dtype": "fp16"}, "has no fp16"),
        ({"batch_size": 0}, "give 1 or more"),
    ],
)
def test_what_cannot_be_placed_is_refused(options: dict, why: str) -> None:
    with pytest.raises(ParameterError, match=why):
        place_layers(net(), **{"input_shape": (3, 8, 8), "batch_size": 2, "roof": BY_HAND} | options)


# --- the command


@pytest.fixture
def quick(here: Roof, monkeypatch: pytest.MonkeyPatch) -> None:
    """The roof that was measured before."""
    monkeypatch.setattr(roofline, "measure_roof", lambda device, seconds: here)


@pytest.mark.usefixtures("quick")
def test_the_command_prints_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["roofline", "resnet8", "--batch", "2"]) == 0
    text = capsys.readouterr().out
    assert "2 FLOP a multiply-accumulate, dense" in text
    assert "peak fp32" in text
    assert "GB/s  of 1 MiB" in text
    assert "stage1.0.conv1" in text
    assert "layers limited by memory" in text


def test_the_command_compares_with_what_the_vendor_says(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shapes = {"fp32": "convolution 64", "bf16": "matmul 4096"}
    roof = Roof("cuda", "NVIDIA A100-SXM4-40GB", 1, {"fp32": 78e12, "bf16": 234e12}, shapes, BY_HAND.bandwidth, 1e-6)
    monkeypatch.setattr(roofline, "measure_roof", lambda device, seconds: roof)
    assert cli.main(["roofline"]) == 0
    text = capsys.readouterr().out
    assert "234.00 TFLOP/s  by matmul 4096, 75% of the published 312.00 TFLOP/s (bf16)" in text
    assert "50% of the published 156.00 TFLOP/s (tf32)" in text  # PyTorch's fp32 convolutions there
    assert "emulated" not in text


@pytest.mark.usefixtures("quick")
def test_the_command_writes_json(here: Roof, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["roofline", "tutorial", "--batch", "1", "--json", "-"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert Roof.from_dict(found["roof"]) == here
    assert {"name", "flops", "bytes", "share"} <= set(found["layers"][0])


@pytest.mark.parametrize("wrong", [["resnet9000"], ["--seconds", "0"], ["--device", "abacus"]])
def test_the_command_refuses_in_one_line(wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["roofline", *wrong]) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.usefixtures("quick")
def test_the_command_refuses_images_that_do_not_fit(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["roofline", "tutorial", "--side", "3"]) == 2
    assert "cannot take images" in capsys.readouterr().err


def test_json_that_cannot_be_written_is_one_line(capsys: pytest.CaptureFixture, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    assert cli.main(["roofline", "--seconds", "0.05", "--json", str(tmp_path / "file" / "roof.json")]) == 2
    assert "cannot be written" in capsys.readouterr().err
