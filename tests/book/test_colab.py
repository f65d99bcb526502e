"""Each chapter's set-up cell as Colab runs it.

Colab has torch and the usual scientific packages, and not this one.
So: an environment that sees every package of ours except scaletut, a stand-in for `google.colab`,
and a wheel built from the checkout in place of the repository's address (`SCALETUT_WHEEL`).
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import nbformat
import pytest

from scaletut.records.ledger import repository_of

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))

# Runs one cell as a notebook would, then tells what can be imported and from where.
DRIVER = """
import importlib.metadata, json, sys, types
if sys.argv[2] == "colab":
    google = types.ModuleType("google")
    google.colab = sys.modules["google.colab"] = types.ModuleType("google.colab")
    sys.modules.setdefault("google", google)
from IPython.core.interactiveshell import InteractiveShell
result = InteractiveShell.instance().run_cell(open(sys.argv[1], encoding="utf-8").read())
error = result.error_in_exec or result.error_before_exec
told = {"error": repr(error) if error else "", "versions": {}}
for found in importlib.metadata.distributions():
    told["versions"][found.metadata["Name"]] = found.version
try:
    import scaletut, scaletut.chapters
    told["home"] = scaletut.__file__
except ModuleNotFoundError:
    told["home"] = ""
print("TOLD" + json.dumps(told))
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """A wheel of the checkout; built from a copy, for a build writes beside its sources."""
    place = tmp_path_factory.mktemp("wheel")
    source = place / "source"
    shutil.copytree(ROOT / "scaletut", source / "scaletut", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, source)
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(place), str(source)]
    subprocess.run(command, check=True, capture_output=True, timeout=300)
    (found,) = place.glob("*.whl")
    return found


@pytest.fixture
def colab(tmp_path):
    """An environment with all packages of this one except scaletut: its interpreter."""
    home = tmp_path / "colab"
    venv.create(home, with_pip=False, symlinks=True)
    (packages,) = home.glob("lib/python*/site-packages")
    shared = tmp_path / "shared"
    shared.mkdir()
    for folder in {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}:
        for entry in Path(folder).iterdir():
            if not entry.name.lower().startswith(("scaletut", "_scaletut")) and entry.suffix != ".pth":
                (shared / entry.name).symlink_to(entry)
    (packages / "shared.pth").write_text(f"{shared}\n", encoding="utf-8")
    return home / "bin" / "python"


def run_cell(python: Path, source: str, place: Path, *, colab: bool, wheel: Path | None = None) -> dict:
    cell, driver = place / "cell.txt", place / "driver.py"
    cell.write_text(source, encoding="utf-8")
    driver.write_text(DRIVER, encoding="utf-8")
    ours = ("SCALETUT_", "PYTHONPATH", "VIRTUAL_ENV")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    if wheel is not None:
        environment["SCALETUT_WHEEL"] = str(wheel)
    done = subprocess.run(
        [str(python), str(driver), str(cell), "colab" if colab else "local"],
        cwd=place, env=environment, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert "TOLD" in done.stdout, done.stdout + done.stderr
    return json.loads(done.stdout.rpartition("TOLD")[2])


def setup_cell(notebook: Path) -> str:
    cells = nbformat.read(notebook, as_version=4).cells
    return next(cell.source for cell in cells if cell.cell_type == "code")


def test_there_are_chapters():
    assert NOTEBOOKS


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_on_colab_the_cell_installs_the_package_and_moves_nothing_else(notebook, colab, wheel, tmp_path):
    before = run_cell(colab, "1", tmp_path, colab=True)
    assert before["home"] == "", "the environment must lack the package, or this tests nothing"
    after = run_cell(colab, setup_cell(notebook), tmp_path, colab=True, wheel=wheel)
    assert after["error"] == ""
    assert Path(after["home"]).is_relative_to(colab.parents[1])
    changed = {name for name, version in after["versions"].items() if before["versions"].get(name) != version}
    assert changed == {"scaletut"}
    assert {"torch", "numpy"} <= set(before["versions"])


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_elsewhere_the_cell_installs_nothing_and_stops_with_an_instruction(notebook, colab, wheel, tmp_path):
    told = run_cell(colab, setup_cell(notebook), tmp_path, colab=False, wheel=wheel)
    assert told["home"] == ""
    assert "make setup" in told["error"] or "pip install" in told["error"]


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_where_the_package_is_installed_the_cell_does_nothing(notebook, wheel, tmp_path):
    told = run_cell(Path(sys.executable), setup_cell(notebook), tmp_path, colab=False, wheel=wheel)
    assert told["error"] == ""


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_cell_installs_from_the_one_repository_of_the_book(notebook):
    address, _ = repository_of(ROOT / "_config.yml")
    assert address
    assert f"git+{address}" in setup_cell(notebook)
