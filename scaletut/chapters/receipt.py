"""The receipt: this machine's quick run beside the recorded one, chapter by chapter, number by number."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from scaletut.chapters.places import write_page
from scaletut.chapters.schemas import CHAPTERS
from scaletut.files import atomic_write

if TYPE_CHECKING:
    from scaletut.records import Record, Value

Status = Literal["within", "outside", "missing", "machine"]

# A second run of n seeds differs from the first by more than √2 times the 95 % half-width in 1 of 20 cases.
# Twice that is allowed, because a receipt has many rows and should go red for a fault, not for chance.
_TIMES_HALF_WIDTH = 2 * math.sqrt(2)
_SHARE_POINTS = 2.0  # least band of a share: seeds may agree by chance, another processor rounds otherwise
_SINGLE_SHARE_POINTS = 5.0  # band of a share of one run, whose spread nobody measured
_LEAST_RELATIVE = 0.02
_SINGLE_RELATIVE = 0.25
# What depends on the machine by its nature: told, not judged.
_MACHINE_UNITS = ("s", "ms", "µs", "min", "h", "B", "kB", "MB", "GB", "MiB", "GiB")

BANDS = (
    "A number with an interval must lie within "
    f"{_TIMES_HALF_WIDTH:.1f} times its half-width of the recorded one "
    f"(at least {_SHARE_POINTS:g} percentage points for a share, {100 * _LEAST_RELATIVE:g} % of the value otherwise). "
    f"A number of a single run must lie within {_SINGLE_SHARE_POINTS:g} percentage points, "
    f"or {100 * _SINGLE_RELATIVE:g} % of the value. "
    "Times, rates, sizes in memory and what follows from them belong to the machine and are told, not judged."
)


@dataclass(frozen=True)
class Row:
    """One number: as recorded, as measured here, and the band it must lie in; texts carry their units."""

    chapter: str
    name: str
    recorded: str
    here: str
    band: str
    status: Status


@dataclass(frozen=True)
class Slip:
    """The whole receipt."""

    rows: tuple[Row, ...]
    device: str
    recorded_device: str

    @property
    def faults(self) -> tuple[Row, ...]:
        """The rows that are outside their band, and those that one of the two runs lacks."""
        return tuple(row for row in self.rows if row.status in ("outside", "missing"))


def compare(root: Path) -> Slip:
    """Compare `_build/records/quick` with `results/quick` of the book at `root`; no rows if both are empty.

    Raises RecordError for an altered record.
    """
    from scaletut.records import find_records

    recorded = {record.experiment: record for record in find_records(root / "results" / "quick")}
    here = {record.experiment: record for record in find_records(root / "_build" / "records" / "quick")}
    rows: list[Row] = []
    for name in sorted(recorded.keys() | here.keys()):
        rows += _chapter_rows(name, recorded.get(name), here.get(name))
    return Slip(tuple(rows), _device(list(here.values())), _device(list(recorded.values())))


def band(recorded: Value) -> tuple[float, float] | None:
    """(lowest, highest) value that agrees with `recorded`, in its unit; None for what is the machine's own."""
    if recorded.unit in _MACHINE_UNITS or recorded.unit.endswith("/s"):
        return None
    share = recorded.unit in ("%", "points")
    if recorded.low is None or recorded.high is None:
        half = _SINGLE_SHARE_POINTS if share else _SINGLE_RELATIVE * abs(recorded.value)
        return recorded.value - half, recorded.value + half
    least = _SHARE_POINTS if share else _LEAST_RELATIVE * abs(recorded.value)
    below, above = recorded.value - recorded.low, recorded.high - recorded.value
    return (
        recorded.value - max(_TIMES_HALF_WIDTH * below, least),
        recorded.value + max(_TIMES_HALF_WIDTH * above, least),
    )


def _chapter_rows(name: str, recorded: Record | None, here: Record | None) -> list[Row]:
    if recorded is None or here is None:
        there, now = ("–", "run") if recorded is None else ("recorded", "not run")
        return [Row(name, "the whole run", there, now, "–", "missing")]
    names = list(dict.fromkeys([*recorded.values, *here.values]))
    rows = [_value_row(name, value, recorded.values.get(value), here.values.get(value)) for value in names]
    for text in dict.fromkeys([*recorded.claims, *here.claims]):
        held, holds = recorded.claims.get(text), here.claims.get(text)
        status: Status = "missing" if held is None or holds is None else "within" if holds else "outside"
        rows.append(Row(name, f"claim: {text}", _word(held), _word(holds), "holds", status))
    rows.append(_machine_row(name, "minutes", recorded.wall_seconds / 60, here.wall_seconds / 60, "min"))
    peaks = recorded.peak_memory_bytes, here.peak_memory_bytes
    if peaks[0] and peaks[1]:
        rows.append(_machine_row(name, "peak memory", peaks[0] / 1e9, peaks[1] / 1e9, "GB"))
    return rows


def _of_machine(chapter: str, name: str) -> bool:
    """Whether the chapter says that this number follows from times, though its unit does not tell."""
    return chapter in CHAPTERS and name.startswith(CHAPTERS[chapter].of_machine)


def _value_row(chapter: str, name: str, recorded: Value | None, here: Value | None) -> Row:
    if recorded is None or here is None:
        return Row(chapter, name, _text(recorded), _text(here), "–", "missing")
    limits = band(recorded)
    if limits is None or _of_machine(chapter, name):
        return Row(chapter, name, _text(recorded), _text(here), _ratio(recorded.value, here.value), "machine")
    low, high = limits
    inside = recorded.unit == here.unit and low <= here.value <= high
    shown = f"{low:.4g} to {high:.4g} {recorded.unit}".rstrip()
    return Row(chapter, name, _text(recorded), _text(here), shown, "within" if inside else "outside")


def _machine_row(chapter: str, name: str, recorded: float, here: float, unit: str) -> Row:
    text = f"{recorded:.3g} {unit}", f"{here:.3g} {unit}"
    return Row(chapter, name, *text, _ratio(recorded, here), "machine")


def _ratio(recorded: float, here: float) -> str:
    return f"{here / recorded:.2g} times" if recorded else "–"


def _word(held: bool | None) -> str:
    return "–" if held is None else "holds" if held else "FAILS"


def _text(value: Value | None) -> str:
    from scaletut.records.formatting import format_value

    if value is None:
        return "–"
    return format_value(value, "value" if value.low is None else "interval")


def _device(records: Sequence[Record]) -> str:
    kinds = {f"{r.device['name']}, {r.device['cores']} cores, Python {r.versions['python']}" for r in records}
    return "; ".join(sorted(kinds)) or "–"


# --- as text, JSON and page --------------------------------------------------------


def lines(slip: Slip) -> list[str]:
    """The receipt as lines of text."""
    from scaletut.chapters.overview import table

    head = ("chapter", "number", "recorded", "here", "band or ratio", "status")
    rows = [(row.chapter, row.name, row.recorded, row.here, row.band, row.status) for row in slip.rows]
    return table([head, *rows])


def write(slip: Slip, path: Path, page: Path | None = None) -> None:
    """Write the receipt as JSON to `path` and, if asked for, as a page of the site to `page`."""
    content: dict[str, Any] = asdict(slip)
    atomic_write(path, json.dumps({**content, "passed": not slip.faults}, indent=1, ensure_ascii=False) + "\n")
    if page is not None:
        write_page(page, _page(slip))


def _verdict(slip: Slip) -> str:
    if not slip.rows:
        return "No quick run is recorded yet."
    if slip.faults:
        return f"{len(slip.faults)} of {len(slip.rows)} rows are outside their band or missing."
    return f"All {sum(row.status == 'within' for row in slip.rows)} judged numbers are within their bands."


def _page(slip: Slip) -> str:
    parts = [
        "# Receipt",
        "",
        "What the `quick` run of each chapter gave on the machine that built this site,",
        "beside the recorded run of the same chapter.",
        "",
        f"**{_verdict(slip)}**",
        "",
        f"Recorded on: {_plain(slip.recorded_device)}.",
        f"Built on: {_plain(slip.device)}.",
        "",
        BANDS.replace(". ", ".\n"),
        "",
    ]
    for chapter in dict.fromkeys(row.chapter for row in slip.rows):
        parts += [f"## {_plain(chapter)}", "", "| number | recorded | here | band or ratio | status |"]
        parts += ["| --- | --- | --- | --- | --- |"]
        parts += [
            f"| {' | '.join(_plain(cell) for cell in (row.name, row.recorded, row.here, row.band))} | {row.status} |"
            for row in slip.rows
            if row.chapter == chapter
        ]
        parts.append("")
    return "\n".join(parts)


def _plain(text: str) -> str:
    """`text` so that Markdown shows it as it is, also in a cell of a table."""
    for sign in "\\`*_{}[]<>|$":
        text = text.replace(sign, "\\" + sign)
    return text
