"""Where the book's notebooks, records and generated files are."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from scaletut.errors import ParameterError
from scaletut.files import atomic_write

if TYPE_CHECKING:
    from scaletut.records import Record

BOOK_VARIABLE = "SCALETUT_BOOK"
RECORDS_VARIABLE = "SCALETUT_RECORDS"


def book_root() -> Path:
    """The book's folder (it holds `notebooks/` and `_toc.yml`).

    `$SCALETUT_BOOK`, else the nearest from the working directory upwards, else the library's own checkout.
    Raises ParameterError when none of them is one.
    """
    if named := os.environ.get(BOOK_VARIABLE):
        if not _is_book(Path(named)):
            raise ParameterError(f"{BOOK_VARIABLE}={named} holds no notebooks/ and _toc.yml; correct or unset it")
        return Path(named).resolve()
    here = Path.cwd()
    for folder in (here, *here.parents, Path(__file__).resolve().parents[2]):
        if _is_book(folder):
            return folder
    raise ParameterError(
        f"no book here or above (a folder with notebooks/ and _toc.yml); go to a clone of it, or set {BOOK_VARIABLE}"
    )


def _is_book(folder: Path) -> bool:
    return (folder / "notebooks").is_dir() and (folder / "_toc.yml").is_file()


def notebook_path(chapter: str, root: Path | None = None) -> Path:
    """The chapter's notebook; ParameterError when the file is not there."""
    path = (root or book_root()) / "notebooks" / f"{chapter}.ipynb"
    if not path.is_file():
        raise ParameterError(f"{path} does not exist; the clone is incomplete, restore it with git")
    return path


def record_folder(profile: str) -> Path:
    """Where a chapter writes its records: `$SCALETUT_RECORDS`, else `_build/records/<profile>` of the book.

    Outside a book (a notebook opened alone, as in Colab) that is `_build` of the working directory.
    """
    if named := os.environ.get(RECORDS_VARIABLE):
        return Path(named)
    try:
        root = book_root()
    except ParameterError:
        root = Path.cwd()
    return root / "_build" / "records" / profile


def write_page(path: Path, text: str) -> Path:
    """Write a generated page of the site, unless it says the same already: then its watchers stay quiet."""
    if not path.is_file() or path.read_text(encoding="utf-8") != text:
        atomic_write(path, text)
    return path


def save_record(record: Record) -> Path:
    """Write a chapter's record as `<experiment>.json` into `record_folder`, over that of an earlier run."""
    from scaletut.records import write_record

    return write_record(record, record_folder(record.profile), name=f"{record.experiment}.json", replace=True)
