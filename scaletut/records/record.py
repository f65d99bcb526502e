"""The record of one run: a JSON file that is written whole, read with suspicion, and never edited.

A record carries the digest of its own content, and one short digest a field,
so that a changed byte is refused and the error can name the field that was changed.
"""

from __future__ import annotations

import dataclasses
import datetime
import functools
import importlib.metadata
import json
import math
import os
import platform
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scaletut import __version__
from scaletut.errors import RecordError
from scaletut.files import atomic_write, digest_files, digest_json

FORMAT = 1
LARGEST = 1e100  # beyond any measurement; a number above it comes from a run that diverged
DERIVED = ("run_minutes", "run_peak_memory")  # the ledger makes these from wall_seconds and peak_memory_bytes
_NAME = re.compile(r"[a-z][a-z0-9_]*(\.[a-z0-9_]+)*\Z")
_STAMP = "%Y-%m-%dT%H:%M:%SZ"
_SOURCES = ("scaletut", "notebooks/text", "pyproject.toml", "requirements.lock")
_PACKAGES = ("torch", "torchvision", "numpy")


@dataclass(frozen=True)
class Value:
    """One measured number.

    `value` in `unit` (a fraction of 0.931 is stored as 93.1 with unit "%"),
    the ends `low` and `high` of its 95 % interval (both or neither),
    and `n`, the number of seeds or repeats behind it.
    Raises RecordError for a number that is not finite or an interval that does not contain the value.
    """

    value: float
    unit: str = ""
    low: float | None = None
    high: float | None = None
    n: int = 1

    def __post_init__(self) -> None:
        for name in ("value", "low", "high"):
            number = getattr(self, name)
            if number is None and name != "value":
                continue
            object.__setattr__(self, name, _finite(number, name))
        if (self.low is None) != (self.high is None):
            raise RecordError("a value has one end of its interval only; give both low and high, or neither")
        if self.low is not None and self.high is not None and not self.low <= self.value <= self.high:
            raise RecordError(
                f"the interval {self.low} to {self.high} does not contain its value {self.value}; "
                "the ends are perhaps swapped, or in another unit"
            )
        if isinstance(self.n, bool) or int(self.n) != self.n or self.n < 1:
            raise RecordError(f"n = {self.n!r} is not a count; give the number of seeds, 1 or more")
        object.__setattr__(self, "n", int(self.n))
        if not isinstance(self.unit, str) or self.unit != self.unit.strip():
            raise RecordError(f'the unit {self.unit!r} is not a word such as "%" or "images/s"; correct it')

    @classmethod
    def of(cls, samples: Iterable[float], unit: str = "") -> Value:
        """Mean of `samples` (one number a seed) with its 95 % Student t interval; one sample has no interval.

        The interval is mean ± t(0.975, n - 1) s / √n with s the sample standard deviation (Student, 1908).
        """
        numbers = [_finite(sample, "sample") for sample in samples]
        if not numbers:
            raise RecordError("a mean of no samples was asked for; the list of runs is empty")
        n = len(numbers)
        mean = math.fsum(numbers) / n
        mean = min(max(mean, min(numbers)), max(numbers))  # rounding must not carry it outside
        if n == 1:
            return cls(mean, unit)
        from scipy.special import stdtrit  # here, because importing scipy costs more than this whole room

        spread = math.sqrt(math.fsum((number - mean) ** 2 for number in numbers) / (n - 1))
        half = float(stdtrit(n - 1, 0.975)) * spread / math.sqrt(n)
        return cls(mean, unit, mean - half, mean + half, n)


@dataclass(frozen=True)
class Record:
    """What one run was and what it measured; see `new_record` for the fields and their units."""

    id: str
    experiment: str
    profile: str
    parameters: dict[str, Any]
    data_digest: str
    seeds: tuple[int, ...]
    values: dict[str, Value]
    series: dict[str, list[float]]
    claims: dict[str, bool]
    device: dict[str, Any]
    versions: dict[str, str]
    code: dict[str, str]
    command: str
    started: str
    wall_seconds: float
    peak_memory_bytes: int | None = None
    flops: float | None = None
    note: str = ""
    path: Path | None = field(default=None, compare=False)  # where it was read from; not part of the content

    @property
    def digest(self) -> str:
        """Hexadecimal sha256 of the content (everything but the id and the path)."""
        return digest_json(_content(self))

    @property
    def file_name(self) -> str:
        """`<experiment>-<profile>-seed<k>-<digest>.json`: readable, sorted, free of collisions."""
        seed = f"-seed{self.seeds[0]}" if len(self.seeds) == 1 else ""
        return f"{self.experiment}-{self.profile}{seed}-{self.digest[:8]}.json"


def new_record(
    experiment: str,
    *,
    profile: str,
    parameters: Mapping[str, Any],
    data_digest: str,
    seeds: Sequence[int],
    values: Mapping[str, Value],
    wall_seconds: float,
    series: Mapping[str, Sequence[float]] | None = None,
    claims: Mapping[str, bool] | None = None,
    peak_memory_bytes: int | None = None,
    flops: float | None = None,
    dtype: str = "",
    threads: int | None = None,
    device: Mapping[str, Any] | None = None,
    command: str = "",
    started: str = "",
    note: str = "",
) -> Record:
    """A record of a run that has just ended; device, versions, code and start are filled in when not given.

    experiment: dotted lower-case name, such as "finetune" or "finetune.fast";
    with a value's name it makes the ledger's key, `<experiment>.<name>`.
    parameters: plain literals. data_digest: hexadecimal sha256 of the data (`ImageSet.digest`).
    values: name -> Value. series: name -> finite floats (curves).
    claims: text -> held or not (`Claims.results`).
    wall_seconds: s. peak_memory_bytes: bytes (`peak_memory()`). flops: floating-point operations of the run.
    dtype: the arithmetic of the run, such as "float32" or "bfloat16".
    command: what a reader types to run it again;
    empty means `scaletut run <chapter> --profile <profile> -p name=value ...`.
    started: UTC, `2026-01-31T12:00:00Z`; empty means `wall_seconds` ago.
    Raises RecordError for a name, number or parameter that a record cannot hold.
    """
    wall_seconds = _finite(wall_seconds, "wall_seconds")
    begin = datetime.datetime.fromtimestamp(time.time() - wall_seconds, datetime.timezone.utc)
    plain = _plain(dict(parameters), "parameters")
    record = Record(
        id="",
        experiment=experiment,
        profile=profile,
        parameters=plain,
        data_digest=data_digest,
        seeds=tuple(int(seed) for seed in seeds),
        values=dict(values),
        series={name: [_finite(x, f"series {name}") for x in xs] for name, xs in (series or {}).items()},
        claims={text: as_boolean(held, text) for text, held in (claims or {}).items()},
        device=_plain(dict(device), "device") if device else device_facts(dtype=dtype, threads=threads),
        versions=library_versions(),
        code=code_version(),
        command=command or _default_command(experiment, profile, plain),
        started=started or begin.strftime(_STAMP),
        wall_seconds=wall_seconds,
        peak_memory_bytes=None if peak_memory_bytes is None else int(peak_memory_bytes),
        flops=None if flops is None else _finite(flops, "flops"),
        note=note,
    )
    _validate(record)
    return dataclasses.replace(record, id=_identity(record))


def write_record(record: Record, folder: Path | str, *, name: str = "", replace: bool = False) -> Path:
    """Write `record` as one JSON file into `folder`, atomically, never over other content.

    name: the file's name; empty means the record's own readable one.
    replace: for a run that was made again. Once the new file is there, the earlier records of the same
    experiment, profile and seeds are removed from this folder.
    Raises RecordError when a file of that name with other content exists and `replace` is False.
    """
    _validate(record)
    path = Path(folder) / (name or record.file_name)
    text = _to_text(record)
    if not replace and path.exists() and path.read_text(encoding="utf-8") != text:
        raise RecordError(
            f"{path} exists with other content, and a record is never edited; "
            "write under another name, or pass replace=True when the run was made again"
        )
    atomic_write(path, text)
    if replace:
        for other in find_records(path.parent, recursive=False):
            if other.path != path and _same_run(other, record) and other.path is not None:
                other.path.unlink()
    return path


def read_record(path: Path | str) -> Record:
    """Read one record; RecordError names the file and the field if anything in it was altered."""
    path = Path(path)
    text = _read_text(path)
    stored = _parse(path, text)
    _check_digests(path, stored)
    if text != _dump(stored):
        raise RecordError(f"{path} is not laid out as it was written (spacing or order); restore it from git")
    try:
        record = _from_stored(stored, path)
        _validate(record)
    except (RecordError, TypeError, ValueError, KeyError, AttributeError) as error:
        raise RecordError(f"{path} is not a valid record ({error}); run the experiment again") from error
    if record.id != _identity(record):
        raise RecordError(f"{path} was altered (id differs from {_identity(record)}); restore it from git")
    return record


def find_records(folder: Path | str, *, recursive: bool = True, skip: Sequence[str] = ()) -> list[Record]:
    """All records under `folder` by path, without its sub-folders named in `skip`; none if it is absent."""
    folder = Path(folder)
    paths = sorted(folder.rglob("*.json") if recursive else folder.glob("*.json"))
    wanted = [path for path in paths if path.relative_to(folder).parts[0] not in skip]
    return [read_record(path) for path in wanted]


def peak_memory() -> int | None:
    """Peak resident memory of this process so far, in bytes; None where the system does not tell (Windows).

    `getrusage` counts in KiB on Linux and in bytes on macOS.
    """
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak) if sys.platform == "darwin" else int(peak) * 1024


def device_facts(*, dtype: str = "", threads: int | None = None) -> dict[str, Any]:
    """What the run ran on: processor model, cores, threads, memory in GB (10⁹ bytes), dtype, accelerator.

    Nothing here names the machine itself.
    torch is asked only if the program has imported it already.
    """
    torch = sys.modules.get("torch")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if threads is None:
        threads = torch.get_num_threads() if torch is not None else cores
    facts: dict[str, Any] = {"name": cpu_name(), "cores": cores, "threads": threads}
    if memory := _total_memory():
        facts["memory_gb"] = round(memory / 1e9, 1)
    if dtype:
        facts["dtype"] = dtype
    if torch is not None and (accelerator := _accelerator(torch)):
        facts["accelerator"] = accelerator
    return facts


@functools.lru_cache(maxsize=1)
def cpu_name() -> str:
    """The processor's model name, or its architecture where the system does not tell the model."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith(("model name", "Model")) and ":" in line:
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    if sys.platform == "darwin":
        return _output("sysctl", "-n", "machdep.cpu.brand_string") or platform.machine()
    return platform.machine()  # platform.processor() may be empty, platform.node() would name the machine


def library_versions() -> dict[str, str]:
    """Versions of Python, torch, torchvision, numpy and scaletut, from package metadata."""
    versions = {"python": platform.python_version(), "scaletut": __version__}
    for name in _PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


@functools.lru_cache(maxsize=1)
def _code() -> dict[str, str]:
    code = {"version": __version__, "library": _LIBRARY_AS_LOADED}
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return code
    # Without optional locks: asking must not hold up somebody's commit.
    git = ("git", "--no-optional-locks", "-C", str(root))
    if commit := _output(*git, "rev-parse", "--short=12", "HEAD"):
        edited = _output(*git, "status", "--porcelain", "--", *_SOURCES)
        code["commit"] = commit + ("+dirty" if edited else "")
    return code


def code_version() -> dict[str, str]:
    """Package version, digest of the library's source and, in a git checkout, the commit; asked once a process.

    The digest is that of the source when this module was loaded, so an edit during a long run does not count.
    "+dirty" follows the commit if the library, the text of a chapter or the dependencies differ from it;
    stored outputs and other records do not count, for they change with every recorded run.
    """
    return dict(_code())


def library_digest() -> str:
    """Hexadecimal sha256 over the names and contents of the library's Python files."""
    package = Path(__file__).resolve().parents[1]
    return digest_json(digest_files(package, package.rglob("*.py")))


_LIBRARY_AS_LOADED = library_digest()


# --- content, text and back --------------------------------------------------------


def _content(record: Record) -> dict[str, Any]:
    names = [field.name for field in dataclasses.fields(record) if field.name not in ("id", "path")]
    content = {name: getattr(record, name) for name in names}
    content["seeds"] = list(record.seeds)
    content["values"] = {name: dataclasses.asdict(value) for name, value in record.values.items()}
    return {"format": FORMAT, **content}


def _identity(record: Record) -> str:
    return f"{record.experiment}-{record.digest[:12]}"


def _to_text(record: Record) -> str:
    content = _content(record)
    digests = {name: digest_json(value)[:12] for name, value in content.items()}
    return _dump({**content, "id": record.id, "digest": digest_json(content), "digests": digests})


def _dump(stored: Mapping[str, Any]) -> str:
    return json.dumps(stored, sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _read_text(path: Path) -> str:
    try:
        # A checkout on Windows may have turned the line ends; nothing else may differ.
        return path.read_bytes().decode("utf-8").replace("\r\n", "\n")
    except FileNotFoundError as error:
        raise RecordError(f"{path} does not exist; run the experiment, or restore it from git") from error
    except (OSError, UnicodeDecodeError) as error:
        raise RecordError(f"{path} cannot be read as a record ({error}); restore it from git") from error


def _parse(path: Path, text: str) -> dict[str, Any]:
    try:
        stored = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise RecordError(f"{path} is not JSON, it was cut or edited ({error}); restore it from git") from error
    if not isinstance(stored, dict) or not {"format", "digest", "digests", "id"} <= stored.keys():
        raise RecordError(f"{path} is not a record (no format, digest or id); only records belong here")
    if stored["format"] != FORMAT:
        found = stored["format"]
        raise RecordError(f"{path} has record format {found!r}, this version reads {FORMAT}; update scaletut")
    return stored


def _check_digests(path: Path, stored: Mapping[str, Any]) -> None:
    content = {name: value for name, value in stored.items() if name not in ("id", "digest", "digests")}
    try:
        actual = {name: digest_json(value)[:12] for name, value in content.items()}
        whole = digest_json(content)
    except ValueError as error:
        raise RecordError(f"{path} was altered (a number is not finite); restore it from git") from error
    told = stored["digests"] if isinstance(stored["digests"], dict) else {}
    changed = sorted(name for name in actual.keys() | told.keys() if actual.get(name) != told.get(name))
    if changed or whole != stored["digest"]:
        what = ", ".join(changed) or "digest"
        raise RecordError(f"{path} was altered ({what} differs); restore it from git, or run it again")


def _from_stored(stored: Mapping[str, Any], path: Path) -> Record:
    names = {f.name for f in dataclasses.fields(Record)} - {"path"}
    content = {name: value for name, value in stored.items() if name not in ("format", "digest", "digests")}
    if unknown := sorted(content.keys() - names):
        raise RecordError(f"unknown field {', '.join(unknown)}")
    if missing := sorted(names - content.keys()):
        raise RecordError(f"field {', '.join(missing)} is missing")
    content["seeds"] = tuple(content["seeds"])
    content["values"] = {name: Value(**value) for name, value in content["values"].items()}
    return Record(**content, path=path)


def _same_run(a: Record, b: Record) -> bool:
    return (a.experiment, a.profile, a.seeds) == (b.experiment, b.profile, b.seeds)


# --- what a record can hold --------------------------------------------------------


def _validate(record: Record) -> None:
    check_name(record.experiment, "experiment")
    check_name(record.profile, "profile")
    for name in record.values:
        check_name(name, "value")
        if name in DERIVED:
            raise RecordError(f"the value name {name} is taken, the ledger derives it itself; choose another")
        if not isinstance(record.values[name], Value):
            kind = type(record.values[name]).__name__
            raise RecordError(f"the value {name} is a {kind}, not a Value; write Value(number, unit)")
    for name, numbers in record.series.items():
        check_name(name, "series")
        for number in numbers:
            _finite(number, f"series {name}")
    for text, held in record.claims.items():
        as_boolean(held, text)
    if not record.data_digest:
        raise RecordError("a record without a data digest cannot be checked; pass the digest of the ImageSet")
    if not record.seeds or any(isinstance(seed, bool) or not isinstance(seed, int) for seed in record.seeds):
        raise RecordError(f"seeds {record.seeds!r} must be one or more integers; pass those that the run used")
    if _finite(record.wall_seconds, "wall_seconds") < 0:
        raise RecordError(f"wall_seconds = {record.wall_seconds} is negative; subtract start from end")
    if record.peak_memory_bytes is not None and record.peak_memory_bytes <= 0:
        size = record.peak_memory_bytes
        raise RecordError(f"peak_memory_bytes = {size} is not a size; use records.peak_memory()")
    if record.flops is not None and _finite(record.flops, "flops") < 0:
        raise RecordError(f"flops = {record.flops} is negative; pass the operations of the whole run")
    _check_stamp(record.started)


def check_name(name: str, what: str) -> None:
    """Raise RecordError unless `name` is lower-case words (letters, digits, underscores) joined by dots."""
    if not isinstance(name, str) or not _NAME.match(name):
        raise RecordError(
            f"{what} name {name!r} cannot become a link; "
            'use lower-case letters, digits, underscores and dots, such as "finetune.fast"'
        )


def _check_stamp(started: str) -> None:
    try:
        datetime.datetime.strptime(started, _STAMP)
    except (TypeError, ValueError) as error:
        raise RecordError(f"started = {started!r} is not a UTC time such as 2026-01-31T12:00:00Z") from error


def _finite(number: Any, what: str) -> float:
    if isinstance(number, (bool, str)) or number is None:
        raise RecordError(f"{what} = {number!r} is not a number; pass a float")
    try:
        result = float(number)
    except (TypeError, ValueError, OverflowError) as error:
        raise RecordError(f"{what} = {number!r} is not one finite number; pass a float") from error
    if not math.isfinite(result):
        raise RecordError(f"{what} is {result}, from a run that diverged or an empty mean; record finite numbers")
    if abs(result) > LARGEST:
        raise RecordError(f"{what} is {result}, larger than any measurement; the run diverged")
    return result + 0.0  # turns -0.0 into 0.0, so that equal values have equal text


def as_boolean(held: Any, text: str) -> bool:
    if type(held).__module__ == "numpy" and type(held).__name__ in ("bool", "bool_"):
        return bool(held)
    if not isinstance(held, bool):
        raise RecordError(f"the claim {text!r} is {held!r}, not True or False; reduce it with bool(...)")
    return held


def _plain(value: Any, where: str) -> Any:
    """`value` as plain JSON literals: numpy scalars and tuples become Python's numbers and lists."""
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, Mapping):
        return {_key(key, where): _plain(item, f"{where}.{key}") for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item, where) for item in value]
    if hasattr(value, "item") and getattr(value, "ndim", None) == 0:
        return _plain(value.item(), where)
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return _finite(value, where)
    if isinstance(value, Path):
        raise RecordError(f"{where} is a path, which means nothing elsewhere; record the data's name instead")
    raise RecordError(f"{where} is a {type(value).__name__}; a record holds plain literals, convert it first")


def _key(key: Any, where: str) -> str:
    if not isinstance(key, str):
        raise RecordError(f"{where} has the key {key!r}; names of parameters are strings")
    return key


def _default_command(experiment: str, profile: str, parameters: Mapping[str, Any]) -> str:
    words = ["scaletut", "run", str(experiment).split(".")[0], "--profile", str(profile)]
    for name, value in parameters.items():
        if name != "profile":
            words += ["-p", f"{name}={value if isinstance(value, str) else json.dumps(value)}"]
    return shlex.join(words)


# --- the machine -------------------------------------------------------------------


def _output(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()


def _total_memory() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return None


def _accelerator(torch: Any) -> str:
    if torch.cuda.is_available():
        return f"cuda {torch.cuda.get_device_name(0)}"
    mps = getattr(torch.backends, "mps", None)
    return "mps" if mps is not None and mps.is_available() else ""
