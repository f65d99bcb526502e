"""Execution on Ray: one machine by default, a cluster by address. Needs the extra `ray`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from scaletut.errors import ScaletutError
from scaletut.sweep.local import Event, Listener
from scaletut.sweep.plan import RunSpec
from scaletut.sweep.store import Store, halved
from scaletut.sweep.train import failed_record

RETRIES = 2  # times that Ray starts a run anew after its worker or node died
WAITING = 4  # runs handed to Ray for each that can run, so that no worker idles


def run_on_ray(
    specs: Iterable[RunSpec],
    store: Store,
    *,
    address: str = "",
    cpus: float = 1,
    gpus: float = 0,
    listen: Listener | None = None,
) -> None:
    """Run all `specs` on Ray; the records are those of `run_local`, times aside.

    address: of a cluster, such as `ray://head:10001` or `auto`; empty starts Ray on this machine.
    cpus, gpus: what one run takes; Ray places runs by it.
    The driver writes the records, so a cluster needs no shared disk; a run whose worker dies starts anew.
    Raises ScaletutError when Ray is absent or the address does not answer.
    """
    try:
        import ray
    except ImportError as error:
        raise ScaletutError("Ray is not installed; pip install 'scaletut[ray]', or use --executor local") from error
    try:
        ray.init(address=address or None, log_to_driver=False, include_dashboard=False, ignore_reinit_error=True)
    except ConnectionError as error:
        raise ScaletutError(
            f"no Ray cluster answers at {address!r} ({error}); start one with `ray start --head`"
        ) from None
    try:
        _run(ray, list(specs), store, cpus, gpus, listen or (lambda event: None))
    finally:
        ray.shutdown()


def _run(ray: Any, todo: list[RunSpec], store: Store, cpus: float, gpus: float, listen: Listener) -> None:
    remote = ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=RETRIES)(_outcome)
    room = max(1, int(ray.cluster_resources().get("CPU", 1) // max(cpus, 1))) * WAITING
    running: dict[Any, RunSpec] = {}
    todo = todo[::-1]
    while todo or running:
        while todo and len(running) < room:
            spec = todo.pop()
            running[remote.remote(spec.to_dict(), cpus)] = spec
            listen(Event("started", spec))
        (ready,), _ = ray.wait(list(running), num_returns=1)
        spec = running.pop(ready)
        try:
            kind, result = ray.get(ready)
        except ray.exceptions.RayError as error:
            kind, result = "failed", f"its worker died {RETRIES + 1} times ({type(error).__name__})"
        if kind == "out of memory" and not spec.halved:
            todo.append(halved(spec))
            listen(Event("halved", spec, {"error": result}))
        elif kind == "record":
            store.write(spec, result)
            listen(Event("done", spec, {"status": result.parameters["status"]}))
        else:
            why = f"{kind}, also with half the batch ({result})" if kind == "out of memory" else result
            store.write(spec, failed_record(spec, "failed", why))
            listen(Event("failed", spec, {"error": why}))


def _outcome(values: dict[str, Any], threads: float) -> tuple[str, Any]:
    """On a worker of Ray: ("record", Record), or what went wrong and its message."""
    import torch

    from scaletut.sweep.train import execute

    torch.set_num_threads(max(1, int(threads)))
    spec = RunSpec.from_dict(values)
    try:
        return "record", execute(spec)
    except MemoryError as error:
        return "out of memory", " ".join(str(error).split())[:300]
    except Exception as error:
        return "failed", f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
