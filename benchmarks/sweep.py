"""What the sweep engine costs beyond the training: seconds to expand and to resume a plan, milliseconds a run.

    python benchmarks/sweep.py
    python benchmarks/sweep.py --kills 50    # driver and workers killed at random moments, then the records counted

The bars: 10,000 runs expand in under 2 s and resume in under 5 s; a run costs under 50 ms beyond its training.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

from scaletut.sweep import Store, checked_plan
from scaletut.sweep.local import run_local
from scaletut.sweep.train import execute

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


def expand_and_resume(folder: Path) -> None:
    """Time the expansion of 10,000 runs, and finding those that are missing when all but one are there."""
    begin = time.perf_counter()
    runs = checked_plan({**PLAN, "seeds": list(range(100)), "examples": list(range(50, 150))}).runs()
    print(f"expand {len(runs):,} runs: {time.perf_counter() - begin:.2f} s (bar 2 s)")
    store = Store(folder / "many")
    store.open()
    for run in runs[1:]:
        store.path(run).write_bytes(b"{}")
    begin = time.perf_counter()
    missing = store.missing(runs)
    print(f"resume: {len(missing)} missing, found in {time.perf_counter() - begin:.2f} s (bar 5 s)")


def overhead(folder: Path, count: int = 20) -> None:
    """Wall time a run through the pool, less that of the same runs called directly; both after a first run."""
    runs = checked_plan({**PLAN, "seeds": list(range(count + 1))}).runs()
    execute(runs[0])
    begin = time.perf_counter()
    for run in runs[1:]:
        execute(run)
    direct = time.perf_counter() - begin
    store = Store(folder / "pool")
    store.open()
    ends: list[float] = []
    run_local(runs, store, listen=lambda event: ends.append(time.perf_counter()) if event.kind == "done" else None)
    pooled = ends[-1] - ends[0]
    print(
        f"{count} runs: {1e3 * direct / count:.0f} ms each alone, {1e3 * pooled / count:.0f} ms through the pool, "
        f"{1e3 * (pooled - direct) / count:+.0f} ms (bar 50 ms)"
    )


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
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        expand_and_resume(folder)
        overhead(folder)
        if options.kills:
            kills(folder, options.kills)


if __name__ == "__main__":
    main()
