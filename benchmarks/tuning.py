"""The tuner against PyTorch's defaults on three of the book's networks: images a second, and accuracy.

    SCALETUT_DATA=... python benchmarks/tuning.py
    python benchmarks/tuning.py --data zipf10 --networks fast,tutorial,resnet8 --budget 120
    python benchmarks/tuning.py --record results

Each network is tuned within the budget.
Then its choice and the defaults (fp32, channels first, a DataLoader in the training process, torch's threads) run in
one interleaved measurement, and both train from the same seeds and are scored on the test set.
The bar: at least 1.8 times the images a second on each, and no loss of accuracy that the seeds agree on.
A network whose step takes seconds needs a larger budget: `--networks strong --budget 300`.
Nothing else may run meanwhile; exits 1 when the bar is missed.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from dataclasses import replace
from pathlib import Path

from tqdm import tqdm

from scaletut.records import Record, Value, format_value, new_record, write_record
from scaletut.resources import Ledger, Setting, Task, accuracies, difference, measure, tune
from scaletut.train import Recipe
from scaletut.train.presets import PRESETS

BAR = 1.8


def task_of(name: str, options: argparse.Namespace) -> Task:
    """The network with its own recipe, for the epochs asked for."""
    recipe = PRESETS[name].recipe if name in PRESETS else Recipe(batch_size=128)
    return Task(name, replace(recipe, epochs=options.epochs), options.data, options.images)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="cifar10")
    parser.add_argument("--networks", default="fast,tutorial,resnet8")
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--epochs", type=float, default=2)
    parser.add_argument("--budget", type=float, default=120)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--record", type=Path, help="folder that gets a record of each network's run")
    options = parser.parse_args()
    passed = [one_network(name, options) for name in options.networks.split(",")]
    return 0 if all(passed) else 1


def one_network(name: str, options: argparse.Namespace) -> bool:
    """Tune, confirm, train; whether the bar is met."""
    started = time.perf_counter()
    task = task_of(name, options)
    with tqdm(desc=name, unit="stage") as bar:
        told = lambda stage: (bar.set_description(f"{name}: {stage}"), bar.update())  # noqa: E731
        tuned = tune(task, budget=options.budget, report=told)
        both = {"defaults": Setting(batch_size=task.recipe.batch_size), "tuned": tuned.setting}
        ledger = measure(task, both, seconds=options.budget / 2, report=told)
        scores = accuracies(task, both, seeds=range(options.seeds), hold_out=0, report=told)
    shift = difference(scores["tuned"], scores["defaults"])
    print("\n".join(tuned.reasons))
    show(name, ledger, tuned.setting, scores)
    gain = ledger["tuned"].ratio
    print(f"  {gain.value:.2f} times ({gain.low:.2f} to {gain.high:.2f}, {gain.n} rounds), bar {BAR}")
    print(f"  accuracy changed by {format_value(shift, 'interval')} (n = {shift.n}), load before {ledger.load}")
    if options.record:
        record = record_of(name, task, tuned.setting, ledger, shift, time.perf_counter() - started, options)
        print(write_record(record, options.record))
    return gain.value >= BAR and (shift.high is None or shift.high >= 0)


def record_of(
    name: str, task: Task, setting: Setting, ledger: Ledger, shift: Value, seconds: float, options: argparse.Namespace
) -> Record:
    """What was measured of a network, as `tuning.bar.NAME`."""
    gain = ledger["tuned"].ratio
    return new_record(
        f"tuning.bar.{name.replace('-', '_')}",
        profile="laptop",
        parameters={"network": name, "setting": setting.changes(ledger.rows[0].setting), "bar": BAR}
        | {one: getattr(options, one) for one in ("data", "images", "epochs", "budget", "seeds")},
        data_digest=task.train_set().digest,
        seeds=[task.seed],
        values={
            "gain": Value(gain.value, "×", gain.low, gain.high, gain.n),
            "defaults": ledger["defaults"].images_per_second,
            "tuned": ledger["tuned"].images_per_second,
            "accuracy_change": shift,
        },
        wall_seconds=seconds,
        command=f"python benchmarks/tuning.py --networks {name} --data {options.data} --images {options.images} "
        f"--epochs {options.epochs:g} --budget {options.budget:g} --seeds {options.seeds}",
        note="nothing else ran on the machine",
    )


def show(name: str, ledger: Ledger, setting: Setting, scores: dict[str, tuple[float, ...]]) -> None:
    print(f"{name}, {os.cpu_count()} cores: {setting.changes(ledger.rows[0].setting)}")
    for row in ledger.rows:
        accuracy = ", ".join(f"{one:.1f}" for one in scores[row.name])
        rate = row.images_per_second
        print(
            f"  {row.name}: {rate.value:,.0f} images/s ({rate.low:,.0f} to {rate.high:,.0f}), "
            f"peak {row.peak_bytes / 1e6:,.0f} MB, accuracy {accuracy} %"
        )


if __name__ == "__main__":
    sys.exit(main())
