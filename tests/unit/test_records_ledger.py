"""The ledger joins what differs in its seeds only, and its page gives every number a target."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scaletut.errors import RecordError
from scaletut.records import Ledger, Value, ledger_page, new_record, repository_of, write_record
from scaletut.records.ledger import anchor_of


def make(seed=0, accuracy=91.8, **changes):
    fields = {
        "experiment": "finetune.fast",
        "profile": "laptop",
        "parameters": {"epochs": 8, "seed": seed},
        "data_digest": "ab" * 32,
        "seeds": [seed],
        "values": {"accuracy": Value(accuracy, "%"), "test_error": Value(100 - accuracy, "%")},
        "wall_seconds": 300.0 + seed,
        "peak_memory_bytes": 1_250_000_000,
        "device": {"name": "A CPU", "cores": 2, "threads": 2, "dtype": "bfloat16"},
        "command": f"scaletut train fast --seed {seed}",
        **changes,
    }
    return new_record(fields.pop("experiment"), **fields)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(1, 99), min_size=2, max_size=6))
def test_seeds_become_a_mean_with_its_interval(samples):
    ledger = Ledger.of(make(seed, accuracy) for seed, accuracy in enumerate(samples))
    entry = ledger["finetune.fast.accuracy"]
    assert entry.measured == Value.of(samples, "%")
    assert (entry.n, entry.unit, len(entry.records)) == (len(samples), "%", len(samples))
    assert entry.reproduce == tuple(f"scaletut train fast --seed {seed}" for seed in range(len(samples)))
    assert ledger["finetune.fast.run_minutes"].n == len(samples)


def test_a_single_record_keeps_its_own_interval():
    value = Value(91.8, "%", 91.6, 92.1, 5)
    ledger = Ledger.of([make(seeds=[0, 1, 2, 3, 4], values={"accuracy": value})])
    assert ledger["finetune.fast.accuracy"].measured == value
    assert ledger.format("finetune.fast.accuracy") == "91.8 %"
    assert ledger.format("finetune.fast.accuracy", "count") == "n = 5"
    assert ledger.format("finetune.fast.run_minutes") == "5.00 min"
    assert ledger.format("finetune.fast.run_peak_memory") == "1.25 GB"


def test_memory_that_one_run_lacks_is_not_averaged():
    ledger = Ledger.of([make(0), make(1, peak_memory_bytes=None)])
    assert "finetune.fast.run_peak_memory" not in ledger
    assert "finetune.fast.run_minutes" in ledger


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"profile": "gpu"}, "differ in profile"),
        ({"parameters": {"epochs": 9, "seed": 1}}, "differ in parameter epochs"),
        ({"parameters": {"epochs": 8, "width": 2}}, "differ in parameter width"),
        ({"data_digest": "cd" * 32}, "differ in data digest"),
        ({"device": {"name": "Another CPU", "threads": 2, "dtype": "bfloat16"}}, "differ in device name"),
        ({"values": {"accuracy": Value(91.0, "%")}}, "differ in value test_error"),
        ({"values": {"accuracy": Value(0.91), "test_error": Value(9.0, "%")}}, "differ in value accuracy"),
        ({"seeds": [0]}, "with seed 0"),
    ],
)
def test_what_differs_in_more_than_the_seed_is_not_averaged(changes, words):
    with pytest.raises(RecordError, match=words):
        Ledger.of([make(0), make(1, **changes)])


def test_one_key_has_one_source():
    chapter = make(experiment="finetune", values={"fast.accuracy": Value(91.0, "%")})
    with pytest.raises(RecordError, match=r"finetune\.fast\.accuracy is claimed by"):
        Ledger.of([chapter, make()])


def test_an_unknown_key_names_the_nearest():
    ledger = Ledger.of([make()])
    with pytest.raises(RecordError, match=r"nearest: finetune\.fast\.accuracy"):
        ledger["finetune.fast.acuracy"]
    with pytest.raises(RecordError, match="run the experiment"):
        Ledger([]).format("a.b")
    assert ledger.get("a.b") is None


def test_load_reads_sub_folders_but_not_the_quick_ones_and_not_the_runs_of_sweeps(tmp_path):
    write_record(make(0), tmp_path)
    write_record(make(1), tmp_path / "more")
    write_record(make(3), tmp_path / "sweeps" / "small")
    write_record(make(2, experiment="quick.only"), tmp_path / "quick")
    assert Ledger.load(tmp_path)["finetune.fast.accuracy"].n == 2
    assert not any(key.startswith("quick") for key in Ledger.load(tmp_path))
    assert "quick.only.accuracy" in Ledger.load(tmp_path / "quick")
    assert len(Ledger.load(tmp_path / "absent")) == 0


def test_load_refuses_an_altered_record(tmp_path):
    path = write_record(make(), tmp_path)
    path.write_text(path.read_text().replace("91.8", "92.8"))
    with pytest.raises(RecordError, match="altered"):
        Ledger.load(tmp_path)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            'title: x\nrepository:\n  url: https://h/o/r\n  path_to_book: ""\n  branch: dev\nhtml: {}\n',
            ("https://h/o/r", "dev"),
        ),
        ('repository:\n  url: "https://h/o/r" # the one\n', ("https://h/o/r", "main")),
        ("html:\n  url: https://elsewhere\n", ("", "main")),
    ],
)
def test_the_repository_setting_is_read(tmp_path, text, expected):
    config = tmp_path / "_config.yml"
    config.write_text(text)
    assert repository_of(config) == expected
    assert repository_of(tmp_path / "absent.yml") == ("", "main")


def test_the_page_shows_what_a_reader_asks_for(tmp_path):
    for seed, accuracy in enumerate([91.6, 91.8, 92.0]):
        write_record(
            make(seed, accuracy, note="while *other* work ran", claims={"it holds": True}), tmp_path / "results"
        )
    page = ledger_page(Ledger.load(tmp_path / "results"), repository="https://h/o/r")
    for shown in (
        "(finetune.fast.accuracy)=",
        "91.8 ± 0.5 %",
        "  - 91.8 ± 0.5 %\n  - 3\n",
        "A CPU, 2 cores, 2 threads, bfloat16",
        "laptop",
        "`epochs` = `8`",
        "`abababababab`",
        "seed 1 · 20",
        "5.02 min · 1.25 GB",
        "https://h/o/r/blob/main/results/finetune.fast-laptop-seed2-",
        "scaletut train fast --seed 2",
        "3 of 3 hold",
        "while \\*other\\* work ran",
    ):
        assert shown in page, shown
    assert str(tmp_path) not in page
    assert "`seed` =" not in page
    assert ledger_page(Ledger([])).rstrip().endswith("No run is recorded yet.")


def test_labels_come_in_the_order_of_their_numbers():
    values = {f"full.labels{n}": Value(n, "%") for n in (10, 50, 200, 1000, 5000)}
    page = ledger_page(Ledger.of([make(values=values)]))
    places = [page.index(f"(finetune.fast.full.labels{n})=") for n in (10, 50, 200, 1000, 5000)]
    assert places == sorted(places)


def test_links_resolve_on_the_site(tmp_path):
    """From a page and from a notebook in other folders, with every warning an error."""
    pytest.importorskip("myst_nb")
    from nbformat import v4, write

    ledger = Ledger.of([make(0, 91.6), make(1, 92.0)])
    links = "\n".join(f"A number, [{ledger.format(key)}](#{key})." for key in ledger)
    (tmp_path / "book").mkdir()
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "conf.py").write_text(
        'extensions = ["myst_nb"]\nnb_execution_mode = "off"\nmyst_heading_anchors = 3\n'
        'myst_enable_extensions = ["deflist", "colon_fence", "attrs_inline"]\nexclude_patterns = ["_build"]\n'
    )
    toc = "```{toctree}\nbook/ledger\nbook/page\nnotebooks/chapter\n```\n"
    (tmp_path / "index.md").write_text(f"# Home\n\n{links}\n\n{toc}")
    (tmp_path / "book/page.md").write_text(f"# Page\n\n{links}\n")
    (tmp_path / "book/ledger.md").write_text(ledger_page(ledger, repository="https://h/o/r"))
    cell = v4.new_markdown_cell(f"# Chapter\n\n{links}")
    write(v4.new_notebook(cells=[cell]), tmp_path / "notebooks/chapter.ipynb")
    command = [sys.executable, "-m", "sphinx", "-W", "-n", "-q", "-b", "html", ".", "_build"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    page = Path(tmp_path / "_build/book/ledger.html").read_text()
    for key in ledger:
        assert f'id="{anchor_of(key)}"' in page
        for name, up in (("index", "book/"), ("book/page", ""), ("notebooks/chapter", "../book/")):
            html = (tmp_path / f"_build/{name}.html").read_text()
            assert f'href="{up}ledger.html#{anchor_of(key)}"' in html
