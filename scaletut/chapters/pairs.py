"""A notebook and its text twin: `notebooks/x.ipynb` with outputs, `notebooks/text/x.py` to read, diff and edit.

jupytext's own `--sync` lets the newer file win, and in a fresh clone either may be newer, so here one side leads.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from scaletut.errors import CheckFailed, ParameterError
from scaletut.files import atomic_write

FORMAT = "py:percent"
# The twin holds what an author edits: tags and the description of a figure, not what a run leaves behind.
_FILTERS = {"notebook_metadata_filter": "kernelspec,jupytext,-all", "cell_metadata_filter": "tags,mystnb,-all"}


def twin_path(notebook: Path) -> Path:
    """The text twin of `notebook`."""
    return notebook.parent / "text" / f"{notebook.stem}.py"


def sync(notebook: Path, *, from_text: bool = False) -> Path:
    """Make one half of the pair follow the other; returns the path of the half that was written.

    from_text: the twin leads; the notebook keeps the outputs and ids of every cell whose source is unchanged.
    Raises ParameterError when the leading half is absent.
    """
    leader = twin_path(notebook) if from_text else notebook
    if not leader.is_file():
        raise ParameterError(f"{leader} does not exist, so nothing can follow it; restore it with git")
    return _write_notebook(notebook) if from_text else write_twin(notebook)


def write_twin(notebook: Path) -> Path:
    """Write the text twin of `notebook`."""
    twin = twin_path(notebook)
    atomic_write(twin, twin_text(notebook))
    return twin


def twin_text(notebook: Path) -> str:
    """The text twin that `notebook` should have."""
    import jupytext

    book = read_notebook(notebook)
    book.metadata["jupytext"] = dict(_FILTERS)
    return jupytext.writes(book, fmt=FORMAT)


def _write_notebook(notebook: Path) -> Path:
    import jupytext
    import nbformat
    from jupytext.combine import combine_inputs_with_outputs

    book = jupytext.read(twin_path(notebook), fmt=FORMAT)
    if notebook.is_file():
        old = read_notebook(notebook)
        book = combine_inputs_with_outputs(book, old, fmt={"extension": ".py", "format_name": "percent"})
        book.metadata = {**old.metadata, "kernelspec": book.metadata.get("kernelspec", KERNEL)}
    book.metadata.pop("jupytext", None)
    book.metadata.setdefault("kernelspec", KERNEL)
    book.nbformat, book.nbformat_minor = 4, 5
    for number, cell in enumerate(book.cells):
        cell["id"] = cell.get("id") or f"cell-{number}"
    _unique_ids(book)
    atomic_write(notebook, nbformat.writes(nbformat.from_dict(book)))
    return notebook


KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}


def _unique_ids(book: Any) -> None:
    seen: set[str] = set()
    for number, cell in enumerate(book.cells):
        if cell["id"] in seen:
            cell["id"] = f"cell-{number}-{len(seen)}"
        seen.add(cell["id"])


def drift(notebook: Path) -> str:
    """In what the pair differs, in a sentence; "" when the two are in step."""
    import jupytext
    from jupytext.compare import NotebookDifference, compare_notebooks

    twin = twin_path(notebook)
    if not twin.is_file():
        return f"it has no text twin; `scaletut pair {notebook.stem}` writes {twin.name}"
    try:
        told = jupytext.reads(twin.read_text(encoding="utf-8"), fmt=FORMAT)
        should = jupytext.reads(twin_text(notebook), fmt=FORMAT)
        compare_notebooks(told, should, fmt=FORMAT, compare_ids=False, compare_outputs=False)
    except NotebookDifference as error:
        return f"its text twin differs from it ({_difference(str(error))}); see `scaletut pair --help`"
    return ""


def _difference(text: str) -> str:
    """jupytext's unified diff as its first changed line."""
    changed = [line for line in text.splitlines() if line[:1] in "+-" and line[:3] not in ("+++", "---")]
    return changed[0][:70] if changed else "cells or tags"


def read_notebook(path: Path) -> Any:
    """The notebook as nbformat 4; CheckFailed when it is not a notebook."""
    import nbformat

    try:
        return nbformat.reads(path.read_text(encoding="utf-8"), as_version=4)
    except (OSError, ValueError, AttributeError, KeyError) as error:
        raise CheckFailed(f"{path} is not a notebook ({error}); restore it with git") from error
