"""What is installed, from where, and that it moves nothing that is there already."""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import scaletut

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
LOCKED = ("book", "dev", "transfer", "audit", "search", "compress", "serve")
KEPT = (".py", ".json", ".html")  # what the library is made of
APART = ("ray", "track")  # half a gigabyte that only a cluster needs, and 300 MB of trackers


def locked_requirements() -> list[Requirement]:
    lines = (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines()
    return [Requirement(line) for line in lines if line and not line.startswith((" ", "#"))]


def wanted(extras) -> dict[str, Requirement]:
    """Everything that the core and `extras` ask for, extras of extras included."""
    found = {need.name: need for need in map(Requirement, PROJECT["dependencies"])}
    for extra in extras:
        for need in map(Requirement, EXTRAS[extra]):
            found.update(wanted(need.extras) if need.name == "scaletut" else {need.name: need})
    return found


def test_the_core_is_light_and_its_ranges_are_wide():
    core = {need.name: need for need in map(Requirement, PROJECT["dependencies"])}
    assert set(core) == {"numpy", "scipy", "pydantic", "tqdm"}
    for need in core.values():
        assert {clause.operator for clause in need.specifier} == {">="}, f"{need} would hold a package back"


def test_an_install_beside_torch_and_numpy_moves_neither(tmp_path):
    """`pip install .` decides nothing about torch or numpy where they are; pip itself is asked, without doing it."""
    source = tmp_path / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, source)
    shutil.copytree(ROOT / "scaletut", source / "scaletut", ignore=shutil.ignore_patterns("__pycache__"))
    report = tmp_path / "report.json"
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--quiet", "--no-build-isolation"]
    done = subprocess.run([*command, "--report", str(report), str(source)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    names = [canonicalize_name(item["metadata"]["name"]) for item in json.loads(report.read_text())["install"]]
    assert names == ["scaletut"]


def test_the_lock_holds_all_that_the_extras_ask_for_within_their_ranges():
    pins: dict[str, list[Requirement]] = {}
    for need in locked_requirements():
        pins.setdefault(canonicalize_name(need.name), []).append(need)
    for name, need in wanted(LOCKED).items():
        assert canonicalize_name(name) in pins, f"{name} is not locked; run `make lock`"
        for pin in pins[canonicalize_name(name)]:
            (clause,) = pin.specifier
            assert clause.operator == "=="
            fits = need.specifier.contains(clause.version, prereleases=True)
            assert fits, f"{pin} is outside {need}; run `make lock`"


@pytest.mark.parametrize("minor", [10, 11, 12, 13])
def test_the_lock_names_one_version_of_each_package_for_every_python(minor):
    machine = {"python_version": f"3.{minor}", "python_full_version": f"3.{minor}.9", "sys_platform": "linux",
               "platform_machine": "x86_64", "implementation_name": "cpython", "platform_system": "Linux"}  # fmt: skip
    here = [need for need in locked_requirements() if need.marker is None or need.marker.evaluate(machine)]
    names = [canonicalize_name(need.name) for need in here]
    assert len(names) == len(set(names))
    assert {canonicalize_name(name) for name in wanted(LOCKED)} <= set(names)


def test_the_lock_says_nothing_of_the_machine_that_made_it():
    text = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    assert "make lock" in text.splitlines()[1]
    assert not re.search(r"://|--index|--find-links|--extra-index|@ |(^|\s)/\w", text, re.MULTILINE)


def test_the_environment_here_is_the_locked_one():
    """So that what these tests see is what a reader installs; skipped where somebody brought an environment."""
    if not (ROOT / ".venv" / ".installed").is_file() or Path(sys.prefix).resolve() != (ROOT / ".venv").resolve():
        pytest.skip("not the environment that `make setup` made")
    for need in locked_requirements():
        if need.marker is None or need.marker.evaluate():
            assert need.specifier.contains(importlib.metadata.version(need.name), prereleases=True), need


def _is_text(entry) -> bool:
    return isinstance(entry, str)


def test_conda_installs_the_same_thing():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    assert environment["name"] == PROJECT["name"]
    assert environment["channels"][0] == "conda-forge"
    plain = {need.name: need for need in map(Requirement, filter(_is_text, environment["dependencies"]))}
    assert set(plain) == {"python", "pip", "make"}, "all packages come through pip, so that there is one list of them"
    python = {str(clause) for clause in plain["python"].specifier}
    assert PROJECT["requires-python"] in python
    (by_pip,) = [entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict)]
    assert by_pip == ["--constraint requirements.lock", f"--editable .[{','.join(LOCKED)}]"]
    assert set(LOCKED) <= set(EXTRAS)


def test_every_extra_can_be_had_in_one_environment():
    """What conda and the lock install covers each extra but those apart, by itself or through another."""
    everything = set(wanted(LOCKED))
    for extra in set(EXTRAS) - set(APART):
        assert set(wanted([extra])) <= everything, extra


def test_the_version_has_one_source():
    assert importlib.metadata.version("scaletut") == scaletut.__version__
    assert PROJECT["dynamic"] == ["version"]


def test_the_wheel_holds_the_library_and_nothing_else(tmp_path):
    """Built from a copy, for a build writes beside its sources."""
    import zipfile

    source = tmp_path / "source"
    shutil.copytree(ROOT / "scaletut", source / "scaletut", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, source)
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    library = {p.relative_to(ROOT).as_posix() for p in (ROOT / "scaletut").rglob("*.*") if p.suffix in KEPT}
    assert library <= set(names)
    assert {name.split("/")[0] for name in names} == {"scaletut", f"scaletut-{scaletut.__version__}.dist-info"}


def test_importing_the_package_imports_nothing_heavy():
    code = "import sys, scaletut; print([m for m in ('torch', 'numpy', 'scipy', 'pydantic') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"


# --- make --------------------------------------------------------------------------


def make(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = ["make", "--no-print-directory", *arguments]
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=120, env={**os.environ, **environment}
    )


def test_make_alone_lists_every_target_that_the_book_promises():
    done = make()
    assert done.returncode == 0, done.stderr
    listed = re.findall(r"^  make (\S+)", done.stdout, re.MULTILINE)
    assert set(listed) == {"help", "setup", "book", "test", "live", "record", "lock", "clean"}


def test_an_old_or_absent_python_is_refused_with_a_way_out(tmp_path):
    done = make("venv", f"VENV={tmp_path / 'venv'}", PYTHON="python-that-is-not-there")
    assert done.returncode == 2
    assert "no Python 3.10 or newer with its venv module at python-that-is-not-there" in done.stderr
    old = tmp_path / "old-python"
    old.write_text("#!/bin/sh\nexit 1\n", encoding="utf-8")  # what the version check of a Python 3.9 does
    old.chmod(0o755)
    assert "no Python 3.10 or newer" in make("venv", f"VENV={tmp_path / 'venv'}", PYTHON=str(old)).stderr
    assert not (tmp_path / "venv").exists()


def test_an_environment_that_fits_the_lock_is_left_alone(tmp_path):
    venv = tmp_path / "venv"
    venv.mkdir()
    lists = subprocess.run(
        ["sha256sum", "requirements.lock", "pyproject.toml"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    (venv / ".installed").write_text(lists.stdout, encoding="utf-8")
    quiet = make("--dry-run", "setup", f"VENV={venv}")
    assert quiet.returncode == 0
    done = make("setup", f"VENV={venv}")
    assert (done.returncode, done.stdout) == (0, "")
    assert {path.name for path in venv.iterdir()} == {".installed"}


def test_the_ci_entry_is_a_sound_script():
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert subprocess.run(["bash", "-n", str(script)]).returncode == 0
    text = script.read_text(encoding="utf-8")
    assert "set -euo pipefail" in text
    assert "OMP_WAIT_POLICY=PASSIVE" in text
    assert text.rstrip().endswith("make test")
