"""Print the prediction of the chapter *Predict, then verify*: write it as a record before the runs that test it.

    python book/predict.py            # from the small runs, before `book/sweeps/large.yaml` is run
    python book/predict.py --second   # from the small runs and those large ones that have ended, before the others end

Reads the runs under `results/sweeps` and refuses to print a prediction twice: what was predicted stays as it was.
Commit each record in a commit of its own, before the runs that test it.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from scaletut.errors import ParameterError, ScaletutError
from scaletut.records import Record, Value, find_records, new_record, write_record
from scaletut.scaling import Predictions, predict_runs
from scaletut.sweep import Store, load_plan, run_table

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "results"
FIRST, SECOND = "predict.printed", "predict.second"
LEAST_EXAMPLES = (0, 1000, 2000)


def predicted(second: bool) -> tuple[Predictions, list[str]]:
    """Predictions of the large plan's runs that are not known, and a name for each."""
    records = Store(RESULTS / "sweeps" / "small").records()
    params = {record.parameters["width"]: record.values["params"].value for record in records}
    known = Store(RESULTS / "sweeps" / "large").records() if second else []
    sizes = list(_unknown(known))
    table = run_table(records + known)
    found = predict_runs(
        {name: table[name] for name in ("params", "examples", "flops", "loss")},
        {"params": [params[width] for width, _ in sizes], "examples": [examples for _, examples in sizes]},
        accuracy=np.array(table["accuracy"]) / 100,
        least_examples=LEAST_EXAMPLES,
    )
    return found, [f"width{width:g}_of_{examples}".replace(".", "p") for width, examples in sizes]


def _unknown(known: list[Record]) -> Iterator[tuple[float, int]]:
    there = {(record.parameters["width"], record.parameters["examples"]) for record in known}
    return (size for size in load_plan(ROOT / "book" / "sweeps" / "large.yaml").sizes() if size not in there)


def values_of(found: Predictions, names: list[str]) -> dict[str, Value]:
    """Loss and accuracy of each run with their 95 % intervals, for the ledger."""
    values = {}
    for name, row in zip(names, found.rows, strict=True):
        low, high = row.loss_intervals["95"]
        values[f"loss_{name}"] = Value(row.loss, "nats", low, high, found.runs)
        low, high = (100 * end for end in row.accuracy_intervals["95"])
        values[f"accuracy_{name}"] = Value(100 * row.accuracy, "%", low, high, found.runs)
    return values


def main(second: bool) -> int:
    experiment = SECOND if second else FIRST
    if any(record.experiment == experiment for record in find_records(RESULTS, recursive=False)):
        raise ParameterError("the prediction is in print already; it is never made again after the runs")
    started = time.perf_counter()
    found, names = predicted(second)
    record = new_record(
        experiment,
        profile="laptop",
        parameters={"plan": "book/sweeps/large.yaml", "predictions": found.to_dict()},
        data_digest=found.runs_digest,
        seeds=[0],
        values=values_of(found, names),
        wall_seconds=time.perf_counter() - started,
        command="python book/predict.py" + (" --second" if second else ""),
        note="made before the runs that it predicts; its commit is older than their records",
    )
    path = write_record(record, RESULTS)
    sys.stdout.write(f"{found.why}\nprinted: {path.relative_to(ROOT)}\n")
    return 0


if __name__ == "__main__":
    try:
        raise SystemExit(main("--second" in sys.argv[1:]))
    except ScaletutError as error:
        sys.exit(f"predict: {error}")
