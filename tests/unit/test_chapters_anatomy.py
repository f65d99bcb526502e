"""Structural checks: a sound chapter passes, and each planted fault is named by the check that guards it."""

import base64

import chapters_toy as toy
import nbformat
import pytest

from scaletut.chapters import anatomy, pairs
from scaletut.chapters.schemas import Finetune, parameters_cell

PNG = base64.b64encode(b"pixels").decode()


@pytest.fixture
def notebook(tmp_path):
    """A chapter with outputs as `scaletut record` would leave them."""
    path = toy.make_book(tmp_path)
    book = read(path)
    for count, cell in enumerate((cell for cell in book.cells if cell.cell_type == "code"), 1):
        cell.execution_count = count
        if "Image(" in cell.source:
            cell.outputs = [nbformat.v4.new_output("display_data", {"image/png": PNG})]
        if "table()" in cell.source:
            cell.outputs = [nbformat.v4.new_output("display_data", {"text/plain": "holds  width is positive"})]
    anatomy.put_stamp(book)
    save(path, book)
    pairs.write_twin(path)
    return path


def read(path):
    return nbformat.read(path, as_version=4)


def save(path, book):
    nbformat.write(book, path)


def findings(path):
    root = path.parents[1]
    return [str(finding) for finding in [*anatomy.check_notebook(path, root), *anatomy.check_contents(root)]]


def cell_with(book, words):
    (cell,) = [cell for cell in book.cells if words in cell.source]
    return cell


def test_a_sound_chapter_passes(notebook):
    assert findings(notebook) == []


def strip_one_output(book):
    cell_with(book, "Image(").outputs = []


def strip_all_outputs(book):
    for cell in book.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None


def doctor_an_image(book):
    cell_with(book, "Image(").outputs[0]["data"]["image/png"] = base64.b64encode(b"nicer pixels").decode()


def change_code_without_running(book):
    cell_with(book, "### Exercise 1")
    cell_with(book, "1 + 1").source = "1 + 2"


def second_parameters_cell(book):
    cell_with(book, "google.colab").metadata["tags"] = ["parameters"]


def no_parameters_cell(book):
    cell_with(book, "profile =").metadata["tags"] = []


def misspelt_parameter(book):
    cell = cell_with(book, "profile =")
    cell.source = cell.source.replace("epochs = 0", "epoch = 0")


def other_default(book):
    cell = cell_with(book, "profile =")
    cell.source = cell.source.replace("epochs = 0", "epochs = 1")


def other_type(book):
    cell = cell_with(book, "profile =")
    cell.source = cell.source.replace("epochs = 0", "epochs = 0.0")


def no_comment(book):
    cell = cell_with(book, "profile =")
    cell.source = cell.source.replace("# epochs, 0 to 200", "#")


def computed_parameter(book):
    cell = cell_with(book, "profile =")
    cell.source = cell.source.replace("epochs = 0 ", "epochs = int(0) ")


def ninth_parameter(book):
    cell = cell_with(book, "profile =")
    cell.source += "\nninth = 9"


def no_alt_text(book):
    cell_with(book, "Image(").metadata["mystnb"]["image"]["alt"] = ""


def no_mystnb(book):
    del cell_with(book, "Image(").metadata["mystnb"]


def bare_markdown_image(book):
    cell_with(book, "## Claims").source += "\n\n![](figure.png)"


def html_without_alt(book):
    html = nbformat.v4.new_output("display_data", {"text/html": "<img src='x.png'>"})
    cell_with(book, "1 + 1").outputs = [html]


def failing_claim(book):
    cell_with(book, "table()").outputs[0]["data"]["text/plain"] = "FAILS  width is positive"


def uncompared_claims(book):
    cell = cell_with(book, "table()")
    cell.source = cell.source.replace("# NBVAL_CHECK_OUTPUT\n", "")


def no_claims(book):
    book.cells.remove(cell_with(book, "table()"))


def no_record(book):
    book.cells.remove(cell_with(book, "save_record"))


def unfolded_solution(book):
    cell_with(book, "2 + 2").metadata["tags"] = []


def two_exercises(book):
    cell_with(book, "### Exercise 3").source = "Add once more."


def no_title(book):
    book.cells[0].source = "A toy"


def no_setup(book):
    cell_with(book, "google.colab").source = "import sys"


def no_settings(book):
    cell = cell_with(book, "settings(")
    cell.source = cell.source.replace('settings("finetune"', 'settings("other"')


def stored_warning(book):
    text = "/home/me/lib/python3.11/site-packages/tqdm/auto.py:21: TqdmWarning: IProgress not found.\n"
    _, cell = next((n, c) for n, c in enumerate(book.cells) if c.cell_type == "code")
    cell.outputs.append(nbformat.v4.new_output("stream", name="stderr", text=text))


def stored_error(book):
    cell_with(book, "1 + 1").outputs = [nbformat.v4.new_output("error", ename="E", evalue="x", traceback=[])]


def run_out_of_order(book):
    cell_with(book, "1 + 1").execution_count = 40


def long_cells(book):
    for cell in book.cells:
        if cell.cell_type == "code":
            cell.source += "\nx = 1" * 9


def unstamped(book):
    del book.metadata["scaletut"]


@pytest.mark.parametrize(
    ("plant", "words"),
    [
        (strip_one_output, "stripped or altered"),
        (strip_all_outputs, "stripped or altered"),
        (doctor_an_image, "stripped or altered"),
        (change_code_without_running, "not what made the outputs"),
        (second_parameters_cell, "2 cells tagged `parameters`"),
        (no_parameters_cell, "0 cells tagged `parameters`"),
        (misspelt_parameter, "epoch,"),
        (other_default, "default is 0"),
        (other_type, "default is 0"),
        (no_comment, "comment of epochs"),
        (computed_parameter, "not a plain literal"),
        (ninth_parameter, "keep at most 8"),
        (no_alt_text, "figure without alt text"),
        (no_mystnb, "figure without alt text"),
        (bare_markdown_image, "image without alt text"),
        (html_without_alt, "image without alt text"),
        (failing_claim, "a stored claim FAILS"),
        (uncompared_claims, "NBVAL_CHECK_OUTPUT"),
        (no_claims, "no claims table"),
        (no_record, "no record cell"),
        (unfolded_solution, "without a folded solution"),
        (two_exercises, "2 exercises"),
        (no_title, "must be the title"),
        (no_setup, "must be the set-up"),
        (no_settings, "no cell validates"),
        (stored_error, "an error is stored"),
        (stored_warning, "a library's warning"),
        (run_out_of_order, "not all run once"),
        (long_cells, "lines (median)"),
        (unstamped, "not those of a recorded run"),
    ],
    ids=lambda part: getattr(part, "__name__", ""),
)
def test_a_planted_fault_is_found(notebook, plant, words):
    book = read(notebook)
    plant(book)
    save(notebook, book)
    pairs.write_twin(notebook)  # so that the twin is not what is found
    found = findings(notebook)
    assert any(words in finding for finding in found), found
    assert all("\n" not in finding for finding in found)


def test_comments_and_layout_of_code_need_no_new_run(notebook):
    book = read(notebook)
    cell_with(book, "1 + 1").source = "# why not\n1+1"
    save(notebook, book)
    pairs.write_twin(notebook)
    assert findings(notebook) == []


def test_the_printed_parameters_cell_is_the_one_that_passes():
    book = toy.chapter()
    assert cell_with(book, "profile =").source == parameters_cell(Finetune)


def test_pages_and_table_of_contents_must_agree(notebook):
    root = notebook.parents[1]
    (root / "book" / "stray.md").write_text("# Stray\n", encoding="utf-8")
    (finding,) = findings(notebook)
    assert "book/stray is missing" in finding
    (root / "book" / "stray.md").unlink()
    with (root / "_toc.yml").open("a", encoding="utf-8") as toc:
        toc.write("- file: book/gone\n- file: book/ledger\n- file: notebooks/finetune\n")
    found = findings(notebook)
    assert len(found) == 2, found
    assert "notebooks/finetune is listed twice" in found[0]
    assert "book/gone is listed but there is no such page" in found[1]


# --- pairs -------------------------------------------------------------------------


def test_the_twin_holds_the_source_and_no_outputs(notebook):
    text = pairs.twin_path(notebook).read_text(encoding="utf-8")
    assert '# %% tags=["parameters"]' in text
    assert "a single pixel" in text
    assert PNG not in text
    assert "holds  width" not in text
    assert pairs.drift(notebook) == ""


@pytest.mark.parametrize(
    ("old", "new"), [("Add.", "Subtract."), ("width > 0", "width > 1"), ('tags=["hide-cell"]', 'tags=["hide-input"]')]
)
def test_a_twin_that_drifted_is_found_and_either_side_may_lead(notebook, old, new):
    twin = pairs.twin_path(notebook)
    text = twin.read_text(encoding="utf-8")
    assert old in text
    twin.write_text(text.replace(old, new), encoding="utf-8")
    assert "text twin differs" in pairs.drift(notebook)
    (finding,) = findings(notebook)
    assert "text twin differs" in finding

    pairs.sync(notebook)
    assert twin.read_text(encoding="utf-8") == text

    twin.write_text(text.replace(old, new), encoding="utf-8")
    outputs = cell_with(read(notebook), "Image(").outputs
    pairs.sync(notebook, from_text=True)
    assert pairs.drift(notebook) == ""
    book = read(notebook)
    nbformat.validate(book)
    assert cell_with(book, "Image(").outputs == outputs, "cells that did not change keep their outputs"
    assert [cell.id for cell in book.cells] == [f"toy-{n}" for n in range(len(book.cells))]


def test_a_missing_twin_is_found(notebook):
    pairs.twin_path(notebook).unlink()
    (finding,) = findings(notebook)
    assert "no text twin" in finding


def test_a_notebook_can_be_made_from_text_alone(notebook):
    before = read(notebook)
    notebook.unlink()
    pairs.sync(notebook, from_text=True)
    book = read(notebook)
    nbformat.validate(book)
    assert [cell.source for cell in book.cells] == [cell.source for cell in before.cells]
    assert len({cell.id for cell in book.cells}) == len(book.cells)
    assert pairs.drift(notebook) == ""
