"""How well isoFLOP valleys give the exponent of N*: simulated tables of the shapes that published ones have.

    OMP_NUM_THREADS=1 python benchmarks/scaling_isoflop.py [--tables 60] [--seed 1]

Surfaces E + A N^-alpha + B D^-beta with exponents 0.25 to 0.5; budgets, runs a budget and noise by shape; valleys 0.9
to 2.2 e-folds to each side, off centre, and one in ten with a run that is 2 to 6 % off. No published table is read.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass

import numpy as np

from scaletut.scaling import TableError, isoflop


@dataclass(frozen=True)
class Shape:
    """Budgets from low to high, FLOP; runs a budget, at least and at most; largest noise, share of the loss."""

    budgets: int
    low: float
    high: float
    fewest: int
    most: int
    noise: float


SHAPES = {
    "nine budgets, 7 to 13 runs": Shape(9, 6e18, 3e21, 7, 13, 0.0045),
    "ten budgets, 6 to 9 runs": Shape(10, 6e18, 1e22, 6, 9, 0.0022),
    "five budgets, 5 to 8 runs": Shape(5, 1e18, 3e20, 5, 8, 0.0045),
    "eight budgets, 8 to 10 runs": Shape(8, 1e17, 3e20, 8, 10, 0.003),
    "five budgets, 4 to 6 runs": Shape(5, 1e18, 1e20, 4, 6, 0.003),
}


def draw(shape: Shape, generator: np.random.Generator) -> tuple[dict[str, np.ndarray], float]:
    """Columns of a table, and the true exponent of N*."""
    alpha, beta, floor = generator.uniform(0.25, 0.5), generator.uniform(0.25, 0.5), generator.uniform(1.5, 2.2)
    a, middle, ratio = 10 ** generator.uniform(2, 3), 1e20, 10 ** generator.uniform(0.8, 1.6)
    size = np.sqrt(middle / 6 / ratio)  # N* at the middle budget, where D/N is `ratio`
    b = alpha * a * size**-alpha / beta * (middle / 6 / size) ** beta
    truth = beta / (alpha + beta)
    noise = shape.noise * generator.uniform(0.2, 1.0)
    params, flops, loss = [], [], []
    for budget in np.geomspace(shape.low, shape.high, shape.budgets):
        count, width = int(generator.integers(shape.fewest, shape.most + 1)), generator.uniform(0.9, 2.2)
        steps = np.linspace(-width, width, count) + 0.35 * width * generator.normal()
        sizes = size * (budget / middle) ** truth * np.exp(steps + 0.05 * generator.normal(size=count))
        clean = floor + a * sizes**-alpha + b * (budget / 6 / sizes) ** -beta
        losses = clean * np.exp(noise * generator.normal(size=count))
        if generator.random() < 0.1:
            losses[generator.integers(count)] *= 1 + generator.choice([-1, 1]) * generator.uniform(0.02, 0.06)
        params.append(sizes)
        flops.append(np.full(count, budget))
        loss.append(losses)
    parts = {"params": params, "flops": flops, "loss": loss}
    return {name: np.concatenate(part) for name, part in parts.items()}, truth


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--tables", type=int, default=60)
    options.add_argument("--seed", type=int, default=1)
    given = options.parse_args()
    print(f"error of the exponent of N*, {given.tables} tables a shape; intervals of 95 %")
    print(f"{'':<30}{'method':<11}{'mean':>8}{'median':>8}{'bias':>9}{'worst':>8}{'held':>7}{'refused':>9}{'s':>7}")
    for name, shape in SHAPES.items():
        for method in ("quadratic", "cubic"):
            generator, errors, held, refused = np.random.default_rng(given.seed), [], 0, 0
            started = time.process_time()
            for _ in range(given.tables):
                table, truth = draw(shape, generator)
                try:
                    found = isoflop(table, method=method)
                except TableError:
                    refused += 1
                    continue
                errors.append(found.exponent_params - truth)
                ends = found.intervals["exponent_params"]
                held += ends.low <= truth <= ends.high
            seconds = (time.process_time() - started) / given.tables
            size = np.abs(errors)
            print(
                f"{name:<30}{method:<11}{size.mean():>8.4f}{np.median(size):>8.4f}{np.mean(errors):>+9.4f}"
                f"{size.max():>8.3f}{held / len(errors):>7.0%}{refused:>9}{seconds:>7.3f}"
            )


if __name__ == "__main__":
    main()
