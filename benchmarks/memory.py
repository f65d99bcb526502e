"""Peak memory of a training step: forecast without allocating against measured, and the rule of thumb beside them.

    python benchmarks/memory.py [--networks resnet20 ...] [--batches 8 32 128] [--optimizers sgd adamw muon]
                                [--threads 1] [--record results]

Each cell is a network, a batch size, an optimiser, with and without activation checkpointing. The forecast runs the
step on tensors without content (`predict_memory`), the measurement runs two real steps and takes the allocator's peak
(`measure_memory`). Flat networks have no blocks to recompute and are measured without. Memory does not depend on what
the images show, so they are random. Ends with status 1 when a forecast misses the measured peak by more than 5 %.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from scaletut.errors import ParameterError
from scaletut.files import digest_json
from scaletut.models import build, count_parameters
from scaletut.records import Value, new_record, peak_memory, write_record
from scaletut.resources.memory import MemoryForecast, measure_memory, predict_memory, rule_of_thumb
from scaletut.train import Execution, Recipe, execution

BAR = 0.05
NETWORKS = ("resnet20", "speednet-s", "tutorial", "resnet18", "efficientnet-lite0")
BATCHES = {"resnet18": (4, 16, 48), "efficientnet-lite0": (4, 16, 48)}  # the others: 8, 32, 128
MB = 1e6


@dataclass(frozen=True)
class Cell:
    """One line of the table; bytes."""

    network: str
    batch_size: int
    optimizer: str
    recompute: bool
    forecast: MemoryForecast
    measured: int
    rule: int

    @property
    def ratio(self) -> float:
        return self.forecast.peak / self.measured


def optimizers_for(model: nn.Module) -> tuple[str, ...]:
    """Muon for small networks alone: where bfloat16 is emulated, its products of large matrices take minutes a step."""
    return ("sgd", "adamw", "muon") if count_parameters(model) < 1e6 else ("sgd", "adamw")


def grid(options: argparse.Namespace, how: Execution) -> Iterator[Cell]:
    for network in options.networks:
        model = build(network, seed=0)
        for batch_size in options.batches or BATCHES.get(network, (8, 32, 128)):
            for optimizer in options.optimizers or optimizers_for(model):
                recipe = Recipe(optimizer=optimizer, batch_size=batch_size)
                for recompute in (False, True):
                    way = replace(how, recompute=recompute)
                    try:
                        forecast = predict_memory(model, recipe, batch_size=batch_size, how=way)
                    except ParameterError as error:
                        if "flat stack" not in str(error):
                            raise
                        continue
                    measured = measure_memory(model, recipe, batch_size=batch_size, how=way)
                    rule = rule_of_thumb(model, recipe)
                    yield Cell(network, batch_size, optimizer, recompute, forecast, measured, rule)


def show(cell: Cell) -> None:
    parts = cell.forecast
    row = [cell.forecast.peak, cell.measured, cell.rule, parts.activations, parts.parameters]
    names = f"{cell.network:<20}{cell.batch_size:>6}{cell.optimizer:>8}{'yes' if cell.recompute else 'no':>11}"
    numbers = "".join(f"{size / MB:>11.1f}" for size in row)
    miss = "  <- misses" if abs(cell.ratio - 1) > BAR else ""
    print(f"{names}{numbers}{cell.ratio:>9.4f}{cell.measured / cell.rule:>9.1f}{miss}", flush=True)


def summary(cells: list[Cell]) -> dict[str, Value]:
    """Each cell's three figures, and the worst of all."""
    values = {}
    for cell in cells:
        key = f"{cell.network}_{cell.batch_size}_{cell.optimizer}{'_recompute' * cell.recompute}".replace("-", "_")
        values[f"forecast_{key}"] = Value(cell.forecast.peak / MB, "MB")
        values[f"measured_{key}"] = Value(cell.measured / MB, "MB")
        values[f"rule_{key}"] = Value(cell.rule / MB, "MB")
    factors = [cell.measured / cell.rule for cell in cells]
    values["cells"] = Value(len(cells))
    values["networks"] = Value(len({cell.network for cell in cells}))
    values["worst_error"] = Value(100 * max(abs(cell.ratio - 1) for cell in cells), "%", n=len(cells))
    values["rule_factor_least"] = Value(min(factors), n=len(cells))
    values["rule_factor_most"] = Value(max(factors), n=len(cells))
    return values


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS))
    parser.add_argument("--batches", type=int, nargs="+", help="images a step")
    parser.add_argument(
        "--optimizers", nargs="+", help="of the recipe; by default sgd, adamw, and muon where it is quick"
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=0, help="of one operator; 0 is torch's choice")
    parser.add_argument("--record", type=Path, help="folder that gets a record of the run")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    how = execution(options.device, "fp32")
    began = time.perf_counter()
    print(f"{'network':<20}{'batch':>6}{'rule':>8}{'recompute':>11}", end="")
    print("".join(f"{name:>11}" for name in ("forecast", "measured", "thumb", "activ.", "weights")), end="")
    print(f"{'ratio':>9}{'factor':>9}   (MB; ratio: forecast / measured; factor: measured / rule of thumb)")
    cells = []
    for cell in grid(options, how):
        show(cell)
        cells.append(cell)
    values = summary(cells)
    worst = values["worst_error"].value
    print(
        f"{len(cells)} cells: the worst forecast is off by {worst:.2f} %; measured peaks are "
        f"{values['rule_factor_least'].value:.1f} to {values['rule_factor_most'].value:.1f} times the rule of thumb"
    )
    if options.record:
        parameters = {
            "networks": options.networks,
            "batches": sorted({cell.batch_size for cell in cells}),
            "optimizers": sorted({cell.optimizer for cell in cells}),
            "device": options.device,
        }
        record = new_record(
            "tuning.memory",
            profile="laptop",
            parameters=parameters,
            data_digest=digest_json(parameters),
            seeds=[0],
            values=values,
            wall_seconds=time.perf_counter() - began,
            peak_memory_bytes=peak_memory(),
            dtype="float32",
            threads=torch.get_num_threads(),
            command="python benchmarks/memory.py",
        )
        print(write_record(record, options.record, replace=True))
    return int(worst > 100 * BAR)


if __name__ == "__main__":
    sys.exit(main())
