"""The fitter against what others do, on the Chinchilla table (or a simulated one): time, objective, standard errors.

    OMP_NUM_THREADS=1 python benchmarks/scaling_fit.py [--repeats 15] [--sampled 40] [--chinchilla VENV/bin/python]

Rivals, interleaved with ours in one process on one core: scipy's BFGS with an analytic gradient from the 4,500 starts
of Hoffmann et al. 2022 (a sample of them, times 4,500 over the sample), one BFGS run a bootstrap sample (again a
sample), and on request the package `chinchilla` from PyPI, in an environment of its own (a sample of its starts).
Reads $SCALETUT_DATA/scaling/svg_extracted_data.csv; without it, runs simulated from the published coefficients.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from scipy.optimize import minimize

from scaletut.scaling import RunTable, as_table, fit, simulate
from scaletut.scaling.fitting import prepare, solve
from scaletut.scaling.newton import minimise

DELTA = 1e-3
PUBLISHED = {"E": 1.817218, "A": 477.826, "B": 2143.417, "alpha": 0.347310, "beta": 0.367172}
STARTS = list(itertools.product(np.arange(0, 30, 5.0), np.arange(0, 30, 5.0), np.arange(-1, 1.5, 0.5),
                                np.arange(0, 2.5, 0.5), np.arange(0, 2.5, 0.5)))  # fmt: skip


def runs() -> tuple[RunTable, str]:
    """The 240 runs of Besiroglu et al. 2024, or as many simulated ones."""
    path = Path(os.environ.get("SCALETUT_DATA", "")) / "scaling" / "svg_extracted_data.csv"
    if path.is_file():
        roles = {"params": "Model Size", "flops": "Training FLOP"}
        return as_table(path, columns=roles, cost="6ND").drop_highest(5), "published runs"
    generator = np.random.default_rng(0)
    columns = {"params": 10 ** generator.uniform(7.7, 10.1, 240), "examples": 10 ** generator.uniform(8.5, 11.5, 240)}
    return simulate("additive", PUBLISHED, columns, noise="laplace", scale=0.01, seed=0), "SIMULATED runs"


def objective(table: RunTable, weights: np.ndarray) -> Callable[[np.ndarray], tuple[float, np.ndarray]]:
    """Huber of log residuals with its gradient in (a, b, e, alpha, beta), written plainly, for scipy."""
    n, d, y = np.log(table.params), np.log(table.examples), np.log(table.loss)

    def value(theta: np.ndarray) -> tuple[float, np.ndarray]:
        a, b, e, alpha, beta = theta
        terms = np.stack([a - alpha * n, b - beta * d, np.full_like(n, e)])
        top = terms.max(0)
        shares = np.exp(terms - top)
        total = shares.sum(0)
        residual = top + np.log(total) - y
        shares /= total
        clipped = np.clip(residual, -DELTA, DELTA)
        pull = weights * clipped
        slopes = [-(pull * n) @ shares[0], -(pull * d) @ shares[1]]
        return float(np.sum(pull * (residual - clipped / 2))), np.array([*(pull @ shares.T), *slopes])

    return value


def bfgs(table: RunTable, weights: np.ndarray, start: np.ndarray) -> float:
    """The objective where scipy's BFGS ends."""
    return float(minimize(objective(table, weights), start, jac=True, method="BFGS", options={"maxiter": 2000}).fun)


def timed(call: Callable[[], object]) -> float:
    """Seconds of processor time, which a busy neighbour disturbs least."""
    started = time.process_time()
    call()
    return time.process_time() - started


def point_fits(table: RunTable, repeats: int, sampled: int) -> None:
    """One fit of ours, against the grid of starts."""
    ones = np.ones(len(table))
    generator = np.random.default_rng(0)
    picked = [np.array(STARTS[i]) for i in generator.choice(len(STARTS), sampled, replace=False)]
    fit(table, "additive")  # warm
    ours, theirs, ends = [], [], []
    for number in range(max(repeats, sampled)):
        if number < repeats:
            ours.append(timed(lambda: fit(table, "additive")))
        if number < sampled:
            theirs.append(timed(lambda start=picked[number]: ends.append(bfgs(table, ones, start))))
    mine, grid = statistics.median(ours), 4500 * statistics.mean(theirs)
    lowest = fit(table, "additive").objective
    reached = np.mean(np.array(ends) <= lowest * (1 + 1e-6))
    print(f"point fit        {1e3 * mine:8.1f} ms (median of {repeats}); objective {lowest:.14g}")
    share = f"from {sampled} starts; {reached:.0%} of them reach the minimum"
    print(f"grid of 4,500    {grid:8.1f} s  ({share}): {grid / mine:,.0f}x")


def bootstraps(table: RunTable, sampled: int) -> None:
    """4,000 resamples at once, against one BFGS run each, on the resamples of Besiroglu et al."""
    np.random.seed(42)  # noqa: NPY002 - their protocol
    picked = [np.random.choice(len(table), len(table), replace=True) for _ in range(4000)]  # noqa: NPY002
    weights = np.stack([np.bincount(rows, minlength=len(table)) for rows in picked]).astype(float)
    ready = prepare(table, "additive")
    best = solve(ready)
    phi = best.phi[[np.argmin(best.objective)]]
    found = []
    seconds = [timed(lambda: found.append(minimise(ready.problem, phi, weights))) for _ in range(3)]
    public = ready.public(found[0].phi)
    names = ready.law.names
    start = np.log(public.mean(0)[[1, 2, 0]])
    start = np.concatenate([start, np.median(public, 0)[[3, 4]]])
    ends, each = [], []
    for row in weights[:sampled]:
        each.append(timed(lambda row=row: ends.append(bfgs(table, row, start))))
    worse = int(np.sum(found[0].objective[:sampled] > np.array(ends) * (1 + 1e-9)))
    mine, theirs = statistics.median(seconds), 4000 * statistics.mean(each)
    print(f"4,000 resamples  {mine:8.2f} s  (median of 3); worse than BFGS in {worse} of {sampled}")
    print(f"one BFGS each    {theirs:8.1f} s  (from {sampled}): {theirs / mine:,.0f}x")
    errors = dict(zip(names, public.std(0), strict=True))
    print("standard errors ", ", ".join(f"{name} {errors[name]:.5g}" for name in ("A", "B", "E", "alpha", "beta")))
    for row in public[:3]:
        print("  first samples ", ", ".join(f"{name} {value:.6g}" for name, value in zip(names, row, strict=True)))


CHINCHILLA = """
import contextlib, functools, io, json, sys, tempfile, time
import pandas as pd
from chinchilla import Chinchilla
from chinchilla._metrics import log_huber
columns = json.load(sys.stdin)
with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
    pd.DataFrame(columns).to_csv(folder + "/df.csv", index=False)
    grid = {"E": [1.0, 1.7], "A": [100.0, 1000.0], "B": [100.0, 1000.0], "alpha": [0.3, 0.5],
            "beta": [0.3, 0.5]}
    loss = functools.partial(log_huber, delta=1e-3)
    model = Chinchilla(folder, param_grid=grid, loss_fn=loss, log_level=50)
    started = time.process_time()
    model.fit(parallel=False, simulation=False)
    seconds = time.process_time() - started
found = {name: float(getattr(model, name)) for name in ("A", "B", "E", "alpha", "beta")}
print(json.dumps({"seconds": seconds, "parameters": found}))
"""
GRID = 32  # starts of the grid above


def chinchilla_package(table: RunTable, python: str) -> None:
    """PyPI's `chinchilla` in an environment of its own, from 32 starts, scaled to 4,500; skipped, and said so."""
    if not python:
        print("PyPI chinchilla  SKIPPED: name an interpreter that has it, --chinchilla VENV/bin/python")
        return
    columns = {"C": 6 * table.params * table.examples, "N": table.params, "D": table.examples, "loss": table.loss}
    text = json.dumps({name: column.tolist() for name, column in columns.items()})
    done = subprocess.run([python, "-c", CHINCHILLA], input=text, capture_output=True, text=True, check=False)
    if done.returncode:
        print(f"PyPI chinchilla  FAILED: {done.stderr.strip().splitlines()[-1]}")
        return
    told = json.loads(done.stdout)
    words = ", ".join(f"{name} {value:.5g}" for name, value in told["parameters"].items())
    print(f"PyPI chinchilla  {told['seconds'] * 4500 / GRID:8.1f} s  (from {GRID} of 4,500 starts; {words})")


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--repeats", type=int, default=15)
    options.add_argument("--sampled", type=int, default=40)
    options.add_argument("--chinchilla", default="", metavar="PYTHON", help="also time PyPI's package, installed there")
    given = options.parse_args()
    table, kind = runs()
    print(f"{len(table)} {kind}, Huber {DELTA:g}, processor time of one core; load {os.getloadavg()[0]:.1f}")
    point_fits(table, given.repeats, given.sampled)
    bootstraps(table, given.sampled)
    chinchilla_package(table, given.chinchilla)


if __name__ == "__main__":
    main()
