"""The rule of measured numbers, by example: what must be a link, what may stand bare, and what --write changes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scaletut.records import Ledger, Value, check_prose, check_records, measured_numbers, new_record, write_record
from scaletut.records.formatting import all_forms
from scaletut.records.markdown import prose_of
from scaletut.records.prose import prose_pages

VALUES = {
    "accuracy": Value(91.83, "%", 91.6, 92.06, 5),
    "gain": Value(-0.4, "points", -0.9, 0.1, 5),
    "minutes": Value(5.98, "min"),
    "parameters": Value(272474),
    "speed": Value(1538.2, "images/s"),
    "ratio": Value(12.3, "×"),
}


@pytest.fixture(scope="module")
def ledger() -> Ledger:
    record = new_record(
        "finetune.fast",
        profile="laptop",
        parameters={},
        data_digest="ab",
        seeds=[0, 1, 2, 3, 4],
        values=VALUES,
        wall_seconds=300.0,
    )
    return Ledger.of([record])


def faults_of(text: str, ledger: Ledger, folder: Path, write: bool = False):
    page = folder / "page.md"
    page.write_text(text)
    return check_prose([page], ledger, write)


# --- what must be a link ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("It reached 93.1 % on the test set.", "93.1 %"),
        ("It reached 93.1% on the test set.", "93.1%"),
        ("It reached 93.1\u00a0% here.", "93.1 %"),
        ("It reached 93.1&nbsp;% here.", "93.1&nbsp;%"),
        ("It reached **93.1** % here.", "93.1** %"),
        ("It reached 93.1 \\% here.", "93.1 \\%"),
        ("It reached 93 percent.", "93 percent"),
        ("It lost 0.4 points.", "0.4 points"),
        ("A gain of +2 percentage points.", "+2 percentage points"),
        ("A loss of −2-point.", "−2-point"),
        ("It took 417 s.", "417 s"),
        ("It took 417s.", "417s"),
        ("It took 12 ms an image.", "12 ms"),
        ("It took 12 µs an image.", "12 µs"),
        ("It took 7 min on 2 cores.", "7 min"),
        ("A 7-minute run.", "7-minute"),
        ("It took 5–10 minutes.", "5–10 minutes"),
        ("It took 5 to 10 minutes.", "5 to 10 minutes"),
        ("It took 2 hours.", "2 hours"),
        ("It ran at 1,538 images/s.", "1,538 images/s"),
        ("It ran at 1,538 images a second.", "1,538 images a second"),
        ("It ran at 1,538 images per second.", "1,538 images per second"),
        ("It needs 1.2 GB.", "1.2 GB"),
        ("It needs 300 MiB.", "300 MiB"),
        ("One image costs 0.081 GFLOP.", "0.081 GFLOP"),
        ("It sustains 31 GFLOP/s.", "31 GFLOP/s"),
        ("The run cost 3.2 × 10¹⁵ FLOPs.", "3.2 × 10¹⁵ FLOPs"),
        ("The run cost (3.20 ± 0.05) × 10¹⁵ FLOP.", "3.20 ± 0.05) × 10¹⁵ FLOP"),
        ("It is 3.2× faster.", "3.2×"),
        ("It drew 15 W.", "15 W"),
        ("It ended at 1.27 nats.", "1.27 nats"),
        ("It reached 91.8 ± 0.2 %.", "91.8 ± 0.2 %"),
        ("It reached 91.8 (91.2 to 92.1) %.", "91.8 (91.2 to 92.1) %"),
        ("An accuracy of 0.931 was reached.", "0.931"),
        ("The error fell to 0.05 at last.", "0.05"),
        ("A cross-entropy of 1.27 was left.", "1.27"),
        ("| fast | 93.1 % |", "93.1 %"),
        ("- item with 93.1 %", "93.1 %"),
        ("> quoted 93.1 %", "93.1 %"),
        ("## It reached 93.1 %", "93.1 %"),
        ("[93.1 %][ref] by reference.", "93.1 %"),
        ("```{note}\nIt took 7 min.\n```", "7 min"),
        (":::{admonition} Reached 93.1 % here\nGood.\n:::", "93.1 %"),
        (":::{figure} a.png\n:alt: 93.1 %\n\nIt took 7 min.\n:::", "7 min"),
        ("::::{grid}\n:::{card}\nIt took 7 min.\n:::\n::::", "7 min"),
        ("<details><summary>More</summary>It took 7 min.</details>", "7 min"),
        ("`code` and 93.1 % and `code`", "93.1 %"),
        ("It costs $5 for 93.1 % of it, or $6.", "93.1 %"),
        ("An unclosed ` tick and 93.1 %", "93.1 %"),
        ("A 95 % share of the interval.", "95 %"),
        ("Cited {cite}`he2016`. Here it is 93.1 %.", "93.1 %"),
        ("Cited {cite}`he2016`.\n\nHere it is 93.1 %.", "93.1 %"),
        ("- cited {cite}`he2016`\n- here it is 93.1 %", "93.1 %"),
        ("```python\nx = 1\n```\nIt took 7 min.", "7 min"),
        ("<!-- a -->93.1 %<!-- b -->", "93.1 %"),
    ],
)
def test_a_measured_number_stands_bare(text, number, ledger, tmp_path):
    assert [found for _, found in measured_numbers(text)] == [number]
    (fault,) = faults_of(text, ledger, tmp_path)
    assert number in fault.message
    assert "{.given}" in fault.remedy
    line = text[: measured_numbers(text)[0][0]].count("\n") + 1
    assert fault.place == f"line {line}"


@pytest.mark.parametrize(
    "text",
    [
        "Plain words.",
        "8 epochs of 50,000 images of 32 × 32 pixels in 10 classes on 2 cores.",
        "50 labels a class, a batch of 128, a 3×3 convolution, CIFAR-10, ResNet-20.",
        "a [10 %]{.given} share",
        "a [10 %]{.given #share} share",
        'a <span class="given">10 %</span> share, <span class="x given">7 min</span>',
        "Set `lr = 0.01` for `10 %` of the run; ``a ` 5 % b``.",
        "```python\naccuracy = 93.1 % 5\n```",
        "~~~\n93.1 %\n~~~",
        "> ```\n> 93.1 %\n> ```",
        "- item\n  ```\n  93.1 %\n  ```",
        "```{math}\n93.1 \\%\n```",
        "```{code-cell} python\n# 93.1 %\n```",
        "````{note}\n```\n93.1 %\n```\n````",
        ":::{figure} a-93.1 %.png\n:alt: The curve ends at 93.1 %\n:width: 50 %\n\nA caption.\n:::",
        "$93.1\\%$ and $$0.05 s$$",
        "\\begin{align}\n5 s\n\\end{align}",
        "<!-- 93.1 % -->",
        "---\ntitle: 93.1 %\n---\n# Page",
        "% a comment with 93.1 %",
        "(label)=\n# Title",
        '<img alt="93.1 %" width="50 %">',
        "<style>p { width: 50 % }</style>",
        "![the curve ends at 93.1 %](a.png)",
        "![the curve](a.png){width=50 %}",
        "[93.1 % with airbench](https://example.org/airbench)",
        "He et al. report 91.25 % {cite}`he2016`.",
        "As {cite:t}`he2016` found, e.g. with depth 20, the error is 8.75 % at the end.",
        "A 95 % interval, a 95 % confidence interval, the 95 % Student *t* interval, 90 % bootstrap intervals.",
        "the 1990s, in the 80s",
        "accuracy 0.9 and version 2.14 of the library",
        "A learning rate of 0.05 is used.",
        "https://example.org/a-50%25-share",
    ],
)
def test_what_may_stand_bare(text, ledger, tmp_path):
    assert measured_numbers(text) == []
    assert faults_of(text, ledger, tmp_path) == []


def test_masking_keeps_every_offset():
    text = Path(__file__).read_text() + "\n`a` $b$ [c](#d) {cite}`e` <b>f</b>"
    masked = prose_of(text)
    assert len(masked) == len(text)
    assert [i for i, c in enumerate(masked) if c == "\n"] == [i for i, c in enumerate(text) if c == "\n"]


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet='`$[](){}<>!:\n %~-5s*#.=a\\"', max_size=60))
def test_no_page_stops_the_check(text):
    masked = prose_of(text)
    assert len(masked) == len(text)
    measured_numbers(text)


def test_a_long_page_is_checked_in_a_moment():
    import time

    text = (
        ("Plain words with 8 epochs, `code`, and [a link](#x).\n" * 20 + "\n") * 100
        + "[" * 2000
        + "`" * 2001
        + "$" * 999
    )
    start = time.process_time()
    measured_numbers(text)
    assert time.process_time() - start < 5


# --- what a link must say ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", VALUES)
def test_every_form_of_a_number_is_accepted_and_no_other_digit(name, ledger, tmp_path):
    for text in all_forms(VALUES[name]).values():
        key = f"finetune.fast.{name}"
        assert faults_of(f"It is [{text}](#{key}) here.", ledger, tmp_path) == []
        assert faults_of(f"It is [**{text}**](#{key}) here.", ledger, tmp_path) == []
        for place, character in enumerate(text):
            if character.isdigit() and character.isascii():
                other = text[:place] + str((int(character) + 1) % 10) + text[place + 1 :]
                (fault,) = faults_of(f"It is [{other}](#{key}) here.", ledger, tmp_path)
                assert "not what the ledger says" in fault.message
                assert f"[{text}](#{key})" in fault.remedy


@pytest.mark.parametrize(
    ("link", "words"),
    [
        ("[91.8 %](#finetune.fast.acuracy)", "leads to no record"),
        ("[91.8 %](#finetune.slow)", "leads to no record"),
        ("[what we found](#finetune.slow.accuracy)", "leads to no record"),
        ("[91.8 %](#results)", "leads to no record"),
        ("[91.8 %](other.md)", "leads to no record"),
        ("[91.8 %](ledger.html#finetune-slow-accuracy)", "leads to no record"),
        ("[about 91.8 %](#finetune.fast.accuracy)", "not what the ledger says"),
        ("[91.8 points](#finetune.fast.accuracy)", "not what the ledger says"),
        ("[](#finetune.fast.accuracy)", "not what the ledger says"),
        ("[91.8 %](ledger.html#finetune-fast-gain)", "not what the ledger says"),
    ],
)
def test_a_link_that_proves_nothing(link, words, ledger, tmp_path):
    (fault,) = faults_of(f"One line.\nIt is {link}.\n", ledger, tmp_path)
    assert words in fault.message
    assert fault.place == "line 2"
    assert fault.remedy
    assert "\n" not in str(fault)


@pytest.mark.parametrize(
    "link",
    [
        "[91.8\u00a0%](#finetune.fast.accuracy)",
        "[91.8 ±\n0.2 %](#finetune.fast.accuracy)",
        "[-0.4 points](#finetune.fast.gain)",
        "[91.8 %](book/ledger.md#finetune.fast.accuracy)",
        "[91.8 %](https://example.org/book/ledger.html#finetune-fast-accuracy)",
        "[91.8 %](../ledger.html#finetune-fast-accuracy 'a title')",
        "[the section](#results)",
        "[the page](other.md#results)",
        "`[99 %](#finetune.fast.accuracy)`",
    ],
)
def test_a_link_that_stands(link, ledger, tmp_path):
    assert faults_of(f"It is {link}.", ledger, tmp_path) == []


def test_the_remedy_knows_the_number(ledger, tmp_path):
    (fault,) = faults_of("It ran at 1,540 images/s.", ledger, tmp_path)
    assert "[1,540 images/s](#finetune.fast.speed)" in fault.remedy


# --- refreshing ---------------------------------------------------------------------------------------------------

STALE = [
    ("[90.0 %](#finetune.fast.accuracy)", "[91.8 %](#finetune.fast.accuracy)"),
    ("[**90 %**](#finetune.fast.accuracy)", "[**91.8 %**](#finetune.fast.accuracy)"),
    ("[90.0 ± 0.5 %](#finetune.fast.accuracy)", "[91.8 ± 0.2 %](#finetune.fast.accuracy)"),
    ("[90 (89 to 92) %](#finetune.fast.accuracy)", "[91.8 ± 0.2 %](#finetune.fast.accuracy)"),
    ("[90.0 ± 0.5 % (n = 3)](#finetune.fast.accuracy)", "[91.8 ± 0.2 % (n = 5)](#finetune.fast.accuracy)"),
    ("[n = 3](#finetune.fast.accuracy)", "[n = 5](#finetune.fast.accuracy)"),
    ("[90.0](#finetune.fast.accuracy)", "[91.8](#finetune.fast.accuracy)"),
    ("[?](#finetune.fast.parameters)", "[272,474](#finetune.fast.parameters)"),
    ("[6 ± 1 min](#finetune.fast.minutes)", "[5.98 min](#finetune.fast.minutes)"),
    ("[1 %](book/ledger.md#finetune-fast-accuracy)", "[91.8 %](book/ledger.md#finetune-fast-accuracy)"),
]
KEPT = "Kept: `[1 %](#finetune.fast.accuracy)`, [1 %](#finetune.slow.accuracy), 93.1 %, $[1 %](#a.b)$.  \n\ttab\r\n"


def test_write_refreshes_a_page_and_nothing_else(ledger, tmp_path):
    old = "# Title\n\n" + "\n".join(f"It is {stale}, so." for stale, _ in STALE) + "\n\n" + KEPT
    new = "# Title\n\n" + "\n".join(f"It is {fresh}, so." for _, fresh in STALE) + "\n\n" + KEPT
    page = tmp_path / "page.md"
    page.write_bytes(old.encode())
    before = check_prose([page], ledger)
    assert len(before) == len(STALE) + 2
    assert page.read_bytes() == old.encode()
    after = check_prose([page], ledger, write=True)
    assert page.read_bytes() == new.encode()
    assert [fault.message for fault in after] == [
        "[1 %](#finetune.slow.accuracy) leads to no record",
        "the measured number 93.1 % stands bare",
    ]


@pytest.mark.parametrize("ascii_only", [True, False])
@pytest.mark.parametrize("source_is_text", [True, False])
def test_write_refreshes_a_notebook_and_its_twin(ascii_only, source_is_text, ledger, tmp_path):
    stale, fresh = (f"# Title — é\n\nIt is {link[i]}.\n" for link in STALE[2:3] for i in (0, 1))

    def notebook(markdown: str) -> str:
        source = markdown if source_is_text else markdown.splitlines(keepends=True)
        output = {"output_type": "stream", "name": "stdout", "text": [f"{STALE[0][0]} 93.1 %\n"]}
        cells = [
            {"cell_type": "code", "source": f"# {STALE[0][0]}", "outputs": [output], "metadata": {"b": 1, "a": 1.50}},
            {"cell_type": "markdown", "metadata": {}, "source": source},
            {"cell_type": "raw", "metadata": {}, "source": STALE[0][0]},
        ]
        return json.dumps({"nbformat": 4, "cells": cells}, indent=1, ensure_ascii=ascii_only) + "\n"

    def twin(markdown: str) -> str:
        lines = "\n".join(f"# {line}".rstrip() for line in markdown.split("\n")[:-1])
        head = f"# ---\n# a: {STALE[0][0]}\n# ---\n\n# %%\n# {STALE[0][0]}\nx = 1\n\n"
        return f"{head}# %% [markdown]\n{lines}\n\n# %%\ny = 2\n"

    chapter, text = tmp_path / "chapter.ipynb", tmp_path / "text/chapter.py"
    text.parent.mkdir()
    chapter.write_text(notebook(stale))
    text.write_text(twin(stale))
    (fault,) = check_prose([chapter], ledger)
    assert fault.place == "cell 2, line 3"
    assert check_prose([chapter], ledger, write=True) == []
    assert chapter.read_text() == notebook(fresh)
    assert text.read_text() == twin(fresh)


def test_the_twin_stays_paired_with_its_notebook(ledger, tmp_path):
    """Refreshed by this check, notebook and twin still agree in jupytext's eyes."""
    jupytext = pytest.importorskip("jupytext")
    from jupytext.compare import compare_notebooks
    from nbformat import v4

    prose = [
        "# Title\n\nIt is [90.0 %](#finetune.fast.accuracy).\n\n- [n = 3](#finetune.fast.accuracy)\n\n```\n# %%\n```",
        "Then [6 min](#finetune.fast.minutes).",
    ]
    cells = [v4.new_markdown_cell(prose[0]), v4.new_code_cell("x = 1  # 5 %"), v4.new_markdown_cell(prose[1])]
    chapter = tmp_path / "chapter.ipynb"
    (tmp_path / "text").mkdir()
    jupytext.write(v4.new_notebook(cells=cells), chapter)
    jupytext.write(jupytext.read(chapter), tmp_path / "text/chapter.py", fmt="py:percent")
    assert check_prose([chapter], ledger, write=True) == []
    left, right = jupytext.read(chapter), jupytext.read(tmp_path / "text/chapter.py")
    compare_notebooks(right, left, "py:percent", compare_ids=False, compare_outputs=False)
    assert "[5.98 min](#finetune.fast.minutes)" in right.cells[2].source
    assert "[91.8 %](#finetune.fast.accuracy)" in right.cells[0].source


def test_a_notebook_of_another_layout_is_not_rewritten(ledger, tmp_path):
    cells = [{"cell_type": "markdown", "source": STALE[0][0]}]
    text = json.dumps({"cells": cells}, indent=3)
    (tmp_path / "odd.ipynb").write_text(text)
    (fault,) = check_prose([tmp_path / "odd.ipynb"], ledger, write=True)
    assert "open and save it once" in fault.remedy
    assert (tmp_path / "odd.ipynb").read_text() == text


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("absent.md", None, "cannot be read"),
        ("latin.md", b"\xe9", "cannot be read"),
        ("cut.ipynb", b'{"cells": [', "not a notebook"),
        ("list.ipynb", b"[]", "not a notebook"),
        ("cells.ipynb", b'{"cells": 3}', "not a notebook"),
        ("page.rst", b"text", "neither a page"),
    ],
)
def test_a_file_that_cannot_be_checked_is_a_fault(name, content, words, ledger, tmp_path):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    (fault,) = check_prose([tmp_path / name], ledger)
    assert words in str(fault)
    assert str(fault).count(name) == 1
    assert fault.remedy


# --- the whole book, and the records -----------------------------------------------------------------------------


def test_the_pages_of_a_book(tmp_path):
    for name in ("README.md", "book/index.md", "book/api/data.md", "book/ledger.md", "notebooks/a.ipynb", "notes.md"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    names = [page.relative_to(tmp_path).as_posix() for page in prose_pages(tmp_path)]
    assert names == ["README.md", "book/api/data.md", "book/index.md", "notebooks/a.ipynb"]


def test_check_records_names_what_is_wrong(tmp_path):
    def make(seed, **changes):
        fields = {"profile": "laptop", "parameters": {}, "data_digest": "ab", "wall_seconds": 1.0, **changes}
        return new_record("finetune", seeds=[seed], values={"accuracy": Value(91.8, "%")}, **fields)

    first = write_record(make(0), tmp_path)
    write_record(make(1), tmp_path)
    write_record(make(0, profile="quick"), tmp_path / "quick")
    assert check_records(tmp_path) == []
    assert check_records(tmp_path / "absent") == []

    whole = first.read_text()
    first.write_text(whole.replace("91.8", "92.8"))
    (fault,) = check_records(tmp_path)
    assert fault.file == str(first)
    assert fault.message == "was altered (values differs)"
    assert "restore it from git" in fault.remedy
    first.write_text(whole)

    quick = next((tmp_path / "quick").glob("*.json"))
    shutil.copy(quick, tmp_path / "stray.json")
    (fault,) = check_records(tmp_path)
    assert "differ in profile" in fault.message
    (tmp_path / "stray.json").unlink()

    failed = write_record(make(2, claims={"it works": False, "it is fast": True}), tmp_path)
    (fault,) = check_records(tmp_path)
    assert (fault.file, fault.message) == (str(failed), "in this run the claim 'it works' failed")
    quick.write_text("{}")
    assert len(check_records(tmp_path)) == 2


def test_the_book_keeps_the_rule():
    """This checkout's own pages and records."""
    root = Path(__file__).resolve().parents[2]
    faults = check_records(root / "results") + check_prose(prose_pages(root), Ledger.load(root / "results"))
    assert not faults, "\n".join(map(str, faults))
