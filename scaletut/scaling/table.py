"""The run table: what a fit needs to know of finished runs, and what it refuses."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np

from scaletut.scaling.accounting import Counted, Counting, TableError, check_6nd, recount

Cost = Literal["6ND", "measured"]
NUMERIC = ("params", "examples", "unique_examples", "embedding_params", "flops", "loss", "weight")
GROUPING = ("seed", "group")
MAX_RUNS = 100_000  # beyond it, rows are steps of curves rather than runs, and their errors are not independent


@dataclass(frozen=True)
class RunTable:
    """Finished runs, one a row; an absent column is None.

    params: N, parameters (n,). embedding_params: those of N that are embeddings (n,).
    examples: D, examples or tokens seen (n,). unique_examples: distinct ones (n,).
    flops: C, FLOP (n,). loss: nats or error share, above 0 (n,). weight: of the run in the fit, 0 or more (n,).
    seed, group: labels (n,) of runs that share randomness. unit: "examples" or "tokens".
    counting: whether N has embeddings in it, where that is stated (see `accounting`).
    """

    loss: np.ndarray
    params: np.ndarray | None = None
    examples: np.ndarray | None = None
    unique_examples: np.ndarray | None = None
    flops: np.ndarray | None = None
    weight: np.ndarray | None = None
    seed: np.ndarray | None = None
    group: np.ndarray | None = None
    unit: str = "examples"
    embedding_params: np.ndarray | None = None
    counting: Counted = "unstated"

    def __len__(self) -> int:
        return len(self.loss)

    @property
    def digest(self) -> str:
        """sha256 over the names and values of all columns, in the order of the rows."""
        total = hashlib.sha256(self.unit.encode())
        for name, column in self.columns().items():
            total.update(name.encode())
            total.update(column.tobytes() if column.dtype.kind == "f" else "\0".join(column).encode())
        return total.hexdigest()

    def columns(self) -> dict[str, np.ndarray]:
        """The columns that are present, by name."""
        return {name: getattr(self, name) for name in (*NUMERIC, *GROUPING) if getattr(self, name) is not None}

    def take(self, rows: np.ndarray) -> RunTable:
        """The rows of an index or mask, in a new table."""
        return replace(self, **{name: column[rows] for name, column in self.columns().items()})

    def column(self, name: str) -> np.ndarray:
        """A column by name. Raises TableError when the table has none."""
        found = getattr(self, name, None)
        if name not in (*NUMERIC, *GROUPING) or found is None:
            raise TableError(
                f"the table has no column {name!r} (it has {', '.join(self.columns())}); name the right one, "
                "for example `--x flops` or `--column params=N`"
            )
        return cast(np.ndarray, found)

    def drop_highest(self, count: int) -> RunTable:
        """The table without its `count` highest losses, order kept (ties at the edge leave together)."""
        if count == 0:
            return self
        if not 0 < count < len(self):
            raise TableError(f"cannot drop the {count} highest of {len(self)} losses; give 0 to {len(self) - 1}")
        return self.take(self.loss < np.sort(self.loss)[-count])


def as_table(
    source: Any, *, columns: Mapping[str, str] | None = None, cost: Cost | None = None, counting: Counting | None = None
) -> RunTable:
    """A checked RunTable from a RunTable, a mapping of columns, a data frame, or the path of a CSV or Parquet file.

    columns: names in the source by role, as {"params": "N", "examples": "tokens"}; roles are the fields of `RunTable`.
    cost: "6ND" derives the one of params, examples and flops that is missing (C = 6 N D, tokens);
    without it nothing is derived, and with all three present it is checked. counting: how N is, or is to be, counted.

    Raises TableError, in one line, for a missing column, fewer than two rows or more than 100,000, numbers that are not
    finite and positive, identical rows, or `examples` and `tokens` side by side.
    """
    if isinstance(source, RunTable):
        table = source
    elif isinstance(source, (str, Path)):
        table = _from_columns(_read(Path(source)), dict(columns or {}))
    elif hasattr(source, "keys") and hasattr(source, "__getitem__"):
        table = _from_columns({str(key): source[key] for key in source.keys()}, dict(columns or {}))  # noqa: SIM118
    else:
        kind = type(source).__name__
        raise TableError(f"a {kind} is no run table; give a file, a data frame or a mapping of columns")
    table = recount(table, counting) if counting else table
    table = _with_cost(table, cost) if cost else table
    check(table)
    return table


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise TableError(f"there is no file {path}; give the path of a CSV or Parquet table of runs")
    if path.suffix.lower() in {".parquet", ".pq"}:
        try:
            import pandas as pd

            frame = pd.read_parquet(path)
        except ImportError as error:
            wanted = f"Parquet needs pandas and pyarrow ({error}); install them or save {path.name} as CSV"
            raise TableError(wanted) from None
        except Exception as error:
            raise TableError(f"{path.name} cannot be read as Parquet: {str(error).splitlines()[0]}") from None
        return {str(name): frame[name] for name in frame.columns}
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.reader(_limited(file, path.name)))
    except (UnicodeDecodeError, csv.Error) as error:
        raise TableError(f"{path.name} is no CSV ({error}); save it as comma-separated UTF-8 text") from None
    if not rows or not any(cell.strip() for cell in rows[0]):
        raise TableError(f"{path.name} is empty; its first line must name the columns, such as params,examples,loss")
    names = [cell.strip() for cell in rows[0]]
    if len(set(names)) < len(names):
        raise TableError(f"{path.name} names a column twice; give each its own name")
    body = [row for row in rows[1:] if row]
    for number, row in enumerate(body, start=2):
        if len(row) != len(names):
            raise TableError(f"{path.name}, row {number}: {len(row)} cells for {len(names)} columns; check the commas")
    return dict(zip(names, zip(*body, strict=True), strict=True)) if body else dict.fromkeys(names, ())


def _limited(file: Any, name: str) -> Any:
    for number, line in enumerate(file):
        if number > MAX_RUNS:
            raise _too_many(name)
        yield line


def _too_many(name: str) -> TableError:
    return TableError(
        f"{name} has more than {MAX_RUNS:,} rows; a fit takes finished runs, one a row: "
        "keep the last step of each run, or average neighbouring steps"
    )


def _from_columns(columns: Mapping[str, Any], roles: dict[str, str]) -> RunTable:
    known = {field.name for field in fields(RunTable)} - {"unit", "counting"} | {"tokens"}
    for role, name in roles.items():
        if role not in known:
            raise TableError(f"unknown column role {role!r}; the roles are {', '.join(sorted(known))}")
        if name not in columns:
            raise TableError(f"the table has no column {name!r}; it has {', '.join(map(str, columns))}")
    chosen = {role: columns[roles.get(role, role)] for role in known if roles.get(role, role) in columns}
    if "tokens" in chosen and "examples" in chosen:
        raise TableError("the table has both examples and tokens; a fit takes one unit: map it, --column examples=NAME")
    unit = "tokens" if "tokens" in chosen else "examples"
    if "tokens" in chosen:
        chosen["examples"] = chosen.pop("tokens")
    if "loss" not in chosen:
        raise TableError(f"the table has no column 'loss' (it has {', '.join(map(str, columns))}); name it with --y")
    made = {name: _numbers(name, column) if name in NUMERIC else _labels(column) for name, column in chosen.items()}
    return RunTable(unit=unit, **made)


def _numbers(name: str, column: Any) -> np.ndarray:
    try:
        return np.array(column, dtype=np.float64)
    except (TypeError, ValueError):
        bad = next((cell for cell in column if not _is_number(cell)), "?")
        wanted = f"column {name!r} holds {str(bad)[:40]!r}, which is no number; remove the unit or the row"
        raise TableError(wanted) from None


def _is_number(cell: Any) -> bool:
    try:
        float(cell)
    except (TypeError, ValueError):
        return False
    return True


def _labels(column: Any) -> np.ndarray:
    return np.array([str(cell) for cell in column])


def _with_cost(table: RunTable, cost: Cost) -> RunTable:
    if cost not in ("6ND", "measured"):
        raise TableError(f"unknown cost rule {cost!r}; the rules are 6ND and measured")
    have = {name: getattr(table, name) for name in ("params", "examples", "flops")}
    missing = [name for name, column in have.items() if column is None]
    if cost == "6ND":
        check_6nd(table)
    if cost == "measured" or not missing:
        return table
    if len(missing) > 1:
        raise TableError(f"6ND derives one of params, examples and flops, but {' and '.join(missing)} are both missing")
    with np.errstate(all="ignore"):
        if missing == ["flops"]:
            return replace(table, flops=6 * have["params"] * have["examples"])
        other = have["params"] if missing == ["examples"] else have["examples"]
        return replace(table, **{missing[0]: have["flops"] / (6 * other)})


def check(table: RunTable) -> None:
    """Raise TableError, in one line, for what no fit can use."""
    size = len(table)
    if size > MAX_RUNS:
        raise _too_many("the table")
    if size < 2:
        runs = "1 run" if size == 1 else f"{size} runs"
        raise TableError(f"the table has {runs}; a fit needs at least two, and no fewer than its parameters")
    for name, column in table.columns().items():
        if column.shape != (size,):
            raise TableError(f"column {name!r} has shape {column.shape} for {size} losses; give one value a run")
        if name in NUMERIC:
            _check_positive(name, column)
    _check_duplicates(table)


def _check_positive(name: str, column: np.ndarray) -> None:
    allowed = column >= 0 if name == "weight" else column > 0
    bad = np.flatnonzero(~(np.isfinite(column) & allowed))
    if bad.size:
        rule = "at least 0" if name == "weight" else "above 0"
        raise TableError(
            f"{name} is {column[bad[0]]:g} in row {bad[0] + 1} of {len(column)} ({bad.size} such); "
            f"it must be finite and {rule}: drop runs that diverged and mend units"
        )
    if name == "weight" and not column.any():
        raise TableError("all weights are 0; give at least the runs to be fitted a positive weight")


def _check_duplicates(table: RunTable) -> None:
    keys: Sequence[tuple[Any, ...]] = list(zip(*(column.tolist() for column in table.columns().values()), strict=True))
    if len(set(keys)) < len(keys):
        seen: dict[tuple[Any, ...], int] = {}
        for row, key in enumerate(keys):
            if key in seen:
                raise TableError(
                    f"rows {seen[key] + 1} and {row + 1} are identical ({len(keys) - len(set(keys))} such); "
                    "a run counts once: remove the copy, or give repeats their own seed column"
                )
            seen[key] = row
