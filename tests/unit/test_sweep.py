"""Sweeps: plans refused by name, keys that follow content, runs that survive every death."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from sweep_cases import PLAN as SMALL

from scaletut import cli
from scaletut.errors import ParameterError
from scaletut.records import Value
from scaletut.sweep import RunSpec, Store, SweepError, SweepPlan, checked_plan, left_out, load_plan, run_table
from scaletut.sweep.local import run_local
from scaletut.sweep.plan import automatic_batch
from scaletut.sweep.todo import TRIES, Event, Todo
from scaletut.sweep.train import execute, failed_record

PLAN = {**SMALL, "seeds": [0, 1]}


def plan(**changes: object) -> SweepPlan:
    return checked_plan({**PLAN, **changes})


# --- plans ---------------------------------------------------------------------------------


def test_a_plan_expands_to_every_combination_once() -> None:
    runs = plan().runs()
    assert len(runs) == len({run.key for run in runs}) == 8
    assert runs[0].width == 0.0625
    assert runs[0].examples == 64


def test_ten_thousand_runs_have_ten_thousand_keys() -> None:
    runs = plan(seeds=list(range(100)), examples=list(range(50, 100))).runs()
    assert len({run.key for run in runs}) == 10_000


def test_a_key_follows_what_decides_the_run_and_nothing_else() -> None:
    run = plan().runs()[0]
    assert plan(name="other").runs()[0].key == run.key  # plans share the runs that they have in common
    assert replace(run, halved=True).key == run.key
    for name, value in {"seed": 5, "width": 0.5, "data": "cifar10", "code": "0", "rate_factor": 2.0}.items():
        assert replace(run, **{name: value}).key != run.key
    assert RunSpec.from_dict(json.loads(json.dumps(run.to_dict()))).key == run.key


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"width": [1]}, "did you mean 'widths'"),
        ({"widths": [0.5, 0.5]}, "twice"),
        ({"widths": [0]}, "above 0"),
        ({"widths": []}, "widths"),
        ({"examples": [-1]}, "below 0"),
        ({"epochs": [float("nan")]}, "not finite"),
        ({"epochs": []}, "either epochs or flops"),
        ({"flops": [1e12]}, "either epochs or flops"),
        ({"seeds": list(range(60_000))}, "split the plan"),
        ({"lr_rule": {"exponent": 0, "reference": 1, "reason": "none"}}, "reason"),
        ({"lr_rule": {"exponent": 9, "reference": 1, "reason": "a long enough one"}}, "exponent"),
        ({"recipe": {"momentun": 0.9}}, "did you mean 'momentum'"),
        ({"recipe": {"momentum": 2.0}}, "share from 0"),
        ({"preset": "fats"}, "did you mean 'fast'"),
        ({"name": "Not a name"}, "name"),
        ({"label_noise": 1.5}, "label_noise"),
    ],
)
def test_a_plan_that_cannot_be_run_is_refused_whole(changes: dict, says: str) -> None:
    with pytest.raises(ParameterError, match=says):
        plan(**changes)


@pytest.mark.parametrize("text", ["", "- 1", "name: [", "\x00", "name: toy"])
def test_a_file_that_is_no_plan_is_refused_in_one_line(
    tmp_path: Path, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "plan.yaml"
    path.write_text(text, encoding="utf-8")
    assert cli.main(["sweep", str(path)]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    with pytest.raises(ParameterError):
        load_plan(tmp_path / "absent.yaml")


@pytest.mark.parametrize(("examples", "batch"), [(1, 64), (2_000, 64), (10_000, 256), (50_000, 512)])
def test_the_batch_follows_the_examples(examples: int, batch: int) -> None:
    assert automatic_batch(examples) == batch


# --- one run -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished():
    return execute(plan().runs()[0])


def test_a_run_tells_what_a_law_needs(finished) -> None:
    values = finished.values
    assert values["examples"].value == 64
    assert values["params"].value > 1000
    assert finished.parameters["key"] == plan().runs()[0].key
    assert values["training_flops"].value == pytest.approx(finished.flops)


def test_a_run_repeats_to_the_last_digit(finished) -> None:
    again = execute(plan().runs()[0])
    same = {name: value for name, value in finished.values.items() if name != "seconds"}
    assert {name: again.values[name] for name in same} == same


def test_a_budget_in_flops_decides_the_epochs() -> None:
    run = plan(epochs=[], flops=[2e9], widths=[0.0625], examples=[128], seeds=[0]).runs()[0]
    record = execute(run)
    assert record.flops == pytest.approx(2e9, rel=0.25)  # whole batches


def test_a_run_that_diverges_is_a_record_that_says_so() -> None:
    run = plan(recipe={"lr": 1e30, "head_lr": 1e30, "vector_lr": 1e30}).runs()[0]
    record = execute(run)
    assert record.parameters["status"] == "diverged"
    assert "left out of fits" in record.note
    assert run_table([record])["loss"] == []
    assert left_out([record])[0][0] == run.key


def test_more_examples_than_there_are_is_refused_by_number() -> None:
    with pytest.raises(ParameterError, match="4000 to train on"):
        execute(plan(examples=[5000]).runs()[0])


# --- the store ------------------------------------------------------------------------------


def test_finished_runs_are_not_run_again_and_none_is_doubled(tmp_path: Path, finished) -> None:
    store, runs = Store(tmp_path), plan().runs()
    store.open()
    store.write(runs[0], finished)
    before = store.path(runs[0]).read_bytes()
    store.write(runs[0], execute(runs[0]))
    assert store.path(runs[0]).read_bytes() == before
    assert len(store.missing(runs)) == len(runs) - 1


def test_two_sweeps_do_not_share_a_folder(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.open()
    with store.held(), pytest.raises(SweepError, match="another sweep"), store.held():
        pass


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(SweepError, match="give another folder"):
        Store(tmp_path / "file").open()


def test_the_table_has_a_row_a_run_and_a_group_a_configuration(finished) -> None:
    table = run_table([finished, finished])
    assert table["examples"] == [64.0, 64.0]
    assert table["group"] == [0.0, 0.0]
    assert set(table) >= {"params", "examples", "flops", "loss", "seed"}


# --- runs that do not end well ---------------------------------------------------------------


def _todo(tmp_path: Path, *specs: RunSpec) -> tuple[Todo, list[Event]]:
    events: list[Event] = []
    store = Store(tmp_path)
    store.open()
    return Todo(specs, store, events.append), events


def test_out_of_memory_halves_once_and_then_says_so(tmp_path: Path) -> None:
    run = plan().runs()[0]
    todo, events = _todo(tmp_path, run)
    todo.store.checkpoint(run).write_bytes(b"of the whole batch")
    todo.out_of_memory(todo.next(), "no memory")
    assert todo.waiting[0].halved
    assert not todo.store.checkpoint(run).exists()
    todo.out_of_memory(todo.next(), "no memory")
    assert [event.kind for event in events] == ["started", "halved", "started", "failed"]
    assert "half the batch" in todo.store.records()[0].note


def test_half_the_batch_is_what_is_run() -> None:
    from scaletut.sweep.train import prepare

    run = plan().runs()[0]
    assert prepare(replace(run, halved=True)).preset.recipe.batch_size * 2 == prepare(run).preset.recipe.batch_size


def test_half_a_batch_never_goes_on_from_the_checkpoint_of_a_whole_one(tmp_path: Path) -> None:
    run = plan().runs()[0]
    assert Store(tmp_path).checkpoint(run) != Store(tmp_path).checkpoint(replace(run, halved=True))
    assert Store(tmp_path).path(run) == Store(tmp_path).path(replace(run, halved=True))


def test_a_run_that_kills_its_worker_each_time_is_given_up(tmp_path: Path) -> None:
    run = plan().runs()[0]
    todo, events = _todo(tmp_path, run)
    for _ in range(TRIES):
        todo.died(todo.next(), "exit -9")
    assert [event.kind for event in events if event.kind != "started"] == ["retried"] * (TRIES - 1) + ["failed"]
    assert todo.store.records()[0].parameters["status"] == "failed"


def test_a_worker_killed_after_its_record_is_not_asked_again(tmp_path: Path, finished) -> None:
    run = plan().runs()[0]
    todo, events = _todo(tmp_path)
    todo.store.write(run, finished)
    todo.died(run, "exit -9")
    assert not todo
    assert events[-1].kind == "done"


# --- whole sweeps ----------------------------------------------------------------------------


def _start(path: Path, out: Path) -> subprocess.Popen:
    command = [sys.executable, "-m", "scaletut.cli", "sweep", str(path), "--out", str(out), "--resume"]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_killed_driver_and_killed_worker_lose_nothing(tmp_path: Path) -> None:
    """The driver is killed while a worker works; a worker is killed in the next call; the last call finishes."""
    import yaml

    content = {**PLAN, "examples": [128], "epochs": [6]}
    path, out = tmp_path / "plan.yaml", tmp_path / "runs"
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    driver = _start(path, out)
    _wait_for(lambda: list(out.glob("*.json")))
    driver.kill()
    driver.wait()
    first = {one.name: one.read_bytes() for one in out.glob("*.json")}

    killed = []
    strangers = _children()  # other tests of this process may have left a server of processes running

    def kill_one(event: Event) -> None:
        if event.kind == "progress" and not killed:
            killed.append(event.spec.key)
            worker = next(child for child in _children() if child not in strangers)
            os.kill(worker, signal.SIGKILL)

    store, runs = Store(out), load_plan(path).runs()
    events: list[Event] = []
    run_local(store.missing(runs), store, listen=lambda event: (events.append(event), kill_one(event)))
    assert killed
    assert any(event.kind == "retried" for event in events)
    records = store.records()
    assert sorted(record.parameters["key"] for record in records) == sorted(run.key for run in runs)
    assert all((out / name).read_bytes() == content for name, content in first.items())
    assert not list((out / ".checkpoints").glob("*.pt"))
    assert not list(out.glob(".*.part"))


def _children() -> list[int]:
    with open(f"/proc/{os.getpid()}/task/{os.getpid()}/children", encoding="ascii") as file:
        return [int(pid) for pid in file.read().split()]


def _wait_for(condition, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "the sweep wrote no record in time"
        time.sleep(0.05)


def test_the_command_runs_a_plan_and_tells_the_next_step(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import yaml

    def instead(specs, store, *, listen, **options) -> None:
        for spec in specs:
            store.write(spec, execute(spec))
            listen(Event("done", spec, {"loss": 1.0}))

    monkeypatch.setattr("scaletut.sweep.local.run_local", instead)
    path, out = tmp_path / "plan.yaml", tmp_path / "runs"
    path.write_text(yaml.safe_dump({**PLAN, "seeds": [0], "widths": [0.0625]}), encoding="utf-8")
    assert cli.main(["sweep", str(path), "--out", str(out), "--dry-run"]) == 0
    assert "core hours" in capsys.readouterr().out
    assert not out.exists()
    assert cli.main(["sweep", str(path), "--out", str(out)]) == 0
    assert "next: scaletut fit" in capsys.readouterr().out
    assert (out / "runs.csv").read_text(encoding="utf-8").startswith("params,examples,flops,loss")
    assert cli.main(["sweep", str(path), "--out", str(out)]) == 2
    assert "--resume" in capsys.readouterr().err
    assert cli.main(["watch", str(out), "--once"]) == 0
    assert "2 runs recorded" in capsys.readouterr().out


def test_what_cannot_fit_is_refused_before_it_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import yaml

    monkeypatch.setattr("scaletut.sweep.cost.free_memory", lambda: 1e6)
    path = tmp_path / "plan.yaml"
    path.write_text(yaml.safe_dump({**PLAN, "seeds": [0], "widths": [0.0625]}), encoding="utf-8")
    assert cli.main(["sweep", str(path), "--out", str(tmp_path / "out"), "--dry-run"]) == 2
    assert "are free" in capsys.readouterr().err


def test_a_failed_run_is_told_by_the_exit_code(tmp_path: Path) -> None:
    record = failed_record(plan().runs()[0], "failed", "its worker died")
    assert record.values == {"width": Value(0.0625)}
    assert left_out([record]) == [(plan().runs()[0].key, "its worker died")]
