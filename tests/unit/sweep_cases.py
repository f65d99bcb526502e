"""What the tests of sweeps share: a small plan, records without training, and what of a record a run decides."""

from __future__ import annotations

import json
from pathlib import Path

from scaletut.records import Record, Value, new_record
from scaletut.sweep import RunSpec, Store, SweepPlan, checked_plan

PLAN = {
    "name": "toy",
    "data": "zipf10",
    "widths": [0.0625, 0.125],
    "examples": [64, 128],
    "epochs": [1],
    "seeds": [0],
    "scored": 100,
    "lr_rule": {"exponent": 0, "reference": 1, "reason": "Muon's step does not follow the width"},
}
MEASURED = ("started", "wall_seconds", "peak_memory_bytes")  # and values.seconds: how the run went, not what it gave


def plan(**changes: object) -> SweepPlan:
    return checked_plan({**PLAN, **changes})


def opened(folder: Path) -> Store:
    store = Store(folder)
    store.open()
    return store


def recorded(spec: RunSpec, loss: float | None, status: str = "finished") -> Record:
    """The record of a run as if it had ended with this loss."""
    params = 1e6 * spec.width**2
    flops = 6 * params * spec.examples * spec.epochs
    values = {"params": params, "examples": spec.examples, "epochs": spec.epochs, "training_flops": flops}
    scores = {} if loss is None else {"loss": loss, "accuracy": 50.0}
    return new_record(
        spec.plan,
        profile="quick",
        parameters={**spec.to_dict(), "key": spec.key, "status": status},
        data_digest="0" * 64,
        seeds=[spec.seed],
        values={name: Value(float(value)) for name, value in (values | scores).items()},
        wall_seconds=1.0,
        note="" if status == "finished" else f"{status}, as the test wants",
    )


def decided(store: Store, run: RunSpec) -> str:
    """A record without what was measured of time and memory, and without the digests that follow from that."""
    stored = json.loads(store.path(run).read_text(encoding="utf-8"))
    del stored["values"]["seconds"]
    for name in (*MEASURED, "id", "digest"):
        del stored[name]
    for name in (*MEASURED, "values"):
        del stored["digests"][name]
    return json.dumps(stored, sort_keys=True)
