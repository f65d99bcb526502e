"""Two processes train as one: equal weights, counted bytes, shared memory, checkpoints that move, deaths survived."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from scaletut.data import Augment, Batches, load
from scaletut.errors import ParameterError
from scaletut.train.distributed import ALONE, join, launch, reason, replica_distance, ring_bytes

HERE = Path(__file__).parent
ROUNDING = 1e-11  # of float64 after some steps; a fault is ten orders of magnitude larger


@pytest.fixture(scope="module")
def findings() -> list[dict[str, Any]]:
    """What two ranks found, each for itself: one start for all tests."""
    with tempfile.TemporaryDirectory() as folder:
        ended = launch([HERE / "parallel_worker.py", folder], 2, timeout_seconds=300)
        assert ended.code == 0, ended.output
        return [json.loads(Path(folder, f"findings-{rank}.json").read_text()) for rank in range(2)]


@pytest.fixture(scope="module")
def found(findings: list[dict[str, Any]]) -> dict[str, Any]:
    """What the first rank found."""
    return findings[0]


@pytest.mark.parametrize("case", ["ddp", "ddp_muon", "ddp_uneven_mixed", "ddp_recompute", "fsdp", "fsdp_adam_averaged"])
def test_two_ranks_end_with_the_weights_of_one_process(found: dict[str, Any], case: str) -> None:
    assert found["equality"][case] < ROUNDING


def test_without_synchronised_norms_they_do_not(found: dict[str, Any]) -> None:
    assert found["equality"]["ddp_unsynced"] > 1e-3


def test_gradients_are_those_of_one_process_and_micro_batches_exchange_once(found: dict[str, Any]) -> None:
    here = found["gradients"]
    assert here["apart"] < ROUNDING
    assert here["held_bytes"] == here["parameter_bytes"]
    assert here["held_calls"] == 1
    assert here["reduced_bytes"] > here["parameter_bytes"]  # the norms' sums


@pytest.mark.parametrize("case", ["ddp_to_one", "one_to_fsdp", "fsdp_to_ddp", "fsdp_to_one"])
def test_a_checkpoint_moves_between_numbers_of_ranks(found: dict[str, Any], case: str) -> None:
    weights, losses = found["moving"][case]
    assert weights < ROUNDING
    assert losses < 1e-5  # sums of an epoch are kept in float32


def test_replicas_drift_apart_unless_they_average(found: dict[str, Any]) -> None:
    drift = found["replicas"]
    assert drift["nothing"] == drift["zero"]
    assert min(drift["zero"]) > 1e-4
    assert drift["mean"] == [0.0, 0.0, 0.0]


def test_bytes_of_ddp_are_those_of_a_ring(found: dict[str, Any]) -> None:
    here = found["traffic"]["ddp"]
    assert here["seen"]["all_reduce"][1] == 2 * here["parameter_bytes"]
    assert here["loopback"] is None or here["loopback"] > here["ring_bytes"]  # headers, and who else talks meanwhile


def test_bytes_of_fsdp_are_two_gathers_and_a_reduction(found: dict[str, Any]) -> None:
    here = found["traffic"]["fsdp"]
    assert here["seen"]["reduce_scatter"][1] == pytest.approx(2 * here["parameter_bytes"], rel=0.02)  # with padding
    assert 2 < here["seen"]["all_gather"][1] / here["parameter_bytes"] < 4.1  # the last block is gathered once


def test_shards_hold_their_share_of_parameters_and_state(found: dict[str, Any]) -> None:
    both = found["memory"]
    assert both["ddp"][1] == 2 * both["ddp"][0]  # Adam keeps two moments
    for whole, share in zip(both["ddp"], both["fsdp"], strict=True):
        assert share == pytest.approx(whole / 2, rel=0.02)


@pytest.mark.parametrize(
    ("case", "says"),
    [("muon", "whole matrices"), ("micro", "shares of one size"), ("main", "first rank"), ("replicas", "sharded")],
)
def test_every_rank_refuses_alike(findings: list[dict[str, Any]], case: str, says: str) -> None:
    errors = {one["refusals"][case] for one in findings}
    assert len(errors) == 1
    assert says in errors.pop()


def test_scores_that_were_shared_out_come_back_in_order(findings: list[dict[str, Any]]) -> None:
    assert [one["spread"] for one in findings] == [True, True]


# --- in this process ---------------------------------------------------------------


@pytest.mark.parametrize("ranks", [2, 3, 5])
@pytest.mark.parametrize("mixup", [0.0, 0.3])
def test_shares_put_together_are_the_batch_of_one_process(ranks: int, mixup: float) -> None:
    """No image twice, none left out, each as it would have been, the last, smaller batch too."""
    data = load("zipf10", n_train=203, n_test=100).train
    options = {"batch_size": 64, "augment": Augment(crop=2, flip="alternate", cutout=4, mixup=mixup), "seed": 3}
    shares = [Batches(data, rank=rank, ranks=ranks, **options).epoch(1, start=1) for rank in range(ranks)]
    batches = list(Batches(data, **options).epoch(1, start=1))
    parts = list(zip(*shares, strict=True))
    assert len(parts) == len(batches) == 3
    for (images, labels), pieces in zip(batches, parts, strict=True):
        assert torch.equal(torch.cat([piece[0] for piece in pieces]), images)
        assert torch.equal(torch.cat([piece[1] for piece in pieces]), labels)
        assert np.ptp([len(piece[1]) for piece in pieces]) <= 1


def test_a_batch_with_fewer_images_than_ranks_is_refused() -> None:
    data = load("zipf10", n_train=130, n_test=100).train
    with pytest.raises(ParameterError, match="2 images cannot be shared by 3 ranks"):
        Batches(data, batch_size=64, rank=0, ranks=3)
    assert len(Batches(data, batch_size=64, rank=0, ranks=3, drop_last=True)) == 2


def test_a_process_that_torchrun_did_not_start_is_told_how(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(ParameterError, match="torchrun --nproc-per-node 2"):
        join("ddp")
    with pytest.raises(ParameterError, match="unknown mode"):
        join("dpp")


def test_more_processes_than_gpus_are_refused_before_nccl_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    told = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ParameterError, match=r"2 processes and 1 GPU\(s\)"):
        join("ddp")


@pytest.mark.parametrize(
    ("kind", "ranks", "share"), [("all_reduce", 2, 1), ("all_reduce", 8, 1.75), ("all_gather", 4, 0.75)]
)
def test_a_ring_sends_what_theory_says(kind: str, ranks: int, share: float) -> None:
    assert ring_bytes(kind, 1000, ranks) == share * 1000
    with pytest.raises(ParameterError, match="unknown collective"):
        ring_bytes("all_to_some", 1000, ranks)


def test_one_process_is_at_no_distance_from_itself() -> None:
    assert replica_distance(ALONE, torch.nn.Linear(2, 2)).largest == 0


def test_fewer_than_one_process_is_refused() -> None:
    with pytest.raises(ParameterError, match="give 1 or more"):
        launch(["worker.py"], 0)


# --- deaths ------------------------------------------------------------------------


def test_a_killed_rank_ends_the_run_at_once_and_a_restart_resumes_it(tmp_path: Path) -> None:
    """SIGKILL of one rank: with a restart the run ends with the weights of one that was left alone."""
    ended = launch([HERE / "killed_worker.py", tmp_path], 2, restarts=1, timeout_seconds=120)
    assert ended.code == 0, ended.output
    told = json.loads((tmp_path / "ended.json").read_text())
    assert told["first_step"] > 1, "it began again instead of resuming"
    assert told["restart"] == 1
    assert told["same"], "the resumed run ended with other weights"


def test_a_killed_rank_without_restarts_is_a_clear_end(tmp_path: Path) -> None:
    ended = launch([HERE / "killed_worker.py", tmp_path], 2, timeout_seconds=120)
    assert ended.code == 1
    assert reason(ended.output).startswith("rank 1 was killed (SIGKILL")
    assert not (tmp_path / "ended.json").exists()
    assert (tmp_path / "run.pt").exists()  # what a later start resumes from


# --- the command -------------------------------------------------------------------


def test_the_command_trains_one_network_in_two_processes_and_writes_once(tmp_path: Path) -> None:
    few = load("zipf10", n_train=128, n_test=100)
    arrays = {"x_train": few.train.images, "y_train": few.train.labels, "x_test": few.test.images}
    np.savez(tmp_path / "few.npz", **arrays, y_test=few.test.labels)
    words = ["-m", "scaletut", "train", "scaling", "--data", "few.npz", "--epochs", "1", "--out", "out"]
    ended = launch(words, 2, folder=tmp_path, timeout_seconds=120)
    assert ended.code == 0, ended.output
    assert ended.output.count("(finished)") == 1
    (record,) = [json.loads(file.read_text()) for file in (tmp_path / "out").glob("*.json")]
    assert record["parameters"]["ranks"] == 2
    assert record["command"].startswith("torchrun --nproc-per-node 2 -m scaletut train scaling")
