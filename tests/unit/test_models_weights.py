"""Weights in files: they come back the same, and damaged files are refused by name."""

from __future__ import annotations

from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import nn

from scaletut.errors import DataError, ParameterError
from scaletut.models import adapt, build, load_weights, merge, read_manifest, save_weights

NETS = {"resnet8": 0.5, "plain8": 0.25, "speednet-s": 0.25, "tutorial": 0.25}


def images() -> torch.Tensor:
    return torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", NETS)
def test_round_trip(name: str, tmp_path: Path) -> None:
    net = build(name, num_classes=7, width=NETS[name], seed=4).to(memory_format=torch.channels_last)
    net(images())  # moves the statistics
    path = save_weights(net, tmp_path / "net.safetensors", {"accuracy": 91.5, "recipe": {"epochs": 8}})
    assert [p.name for p in tmp_path.iterdir()] == ["net.safetensors"]
    again = load_weights(path)
    assert again.spec == net.spec
    assert not again.training
    assert torch.equal(again(images()), net.eval().to(memory_format=torch.contiguous_format)(images()))
    state = again.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in net.state_dict().items())
    manifest = read_manifest(path)
    assert manifest["net"] == {"name": name, "num_classes": 7, "width": NETS[name]}
    assert (manifest["accuracy"], manifest["recipe"]) == (91.5, {"epochs": 8})


def test_an_adapted_net_keeps_its_new_classes(tmp_path: Path) -> None:
    net = adapt(build("resnet8", width=0.5), "head", 3, seed=2)
    again = load_weights(save_weights(net, tmp_path / "a.safetensors"))
    assert torch.equal(again(images()), net.eval()(images()))


def test_lora_must_be_merged_first(tmp_path: Path) -> None:
    net = adapt(build("resnet8", width=0.5), "lora", 3, seed=2)
    with pytest.raises(ParameterError, match="merge"):
        save_weights(net, tmp_path / "a.safetensors")
    assert not list(tmp_path.iterdir())
    again = load_weights(save_weights(merge(net), tmp_path / "a.safetensors"))
    torch.testing.assert_close(again(images()), net.eval()(images()))


def test_the_same_weights_give_the_same_bytes(tmp_path: Path) -> None:
    one, two = (save_weights(build("resnet8", seed=1), tmp_path / name) for name in ("one", "two"))
    assert one.read_bytes() == two.read_bytes()


def test_a_network_that_build_does_not_know_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match="from build"):
        save_weights(nn.Linear(2, 2), tmp_path / "a.safetensors")


@pytest.mark.parametrize("manifest", [{"net": {}}, {"sha256": "0"}, {"loss": float("nan")}, {"model": object()}])
def test_a_manifest_that_cannot_be_kept_is_refused(manifest: dict, tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match="manifest"):
        save_weights(build("resnet8"), tmp_path / "a.safetensors", manifest)
    assert not list(tmp_path.iterdir())


def test_damaged_files_are_refused_by_name(tmp_path: Path) -> None:
    whole = save_weights(build("resnet8"), tmp_path / "whole.safetensors").read_bytes()
    damage = {
        "cut": whole[: len(whole) // 2],
        "header": whole[:5],
        "empty": b"",
        "text": b"not weights at all",
        "altered": whole[:-9] + bytes([whole[-9] ^ 1]) + whole[-8:],
    }
    for name, content in damage.items():
        path = tmp_path / f"{name}.safetensors"
        path.write_bytes(content)
        with pytest.raises(DataError, match=f"{name}.safetensors") as refused:
            load_weights(path)
        assert "\n" not in str(refused.value)


def test_absent_files_and_foreign_weights_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no weights file nowhere"):
        load_weights(tmp_path / "nowhere.safetensors")
    foreign = tmp_path / "foreign.safetensors"
    safetensors.torch.save_file({"w": torch.zeros(2)}, foreign)
    with pytest.raises(DataError, match="no manifest"):
        load_weights(foreign)
