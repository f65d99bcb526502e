"""Memory: what is forecast on tensors without content is what real steps take."""

from collections.abc import Callable
from dataclasses import asdict, replace

import pytest
import torch
from torch import Tensor, nn

from scaletut.errors import ParameterError
from scaletut.models import build
from scaletut.resources import memory
from scaletut.resources.memory import measure_memory, predict_memory, rule_of_thumb
from scaletut.train import Execution, Recipe, execution

HOW = execution("cpu", "fp32")
SGD, ADAM, MUON = Recipe(optimizer="sgd"), Recipe(optimizer="adamw"), Recipe(optimizer="muon")
WAYS = {
    "whole": ({}, ADAM),
    "recomputed": ({"recompute": True}, SGD),
    "micro-batches": ({"micro_batch": 4}, MUON),
    "channels first": ({"channels_last": False}, ADAM),
    "half precision": ({"autocast": torch.bfloat16}, SGD),
}


NETWORKS = ("resnet8", "speednet-s", "tutorial")
CELLS = [(name, way) for name in NETWORKS for way in WAYS if (name, way) != ("tutorial", "recomputed")]  # it is flat


def share(model: nn.Module, recipe: Recipe, how: Execution, batch_size: int) -> float:
    """Forecast over measured peak."""
    forecast = predict_memory(model, recipe, batch_size=batch_size, how=how)
    return forecast.peak / measure_memory(model, recipe, batch_size=batch_size, how=how)


@pytest.mark.parametrize(("name", "way"), CELLS)
def test_forecast_meets_the_measured_peak(name: str, way: str) -> None:
    options, recipe = WAYS[way]
    assert share(build(name, width=0.5, seed=0), recipe, replace(HOW, **options), 10) == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("batch_size", [1, 40])
def test_forecast_meets_small_and_large_batches(name: str, batch_size: int) -> None:
    assert share(build(name, width=0.5, seed=0), SGD, HOW, batch_size) == pytest.approx(1, abs=0.02)


def test_depthwise_convolutions_and_averaged_weights() -> None:
    def layer(channels: int, out: int, groups: int = 1) -> nn.Module:
        return nn.Sequential(nn.Conv2d(channels, out, 3, padding=1, groups=groups), nn.BatchNorm2d(out), nn.ReLU6())

    model = nn.Sequential(layer(3, 96), layer(96, 96, 96), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(96, 10))
    averaged = replace(ADAM, averaging=0.2)
    assert share(model, averaged, HOW, 8) == pytest.approx(1, abs=0.02)
    assert share(model, averaged, replace(HOW, recompute=True), 8) == pytest.approx(1, abs=0.02)
    more = predict_memory(model, averaged, batch_size=8).optimizer - predict_memory(model, ADAM, batch_size=8).optimizer
    assert more == sum(4 * value.numel() for value in model.state_dict().values() if value.is_floating_point())


def test_a_forecast_without_activations_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    know = memory._Watch.know

    def forgetful(self: memory._Watch, kind: memory.Kind, tensors: object, **options: bool) -> None:
        know(self, kind, [] if kind == "activations" else tensors, **options)

    model = build("tutorial", width=0.5, seed=0)
    assert share(model, ADAM, HOW, 10) == pytest.approx(1, abs=0.02)
    monkeypatch.setattr(memory._Watch, "know", forgetful)
    assert share(model, ADAM, HOW, 10) < 0.95


def test_a_forecast_without_the_kernels_own_space_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build("speednet-s", width=0.5, seed=0)
    assert share(model, SGD, HOW, 2) == pytest.approx(1, abs=0.02)
    monkeypatch.setattr(memory, "_workspace", lambda *_: 0)
    assert share(model, SGD, HOW, 2) < 0.95


def test_parts_add_up_and_are_what_they_are_called() -> None:
    model = build("speednet-s", width=0.5, seed=0)
    forecast = predict_memory(model, ADAM, batch_size=10)
    assert forecast.peak == sum(asdict(forecast).values()) - forecast.peak
    learned = 4 * sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert forecast.parameters == sum(p.nbytes for p in model.parameters())
    assert forecast.optimizer == 2 * learned + 4 * sum(p.requires_grad for p in model.parameters())  # and step counts
    assert forecast.gradients <= learned
    assert forecast.inputs == 10 * (3 * 32 * 32 * 4 + 8)
    assert forecast.buffers == sum(buffer.nbytes for buffer in model.buffers())


def test_nothing_is_allocated() -> None:
    """A step on a million images would take 2 TB."""
    model = build("resnet20", seed=0)
    forecast = predict_memory(model, SGD, batch_size=1_000_000)
    assert forecast.peak > 1e12


def test_the_network_and_the_random_numbers_stay_as_they_were() -> None:
    model = build("resnet8", width=0.5, seed=0).eval()
    model.conv.weight.grad = torch.ones_like(model.conv.weight)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state, kinds = torch.get_rng_state(), [type(module) for module in model.modules()]
    how = replace(HOW, recompute=True)
    predict_memory(model, MUON, batch_size=4, how=how)
    measure_memory(model, MUON, batch_size=4, how=how)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)
    assert [type(module) for module in model.modules()] == kinds
    assert not model.training
    assert model.conv.weight.grad.sum() == model.conv.weight.numel()
    assert not any(p._post_accumulate_grad_hooks for p in model.parameters())


def test_recomputing_and_micro_batches_save_activations() -> None:
    model = build("resnet14", width=0.5, seed=0)
    whole, recomputed, parts = (
        predict_memory(model, SGD, batch_size=64, how=replace(HOW, **way))
        for way in ({}, {"recompute": True}, {"micro_batch": 32})
    )
    assert recomputed.activations < 0.6 * whole.activations
    assert parts.activations < 0.6 * whole.activations
    assert recomputed.parameters == parts.parameters == whole.parameters


def test_rule_of_thumb_counts_copies_of_the_weights_alone() -> None:
    model = build("resnet20", seed=0)
    weights = 4 * sum(p.numel() for p in model.parameters())
    assert rule_of_thumb(model, ADAM) == 4 * weights
    assert rule_of_thumb(model, SGD) == rule_of_thumb(model, MUON) == 3 * weights
    assert rule_of_thumb(model, replace(SGD, momentum=0.0)) == 2 * weights
    assert predict_memory(model, SGD, batch_size=128).peak > 50 * rule_of_thumb(model, SGD)


class Peeking(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 10)

    def forward(self, images: Tensor) -> Tensor:
        logits = self.layer(images.mean(dim=(2, 3)))
        return logits * 2 if logits.sum() > 0 else logits


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: predict_memory(Peeking(), SGD, batch_size=4), "decides by the value"),
        (lambda: predict_memory(Peeking(), SGD, batch_size=0), "at least 1 image"),
        (lambda: measure_memory(Peeking(), SGD, batch_size=4, steps=1), "at least 2"),
        (lambda: measure_memory(Peeking(), SGD, batch_size=4, how=Execution(torch.device("mps"), None, True)), "mps"),
        (
            lambda: predict_memory(build("tutorial"), SGD, batch_size=4, how=replace(HOW, recompute=True)),
            "flat stack of layers",
        ),
    ],
)
def test_what_cannot_be_known_is_refused(call: Callable[[], object], words: str) -> None:
    with pytest.raises(ParameterError, match=words):
        call()


def test_a_network_that_peeks_can_be_measured() -> None:
    assert measure_memory(Peeking(), SGD, batch_size=4) > 4 * 3 * 32 * 32 * 4
