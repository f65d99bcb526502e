"""Damped Newton with the exact Hessian, for a batch of fits that share their runs.

Near-L1 data (Huber 1e-3 against residuals of 1e-2) needs the true Hessian: the Gauss-Newton part sees only the few
runs inside Huber's zone. Negative curvature is turned to positive (Nocedal and Wright 2006, section 3.4), damping is
kept a fit, bounds are kept by projection, and finished fits leave the batch.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from scaletut.scaling.problem import Problem

STEPS = 300
CHUNK = 120_000  # fits x runs x derivatives at once, so that a chunk's arrays stay in the cache
LONGEST_STEP = 4.0  # in theta: a factor of 50 in a coefficient
SMALLEST_GAIN = 1e-17  # of the objective: what another step could still win, below rounding
ROUNDING = 2e-16  # of the objective
PERFECT = 1e-28  # a run: squared residuals at the rounding of a logarithm


@dataclass(frozen=True)
class Solution:
    """Where each fit of a batch ended: phi (b, f), objective (b,), finished by its own test (b,), steps taken."""

    phi: np.ndarray
    objective: np.ndarray
    finished: np.ndarray
    steps: int


def minimise(
    problem: Problem, phi: np.ndarray, weights: np.ndarray, *, steps: int = STEPS, gain: float = SMALLEST_GAIN
) -> Solution:
    """Minimise from phi (b, f), or from one (1, f) for all weights (b, n) or (1, n).

    gain: share of the objective that another step must promise; a larger one ends early, near the minimum.
    """
    count = max(len(phi), len(weights))
    phi = np.clip(np.broadcast_to(phi, (count, phi.shape[1])), problem.low, problem.high)
    many = len(weights) > 1
    size = problem.log_loss.size * (1 if problem.products else len(problem.coordinates.law.parameters) ** 2)
    rows = max(1, CHUNK // size)
    with np.errstate(all="ignore"):  # a trial step may stray; its objective is then infinite, and it is refused
        found = [
            _minimise(problem, phi[i : i + rows].copy(), weights[i : i + rows] if many else weights, steps, gain)
            for i in range(0, count, rows)
        ]
    return Solution(
        np.concatenate([part.phi for part in found]),
        np.concatenate([part.objective for part in found]),
        np.concatenate([part.finished for part in found]),
        max(part.steps for part in found),
    )


def _minimise(problem: Problem, phi: np.ndarray, weights: np.ndarray, steps: int, least: float) -> Solution:
    count = len(phi)
    weights = np.broadcast_to(weights, (count, weights.shape[1]))
    objective, finished = np.full(count, np.inf), np.zeros(count, dtype=bool)
    damping, alive = np.full(count, 1e-1), np.arange(count)
    tiny = PERFECT * weights.sum(1)
    taken = 0
    value, gradient, hessian = problem.expand(phi, weights)
    objective[:] = np.where(np.isfinite(value), value, np.inf)
    alive = alive[np.isfinite(value)]
    gradient, hessian = gradient[alive], hessian[alive]
    held = weights[alive]
    while alive.size and taken < steps:
        taken += 1
        step, gain = _step(problem, phi[alive], gradient, hessian, damping[alive])
        trial = np.clip(phi[alive] + step, problem.low, problem.high)
        value, new_gradient, new_hessian = problem.expand(trial, held)
        better = value <= objective[alive]
        done = gain <= least * objective[alive] + tiny[alive]
        # At a kink of Huber's loss the Hessian jumps and `gain` stays; a step that changes nothing says the same.
        done |= np.abs(value - objective[alive]) <= max(ROUNDING, least) * objective[alive]
        phi[alive[better]] = trial[better]
        objective[alive[better]] = value[better]
        gradient[better], hessian[better] = new_gradient[better], new_hessian[better]
        damping[alive] = np.where(better, damping[alive] * 0.1, np.maximum(damping[alive], 1e-7) * 8.0)
        damping[alive[damping[alive] < 1e-12]] = 0.0
        finished[alive[done]] = True
        keep = ~done & (damping[alive] < 1e12)
        if not keep.all():
            alive, gradient, hessian, held = alive[keep], gradient[keep], hessian[keep], held[keep]
    return Solution(phi, objective, finished, taken)


def _step(
    problem: Problem, phi: np.ndarray, gradient: np.ndarray, hessian: np.ndarray, damping: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The damped step (b, f), and what the undamped one would gain (b,)."""
    held = ((phi <= problem.low) & (gradient > 0)) | ((phi >= problem.high) & (gradient < 0))
    gradient = np.where(held, 0.0, gradient)
    free = ~held[:, :, None] & ~held[:, None, :]
    scale = np.sqrt(np.abs(np.einsum("bff->bf", hessian)))
    scale = np.where(scale > 0, scale, 1.0)
    scaled = np.where(free, hessian / (scale[:, :, None] * scale[:, None, :]), np.eye(phi.shape[1]))
    values, vectors = np.linalg.eigh(scaled)
    turned = np.einsum("bfe,bf->be", vectors, gradient / scale)
    curvature = np.maximum(np.abs(values), 1e-13)
    gain = 0.5 * (turned**2 / curvature).sum(1)
    step = -np.einsum("bfe,be->bf", vectors, turned / (curvature + damping[:, None])) / scale
    longest = np.abs(step).max(1, keepdims=True)
    return step * np.minimum(1.0, LONGEST_STEP / np.maximum(longest, 1e-300)), gain
