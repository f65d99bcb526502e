"""Fine-tuning modes: what trains, what stays; low-rank corrections start silent and merge exactly."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from scaletut.errors import ParameterError
from scaletut.models import MODES, LoRA, adapt, build, count_parameters, merge, trainable_parameters
from scaletut.models.adapters import head_name

NETS = {"resnet8": 0.5, "speednet-s": 0.25, "tutorial": 0.25}


def images(n: int = 8, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, 3, 32, 32, generator=torch.Generator().manual_seed(seed))


def trained(name: str, seed: int = 0) -> nn.Module:
    """A network whose statistics and weights are no longer the initial ones."""
    net = build(name, width=NETS[name], seed=seed, whiten=images(64) if name == "speednet-s" else None)
    step(net, images(16), 3)
    return net


def step(net: nn.Module, x: torch.Tensor, steps: int = 1, lr: float = 0.05) -> None:
    optimiser = torch.optim.SGD(trainable_parameters(net), lr=lr)
    classes = net(x[:2]).shape[1]
    for _ in range(steps):
        loss = nn.functional.cross_entropy(net.train()(x), torch.arange(len(x)) % classes)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()


def features(net: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """What enters the last layer."""
    kept = []
    handle = net.get_submodule(head_name(net)).register_forward_pre_hook(lambda _m, given: kept.append(given[0]))
    net(x)
    handle.remove()
    return kept[0].detach()


def moved(before: dict[str, torch.Tensor], net: nn.Module) -> set[str]:
    return {name for name, value in net.state_dict().items() if not torch.equal(value, before[name])}


def snapshot(net: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in net.state_dict().items()}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", NETS)
def test_training_moves_exactly_what_requires_grad(name: str, mode: str) -> None:
    net = adapt(trained(name), mode, num_classes=5, seed=1)
    before = snapshot(net)
    step(net, images(16, seed=2), steps=2)
    parameters = {n for n, _ in net.named_parameters()}
    wanted = {n for n, p in net.named_parameters() if p.requires_grad}
    assert moved(before, net) & parameters == wanted
    statistics_move = mode in ("full", "norms", "scratch")
    has_statistics = any("running_mean" in n for n in before)
    assert any("running_mean" in n for n in moved(before, net)) == (statistics_move and has_statistics)


@pytest.mark.parametrize("name", NETS)
def test_what_trains_in_each_mode(name: str) -> None:
    source = trained(name)
    trains = {
        mode: {n for n, p in adapt(source, mode, 5, seed=0).named_parameters() if p.requires_grad} for mode in MODES
    }
    head = head_name(source)
    norms = {p for p, m in source.named_modules() if isinstance(m, nn.BatchNorm2d)}
    heads = {f"{head}.weight"} | ({f"{head}.bias"} if name != "speednet-s" else set())
    assert trains["head"] == heads
    by_design = set(source.spec.frozen)
    assert trains["norms"] == heads | {f"{n}.{p}" for n in norms for p in ("weight", "bias")} - by_design
    assert trains["full"] == trains["scratch"] == {n for n, _ in source.named_parameters()} - by_design
    assert all(n in heads or ".down." in n or ".up." in n for n in trains["lora"])
    assert trains["lora"] > heads


@pytest.mark.parametrize("mode", MODES)
def test_the_original_is_not_touched(mode: str) -> None:
    source = trained("resnet8").eval()
    before, flags = snapshot(source), [p.requires_grad for p in source.parameters()]
    step(adapt(source, mode, 3, seed=0), images())
    assert moved(before, source) == set()
    assert [p.requires_grad for p in source.parameters()] == flags
    assert not source.training


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", NETS)
def test_new_head_is_seeded_and_has_the_new_classes(name: str, mode: str) -> None:
    source = trained(name)
    rng = torch.random.get_rng_state()
    first, again, other = (adapt(source, mode, 3, seed=seed) for seed in (7, 7, 8))
    assert torch.equal(torch.random.get_rng_state(), rng)
    head = head_name(first)
    assert first(images(2)).shape == (2, 3)
    assert (first.spec.num_classes, first.spec.name) == (3, name)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    assert not torch.equal(first.get_submodule(head).weight, other.get_submodule(head).weight)


@pytest.mark.parametrize("mode", ["full", "head", "norms", "lora"])
@pytest.mark.parametrize("name", NETS)
def test_features_are_the_trained_ones_at_the_start(name: str, mode: str) -> None:
    source = trained(name).eval()
    net = adapt(source, mode, 3, seed=0)
    assert net.training
    assert torch.equal(features(net.eval(), images()), features(source, images()))


@pytest.mark.parametrize("mode", ["head", "lora"])
@pytest.mark.parametrize("name", ["resnet8", "speednet-s"])
def test_fixed_statistics_make_training_mode_compute_as_evaluation_mode(name: str, mode: str) -> None:
    source = trained(name).eval()
    net = adapt(source, mode, 3, seed=0)
    assert torch.equal(features(net.train(), images()), features(source, images()))
    assert all(not m.training for m in net.modules() if isinstance(m, nn.BatchNorm2d))
    assert net.training
    copied = copy.deepcopy(net).train()  # weight averaging copies networks
    assert all(not m.training for m in copied.modules() if isinstance(m, nn.BatchNorm2d))


def test_statistics_of_the_batch_differ_where_they_may_move() -> None:
    source = trained("resnet8").eval()
    net = adapt(source, "norms", 3, seed=0)
    assert not torch.allclose(features(net.train(), images()), features(source, images()), atol=1e-3)


@pytest.mark.parametrize("name", ["resnet8", "speednet-s"])
def test_scratch_is_the_freshly_built_net(name: str) -> None:
    source = trained(name, seed=0)
    net = adapt(source, "scratch", 4, seed=9)
    fresh = build(name, num_classes=4, width=NETS[name], seed=9)
    for key, value in net.state_dict().items():
        same = source if key in source.spec.frozen else fresh  # whitening comes from images, it is not learned
        assert torch.equal(value, same.state_dict()[key]), key


def test_scratch_of_a_foreign_network_resets_its_layers() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(3600, 6))
    with torch.no_grad():
        net(images())  # moves the statistics
    new = adapt(net, "scratch", 2, seed=1)
    assert not torch.equal(new[0].weight, net[0].weight)
    assert torch.equal(new[1].running_mean, torch.zeros(4))
    assert new(images(2)).shape == (2, 2)
    assert torch.equal(adapt(net, "scratch", 2, seed=1)[0].weight, new[0].weight)

    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gain = nn.Parameter(torch.ones(1))
            self.fc = nn.Linear(2, 2)

    with pytest.raises(ParameterError, match="reset_parameters"):
        adapt(Own(), "scratch", 2, seed=0)


@pytest.mark.parametrize(
    "base",
    [
        nn.Conv2d(6, 8, 3, padding=1),
        nn.Conv2d(6, 8, 3, stride=2, padding=2, dilation=2, bias=False),
        nn.Conv2d(6, 8, 1, stride=2),
        nn.Conv2d(6, 8, 3, padding=1, padding_mode="reflect"),
        nn.Linear(16, 8),
        nn.Linear(16, 8, bias=False),
    ],
    ids=str,
)
@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_lora_starts_silent_and_merges_exactly(base: nn.Module, scale: float) -> None:
    x = torch.randn(3, 6, 16, 16, generator=torch.Generator().manual_seed(0)).double()
    original = base.double()
    layer = LoRA(copy.deepcopy(original), rank=2, scale=scale)
    assert torch.equal(layer(x), original(x))
    nn.init.normal_(layer.up.weight)
    merged = layer.merged()
    assert type(merged) is type(original)
    torch.testing.assert_close(merged(x), layer(x), rtol=1e-10, atol=1e-10)
    assert not torch.allclose(layer(x), original(x))
    difference = (merged.weight - original.weight).flatten(1)
    assert torch.linalg.matrix_rank(difference) == 2
    # W + scale * B A, the equation itself
    product = layer.up.weight.flatten(1) @ layer.down.weight.flatten(1)
    torch.testing.assert_close(difference, scale * product)


@pytest.mark.parametrize("name", NETS)
def test_a_trained_lora_network_equals_its_merged_one(name: str) -> None:
    net = adapt(trained(name), "lora", 3, seed=0, rank=3)
    step(net, images(16), steps=3)
    merged = merge(net)
    assert not any(isinstance(m, LoRA) for m in merged.modules())
    torch.testing.assert_close(merged.eval()(images()), net.eval()(images()), rtol=1e-4, atol=1e-5)
    plain = build(name, num_classes=3, width=NETS[name])
    assert [(n, p.shape) for n, p in merged.named_parameters()] == [(n, p.shape) for n, p in plain.named_parameters()]
    plain.load_state_dict(merged.state_dict())
    torch.testing.assert_close(plain.eval()(images()), net(images()), rtol=1e-4, atol=1e-5)
    with pytest.raises(ParameterError, match="no LoRA layer"):
        merge(merged)
    with pytest.raises(ParameterError, match="merge"):
        adapt(net, "head", 3, seed=0)


def test_parameters_grow_with_the_rank_and_stay_few() -> None:
    source = build("resnet20")
    counts = [count_parameters(adapt(source, "lora", 10, seed=0, rank=rank), trainable=True) for rank in (1, 2, 4)]
    head = 650
    # Rank r costs r * (inputs * k * k + outputs) a layer; the first layer has the smallest full rank, 16.
    assert (counts[1] - head) == 2 * (counts[0] - head)
    assert (counts[2] - head) == 4 * (counts[0] - head)
    by_hand = sum(m.weight[0].numel() + m.out_channels for m in source.modules() if isinstance(m, nn.Conv2d))
    assert counts[0] - head == by_hand
    assert counts[1] < 0.1 * count_parameters(source)


def test_rank_is_cut_to_the_full_rank() -> None:
    layer = LoRA(nn.Linear(3, 50), rank=20)
    assert layer.down.weight.shape == (3, 3)
    assert layer.up.weight.shape == (50, 3)


def test_alpha_scales_the_correction() -> None:
    source = build("resnet8", width=0.5)
    scales = {
        alpha: {m.scale for m in adapt(source, "lora", 3, seed=0, rank=4, alpha=alpha).modules() if isinstance(m, LoRA)}
        for alpha in (None, 4.0, 8.0)
    }
    assert scales == {None: {1.0}, 4.0: {1.0}, 8.0: {2.0}}


def test_grouped_convolutions_stay_frozen_under_lora() -> None:
    net = nn.Sequential(nn.Conv2d(3, 6, 1), nn.Conv2d(6, 6, 3, groups=6), nn.Flatten(), nn.Linear(5400, 4))
    made = adapt(net, "lora", 2, seed=0)
    assert isinstance(made[0], LoRA)
    assert type(made[1]) is nn.Conv2d
    assert not made[1].weight.requires_grad


def test_layer_norms_train_in_norms_mode() -> None:
    net = nn.Sequential(nn.Flatten(), nn.LayerNorm(3072), nn.Linear(3072, 4))
    trains = {n for n, p in adapt(net, "norms", 2, seed=0).named_parameters() if p.requires_grad}
    assert trains == {"1.weight", "1.bias", "2.weight", "2.bias"}


def test_probe_first_then_fine_tune_unfreezes_again() -> None:
    probed = adapt(trained("speednet-s"), "head", 5, seed=0)
    full = adapt(probed, "full", 5, seed=0)
    fresh = {n for n, p in build("speednet-s", width=0.25).named_parameters() if p.requires_grad}
    assert {n for n, p in full.named_parameters() if p.requires_grad} == fresh


def test_full_after_head_lets_statistics_move_again() -> None:
    full = adapt(adapt(trained("resnet8"), "head", 5, seed=0), "full", 5, seed=0)
    before = snapshot(full)
    step(full, images())
    assert any("running_mean" in name for name in moved(before, full))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"mode": "ful"}, "full"),
        ({"num_classes": 0}, "at least 1"),
        ({"mode": "lora", "rank": 0}, "at least 1"),
    ],
)
def test_wrong_arguments_are_refused(arguments: dict, says: str) -> None:
    call = {"mode": "full", "num_classes": 2, "seed": 0} | arguments
    with pytest.raises(ParameterError, match=says):
        adapt(build("resnet8"), **call)


def test_a_network_without_a_linear_head_is_refused() -> None:
    with pytest.raises(ParameterError, match="no last layer"):
        adapt(nn.Sequential(nn.Conv2d(3, 10, 32), nn.Flatten()), "full", 2, seed=0)
