"""What the sweep engine costs beyond the training: seconds to expand and to resume a plan, milliseconds a run.

    python benchmarks/sweep.py
    python benchmarks/sweep.py --ray         # the same on Ray too
    python benchmarks/sweep.py --kills 50    # driver and workers killed at random moments, then the records counted

The bars: 10,000 runs expand in under 2 s and resume in under 5 s; a run costs under 50 ms beyond its training,
and under 1 s on Ray.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
import yaml

from scaletut.sweep import Event, Store, checked_plan, run_local, run_on_ray

Result = TypeVar("Result")
PLAN = {
    "name": "bench",
    "data": "zipf10",
    "widths": [0.0625],
    "examples": [64],
    "epochs": [1],
    "seeds": [0],
    "scored": 100,
    "lr_rule": {"exponent": 0, "reference": 1, "reason": "the step of Muon does not follow the width"},
}
REPEATS = 5
WARM_UP = 5  # runs; the first ones load libraries and data


def expand_and_resume(folder: Path) -> None:
    """Time the expansion of 10,000 runs, and finding those that are missing when all but one are there."""
    content = {**PLAN, "seeds": list(range(100)), "examples": list(range(50, 150))}
    runs, seconds = timed(lambda: checked_plan(content).runs())
    print(f"expand {len(runs):,} runs: {seconds:.2f} s (median of {REPEATS}, bar 2 s)")
    store = Store(folder / "many")
    store.open()
    for run in runs[1:]:
        store.path(run).write_bytes(b"{}")
    missing, seconds = timed(lambda: store.missing(runs))
    print(f"resume: {len(missing)} missing, found in {seconds:.2f} s (median of {REPEATS}, bar 5 s)")


def timed(work: Callable[[], Result]) -> tuple[Result, float]:
    """What `work` gives, and the median of its seconds; the first time, which loads libraries, is not counted."""
    seconds = []
    for _ in range(REPEATS + 1):
        begin = time.perf_counter()
        result = work()
        seconds.append(time.perf_counter() - begin)
    return result, float(np.median(seconds[1:]))


def beyond_training(folder: Path, ray: bool, count: int = 30) -> None:
    """Seconds between two ends of runs, one at a time, less what the later run says it took: the engine's own."""
    runs = checked_plan({**PLAN, "seeds": list(range(count + WARM_UP))}).runs()
    store = Store(folder / ("ray" if ray else "local"))
    store.open()
    ends: dict[str, float] = {}

    def listen(event: Event) -> None:
        if event.kind == "done":
            ends[event.spec.key] = time.perf_counter()

    begin = time.perf_counter()
    if ray:
        run_on_ray(runs, store, cpus=os.cpu_count(), listen=listen)
    else:
        run_local(runs, store, listen=listen)
    took = {record.parameters["key"]: record.wall_seconds for record in store.records()}
    keys = list(ends)
    extra = [ends[key] - ends[last] - took[key] for last, key in itertools.pairwise(keys)][WARM_UP - 1 :]
    low, median, high = (1e3 * x for x in np.quantile(extra, [0.1, 0.5, 0.9]))
    name, bar = ("Ray", 1000) if ray else ("local", 50)
    print(f"{name}: {median:.0f} ms a run beyond training (10 to 90 % of {len(extra)} runs: {low:.0f} to {high:.0f}; "
          f"bar {bar} ms), the first run ends after {ends[keys[0]] - begin:.1f} s")  # fmt: skip


def kills(folder: Path, count: int) -> None:
    """Kill driver or worker `count` times at random moments; then no record is lost, doubled or half-written."""
    content = {**PLAN, "seeds": list(range(6)), "examples": [256], "epochs": [8]}
    plan, out = folder / "plan.yaml", folder / "killed"
    plan.write_text(yaml.safe_dump(content), encoding="utf-8")
    runs, draw, lost = checked_plan(content).runs(), random.Random(0), 0
    kept: dict[str, bytes] = {}
    command = [sys.executable, "-m", "scaletut.cli", "sweep", str(plan), "--out", str(out), "--resume"]
    for number in range(count):
        driver = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(draw.uniform(0.5, 9.0))
        worker = _children(driver.pid)
        if number % 2 and worker:
            os.kill(worker[0], signal.SIGKILL)
            time.sleep(draw.uniform(0.0, 4.0))
        driver.kill()
        driver.wait()
        there = {path.name: path.read_bytes() for path in out.glob("*.json")}
        lost += sum(there.get(name) != content for name, content in kept.items())
        lost += sum(not _whole(text) for text in there.values())
        kept = there
        if len(kept) == len(runs):  # all done: begin anew, so that every kill meets work
            for path in out.glob("*.json"):
                path.unlink()
            kept = {}
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    keys = [record.parameters["key"] for record in Store(out).records()]
    print(
        f"{count} kills: {lost} records lost or torn, {len(keys)} of {len(runs)} runs there, {len(set(keys))} different"
    )
    assert not lost
    assert sorted(keys) == sorted(run.key for run in runs)


def _children(pid: int) -> list[int]:
    try:
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()]
    except FileNotFoundError:
        return []


def _whole(text: bytes) -> bool:
    try:
        return bool(json.loads(text))
    except ValueError:
        return False


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=0, metavar="N")
    parser.add_argument("--ray", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        expand_and_resume(folder)
        beyond_training(folder, ray=False)
        if options.ray:
            beyond_training(folder, ray=True)
        if options.kills:
            kills(folder, options.kills)


if __name__ == "__main__":
    main()
