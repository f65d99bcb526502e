"""Low rank: exact at full rank, the best of its rank, cheaper where it claims to be, ranks by energy and latency."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from scaletut.compress import cp, factorise, prune_channels, rank_for_latency, svd_conv, svd_linear, tucker
from scaletut.compress import lowrank as room
from scaletut.data import load
from scaletut.errors import ParameterError
from scaletut.models import build, complexity, load_weights, save_weights
from scaletut.models.resnet import Projection
from scaletut.train import fit
from scaletut.train.recipe import Recipe

FAMILIES = {"resnet8": 0.5, "plain8": 0.5, "speednet-s": 0.25, "tutorial": 0.5}
CONVOLUTIONS = {
    "plain": {"kernel_size": 3, "padding": 1},
    "strided": {"kernel_size": 3, "padding": 1, "stride": 2},
    "oblong": {"kernel_size": (3, 2), "padding": (0, 1), "stride": (1, 2), "bias": False},
    "pointwise": {"kernel_size": 1, "stride": 2},
}


def images(channels: int = 3, side: int = 32) -> torch.Tensor:
    return torch.randn(4, channels, side, side, generator=torch.Generator().manual_seed(0))


def conv(channels_in: int = 5, channels_out: int = 8, **geometry) -> nn.Conv2d:
    torch.manual_seed(1)
    return nn.Conv2d(channels_in, channels_out, **geometry)


def dense(chain: nn.Sequential, layer: nn.Conv2d) -> torch.Tensor:
    """The kernel that a chain stands for, by what it makes of single pixels (stride and bias taken away)."""
    side = 2 * max(layer.kernel_size) - 1
    pixels = torch.zeros(layer.in_channels, layer.in_channels, side, side)
    pixels[range(layer.in_channels), range(layer.in_channels), side // 2, side // 2] = 1
    for part in chain:
        if isinstance(part, nn.Conv2d):
            pixels = nn.functional.conv2d(pixels, part.weight, padding=0, groups=part.groups)
    return pixels.flip(2, 3).transpose(0, 1)


@pytest.mark.parametrize("kind", CONVOLUTIONS)
def test_exact_at_full_rank(kind: str) -> None:
    layer = conv(**CONVOLUTIONS[kind])
    full = min(8, layer.weight[0].numel())
    x, columns = images(5, 9), layer.weight[0].numel()
    torch.testing.assert_close(svd_conv(layer, full)(x), layer(x), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(tucker(layer, (5, full))(x), layer(x), rtol=1e-5, atol=1e-5)
    # CP by alternating least squares: exact in theory at this rank; terms that cancel cost digits.
    torch.testing.assert_close(cp(layer, columns)(x), layer(x), rtol=0, atol=2e-3)
    if len(set(layer.kernel_size)) == 1:
        lost = (dense(cp(layer, columns), layer) - layer.weight).detach().norm()
        assert float(lost / layer.weight.detach().norm()) < 1e-3


def test_a_linear_layer_exact_at_full_rank_and_best_below() -> None:
    torch.manual_seed(1)
    layer = nn.Linear(12, 7)
    x = torch.randn(5, 12)
    torch.testing.assert_close(svd_linear(layer, 7)(x), layer(x), rtol=1e-5, atol=1e-5)
    chain = svd_linear(layer, 3)
    lost = torch.linalg.matrix_norm(chain[1].weight @ chain[0].weight - layer.weight)
    best = torch.linalg.svdvals(layer.weight)[3:].norm()  # Eckart and Young
    assert float(lost.detach()) == pytest.approx(float(best.detach()), rel=1e-4)
    assert chain[0].bias is None
    assert torch.equal(chain[1].bias, layer.bias)


def test_below_full_rank_each_is_as_good_as_it_claims() -> None:
    layer = conv(8, 12, kernel_size=3, padding=1)
    weight = layer.weight.detach()
    chain = svd_conv(layer, 4)
    lost = (dense(chain, layer) - weight).norm()
    assert float(lost.detach()) == pytest.approx(float(torch.linalg.svdvals(weight.flatten(1))[4:].norm()), rel=1e-4)
    errors = [float((dense(tucker(layer, (r, r)), layer) - weight).norm().detach()) for r in (2, 4, 6, 8)]
    assert errors == sorted(errors, reverse=True)
    modes = [torch.linalg.svdvals(m.flatten(1))[4:].norm() ** 2 for m in (weight, weight.transpose(0, 1))]
    assert errors[1] ** 2 <= float(sum(modes)) * 1.001  # no worse than cutting each mode by itself
    errors = [float((dense(cp(layer, r), layer) - weight).norm().detach()) for r in (4, 16, 48)]
    assert errors == sorted(errors, reverse=True)


def test_a_kernel_of_low_rank_is_found_again() -> None:
    rng = np.random.default_rng(0)
    factors = [rng.normal(size=(size, 2)) for size in (8, 6, 3, 3)]
    layer = conv(6, 8, kernel_size=3)
    layer.weight.data = torch.from_numpy(np.einsum("or,ir,yr,xr->oiyx", *factors)).float()
    with torch.no_grad():
        for chain in (svd_conv(layer, 2), tucker(layer, (2, 2)), cp(layer, 2)):
            assert float((dense(chain, layer) - layer.weight).norm() / layer.weight.norm()) < 0.02
        # Planted: the same demand of a kernel of full rank must fail.
        layer.weight.normal_()
        for chain in (svd_conv(layer, 2), tucker(layer, (2, 2)), cp(layer, 2)):
            assert float((dense(chain, layer) - layer.weight).norm() / layer.weight.norm()) > 0.3


def test_kernels_that_make_the_equations_singular() -> None:
    """Without a ridge, each of these ranks of an identity ended in a singular matrix."""
    layer = conv(8, 8, kernel_size=3, bias=False)
    with torch.no_grad():
        nn.init.dirac_(layer.weight)
        for rank in (10, 20, 24):
            assert float((dense(cp(layer, rank), layer) - layer.weight).norm()) < 1e-3
        nn.init.zeros_(layer.weight)
        assert not dense(cp(layer, 4), layer).any()


def test_the_same_seed_gives_the_same_chain() -> None:
    layer = conv(kernel_size=3)
    one, two, other = (cp(layer, 6, seed=seed) for seed in (3, 3, 4))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    assert not torch.equal(one[0].weight, other[0].weight)


@pytest.mark.parametrize("method", ["tucker", "svd", "cp"])
@pytest.mark.parametrize("name", FAMILIES)
def test_a_network_is_cheaper_and_near(name: str, method: str, tmp_path) -> None:
    net = build(name, width=FAMILIES[name], seed=1)
    with torch.no_grad():  # a speed net's filters start as the identity, which no training leaves them
        for _, layer in room._candidates(net, None):
            layer.weight.add_(0.1 * torch.randn(layer.weight.shape, generator=torch.Generator().manual_seed(2)))
    net(images())
    net.eval()
    energy = 0.5 if method == "cp" else 0.7
    some = [n for n, _ in room._candidates(net, None)][1:2] if method == "cp" else None
    new = factorise(net, method=method, energy=energy, layers=some, round_to=2)
    step = new.steps[-1]
    assert (step["method"], step["energy"]) == (method, energy)
    assert complexity(new).macs < complexity(net).macs
    rows = {row.name: row for row in complexity(net).layers}
    chained = complexity(new).layers
    for layer, told in step["layers"].items():
        old = rows[layer]
        at = old.uses
        after = sum(row.macs for row in chained if row.name.startswith(f"{layer}."))
        assert told["macs"][0] * at == old.macs
        assert told["macs"][1] * at == pytest.approx(after, rel=0.15)  # borders of padding apart
        weight = net.get_submodule(layer).weight.detach()
        kept = 1 - float((dense_any(new, layer) - weight).norm() / weight.norm()) ** 2
        assert kept >= (energy if method != "tucker" else 2 * energy - 1) - 1e-4
    again = load_weights(save_weights(new, tmp_path / "a.safetensors"))
    assert torch.equal(again(images()), new(images()))
    assert not hasattr(net, "steps")


def dense_any(net: nn.Module, layer: str) -> torch.Tensor:
    chain = net.get_submodule(layer)
    if isinstance(chain[0], nn.Linear):
        return (chain[1].weight @ chain[0].weight).detach()
    kernels = [part for part in chain if isinstance(part, nn.Conv2d)]
    size = max(max(part.kernel_size) for part in kernels)
    like = nn.Conv2d(kernels[0].in_channels, kernels[-1].out_channels, size)
    return dense(chain, like).detach()


def test_more_energy_costs_more_and_is_nearer() -> None:
    net = build("resnet8", width=0.5, seed=1).eval()
    networks = [factorise(net, energy=energy, round_to=1) for energy in (0.3, 0.5, 0.7)]
    costs = [complexity(some).macs for some in networks]
    errors = [float((some(images()) - net(images())).detach().norm()) for some in networks]
    assert costs == sorted(costs)
    assert errors == sorted(errors, reverse=True)


def test_what_saves_nothing_stays_as_it_is() -> None:
    net = build("resnet8", width=0.5, seed=1)
    with pytest.raises(ParameterError, match="no layer is cheaper"):
        factorise(net, energy=1.0)
    new = factorise(net, energy=0.7, layers=["stage3.0.conv2"])
    assert list(new.steps[-1]["layers"]) == ["stage3.0.conv2"]
    assert isinstance(new.stage3[0].conv1, nn.Conv2d)


def test_frozen_grouped_and_last_layers_stay() -> None:
    names = [name for name, _ in room._candidates(build("speednet-s", width=0.25), None)]
    assert "groups.0.conv1" in names
    assert not {"whiten", "head"} & set(names)
    layer = nn.Conv2d(8, 8, 3, groups=8)
    for call in (lambda: svd_conv(layer, 2), lambda: tucker(layer, (1, 1)), lambda: cp(layer, 2)):
        with pytest.raises(ParameterError, match="8 groups"):
            call()


def test_layers_with_padding_and_picking_of_their_own() -> None:
    torch.manual_seed(0)
    layer, x = Projection(6, 12, 2), images(6, 9)
    chain = svd_conv(layer, 6)
    torch.testing.assert_close(chain(x), layer(x), rtol=1e-5, atol=1e-5)
    assert isinstance(chain[0], Projection)
    with pytest.raises(ParameterError, match="svd_conv"):
        tucker(layer, (2, 2))
    utils = pytest.importorskip("efficientnet_lite_pytorch.utils")
    layer = utils.Conv2dStaticSamePadding(4, 6, kernel_size=3, stride=2, image_size=10)
    x = images(4, 10)
    for chain in (svd_conv(layer, 6), tucker(layer, (4, 6))):
        torch.testing.assert_close(chain(x), layer(x), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(cp(layer, 36)(x), layer(x), rtol=0, atol=2e-3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda net: svd_linear(net.fc, 0), "rank 0 is out of range: give 1 to 10"),
        (lambda net: svd_conv(net.conv, 9), "rank 9"),
        (lambda net: tucker(net.conv, (4, 1)), "rank 4"),
        (lambda net: cp(net.conv, 28), "rank 28"),
        (lambda net: factorise(net, method="nmf"), "no method 'nmf'"),
        (lambda net: factorise(net, energy=0.0), "energy is 0.0"),
        (lambda net: factorise(net, layers=["convo"]), "nearest is"),
        (lambda net: rank_for_latency(net, 0.0, lambda _: 1.0), "target is 0.0"),
        (lambda net: rank_for_latency(net, 1.0, lambda _: 2.0, energies=(0.3, 0.5)), "takes 2 s"),
    ],
)
def test_bad_arguments_are_refused_in_one_line(call, message: str) -> None:
    with pytest.raises(ParameterError, match=message) as refused:
        call(build("resnet8", width=0.5))
    assert "\n" not in str(refused.value)


def test_the_largest_energy_within_the_latency_is_found() -> None:
    net = build("resnet8", width=0.5, seed=1)
    energies = [0.3, 0.4, 0.5, 0.6, 0.7, 0.8]
    costs = {energy: complexity(factorise(net, energy=energy, round_to=1)).macs for energy in energies}
    seen = []
    found = rank_for_latency(
        net,
        costs[0.5] * 1.001,
        lambda some: float(complexity(some).macs),
        energies=energies,
        round_to=1,
        progress=seen.append,
    )
    assert found.energy == 0.5
    assert found.seconds == complexity(found.net).macs == costs[0.5]
    assert list(found.trials) == seen
    assert len(seen) <= 3
    whole = rank_for_latency(net, 1e12, lambda some: float(complexity(some).macs), energies=(0.5, 1.0))
    assert (whole.energy, complexity(whole.net).macs) == (1.0, complexity(net).macs)


def test_a_chain_trains_and_is_pruned_with_the_rest(tmp_path) -> None:
    data = load("zipf10", n_train=200, n_test=100, seed=0)
    net = factorise(build("resnet8", width=0.5, seed=1), energy=0.6, round_to=4)
    result = fit(net, data.train, Recipe(epochs=2, batch_size=50, lr=0.05, optimizer="muon"), 0)
    assert result.status == "finished"
    assert result.history[-1].loss < result.history[0].loss
    new = prune_channels(result.model, 0.3, side=32, round_to=4)
    assert [step["step"] for step in new.steps] == ["factorise", "prune_channels"]
    assert complexity(new).macs < complexity(net).macs
    again = load_weights(save_weights(new, tmp_path / "a.safetensors"))
    assert again.steps == new.steps
    assert torch.equal(again(images()), new.to(memory_format=torch.contiguous_format)(images()))
