"""What goes wrong around a sweep: full disks, lost memory, jumping clocks, killed writers, edited sources."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from sweep_cases import PLAN, decided, opened, plan, recorded

from scaletut import cli, cli_sweep, files
from scaletut.sweep import Event, RunSpec, Store, SweepError, local, run_local, run_table
from scaletut.sweep.local import _Pool, _Worker
from scaletut.sweep.todo import Todo
from scaletut.sweep.train import execute
from scaletut.sweep.worker import outcome

RUN = plan().runs()[0]

# What a worker of these tests runs instead of the library's: the same, with a fault put in first.
FULL_DISK = """
import errno, os, sys
import scaletut.files
from scaletut.sweep import worker
def full(*_): raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
scaletut.files.os.fsync = full
raise SystemExit(worker.main(sys.argv[1]))
"""
SHORT_OF_MEMORY = """
import sys
from scaletut.sweep import train, worker
whole = train.execute
def short(spec, *rest):
    if spec.seed == 1 or not spec.halved: raise MemoryError("no memory for the batch")
    return whole(spec, *rest)
train.execute = short
raise SystemExit(worker.main(sys.argv[1]))
"""


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator:
    """Mounts a small file system of its own, with the options that it is called with."""
    folder = tmp_path / "mounted"
    folder.mkdir()

    def mount(options: str) -> Path:
        command = ["mount", "-t", "tmpfs", "-o", options, "none", str(folder)]
        if os.name != "posix" or subprocess.run(command, capture_output=True, check=False).returncode:
            pytest.skip("no file system may be mounted here: NOT tested on a really full or read-only one")
        return folder

    yield mount
    subprocess.run(["umount", str(folder)], capture_output=True, check=False)


# --- disks ---------------------------------------------------------------------------------------


def test_a_full_disk_stops_the_sweep_and_leaves_nothing_half_written(tmp_path: Path, mounted) -> None:
    store = opened(mounted("size=64k"))
    store.write(RUN, recorded(RUN, 1.0))

    def fill() -> None:
        for run in plan(seeds=list(range(1, 99))).runs():
            store.write(run, recorded(run, 1.0))

    with pytest.raises(SweepError, match="free some space"):
        fill()
    there = store.records()  # each read and checked
    assert 0 < len(there) < 99
    assert not list(store.folder.glob(".*.part"))


def test_a_worker_on_a_full_disk_stops_the_sweep_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "WORKER", ("-c", FULL_DISK))
    store = opened(tmp_path)
    with pytest.raises(SweepError, match=r"No space left on device.*free some space"):
        run_local([RUN], store)
    assert not [path for path in store.folder.rglob("*") if path.is_file()]


def test_a_read_only_folder_is_refused_before_the_first_run(
    tmp_path: Path, mounted, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "plan.yaml"
    path.write_text(yaml.safe_dump(PLAN), encoding="utf-8")
    assert cli.main(["sweep", str(path), "--out", str(mounted("ro") / "runs")]) == 2
    told = capsys.readouterr().err
    assert "Read-only file system" in told
    assert told.count("\n") == 1


def test_a_writer_killed_at_the_last_moment_leaves_no_record_and_its_rest_is_cleared_away(tmp_path: Path) -> None:
    store = opened(tmp_path)
    child = os.fork()
    if child == 0:  # dies when all is written and the new name is not yet given
        files.os.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
        store.write(RUN, recorded(RUN, 1.0))
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert len(list(tmp_path.glob(".*.part"))) == 1
    assert store.records() == []
    assert store.missing([RUN]) == [RUN]
    with store.held():
        assert not list(tmp_path.glob(".*.part"))


def test_a_damaged_checkpoint_costs_one_run_and_not_the_sweep(tmp_path: Path) -> None:
    store = opened(tmp_path)
    store.checkpoint(RUN).write_bytes(b"torn")
    kind, record = outcome(RUN, store.checkpoint(RUN), lambda share: None)
    assert kind == "record"
    assert "loss" in record.values


# --- memory --------------------------------------------------------------------------------------


def test_want_of_memory_halves_the_batch_once_and_then_marks_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "WORKER", ("-c", SHORT_OF_MEMORY))
    store, events = opened(tmp_path), []
    helped, lost = RUN, replace(RUN, seed=1)
    run_local([helped, lost], store, listen=events.append)
    told = [(event.kind, event.spec.seed) for event in events if event.kind != "progress"]
    assert told == [
        ("started", 0), ("halved", 0), ("started", 0), ("done", 0),
        ("started", 1), ("halved", 1), ("started", 1), ("failed", 1),
    ]  # fmt: skip
    records = {record.seeds[0]: record for record in store.records()}
    assert records[0].parameters["batch_size"] == 32
    assert "batch halved once" in records[0].note
    assert "also with half the batch" in records[1].note
    assert run_table(list(records.values()))["seed"] == [0.0]


@pytest.mark.parametrize(("kills", "kind"), [([7, 8], "halved"), ([7, 7], "retried")])
def test_a_worker_that_the_system_killed_for_memory_is_told_from_one_that_was_killed_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kills: list[int], kind: str
) -> None:
    events: list[Event] = []
    pool = _Pool(Todo([], opened(tmp_path), events.append), 1, 1)
    monkeypatch.setattr(local, "memory_kills", iter(kills).__next__)
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, text=True) as process:
        worker = _Worker(process, ready=True)
        pool.workers = [worker]
        worker.send(RUN)
        process.kill()
        pool.died(worker)
    assert [event.kind for event in events] == [kind]


# --- runs that diverge, clocks that jump, sources that change --------------------------------------


def test_a_run_that_diverged_is_kept_told_and_left_out_of_the_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def instead(specs: list[RunSpec], store: Store, **options: object) -> None:
        for spec, loss in zip(specs, (1.0, None, 1.2, 1.3), strict=True):
            store.write(spec, recorded(spec, loss, "finished" if loss else "diverged"))

    monkeypatch.setattr("scaletut.sweep.local.run_local", instead)
    path, out = tmp_path / "plan.yaml", tmp_path / "runs"
    path.write_text(yaml.safe_dump(PLAN), encoding="utf-8")
    assert cli.main(["sweep", str(path), "--out", str(out)]) == 0
    told = capsys.readouterr().out
    key = plan().runs()[1].key
    assert f"left out: {key}: diverged" in told
    assert (out / f"{key}.json").exists()
    assert (out / "runs.csv").read_text(encoding="utf-8").count("\n") == 1 + 3
    assert cli.main(["watch", str(out), "--once"]) == 0
    assert f"left out: {key}: diverged" in capsys.readouterr().out


def test_clocks_that_jump_change_no_outcome_and_no_time_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    straight, jumping = opened(tmp_path / "straight"), opened(tmp_path / "jumping")
    straight.write(RUN, execute(RUN))
    now, jumps = time.time, itertools.cycle([-9e6, 9e6, 0.0])
    monkeypatch.setattr(time, "time", lambda: now() + next(jumps))
    view = cli_sweep._View(2 * RUN.work, 2)
    kind, record = outcome(RUN, jumping.checkpoint(RUN), lambda share: view(Event("progress", RUN, {"share": share})))
    jumping.write(RUN, record)
    assert kind == "record"
    assert decided(straight, RUN) == decided(jumping, RUN)
    assert 0 <= record.values["seconds"].value <= record.wall_seconds < 600
    assert view.done == pytest.approx(0.5)  # one run of two
    assert all(0 < view.seconds_left() < 600 for _ in range(3))  # at each of the three jumps


def test_a_library_that_was_edited_since_the_sweep_started_stops_it() -> None:
    kind, why = outcome(replace(RUN, code="another"), None, lambda share: None)
    assert kind == "fatal"
    assert "same scaletut on every node" in why


def test_data_that_are_absent_stop_the_sweep_and_mark_no_run() -> None:
    kind, why = outcome(replace(RUN, data="folder:/no/such/folder"), None, lambda share: None)
    assert kind == "fatal"
    assert "/no/such/folder" in why


def test_a_worker_that_cannot_start_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "WORKER", ("-c", "raise SystemExit(3)"))
    with pytest.raises(SweepError, match="exit 3"):
        run_local([RUN], opened(tmp_path))
