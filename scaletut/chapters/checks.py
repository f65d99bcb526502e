"""All checks of the book in one call, and the ledger as text and as a page."""

from __future__ import annotations

from pathlib import Path

from scaletut.chapters import anatomy
from scaletut.chapters.places import write_page


def check_book(root: Path, *, write: bool = False) -> list[str]:
    """Faults of the book at `root`, a line each, with what to do; none when all is well.

    Records (unaltered, joinable), numbers in prose against the ledger, the anatomy of each chapter,
    text twins, the table of contents.
    write: first refresh the texts of stale links, in place.
    """
    from scaletut.errors import RecordError
    from scaletut.records.ledger import Ledger
    from scaletut.records.prose import check_prose, check_records, prose_pages

    faults = [str(fault) for fault in check_records(root / "results")]
    try:
        ledger = Ledger.load(root / "results")
    except RecordError:  # told above already; without a ledger there is nothing to hold the prose against
        ledger = None
    if ledger is not None:
        faults += [str(fault) for fault in check_prose(prose_pages(root), ledger, write)]
    for notebook in sorted((root / "notebooks").glob("*.ipynb")):
        faults += [str(finding) for finding in anatomy.check_notebook(notebook, root)]
    faults += [str(finding) for finding in anatomy.check_contents(root)]
    return [fault.replace(f"{root}/", "") for fault in faults]


def ledger_lines(root: Path) -> list[str]:
    """Every recorded number as a line: key, value with interval, count of runs."""
    from scaletut.chapters.overview import table
    from scaletut.records.formatting import format_value
    from scaletut.records.ledger import Ledger

    rows = [("number", "value", "runs")]
    for key, entry in Ledger.load(root / "results").items():
        form = "value" if entry.low is None else "interval"
        rows.append((key, format_value(entry.measured, form), str(entry.n)))
    return table(rows)


def write_ledger_page(root: Path, page: Path) -> Path:
    """Write the ledger as a page of the site, its records linked to the repository of `_config.yml`."""
    from scaletut.records.ledger import Ledger, ledger_page, repository_of

    repository, branch = repository_of(root / "_config.yml")
    return write_page(page, ledger_page(Ledger.load(root / "results"), repository=repository, branch=branch))
