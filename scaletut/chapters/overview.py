"""The chapters and their parameters as lines of text."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scaletut.chapters import places, schemas
from scaletut.chapters.schemas import CHAPTERS, PROFILES, Chapter
from scaletut.errors import ParameterError


def chapter_lines() -> list[str]:
    """A line a chapter and profile: name, profile, minutes and peak memory from the records, title."""
    try:
        results = places.book_root() / "results"
    except ParameterError:  # installed without the book: the names are still worth telling
        results = Path("results")
    rows = [("chapter", "profile", "minutes", "peak GB", "title")]
    for name, schema in CHAPTERS.items():
        for profile in PROFILES:
            minutes, memory = _cost(results, name, profile)
            rows.append((name, profile, minutes, memory, schema.title))
    return table(rows)


def _cost(results: Path, chapter: str, profile: str) -> tuple[str, str]:
    """Wall minutes and peak memory in GB (10⁹ bytes) of the recorded run; a dash where nothing is recorded."""
    from scaletut.records import find_records

    found = [r for r in find_records(results) if (r.experiment, r.profile) == (chapter, profile)]
    if not found:
        return "–", "–"
    peak = found[0].peak_memory_bytes
    return f"{found[0].wall_seconds / 60:.1f}", f"{peak / 1e9:.1f}" if peak else "–"


def parameter_lines(schema: type[Chapter]) -> list[str]:
    """The model as a table: name, type, unit, range, default, what each profile puts for zero or empty, meaning."""
    rows = [("name", "type", "unit", "range", "default", *PROFILES, "meaning")]
    for name, field in schema.model_fields.items():
        own = [_profile_value(schema, profile, name) for profile in PROFILES]
        kind = schemas.field_type(field).__name__
        unit, span = schemas.field_unit(field) or "–", schemas.field_range(field)
        rows.append((name, kind, unit, span, repr(field.default), *own, str(field.description)))
    note = "A zero or empty value means the profile's; `-p name=value` sets one."
    return [*table(rows), "", note]


def _profile_value(schema: type[Chapter], profile: str, name: str) -> str:
    value: Any = schema.by_profile.get(profile, {}).get(name)
    return "–" if value is None else str(value)


def table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows of text as lines with aligned columns."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    return ["  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
