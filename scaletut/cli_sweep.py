"""`scaletut sweep` and `scaletut watch`: many runs from one plan, and how far they are."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scaletut.errors import CheckFailed, ParameterError
from scaletut.files import atomic_write

if TYPE_CHECKING:
    from scaletut.records import Record
    from scaletut.sweep import Event, Found, RunSpec, Store, SweepPlan
    from scaletut.sweep.todo import More

OK = 0
WATCH_EVERY = 2.0  # seconds
LAST = 8  # runs that are listed


def run_sweep(options: argparse.Namespace) -> int:
    """Expand the plan, tell what it costs, run what is missing."""
    from scaletut.sweep import Store, load_plan

    plan = load_plan(options.plan)
    store = Store(options.out or Path("_build") / "sweeps" / plan.name)
    if options.storage and not plan.search:
        raise ParameterError("--storage is where a search is kept, and this plan has no search; leave it out")
    if options.dry_run:
        return _dry_run(plan, store, options)
    store.open()
    with store.held():
        return (_search if plan.search else _run_all)(plan, store, options)


def _run_all(plan: SweepPlan, store: Store, options: argparse.Namespace) -> int:
    specs = plan.runs()
    todo = store.missing(specs)
    _refuse_repeats(len(specs) - len(todo), options, store)
    print(f"{plan.name}: {len(specs):,} runs, {len(specs) - len(todo):,} finished before, records in {store.folder}")
    if todo:
        _execute(todo, store, options, _View(sum(spec.work for spec in todo), len(todo)))
    return _finish(specs, store)


def _refuse_repeats(there: int, options: argparse.Namespace, store: Store) -> None:
    if there and not options.resume:
        raise ParameterError(
            f"{store.folder} holds {there} of these runs; add --resume to run the rest, "
            "or give another folder with --out"
        )


def _execute(
    todo: Sequence[RunSpec], store: Store, options: argparse.Namespace, view: _View, more: More | None = None
) -> None:
    from scaletut.sweep import run_local, run_on_ray

    try:
        if options.executor == "ray":
            where = {"address": options.address, "cpus": options.cpus, "gpus": options.gpus}
            run_on_ray(todo, store, **where, listen=view, more=more)
        else:
            run_local(todo, store, workers=options.workers, threads=options.threads, listen=view, more=more)
    finally:
        view.close()


def _search(plan: SweepPlan, store: Store, options: argparse.Namespace) -> int:
    """Run the trials of a plan that searches, and tell the best values."""
    from scaletut.sweep import Searcher

    searcher = Searcher(plan, store, options.storage)
    begun = searcher.begun()
    _refuse_repeats(begun, options, store)
    print(f"{plan.name}: {searcher.runs:,} runs of a search, {begun} trials begun before, records in {store.folder}")
    work = plan.search.trials * sum(spec.work for spec in plan.runs())
    _execute([], store, options, _View(work, searcher.runs), searcher.more)
    table = "".join(",".join(row) + "\n" for row in searcher.rows())
    path = atomic_write(store.folder / "search.csv", table)
    found = searcher.found()
    for one in found:
        _tell_found(one)
    print(f"all trials in {path}; the losses are the lowest of many, so train the values again with new seeds to quote")
    if any(one.best is None for one in found):
        raise CheckFailed("no trial of a combination has a loss; their records say why")
    return OK


def _tell_found(found: Found) -> None:
    spec = found.spec
    length = f"{spec.epochs:g} epochs" if spec.epochs else f"{spec.flops:g} FLOP"
    print(f"width {spec.width:g}, {spec.examples or 'all'} examples, {length}: ", end="")
    without = f", {found.without_loss} of them without a loss" if found.without_loss else ""
    if found.best is None:
        print(f"no loss in {found.tried} trials")
        return
    values = ", ".join(f"{k} = {v:.4g}" if isinstance(v, float) else f"{k} = {v}" for k, v in found.best.values.items())
    seeds = len(found.best.specs)
    print(f"best of {found.tried} trials{without}: {values} (held-out loss {found.best.loss:.4f}, {seeds} seeds)")
    for name in found.at_edge:
        print(f"  {name} lies at an end of its range; search wider")


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


def _dry_run(plan: SweepPlan, store: Store, options: argparse.Namespace) -> int:
    """Print runs, FLOPs, memory and hours; refuse what cannot fit."""
    from scaletut.sweep.cost import forecast, free_memory

    specs = plan.runs() * (plan.search.trials if plan.search else 1)
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

    def __init__(self, work: float, runs: int) -> None:
        from tqdm import tqdm

        self.work, self.runs = work, runs
        self.shares: dict[str, float] = {}
        self.done, self.finished = 0.0, 0
        self.began = time.monotonic()  # tqdm's own clock is the wall's, which may jump
        self.format_interval = tqdm.format_interval
        self.bar = tqdm(
            total=1.0, disable=None if sys.stderr.isatty() else True, desc="sweep",
            bar_format="{desc} {percentage:3.0f}%|{bar}| {postfix}",
        )  # fmt: skip

    def __call__(self, event: Event) -> None:
        if event.kind in ("done", "failed"):
            self.finished += 1
            self.move(event.spec, 1.0)
        elif event.kind == "progress":
            self.move(event.spec, event.facts["share"])
        if event.kind not in ("progress", "started"):
            self.tell(event)
        left = self.format_interval(self.seconds_left()) if self.done else "?"
        self.bar.set_postfix_str(f"{self.finished}/{self.runs} runs, {left} left", refresh=False)
        self.bar.refresh()

    def move(self, spec: RunSpec, share: float) -> None:
        self.done += spec.work * (share - self.shares.get(spec.key, 0.0)) / self.work
        self.shares[spec.key] = share
        self.bar.n = min(1.0, self.done)

    def seconds_left(self) -> float:
        """By the speed so far."""
        return max(0.0, (1 - self.done) / self.done * (time.monotonic() - self.began))

    def tell(self, event: Event) -> None:
        spec, facts = event.spec, event.facts
        what = f"loss {facts['loss']:.4f}" if "loss" in facts else facts.get("error") or facts.get("status", "recorded")
        name = f"width {spec.width:g}, {spec.examples or 'all'} examples, seed {spec.seed}"
        self.bar.write(f"{self.finished:>5}/{self.runs}  {name}: {event.kind}, {what}", file=sys.stdout)
        sys.stdout.flush()

    def close(self) -> None:
        self.bar.close()


def run_watch(options: argparse.Namespace) -> int:
    """Show how far a sweep is, until it is interrupted (or once)."""
    folder = options.folder
    if not folder.is_dir():
        raise ParameterError(f"{folder} is not a folder; give the one that `scaletut sweep` told")
    seen: dict[Path, Record] = {}
    while True:
        print(_state(folder, seen))
        if options.once:
            return OK
        time.sleep(WATCH_EVERY)
        if sys.stdout.isatty():
            print("\x1b[2J\x1b[H", end="")


def _state(folder: Path, seen: dict[Path, Record]) -> str:
    """The last runs, a drawing of all, and the law through them where five or more allow one.

    seen: records read before; a record never changes, and reading thousands takes seconds.
    """
    from scaletut.records import read_record
    from scaletut.sweep import left_out, run_table

    paths = list(folder.glob("*.json"))
    seen.update({path: read_record(path) for path in paths if path not in seen})
    records = [seen[path] for path in sorted(paths, key=lambda path: path.stat().st_mtime)]
    table, without = run_table(records), left_out(records)
    half = len(list((folder / ".checkpoints").glob("*.pt")))
    counts = f"{len(records)} runs recorded, {len(table['loss'])} with a loss, {half} half finished"
    lines = [f"{folder}: {counts}", *map(_line, records[-LAST:])]
    lines += [f"left out: {key}: {why}" for key, why in without[-LAST:]]
    recipes = {json.dumps(record.parameters["recipe"], sort_keys=True) for record in records}
    return "\n".join([*lines, *(_lowest(records) if len(recipes) > 1 else _law(table))])


def _line(record: Record) -> str:
    facts = {name: record.parameters[name] for name in ("width", "examples", "seed")}
    loss = record.values.get("loss")
    return f"  {json.dumps(facts)}  {record.parameters['status'] if loss is None else f'loss {loss.value:.4f}'}"


def _lowest(records: Sequence[Record]) -> list[str]:
    """Of a search, whose runs lie on no common curve: the lowest loss for each width and number of examples."""
    best: dict[tuple[float, int], Record] = {}
    for record in sorted((one for one in records if "loss" in one.values), key=lambda one: one.values["loss"].value):
        best.setdefault((record.parameters["width"], record.parameters["examples"]), record)
    return [
        f"lowest at width {width:g}, {examples or 'all'} examples: loss {record.values['loss'].value:.4f} with "
        f"{json.dumps(record.parameters['recipe'])}"
        for (width, examples), record in sorted(best.items())
    ]


def _law(table: dict[str, list[float]]) -> list[str]:
    from scaletut import scaling
    from scaletut.errors import ScaletutError
    from scaletut.sweep.chart import draw

    columns = {name: table[name] for name in ("params", "examples", "flops", "loss")}
    try:
        found: Any = scaling.fit(columns, "additive")
    except ScaletutError as error:
        return [draw(columns), f"no law yet: {error}"]
    values = ", ".join(f"{name} = {value:.4g}" for name, value in found.parameters.items())
    return [draw(columns, found.predict), f"L = E + A / N^alpha + B / D^beta with {values}"]
