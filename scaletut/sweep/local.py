"""Local execution: worker processes on this machine, fed one run at a time."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from scaletut.sweep.plan import RunSpec
from scaletut.sweep.store import Store, SweepError
from scaletut.sweep.todo import Event, Listener, More, Todo

WORKER = ("-m", "scaletut.sweep.worker")


def run_local(
    specs: Iterable[RunSpec],
    store: Store,
    *,
    workers: int = 1,
    threads: int = 1,
    listen: Listener | None = None,
    more: More | None = None,
) -> None:
    """Run all `specs`; each ends as a record in `store`.

    workers: processes; threads: of each. More than the machine's cores in all makes every run slower.
    listen: called with each event, in the caller's thread.
    more: asked for further runs whenever all others have ended, until it gives none (a search asks by results).

    A worker that dies is replaced and its run goes on from its checkpoint; after `TRIES` deaths the run is recorded
    as failed. A run that does not fit into memory, by its own word or the system's, is tried once more with half the
    batch. An interrupt or an exception ends the workers; what they had finished is recorded.
    Raises SweepError when records cannot be written, or when the library was edited since the sweep started.
    """
    pool = _Pool(Todo(specs, store, listen, more), workers, threads)
    try:
        pool.run()
    finally:
        pool.close()


@dataclass
class _Worker:
    process: subprocess.Popen[str]
    spec: RunSpec | None = None
    ready: bool = False
    memory_kills: int = 0  # of the system, when it began its run

    def send(self, spec: RunSpec) -> None:
        self.spec, self.memory_kills = spec, memory_kills()
        with contextlib.suppress(BrokenPipeError):  # it has just died; its end is told by the reader
            self.process.stdin.write(json.dumps(spec.to_dict()) + "\n")
            self.process.stdin.flush()


class _Pool:
    def __init__(self, todo: Todo, count: int, threads: int) -> None:
        self.todo, self.count, self.threads = todo, count, threads
        self.told: queue.Queue[tuple[_Worker, dict[str, Any] | None]] = queue.Queue()
        self.workers: list[_Worker] = []

    def run(self) -> None:
        self.dispatch()
        while self.workers:
            worker, message = self.told.get()
            if message is None:
                self.died(worker)
            else:
                self.heard(worker, message)
            self.dispatch()

    def dispatch(self) -> None:
        """Hand out runs and start workers for those that are left; when nothing more will come, let workers go."""
        if not self.todo and not self.busy():
            self.todo.ask_for_more()
        for worker in [worker for worker in self.workers if worker.ready and worker.spec is None]:
            if self.todo:
                worker.send(self.todo.next())
            elif not (self.todo.more and self.busy()):  # with `more`, the others' outcomes may bring work for it
                self.workers.remove(worker)
                worker.process.stdin.close()
        starting = sum(not worker.ready for worker in self.workers)
        for _ in range(min(self.count - len(self.workers), len(self.todo) - starting)):
            self.start()

    def busy(self) -> bool:
        return any(worker.spec for worker in self.workers)

    def start(self) -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": str(self.threads), "PYTHONUTF8": "1"}
        process = subprocess.Popen(
            [sys.executable, *WORKER, str(self.todo.store.folder)],
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

    def heard(self, worker: _Worker, message: dict[str, Any]) -> None:
        kind, spec = message.pop("kind"), worker.spec
        if kind == "ready":
            worker.ready = True
            return
        if kind == "progress":
            self.todo.listen(Event("progress", spec, message))
            return
        worker.spec = None
        if kind == "fatal":
            raise SweepError(message["error"])
        if kind == "out of memory":
            self.todo.out_of_memory(spec, message["error"])
        elif kind == "failed":
            self.todo.fail(spec, message["error"])
        else:
            self.todo.listen(Event("done", spec, message))

    def died(self, worker: _Worker) -> None:
        if worker not in self.workers:
            return  # it was let go
        self.workers.remove(worker)
        code = worker.process.wait()
        if not worker.ready:
            raise SweepError(f"a worker ended before it could work (exit {code}); its message stands above")
        if worker.spec is None:
            return
        if code == -9 and memory_kills() > worker.memory_kills:
            self.todo.out_of_memory(worker.spec, "the system killed its worker for want of memory")
        else:
            self.todo.died(worker.spec, f"exit {code}")

    def close(self) -> None:
        for worker in self.workers:
            worker.process.kill()
        for worker in self.workers:
            worker.process.wait()


def memory_kills() -> int:
    """How many processes Linux has killed for want of memory since it started; 0 where it does not tell."""
    try:
        with open("/proc/vmstat", encoding="ascii") as file:
            return next((int(line.split()[1]) for line in file if line.startswith("oom_kill ")), 0)
    except OSError:
        return 0
