"""The ledger: records joined into numbers that prose can link to, and the page that shows them.

A number's key is `<experiment>.<value name>`, such as `finetune.fast.accuracy`.
Records of one experiment that differ only in their seeds become a mean with a 95 % Student t interval.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scaletut.errors import RecordError
from scaletut.records.formatting import Form, all_forms, format_value
from scaletut.records.record import Record, Value, find_records

QUICK = "quick"  # results/quick serves the receipt; the book quotes none of it
SWEEPS = "sweeps"  # the single runs of a sweep; a chapter's record joins them
APART = (QUICK, SWEEPS)
_SEED_NAMES = ("seed", "seeds")
_DEVICE_FACTS = ("name", "accelerator", "threads", "dtype")


@dataclass(frozen=True)
class Entry:
    """One number of the ledger: value, unit, ends of its 95 % interval, count of runs, and its sources."""

    key: str
    value: float
    unit: str
    low: float | None
    high: float | None
    n: int
    records: tuple[Record, ...]
    reproduce: tuple[str, ...]  # the commands that make the records again, one a record

    @property
    def measured(self) -> Value:
        """The number as a `Value`."""
        return Value(self.value, self.unit, self.low, self.high, self.n)

    @property
    def anchor(self) -> str:
        """Identifier of its row on the ledger page."""
        return anchor_of(self.key)


class Ledger(Mapping[str, Entry]):
    """All quotable numbers by key; looking up an unknown key raises RecordError naming the nearest ones."""

    def __init__(self, entries: Iterable[Entry]) -> None:
        self._entries = {entry.key: entry for entry in entries}

    @classmethod
    def load(cls, folder: Path | str = "results") -> Ledger:
        """Join all records under `folder` but its sub-folders `quick` and `sweeps`; an absent folder: an empty ledger.

        Raises RecordError for an altered record and for records that cannot be joined.
        """
        return cls.of(find_records(folder, skip=APART))

    @classmethod
    def of(cls, records: Iterable[Record]) -> Ledger:
        """Join `records`; raises RecordError when two of them disagree about what an experiment is."""
        entries: dict[str, Entry] = {}
        for experiment, group in _by_experiment(records).items():
            _check_joinable(experiment, group)
            for name, value in _joined_values(group).items():
                key = f"{experiment}.{name}"
                if key in entries:
                    other = entries[key].records[0].experiment
                    raise RecordError(f"{key} is claimed by the experiments {other} and {experiment}; rename a value")
                commands = tuple(dict.fromkeys(record.command for record in group))
                entries[key] = Entry(
                    key, value.value, value.unit, value.low, value.high, value.n, tuple(group), commands
                )
        return cls(entries.values())

    def __getitem__(self, key: str) -> Entry:
        try:
            return self._entries[key]
        except KeyError:
            near = difflib.get_close_matches(key, self._entries, n=2, cutoff=0.5)
            hint = f"nearest: {', '.join(near)}" if near else "run the experiment and commit its record"
            raise RecordError(f"no record gives {key}; {hint}") from None

    def get(self, key: str, default: Any = None) -> Any:
        """The entry of `key`, or `default`."""
        return self._entries.get(key, default)

    def __contains__(self, key: object) -> bool:
        return key in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def format(self, key: str, form: Form = "value") -> str:
        """The number as text, such as "93.1 %"; see `format_value` for the forms."""
        return format_value(self[key].measured, form)

    def forms(self, key: str) -> dict[Form, str]:
        """Every text that a link to `key` may have."""
        return all_forms(self[key].measured)

    def experiments(self) -> dict[str, list[Entry]]:
        """Entries by experiment, in the order of their names."""
        groups: dict[str, list[Entry]] = {}
        for entry in self._entries.values():
            groups.setdefault(entry.records[0].experiment, []).append(entry)
        return dict(sorted(groups.items()))


def anchor_of(key: str) -> str:
    """`key` as docutils spells it in an address: dots and underscores become dashes."""
    return re.sub(r"[._]+", "-", key).strip("-")


# --- joining ------------------------------------------------------------------------------------------------


def _by_experiment(records: Iterable[Record]) -> dict[str, list[Record]]:
    groups: dict[str, list[Record]] = {}
    for record in sorted(records, key=lambda record: (record.experiment, record.seeds, record.id)):
        groups.setdefault(record.experiment, []).append(record)
    return groups


def _what_must_agree(record: Record) -> dict[str, Any]:
    settings = {name: value for name, value in record.parameters.items() if name not in _SEED_NAMES}
    device = {name: record.device.get(name) for name in _DEVICE_FACTS}
    return {
        "profile": record.profile,
        **{f"parameter {name}": value for name, value in settings.items()},
        "data digest": record.data_digest,
        **{f"device {name}": value for name, value in device.items()},
        **{f"value {name}": value.unit for name, value in record.values.items()},
    }


def _check_joinable(experiment: str, group: list[Record]) -> None:
    first, *others = group
    expected, seen = _what_must_agree(first), dict.fromkeys(first.seeds, first)
    for record in others:
        found = _what_must_agree(record)
        differing = [name for name in expected | found if expected.get(name) != found.get(name)]
        if differing:
            raise RecordError(
                f"{_where(first)} and {_where(record)} are both {experiment} but differ in "
                f"{', '.join(differing)}; only seeds may differ: name one of them otherwise, or remove it"
            )
        for seed in record.seeds:
            if seed in seen:
                raise RecordError(
                    f"{_where(seen[seed])} and {_where(record)} are both {experiment} with seed {seed}; "
                    "one run would count twice: remove one of them"
                )
            seen[seed] = record


def _joined_values(group: list[Record]) -> dict[str, Value]:
    """A single record gives its own values; several give the mean over the records."""
    if len(group) == 1:
        values = dict(group[0].values)
    else:
        names = group[0].values
        values = {name: Value.of((record.values[name].value for record in group), names[name].unit) for name in names}
    values["run_minutes"] = Value.of((record.wall_seconds / 60 for record in group), "min")
    peaks = [record.peak_memory_bytes for record in group if record.peak_memory_bytes is not None]
    if len(peaks) == len(group):
        values["run_peak_memory"] = Value.of((peak / 1e9 for peak in peaks), "GB")
    return values


def _where(record: Record) -> str:
    return record.path.name if record.path else record.id


# --- the page -----------------------------------------------------------------------------------------------

_OPENING = """\
<!-- Written by `scaletut ledger` from the records; edits are lost. -->
# Ledger

Every measured number in this book links to its row on this page.
An interval is the 95 % Student *t* interval of the mean over the runs; *n* counts the runs.
A single run has no interval.
Each record holds a digest of its own content, so an altered one is refused.
"""


def ledger_page(ledger: Ledger, *, repository: str = "", branch: str = "main", folder: str = "results") -> str:
    """The ledger as a MyST page: a section an experiment, a row a number, a line a record.

    Each row carries the target `(<key>)=`, so that `[93.1 %](#<key>)` resolves from any page or notebook.
    repository: address whose `blob/<branch>/<folder>/` holds the records; empty leaves them unlinked.
    """
    base = f"{repository.rstrip('/')}/blob/{branch}/" if repository else ""
    sections = [_section(name, entries, base, folder) for name, entries in ledger.experiments().items()]
    return "\n".join([_OPENING, *(sections or ["No run is recorded yet.\n"])])


def repository_of(config: Path | str = "_config.yml") -> tuple[str, str]:
    """(address, branch) from the one repository setting of the book's `_config.yml`; empty when absent."""
    path = Path(config)
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    block = re.search(r"^repository:\s*\n((?:[ \t]+.*\n?|\s*\n)*)", text, re.MULTILINE)
    inside = block.group(1) if block else ""
    found = dict(re.findall(r"^\s+(url|branch):\s*[\"']?([^\s\"'#]+)", inside, re.MULTILINE))
    return found.get("url", ""), found.get("branch", "main")


def _section(experiment: str, entries: list[Entry], base: str, folder: str) -> str:
    records = entries[0].records
    rows = "".join(_row(experiment, entry) for entry in sorted(entries, key=_natural))
    facts = "".join(f"{name}\n: {text}\n\n" for name, text in _facts(records).items() if text)
    runs = "".join(f"- {_run(record, base, folder)}\n" for record in records)
    commands = "\n".join(entries[0].reproduce)
    return (
        f"## {experiment}\n\n"
        "```{list-table}\n:header-rows: 1\n:class: ledger-numbers\n\n"
        f"* - number\n  - value and interval\n  - n\n{rows}```\n\n"
        f"{facts}"
        f"Records\n\n{runs}\n"
        f"To run it again:\n\n```sh\n{commands}\n```\n"
    )


def _natural(entry: Entry) -> list[tuple[int, str]]:
    """Order of the rows: labels50 before labels200."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", entry.key)]


def _row(experiment: str, entry: Entry) -> str:
    value = entry.measured
    form: Form = "interval" if value.low is not None else "value"
    name = entry.key[len(experiment) + 1 :]
    return f"* - ({entry.key})=\n    {_breakable(name)}\n  - {format_value(value, form)}\n  - {value.n:,}\n"


def _facts(records: tuple[Record, ...]) -> dict[str, str]:
    first = records[0]
    settings = {name: value for name, value in first.parameters.items() if name not in _SEED_NAMES}
    return {
        "Device": _device(first.device),
        "Profile": first.profile,
        "Parameters": ", ".join(f"{_code(name)} = {_code(_literal(value))}" for name, value in settings.items()),
        "Data": _code(first.data_digest[:12]),
        "Versions": ", ".join(f"{name} {version}" for name, version in first.versions.items()),
        "Code": ", ".join(dict.fromkeys(_code(_code_of(record)) for record in records)),
        "Claims": _claims(records),
        "Note": " ".join(dict.fromkeys(_escaped(record.note) for record in records if record.note)),
    }


def _device(device: Mapping[str, Any]) -> str:
    parts = [device.get("accelerator"), device.get("name")]
    parts += [f"{device['cores']} cores"] if "cores" in device else []
    parts += [f"{device['threads']} threads"] if "threads" in device else []
    parts += [f"{device['memory_gb']} GB"] if "memory_gb" in device else []
    parts += [device.get("dtype")]
    return _escaped(", ".join(str(part) for part in parts if part))


def _run(record: Record, base: str, folder: str) -> str:
    seeds = ", ".join(str(seed) for seed in record.seeds)
    minutes = format_value(Value(record.wall_seconds / 60, "min"))
    parts = [f"seed {seeds}" if len(record.seeds) == 1 else f"seeds {seeds}", record.started[:10], minutes]
    if record.peak_memory_bytes is not None:
        parts.append(format_value(Value(record.peak_memory_bytes / 1e9, "GB")))
    name = record.path.name if record.path else record.file_name
    parts.append(f"[{_breakable(name)}]({base}{_in_repository(record, folder)})" if base else _code(name))
    return " · ".join(parts)


def _in_repository(record: Record, folder: str) -> str:
    """Path of the record's file from the repository's root, such as results/finetune-laptop-1a2b3c4d.json."""
    parts = record.path.resolve().parts if record.path else (folder, record.file_name)
    start = max((i for i, part in enumerate(parts[:-1]) if part == folder), default=len(parts) - 1)
    return "/".join(parts[start:])


def _claims(records: tuple[Record, ...]) -> str:
    held = [held for record in records for held in record.claims.values()]
    return f"{sum(held)} of {len(held)} hold" if held else ""


def _code_of(record: Record) -> str:
    return record.code.get("commit") or record.code.get("library", "")[:12]


def _literal(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _code(text: str) -> str:
    return f"`{text.replace('`', chr(39))}`" if text else "`''`"


def _escaped(text: str) -> str:
    return re.sub(r"([\\`*_{}\[\]<>$#|])", r"\\\1", " ".join(text.split()))


def _breakable(name: str) -> str:
    """`name` with places where a narrow screen may break it."""
    return re.sub(r"([._-])", r"\1<wbr>", name).replace("_", r"\_")
