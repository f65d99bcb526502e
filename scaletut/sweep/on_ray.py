"""Execution on Ray: one machine by default, a cluster by address. Needs the extra `ray`."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from scaletut.errors import ScaletutError
from scaletut.sweep.plan import RunSpec
from scaletut.sweep.store import Store, SweepError
from scaletut.sweep.todo import Event, Listener, More, Todo
from scaletut.sweep.train import summary
from scaletut.sweep.worker import outcome

WAITING = 2  # runs handed to Ray for each that can run, so that no worker idles
ASK_EVERY = 1.0  # seconds between two looks at the progress
KNOCK_SECONDS = 10.0
OBJECT_MEMORY = 100_000_000  # bytes for what workers hand over; Ray by itself takes a third of the machine


def run_on_ray(
    specs: Iterable[RunSpec],
    store: Store,
    *,
    address: str = "",
    cpus: float = 1,
    gpus: float = 0,
    listen: Listener | None = None,
    more: More | None = None,
) -> None:
    """Run all `specs` on Ray; the records are those of `run_local`, times and memory aside.

    address: of a cluster, such as `ray://head:10001` or `auto`; empty starts Ray on this machine.
    cpus, gpus: what one run takes; Ray places runs by it, and a run computes with `cpus` threads.
    listen, more: as for `run_local`.
    The driver writes the records, so a cluster needs no shared disk; where it has one, a run whose worker dies goes
    on from its checkpoint, elsewhere it starts anew. Deaths and want of memory are treated as `run_local` treats them.
    Raises ScaletutError when Ray is absent, the address does not answer or no node can take a run, and SweepError
    when records cannot be written or the nodes have another version of the library.
    """
    try:
        import ray
    except ImportError:
        raise ScaletutError("Ray is not installed; pip install 'scaletut[ray]', or use --executor local") from None
    with _connected(ray, address):
        _check_room(ray, cpus, gpus)
        _Pool(ray, Todo(specs, store, listen, more), cpus, gpus).run()


@contextlib.contextmanager
def _connected(ray: Any, address: str) -> Iterator[None]:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nobody is told of a reader's runs
    new = {} if address else {"include_dashboard": False, "object_store_memory": OBJECT_MEMORY}
    try:
        _knock(address)
        ray.init(address=address or "local", log_to_driver=False, logging_level="error", **new)
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        why = " ".join(str(error).split()).split(". ")[0][:160]
        raise ScaletutError(
            f"no Ray cluster can be used at {address or 'this machine'!r} ({why}); start one with `ray start --head` "
            "and give what it prints as --address"
        ) from None
    try:
        yield
    finally:
        ray.shutdown()


def _knock(address: str) -> None:
    """Raise OSError where nothing listens at HOST:PORT: Ray would try for minutes, with a log line every 5 s."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), timeout=KNOCK_SECONDS).close()


def _check_room(ray: Any, cpus: float, gpus: float) -> None:
    """Refuse what Ray would wait for without end."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if not any(node.get("CPU", 0) >= cpus and node.get("GPU", 0) >= gpus for node in nodes):
        most = ", ".join(f"{node.get('CPU', 0):g} and {node.get('GPU', 0):g}" for node in nodes)
        raise ScaletutError(
            f"a run asks for {cpus:g} CPUs and {gpus:g} GPUs, and the nodes have {most}; "
            "ask for less with --cpus and --gpus, or start a larger node first"
        )


class _Pool:
    """Runs handed to Ray and not yet back. Ray's own retries are off: here they are counted and told."""

    def __init__(self, ray: Any, todo: Todo, cpus: float, gpus: float) -> None:
        self.ray, self.todo, self.threads = ray, todo, max(1, int(cpus))
        self.remote = ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=0)(_execute)
        self.board = ray.remote(num_cpus=0)(_Board).remote()
        total = ray.cluster_resources()
        places = [total.get(name, 0) / share for name, share in (("CPU", cpus), ("GPU", gpus)) if share]
        self.room = WAITING * max(1, int(min(places, default=1)))
        self.running: dict[Any, RunSpec] = {}

    def run(self) -> None:
        while self.hand_out():
            ready, _ = self.ray.wait(list(self.running), timeout=ASK_EVERY)
            for reference in ready:
                self.take_back(self.running.pop(reference), reference)
            if not ready:
                self.tell_progress()

    def hand_out(self) -> bool:
        """Fill the room; False when all has ended."""
        if not self.todo and not self.running:
            self.todo.ask_for_more()
        while self.todo and len(self.running) < self.room:
            spec = self.todo.next()
            checkpoint = str(self.todo.store.checkpoint(spec).resolve())
            self.running[self.remote.remote(spec.to_dict(), checkpoint, self.threads, self.board)] = spec
        return bool(self.running)

    def take_back(self, spec: RunSpec, reference: Any) -> None:
        kind, result = self.answer(reference)
        if kind == "record":
            self.todo.store.write(spec, result)
            self.todo.listen(Event("done", spec, summary(result)))
        elif kind == "fatal":
            raise SweepError(result)
        elif kind == "out of memory":
            self.todo.out_of_memory(spec, result)
        elif kind == "died":
            self.todo.died(spec, result)
        else:
            self.todo.fail(spec, result)

    def answer(self, reference: Any) -> tuple[str, Any]:
        """What `outcome` gave, or ("died", why)."""
        faults = self.ray.exceptions
        try:
            return self.ray.get(reference)
        except faults.OutOfMemoryError:
            return "out of memory", "Ray ended its worker, because the node ran short of memory"
        except faults.RayTaskError as error:  # a run's own faults are answers; this node could not even begin
            last = str(error).strip().splitlines()[-1][:160]
            return "fatal", f"a node cannot run scaletut ({last}); install the same scaletut[train] on every node"
        except faults.RayError as error:
            return "died", type(error).__name__

    def tell_progress(self) -> None:
        try:
            shares = self.ray.get(self.board.shares.remote(), timeout=ASK_EVERY)
        except self.ray.exceptions.RayError:  # its node is busy or gone; only the bar stands still
            return
        for spec in self.running.values():
            if spec.key in shares:
                self.todo.listen(Event("progress", spec, {"share": shares[spec.key]}))


class _Board:
    """An actor on which workers write how far they are."""

    def __init__(self) -> None:
        self.written: dict[str, float] = {}

    def write(self, key: str, share: float) -> None:
        self.written[key] = share

    def shares(self) -> dict[str, float]:
        return self.written


def _execute(values: dict[str, Any], checkpoint: str, threads: int, board: Any) -> tuple[str, Any]:
    """On a worker of Ray: `outcome`, with a checkpoint where the sweep's folder can be seen from here."""
    import time

    import torch

    torch.set_num_threads(threads)
    spec, path, told = RunSpec.from_dict(values), Path(checkpoint), time.monotonic()

    def progress(share: float) -> None:
        nonlocal told
        if time.monotonic() - told >= ASK_EVERY:
            told = time.monotonic()
            board.write.remote(spec.key, share)

    return outcome(spec, path if path.parent.is_dir() else None, progress)
