"""A chapter's cells, for the tests that run some of them by themselves."""

from __future__ import annotations

import ast
import types
from pathlib import Path

from scaletut.chapters import pairs

ROOT = Path(__file__).resolve().parents[2]


def code_of(chapter: str) -> list[str]:
    """The sources of the chapter's code cells."""
    return _sources(chapter, "code")


def prose_of(chapter: str) -> str:
    """The chapter's text."""
    return "\n\n".join(_sources(chapter, "markdown"))


def _sources(chapter: str, kind: str) -> list[str]:
    book = pairs.read_notebook(ROOT / "notebooks" / f"{chapter}.ipynb")
    return [cell.source for cell in book.cells if cell.cell_type == kind]


def cell_with(cells: list[str], text: str) -> str:
    """The one code cell that holds `text`."""
    (found,) = [source for source in cells if text in source]
    return found


def definitions(source: str, **names: object) -> types.SimpleNamespace:
    """Run the imports and definitions of a cell with `names`, and nothing else of it."""
    kinds = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef)
    body = [node for node in ast.parse(source).body if isinstance(node, kinds)]
    space = dict(names)
    exec(compile(ast.Module(body, []), "<cell>", "exec"), space)
    return types.SimpleNamespace(**space)


def results(source: str, **names: object) -> dict[str, object]:
    """Run a whole cell with `names`."""
    space = dict(names)
    exec(compile(source, "<cell>", "exec"), space)
    return space
