"""`scaletut compress` and `scaletut frontier`: carry out a recipe or search for one, and what no other point beats."""

from __future__ import annotations

import argparse
import contextlib
import re
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scaletut.cli_output import write_json, written
from scaletut.errors import CheckFailed, ParameterError
from scaletut.files import atomic_write

if TYPE_CHECKING:
    from torch import nn

    from scaletut.compress.driver import Bench, Stage
    from scaletut.compress.frontier import Cost, Point
    from scaletut.compress.planner import Found, Limit, Target, Tried
    from scaletut.compress.recipe import Step
    from scaletut.records import Value

HOLD_OUT = 5000  # images that are scored, or a tenth where there are fewer than ten times as many
MAX_DROP = 0.5  # points, when a search is asked for and nothing else is said
BUILT = Path("_build") / "compress"
NO_TABLE = "·"
ABOUT_SCORES = "drops are against the network as given on the same images; ratios are times it, run by PyTorch"


@dataclass(frozen=True)
class _Job:
    """What the command line asks for, read and checked before anything is computed."""

    net: nn.Module
    manifest: dict[str, Any]
    name: str
    source: str
    steps: tuple[Step, ...]
    target: Target
    out: Path | None
    records: Path
    notes: list[str]


def run_compress(options: argparse.Namespace) -> int:
    """`scaletut compress`: what each step of a recipe costs and saves, or the recipe that reaches a target."""
    job = _job(options)
    return (_carry_out if job.steps else _search)(job, options)


def run_frontier(options: argparse.Namespace) -> int:
    """`scaletut frontier`: every recorded point, and which of them no other beats."""
    from scaletut.compress.frontier import front, points
    from scaletut.records import find_records
    from scaletut.records.ledger import APART

    if not options.records.is_dir():
        raise ParameterError(f"there is no folder {options.records}; give one that holds records")
    found = points(find_records(options.records, skip=APART))
    if not found:
        raise ParameterError(
            f"{options.records} holds no points: `scaletut compress` writes them, to {BUILT / 'records'} if not told"
        )
    best = front(found, options.x)
    if options.plot:
        _draw(found, options)
    plain = {"axis": options.x, "front": [point.name for point in best], "points": [one.to_dict() for one in found]}
    if not write_json(plain, options.json):
        print("\n".join(_frontier_lines(found, best, options.x)))
    return 0


# --- reading what is asked for


def _job(options: argparse.Namespace) -> _Job:
    from scaletut.compress.planner import Limit, Target
    from scaletut.compress.recipe import parse
    from scaletut.models import load_weights, read_manifest

    steps = parse(options.recipe) if options.recipe else ()
    most = options.max_drop if options.max_drop is not None else (float("inf") if steps else MAX_DROP)
    latency: Limit | None = Limit.latency(options.target_latency) if options.target_latency else None
    size: Limit | None = Limit.bytes(options.target_bytes) if options.target_bytes else None
    target = Target(latency, size, most)
    if not steps and not (latency or size):
        raise ParameterError("nothing to do: give --recipe prune=0.5,int8, or a target, such as --target-latency 2x")
    if steps and options.study:
        raise ParameterError("--study keeps the trials of a search, and --recipe leaves nothing to search; give one")
    _check_places(options)
    manifest = read_manifest(options.checkpoint)
    net = load_weights(options.checkpoint)
    source = options.data or manifest.get("data", "")
    if not source:
        raise ParameterError(f"{options.checkpoint} does not say what it was trained on; add --data, such as zipf10")
    name = options.name or _network_name(manifest, options.checkpoint)
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise ParameterError(f"--name {name}: take lower-case letters, digits and underscores, a letter first")
    out = Path(options.out) if options.out else None
    return _Job(net, manifest, name, source, steps, target, out, options.records or BUILT / "records", [])


def _check_places(options: argparse.Namespace) -> None:
    out = Path(options.out) if options.out else None
    if out and out.suffix != ".onnx":
        raise ParameterError(f"--out {out}: a program's name ends in .onnx; the weights get the same name beside it")
    if out and out.with_suffix(".safetensors").resolve() == Path(options.checkpoint).resolve():
        raise ParameterError(f"--out {out} would put the new weights over {options.checkpoint}; give another name")
    if out:
        written(options.out, lambda: out.parent.mkdir(parents=True, exist_ok=True))  # before minutes are spent


def _network_name(manifest: dict[str, Any], checkpoint: Path) -> str:
    """What the records call it: name and width; of a network that was compressed before, the file's name."""
    net = manifest["net"]
    text = f"{net['name']}_w{net['width']:g}" if net.get("width") else net["name"]
    if manifest.get("steps"):
        text = Path(checkpoint).stem
    text = re.sub(r"[^a-z0-9]+", "_", text.lower().replace(".", "p")).strip("_")
    return text if text[:1].isalpha() else f"net_{text}"


def _bench(job: _Job, options: argparse.Namespace, folder: Path, report: Any) -> Bench:
    """Images, split as they were for the network's own training where its manifest tells."""
    from scaletut.compress.driver import Bench
    from scaletut.data import channel_statistics, load

    data = load(job.source)
    held = options.hold_out or job.manifest.get("hold_out") or min(HOLD_OUT, len(data.train) // 10)
    if not 0 < held < len(data.train):
        raise ParameterError(f"{held} of {len(data.train)} images would be held out; leave some to train on")
    train, scored = data.train.split(held, seed=0)
    told = job.manifest.get("hold_out") == held
    if not told:
        job.notes.append(
            f"the checkpoint does not say that {held} images were held out of its training; if it has learned the ones "
            "that are scored here, its accuracy and all drops look larger than they are"
        )
    if options.images:
        if options.images > len(train):
            raise ParameterError(f"--images {options.images}: there are {len(train)} to train on")
        train = train.split(options.images, seed=0)[1] if options.images < len(train) else train
    normalisation = job.manifest.get("normalisation")
    if normalisation is None:
        normalisation = channel_statistics(data.train)
        job.notes.append(
            "the checkpoint does not say how its images were normalised; those of the training set are used"
        )
    mean, std = (tuple(float(x) for x in part) for part in normalisation)
    return Bench(
        train,
        data.test if options.final and job.steps else scored,
        (mean, std),
        folder,
        epochs=options.epochs,
        seed=options.seed,
        petaflop=float(job.manifest.get("petaflop", 0.0)),
        facts={"data": job.source, **({"hold_out": held} if told else {})},
        threads=options.threads,
        seconds=options.seconds,
        report=report,
    )


# --- a recipe


def _carry_out(job: _Job, options: argparse.Namespace) -> int:
    from scaletut.compress.driver import compress

    with _bar() as report, tempfile.TemporaryDirectory() as folder:
        bench = _bench(job, options, Path(folder), report)
        stages = compress(job.net, job.steps, bench)
        last = stages[-1]
        files = _keep(job, options, last.program.path, last.weights)
        records = _record(job, options, bench, stages)
    misses = job.target.misses(job.target.shares(last, stages[0]), last.drop.value)
    _note_numbers(job, last)
    told = {
        **_told(job, bench, options),
        "stages": [_plain(stage) for stage in stages],
        "program": files[0],
        "weights": files[1],
        "records": records,
        "misses": list(misses),
    }
    if not write_json(told, options.json):
        print("\n".join([*_stage_lines(stages), "", _scored_on(bench, options), ABOUT_SCORES]))
        print(f"program {files[0]}, weights {files[1]}, records in {job.records}")
    _tell_notes(job)
    if misses:
        raise CheckFailed(f"{last.name} misses what was asked for: {'; '.join(misses)}")
    return 0


def _told(job: _Job, bench: Bench, options: argparse.Namespace) -> dict[str, Any]:
    return {
        "network": job.name,
        "data": job.source,
        "scored": len(bench.scored),
        "test_set": bool(options.final),
        "seed": options.seed,
        "notes": job.notes,
    }


def _keep(job: _Job, options: argparse.Namespace, program: Path, weights: Path) -> tuple[str, str]:
    """Copies of a program and of its weights under the names that were asked for."""
    out = job.out or BUILT / f"{Path(options.checkpoint).stem}-{program.stem}.onnx"
    kept = (out, out.with_suffix(".safetensors"))
    for path, source in zip(kept, (program, weights), strict=True):
        written(str(path), lambda path=path, source=source: atomic_write(path, source.read_bytes()))
    return str(kept[0]), str(kept[1])


def _record(job: _Job, options: argparse.Namespace, bench: Bench, stages: Sequence[Stage]) -> list[str]:
    """A record for each stage that was measured; one of an earlier call with the same seed is replaced."""
    from scaletut.compress.driver import record_of
    from scaletut.records import write_record

    command = f"scaletut compress {Path(options.checkpoint).name} --data {job.source} --epochs {options.epochs:g}"
    command += f" --seed {options.seed}" + (" --final" if options.final else "")
    paths = []
    for stage in stages:
        if not stage.measured:
            continue
        recipe = ",".join(stage.steps)
        record = record_of(
            stage, bench, job.name, profile="laptop", data=job.source,
            command=f"{command} --recipe {recipe or (','.join(stages[-1].steps))}",
        )  # fmt: skip
        path = None

        def write(record: Any = record) -> None:
            nonlocal path
            path = write_record(record, job.records, replace=True)

        written(str(job.records), write)
        paths.append(str(path))
    return paths


# --- a search


def _search(job: _Job, options: argparse.Namespace) -> int:
    from scaletut.compress.planner import search

    study = Path(options.study) if options.study else BUILT / f"{job.name}.db"
    written(str(study), lambda: study.parent.mkdir(parents=True, exist_ok=True))
    folder = study.with_name(f"{study.stem}-programs")
    with _bar(options.trials) as report:
        bench = _bench(job, options, folder, report)

        def listen(tried: Tried, stages: Sequence[Stage]) -> None:
            report.ended(_tried_line(tried))
            _record(job, options, bench, stages)

        try:
            found = search(job.net, bench, job.target, study, trials=options.trials, listen=listen)
        except KeyboardInterrupt:
            print(f"\nthe trials so far are in {study}; the same command goes on", file=sys.stderr)
            raise
    chosen, files, final = found.nearest, None, None
    if chosen and chosen.state == "measured":
        bench = replace(bench, folder=found.folder)
        places = _files_of(job, bench, chosen)
        files = _keep(job, options, *places)
        final = _final(job, bench, places[0]) if options.final else None
    told = {
        **_told(job, bench, options),
        "trials": [asdict(one) for one in found.trials],
        "best": asdict(found.best) if found.best else None,
        "nearest": asdict(chosen) if chosen else None,
        "final": {name: asdict(value) for name, value in final.items()} if final else None,
        "program": files[0] if files else None,
        "weights": files[1] if files else None,
        "study": str(study),
    }
    if not write_json(told, options.json):
        print("\n".join(_search_lines(found, bench, options)))
        if final:
            print(f"on the test set: accuracy {_interval(final['accuracy'])} %, drop {_interval(final['drop'])} points")
        if files:
            print(f"program {files[0]}, weights {files[1]}, records in {job.records}, trials in {study}")
    _tell_notes(job)
    if found.best is None:
        raise CheckFailed(_nothing_found(found))
    return 0


def _files_of(job: _Job, bench: Bench, tried: Tried) -> tuple[Path, Path]:
    """Program and weights of a trial, made again should somebody have cleared them away."""
    from scaletut.compress.driver import compress, files
    from scaletut.compress.recipe import parse

    steps = parse(tried.recipe) if tried.recipe else ()
    places = files(steps, bench.folder)
    if not all(place.is_file() for place in places):
        compress(job.net, steps, bench)
    return places


def _final(job: _Job, bench: Bench, path: Path) -> dict[str, Value]:
    """Accuracy and drop on the test set, which no trial has seen."""
    from scaletut.compress.driver import score
    from scaletut.compress.program import Program
    from scaletut.data import load

    accuracy, drop = score(job.net, Program.load(path), replace(bench, scored=load(job.source).test))
    return {"accuracy": accuracy, "drop": drop}


def _nothing_found(found: Found) -> str:
    if found.nearest is None:
        return f"none of {len(found.trials)} trials could be measured; the first: {found.trials[0].why}"
    misses = found.target.misses(found.nearest.shares, found.nearest.drop)
    return (
        f"none of {len(found.trials)} trials reaches what was asked for; nearest is {found.nearest.recipe}: "
        f"{'; '.join(misses)}"
    )


# --- what is printed


class _Report:
    """A progress bar that a `Bench` reports to."""

    def __init__(self, bar: Any) -> None:
        self.bar = bar

    def __call__(self, stage: str, share: float) -> None:
        self.bar.set_description(stage if share <= 0 else f"{stage} {share:.0%}")

    def ended(self, line: str) -> None:
        self.bar.write(line, file=sys.stderr)
        self.bar.update()


@contextlib.contextmanager
def _bar(total: int | None = None) -> Iterator[_Report]:
    from tqdm import tqdm

    form = None if total else "{desc} {elapsed}"
    with tqdm(total=total, unit="trial", leave=False, bar_format=form, file=sys.stderr) as bar:
        yield _Report(bar)


def _note_numbers(job: _Job, stage: Stage) -> None:
    """What a reader of the table must know about numbers of few bits."""
    from scaletut.compress.instructions import int8_warning

    if stage.simulated_bytes is not None:
        job.notes.append(
            f"w4 is simulated: they would take {stage.simulated_bytes / 1e3:,.0f} kB, this program holds floats"
        )
    if {"int8", "dynamic"} & set(stage.steps) and (warning := int8_warning()):
        job.notes.append(warning)


def _tell_notes(job: _Job) -> None:
    for note in job.notes:
        print(f"note: {note}", file=sys.stderr)


def _scored_on(bench: Bench, options: argparse.Namespace) -> str:
    kind = "test images" if options.final else "images held out of training; score on the test set once, with --final"
    return f"accuracy on {len(bench.scored):,} {kind}"


def _stage_lines(stages: Sequence[Stage]) -> list[str]:
    header = ["step", "parameters", "kB", "accuracy %", "drop, points", "ms, 1 image", "times", "ms, 64", "times"]
    rows = [header]
    for stage in stages:
        timing = [NO_TABLE] * 4
        if stage.latency:
            values = stage.values()
            timing = [
                text
                for images in (1, 64)
                for text in (_three(values[f"latency_{images}"].value), _interval(values[f"speedup_{images}"], 2))
            ]
        size = NO_TABLE if stage.bytes is None else f"{stage.bytes / 1e3:,.0f}"
        row = [stage.name, f"{stage.parameters:,}", size, _interval(stage.accuracy), _interval(stage.drop, 2), *timing]
        rows.append(row)
    return _table(rows)


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Columns as wide as they must be: the first to the left, the others to the right."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    lines = []
    for first, *others in rows:
        cells = [f"{cell:>{width}}" for cell, width in zip(others, widths[1:], strict=True)]
        lines.append("  ".join([f"{first:<{widths[0]}}", *cells]).rstrip())
    return lines


def _interval(value: Value, digits: int = 1) -> str:
    text = f"{value.value:.{digits}f}"
    return text if value.low is None else f"{text} ({value.low:.{digits}f} to {value.high:.{digits}f})"


def _three(value: float) -> str:
    return f"{value:.3g}" if value < 1000 else f"{value:,.0f}"


def _tried_line(tried: Tried) -> str:
    head = f"{tried.number + 1:>3} {tried.recipe or 'the program as it is'}: "
    if tried.state == "failed":
        return f"{head}failed: {tried.why}"
    figures = f"{1e3 * tried.latency:.3g} ms, {tried.bytes / 1e3:,.0f} kB"
    if tried.state == "missed":
        return f"{head}{figures}, which misses the target, so it was not trained"
    return f"{head}{figures}, {tried.accuracy:.1f} %, drop {tried.drop:.2f}"


def _search_lines(found: Found, bench: Bench, options: argparse.Namespace) -> list[str]:
    lines = [_tried_line(one) for one in found.trials]
    if found.best:
        lines += ["", f"best: trial {_tried_line(found.best).strip()}"]
        if not options.final:
            lines.append("its drop is the least of several, so a little too good: score it once with --final")
    return [*lines, f"{_scored_on(bench, argparse.Namespace(final=False))}"]


def _plain(stage: Stage) -> dict[str, Any]:
    values = stage.values() if stage.measured else {"accuracy": stage.accuracy, "drop": stage.drop}
    return {
        "name": stage.name,
        "steps": list(stage.steps),
        "parameters": stage.parameters,
        "bytes": stage.bytes,
        "values": {name: asdict(value) for name, value in values.items()},
        "agreement": stage.program.manifest["agreement"] if stage.program else None,
    }


def _frontier_lines(points: Sequence[Point], best: Sequence[Point], x: Cost) -> list[str]:
    from scaletut.compress.frontier import beaten_by

    header = ["point", "seeds", "accuracy %", "drop", "ms, 1 image", "ms, 64", "kB", "CPU s a 1,000", "beaten by"]
    rows = [header]
    for point in sorted(points, key=lambda one: one.cost(x).value):
        other = beaten_by(point, best, x)
        values = point.values
        rows.append(
            [
                point.label,
                str(len(point.seeds)),
                _interval(point.accuracy),
                _interval(values["drop"], 2) if "drop" in values else NO_TABLE,
                *(_three(values[name].value) for name in ("latency_1", "latency_64", "bytes", "cpu_seconds")),
                other.label if other else "",
            ]
        )
    count = f"{len(best)} of {len(points)} points are on the front by {x}: no other is both cheaper and more accurate"
    return [*_table(rows), "", count]


def _draw(found: Sequence[Point], options: argparse.Namespace) -> None:
    from scaletut.compress.frontier import plot_front
    from scaletut.figures import use_style

    if Path(options.plot).suffix not in (".png", ".svg", ".pdf"):
        raise ParameterError(f"--plot {options.plot}: give a name that ends in .png, .svg or .pdf")
    use_style()
    figure = plot_front(found, options.x)
    written(options.plot, lambda: figure.savefig(options.plot, dpi=150))
