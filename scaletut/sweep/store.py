"""Where a sweep's runs are kept: one record a run, named by its key, written whole or not at all."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scaletut.errors import ScaletutError
from scaletut.records import Record, read_record, write_record
from scaletut.sweep.plan import RunSpec

CHECKPOINTS = ".checkpoints"


class SweepError(ScaletutError):
    """A sweep cannot go on: its folder cannot be used, or another sweep uses it."""


@dataclass(frozen=True)
class Store:
    """The folder of a sweep. Finished runs are `KEY.json`, half-finished ones `.checkpoints/KEY.pt`."""

    folder: Path

    def open(self) -> None:
        """Make the folder. Raises SweepError where it cannot be written to."""
        try:
            (self.folder / CHECKPOINTS).mkdir(parents=True, exist_ok=True)
            probe = self.folder / f".probe-{os.getpid()}"
            probe.write_bytes(b"")
            probe.unlink()
        except OSError as error:
            raise SweepError(
                f"{self.folder} cannot be written to ({error.strerror}); give another folder with --out"
            ) from None

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Keep other sweeps out of the folder. The lock is the system's: it goes with the process, however that ends.

        Whoever holds it may clear away what killed writers left unfinished.
        Raises SweepError when another sweep holds it.
        """
        try:
            import fcntl
        except ImportError:  # Windows: two sweeps at once repeat work there, but records stay whole
            yield
            return
        with open(self.folder / CHECKPOINTS / "lock", "a", encoding="utf-8") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise SweepError(
                    f"another sweep is running in {self.folder}; watch it with `scaletut watch {self.folder}`, "
                    "or give this one another folder with --out"
                ) from None
            self._clear_unfinished()
            yield

    def _clear_unfinished(self) -> None:
        for folder in (self.folder, self.folder / CHECKPOINTS):
            for part in folder.glob(".*.part"):
                part.unlink(missing_ok=True)

    def path(self, spec: RunSpec) -> Path:
        return self.folder / f"{spec.key}.json"

    def checkpoint(self, spec: RunSpec) -> Path:
        """Of half the batch apart: it has other steps, and neither can go on from the other's."""
        return self.folder / CHECKPOINTS / f"{spec.key}{'-halved' if spec.halved else ''}.pt"

    def missing(self, specs: Iterable[RunSpec]) -> list[RunSpec]:
        """Those that have no record yet. Only names are looked at: reading 10,000 records takes seconds."""
        there = {entry.name for entry in os.scandir(self.folder)}
        return [spec for spec in specs if f"{spec.key}.json" not in there]

    def write(self, spec: RunSpec, record: Record) -> Path:
        """Keep a record. A run that two workers finished is the same run: the first record stays.

        Raises SweepError where the disk is full or the folder cannot be written to.
        """
        path = self.path(spec)
        if path.exists():
            return path
        try:
            return write_record(record, self.folder, name=path.name)
        except OSError as error:
            raise SweepError(
                f"a record could not be written to {self.folder} ({error.strerror}); "
                "free some space, then go on with --resume"
            ) from None

    def records(self) -> list[Record]:
        """All records here, each checked, by key."""
        return [read_record(path) for path in sorted(self.folder.glob("*.json"))]


def run_table(records: Sequence[Record]) -> dict[str, list[float]]:
    """The run table of the records that have a loss: columns params, examples, flops, loss, accuracy, epochs, seed,
    group (params and examples: runs that differ in their seed share it).

    Runs that diverged or failed are left out; `left_out` tells which.
    """
    rows = [_row(record) for record in records if "loss" in record.values]
    groups = sorted({(row["params"], row["examples"], row["epochs"]) for row in rows})
    for row in rows:
        row["group"] = groups.index((row["params"], row["examples"], row["epochs"]))
    columns = ("params", "examples", "flops", "loss", "accuracy", "epochs", "seed", "group")
    return {column: [float(row[column]) for row in rows] for column in columns}


def left_out(records: Sequence[Record]) -> list[tuple[str, str]]:
    """(key, why) of each run without a loss."""
    without = [record for record in records if "loss" not in record.values]
    return [(record.parameters["key"], record.note or record.parameters["status"]) for record in without]


def _row(record: Record) -> dict[str, Any]:
    values = {name: value.value for name, value in record.values.items()}
    return {**values, "flops": values["training_flops"], "seed": record.seeds[0]}


def halved(spec: RunSpec) -> RunSpec:
    """The same run with half the batch."""
    return dataclasses.replace(spec, halved=True)
