"""Pruning: channels that go are gone and nothing else changes; zeros stay zero; bounds and faults."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from compress_cases import moved, noise
from torch import nn

from scaletut.compress import (
    channel_groups,
    hold_zeros,
    prune_channels,
    prune_in_rounds,
    prune_weights,
    sensitivity,
)
from scaletut.compress import prune as room
from scaletut.data import load
from scaletut.errors import ParameterError
from scaletut.models import build, complexity, load_weights, save_weights
from scaletut.models.resnet import Projection
from scaletut.train import fit, predict, report
from scaletut.train.presets import make_network, preset
from scaletut.train.recipe import Recipe

FAMILIES = {"resnet8": 0.5, "plain8": 0.5, "speednet-s": 0.25, "tutorial": 0.5}
PLAIN = ((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))


def network(name: str = "resnet8", width: float | None = 0.5) -> nn.Module:
    return moved(name, width)


def zeroed(net: nn.Module, group, going: list[int]) -> None:
    """Hold channels at zero by hand: in the layers that make them, and in the batch norm that follows each."""
    layers = dict(net.named_modules())
    order = [name for name, layer in layers.items() if list(layer.parameters(recurse=False))]
    with torch.no_grad():
        for name in group.layers:
            after = order[order.index(name) + 1 :][:1]
            for layer in (layers[name], *(layers[n] for n in after if isinstance(layers[n], nn.BatchNorm2d))):
                layer.weight[going] = 0
                if layer.bias is not None:
                    layer.bias[going] = 0


@pytest.mark.parametrize("spread", ["global", "uniform"])
@pytest.mark.parametrize("name", FAMILIES)
def test_a_pruned_network_is_the_one_with_these_channels_at_zero(name: str, spread: str) -> None:
    net = network(name, FAMILIES[name])
    groups = {group.name: group for group in channel_groups(net, side=32)}
    new = prune_channels(net, 0.4, side=32, round_to=4, spread=spread)
    masked = copy.deepcopy(net)
    for group, (before, after) in new.steps[-1]["widths"].items():
        assert after % 4 == 0 < after < before
        zeroed(masked, groups[group], groups[group].importance.argsort(stable=True)[: before - after].tolist())
    torch.testing.assert_close(new(noise()), masked(noise()), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(new(noise()), net(noise()), rtol=1e-3)  # else the line above says nothing


@pytest.mark.parametrize("name", FAMILIES)
def test_channels_are_really_gone(name: str) -> None:
    net = network(name, FAMILIES[name])
    total = sum(group.channels for group in channel_groups(net, side=32))
    new = prune_channels(net, 0.5, side=32, round_to=4)
    left = channel_groups(new, side=32)
    assert all(group.channels % 4 == 0 for group in left)
    assert abs(sum(group.channels for group in left) / total - 0.5) < 0.05
    assert complexity(new).macs < 0.5 * complexity(net).macs
    assert new(noise()).shape == net(noise()).shape
    assert not new.training
    assert prune_channels(net.train(), 0.5, side=32, round_to=4).training
    assert {n for n, p in new.named_parameters() if not p.requires_grad} == {
        n for n, p in net.named_parameters() if not p.requires_grad
    }


def test_the_original_is_not_touched() -> None:
    net = network()
    state = {name: value.clone() for name, value in net.state_dict().items()}
    prune_channels(net, 0.5, side=32)
    prune_weights(net, 0.5)
    channel_groups(net, side=32)
    sensitivity(net, lambda n: float(n(noise()).detach().mean()), shares=(0.5,), side=32)
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())
    assert not hasattr(net, "steps")
    assert not net.training


def test_groups_tie_what_a_shortcut_adds() -> None:
    groups = {group.name: group for group in channel_groups(network(), side=32)}
    assert set(groups["conv"].layers) == {"conv", "stage1.0.conv2"}
    assert set(groups["stage2.0.conv2"].layers) == {"stage2.0.conv2", "stage2.0.shortcut.0"}
    assert "fc" in groups["stage3.0.conv2"].readers
    assert all("fc" not in group.layers for group in groups.values())
    for group in groups.values():
        assert float(group.importance.mean()) == pytest.approx(1, rel=1e-4)  # so that groups compare
    assert list(groups) == [n for n, _ in network().named_modules() if n in groups]


def test_the_least_important_channels_go() -> None:
    net = network()
    with torch.no_grad():  # channels 0 to 3 of one branch are made all but useless
        net.stage1[0].conv1.weight[:4] *= 0.01
        net.stage1[0].bn1.weight[:4] = 0.01
        net.stage1[0].conv2.weight[:, :4] *= 0.01
    kept = net.stage1[0].conv1.weight[4:].clone()
    new = prune_channels(net, 0.1, side=32, round_to=4)
    assert torch.equal(new.stage1[0].conv1.weight, kept)
    by_norm = prune_channels(net, 0.1, side=32, round_to=4, importance="norm")
    assert torch.equal(by_norm.stage1[0].conv1.weight, kept)


def test_whitening_and_classifier_are_kept() -> None:
    net = network("speednet-s", 0.25)
    new = prune_channels(net, 0.5, side=32, round_to=4)
    assert torch.equal(new.whiten.weight, net.whiten.weight)
    assert new.groups[0].conv1.in_channels == 24
    assert new.head.out_features == 10
    assert new.head.in_features < net.head.in_features


def test_shares_of_their_own() -> None:
    net = network()
    new = prune_channels(net, 0.0, side=32, round_to=4, shares={"stage3.0.conv1": 0.75, "stage2.0.shortcut.0": 0.5})
    assert new.steps[-1]["widths"] == {"stage2.0.conv2": [16, 8], "stage3.0.conv1": [32, 8]}
    with pytest.raises(ParameterError, match=r"nearest is 'stage3\.0\.conv1'"):
        prune_channels(net, 0.0, side=32, shares={"stage3.0.con1": 0.5})
    with pytest.raises(ParameterError, match=r"tied to 'stage2\.0\.conv2'"):
        prune_channels(net, 0.0, side=32, shares={"stage2.0.shortcut.0": 0.5, "stage2.0.conv2": 0.25})


def test_no_group_loses_more_than_it_may() -> None:
    net = network()
    with torch.no_grad():  # one branch all of whose channels but one look useless
        net.stage3[0].conv1.weight[1:] *= 1e-4
        net.stage3[0].bn1.weight[1:] = 1e-4
        net.stage3[0].conv2.weight[:, 1:] *= 1e-4
    widths = prune_channels(net, 0.3, side=32, round_to=4).steps[-1]["widths"]
    assert widths["stage3.0.conv1"] == [32, 12]  # by default at most (1 + 0.3) / 2
    widths = prune_channels(net, 0.3, side=32, round_to=4, most=0.5).steps[-1]["widths"]
    assert widths["stage3.0.conv1"] == [32, 16]
    widths = prune_channels(net, 0.3, side=32, round_to=4, most=1.0).steps[-1]["widths"]
    assert widths["stage3.0.conv1"] == [32, 4]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"share": 1.0}, "share is 1.0"),
        ({"share": -0.1}, "share is -0.1"),
        ({"share": 0.9, "round_to": 8}, "would vanish"),
        ({"share": 0.95, "spread": "uniform", "round_to": 1}, "leave none of the 8 channels of 'conv'"),
        ({"share": 0.0, "shares": {"conv": 0.99}, "round_to": 1}, "leave none"),
        ({"share": 0.01}, "no channel can go"),
        ({"share": 0.5, "round_to": 0}, "round_to is 0"),
        ({"share": 0.5, "most": 0.4}, "most is 0.4"),
        ({"share": 0.5, "spread": "local"}, "no spread 'local'"),
        ({"share": 0.5, "importance": "luck"}, "no importance 'luck'"),
    ],
)
def test_bad_arguments_are_refused_in_one_line(arguments: dict, message: str) -> None:
    with pytest.raises(ParameterError, match=message) as refused:
        prune_channels(network(), **{"side": 32, **arguments})
    assert "\n" not in str(refused.value)


def test_what_the_network_cannot_do_is_refused() -> None:
    for name in ("tutorial", "speednet-s"):
        with pytest.raises(ParameterError, match="learn a scale"):
            prune_channels(network(name, 0.5), 0.5, side=32, importance="norm")
    with pytest.raises(ParameterError, match="16 x 16 pixels"):
        prune_channels(network("tutorial", 0.5), 0.5, side=16)


def test_a_narrow_projection_is_done_safely() -> None:
    """A strided 1x1 convolution of few channels writes beyond its memory in torch; pruning must not make one."""
    new = prune_channels(network(), 0.5, side=32, round_to=1)
    narrow = new.stage2[0].shortcut[0]
    assert narrow.in_channels < 8
    assert isinstance(narrow, Projection)


def test_mobile_blocks_keep_their_early_layers() -> None:
    pytest.importorskip("efficientnet_lite_pytorch")
    net = network("efficientnet-lite0", None)
    groups = {group.name: group for group in channel_groups(net, side=32)}
    new = prune_channels(net, 0.5, side=32)
    for name, (before, after) in new.steps[-1]["widths"].items():
        assert before == groups[name].channels
        assert after % 8 == 0
        assert after >= before / 4
    depthwise = new.net._blocks[3]._depthwise_conv
    assert depthwise.groups == depthwise.in_channels == depthwise.out_channels < 144
    masked = copy.deepcopy(net)
    for name, (before, after) in new.steps[-1]["widths"].items():
        zeroed(masked, groups[name], groups[name].importance.argsort(stable=True)[: before - after].tolist())
    torch.testing.assert_close(new(noise()), masked(noise()), rtol=1e-3, atol=1e-4)


# --- with training


@pytest.fixture(scope="module")
def data():
    return load("zipf10", n_train=300, n_test=200, seed=0)


SGD = Recipe(epochs=2, batch_size=50, lr=0.05)


def loss(net: nn.Module, some) -> float:
    return report(predict(net, some, PLAIN), some.labels).cross_entropy


def test_a_pruned_network_learns_again(data) -> None:
    recipe = Recipe(epochs=4, batch_size=50, lr=0.1)
    net = fit(build("resnet8", width=0.5, seed=0), data.train, recipe, 0, normalisation=PLAIN).model
    new = prune_channels(net, 0.5, side=32, round_to=4)
    at_once = loss(new, data.train)
    assert at_once > loss(net, data.train) + 0.1
    fit(new, data.train, recipe, 1, normalisation=PLAIN)
    assert loss(new, data.train) < at_once - 0.1


def test_a_pruned_speed_net_trains_with_muon_and_its_whitening_stays(data, tmp_path) -> None:
    fast = preset("fast")
    recipe = Recipe(**{**fast.recipe.to_dict(), "epochs": 1, "batch_size": 100})
    net = make_network(replace(fast, width=0.5), data.train, 0)
    with pytest.raises(ParameterError, match="train it first"):  # its filters still copy one channel each
        prune_channels(net, 0.5, side=32)
    new = prune_channels(fit(net, data.train, recipe, 0).model, 0.5, side=32)
    whitened = new.whiten.weight.clone()
    result = fit(new, data.train, recipe, 0)
    assert result.status == "finished"
    assert torch.equal(result.model.whiten.weight, whitened)
    again = load_weights(save_weights(result.model, tmp_path / "a.safetensors"))
    assert torch.equal(again(noise()), result.model.to(memory_format=torch.contiguous_format)(noise()))


def test_in_rounds_the_same_share_goes(data) -> None:
    net = network()
    seen: list[tuple[int, int]] = []

    def between(some: nn.Module, number: int) -> nn.Module:
        seen.append((number, sum(group.channels for group in channel_groups(some, side=32))))
        return fit(some, data.train, Recipe(epochs=0.2, batch_size=50), 0, normalisation=PLAIN).model

    new = prune_in_rounds(net, 0.5, 3, between, side=32, round_to=4)
    total = sum(group.channels for group in channel_groups(net, side=32))
    assert [number for number, _ in seen] == [1, 2, 3]
    for number, left in seen:
        assert abs(left - total * (1 - 0.5 * number / 3)) <= 2  # half a block
    assert [(step["round"], step["most"]) for step in new.steps] == [(1, 0.75), (2, 0.75), (3, 0.75)]
    assert min(group.channels for group in channel_groups(new, side=32)) >= 4
    assert any(not torch.equal(a, b) for a, b in zip(new.fc.parameters(), net.fc.parameters(), strict=True))


def test_rounds_hold_the_bound_of_the_whole() -> None:
    net = network()
    with torch.no_grad():
        net.stage3[0].conv1.weight[1:] *= 1e-4
        net.stage3[0].bn1.weight[1:] = 1e-4
        net.stage3[0].conv2.weight[:, 1:] *= 1e-4
    new = prune_in_rounds(net, 0.3, 3, lambda some, _: some, side=32, round_to=4, most=0.5)
    assert new.stage3[0].conv1.out_channels == 16


# --- weights


@pytest.mark.parametrize("scope", ["global", "layer"])
def test_the_smallest_weights_become_zero(scope: str) -> None:
    net = network("speednet-s", 0.25)
    new = prune_weights(net, 0.6, scope=scope)
    weights = [(a.weight, b.weight) for (_, a), (_, b) in zip(room._weighted(net), room._weighted(new), strict=True)]
    parts = (
        weights
        if scope == "layer"
        else [tuple(torch.cat([w.flatten() for w in side]) for side in zip(*weights, strict=True))]
    )
    for before, after in parts:
        assert float((after == 0).float().mean()) == pytest.approx(0.6, abs=0.01)
        assert before[after == 0].abs().max() <= before[after != 0].abs().min()
        assert torch.equal(before[after != 0], after[after != 0])
    assert torch.equal(new.whiten.weight, net.whiten.weight)
    assert complexity(new).macs == complexity(net).macs  # nothing is faster
    assert (new.steps[-1]["zeros"], new.steps[-1]["weights"]) == (
        sum(int((after == 0).sum()) for _, after in weights),
        sum(after.numel() for _, after in weights),
    )


RECIPES = {
    "sgd": SGD,
    "averaged": Recipe(epochs=2, batch_size=50, lr=0.05, averaging=0.3),
    "adam": Recipe(epochs=2, batch_size=50, lr=1e-3, optimizer="adam"),
    "muon": Recipe(epochs=2, batch_size=50, lr=0.05, optimizer="muon", normalise_filters=True, weight_decay=0.0),
}


@pytest.mark.parametrize("recipe", RECIPES)
def test_zeros_survive_training_by_any_optimiser(recipe: str, data, tmp_path) -> None:
    net = prune_weights(build("resnet8", width=0.5, seed=0), 0.7)
    zeros = {name: layer.weight == 0 for name, layer in room._weighted(net)}
    before = net.stage1[0].conv1.weight.clone()
    with hold_zeros(net):
        fit(net, data.train, RECIPES[recipe], 0, normalisation=PLAIN)
    for name, layer in room._weighted(net):
        assert type(layer) in (nn.Conv2d, nn.Linear)
        assert bool((layer.weight[zeros[name]] == 0).all())
    assert not torch.equal(net.stage1[0].conv1.weight, before)
    again = load_weights(save_weights(net, tmp_path / "a.safetensors"))
    assert torch.equal(again.stage1[0].conv1.weight, net.stage1[0].conv1.weight)


def test_without_being_held_zeros_do_not_survive(data) -> None:
    """Planted: were this to fail, the test above would say nothing."""
    net = prune_weights(build("resnet8", width=0.5, seed=0), 0.7)
    zeros = net.stage1[0].conv1.weight == 0
    fit(net, data.train, SGD, 0, normalisation=PLAIN)
    assert bool((net.stage1[0].conv1.weight[zeros] != 0).any())


def test_a_held_network_is_not_saved_by_mistake(tmp_path) -> None:
    net = prune_weights(network(), 0.5)
    with hold_zeros(net), pytest.raises(ParameterError, match="hold_zeros"):
        save_weights(net, tmp_path / "a.safetensors")
    with pytest.raises(ParameterError, match="no weight"), hold_zeros(network()):
        pass


def test_weights_in_rounds(data) -> None:
    shares = []

    def between(some: nn.Module, number: int) -> nn.Module:
        fit(some, data.train, Recipe(epochs=0.5, batch_size=50, lr=0.05), number, normalisation=PLAIN)
        shares.append(
            float(np.mean(np.concatenate([(x.weight == 0).numpy().ravel() for _, x in room._weighted(some)])))
        )
        return some

    new = prune_in_rounds(network(), 0.6, 2, between, kind="weights")
    assert shares == pytest.approx([0.3, 0.6], abs=0.001)
    assert [step["share"] for step in new.steps] == [0.3, 0.6]


# --- sensitivity


@pytest.mark.parametrize("kind", ["channels", "weights"])
def test_sensitivity_finds_the_layer_that_matters(kind: str) -> None:
    net = network()
    with torch.no_grad():  # one branch is switched off: pruning it changes nothing
        net.stage3[0].conv2.weight.zero_()
    truth = net(noise())
    calls = []

    def score(some: nn.Module) -> float:
        return -float((some(noise()) - truth).detach().abs().mean())

    found = sensitivity(
        net, score, shares=(0.25, 0.75), side=32, kind=kind, progress=lambda done, of: calls.append((done, of))
    )
    by_name = {entry.layer: entry for entry in found}
    assert max(by_name["stage3.0.conv1"].drops) < 1e-6
    assert min(by_name["conv"].drops) > 1e-3
    assert all(entry.base == 0 and entry.shares == (0.25, 0.75) and len(entry.scores) == 2 for entry in found)
    assert calls == [(done, 2 * len(found)) for done in range(1, 2 * len(found) + 1)]
    layers = (
        [g.name for g in channel_groups(net, side=32)] if kind == "channels" else [n for n, _ in room._weighted(net)]
    )
    assert [entry.layer for entry in found] == layers
