"""Where a fit starts: variable projection over a grid of exponents, so that no start is made by hand.

Given the exponents, the coefficients follow from non-negative least squares on the relative residual (Golub and
Pereyra 1973): a few unknowns a grid point, solved for all points at once.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import numpy as np

from scaletut.scaling.problem import Problem

FAINT = 0.05  # share of the loss that stands for a coefficient of zero, whose logarithm no step could leave


def starting_points(
    problem: Problem, weights: np.ndarray, shapes: Mapping[str, np.ndarray] | None = None
) -> np.ndarray:
    """phi (g, f) for every point of the law's grid, or of `shapes` {parameter: (g,)}, best fit of coefficients in each.

    weights: of the runs (n,).
    """
    law, constraint = problem.coordinates.law, problem.constraint
    matrix, offset = problem.coordinates.affine()
    shapes = dict(shapes or law.shapes(problem.inputs, problem.log_loss))
    for name, value in constraint.pinned.items():
        if name in shapes:
            raw = np.log(value) if law.parameters[law.index(name)].kind == "log" else value
            shapes[name] = np.full_like(shapes[name], raw - offset[law.index(name)])
    for first, second in constraint.tied:
        if first in shapes and second in shapes:
            shapes[second] = shapes[first]
    points = np.unique(np.stack(list(shapes.values()), axis=1), axis=0)
    shapes = dict(zip(shapes, points.T, strict=True))
    theta = np.zeros((len(points), len(law.parameters)))
    for name, values in shapes.items():
        theta[:, law.index(name)] = values
    known = {}
    for name in set(law.linear) & set(constraint.pinned):
        i = law.index(name)
        theta[:, i] = np.log(constraint.pinned[name]) - offset[i] - (theta @ matrix[i] - theta[:, i])
        known[law.linear.index(name)] = theta[:, i]
    logs = law.basis(shapes, problem.inputs) - law.transform(shapes, problem.log_loss)[:, None, :]
    theta[:, [law.index(name) for name in law.linear]] = _coefficients(logs, weights, known)
    return np.clip(theta[:, list(constraint.free)], problem.low, problem.high)


def _coefficients(logs: np.ndarray, weights: np.ndarray, known: Mapping[int, np.ndarray]) -> np.ndarray:
    """Log coefficients (g, k) that bring the sum of c_k exp(logs_k) (g, k, n) nearest to one."""
    tops = logs.max(axis=2)
    rows = np.exp(np.maximum(logs - tops[:, :, None], -600.0)) * np.sqrt(weights)
    target = np.broadcast_to(np.sqrt(weights), (len(logs), logs.shape[2])).copy()
    for k, value in known.items():
        target -= np.exp(np.clip(value + tops[:, k], -600, 600))[:, None] * rows[:, k]
    gram, right = rows @ rows.swapaxes(1, 2), np.einsum("gkn,gn->gk", rows, target)
    best = np.full(right.shape, np.log(FAINT))
    least = np.full(len(right), np.inf)
    unknown = [k for k in range(logs.shape[1]) if k not in known]
    subsets = [list(s) for size in range(len(unknown), 0, -1) for s in itertools.combinations(unknown, size)]
    left = np.arange(len(logs))  # points whose best coefficients are not all positive, and so not yet known
    for subset in subsets:
        block = gram[left][:, subset][:, :, subset]
        ridge = 1e-13 * np.einsum("gii->g", block)[:, None, None] * np.eye(len(subset)) + 1e-290 * np.eye(len(subset))
        target = right[left][:, subset]
        found = np.linalg.solve(block + ridge, target[..., None])[..., 0]
        rest = -(found * target).sum(1)
        better = (found > 0).all(1) & (rest < least[left])
        chosen = left[better]
        least[chosen] = rest[better]
        best[chosen] = np.log(FAINT)
        best[np.ix_(chosen, subset)] = np.log(np.maximum(found[better], 1e-300))
        if len(subset) == len(unknown):
            left = left[~better]
    best = best - tops
    for k, value in known.items():
        best[:, k] = value
    return best
