"""Local execution: worker processes on this machine, fed one run at a time."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from scaletut.sweep.plan import RunSpec
from scaletut.sweep.store import Store, SweepError, halved
from scaletut.sweep.train import failed_record

TRIES = 3  # deaths of a worker on one run before the run is given up
Listener = Callable[["Event"], None]


@dataclass(frozen=True)
class Event:
    """What happened to a run: `kind` is started, progress, done, halved, retried or failed."""

    kind: str
    spec: RunSpec
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass
class _Worker:
    process: subprocess.Popen[str]
    spec: RunSpec | None = None
    ready: bool = False

    def send(self, spec: RunSpec) -> None:
        self.spec = spec
        with contextlib.suppress(BrokenPipeError):  # it has just died; its end is told by the reader
            self.process.stdin.write(json.dumps(spec.to_dict()) + "\n")
            self.process.stdin.flush()


def run_local(
    specs: Iterable[RunSpec], store: Store, *, workers: int = 1, threads: int = 1, listen: Listener | None = None
) -> None:
    """Run all `specs`; each ends as a record in `store`.

    workers: processes; threads: of each. More than the machine's cores in all makes every run slower.
    listen: called with each event, in the caller's thread.

    A worker that dies (killed, out of memory) is replaced and its run goes on from its checkpoint; after `TRIES`
    deaths the run is recorded as failed. A run that says that memory is short is tried once more with half the batch.
    An interrupt or an exception ends the workers; what they had finished is recorded.
    Raises SweepError when records cannot be written.
    """
    pool = _Pool(deque(specs), store, threads, listen or (lambda event: None))
    try:
        pool.run(workers)
    finally:
        pool.close()


class _Pool:
    def __init__(self, todo: deque[RunSpec], store: Store, threads: int, listen: Listener) -> None:
        self.todo, self.store, self.threads, self.listen = todo, store, threads, listen
        self.deaths: dict[str, int] = {}
        self.told: queue.Queue[tuple[_Worker, dict[str, Any] | None]] = queue.Queue()
        self.workers: list[_Worker] = []

    def run(self, count: int) -> None:
        for _ in range(min(count, len(self.todo))):
            self.start()
        while self.workers:
            worker, message = self.told.get()
            if message is None:
                self.died(worker)
            else:
                self.heard(worker, message)

    def start(self) -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": str(self.threads), "PYTHONUTF8": "1"}
        process = subprocess.Popen(
            [sys.executable, "-m", "scaletut.sweep.worker", str(self.store.folder)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8", env=environment,
            start_new_session=True,  # Ctrl-C is the driver's to handle
        )  # fmt: skip
        worker = _Worker(process)
        self.workers.append(worker)
        threading.Thread(target=self.read, args=(worker,), daemon=True).start()

    def read(self, worker: _Worker) -> None:
        for line in worker.process.stdout:
            with contextlib.suppress(json.JSONDecodeError):  # cut off by a kill; the end is told below
                self.told.put((worker, json.loads(line)))
        self.told.put((worker, None))

    def feed(self, worker: _Worker) -> None:
        """Give the worker its next run, or let it go."""
        if self.todo:
            spec = self.todo.popleft()
            self.listen(Event("started", spec))
            worker.send(spec)
        else:
            self.workers.remove(worker)
            worker.spec = None
            worker.process.stdin.close()

    def heard(self, worker: _Worker, message: dict[str, Any]) -> None:
        kind, spec = message.pop("kind"), worker.spec
        message.pop("key", None)
        if kind == "ready":
            worker.ready = True
            self.feed(worker)
            return
        if kind == "progress":
            self.listen(Event("progress", spec, message))
            return
        worker.spec = None
        if kind == "out of memory":
            self.out_of_memory(spec, message["error"])
        elif kind == "failed":
            if message["fatal"]:
                raise SweepError(f"a record or checkpoint could not be written ({message['error']}); free some space")
            self.fail(spec, message["error"])
        else:
            self.listen(Event("done", spec, message))
        self.feed(worker)

    def out_of_memory(self, spec: RunSpec, error: str) -> None:
        if spec.halved:
            self.fail(spec, f"out of memory, also with half the batch ({error})")
        else:
            self.todo.appendleft(halved(spec))
            self.listen(Event("halved", spec, {"error": error}))

    def died(self, worker: _Worker) -> None:
        if worker not in self.workers:
            return  # it was let go
        self.workers.remove(worker)
        spec, code = worker.spec, worker.process.wait()
        if spec is None and not worker.ready:
            raise SweepError(f"a worker ended before it could work (exit {code}); its message stands above")
        if spec is not None:
            self.retry(spec, code)
        if self.todo:
            self.start()

    def retry(self, spec: RunSpec, code: int) -> None:
        if self.store.path(spec).exists():  # killed between its record and its answer
            self.listen(Event("done", spec, {}))
            return
        self.deaths[spec.key] = self.deaths.get(spec.key, 0) + 1
        if self.deaths[spec.key] >= TRIES:
            self.fail(spec, f"its worker died {TRIES} times (exit {code}), usually for want of memory")
        else:
            self.todo.appendleft(spec)
            self.listen(Event("retried", spec, {"error": f"its worker died (exit {code})"}))

    def fail(self, spec: RunSpec, why: str) -> None:
        self.store.write(spec, failed_record(spec, "failed", why))
        self.listen(Event("failed", spec, {"error": why}))

    def close(self) -> None:
        for worker in self.workers:
            worker.process.kill()
        for worker in self.workers:
            worker.process.wait()
