"""The records of a plan, for a notebook: what a folder has, and the rest trained now."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

from scaletut.records import Record
from scaletut.sweep.local import run_local
from scaletut.sweep.plan import SweepPlan
from scaletut.sweep.store import Store
from scaletut.sweep.todo import Event


def gather(
    plan: SweepPlan,
    folder: Path | str,
    *,
    workers: int = 1,
    threads: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> list[Record]:
    """The plan's records, in the order of its runs; those that `folder` lacks are trained first.

    workers, threads: as of `run_local`. progress: told how many of the missing runs are finished, and how many there
    were. An interrupt loses nothing: the next call goes on.
    Raises SweepError when the folder cannot be written to, or another sweep holds it.
    """
    store, specs = Store(Path(folder)), plan.runs()
    store.open()
    with store.held():
        missing = store.missing(specs)
        ended = itertools.count(1)

        def listen(event: Event) -> None:
            if progress and event.kind in ("done", "failed"):
                progress(next(ended), len(missing))

        run_local(missing, store, workers=workers, threads=threads, listen=listen)
    by_key = {record.parameters["key"]: record for record in store.records()}
    return [by_key[spec.key] for spec in specs]
