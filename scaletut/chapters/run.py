"""Run a chapter through papermill: parameters checked first, files whole or absent, failures in one line."""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scaletut.chapters import places, stale
from scaletut.chapters.resolve import environment_profile, schema_of, validated
from scaletut.chapters.schemas import Chapter
from scaletut.errors import CheckFailed, ParameterError
from scaletut.files import digest_json


class ChapterFailed(CheckFailed):
    """A cell of a chapter raised, or its kernel died; the partly executed notebook is kept."""


@dataclass(frozen=True)
class Plan:
    """A run that has passed validation and may start.

    given: the parameters to inject, the profile among them. resolved: the model with nothing left open.
    folder: where the executed notebook goes. records: where its records go.
    """

    chapter: str
    source: Path
    given: Mapping[str, Any]
    resolved: Chapter
    folder: Path
    records: Path

    @property
    def notebook(self) -> Path:
        """The executed copy."""
        return self.folder / f"{self.chapter}.ipynb"

    @property
    def failed_notebook(self) -> Path:
        """The partly executed copy that a failure leaves."""
        return self.folder / f"{self.chapter}.failed.ipynb"

    @property
    def key_file(self) -> Path:
        """What the run depended on; see `scaletut.chapters.stale`."""
        return self.folder / f"{self.chapter}.key.json"

    def key(self) -> stale.Key:
        """What the run depends on now."""
        return stale.run_key(self.source, self.resolved.model_dump())

    def stale_reason(self) -> str:
        """Why this must be run (again); "" when what is there is still true."""
        return stale.stale_reason(self.key_file, self.key())


@dataclass(frozen=True)
class Run:
    """A finished run: its executed notebook, its records (one file each), wall time in s."""

    plan: Plan
    notebook: Path
    records: tuple[Path, ...]
    seconds: float


def plan(
    chapter: str,
    parameters: Mapping[str, Any] | None = None,
    *,
    profile: str = "",
    out: Path | None = None,
    root: Path | None = None,
) -> Plan:
    """Validate a run before anything starts.

    profile: wins over `parameters["profile"]`, that over $SCALETUT_PROFILE, that over the default.
    out: folder for the notebook, with `records/` in it; by default `_build/<profile>/` and
    `_build/records/<profile>/` of the book, or for changed parameters a folder under `_build/runs/`.
    Raises ParameterError for a wrong parameter or chapter.
    """
    schema = schema_of(chapter)
    given = {name: _absolute(value) for name, value in (parameters or {}).items()}
    if profile and given.get("profile", profile) != profile:
        raise ParameterError(f"two profiles: {profile!r} and profile={given['profile']!r}; give one of them")
    default = schema.model_fields["profile"].default
    given["profile"] = profile or given.get("profile") or environment_profile() or default
    resolved = validated(schema, chapter, given).resolved()
    root = root or places.book_root()
    folder, records = _folders(chapter, given, resolved, root / "_build", out)
    return Plan(chapter, places.notebook_path(chapter, root), given, resolved, folder, records)


def run(work: Plan, *, progress: bool = False) -> Run:
    """Run a chapter in its own kernel; put its notebook and records in place when all of it has passed.

    progress: a bar on standard error, a step a cell.
    Raises ChapterFailed (a cell raised, the kernel died); an interrupt leaves what was there before.
    """
    key = work.key()
    work.folder.mkdir(parents=True, exist_ok=True)
    begin = time.monotonic()
    with tempfile.TemporaryDirectory(prefix=".run-", dir=work.folder) as name:
        staging = Path(name)
        with environment(SCALETUT_RECORDS=str(staging / "records"), SCALETUT_PROFILE=work.resolved.profile):
            execute(
                work.source,
                staging / "notebook.ipynb",
                work.given,
                label=_label(work),
                keep=work,
                bar=progress,
            )
        seconds = time.monotonic() - begin
        records = _install(work, staging)
    work.failed_notebook.unlink(missing_ok=True)
    stale.write_key(work.key_file, key, [work.notebook, *records], seconds)
    return Run(work, work.notebook, records, seconds)


def execute(
    source: Path,
    target: Path,
    parameters: Mapping[str, Any],
    *,
    label: str,
    keep: Plan | None = None,
    bar: bool = False,
) -> None:
    """Execute `source` into `target`, in the folder of `source`; ChapterFailed if a cell raises.

    keep: the plan whose `failed_notebook` is to receive the partly executed copy.
    """
    import papermill
    from nbclient.exceptions import DeadKernelError

    from scaletut.chapters.kernel import QuietKernel

    try:
        with _quiet_kernel():
            papermill.execute_notebook(
                source,
                target,
                parameters=dict(parameters),
                kernel_name="python3",
                kernel_manager_class=QuietKernel,
                progress_bar={"desc": label, "leave": False, "mininterval": 1} if bar else False,
                cwd=source.parent,
            )
    except papermill.PapermillExecutionError as error:
        what = f"cell In [{error.exec_count}] raised {error.ename}: {_first_line(error.evalue)}"
        raise ChapterFailed(f"{label}: {what}{_kept(target, keep)}") from None
    except DeadKernelError:
        what = "the kernel died, usually for lack of memory; close other programs or lower the parameters"
        raise ChapterFailed(f"{label}: {what}{_kept(target, keep)}") from None


def variants(chapter: str, grid: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """All combinations of the grid's values, a dictionary each; the last name varies fastest."""
    for name, values in grid.items():
        if len(set(values)) != len(values):
            raise ParameterError(f"--grid {name} of {chapter} names a value twice; name each once")
    return [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]


# --- helpers -----------------------------------------------------------------------


def _absolute(value: Any) -> Any:
    """A relative `folder:` means the caller's working directory, while the notebook runs in its own."""
    if not (isinstance(value, str) and value.startswith("folder:") and len(value) > len("folder:")):
        return value
    folder = Path(value.partition(":")[2]).expanduser().resolve()
    if not folder.is_dir():
        raise ParameterError(f"data={value}: {folder} is not a folder; name one that has a sub-folder a class")
    return f"folder:{folder}"


def _folders(
    chapter: str, given: Mapping[str, Any], resolved: Chapter, build: Path, out: Path | None
) -> tuple[Path, Path]:
    if out is not None:
        return out.resolve(), out.resolve() / "records"
    if set(given) - {"profile"}:
        own = build / "runs" / f"{chapter}-{digest_json(resolved.model_dump())[:10]}"
        return own, own / "records"
    return build / resolved.profile, build / "records" / resolved.profile


def _label(work: Plan) -> str:
    return f"{work.chapter} ({work.resolved.profile})"


def _install(work: Plan, staging: Path) -> tuple[Path, ...]:
    """Move the staged notebook and records into place; those that only the last run left go."""
    told = stale.read_key(work.key_file)
    work.key_file.unlink(missing_ok=True)  # from here until the new key is written the run counts as stale
    os.replace(staging / "notebook.ipynb", work.notebook)
    fresh = sorted((staging / "records").glob("*.json"))
    work.records.mkdir(parents=True, exist_ok=True)
    placed = tuple(work.records / path.name for path in fresh)
    for path, place in zip(fresh, placed, strict=True):
        os.replace(path, place)
    for product in told[1] if told else ():
        if product.parent == work.records and product not in placed:
            product.unlink(missing_ok=True)
    return placed


def _kept(target: Path, keep: Plan | None) -> str:
    if keep is None or not target.is_file():
        return ""
    shutil.move(target, keep.failed_notebook)
    return f"; the notebook up to there: {keep.failed_notebook}"


def _first_line(text: str) -> str:
    return (text.strip().splitlines() or [""])[0]


@contextlib.contextmanager
def environment(**variables: str) -> Iterator[None]:
    """Set environment variables for the kernel that is started inside, then put back what was there."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextlib.contextmanager
def _quiet_kernel() -> Iterator[None]:
    """papermill warns of each parameter through its logger; those were validated already."""
    import logging

    logger = logging.getLogger("papermill")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
