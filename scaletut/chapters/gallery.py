"""Variants of one chapter side by side: every combination of a grid, one table, one page."""

from __future__ import annotations

import csv
import html
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from scaletut.chapters import resolve
from scaletut.chapters.resolve import schema_of
from scaletut.chapters.run import Plan, plan, variants
from scaletut.errors import ParameterError
from scaletut.files import atomic_write

MOST_VARIANTS = 100


def plans(
    chapter: str,
    assignments: Sequence[str],
    grid: Sequence[str],
    *,
    profile: str = "",
    out: Path | None = None,
    root: Path | None = None,
) -> list[Plan]:
    """The validated runs of a grid, each in a folder named after its values.

    assignments: `name=value` for all variants. grid: `name=a,b,c`, or `name=a;b` when a value holds a comma.
    out: by default `_build/grid/<chapter>/`.
    Raises ParameterError for any wrong parameter of any variant, before anything runs.
    """
    from scaletut.chapters.places import book_root

    root = root or book_root()
    common = resolve.parse_assignments(chapter, assignments)
    axes = _axes(chapter, grid)
    if twice := set(axes) & set(common):
        raise ParameterError(f"{min(twice)} is given by -p and by --grid; give it once")
    folder = out or root / "_build" / "grid" / chapter
    combinations = variants(chapter, axes)
    if len(combinations) > MOST_VARIANTS:
        raise ParameterError(f"the grid has {len(combinations)} variants; keep it to {MOST_VARIANTS} or fewer")
    return [
        plan(chapter, {**common, **values}, profile=_profile(profile, values), out=folder / _name(values), root=root)
        for values in combinations
    ]


def _axes(chapter: str, grid: Sequence[str]) -> dict[str, list[Any]]:
    schema = schema_of(chapter)
    axes: dict[str, list[Any]] = {}
    for axis in grid:
        name, text = resolve.split_assignment(axis)
        if name in axes:
            raise ParameterError(f"--grid {name} is given twice; list all its values in one")
        words = text.split(";" if ";" in text else ",")
        axes[name] = [resolve.parse_value(schema, name, word.strip()) for word in words]
    return axes


def _profile(profile: str, values: Mapping[str, Any]) -> str:
    return "" if "profile" in values else profile


def _name(values: Mapping[str, Any]) -> str:
    """A folder's name for one variant; letters that a file system may refuse become dashes."""
    name = ",".join(f"{key}={value}" for key, value in values.items())
    return "".join(letter if letter.isalnum() or letter in "=,._-" else "-" for letter in name)


# --- the comparison ----------------------------------------------------------------


def write(works: Sequence[Plan], *, failed: Mapping[Path, str]) -> list[Path]:
    """Write `comparison.csv` and `comparison.html` over the variants' folders; returns their paths.

    failed: folder of a variant -> why it failed; such a variant has a row that says so.
    """
    folder = works[0].folder.parent
    varied = [name for name in works[0].given if len({str(work.given.get(name)) for work in works}) > 1]
    varied = varied or ["profile"]
    measured = [({} if work.folder in failed else _measured(work)) for work in works]
    table, page = folder / "comparison.csv", folder / "comparison.html"
    atomic_write(table, _csv(works, varied, measured, failed))
    atomic_write(page, _page(works, varied, measured, failed))
    return [table, page]


def _measured(work: Plan) -> dict[str, Any]:
    """All values of the variant's records: `experiment.name` -> Value."""
    from scaletut.records import Value, find_records

    found: dict[str, Any] = {}
    for record in find_records(work.records):
        found.update({f"{record.experiment}.{name}": value for name, value in record.values.items()})
        found[f"{record.experiment}.run_minutes"] = Value(record.wall_seconds / 60, "min")
    return found


def _columns(measured: Sequence[Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(name for values in measured for name in values))


def _csv(
    works: Sequence[Plan],
    varied: Sequence[str],
    measured: Sequence[Mapping[str, Any]],
    failed: Mapping[Path, str],
) -> str:
    """Each value as three columns, value and interval, with the unit in the header."""
    columns = _columns(measured)
    units = {name: next(values[name].unit for values in measured if name in values) for name in columns}
    header = [*varied]
    for name in columns:
        label = f"{name} [{units[name]}]" if units[name] else name
        header += [label, f"{name} low", f"{name} high"]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*header, "status"])
    for work, values in zip(works, measured, strict=True):
        row: list[Any] = [work.resolved.model_dump()[name] for name in varied]
        for name in columns:
            value = values.get(name)
            row += ["", "", ""] if value is None else [value.value, _blank(value.low), _blank(value.high)]
        writer.writerow([*row, failed.get(work.folder, "passed")])
    return text.getvalue()


def _blank(number: float | None) -> Any:
    return "" if number is None else number


def _page(
    works: Sequence[Plan],
    varied: Sequence[str],
    measured: Sequence[Mapping[str, Any]],
    failed: Mapping[Path, str],
) -> str:
    columns = _columns(measured)
    head = "".join(f"<th scope=col>{html.escape(name)}</th>" for name in [*varied, *columns, "notebook"])
    rows = [_row(work, varied, columns, values, failed) for work, values in zip(works, measured, strict=True)]
    figures = [_figures(work, varied) for work in works if work.folder not in failed]
    title = f"{schema_of(works[0].chapter).title}: {len(works)} variants"
    return _PAGE.format(title=html.escape(title), head=head, rows="\n".join(rows), figures="\n".join(figures))


def _row(
    work: Plan,
    varied: Sequence[str],
    columns: Sequence[str],
    values: Mapping[str, Any],
    failed: Mapping[Path, str],
) -> str:
    from scaletut.records.formatting import format_value

    cells = [f"<th scope=row>{html.escape(str(work.resolved.model_dump()[name]))}</th>" for name in varied]
    for name in columns:
        value = values.get(name)
        form = "value" if value is None or value.low is None else "interval"
        cells.append(f"<td>{'–' if value is None else html.escape(format_value(value, form))}</td>")
    if fault := failed.get(work.folder):
        last = html.escape(fault)
    else:
        last = f'<a href="{html.escape(work.folder.name)}/{work.notebook.name}">{work.notebook.name}</a>'
    return f"<tr>{''.join(cells)}<td>{last}</td></tr>"


def _figures(work: Plan, varied: Sequence[str]) -> str:
    """The variant's figures, with the alt text of their cells."""
    from scaletut.chapters.pairs import read_notebook

    images = []
    for cell in read_notebook(work.notebook).cells:
        alt = html.escape(str(cell.metadata.get("mystnb", {}).get("image", {}).get("alt", "")), quote=True)
        for output in cell.get("outputs", []):
            if png := output.get("data", {}).get("image/png"):
                images.append(f'<img alt="{alt}" src="data:image/png;base64,{"".join(png).strip()}">')
    values = ", ".join(f"{name} = {work.resolved.model_dump()[name]}" for name in varied)
    return f"<section><h2>{html.escape(values)}</h2>{''.join(images)}</section>" if images else ""


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{title}</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; margin: 2rem; }}
.wide {{ overflow-x: auto; }}
table {{ border-collapse: collapse; }}
th, td {{ border: 1px solid #888; padding: .3rem .6rem; text-align: left; }}
img {{ max-width: 24rem; }}
</style></head>
<body><main>
<h1>{title}</h1>
<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>
{rows}
</tbody></table></div>
{figures}
</main></body></html>
"""
