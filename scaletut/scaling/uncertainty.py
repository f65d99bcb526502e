"""How sure a fit is: bootstrap, standard errors."""

from __future__ import annotations

import numpy as np

from scaletut.scaling.fit import LARGEST_GRADIENT, Prepared, scaled_gradient, solve
from scaletut.scaling.jets import Array
from scaletut.scaling.newton import Solution, minimise
from scaletut.scaling.table import RunTable


def resamples(table: RunTable, draws: int, seed: int) -> Array:
    """Integer weights (draws, n) of a pairs bootstrap: whole groups where the table has them (Efron 1979)."""
    generator = np.random.default_rng(seed)
    size = len(table)
    groups = np.arange(size) if table.group is None else np.unique(table.group, return_inverse=True)[1]
    count = groups.max() + 1
    picked = generator.integers(0, count, size=(draws, count))
    counts = np.zeros((draws, count))
    np.add.at(counts, (np.arange(draws)[:, None], picked), 1.0)
    return counts[:, groups]


def refit(ready: Prepared, phi: Array, weights: Array) -> Solution:
    """Fits under each row of weights (b, n), warm-started from phi (f,); those that stall start again from the grid."""
    return minimise(ready.problem, phi[None], weights)


def bootstrap_samples(ready: Prepared, phi: Array, draws: int, seed: int) -> tuple[Array, int]:
    """Public parameters (draws - failed, p) of resampled fits, and how many failed."""
    weights = resamples(ready.table, draws, seed) * ready.weights
    solution = refit(ready, phi, weights)
    good = np.isfinite(solution.objective) & (scaled_gradient(ready, solution.phi, weights) <= LARGEST_GRADIENT)
    return ready.public(solution.phi[good]), int((~good).sum())


def sandwich(ready: Prepared, phi: Array) -> Array:
    """Standard errors (p,) of the public parameters: H^-1 (sum w^2 psi^2 J J') H^-1 (White 1982), by the delta method."""
    problem = ready.problem
    jacobian = problem.jacobian(phi[None])[0]
    residuals = problem.residuals(phi[None])[0]
    pull = ready.weights * np.clip(residuals, -problem.delta, problem.delta)
    hessian = problem.expand(phi[None], ready.weights[None])[2][0]
    inverse = np.linalg.pinv(hessian, hermitian=True)
    covariance = inverse @ ((jacobian * pull**2) @ jacobian.T) @ inverse
    step = 1e-6
    slope = np.stack([(ready.public((phi + step * e)[None]) - ready.public((phi - step * e)[None]))[0] / (2 * step) for e in np.eye(phi.size)], axis=1)
    return np.sqrt(np.maximum(np.einsum("pf,fg,pg->p", slope, covariance, slope), 0.0))
