"""A pipeline gives the gradients of the uncut network, in the order of its schedule, with the bubble of theory."""

from __future__ import annotations

import json
import tempfile
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from scaletut.errors import ParameterError
from scaletut.train.distributed import ALONE, launch
from scaletut.train.pipeline import Chunk, Pipeline, PipelineStep, balanced, cut, expected_bubble

CASES = ["gpipe-1", "gpipe-8", "1f1b-8"]


@pytest.fixture(scope="module")
def findings() -> list[dict[str, Any]]:
    """What each of two stages found: one start for all tests."""
    with tempfile.TemporaryDirectory() as folder:
        ended = launch([Path(__file__).parent / "pipeline_worker.py", folder], 2, timeout_seconds=200)
        assert ended.code == 0, ended.output
        return [json.loads(Path(folder, f"pipeline-{rank}.json").read_text()) for rank in range(2)]


@pytest.mark.parametrize("case", CASES)
def test_loss_and_gradients_are_those_of_the_uncut_network(findings: list[dict[str, Any]], case: str) -> None:
    here = [one[case] for one in findings]
    assert sum(one["parameters"] for one in here) == 18  # each of nine matrices and biases on one stage
    for one in here:
        assert one["loss"][0] == pytest.approx(one["loss"][1], rel=1e-12)
        assert one["apart"] < 1e-12


def test_gpipe_keeps_all_micro_batches_and_1f1b_as_many_as_there_are_stages(findings: list[dict[str, Any]]) -> None:
    here = findings[0]
    assert here["gpipe-8"]["in_flight"] == [8, 8]
    assert here["1f1b-8"]["in_flight"] == [2, 1]


@pytest.mark.parametrize("case", CASES)
def test_the_order_of_work_has_the_bubble_of_theory(findings: list[dict[str, Any]], case: str) -> None:
    """With equal stages, and no time spent on passing tensors on; measured, these add to it."""
    here = findings[0][case]
    ideal = PipelineStep(0.0, timed(here["chunks"]))
    expected = expected_bubble(2, int(case.split("-")[1]))
    assert ideal.bubble == pytest.approx(expected)
    assert 0.5 * expected < here["bubble"] < 1


def timed(orders: list[list[list[Any]]]) -> tuple[tuple[Chunk, ...], ...]:
    """When each chunk runs if a forward pass takes 1, a backward pass 2, and a stage waits for its neighbour."""
    ended: dict[tuple[int, str, int], float] = {}
    made: list[list[Chunk]] = [[] for _ in orders]
    while any(len(done) < len(order) for done, order in zip(made, orders, strict=True)):
        for stage, order in enumerate(orders):
            if len(made[stage]) == len(order):
                continue
            kind, number = order[len(made[stage])]
            before = stage - 1 if kind == "forward" else stage + 1
            ready = 0.0 if before in (-1, len(orders)) else ended.get((before, kind, number))
            if ready is None:
                continue
            start = max(ready, made[stage][-1].end if made[stage] else 0.0)
            made[stage].append(Chunk(kind, number, start, start + (1 if kind == "forward" else 2)))
            ended[stage, kind, number] = made[stage][-1].end
    return tuple(map(tuple, made))


@pytest.mark.parametrize(
    ("case", "says"), [("few", "2 micro-batches or more"), ("name", "gpipe or 1f1b"), ("uneven", "4 equal")]
)
def test_what_cannot_be_pipelined_is_refused(findings: list[dict[str, Any]], case: str, says: str) -> None:
    assert says in findings[0]["refused"][case]


# --- in this process ---------------------------------------------------------------


def test_a_single_process_is_no_pipeline() -> None:
    with pytest.raises(ParameterError, match="two processes or more"):
        Pipeline(ALONE, nn.Sequential(nn.Linear(2, 2)), torch.zeros(1, 2), 1)


@pytest.mark.parametrize(("costs", "parts"), [([1, 1, 1, 1], 2), ([5, 1, 1, 1, 4], 3), ([0, 0, 7, 0], 2), ([3], 1)])
def test_cuts_are_the_best_there_are(costs: list[float], parts: int) -> None:
    def largest(ends: tuple[int, ...]) -> float:
        return max(sum(costs[a:b]) for a, b in pairwise((0, *ends)))

    every = [(*some, len(costs)) for some in combinations(range(1, len(costs)), parts - 1)]
    ends = balanced(costs, parts)
    assert tuple(ends) in every
    assert largest(tuple(ends)) == min(map(largest, every))


def test_a_network_is_cut_by_its_flops_and_left_as_it_was() -> None:
    layers = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.Flatten())
    stages = cut(layers, 2, torch.randn(1, 3, 12, 12))
    assert [len(stage) for stage in stages] in ([1, 4], [2, 3], [3, 2])
    assert stages[0][0] is layers[0]
    assert layers.training
    assert layers[1].num_batches_tracked == 0
    with pytest.raises(ParameterError, match="5 layers cannot make 6 stages"):
        cut(layers, 6, torch.randn(1, 3, 12, 12))
