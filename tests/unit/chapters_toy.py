"""A small but complete book: one chapter of the right anatomy that runs in a second and writes a true record."""

from __future__ import annotations

from pathlib import Path

import nbformat

from scaletut.chapters import pairs
from scaletut.chapters.schemas import Finetune, parameters_cell

SETUP = """import os
import subprocess
import sys

if "google.colab" in sys.modules:  # the core of the package is light: it moves neither torch nor numpy
    home = "git+https://github.com/scale-measured/scale-measured@main"
    wanted = os.environ.get("SCALETUT_WHEEL") or f"scaletut @ {home}"
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", wanted], check=True)
try:
    import scaletut
except ModuleNotFoundError:
    raise SystemExit("scaletut is not installed; run `make setup` in a clone, then use its kernel") from None"""

SETTINGS = """import time

from scaletut import chapters
from scaletut.records import Claims, Value, new_record

begin = time.monotonic()
chosen = chapters.settings("finetune", profile=profile, data=data, train_examples=train_examples,
                           epochs=epochs, width=width, seeds=seeds, label_budgets=label_budgets, seed=seed)
print(chosen.profile, chosen.epochs)"""

# One pixel, so that there is a figure without matplotlib.
FIGURE = """import base64

from IPython.display import Image

pixel = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
Image(base64.b64decode(pixel))"""

CLAIMS = """# NBVAL_CHECK_OUTPUT
claims = Claims("finetune")
claims.check("width is positive", chosen.width > 0)
claims.table()"""

LEDGER = """len(list((chapters.book_root() / "results").glob("*.json")))"""

RECORD = """record = new_record(
    "finetune", profile=chosen.profile, parameters=chosen.model_dump(), data_digest="0" * 64, seeds=[chosen.seed],
    values={"accuracy": Value(50.0 + chosen.epochs, "%", 49.0 + chosen.epochs, 51.0 + chosen.epochs, 3)},
    claims=claims.results, wall_seconds=time.monotonic() - begin)
path = chapters.save_record(record)"""

SOLVED = {"tags": ["hide-cell"]}


def make_book(root: Path) -> Path:
    """Write the book under `root`; returns its notebook, not yet run, with its twin in step."""
    (root / "notebooks" / "text").mkdir(parents=True)
    (root / "book").mkdir()
    (root / "book" / "index.md").write_text("# The book\n", encoding="utf-8")
    (root / "_toc.yml").write_text(
        "format: jb-book\nroot: book/index\nchapters:\n- file: notebooks/finetune\n", encoding="utf-8"
    )
    notebook = root / "notebooks" / "finetune.ipynb"
    nbformat.write(chapter(), notebook)
    pairs.write_twin(notebook)
    return notebook


def chapter() -> nbformat.NotebookNode:
    """The chapter without outputs."""
    text, code = nbformat.v4.new_markdown_cell, nbformat.v4.new_code_cell
    exercises = [
        part
        for number in (1, 2, 3)
        for part in (text(f"### Exercise {number}\n\nAdd."), code(f"{number} + {number}", metadata=dict(SOLVED)))
    ]
    cells = [
        text("# A toy\n\nYou will be able to add."),
        code(SETUP),
        code(parameters_cell(Finetune), metadata={"tags": ["parameters"]}),
        code(SETTINGS, metadata={"tags": ["prepare"]}),
        code(FIGURE, metadata={"mystnb": {"image": {"alt": "a single pixel, to stand for a figure"}}}),
        text("## Exercises"),
        *exercises,
        text("## Claims"),
        code(CLAIMS),
        code(LEDGER, metadata={"tags": ["ledger"]}),
        code(RECORD),
    ]
    for number, cell in enumerate(cells):
        cell["id"] = f"toy-{number}"
    return nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": dict(pairs.KERNEL)})


def edit(notebook: Path, old: str, new: str) -> None:
    """Replace `old` in the source of the one cell that holds it."""
    book = nbformat.read(notebook, as_version=4)
    (cell,) = [cell for cell in book.cells if old in cell.source]
    cell.source = cell.source.replace(old, new)
    nbformat.write(book, notebook)
