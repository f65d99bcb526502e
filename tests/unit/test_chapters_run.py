"""Running a chapter through papermill: staleness, whole files, failures, interrupts, grids."""

import csv
import json
import os
import signal
import subprocess
import sys
import time

import chapters_toy as toy
import nbformat
import pytest

from scaletut.chapters import gallery, run, stale
from scaletut.errors import ParameterError
from scaletut.records import read_record


@pytest.fixture
def book(tmp_path, monkeypatch):
    for name in ("SCALETUT_PROFILE", "SCALETUT_RECORDS", "SCALETUT_BOOK"):
        monkeypatch.delenv(name, raising=False)
    toy.make_book(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def quick(**parameters):
    return run.plan("finetune", parameters, profile="quick")


def files(folder):
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}


def test_a_run_leaves_notebook_record_and_key_and_is_then_fresh(book):
    work = quick()
    assert work.stale_reason() == "not run yet"
    done = run.run(work)
    build = book / "_build"
    assert files(build) == {"quick/finetune.ipynb", "quick/finetune.key.json", "records/quick/finetune.json"}
    record = read_record(done.records[0])
    assert (record.profile, record.parameters["epochs"]) == ("quick", 2)
    assert record.claims == {"width is positive": True}
    executed = nbformat.read(done.notebook, as_version=4)
    assert any("injected-parameters" in cell.metadata.get("tags", []) for cell in executed.cells)
    assert quick().stale_reason() == ""
    assert "SCALETUT_RECORDS" not in os.environ


def test_staleness_follows_content_and_not_file_times(book, monkeypatch, tmp_path_factory):
    notebook = book / "notebooks" / "finetune.ipynb"
    run.run(quick())
    for path in [notebook, *(book / "_build").rglob("*.json")]:
        os.utime(path, (1, 1))
    assert quick().stale_reason() == ""

    source = notebook.read_text(encoding="utf-8")
    stored = nbformat.read(notebook, as_version=4)
    stored.cells[1].outputs = [nbformat.v4.new_output("stream", text="other output")]
    nbformat.write(stored, notebook)
    assert quick().stale_reason() == "", "outputs are no input"

    toy.edit(notebook, "width is positive", "width is above zero")
    assert quick().stale_reason() == "notebook changed"
    notebook.write_text(source, encoding="utf-8")
    assert quick().stale_reason() == ""

    with monkeypatch.context() as other:
        other.setattr("scaletut.records.library_digest", lambda: "0" * 64)
        assert quick().stale_reason() == "library changed"

    (book / "results" / "quick").mkdir(parents=True)
    (book / "results" / "quick" / "finetune.json").write_text("{}", encoding="utf-8")
    assert quick().stale_reason() == "", "no chapter quotes a quick record"
    (book / "results" / "finetune.json").write_text("{}", encoding="utf-8")
    assert quick().stale_reason() == "results changed"
    (book / "results" / "finetune.json").unlink()

    record = book / "_build" / "records" / "quick" / "finetune.json"
    record.write_text(record.read_text(encoding="utf-8").replace("52", "53"), encoding="utf-8")
    assert quick().stale_reason() == "finetune.json missing or altered"
    record.unlink()
    assert quick().stale_reason() == "finetune.json missing or altered"


def test_the_library_digest_sees_an_edited_file(tmp_path, monkeypatch):
    """What a key calls "library" is every Python file of the package, by content."""
    import shutil
    from pathlib import Path

    import scaletut.records.record as module

    package = Path(module.__file__).resolve().parents[1]
    copy = tmp_path / "scaletut"
    shutil.copytree(package, copy, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(module, "__file__", str(copy / "records" / "record.py"))
    before = module.library_digest()
    os.utime(copy / "errors.py", (1, 1))
    assert module.library_digest() == before
    with (copy / "errors.py").open("a", encoding="utf-8") as file:
        file.write("# edited\n")
    assert module.library_digest() != before


def test_a_changed_parameter_profile_or_version_changes_the_key(book, monkeypatch):
    base = quick().key()
    assert quick(epochs=3).key().changes(base) == ("parameters",)
    assert "data" in quick(data="zipf10:a=1").key().changes(base)
    monkeypatch.setattr("platform.python_version", lambda: "3.99.0")
    assert quick().key().changes(base) == ("versions",)


def test_the_data_digest_follows_the_files(tmp_path, monkeypatch):
    (tmp_path / "cats").mkdir()
    (tmp_path / "cats" / "a.png").write_bytes(b"a")
    source = f"folder:{tmp_path}"
    before = stale.data_digest(source)
    os.utime(tmp_path / "cats" / "a.png", (1, 1))
    assert stale.data_digest(source) == before
    (tmp_path / "cats" / "a.png").write_bytes(b"b")
    assert stale.data_digest(source) != before

    monkeypatch.setenv("SCALETUT_DATA", str(tmp_path))
    none = stale.data_digest("cifar10")
    (tmp_path / "cifar10.npz").write_bytes(b"1")
    one = stale.data_digest("cifar10")
    (tmp_path / "cifar10.npz").write_bytes(b"2")
    assert len({none, one, stale.data_digest("cifar10")}) == 3


def test_changed_parameters_go_to_a_folder_of_their_own(book):
    assert quick().folder == book / "_build" / "quick"
    assert quick(epochs=3).folder.parent == book / "_build" / "runs"
    assert quick(epochs=3).folder != quick(epochs=4).folder
    assert run.plan("finetune", profile="quick", out=book / "mine").records == book / "mine" / "records"


def test_profiles_have_one_order_of_precedence(book, monkeypatch):
    monkeypatch.setenv("SCALETUT_PROFILE", "quick")
    assert run.plan("finetune").resolved.profile == "quick"
    assert run.plan("finetune", {"profile": "gpu"}).resolved.profile == "gpu"
    assert run.plan("finetune", profile="laptop").resolved.profile == "laptop"
    with pytest.raises(ParameterError, match="two profiles"):
        run.plan("finetune", {"profile": "gpu"}, profile="quick")


def test_a_relative_folder_means_the_callers_own(book):
    (book / "photos").mkdir()
    assert quick(data="folder:photos").resolved.data == f"folder:{book / 'photos'}"
    with pytest.raises(ParameterError, match="nowhere"):
        quick(data="folder:nowhere")


def test_a_failing_cell_is_told_in_one_line_and_the_partial_notebook_is_kept(book):
    run.run(quick())
    before = (book / "_build" / "quick" / "finetune.ipynb").read_bytes()
    toy.edit(book / "notebooks" / "finetune.ipynb", "begin = time.monotonic()", "begin = 1 / 0")
    work = quick()
    with pytest.raises(run.ChapterFailed) as caught:
        run.run(work)
    text = str(caught.value)
    assert "\n" not in text
    for word in ("finetune (quick)", "cell In [4]", "ZeroDivisionError: division by zero", str(work.failed_notebook)):
        assert word in text
    partial = nbformat.read(work.failed_notebook, as_version=4)
    assert any(output.output_type == "error" for cell in partial.cells for output in cell.get("outputs", []))
    assert work.notebook.read_bytes() == before, "the last good run stays"
    assert not list((book / "_build" / "quick").glob(".run-*"))

    toy.edit(book / "notebooks" / "finetune.ipynb", "begin = 1 / 0", "begin = time.monotonic()")
    assert quick().stale_reason() == "", "a mended chapter is what was run before"


def test_a_dead_kernel_is_told_in_one_line(book):
    toy.edit(book / "notebooks" / "finetune.ipynb", "begin = time.monotonic()", "import os; os._exit(1)")
    with pytest.raises(run.ChapterFailed, match="kernel died"):
        run.run(quick())


def test_an_interrupt_exits_130_and_leaves_nothing_half_written(book):
    toy.edit(
        book / "notebooks" / "finetune.ipynb",
        "begin = time.monotonic()",
        "begin = 0; open('started', 'w'); time.sleep(60)",
    )
    command = [sys.executable, "-m", "scaletut.cli", "run", "finetune", "--profile", "quick"]
    process = subprocess.Popen(command, cwd=book, stderr=subprocess.PIPE, text=True)
    started = book / "notebooks" / "started"
    deadline = time.monotonic() + 60
    while not started.exists():
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    errors = process.communicate(timeout=30)[1]
    assert process.returncode == 130, errors
    assert "interrupted" in errors
    assert "Traceback" not in errors
    assert files(book / "_build") == set()


def test_a_grid_runs_all_variants_and_compares_them(book):
    plans = gallery.plans("finetune", ["seed=3"], ["epochs=1,2", "label_budgets=5,10;20"], profile="quick")
    assert [work.folder.name for work in plans] == [
        "epochs=1,label_budgets=5,10",
        "epochs=1,label_budgets=20",
        "epochs=2,label_budgets=5,10",
        "epochs=2,label_budgets=20",
    ]
    run.run(plans[0])
    run.run(plans[3])
    failed = {plans[1].folder: "a cell <raised>", plans[2].folder: "too"}
    table, page = gallery.write(plans, failed=failed)
    rows = list(csv.DictReader(table.open(encoding="utf-8")))
    assert [row["epochs"] for row in rows] == ["1", "1", "2", "2"]
    assert [row["finetune.accuracy [%]"] for row in rows] == ["51.0", "", "", "52.0"]
    assert [row["finetune.accuracy low"] for row in rows] == ["50.0", "", "", "51.0"]
    assert [row["status"] for row in rows] == ["passed", "a cell <raised>", "too", "passed"]
    text = page.read_text(encoding="utf-8")
    assert "51.0 ± 1.0 %" in text or "51 ± 1 %" in text
    assert "a cell &lt;raised&gt;" in text
    assert text.count('alt="a single pixel') == 2
    for work in (plans[0], plans[3]):
        assert f'href="{work.folder.name}/finetune.ipynb"' in text


@pytest.mark.parametrize(
    ("assignments", "grid", "words"),
    [
        ([], ["epochs=1,900"], "epochs=900 is out of range"),
        ([], ["epoch=1,2"], "did you mean 'epochs'"),
        ([], ["epochs=1,1"], "names a value twice"),
        (["epochs=1"], ["epochs=1,2"], "by -p and by --grid"),
        ([], ["epochs=1,2", "epochs=3"], "given twice"),
        ([], ["seed=" + ",".join(str(n) for n in range(101))], "101 variants"),
    ],
)
def test_a_grid_is_refused_before_anything_runs(book, assignments, grid, words):
    with pytest.raises(ParameterError, match=words):
        gallery.plans("finetune", assignments, grid, profile="quick")
    assert not (book / "_build").exists()


def test_the_key_file_is_readable_json(book):
    done = run.run(quick())
    told = json.loads(done.plan.key_file.read_text(encoding="utf-8"))
    assert set(told["parts"]) == {"notebook", "library", "parameters", "data", "results", "versions"}
    assert set(told["products"]) == {"finetune.ipynb", "../records/quick/finetune.json"}


def test_the_sites_digest_follows_pages_and_library_by_content(book):
    before = stale.site_digest(book)
    os.utime(book / "book" / "index.md", (1, 1))
    assert stale.site_digest(book) == before
    (book / "book" / "index.md").write_text("# Other\n", encoding="utf-8")
    assert stale.site_digest(book) != before
