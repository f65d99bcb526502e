"""Measuring in turns: planted speeds are found, failures are rows, nothing is left running."""

from __future__ import annotations

import math
import os
import signal

import numpy as np
import pytest

from scaletut.errors import ParameterError
from scaletut.resources.quality import accuracies, difference
from scaletut.resources.setting import Setting
from scaletut.resources.throughput import measure, summary, turn_order
from scaletut.resources.trial import Task, Trial, TrialFailed
from scaletut.train import Recipe

RECIPE = Recipe(epochs=1, batch_size=32, lr=0.01)
MEMORY = Setting(batch_size=32, data="memory", threads=1)
CHANNELS_LAST = Setting(batch_size=32, data="memory", threads=1, channels_last=True)


def task(network: str, images: int = 256) -> Task:
    return Task(f"resources_nets:{network}", RECIPE, images=images)


def test_a_planted_wait_is_found_in_ratio_and_interval() -> None:
    ledger = measure(task("slow_unless_channels_last"), {"nchw": MEMORY, "nhwc": CHANNELS_LAST}, seconds=60, rounds=4)
    base, faster = ledger["nchw"], ledger["nhwc"]
    assert (base.ratio.value, base.ratio.low, base.ratio.high) == (1, 1, 1)
    assert faster.ratio.low > 2
    assert faster.faster
    assert not base.faster
    assert 20 < base.images_per_second.value < 32 / 0.1
    assert ledger.ranked()[0].name == "nhwc"
    assert ledger.rounds >= 3
    assert faster.ratio.n == ledger.rounds
    assert ledger.flops_per_second("nhwc") == pytest.approx(
        faster.images_per_second.value * ledger.flops_per_image, rel=1e-9
    )


def test_a_setting_that_cannot_run_is_a_row_that_says_why() -> None:
    ledger = measure(task("refuses_channels_last"), {"nchw": MEMORY, "nhwc": CHANNELS_LAST}, seconds=60, rounds=3)
    assert "planted" in ledger["nhwc"].failure
    assert ledger["nhwc"].ratio is None
    assert ledger["nchw"].ratio is not None


def test_a_reference_that_cannot_run_is_an_error() -> None:
    with pytest.raises(TrialFailed, match="planted"):
        measure(task("refuses_channels_last"), {"nhwc": CHANNELS_LAST, "nchw": MEMORY}, seconds=5)


def test_no_time_left_is_said() -> None:
    ledger = measure(task("slow"), {"one": MEMORY, "two": CHANNELS_LAST}, seconds=0.1)
    assert "not tried" in ledger["two"].failure
    assert ledger["one"].ratio.n == 3


def test_groups_share_the_reference() -> None:
    settings = {"base": MEMORY, "nhwc": CHANNELS_LAST, "half": Setting(batch_size=16, data="memory", threads=1)}
    ledger = measure(task("plain"), settings, seconds=60, rounds=3, at_once=2)
    assert [row.name for row in ledger.rows] == list(settings)
    assert all(row.ratio is not None for row in ledger.rows)


@pytest.mark.parametrize("options", [{"seconds": 0}, {"at_once": 1}])
def test_nonsense_is_refused(options: dict) -> None:
    with pytest.raises(ParameterError):
        measure(task("plain"), {"base": MEMORY}, **options)


def test_a_killed_process_is_an_error_and_a_closed_one_is_gone() -> None:
    trial = Trial(task("plain"), MEMORY)
    assert trial.ready().batch_size == 32
    assert trial.time(2) > 0
    assert trial.peak_bytes() > 0
    process = trial._process
    os.kill(process.pid, signal.SIGKILL)
    with pytest.raises(TrialFailed, match="-9"):
        trial.time(1)
    trial.close()
    assert not process.is_alive()
    other = Trial(task("plain"), MEMORY)
    other.ready()
    other.close()
    assert other._process.exitcode == 0


def test_a_loader_and_its_workers_give_batches() -> None:
    trial = Trial(task("plain"), Setting(batch_size=32, workers=1, threads=1))
    assert trial.ready().step_seconds > 0
    trial.close()


def test_an_unknown_network_of_ones_own_is_one_line() -> None:
    with pytest.raises(ParameterError, match="module:function"):
        task("nothing_here").build(Task("resnet8", RECIPE, images=40).train_set())


def test_layout_changes_accuracy_by_nothing_that_matters() -> None:
    found = accuracies(
        task("plain", 512), {"a": MEMORY, "b": CHANNELS_LAST, "again": MEMORY}, seeds=(0, 1), hold_out=256
    )
    assert found["a"] == found["again"]
    assert np.allclose(found["a"], found["b"], atol=1.0)
    assert 10 < np.mean(found["a"]) < 100
    assert difference(found["a"], found["b"]).n == 2


def test_the_summary_is_median_and_student() -> None:
    value = summary([1.0, 2.0, 4.0])
    assert value.value == 2
    half = 4.303 * math.log(2) / math.sqrt(3)
    assert value.low == pytest.approx(2 * math.exp(-half), rel=1e-3)
    assert value.high == pytest.approx(2 * math.exp(half), rel=1e-3)
    assert summary([3.0]).low is None


def test_turns_go_round_and_back() -> None:
    names = ["a", "b", "c"]
    orders = [turn_order(names, turn) for turn in range(6)]
    assert all(sorted(order) == names for order in orders)
    assert {order[0] for order in orders} == set(names)
    assert len({(one[i], one[i + 1]) for one in orders for i in range(2)}) > 3
