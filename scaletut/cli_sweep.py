"""`scaletut sweep` and `scaletut watch`: many runs from one plan, and how far they are."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scaletut.errors import CheckFailed, ParameterError
from scaletut.files import atomic_write

if TYPE_CHECKING:
    from scaletut.sweep import Event, RunSpec, Store

OK = 0
WATCH_EVERY = 2.0  # seconds


def run_sweep(options: argparse.Namespace) -> int:
    """Expand the plan, tell what it costs, run what is missing."""
    from scaletut.sweep import Store, load_plan

    plan = load_plan(options.plan)
    specs = plan.runs()
    store = Store(options.out or Path("_build") / "sweeps" / plan.name)
    if options.dry_run:
        return _dry_run(specs, store, options)
    store.open()
    with store.held():
        todo = store.missing(specs)
        _refuse_repeats(options, specs, todo, store)
        print(
            f"{plan.name}: {len(specs):,} runs, {len(specs) - len(todo):,} finished before, records in {store.folder}"
        )
        if todo:
            _execute(todo, store, options)
    return _finish(specs, store)


def _refuse_repeats(
    options: argparse.Namespace, specs: Sequence[RunSpec], todo: Sequence[RunSpec], store: Store
) -> None:
    if len(todo) < len(specs) and not options.resume:
        raise ParameterError(
            f"{store.folder} holds {len(specs) - len(todo)} of these runs; add --resume to run the rest, "
            "or give another folder with --out"
        )


def _execute(todo: Sequence[RunSpec], store: Store, options: argparse.Namespace) -> None:
    from scaletut.sweep import run_local, run_on_ray

    view = _View(todo)
    try:
        if options.executor == "ray":
            run_on_ray(todo, store, address=options.address, cpus=options.cpus, gpus=options.gpus, listen=view)
        else:
            run_local(todo, store, workers=options.workers, threads=options.threads, listen=view)
    finally:
        view.close()


def _finish(specs: Sequence[RunSpec], store: Store) -> int:
    """Write the run table beside the records and tell what is in it."""
    from scaletut.sweep import left_out, run_table

    keys = {spec.key for spec in specs}
    records = [record for record in store.records() if record.parameters["key"] in keys]
    table = run_table(records)
    lines = [",".join(table), *(",".join(f"{x:.10g}" for x in row) for row in zip(*table.values(), strict=True))]
    path = atomic_write(store.folder / "runs.csv", "\n".join(lines) + "\n")
    without = left_out(records)
    for key, why in without:
        print(f"left out: {key}: {why}")
    print(f"{len(table['loss']):,} runs in {path}; next: scaletut fit {path}")
    if any("failed" in record.parameters["status"] for record in records):
        raise CheckFailed(f"{len(without)} runs have no loss; their records say why")
    return OK


def _dry_run(specs: Sequence[RunSpec], store: Store, options: argparse.Namespace) -> int:
    """Print runs, FLOPs, memory and hours; refuse what cannot fit."""
    from scaletut.sweep.forecast import forecast, free_memory

    todo = store.missing(specs) if store.folder.is_dir() else list(specs)
    print(f"{len(specs):,} runs, {len(todo):,} to do")
    if not todo:
        return OK
    costs = forecast(todo)
    print(f"{'width':>7} {'runs':>6} {'parameters':>11} {'PFLOP':>9} {'memory GB':>10} {'core hours':>11}")
    for cost in costs:
        print(
            f"{cost.width:>7g} {cost.runs:>6,} {cost.params:>11,} {cost.flops / 1e15:>9.3g} "
            f"{cost.memory / 1e9:>10.2f} {cost.seconds / 3600:>11.2f}"
        )
    hours = sum(cost.seconds for cost in costs) / 3600
    print(f"all: {sum(cost.flops for cost in costs) / 1e15:.3g} PFLOP, about {hours / options.workers:.2f} h "
          f"with {options.workers} workers")  # fmt: skip
    worst = max(cost.memory for cost in costs) * options.workers
    if worst > free_memory():
        raise ParameterError(
            f"{options.workers} workers need up to {worst / 1e9:.1f} GB, and {free_memory() / 1e9:.1f} GB are free; "
            "use fewer workers, smaller widths or a smaller batch"
        )
    return OK


class _View:
    """A bar that moves by the work done: small runs of a sweep take a thousandth of the large ones."""

    def __init__(self, todo: Sequence[RunSpec]) -> None:
        from tqdm import tqdm

        self.work = {spec.key: spec.work for spec in todo}
        self.shares: dict[str, float] = {}
        self.finished = 0
        self.bar = tqdm(
            total=1.0, disable=None if sys.stderr.isatty() else True, mininterval=0.5, desc="sweep",
            bar_format="{desc} {percentage:3.0f}%|{bar}| {elapsed}<{remaining} {postfix}",
        )  # fmt: skip

    def __call__(self, event: Event) -> None:
        key = event.spec.key
        if event.kind in ("done", "failed"):
            self.finished += 1
            self.shares[key] = 1.0
            self.tell(event)
        elif event.kind == "progress":
            self.shares[key] = event.facts["share"]
        elif event.kind in ("halved", "retried"):
            self.tell(event)
        total = sum(self.work.values())
        done = sum(self.work[name] * share for name, share in self.shares.items()) / total
        self.bar.n = min(1.0, done)
        self.bar.set_postfix_str(f"{self.finished}/{len(self.work)} runs", refresh=False)
        self.bar.refresh()

    def tell(self, event: Event) -> None:
        spec, facts = event.spec, event.facts
        what = f"loss {facts['loss']:.4f}" if "loss" in facts else facts.get("status") or facts.get("error", event.kind)
        name = f"width {spec.width:g}, {spec.examples or 'all'} examples, seed {spec.seed}"
        self.bar.write(f"{self.finished:>5}/{len(self.work)}  {name}: {event.kind}, {what}", file=sys.stdout)
        sys.stdout.flush()

    def close(self) -> None:
        self.bar.close()


def run_watch(options: argparse.Namespace) -> int:
    """Show how far a sweep is, until it is interrupted (or once)."""
    folder = options.folder
    if not folder.is_dir():
        raise ParameterError(f"{folder} is not a folder; give the one that `scaletut sweep` told")
    while True:
        print(_state(folder))
        if options.once:
            return OK
        time.sleep(WATCH_EVERY)
        if sys.stdout.isatty():
            print("\x1b[2J\x1b[H", end="")


def _state(folder: Path) -> str:
    """Runs by status, the last ones, and the law through those that are there, where five or more allow one."""
    from scaletut.sweep import Store, run_table

    records = Store(folder).records()
    table = run_table(records)
    checkpoints = len(list((folder / ".checkpoints").glob("*.pt")))
    lines = [f"{folder}: {len(records)} runs recorded, {len(table['loss'])} with a loss, {checkpoints} half finished"]
    latest = sorted(records, key=lambda record: os.stat(record.path).st_mtime)[-8:]
    for record in latest:
        loss = record.values.get("loss")
        facts = {name: record.parameters[name] for name in ("width", "examples", "seed")}
        lines.append(
            f"  {json.dumps(facts)}  {'no loss: ' + record.note if loss is None else f'loss {loss.value:.4f}'}"
        )
    return "\n".join([*lines, _law(table)])


def _law(table: dict[str, list[float]]) -> str:
    from scaletut import scaling
    from scaletut.errors import ScaletutError

    columns = {name: table[name] for name in ("params", "examples", "flops", "loss")}
    try:
        found: Any = scaling.fit(columns, "additive")
    except ScaletutError as error:
        return f"no law yet: {error}"
    return "L = E + A / N^alpha + B / D^beta with " + ", ".join(f"{k} = {v:.4g}" for k, v in found.parameters.items())
