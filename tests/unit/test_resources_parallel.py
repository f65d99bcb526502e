"""The cost model of many workers: closed forms, inverses, a link found again; what ranks measure and return."""

from __future__ import annotations

import math
from itertools import product

import pytest

from scaletut.errors import ParameterError
from scaletut.resources.memory import MemoryForecast
from scaletut.resources.parallel import (
    Cluster,
    Link,
    exchange_seconds,
    fit_link,
    in_turns,
    least_compute,
    measure_link,
    rank_memory,
    step_time,
)
from scaletut.train.distributed import ALONE, LaunchFailed, on_ranks

LINK = Link(bandwidth=1e9, latency=1e-4)


def test_exchange_of_a_ring_in_closed_form() -> None:
    assert exchange_seconds(1, 1e9, LINK) == 0
    assert exchange_seconds(2, 1e9, LINK) == pytest.approx(2 * (1e-4 + 0.5))
    assert exchange_seconds(8, 1e9, LINK) == pytest.approx(2 * (7e-4 + 7 / 8))
    assert exchange_seconds(8, 1e9, LINK, "fsdp") == pytest.approx(1.5 * exchange_seconds(8, 1e9, LINK))
    assert exchange_seconds(1024, 1e6, LINK, algorithm="tree") == pytest.approx(2 * (10e-4 + 1023 / 1024 * 1e-3))


def test_bytes_saturate_and_latency_does_not() -> None:
    """With more workers a ring's bytes approach twice the size; its messages grow without end, a tree's slowly."""
    free, slow = Link(1e9), Link(1e18, 1e-5)
    assert exchange_seconds(1024, 1e9, free) < 2
    assert exchange_seconds(1024, 1e9, slow) == pytest.approx(2 * 1023e-5)
    assert exchange_seconds(1024, 1e9, slow, algorithm="tree") == pytest.approx(2 * 10e-5, rel=1e-4)


def test_overlap_hides_what_it_can_and_no_more() -> None:
    assert step_time(2, 3.0, 1e9, Link(1e9), overlap=0.0).seconds == 4.0
    assert step_time(2, 3.0, 1e9, Link(1e9), overlap=0.2).seconds == pytest.approx(3.4)
    hidden = step_time(2, 3.0, 1e9, Link(1e9), overlap=0.5)
    assert (hidden.seconds, hidden.communication, hidden.efficiency) == (3.0, 1.0, 1.0)


@pytest.mark.parametrize(
    ("workers", "overlap", "mode", "algorithm"), [*product([2, 64], [0.0, 0.4], ["ddp", "fsdp"], ["ring", "tree"])]
)
def test_least_compute_keeps_just_the_efficiency(workers: int, overlap: float, mode: str, algorithm: str) -> None:
    options = {"overlap": overlap, "mode": mode, "algorithm": algorithm}
    seconds = least_compute(workers, 3e8, LINK, efficiency=0.9, **options)
    assert step_time(workers, seconds, 3e8, LINK, **options).efficiency == pytest.approx(0.9)
    assert step_time(workers, 0.9 * seconds, 3e8, LINK, **options).efficiency < 0.9


def test_tokens_a_worker_do_not_depend_on_the_size_of_a_language_model() -> None:
    """Without latency: bytes grow with N, and so do the FLOPs of a token."""
    cluster = Cluster(peak=312e12, mfu=0.4, link=Link(25e9), bytes_per_parameter=2, overlap=0.5)
    small, large = (cluster.least_batch(64, n, 6 * n) for n in (1e9, 70e9))
    assert small == pytest.approx(large)
    by_hand = 2 * 63 / 64 * 2 / 25e9 / (1 / 0.9 - 0.5) * 312e12 * 0.4 / 6
    by_hand *= (1 / 0.9 - 0.5) / (1 / 0.9 - 1 + 0.5)
    assert small == pytest.approx(by_hand)
    assert cluster.step(64, 1e9, 6e9 * small).efficiency == pytest.approx(0.9)


def test_a_link_is_found_again() -> None:
    sizes = [2**k for k in range(12, 26, 2)]
    for workers in (2, 5):
        found = fit_link(sizes, [exchange_seconds(workers, size, LINK) for size in sizes], workers)
        assert found.bandwidth == pytest.approx(LINK.bandwidth)
        assert found.latency == pytest.approx(LINK.latency)


def test_a_link_is_not_made_up() -> None:
    for sizes, seconds, workers in (([1e6], [1.0], 2), ([1e3, 1e6], [1.0, 2.0], 1)):
        with pytest.raises(ParameterError, match="two sizes or more"):
            fit_link(sizes, seconds, workers)
    with pytest.raises(ParameterError, match="not slower"):
        fit_link([1e3, 1e6], [2.0, 1.0], 2)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: Link(0.0), "above 0"),
        (lambda: Link(1e9, math.nan), "not below"),
        (lambda: exchange_seconds(0, 1.0, LINK), "0 workers"),
        (lambda: exchange_seconds(2, 1.0, LINK, "dpp"), "ddp or fsdp"),
        (lambda: step_time(2, 0.0, 1.0, LINK), "more than 0"),
        (lambda: step_time(2, 1.0, 1.0, LINK, overlap=1.5), "0 to 1"),
        (lambda: least_compute(2, 1.0, LINK, efficiency=1.0), "below 1"),
        (lambda: measure_link(ALONE), "no link"),
        (lambda: in_turns(ALONE, {}, 0), "1 or more"),
    ],
)
def test_nonsense_is_refused(call, says: str) -> None:
    with pytest.raises(ParameterError, match=says):
        call()


def test_shards_save_state_and_pay_for_what_is_gathered() -> None:
    forecast = MemoryForecast(
        parameters=100, buffers=1, gradients=40, optimizer=200, activations=500, temporaries=9, inputs=3, peak=853
    )
    assert rank_memory(forecast, 4, "ddp") == 853 - 40 + 100  # all gradients at a time
    assert rank_memory(forecast, 4, "fsdp") == 513 + 400 / 4
    assert rank_memory(forecast, 4, "fsdp", largest_block=10) == 513 + 100 + 70


def test_forms_take_turns_and_the_warm_up_is_not_counted() -> None:
    order: list[str] = []
    taken = in_turns(ALONE, {name: lambda name=name: order.append(name) for name in "ab"}, repeats=2)
    assert order == list("ababab")
    assert {name: len(seconds) for name, seconds in taken.items()} == {"a": 2, "b": 2}


# --- in processes ------------------------------------------------------------------


def measured(ranks, sizes):
    from scaletut.resources.parallel import measure_link

    link, seconds = measure_link(ranks, sizes, repeats=3)
    return [ranks.rank, link.bandwidth, sorted(map(int, seconds)), min(seconds.values())]


def test_two_ranks_measure_the_same_link() -> None:
    (first, *ours), (second, *theirs) = on_ranks(measured, 2, sizes=[1 << 12, 1 << 22])
    assert (first, second) == (0, 1)
    assert ours == theirs  # the slowest rank's times, known to both
    assert ours[0] > 0
    assert ours[1] == [1 << 12, 1 << 22]


def test_a_failure_is_told_in_one_line() -> None:
    def broken(ranks):
        raise ValueError("rank by rank")

    with pytest.raises(LaunchFailed, match=r"broken failed in 1 processes: ValueError: rank by rank$"):
        on_ranks(broken, 1)
    with pytest.raises(ParameterError, match="define it with def"):
        on_ranks(len)
