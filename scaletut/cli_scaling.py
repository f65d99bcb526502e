"""The commands of the scaling room: fit, plan, compare, isoflop. They print; the room computes."""

from __future__ import annotations

import argparse
import difflib
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from scaletut.cli_output import write_json, written
from scaletut.errors import ParameterError
from scaletut.scaling.choose import backtest
from scaletut.scaling.fitting import Fit, fit
from scaletut.scaling.laws import LAWS
from scaletut.scaling.notes import Note
from scaletut.scaling.planning import compute_for, plan
from scaletut.scaling.table import NUMERIC, RunTable, TableError, as_table
from scaletut.scaling.valleys import isoflop


def run_fit(options: argparse.Namespace) -> int:
    """`scaletut fit`: parameters with intervals, certificate, notes, predictions."""
    table = _table(options, x=options.x, y=options.y, weights=options.weights)
    _known_law(options.law, "auto")
    found = fit(
        table, options.law, loss=options.loss, delta=options.delta, fixed=_assignments(options.fix),
        tied=_ties(options.tie), bootstrap=options.bootstrap, seed=options.seed, x=_role(options.x),
        drop_highest=options.drop_highest,
    )  # fmt: skip
    predictions = _predictions(found, options) if options.predict else []
    if options.plot:
        _plot(found, table.drop_highest(options.drop_highest), options.plot)
    if not write_json(found.to_dict() | {"predictions": predictions}, options.json):
        print("\n".join(_fit_lines(found) + _prediction_lines(predictions)))
    return 0


def run_plan(options: argparse.Namespace) -> int:
    """`scaletut plan`: N, D and loss for a budget, or the budget for a loss."""
    found = Fit.from_json(_text(options.fit))
    rules = {
        "cost": options.cost, "inference_tokens": options.inference_tokens, "unique_examples": options.unique_examples
    }  # fmt: skip
    if (options.flops is None) == (options.loss is None):
        raise ParameterError("give a budget, --flops 1e21, or a loss to reach, --loss 2.2, and not both")
    flops = options.flops if options.loss is None else compute_for(found, options.loss, **rules).flops
    best = plan(found, flops, **rules)
    if not write_json(_plain(best.to_dict()), options.json):
        print(f"budget     {best.flops:.4g} FLOP ({best.cost})")
        for name in ("params", "examples", "ratio", "loss"):
            print(f"{name:<10} {getattr(best, name):.5g}{_ends(best.intervals.get(name))}")
        if best.repeats is not None:
            print(f"repeats    {best.repeats:.3g} times the unique examples")
        print("\n".join(_note_lines(best.notes)), end="\n" if best.notes else "")
    return 0


def run_compare(options: argparse.Namespace) -> int:
    """`scaletut compare`: laws by how they predict the largest runs."""
    laws = [name.strip() for name in options.laws.split(",") if name.strip()]
    for name in laws:
        _known_law(name)
    table = _table(options, x=options.x, y=options.y)
    found = backtest(
        table, laws, hold_out=options.hold_out, loss=options.loss, delta=options.delta, x=_role(options.x),
        seed=options.seed,
    )  # fmt: skip
    if not write_json(found.to_dict(), options.json):
        print(f"{'law':<14} {'error on hidden runs':>20} {'BIC':>10}   square error beyond the best's (95 %)")
        for name in sorted(found.rmse, key=lambda name: found.rmse[name]):
            more = found.differences.get(name)
            ends = "best" if more is None else f"{more[0]:.2g} ({more[1]:.2g} to {more[2]:.2g})"
            print(f"{name:<14} {found.rmse[name]:>20.3%} {found.bic[name]:>10.1f}   {ends}")
        for name, why in found.refused.items():
            print(f"left out: {name}: {why}")
    return 0


def run_isoflop(options: argparse.Namespace) -> int:
    """`scaletut isoflop`: the best size at each budget, and the exponent of the law through them."""
    found = isoflop(_table(options, y=options.y), method=options.method, seed=options.seed)
    if not write_json(_plain(found.to_dict()), options.json):
        for valley in found.valleys:
            good = valley.status == "ok"
            best = f"N {valley.best_params:.4g}, loss {valley.best_loss:.4f}" if good else valley.status
            print(f"{valley.flops:>10.3g} FLOP  {len(valley.params):>3} runs  {best}")
        ends = found.intervals["exponent_params"]
        print(f"N* ~ C^{found.exponent_params:.4f} ({ends.level:.0%}: {ends.low:.4f} to {ends.high:.4f})")
        print(f"D* ~ C^{found.exponent_examples:.4f}")
        print("\n".join(_note_lines(found.notes)), end="\n" if found.notes else "")
    return 0


# --- input ---------------------------------------------------------------------------


def _table(options: argparse.Namespace, *, x: str = "", y: str = "", weights: str = "") -> RunTable:
    columns = {}
    for text in options.column:
        role, _, name = text.partition("=")
        if not role or not name:
            raise ParameterError(f"--column {text!r} must read role=name, such as params=N")
        columns[role] = name
    if y:
        columns["loss"] = y
    if weights:
        columns["weight"] = weights
    if x and x not in NUMERIC and x != "tokens":
        columns["examples"] = x
    return as_table(options.table, columns=columns, cost=options.cost, counting=options.count)


def _role(x: str) -> str:
    """The role that a one-variable law reads: a column that is no role by name was mapped to examples."""
    return x if x in NUMERIC else "examples" if x else ""


def _known_law(name: str, *others: str) -> None:
    known = (*LAWS, *others)
    if name not in known:
        near = difflib.get_close_matches(name, known, 1, 0.0)[0]
        raise ParameterError(f"unknown law {name!r}; did you mean {near!r}? The laws are {', '.join(known)}")


def _assignments(texts: Sequence[str]) -> dict[str, float]:
    found: dict[str, float] = {}
    for text in texts:
        name, _, value = text.partition("=")
        try:
            found[name] = float(value)
        except ValueError:
            raise ParameterError(f"--fix {text!r} must read name=number, such as E=1.8") from None
    return found


def _ties(texts: Sequence[str]) -> list[tuple[str, str]]:
    found = []
    for text in texts:
        first, _, second = text.partition("=")
        if not first or not second:
            raise ParameterError(f"--tie {text!r} must read name=name, such as alpha=beta")
        found.append((first, second))
    return found


def _text(path: Path) -> str:
    try:
        return sys.stdin.read() if str(path) == "-" else path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        wanted = f"{path} cannot be read ({error}); give the file that `scaletut fit --json` wrote"
        raise ParameterError(wanted) from None


# --- output --------------------------------------------------------------------------


def _plot(found: Fit, table: RunTable, path: str) -> None:
    from scaletut.figures import use_style

    use_style()
    figure = found.plot(table)
    written(path, lambda: figure.savefig(path, dpi=150))


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value


def _predictions(found: Fit, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Loss at the rows of another table, with the band of a new run's loss there."""
    at = _inputs(found, options)
    known = found.samples is not None or found.forecast is not None
    loss = found.predict(at)
    low, high = found.interval(at, noise=True) if known else (None, None)
    band = found.band(at) if found.forecast is not None or found.combination is not None else (None, None)
    by = "forecast" if found.forecast is not None else found.law
    if found.combination is not None and len(found.combination.weights) > 1:
        by = "combination"
    rows = []
    for i in range(len(loss)):
        inputs = {found.x if name == "x" else name: float(values[i]) for name, values in at.items()}
        ends = {"low": _number(low, i), "high": _number(high, i)}
        ends["band"] = (
            None if band[0] is None else {"level": 0.9, "low": _number(band[0], i), "high": _number(band[1], i)}
        )
        rows.append({"inputs": inputs, "loss": float(loss[i]), **ends, "by": by})
    return rows


def _number(values: Any, i: int) -> float | None:
    return None if values is None or values[i] != values[i] else float(values[i])


def _inputs(found: Fit, options: argparse.Namespace) -> dict[str, Any]:
    """The columns to predict at; a loss there is not needed, so a stand-in makes the table whole."""
    import csv

    path = Path(options.predict)
    if not path.is_file():
        raise TableError(f"there is no file {path}; --predict takes a table with the columns of the fitted one")
    with path.open(newline="", encoding="utf-8-sig") as file:
        rows = list(csv.DictReader(file))
    if not rows:
        raise TableError(f"{path.name} has no rows to predict at")
    roles = dict(text.partition("=")[::2] for text in options.column)
    if options.x and options.x not in NUMERIC:
        roles["examples"] = options.x
    columns = {}
    for variable in LAWS[found.law].variables:
        role = found.x if variable == "x" else variable
        name = roles.get(role, role)
        name = "tokens" if role == "examples" and name not in rows[0] and "tokens" in rows[0] else name
        if name not in rows[0]:
            raise TableError(f"{path.name} has no column {name!r} to predict from; it has {', '.join(rows[0])}")
        try:
            columns[variable] = [float(row[name]) for row in rows]
        except (TypeError, ValueError):
            raise TableError(f"{path.name}, column {name!r}: a cell is no number; mend or remove its row") from None
    return found.columns(columns)


def _fit_lines(found: Fit) -> list[str]:
    certificate = found.certificate
    lines = [f"{found.law}: {LAWS[found.law].formula}", ""]
    for name, value in found.parameters.items():
        error = found.standard_errors[name]
        lines.append(f"  {name:<9} {value:<12.6g} se {error:<10.3g}{_ends(found.intervals[name])}")
    state = "converged" if certificate.converged else "NOT CONVERGED"
    lines += [
        "",
        f"objective   {found.objective:.12g}  ({found.checklist['runs']} runs, {found.checklist['loss']})",
        f"certificate {state}: gradient {certificate.gradient:.1e}, curvature {certificate.curvature:.1e}, "
        f"{certificate.agreement:.0%} of {certificate.starts} starts agree",
        f"errors from {found.checklist['standard_errors']}; {found.seconds:.2f} s",
    ]
    return lines + _note_lines(found.notes)


def _prediction_lines(predictions: list[dict[str, Any]]) -> list[str]:
    lines = ["", "predictions"] if predictions else []
    for row in predictions:
        at = ", ".join(f"{name} {value:.4g}" for name, value in row["inputs"].items())
        ends = "" if row["low"] is None else f"  ({row['low']:.5g} to {row['high']:.5g})"
        lines.append(f"  {at}: {row['loss']:.5g}{ends}")
    return lines


def _note_lines(notes: Sequence[Note]) -> list[str]:
    return [f"{note.severity}: {note.text} [{note.code}]" for note in notes]


def _ends(interval: Any) -> str:
    return "" if interval is None else f"  {interval.level:.0%}: {interval.low:.5g} to {interval.high:.5g}"
