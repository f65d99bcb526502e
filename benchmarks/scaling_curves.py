"""How well curves are extrapolated: simulated learning curves of many shapes, each law alone and the vote of several.

    python benchmarks/scaling_curves.py [--curves 60] [--reach 4] [--seed 0]

A curve has 12 to 40 sizes over 2 to 5 decades and log-normal noise of 0.2 to 2 %; the sizes above the largest divided
by `reach` are hidden, and predicted. No published curve is used here, so that published ones stay a test.
"""

from __future__ import annotations

import argparse
import time

import numpy as np

from scaletut.scaling import RunTable, TableError, extrapolate, fit, simulate

SHAPES = ("power_floor", "shifted", "saturating", "broken")


def draw(generator: np.random.Generator) -> RunTable:
    """A random curve: law, parameters, sizes and noise."""
    law = str(generator.choice(SHAPES))
    decades, count = generator.uniform(2.0, 5.0), int(generator.integers(12, 41))
    x = 10 ** np.linspace(1.5, 1.5 + decades, count)
    alpha, top = generator.uniform(0.1, 0.8), generator.choice([0.9, generator.uniform(2.0, 8.0)])
    floor = top * 10 ** generator.uniform(-2.5, -0.3)
    middle = 10 ** (1.5 + decades * generator.uniform(0.1, 0.7))
    start = (top - floor) * x[0] ** alpha
    parameters = {
        "power_floor": {"E": floor, "A": start, "alpha": alpha},
        "shifted": {"E": floor, "A": (top - floor) * middle**alpha, "alpha": alpha, "x0": middle},
        "saturating": {
            "E": floor, "span": top - floor, "A": middle**alpha, "alpha": alpha, "gamma": generator.uniform(0.3, 2.0)
        },
        "broken": {
            "E": floor, "A": (top - floor) * x[0] ** (0.3 * alpha), "alpha": 0.3 * alpha,
            "change": 0.7 * alpha, "x_break": middle, "width": generator.uniform(0.3, 1.5),
        },
    }[law]  # fmt: skip
    noise, seed = 10 ** generator.uniform(-2.7, -1.7), int(generator.integers(1 << 30))
    return simulate(law, parameters, {"x": x}, noise="normal", scale=noise, seed=seed)


def errors(table: RunTable, reach: float) -> dict[str, float]:
    """Root mean square of the log error on the hidden sizes, by law and by vote."""
    seen = table.examples <= table.examples.max() / reach
    known, at, truth = table.take(seen), table.examples[~seen], table.loss[~seen]

    def miss(loss: np.ndarray) -> float:
        return float(np.sqrt(np.mean(np.log(loss / truth) ** 2)))

    found = {"vote": miss(extrapolate(known, at).loss)}
    for law in SHAPES:
        try:
            found[law] = miss(fit(known, law, starts=6).predict(at))
        except TableError:
            found[law] = np.nan
    return found


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--curves", type=int, default=60)
    options.add_argument("--reach", type=float, default=4.0)
    options.add_argument("--seed", type=int, default=0)
    given = options.parse_args()
    generator = np.random.default_rng(given.seed)
    curves = [draw(generator) for _ in range(given.curves)]
    rows = [errors(curve, given.reach) for curve in curves]
    started = time.perf_counter()
    for curve in curves[:20]:
        extrapolate(curve, np.array([curve.examples.max() * 2]))
    seconds = (time.perf_counter() - started) / min(20, len(curves))
    print(f"{given.curves} curves, reach {given.reach:g}: {seconds:.2f} s a vote")
    print(f"{'':<14}{'mean':>9}{'median':>9}{'worst':>9}")
    for name in rows[0]:
        values = np.array([row[name] for row in rows])
        print(f"{name:<14}{np.nanmean(values):>9.4f}{np.nanmedian(values):>9.4f}{np.nanmax(values):>9.4f}")


if __name__ == "__main__":
    main()
