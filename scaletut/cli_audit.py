"""The command of the audit room. It prints; the room computes."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from scaletut.audit import CHECKS, Report, audit, removals, write_cleaned
from scaletut.audit.report import known_checks
from scaletut.data.npz import replace_labels
from scaletut.data.sources import kind_of, load_whole
from scaletut.errors import ParameterError
from scaletut.files import atomic_write

SHOWN = 3  # findings of a kind named on the screen


def run_audit(options: argparse.Namespace) -> int:
    """`scaletut audit`: look, report, and write a cleaned set beside the old one."""
    _check_outputs(options)
    checks = known_checks([word.strip() for word in options.only.split(",") if word.strip()] or CHECKS)
    data = load_whole(options.source, seed=options.seed)
    if options.labels:
        data = replace_labels(data, options.labels)
    with _progress_bar() as told:
        report = audit(data, checks=checks, seed=options.seed, progress=told)
    written = []
    if options.json and options.json != "-":
        written.append(atomic_write(options.json, report.to_json()))
    if options.html:
        written.append(atomic_write(options.html, report.html(data)))
    if options.out:
        written += write_cleaned(report, data, options.out)
    if options.json == "-":
        print(report.to_json(), end="")
    else:
        print("\n".join([*_lines(report), *(f"wrote {path}" for path in written)]))
    return 0


# --- input and output ------------------------------------------------------------------


def _check_outputs(options: argparse.Namespace) -> None:
    """Refuse what cannot be written before minutes are spent on it, and never write over the source."""
    if options.out and Path(options.out).suffix != ".npz":
        raise ParameterError(f"--out {options.out} must be named .npz; it holds x_train, y_train, x_test, y_test")
    kind, source = kind_of(options.source)
    for option in ("json", "html", "out"):
        value = getattr(options, option)
        if not value or (option == "json" and value == "-"):
            continue
        path = Path(value)
        if kind in ("folder", "npz") and path.resolve() == Path(source).expanduser().resolve():
            raise ParameterError(f"--{option} {value} is the source; name another file, nothing is written over")
        folder = next(one for one in path.absolute().parents if one.exists())
        if path.is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
            raise ParameterError(f"--{option} {value} cannot be written; name a file in a folder that you may write to")
    targets = [Path(value).resolve() for value in (options.json, options.html, options.out) if value and value != "-"]
    if len(set(targets)) < len(targets):
        raise ParameterError("two of --json, --html and --out name the same file; give each its own")


@contextmanager
def _progress_bar() -> Iterator[Callable[[str, float], None]]:
    """A bar on the error stream, one check after the other."""
    from tqdm import tqdm

    with tqdm(total=100, unit="%", leave=False, bar_format="{desc:<18} {percentage:3.0f} %|{bar}| {elapsed}") as bar:

        def told(what: str, share: float) -> None:
            if bar.desc != what:
                bar.set_description_str(what, refresh=False)
                bar.reset()
            bar.update(100 * share - bar.n)

        yield told


# --- what is said ----------------------------------------------------------------------


def _lines(report: Report) -> list[str]:
    facts = report.summary
    sizes = ", ".join(f"{sum(counts):,} {split}" for split, counts in report.class_counts.items())
    lines = [f"{report.name}: {sizes} images, {len(report.class_names)} classes"]
    if "exact_duplicates" in facts:
        groups = [" = ".join(map(_said, group[:3])) for group in report.exact_duplicates]
        lines.append(_line("exact duplicates", facts["exact_duplicates"], groups))
        pairs = [f"{_said(pair.first)} ~ {_said(pair.second)}" for pair in report.near_duplicates]
        lines.append(_line("near duplicates", facts["near_duplicates"], pairs))
        lines.append(_line("  across splits", facts["near_duplicates_across_splits"], []))
    if "low_quality" in facts:
        kinds = [
            f"{name.partition('.')[2]} {count}" for name, count in facts.items() if name.startswith("low_quality.")
        ]
        lines.append(_line("low quality", facts["low_quality"], kinds, len(kinds)))
    if "label_issues" in facts:
        names = report.class_names
        issues = [
            f"{one.split} {one.index} {names[one.given]} -> {names[one.suggested]}" for one in report.label_issues
        ]
        lines.append(_line("label issues", facts["label_issues"], issues))
    if report.skipped:
        lines.append(_line("skipped files", len(report.skipped), [f"{path}: {why}" for path, why in report.skipped]))
    leave = len(removals(report))
    train = sum(report.class_counts["train"])
    return [*lines, f"a cleaned training set has {train - leave:,} of {train:,} images"]


def _line(what: str, count: int, examples: list[str], most: int = SHOWN) -> str:
    more = "; …" if len(examples) > most else ""
    shown = "; ".join(examples[:most]) + more
    return f"  {what:<17}{count:>7,}" + (f"   {shown}" if shown else "")


def _said(place: tuple[str, int]) -> str:
    return f"{place[0]} {place[1]}"
