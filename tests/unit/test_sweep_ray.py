"""The Ray executor against the local one, on a real Ray: the same records, deaths retried, memory halved.

Ray is half a gigabyte and not among the locked packages: these tests skip where it is absent,
and run with `pip install 'scaletut[ray]' && pytest tests/unit/test_sweep_ray.py`.
"""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from sweep_cases import PLAN as SMALL
from sweep_cases import decided, opened

from scaletut import cli
from scaletut.sweep import Event, checked_plan, on_ray, run_local, run_on_ray

ray = pytest.importorskip("ray", reason="Ray is not installed: the Ray executor is NOT tested here")

PLAN = {**SMALL, "epochs": [3]}


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """Of a cluster of one node with two cores, started for these tests."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "object_store_memory": 100_000_000})
    yield cluster.address
    cluster.shutdown()


def _with_faults(folder: Path, dies: str, short: str):
    """`_execute` with faults on the worker: `dies` kills its worker once, `short` has no memory for a whole batch."""
    real, kill = on_ray._execute, int(signal.SIGKILL)

    def faulty(values, checkpoint, threads, board):
        import os
        from pathlib import Path

        from scaletut.sweep import RunSpec, train

        def no_memory(spec, checkpoint=None, progress=None):
            if spec.key == short and not spec.halved:
                raise MemoryError("no memory for the batch")
            return whole(spec, checkpoint, progress)

        killed, whole = Path(folder) / "killed", train.execute
        if RunSpec.from_dict(values).key == dies and not killed.exists():
            killed.touch()
            os.kill(os.getpid(), kill)
        train.execute = no_memory
        try:
            return real(values, checkpoint, threads, board)
        finally:
            train.execute = whole

    return faulty


def test_records_are_those_of_the_local_executor_whatever_happens_to_workers(
    tmp_path: Path, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = checked_plan(PLAN).runs()
    dies, short = runs[1].key, runs[2].key
    here, there = opened(tmp_path / "local"), opened(tmp_path / "ray")
    run_local(runs, here)
    monkeypatch.setattr(on_ray, "_execute", _with_faults(tmp_path, dies, short))
    events: list[Event] = []
    run_on_ray(runs, there, address=address, listen=events.append)
    told = [(event.kind, event.spec.key) for event in events]
    assert told.count(("retried", dies)) == told.count(("halved", short)) == 1  # Ray itself retries nothing
    assert sorted(key for kind, key in told if kind == "done") == sorted(run.key for run in runs)
    for run in runs:
        assert (decided(here, run) == decided(there, run)) == (run.key != short), run
    record = next(record for record in there.records() if record.parameters["key"] == short)
    assert record.parameters["halved"]
    assert "batch halved once" in record.note
    assert record.parameters["batch_size"] * 2 == here.records()[0].parameters["batch_size"]


def test_resources_are_asked_of_ray_and_a_run_computes_with_them(
    tmp_path: Path, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def tell(values, checkpoint, threads, board):
        import ray

        return "failed", json.dumps([ray.get_runtime_context().get_assigned_resources(), threads])

    store = opened(tmp_path)
    monkeypatch.setattr(on_ray, "_execute", tell)
    run_on_ray(checked_plan(PLAN).runs()[:1], store, address=address, cpus=2)
    assert json.loads(store.records()[0].note) == [{"CPU": 2.0}, 2]


def test_more_than_any_node_has_is_refused(tmp_path: Path, address: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert _sweep(tmp_path, "--address", address, "--gpus", "1") == 2
    assert "1 CPUs and 1 GPUs, and the nodes have 2 and 0" in _one_line(capfd)


@pytest.mark.parametrize("address", ["127.0.0.1:9", "ray://127.0.0.1:9", "nonsense"])
def test_an_address_that_does_not_answer_is_one_line(
    tmp_path: Path, address: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert _sweep(tmp_path, "--address", address) == 2
    assert "no Ray cluster can be used" in _one_line(capfd)


def _sweep(folder: Path, *options: str) -> int:
    path = folder / "plan.yaml"
    path.write_text(yaml.safe_dump(PLAN), encoding="utf-8")
    return cli.main(["sweep", str(path), "--executor", "ray", "--out", str(folder / "runs"), *options])


def _one_line(capfd: pytest.CaptureFixture[str]) -> str:
    text = capfd.readouterr().err
    assert text.count("\n") == 1, text
    return text
