"""Presets: each one trains, ablations change what they say and nothing else, records say how to repeat them."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from scaletut.data import load
from scaletut.errors import ParameterError
from scaletut.records import read_record, write_record
from scaletut.train import Recipe, fit
from scaletut.train.optim import FilterMuon
from scaletut.train.presets import ABLATIONS, FAST, PRESETS, make_network, preset
from scaletut.train.recorded import recorded_run

DATA = "zipf10:patterns=50"


@pytest.fixture(scope="module")
def train():
    return load(DATA, n_train=256, n_test=100).train


def test_every_ablation_differs_from_the_full_recipe_in_one_thing() -> None:
    for name, ablation in ABLATIONS.items():
        changed = {key for key, value in ablation.to_dict().items() if value != FAST.to_dict()[key]}
        rates = {"lr", "head_lr", "vector_lr", "momentum", "weight_decay", "warmup", "normalise_filters"}
        allowed = {"optimizer"} | rates if name == "no_muon" else changed
        assert changed, name
        assert changed <= allowed, name
        assert name == "no_muon" or len(changed) == 1, (name, changed)


@pytest.mark.parametrize("name", [*PRESETS, "no_whitening", "no_identity", "no_muon"])
def test_a_preset_trains(name: str, train) -> None:
    chosen = preset(name)
    short = replace(chosen, recipe=replace(chosen.recipe, epochs=2, batch_size=64))
    if short.network == "speednet-m":
        short = replace(short, network="speednet-s")  # the same code at a tenth of the time
    result = fit(make_network(short, train, 0), train, short.recipe, 0)
    assert result.status == "finished"
    assert result.history[-1].loss < result.history[0].loss


def test_initialisations_are_what_the_ablations_say(train) -> None:
    full, random_filters, learned = (make_network(preset(n), train, 0) for n in ("fast", "no_identity", "no_whitening"))
    first = full.groups[0].conv1
    identity = torch.zeros_like(first.weight[: first.in_channels])
    torch.nn.init.dirac_(identity)
    assert torch.equal(first.weight[: first.in_channels], identity)
    assert not torch.equal(random_filters.groups[0].conv1.weight[: first.in_channels], identity)
    assert learned.whiten.weight.requires_grad
    assert not full.whiten.weight.requires_grad


def test_a_recorded_run_can_be_read_back_and_repeated(tmp_path: Path) -> None:
    options = {"experiment": "finetune.trial", "profile": "quick", "epochs": 0.25, "hold_out": 500}
    _, record = recorded_run("fast", DATA, 1, **options)
    again = read_record(write_record(record, tmp_path))
    assert again == record
    assert "--hold-out 500" in record.command
    assert "--epochs 0.25" in record.command
    assert 0 <= record.values["accuracy"].value <= 100
    _, twin = recorded_run("fast", DATA, 1, **options)
    assert twin.values["accuracy"] == record.values["accuracy"]
    assert twin.series["loss"] == record.series["loss"]


def test_an_unknown_preset_names_the_nearest() -> None:
    with pytest.raises(ParameterError, match="did you mean 'strong'"):
        preset("srong")


def test_muon_in_full_precision_is_torchs_but_for_its_rounding() -> None:
    """torch computes the same update in bfloat16, which keeps eight bits."""
    filters = [
        torch.nn.Parameter(torch.randn(*shape, generator=torch.Generator().manual_seed(0)))
        for shape in ((16, 8, 3, 3), (96, 4, 3, 3))
    ]
    twins = [torch.nn.Parameter(one.detach().clone()) for one in filters]
    recipe = Recipe(optimizer="muon", lr=0.1, weight_decay=0.01)
    torchs, ours = FilterMuon(filters, recipe), FilterMuon(twins, recipe, full=True)
    for step in range(3):
        for one, twin in zip(filters, twins, strict=True):
            one.grad = torch.randn(one.shape, generator=torch.Generator().manual_seed(step))
            twin.grad = one.grad.clone()
        torchs.step()
        ours.step()
    for one, twin in zip(filters, twins, strict=True):
        assert torch.allclose(one, twin, atol=0.01)
        assert not torch.equal(one, twin)
    assert ours.state_dict()["state"].keys() == torchs.state_dict()["state"].keys()
