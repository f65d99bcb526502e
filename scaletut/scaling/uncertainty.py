"""How sure a fit is: bootstrap, standard errors, profiles, joint regions, influence, and coverage by simulation.

All of them are the same few thousand refits under other weights, pins or noise, warm-started from the fit.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from math import erf, exp, inf, log, nan, pi, sqrt
from statistics import NormalDist
from typing import Any, Literal

import numpy as np

from scaletut.scaling.coordinates import Coordinates
from scaletut.scaling.fitting import LARGEST_GRADIENT, Prepared, law_named, prepare, scaled_gradient, solve
from scaletut.scaling.newton import minimise
from scaletut.scaling.table import RunTable, TableError, as_table

NO_FLOOR = 1e-4  # of the lowest loss: a profile's smallest floor
Noise = Literal["normal", "laplace", "student"]


# --- bootstrap and standard errors ----------------------------------------------------


def resamples(table: RunTable, draws: int, seed: int) -> np.ndarray:
    """Integer weights (draws, n) of a pairs bootstrap (Efron 1979): whole groups where the table has them."""
    generator = np.random.default_rng(seed)
    groups = np.arange(len(table)) if table.group is None else np.unique(table.group, return_inverse=True)[1]
    count = int(groups.max()) + 1
    picked = generator.integers(0, count, size=(draws, count))
    counts = np.zeros((draws, count))
    np.add.at(counts, (np.arange(draws)[:, None], picked), 1.0)
    return counts[:, groups]


def bootstrap_samples(ready: Prepared, phi: np.ndarray, draws: int, seed: int) -> tuple[np.ndarray, int]:
    """Public parameters (draws - failed, p) of fits to resamples, and how many did not converge.

    phi: the fit (f,), from which each starts. Raises TableError where draws is below 2.
    """
    if draws < 2:
        raise TableError(f"bootstrap is {draws}; give at least 2 resamples, better 1000, or 0 for none")
    weights = resamples(ready.table, draws, seed) * ready.weights
    solution = minimise(ready.problem, phi[None], weights)
    gradient = scaled_gradient(ready, solution.phi, weights)
    good = np.isfinite(solution.objective) & (gradient <= LARGEST_GRADIENT)
    return ready.public(solution.phi[good]), int((~good).sum())


def sandwich(ready: Prepared, phi: np.ndarray) -> np.ndarray:
    """Standard errors (p,) of the public parameters: H^-1 (sum w^2 psi^2 J J') H^-1 (White 1982), then delta method."""
    problem = ready.problem
    jacobian, residuals = problem.jacobian(phi[None])[0], problem.residuals(phi[None])[0]
    pull = ready.weights * np.clip(residuals, -problem.delta, problem.delta)
    inverse = np.linalg.pinv(problem.expand(phi[None], ready.weights[None])[2][0], hermitian=True)
    covariance = inverse @ ((jacobian * pull**2) @ jacobian.T) @ inverse
    step = 1e-6 * np.eye(phi.size)
    slope = (ready.public(phi + step) - ready.public(phi - step)).T / 2e-6
    return np.sqrt(np.maximum(np.einsum("pf,fg,pg->p", slope, covariance, slope), 0.0))


# --- profiles ------------------------------------------------------------------------


@dataclass(frozen=True)
class Profile:
    """Lowest objective (m,) at each pinned value (m,) of a parameter, and the interval where it is not too high.

    low, high: ends of the likelihood-ratio interval at `level`; nan on a side where the runs set no bound.
    ratio: twice the log of the likelihood ratio to the best fit (m,), compared with chi-squared.
    """

    name: str
    values: np.ndarray
    objective: np.ndarray
    ratio: np.ndarray
    level: float
    low: float
    high: float


@dataclass(frozen=True)
class Region:
    """Ratio (m, k) over a grid of two pinned parameters; inside the joint region it is at most `limit`."""

    names: tuple[str, str]
    first: np.ndarray
    second: np.ndarray
    ratio: np.ndarray
    level: float
    limit: float


def profile(
    table: Any, law: str, name: str, *, points: int = 41, span: float = 4.0, level: float = 0.95, **options: Any
) -> Profile:
    """Profile likelihood of one parameter over `span` standard errors to each side.

    options: as of `fit` (loss, delta, fixed, ...). The likelihood is the one whose logarithm falls as the loss does,
    its scale profiled out, see `likelihood_ratio`. Raises TableError for an unknown name.
    """
    ready, phi, centre, error = _fitted(table, law, options)
    i = _position(ready, name)
    reach = span * _reach(error[i], centre[i])
    values = _spread(ready, i, centre[i], reach, points)
    objective = _pinned(ready, phi, [name], [(value,) for value in values], options)
    ratio = likelihood_ratio(ready, objective)
    limit = NormalDist().inv_cdf((1 + level) / 2) ** 2
    low, high = _crossing(values, ratio, limit, centre[i], side=-1), _crossing(values, ratio, limit, centre[i], side=1)
    return Profile(name, values, objective, ratio, level, low, high)


def profile_region(
    table: Any, law: str, names: tuple[str, str], *, points: int = 21, span: float = 3.5, level: float = 0.95,
    **options: Any,
) -> Region:  # fmt: skip
    """Joint likelihood-ratio region of two parameters on a grid of points x points. Raises TableError as `profile`."""
    ready, phi, centre, error = _fitted(table, law, options)
    axes = []
    for name in names:
        i = _position(ready, name)
        axes.append(_spread(ready, i, centre[i], span * _reach(error[i], centre[i]), points))
    pairs = [(a, b) for a in axes[0] for b in axes[1]]
    objective = _pinned(ready, phi, list(names), pairs, options)
    ratio = likelihood_ratio(ready, objective).reshape(points, points)
    return Region(names, axes[0], axes[1], ratio, level, -2 * log(1 - level))


def likelihood_ratio(ready: Prepared, objective: np.ndarray) -> np.ndarray:
    """Twice the log likelihood ratio (m,) of objectives (m,) to the lowest, under errors with density ~ exp(-c huber).

    The scale c is the most likely one for each: for a squared loss this is n log(S / S_min), for an absolute loss
    2 n log(S / S_min), and Huber's lies between.
    """
    runs = ready.weights.sum()
    best = np.array([log_likelihood(value / runs, ready.problem.delta) for value in objective])
    return np.maximum(2 * runs * (best.max() - best), 0.0)


def log_likelihood(mean: float, delta: float) -> float:
    """max over c of -log Z(c) - c mean, where Z is the integral of exp(-c huber): by golden section in log c."""
    if not np.isfinite(mean):
        return -inf
    mean = max(mean, 1e-300)
    if not np.isfinite(delta):
        return -0.5 * log(2 * pi * mean) - 0.5

    def value(log_c: float) -> float:
        c = exp(log_c)
        inside = sqrt(2 * pi / c) * erf(delta * sqrt(c / 2))
        return -log(inside + 2 * exp(-min(c * delta**2 / 2, 700.0)) / (c * delta)) - c * mean

    left, right, golden = -log(mean) - 3.0, -log(mean) + 3.0, (sqrt(5) - 1) / 2
    while right - left > 1e-9:
        a, b = right - golden * (right - left), left + golden * (right - left)
        left, right = (left, b) if value(a) > value(b) else (a, right)
    return value((left + right) / 2)


def _fitted(table: Any, law: str, options: Mapping[str, Any]) -> tuple[Prepared, np.ndarray, np.ndarray, np.ndarray]:
    ready = _ready(table, law, options)
    solution = solve(ready)
    phi = solution.phi[np.argmin(solution.objective)]
    samples, _ = bootstrap_samples(ready, phi, 200, 0)
    return ready, phi, ready.public(phi[None])[0], samples.std(0)


def _ready(table: Any, law: str, options: Mapping[str, Any]) -> Prepared:
    given = dict(options)
    reading = {name: given.pop(name) for name in ("columns", "cost") if name in given}
    kept = as_table(table, **reading).drop_highest(given.pop("drop_highest", 0))
    return prepare(kept, law_named(law).name, **given)


def _position(ready: Prepared, name: str) -> int:
    free = [ready.law.names[i] for i in ready.problem.constraint.free]
    if name not in free:
        raise TableError(f"{name!r} is not a free parameter of this fit; the free ones are {', '.join(free)}")
    return ready.law.index(name)


def _reach(error: float, centre: float) -> float:
    return error if error > 0 else 0.1 * abs(centre)


def _spread(ready: Prepared, i: int, centre: float, reach: float, points: int) -> np.ndarray:
    """Values around the fit, geometric where a coefficient's distance would cross zero."""
    parameter = ready.law.parameters[i]
    if parameter.role == "floor":  # from nearly none to nearly the lowest loss, as far as the reach goes
        lowest = float(ready.table.loss.min())
        reach = max(reach, 0.3 * lowest) if centre < 0.05 * lowest else reach
        low, high = max(centre - reach, NO_FLOOR * lowest), min(centre + reach, 0.999 * lowest)
        return np.linspace(low, max(high, low + 1e-3 * lowest), points)
    low = centre - reach
    if parameter.kind == "log" and low <= 0.05 * centre:
        return centre * np.exp(np.linspace(-1, 1, points) * log(1 + reach / centre))
    return np.clip(centre + np.linspace(-reach, reach, points), max(parameter.low, 1e-9), parameter.high)


def _pinned(
    ready: Prepared, phi: np.ndarray, names: list[str], points: list[tuple[float, ...]], options: Mapping[str, Any]
) -> np.ndarray:
    """Lowest objective at each of the points, each started from the best fit's other parameters and its neighbour's."""
    kept = {name: options[name] for name in ("loss", "delta", "weights", "tied") if name in options}
    found, theta = [], ready.problem.constraint.theta(phi[None])
    near = theta
    for point in points:
        fixed = dict(options.get("fixed") or {}) | dict(zip(names, map(float, point), strict=True))
        one = prepare(ready.table, ready.law.name, fixed=fixed, x=ready.x, **kept)
        free = list(one.problem.constraint.free)
        solution = minimise(one.problem, np.concatenate([theta, near])[:, free], one.weights[None])
        best = int(np.argmin(solution.objective))
        near = one.problem.constraint.theta(solution.phi[[best]])
        found.append(solution.objective[best])
    return np.array(found)


def _crossing(values: np.ndarray, ratio: np.ndarray, limit: float, centre: float, side: int) -> float:
    """Where the ratio first exceeds the limit on one side of the fit, by linear interpolation; nan if it never does."""
    order = np.argsort(side * values)
    walk = [j for j in order if side * (values[j] - centre) >= 0]
    for before, after in itertools.pairwise(walk):
        if ratio[before] <= limit < ratio[after]:
            share = (limit - ratio[before]) / (ratio[after] - ratio[before])
            return float(values[before] + share * (values[after] - values[before]))
    return nan


# --- influence -----------------------------------------------------------------------


@dataclass(frozen=True)
class Influence:
    """A quantity of the fit: with all runs, without each part, and without the k highest losses, k = 0, 1, ...

    labels: the parts left out (m,): row numbers, or the values of a column. without: (m,). highest: (k + 1,).
    """

    base: float
    labels: np.ndarray
    without: np.ndarray
    highest: np.ndarray

    @property
    def shifts(self) -> np.ndarray:
        """without - base (m,)."""
        return self.without - self.base


def influence(
    table: Any,
    law: str,
    quantity: Callable[[np.ndarray], np.ndarray],
    *,
    by: str = "",
    highest: int = 0,
    **options: Any,
) -> Influence:
    """What a quantity becomes without each run, or with `by` without each value of a column (a size, a budget).

    quantity: from public parameters (b, p) to (b,), as `lambda p: p[:, 3] / (p[:, 3] + p[:, 4])`.
    highest: also leave out the 0, 1, ... `highest` highest losses together, each fitted anew from the grid.
    options: as of `fit`.
    """
    ready = _ready(table, law, options)
    solution = solve(ready)
    phi = solution.phi[[np.argmin(solution.objective)]]
    parts = np.arange(len(ready.table)) if not by else ready.table.column(by)
    labels = np.unique(parts)
    weights = ready.weights * (parts[None, :] != labels[:, None])
    without = quantity(ready.public(minimise(ready.problem, phi, weights).phi))
    order = np.argsort(-ready.table.loss, kind="stable")
    fewer = []
    for count in range(highest + 1 if highest else 0):
        kept = ready.weights.copy()
        kept[order[:count]] = 0.0
        part = solve(replace(ready, weights=kept))
        fewer.append(quantity(ready.public(part.phi[[np.argmin(part.objective)]]))[0])
    return Influence(float(quantity(ready.public(phi))[0]), labels, np.asarray(without), np.array(fewer))


# --- coverage ------------------------------------------------------------------------


@dataclass(frozen=True)
class Coverage:
    """How often an interval of nominal `level` held the truth, by parameter, over `tables` simulated tables."""

    noise: str
    level: float
    tables: int
    share: Mapping[str, float]


def simulate(
    law: str, parameters: Mapping[str, float], columns: Mapping[str, np.ndarray], *, noise: Noise, scale: float,
    seed: int,
) -> RunTable:  # fmt: skip
    """A run table whose losses follow the law, times exp(noise of standard deviation `scale`).

    columns: of the law's variables (n,). noise: normal, laplace, or student (three degrees of freedom).
    """
    chosen = law_named(law)
    columns = {name: np.asarray(columns[name], dtype=float) for name in chosen.variables}
    vector = np.array([[parameters[name] for name in chosen.names]])
    clean = Coordinates.of(chosen, columns).log_loss(vector, columns)[0]
    errors = scale * _unit_noise(noise, clean.size, np.random.default_rng(seed))
    named = {"examples" if name == "x" else name: values for name, values in columns.items()}
    return RunTable(loss=np.exp(clean + errors), **named)


def _unit_noise(noise: Noise, size: int, generator: np.random.Generator) -> np.ndarray:
    if noise == "normal":
        return generator.normal(size=size)
    if noise == "laplace":
        return generator.laplace(size=size) / sqrt(2)
    if noise == "student":
        return generator.standard_t(3, size=size) / sqrt(3)
    raise TableError(f"unknown noise {noise!r}; it is normal, laplace or student")


def coverage(
    law: str, parameters: Mapping[str, float], columns: Mapping[str, np.ndarray], *, noise: Noise, scale: float,
    tables: int = 200, draws: int = 400, level: float = 0.9, seed: int = 0, **options: Any,
) -> Coverage:  # fmt: skip
    """Simulate tables, fit and bootstrap each, and count how often the percentile interval holds the truth."""
    names = law_named(law).names
    held = np.zeros(len(names))
    truth = np.array([parameters[name] for name in names])
    for number in range(tables):
        table = simulate(law, parameters, columns, noise=noise, scale=scale, seed=seed + number)
        ready = prepare(table, law, **options)
        solution = solve(ready, starts=2)
        samples, _ = bootstrap_samples(ready, solution.phi[np.argmin(solution.objective)], draws, seed + number)
        low, high = np.quantile(samples, [(1 - level) / 2, (1 + level) / 2], axis=0)
        held += (low <= truth) & (truth <= high)
    return Coverage(noise, level, tables, dict(zip(names, (held / tables).tolist(), strict=True)))
