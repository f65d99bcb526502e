"""The checks, checked: a fault is planted in a copy of the real book, and the check that guards it must go red.

One fault at a time, each against the same untouched copy.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from scaletut.chapters import pairs
from scaletut.chapters.checks import check_book

ROOT = Path(__file__).resolve().parents[2]
PARTS = ("README.md", "_config.yml", "_toc.yml", "book", "notebooks", "results")
CHAPTER = "finetune"


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """A copy of the book, and the faults that it has already: none, when the book is finished."""
    place = tmp_path_factory.mktemp("sound") / "book"
    copy_book(ROOT, place)
    return place, set(check_book(place))


def copy_book(source: Path, place: Path) -> Path:
    place.mkdir()
    ignored = shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints")
    for name in PARTS:
        if (source / name).is_dir():
            shutil.copytree(source / name, place / name, ignore=ignored)
        else:
            shutil.copy(source / name, place)
    return place


class Book:
    """What a mutation may touch."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.notebook = root / "notebooks" / f"{CHAPTER}.ipynb"
        self.content = nbformat.read(self.notebook, as_version=4)

    def code(self, words: str, tag: str = ""):
        cells = [cell for cell in self.content.cells if cell.cell_type == "code"]
        return next(c for c in cells if words in c.source and (not tag or tag in c.metadata.get("tags", [])))

    def figure(self):
        cells = [cell for cell in self.content.cells if cell.cell_type == "code"]
        return next(c for c in cells if any("image/png" in o.get("data", {}) for o in c.outputs))

    def save(self) -> None:
        """With its twin, so that the twin is not what is found."""
        nbformat.write(self.content, self.notebook)
        pairs.write_twin(self.notebook)


def change_a_digit_in_a_page(book: Book) -> None:
    """The first evidence link of the book's pages that shows a digit."""
    for page in [book.root / "README.md", *sorted((book.root / "book").glob("*.md"))]:
        text = page.read_text(encoding="utf-8")
        if link := re.search(rf"\[[^\]\n]*?(\d)[^\]\n]*\]\(#{CHAPTER}\.", text):
            digit = str((int(link.group(1)) + 1) % 10)
            page.write_text(text[: link.start(1)] + digit + text[link.end(1) :], encoding="utf-8")
            return
    change_a_digit_in_the_chapter(book)


def change_a_digit_in_the_chapter(book: Book) -> None:
    for cell in book.content.cells:
        link = re.search(rf"\[[^\]\n]*?(\d)[^\]\n]*\]\(#{CHAPTER}\.", cell.source)
        if cell.cell_type == "markdown" and link:
            digit = str((int(link.group(1)) + 1) % 10)
            cell.source = cell.source[: link.start(1)] + digit + cell.source[link.end(1) :]
            return book.save()
    raise AssertionError("the chapter links no measured number")


def a_bare_number_in_a_page(book: Book) -> None:
    with (book.root / "book" / "index.md").open("a", encoding="utf-8") as page:
        page.write("\nIt reaches an accuracy of 91.27 %.\n")


def a_bare_number_in_the_chapter(book: Book) -> None:
    book.content.cells[0].source += "\n\nIt reaches an accuracy of 91.27 %."
    book.save()


def a_failing_claim(book: Book) -> None:
    (output,) = book.code("claims.table()").outputs
    output.data["text/plain"] = re.sub(r"holds", "FAILS", output.data["text/plain"], count=1)
    book.save()


def a_stripped_output(book: Book) -> None:
    book.figure().outputs = []
    book.save()


def all_outputs_stripped(book: Book) -> None:
    for cell in book.content.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    book.save()


def a_second_parameters_cell(book: Book) -> None:
    book.code("settings(").metadata["tags"] = ["parameters"]
    book.save()


def no_parameters_cell(book: Book) -> None:
    book.code("profile", tag="parameters").metadata["tags"] = []
    book.save()


def a_misspelt_parameter(book: Book) -> None:
    cell = book.code("profile", tag="parameters")
    cell.source = cell.source.replace("seeds =", "sedes =")
    book.save()


def a_twin_that_drifted(book: Book) -> None:
    twin = pairs.twin_path(book.notebook)
    text = twin.read_text(encoding="utf-8")
    twin.write_text(text.replace("import sys\n", "import sys as system\n", 1), encoding="utf-8")


def a_missing_twin(book: Book) -> None:
    pairs.twin_path(book.notebook).unlink()


def a_page_missing_from_the_site(book: Book) -> None:
    contents = book.root / "_toc.yml"
    lines = contents.read_text(encoding="utf-8").splitlines(keepends=True)
    contents.write_text("".join(line for line in lines if "book/glossary" not in line), encoding="utf-8")


def a_figure_without_alt_text(book: Book) -> None:
    del book.figure().metadata["mystnb"]
    book.save()


def an_altered_record(book: Book) -> None:
    record = sorted((book.root / "results").rglob("*.json"))[0]
    text = record.read_text(encoding="utf-8")
    number = re.search(r'"value": (\d)', text)
    assert number
    digit = str(int(number.group(1)) % 9 + 1)
    record.write_text(text[: number.start(1)] + digit + text[number.end(1) :], encoding="utf-8")


def an_altered_quick_record(book: Book) -> None:
    record = book.root / "results" / "quick" / f"{CHAPTER}.json"
    record.write_text(record.read_text(encoding="utf-8").replace('"quick"', '"laptop"'), encoding="utf-8")


def a_missing_record(book: Book) -> None:
    (book.root / "results" / f"{CHAPTER}.json").unlink()


MUTATIONS = {
    change_a_digit_in_a_page: "the ledger",
    change_a_digit_in_the_chapter: "the ledger",
    a_bare_number_in_a_page: "stands bare",
    a_bare_number_in_the_chapter: "stands bare",
    a_failing_claim: "a stored claim FAILS",
    a_stripped_output: "stripped or altered",
    all_outputs_stripped: "stripped or altered",
    a_second_parameters_cell: "2 cells tagged `parameters`",
    no_parameters_cell: "0 cells tagged `parameters`",
    a_misspelt_parameter: "sedes",
    a_twin_that_drifted: "text twin differs",
    a_missing_twin: "no text twin",
    a_page_missing_from_the_site: "book/glossary is missing",
    a_figure_without_alt_text: "figure without alt text",
    an_altered_record: "was altered",
    an_altered_quick_record: "was altered",
    a_missing_record: "leads to no record",
}


@pytest.mark.parametrize(("mutate", "words"), MUTATIONS.items(), ids=lambda part: getattr(part, "__name__", ""))
def test_a_planted_fault_goes_red(mutate, words, sound, tmp_path):
    place, known = sound
    root = copy_book(place, tmp_path / "book")
    mutate(Book(root))
    new = [fault for fault in check_book(root) if fault not in known]
    assert any(words in fault for fault in new), "\n".join(new) or "nothing was found"


def test_the_untouched_book_is_green(sound):
    assert sorted(sound[1]) == []


def test_a_claim_that_fails_at_another_profile_goes_red_in_nbval(tmp_path):
    """The stored table holds; run again, the claim fails. On a small chapter, for it is nbval that is tested."""
    cells = [
        nbformat.v4.new_code_cell("from scaletut.records import Claims\nclaims = Claims('toy')"),
        nbformat.v4.new_code_cell("claims.check('one is less than two', ONE < 2);"),
        nbformat.v4.new_code_cell("# NBVAL_CHECK_OUTPUT\nclaims.table()"),
    ]
    book = nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": dict(pairs.KERNEL)})
    assert nbval(tmp_path, book, one=1, store=True) == 0
    assert nbval(tmp_path, book, one=1) == 0
    assert nbval(tmp_path, book, one=3) == 1


def nbval(place: Path, book: nbformat.NotebookNode, *, one: int, store: bool = False) -> int:
    """nbval's exit code with ONE set to `one`; store: first run it and keep the outputs."""
    book = book if store else nbformat.read(place / "toy.ipynb", as_version=4)
    setting = [cell for cell in book.cells if not cell.source.startswith("ONE")]
    book.cells = [nbformat.v4.new_code_cell(f"ONE = {one}"), *setting]
    if store:
        from nbclient import NotebookClient

        NotebookClient(book, kernel_name="python3").execute()
    nbformat.write(book, place / "toy.ipynb")
    command = [sys.executable, "-m", "pytest", "-q", "--nbval-lax", "--nbval-current-env", "-p", "no:cacheprovider"]
    options = ["-c", "/dev/null", "--rootdir", str(place)]
    return subprocess.run([*command, *options, "toy.ipynb"], cwd=place, capture_output=True, timeout=120).returncode
