"""The command line as a user meets it: exit codes, one-line errors, examples, and what each command prints."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
import types

import chapters_toy as toy
import nbformat
import pytest

from scaletut import cli, doctor
from scaletut.chapters import recording, run, schemas
from scaletut.chapters.schemas import Finetune
from scaletut.errors import CheckFailed
from scaletut.records import read_record


@pytest.fixture(autouse=True)
def book(tmp_path, monkeypatch):
    """Each test has a small book of its own as its working directory."""
    for name in ("SCALETUT_PROFILE", "SCALETUT_RECORDS", "SCALETUT_BOOK", "SCALETUT_DATA"):
        monkeypatch.delenv(name, raising=False)
    toy.make_book(tmp_path)
    only = types.MappingProxyType({"finetune": schemas.CHAPTERS["finetune"]})
    monkeypatch.setattr(schemas, "CHAPTERS", only)  # the toy book has this chapter alone
    monkeypatch.chdir(tmp_path)
    return tmp_path


def commands():
    parser = cli.build_parser()
    (sub,) = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    return sub.choices


def errors_of(capsys):
    lines = capsys.readouterr().err.strip().splitlines()
    assert all(line.startswith("scaletut: error: ") for line in lines), lines
    return lines


@pytest.mark.parametrize("name", sorted(commands()))
def test_every_command_explains_itself_with_examples_that_parse(name):
    text = commands()[name].format_help()
    examples = [line.strip() for line in text.rpartition("\nexamples:")[2].splitlines() if line.strip()]
    assert examples
    for example in examples:
        for part in example.partition("#")[0].split("&&"):
            program, _, arguments = part.strip().partition("scaletut ")
            assert program in ("", "torchrun --nproc-per-node 2 -m ")
            cli.build_parser().parse_args(arguments.split())


def test_help_comes_at_once_and_imports_no_room():
    code = (
        "import sys, time; begin = time.perf_counter()\n"
        "from scaletut import cli\n"
        "cli.build_parser().format_help()\n"
        "heavy = [m for m in ('torch', 'numpy', 'pydantic', 'papermill') if m in sys.modules]\n"
        "print(time.perf_counter() - begin, heavy)"
    )
    best = 9.0
    for _ in range(3):  # the best of three, on a machine that does other things too
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        seconds, _, modules = done.stdout.strip().partition(" ")
        assert modules == "[]"
        best = min(best, float(seconds))
    assert best < 0.3


def test_chapters_and_params_tell_the_schema(capsys):
    assert cli.main(["chapters"]) == 0
    assert Finetune.title in capsys.readouterr().out
    assert cli.main(["params", "finetune"]) == 0
    text = capsys.readouterr().out
    for word in ("epochs", "int", "0 to 200", "zipf10", "labels a class", "'laptop'"):
        assert word in text
    assert cli.main(["params", "finetune", "--cell"]) == 0
    assert 'profile = "laptop"' in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run", "finetune", "-p", "epoch=3"], "did you mean 'epochs'?"),
        (["run", "finetune", "-p", "epochs=many"], "epochs='many' is not a whole number"),
        (["run", "finetune", "-p", "epochs=-2"], "nearest valid: epochs=0"),
        (["run", "finetune", "--profile", "lapto"], "did you mean 'laptop'?"),
        (["run", "fintune"], "did you mean 'finetune'?"),
        (["run", "finetune", "-p", "data=cifar"], "did you mean 'cifar10'?"),
        (["run", "finetune", "--grid", "epocs=1,2"], "did you mean 'epochs'?"),
        (["run"], "name one chapter, or give --all"),
        (["run", "finetune", "--all"], "name one chapter, or give --all"),
        (["run", "--all", "-p", "epochs=3"], "goes with one chapter"),
        (["params", "finetun"], "did you mean 'finetune'?"),
        (["pair", "fine"], "does not exist"),
        (["receipt"], "no quick run to compare with"),
        (["train", "fats", "--data", "zipf10"], "did you mean 'fast'?"),
    ],
)
def test_what_is_refused_exits_2_with_one_line_before_anything_runs(capsys, book, arguments, words):
    assert cli.main(arguments) == 2
    (line,) = errors_of(capsys)
    assert words in line
    assert not (book / "_build").exists()


def test_a_missing_package_is_told_in_one_line(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "papermill", None)  # as if it were not there
    assert cli.main(["run", "finetune", "--profile", "quick"]) == 2
    (line,) = errors_of(capsys)
    assert "papermill is not installed; `scaletut doctor`" in line


def test_a_command_that_is_none_exits_2(capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(["rum"])
    assert caught.value.code == 2


def test_run_tells_a_line_a_chapter_and_skips_what_is_fresh(capsys, book):
    assert cli.main(["run", "--all", "--profile", "quick", "--stale"]) == 0
    first = capsys.readouterr()
    assert len(first.out.strip().splitlines()) == 1
    assert "_build/quick/finetune.ipynb" in first.out
    assert "(not run yet)" in first.out
    assert "finetune (quick)" in first.err, "a progress bar"
    begin = time.perf_counter()
    assert cli.main(["run", "--all", "--profile", "quick", "--stale"]) == 0
    assert time.perf_counter() - begin < 5
    second = capsys.readouterr()
    assert second.out.split() == ["finetune", "quick", "fresh"]
    toy.edit(book / "notebooks" / "finetune.ipynb", "print(chosen.profile", "print(1 / 0, chosen.profile")
    assert cli.main(["run", "--all", "--profile", "quick", "--stale"]) == 1
    error = [line for line in capsys.readouterr().err.splitlines() if "scaletut: error" in line]
    assert len(error) == 1
    assert "cell In [4] raised ZeroDivisionError" in error[0]


def test_out_and_parameters_reach_the_notebook_and_its_record(capsys, book):
    assert cli.main(["run", "finetune", "--profile", "quick", "-p", "epochs=9", "--out", "mine"]) == 0
    record = read_record(book / "mine" / "records" / "finetune.json")
    assert record.parameters["epochs"] == 9
    assert record.values["accuracy"].value == 59.0
    assert not (book / "_build").exists()


def test_a_grid_writes_one_table_and_one_page(capsys, book):
    arguments = ["run", "finetune", "--profile", "quick", "--grid", "epochs=1,2", "--out", "grid"]
    assert cli.main(arguments) == 0
    text = capsys.readouterr().out
    assert "wrote grid/comparison.csv" in text
    assert "wrote grid/comparison.html" in text
    rows = (book / "grid" / "comparison.csv").read_text(encoding="utf-8").splitlines()
    assert rows[0].startswith("epochs,finetune.accuracy [%],")
    assert [row.split(",")[0] for row in rows[1:]] == ["1", "2"]


def test_recording_stores_outputs_records_and_twin_and_then_the_book_checks_out(capsys, book):
    assert cli.main(["check"]) == 1
    assert "not those of a recorded run" in capsys.readouterr().out
    assert cli.main(["record", "finetune"]) == 0
    capsys.readouterr()
    notebook = nbformat.read(book / "notebooks" / "finetune.ipynb", as_version=4)
    assert not any("injected-parameters" in cell.metadata.get("tags", []) for cell in notebook.cells)
    assert not any("papermill" in part.metadata for part in (notebook, *notebook.cells))
    assert [cell.id for cell in notebook.cells] == [f"toy-{n}" for n in range(len(notebook.cells))]
    assert read_record(book / "results" / "finetune.json").profile == "laptop"
    assert cli.main(["check"]) == 0, capsys.readouterr().out

    assert cli.main(["record", "finetune", "--profile", "quick"]) == 0
    assert read_record(book / "results" / "quick" / "finetune.json").profile == "quick"
    assert nbformat.read(book / "notebooks" / "finetune.ipynb", as_version=4) == notebook
    assert cli.main(["receipt"]) == 1, "nothing was run here yet"
    assert cli.main(["run", "--all", "--profile", "quick"]) == 0
    capsys.readouterr()
    assert cli.main(["receipt", "--page", "book/receipt.md"]) == 0
    assert "within" in capsys.readouterr().out
    assert json.loads((book / "_build" / "receipt.json").read_text(encoding="utf-8"))["passed"] is True

    assert cli.main(["ledger"]) == 0
    assert "finetune.accuracy" in capsys.readouterr().out
    assert cli.main(["ledger", "--page", "book/ledger.md"]) == 0
    assert "(finetune.accuracy)=" in (book / "book" / "ledger.md").read_text(encoding="utf-8")

    page = book / "book" / "index.md"
    page.write_text("# The book\n\nIt reaches [11 %](#finetune.accuracy).\n", encoding="utf-8")
    capsys.readouterr()
    assert cli.main(["check"]) == 1
    assert "index.md" in capsys.readouterr().out
    assert cli.main(["check", "--write"]) == 0
    assert "[54.0 %](#finetune.accuracy)" in page.read_text(encoding="utf-8")

    record = book / "results" / "finetune.json"
    record.write_text(record.read_text(encoding="utf-8").replace('"value": 54.0', '"value": 94.0'), encoding="utf-8")
    assert cli.main(["check"]) == 1
    assert "was altered" in capsys.readouterr().out


def test_a_failed_recording_changes_nothing_of_the_book(book):
    notebook = book / "notebooks" / "finetune.ipynb"
    toy.edit(notebook, "print(chosen.profile", "print(1 / 0, chosen.profile")
    before = notebook.read_bytes()
    with pytest.raises(run.ChapterFailed):
        recording.record("finetune")
    assert notebook.read_bytes() == before
    assert not (book / "results").exists()


def test_ledger_cells_are_shown_anew_without_running_the_chapter(book):
    notebook = book / "notebooks" / "finetune.ipynb"
    recording.record("finetune")
    before = nbformat.read(notebook, as_version=4)
    (asks,) = [cell for cell in before.cells if "ledger" in cell.metadata.get("tags", [])]
    assert asks.outputs[0]["data"]["text/plain"] == "0", "it was asked before the run left its record"
    record = (book / "results" / "finetune.json").read_bytes()

    assert cli.main(["record", "finetune", "--ledger"]) == 0
    after = nbformat.read(notebook, as_version=4)
    (asks,) = [cell for cell in after.cells if "ledger" in cell.metadata.get("tags", [])]
    assert asks.outputs[0]["data"]["text/plain"] == "1"
    changed = [one.id for one, other in zip(before.cells, after.cells, strict=True) if one != other]
    assert changed == [asks.id]
    assert (book / "results" / "finetune.json").read_bytes() == record
    assert cli.main(["check"]) == 0

    toy.edit(notebook, "print(chosen.profile", "print(2, chosen.profile")
    with pytest.raises(CheckFailed, match="not as it was recorded"):
        recording.refresh("finetune")


def test_pair_lets_either_side_lead(book, capsys):
    twin = book / "notebooks" / "text" / "finetune.py"
    twin.write_text(twin.read_text(encoding="utf-8").replace("A toy", "Another toy"), encoding="utf-8")
    assert cli.main(["pair", "finetune", "--from-text"]) == 0
    assert "notebooks/finetune.ipynb" in capsys.readouterr().out
    notebook = book / "notebooks" / "finetune.ipynb"
    assert "Another toy" in nbformat.read(notebook, as_version=4).cells[0].source
    notebook.unlink()
    assert cli.main(["pair", "finetune"]) == 2
    assert cli.main(["pair", "finetune", "--from-text"]) == 0, "a new chapter may begin as text"
    assert notebook.is_file()


# --- doctor ------------------------------------------------------------------------


def test_doctor_tells_versions_device_and_data(capsys, monkeypatch):
    monkeypatch.setenv("SCALETUT_PROFILE", "quick")
    assert cli.main(["doctor"]) == 0
    text = capsys.readouterr().out
    for word in ("Python 3.", "packages fit", "processor", "cores", "device", "zipf10: generated", "cifar10:"):
        assert word in text
    assert "SCALETUT_PROFILE=quick" in text
    assert cli.main(["doctor", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert {"core", "train", "book", "dev", "transfer"} <= set(told["extras"])
    assert all(package["fits"] for package in told["extras"]["core"])
    assert told["memory_gb"] > 0


def test_doctor_names_what_is_missing_and_the_command_for_it(monkeypatch):
    from packaging.requirements import Requirement

    needs = {"train": (Requirement("numpy>=1"), Requirement("no-such-package>=3"), Requirement("scipy>=99"))}
    monkeypatch.setattr(doctor, "_requirements", lambda: needs)
    text = "\n".join(doctor.lines(doctor.examine()))
    assert "1 of 3 packages fit" in text
    assert "missing: no-such-package (>=3)" in text
    assert "is installed, wanted is >=99" in text
    assert "pip install 'scaletut[train]'" in text


def test_doctor_finds_the_data(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert "downloads it" in doctor._cifar10()
    monkeypatch.setenv("SCALETUT_DATA", str(tmp_path / "typo"))
    assert "not a folder" in doctor._cifar10()
    monkeypatch.setenv("SCALETUT_DATA", str(tmp_path))
    (tmp_path / "cifar10.npz").write_bytes(b"")
    assert doctor._cifar10() == str(tmp_path / "cifar10.npz")


def test_a_closed_pipe_is_no_error():
    command = f"{sys.executable} -m scaletut.cli params finetune | head -1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert done.stderr == ""
