"""Runs told to trackers: the protocol by a tracker that only remembers, TensorBoard and MLflow read back.

MLflow is 300 MB and neither is among the locked packages: the tests that read them back skip where they are absent,
and run with `pip install 'scaletut[track]' && pytest tests/unit/test_resources_tracking.py`.
"""

from __future__ import annotations

import contextlib
import math
import os
import sqlite3
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from torch import nn

from scaletut.data import ImageSet, load
from scaletut.errors import ScaletutError
from scaletut.records import Record, Value, new_record
from scaletut.resources.tracking import MlflowTracker, TensorBoardTracker, Tracker
from scaletut.train import Progress, Recipe, TrainingResult, fit

RECIPE = Recipe(epochs=3, batch_size=32, lr=0.05)
NAME = "linear, seed 0"


class Remembering(Tracker):
    def __init__(self) -> None:
        super().__init__()
        self.scalars: list[tuple[str, int, float]] = []
        self.facts: dict[str, str] = {}
        self.closed: list[str] = []

    def _scalars(self, values: Mapping[str, float], step: int) -> None:
        self.scalars += [(name, step, value) for name, value in values.items()]

    def _facts(self, facts: Mapping[str, str]) -> None:
        self.facts |= facts

    def _close(self, status: str) -> None:
        self.closed.append(status)


@pytest.fixture(scope="module")
def data() -> ImageSet:
    return load("zipf10", n_train=128, n_test=16).train


def net() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 10))


def trained(data: ImageSet, tracker: Tracker, **options: object) -> TrainingResult:
    train, validation = data.split(32, seed=0)
    return fit(net(), train, RECIPE, 0, validation=validation, progress=tracker, **options)


def recorded(result: TrainingResult) -> Record:
    values = {"accuracy": Value(100 * result.history[-1].accuracy, "%")}
    return new_record(
        "train.linear", profile="quick", parameters={}, data_digest="0" * 64, seeds=[0], values=values, wall_seconds=1
    )


def expected(result: TrainingResult, record: Record) -> dict[tuple[str, int], float]:
    """What a tracker must hold in the end, by name and step."""
    told = {}
    for stats in result.history:
        told["training/loss", stats.epoch] = stats.loss
        told["training/accuracy", stats.epoch] = stats.accuracy
        told["training/rate", stats.epoch] = stats.rate
        told["validation/loss", stats.epoch] = stats.validation_loss
        told["validation/accuracy", stats.epoch] = stats.validation_accuracy
    last = len(result.history)
    for name in ("seconds", "flops", "images_per_second", "peak_memory_bytes", "steps"):
        told[f"final/{name}", last] = getattr(result, name)
    return {**told, ("record/accuracy", last): record.values["accuracy"].value}


# --- the protocol


def test_each_epoch_is_told_once_and_as_soon_as_it_is_over(data: ImageSet) -> None:
    tracker = Remembering()
    seen: list[tuple[int, int]] = []

    def watched(progress: Progress) -> None:
        tracker(progress)
        seen.append((len(progress.history), len({step for _, step, _ in tracker.scalars})))

    train, validation = data.split(32, seed=0)
    result = fit(net(), train, RECIPE, 0, validation=validation, progress=watched)
    assert all(past == told for past, told in seen)
    assert max(seen) == (2, 2)  # the last epoch is told by `finish`
    record = recorded(result)
    tracker.finish(result, record)
    assert {(name, step): value for name, step, value in tracker.scalars} == expected(result, record)
    assert len(tracker.scalars) == len(expected(result, record))
    assert tracker.facts == {
        "status": "finished", "execution": result.execution, "record": record.id, "experiment": "train.linear"
    }  # fmt: skip
    assert tracker.closed == ["FINISHED"]


def test_without_validation_there_is_nothing_to_tell_of_it(data: ImageSet) -> None:
    tracker = Remembering()
    tracker.finish(fit(net(), data, RECIPE, 0))
    assert {name for name, _, _ in tracker.scalars if "validation" in name} == set()
    assert sum(name == "training/loss" for name, _, _ in tracker.scalars) == 3
    assert "record" not in tracker.facts


@pytest.mark.parametrize(("error", "status"), [(KeyboardInterrupt, "KILLED"), (RuntimeError, "FAILED")])
def test_a_run_that_breaks_off_is_closed_as_such(error: type[BaseException], status: str) -> None:
    tracker = Remembering()
    with pytest.raises(error), tracker:
        raise error
    assert tracker.closed[0] == status


@pytest.mark.parametrize(
    ("tracker", "package", "name"),
    [(TensorBoardTracker, "torch.utils.tensorboard", "TensorBoard"), (MlflowTracker, "mlflow.entities", "MLflow")],
)
def test_what_is_not_installed_is_told_in_one_line(
    tracker: type[Tracker], package: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ScaletutError, match=rf"^{name} is not installed; pip install 'scaletut\[track\]'$"):
        tracker(tmp_path / "runs", "a run")


# --- TensorBoard


def test_tensorboard_reads_the_run_back(data: ImageSet, tmp_path: Path) -> None:
    reason = "TensorBoard is not installed: its logs are NOT tested here"
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator", reason=reason)
    with TensorBoardTracker(tmp_path, NAME, RECIPE.to_dict()) as tracker:
        result = trained(data, tracker)
        record = recorded(result)
        tracker.finish(result, record)
    assert [folder.name for folder in tmp_path.iterdir()] == [NAME]
    logs = accumulator.EventAccumulator(str(tmp_path / NAME)).Reload()
    told = {(tag, one.step): one.value for tag in logs.Tags()["scalars"] for one in logs.Scalars(tag)}
    assert told == pytest.approx(expected(result, record))  # TensorBoard keeps float32
    texts = {tag: logs.Tensors(tag)[0].tensor_proto.string_val[0].decode() for tag in logs.Tags()["tensors"]}
    assert texts["record/text_summary"] == record.id
    assert "| batch_size | 32 |" in texts["parameters/text_summary"]


# --- MLflow


@pytest.fixture
def mlflow():
    return pytest.importorskip("mlflow", reason="MLflow is not installed: its runs are NOT tested here")


def rows(database: Path, query: str) -> list[tuple]:
    with contextlib.closing(sqlite3.connect(database)) as connection:
        return connection.execute(query).fetchall()


def test_mlflow_holds_the_run_in_sqlite(mlflow, data: ImageSet, tmp_path: Path) -> None:
    database = tmp_path / "new folder" / "runs.db"
    with MlflowTracker(database, NAME, RECIPE.to_dict(), experiment="tests") as tracker:
        assert rows(database, "select name, status from runs") == [(NAME, "RUNNING")]
        result = trained(data, tracker)
        record = recorded(result)
        tracker.finish(result, record)

    assert rows(database, "select name, status from runs") == [(NAME, "FINISHED")]
    assert rows(database, "select name from experiments where name = 'tests'") == [("tests",)]
    found = rows(database, "select key, step, value from metrics")
    assert {(name, step): value for name, step, value in found} == pytest.approx(expected(result, record))
    parameters = dict(rows(database, "select key, value from params"))
    assert parameters["batch_size"] == "32"
    assert set(parameters) == set(RECIPE.to_dict())
    tags = dict(rows(database, "select key, value from tags"))
    assert tags["record"] == record.id
    assert tags["status"] == "finished"

    run = mlflow.MlflowClient(tracker.uri).get_run(tracker.run_id)  # as MLflow itself sees it
    assert run.data.metrics["training/loss"] == result.history[-1].loss
    assert not (tmp_path / "mlruns").exists()


def test_runs_of_one_experiment_stand_beside_each_other_and_a_broken_one_shows(mlflow, tmp_path: Path) -> None:
    database = tmp_path / "runs.db"
    MlflowTracker(database, "first").__exit__(None, None, None)
    with pytest.raises(KeyboardInterrupt), MlflowTracker(database, "second"):
        raise KeyboardInterrupt
    assert sorted(rows(database, "select name, status from runs")) == [("first", "FINISHED"), ("second", "KILLED")]
    assert len(rows(database, "select experiment_id from experiments where name = 'scaletut'")) == 1


def test_a_loss_that_is_no_number_does_not_break_the_log(mlflow, tmp_path: Path) -> None:
    with MlflowTracker(tmp_path / "runs.db", "diverged") as tracker:
        tracker._scalars({"training/loss": math.nan}, 0)
    assert rows(tmp_path / "runs.db", "select key, is_nan from metrics") == [("training/loss", 1)]


def test_mlflow_sends_nothing(mlflow, tmp_path: Path) -> None:
    """In a process of its own: its usage reports are off before it is imported, and no connection is ever opened."""
    code = f"""
import socket
def refuse(*arguments): raise AssertionError(f"a connection to {{arguments[1:]}}")
socket.socket.connect = socket.socket.connect_ex = refuse
from scaletut.resources.tracking import MlflowTracker
with MlflowTracker({str(tmp_path / "runs.db")!r}, "alone") as tracker:
    tracker._scalars({{"a": 1.0}}, 0)
from mlflow.telemetry.utils import is_telemetry_disabled
print(is_telemetry_disabled())
"""
    alone = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}  # MLflow is silent in tests and CI by itself
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=alone, timeout=120)
    assert done.returncode == 0, done.stderr
    assert (done.stdout, done.stderr) == ("True\n", "")
