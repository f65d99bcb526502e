"""Latency: planted times are found, in whatever order and beside whatever neighbour."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import pytest
import torch
from compress_cases import exported, images, settled

from scaletut.compress import eager, latencies, runner
from scaletut.errors import ParameterError


def waiting(seconds: float) -> Callable[[], None]:
    return lambda: time.sleep(seconds)


def test_planted_times_and_their_ratio_are_found() -> None:
    slow, fast = latencies({"slow": waiting(0.02), "fast": waiting(0.005)}, images_a_call=1, seconds=0.4)
    assert slow.seconds.value >= 0.02
    assert slow.ratio.value == 1
    assert fast.ratio.low <= fast.ratio.value <= fast.ratio.high
    assert 1.5 < fast.ratio.value < 4.5  # sleeping takes a little longer than it was asked to
    assert fast.seconds.n >= 3
    assert fast.p10 <= fast.seconds.value <= fast.p99
    assert fast.calls >= 3 * 3
    assert slow.cpu_seconds < 0.5 * 1000 * slow.seconds.value  # it waits, it does not work


def test_work_is_counted_in_cpu_seconds_for_1000_images() -> None:
    def work() -> None:
        end = time.process_time() + 0.004
        while time.process_time() < end:
            pass

    (found,) = latencies({"work": work}, images_a_call=4, seconds=0.2)
    assert 0.9 <= found.cpu_seconds <= 1.5


def test_calls_run_the_network_and_leave_it_alone() -> None:
    net = settled("resnet8", width=0.25).train()
    some = images(3)
    expected = net.eval()(torch.tensor(some).permute(0, 3, 1, 2).float() / 255)
    net.train()
    for last in (False, True):
        torch.testing.assert_close(eager(net, some, channels_last=last)(), expected, rtol=1e-4, atol=1e-4)
    assert net.training
    program = exported()
    some = images(5)
    assert np.array_equal(runner(program, some)(), program.logits(some))


def test_threads_are_as_before_afterwards_also_after_an_error() -> None:
    before = torch.get_num_threads()
    seen = []
    latencies({"a": lambda: seen.append(torch.get_num_threads())}, images_a_call=1, threads=2, seconds=0.05)
    assert set(seen) == {2}

    def fails() -> None:
        raise RuntimeError("planted")

    with pytest.raises(RuntimeError, match="planted"):
        latencies({"a": fails}, images_a_call=1, threads=2)
    assert torch.get_num_threads() == before


def test_nothing_to_time_is_refused() -> None:
    for calls, how in (
        ({}, {}),
        ({"a": int}, {"seconds": 0}),
        ({"a": int}, {"rounds": 2}),
        ({"a": int}, {"threads": 0}),
    ):
        with pytest.raises(ParameterError, match="above 0"):
            latencies(calls, images_a_call=1, **how)
