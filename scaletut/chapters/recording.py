"""Run a chapter for the record: its outputs into its notebook, its records into `results/`, the twin in step."""

from __future__ import annotations

import copy
import os
import tempfile
from pathlib import Path
from typing import Any

import nbformat

from scaletut.chapters import anatomy, pairs, places
from scaletut.chapters.run import environment, execute, plan
from scaletut.errors import CheckFailed
from scaletut.files import atomic_write

_LEFT_BY_A_RUN = ("papermill", "execution")  # times and paths of one machine, of no use to a reader
PREPARE, LEDGER = "prepare", "ledger"  # tags of the cells that `refresh` runs, and of those it stores anew


def record(chapter: str, profile: str = "laptop", *, progress: bool = False) -> list[Path]:
    """Run `chapter` with its profile's own parameters and keep the result; returns the files that were written.

    laptop: the stored outputs of the notebook, its twin, and the records in `results/`.
    quick: only records, in `results/quick/`, which the receipt compares with.
    Raises ChapterFailed when a cell raises; then nothing of the book has changed.
    """
    root = places.book_root()
    work = plan(chapter, profile=profile, root=root)
    stores = profile == "laptop"
    results = root / "results" if stores else root / "results" / profile
    work.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".record-", dir=work.folder) as name:
        target, staged = Path(name) / "notebook.ipynb", Path(name) / "records"
        with environment(SCALETUT_PROFILE=profile, SCALETUT_RECORDS=str(staged)):
            # Nothing is injected, so that the notebook keeps its own cells and no other.
            execute(work.source, target, {}, label=f"{chapter} ({profile})", keep=work, bar=progress)
        written = _install(staged, results)
        if stores:
            written += _store_outputs(target, work.source)
    return written


def refresh(chapter: str) -> list[Path]:
    """Run again only the cells of `chapter` that read the ledger, and store what they show; returns what was written.

    Records are added long after a chapter was recorded: more seeds, a larger run.
    The cells tagged `ledger` read records and nothing that the chapter computes, so they alone are shown anew;
    those tagged `prepare` (imports, settings, helpers) run before them in the same kernel and keep their outputs.
    Raises ChapterFailed when a cell raises, which it does if a ledger cell needs more than that,
    and CheckFailed when any other cell is not as it was recorded: this is no way round a run.
    """
    root = places.book_root()
    work = plan(chapter, profile="laptop", root=root)
    stored = pairs.read_notebook(work.source)
    if changed := [
        number for number in anatomy.not_as_recorded(stored) if LEDGER not in _tags(stored.cells[number - 1])
    ]:
        raise CheckFailed(
            f"{chapter}: cell {changed[0]} is not as it was recorded; run `scaletut record {chapter}` whole"
        )
    part = copy.deepcopy(stored)
    part.cells = [cell for cell in stored.cells if {PREPARE, LEDGER, "parameters"} & _tags(cell)]
    work.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".refresh-", dir=work.source.parent) as name:
        source, target = Path(name) / "part.ipynb", Path(name) / "notebook.ipynb"
        nbformat.write(part, source)
        with environment(SCALETUT_PROFILE="laptop"):
            execute(source, target, {}, label=f"{chapter} (ledger)")
        shown = {cell.id: cell.outputs for cell in pairs.read_notebook(target).cells if LEDGER in _tags(cell)}
    code = [cell for cell in stored.cells if cell.cell_type == "code"]
    for count, cell in enumerate(code, 1):  # counted anew, for a cell may have left since
        cell.execution_count = count
        cell.outputs = [_counted(output, count) for output in shown.get(cell.id, cell.outputs)]
    return _write(stored, work.source)


def _tags(cell: Any) -> set[str]:
    return set(cell.metadata.get("tags", ()))


def _counted(output: Any, count: int) -> Any:
    if output.output_type == "execute_result":
        output.execution_count = count
    return output


def _install(staged: Path, results: Path) -> list[Path]:
    """Move the records into `results` under their own names; those of the same run made earlier are replaced."""
    results.mkdir(parents=True, exist_ok=True)
    fresh = sorted(staged.glob("*.json"))
    for path in fresh:
        os.replace(path, results / path.name)
    return [results / path.name for path in fresh]


def _store_outputs(executed: Path, notebook: Path) -> list[Path]:
    return _write(clean(pairs.read_notebook(executed)), notebook)


def _write(book: Any, notebook: Path) -> list[Path]:
    anatomy.put_stamp(book)
    atomic_write(notebook, nbformat.writes(book) + "\n")
    return [notebook, pairs.write_twin(notebook)]


def clean(book: Any) -> Any:
    """`book` without what papermill and the kernel note about one run: times, paths, empty tags."""
    for part in (book, *book.cells):
        for name in _LEFT_BY_A_RUN:
            part.metadata.pop(name, None)
    for cell in book.cells:
        if not cell.metadata.get("tags", True):
            del cell.metadata["tags"]
    book.metadata["kernelspec"] = dict(pairs.KERNEL)
    book.metadata["language_info"] = {"name": "python"}
    book.metadata.pop("widgets", None)
    return book
