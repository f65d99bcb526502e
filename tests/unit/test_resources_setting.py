"""Settings: what they change, what they refuse, and an allocator that keeps its memory."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from scaletut.errors import ParameterError
from scaletut.resources.allocator import can_keep
from scaletut.resources.setting import Setting, knobs
from scaletut.train import Recipe

CPU = torch.device("cpu")


def test_as_it_stands_it_is_pytorchs_defaults() -> None:
    how = Setting().execution("cpu")
    assert how.autocast is None
    assert not how.channels_last
    assert how.name == "cpu fp32"
    assert Setting().data == "loader"
    assert Setting().threads == Setting().workers == 0


@pytest.mark.parametrize("device", [CPU, torch.device("cuda")])
def test_each_knob_changes_one_thing(device: torch.device) -> None:
    base = Setting(batch_size=64)
    offered = knobs(base, device)
    assert {"images in memory", "channels-last", "bf16 autocast", "compiled", "half the batch"} <= set(offered)
    for name, setting in offered.items():
        changes = set(setting.changes(base))
        assert len(changes) == 1, name
        assert setting.changes(base) != {}, name


def test_what_the_device_lacks_is_not_offered() -> None:
    assert "fp16 autocast" not in knobs(Setting(), CPU)
    gpu = knobs(Setting(), torch.device("cuda"))
    assert "fp16 autocast" in gpu
    assert "freed memory kept" not in gpu
    assert "channels-last" not in knobs(Setting(channels_last=True), CPU)


@pytest.mark.parametrize(
    ("optimizer", "lr", "head", "vector"),
    [("sgd", 0.4, 4.0, 0.04), ("adamw", 0.2, 2.0, 0.02), ("muon", 0.2, 4.0, 0.04)],
)
def test_rates_follow_the_batch(optimizer: str, lr: float, head: float, vector: float) -> None:
    recipe = Recipe(batch_size=64, optimizer=optimizer, lr=0.1, head_lr=1.0, vector_lr=0.01)
    larger = Setting(batch_size=256).recipe(recipe)
    assert larger.batch_size == 256
    assert (larger.lr, larger.head_lr, larger.vector_lr) == pytest.approx((lr, head, vector))
    assert Setting(batch_size=64).recipe(recipe) == recipe


def test_a_rate_that_all_share_stays_shared_where_all_move_alike() -> None:
    assert Setting(batch_size=256).recipe(Recipe(batch_size=64, lr=0.1)).head_lr is None
    muon = Setting(batch_size=256).recipe(Recipe(batch_size=64, lr=0.1, optimizer="muon"))
    assert (muon.lr, muon.head_lr) == pytest.approx((0.2, 0.4))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"batch_size": 0}, "1 image or more"),
        ({"workers": -1}, "0 or more"),
        ({"data": "memory", "workers": 2}, "no loader workers"),
        ({"micro_batch": -1}, "micro_batch"),
    ],
)
def test_nonsense_is_refused(options: dict, words: str) -> None:
    with pytest.raises(ParameterError, match=words):
        Setting(**options).execution("cpu")


FAULTS = """
import resource, sys, torch
from scaletut.resources.setting import Setting
torch.set_num_threads(1)
Setting(keep_memory=sys.argv[1] == "keep").apply("cpu")
def once():
    torch.ones(12_000_000)
for _ in range(3):
    once()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    once()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(not can_keep(), reason="the C library is not glibc: there is no such allocator to set")
def test_kept_memory_is_not_mapped_anew() -> None:
    def page_faults(how: str) -> int:
        run = subprocess.run([sys.executable, "-c", FAULTS, how], capture_output=True, text=True, check=True)
        return int(run.stdout)

    assert page_faults("drop") > 1000
    assert page_faults("keep") < 100
