"""Where a learning curve goes: the average over all curves that its past allows, heavier the better they meet it.

One law, fitted, extrapolates as if its exponents were known. Short or flat curves do not know them, and the law that
meets the past best is often far off in the future. So here the parameters are drawn from their posterior instead, and
the forecast is the mean of the log loss over the draws, which is what has the least expected square error in the log.
The family holds most laws of this room: a power of x with one smooth break (without: a plain power; with a flat
beginning: the shifted law, and a curve that leaves its chance level), on a floor. Its prior keeps exponents and floors
in the range that published curves show, which is what stops wild extrapolations; no other cap is needed.

Drawn by sequential Monte Carlo (Del Moral, Doucet and Jasra 2006): draws of the prior, the likelihood let in by
degrees, resampling and a few Metropolis steps at each. The numbers of the prior and of the likelihood were set on
simulated and `zipf10` curves only (benchmarks/scaling_curves.py); around them the mean error is flat.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from scaletut.scaling.jets import sigmoid_values
from scaletut.scaling.table import TableError

DRAWS = 1500
MOVES = 6  # Metropolis steps at each temperature; three, at half as many temperatures, left 8 % more error
KEPT = 0.7  # share of the draws that must still count before they are resampled
STEP_SIZES = (0.3, 0.8)  # of the draws' own spread; five dimensions accept about a quarter at these
# Prior, each shape parameter from a standard normal variable.
NO_FLOOR, FLOOR_BEND = 0.25, 1.5  # chance of no floor; above, shares of the last loss, small ones likelier
EXPONENT, EXPONENT_SPREAD = 0.6, 0.9  # median and log spread of the exponent at the curve's end
BREAK_SIZE, NO_BREAK = 0.6, 0.5  # spread of a break in exponent; normal deviates within NO_BREAK make none
BEYOND = 0.5  # e-folds past the last run where a break may still lie
WIDTH_SPREAD = 0.6  # log spread of a break's width around one e-fold
# Likelihood.
FIRST, POWER = 0.1, 2.0  # weight of the first run, that of the last being 1, and how it rises with log x in between
TRUST = 3.0  # exponent of the likelihood; neighbouring runs of a smooth curve say the same, yet 1 trusts the prior more
ERROR_OF_FAMILY = 0.003  # log loss: no curve follows the family more closely
# A band as wide as the posterior says held 71 % at a nominal 90 % on simulated curves, most of which are not of the
# family; 1.8 times as wide it held 85 to 92 % by seed. Widening each curve by its own back-test instead did no better.
WIDER = 1.8
FEWEST = 3


@dataclass(frozen=True)
class Forecast:
    """Draws of a curve's posterior.

    draws: (m, 7), level of the curve at its end, standard normal variables of the shape (5), noise, both in log loss.
    end, span: log x of the largest run, and its distance to the smallest.
    """

    draws: np.ndarray
    end: float
    span: float

    def predict(self, at: np.ndarray) -> np.ndarray:
        """Predicted loss (n,) at x (n,)."""
        return np.exp(self._log_loss(at).mean(axis=0))

    def interval(
        self, at: np.ndarray, level: float, *, noise: bool = True, seed: int = 0
    ) -> tuple[np.ndarray, np.ndarray]:
        """Low and high (n,) at x (n,) of a new run's loss, or without `noise` of the curve itself."""
        found = self._log_loss(at)
        centre = found.mean(axis=0)
        if noise:
            found = found + self.draws[:, -1:] * np.random.default_rng(seed).normal(size=found.shape)
        low, high = np.quantile(found - centre, [(1 - level) / 2, (1 + level) / 2], axis=0)
        # Skewed draws of a curve without noise can leave their own mean outside.
        return np.exp(centre + WIDER * np.minimum(low, 0.0)), np.exp(centre + WIDER * np.maximum(high, 0.0))

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        rounded = [[float(f"{value:.6g}") for value in row] for row in self.draws]
        return {"draws": rounded, "end": self.end, "span": self.span}

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Forecast:
        """The forecast of `to_dict`."""
        return cls(np.array(plain["draws"], dtype=float), float(plain["end"]), float(plain["span"]))

    def _log_loss(self, at: np.ndarray) -> np.ndarray:
        distance = np.log(np.asarray(at, dtype=float)) - self.end
        return self.draws[:, :1] + log_shape(self.draws[:, 1:-1], distance, self.span)


def forecast(x: np.ndarray, loss: np.ndarray, *, draws: int = DRAWS, seed: int = 0) -> Forecast:
    """Draw the posterior of a curve with losses (n,) at x (n,), all above 0.

    Raises TableError for fewer than three different x.
    """
    if len(np.unique(x)) < FEWEST:
        raise TableError(f"a curve needs at least {FEWEST} runs of different scale to be extrapolated; add runs")
    past = _Past.of(np.log(x), np.log(loss))
    generator = np.random.default_rng(seed)
    particles = _Particles.at(generator.normal(size=(2 * draws, 5)), past)
    heat = 0.0
    while heat < 1.0:
        rise = _rise(particles.score, 1.0 - heat)
        heat += rise
        particles = particles.take(_resampled(rise * particles.score, draws, generator))
        for _ in range(MOVES):
            particles = _moved(particles, past, heat, generator)
    noise = np.sqrt(particles.square + ERROR_OF_FAMILY**2)
    return Forecast(np.column_stack([particles.level, particles.shape, noise]), past.end, past.span)


def log_shape(normal: np.ndarray, distance: np.ndarray, span: float) -> np.ndarray:
    """Log loss (m, n) relative to that at distance 0, from standard normal variables (m, 5).

    distance: log x beyond the last run (n,). span: e-folds of x from the first run to the last.
    """
    uniform = np.clip((_uniform(normal[:, 0]) - NO_FLOOR) / (1 - NO_FLOOR), 0.0, 1.0)
    floor = (1 - (1 - uniform) ** (1 / FLOOR_BEND))[:, None]
    late = EXPONENT * np.exp(EXPONENT_SPREAD * normal[:, 1])[:, None]
    change = np.sign(normal[:, 2]) * np.maximum(np.abs(normal[:, 2]) - NO_BREAK, 0.0)
    early = late + BREAK_SIZE * change[:, None]
    place = (_uniform(normal[:, 3]) * (span + BEYOND) - span)[:, None]
    width = np.exp(WIDTH_SPREAD * normal[:, 4])[:, None]
    bend = width * (_softplus((distance - place) / width) - _softplus(-place / width))
    power = -early * distance - (late - early) * bend
    return np.log(floor + (1 - floor) * np.exp(np.clip(power, -50.0, 50.0)) + 1e-300)


def _uniform(normal: np.ndarray) -> np.ndarray:
    """From a standard normal to a uniform variable, within 0.01: scipy.special's would double the room's import."""
    return sigmoid_values(1.702 * normal)


def _softplus(y: np.ndarray) -> np.ndarray:
    return np.maximum(y, 0.0) + np.log1p(np.exp(-np.abs(y)))


@dataclass(frozen=True)
class _Past:
    """A curve's runs: log x beyond the last (n,), log loss (n,), weights (n,) that sum to `total`."""

    distance: np.ndarray
    log_loss: np.ndarray
    weights: np.ndarray
    total: float
    end: float
    span: float

    @classmethod
    def of(cls, log_x: np.ndarray, log_loss: np.ndarray) -> _Past:
        end, span = float(log_x.max()), float(np.ptp(log_x))
        distance = log_x - end
        weights = FIRST + (1 - FIRST) * (1 + distance / span) ** POWER
        return cls(distance, log_loss, weights / weights.sum(), float(weights.sum()), end, span)


@dataclass(frozen=True)
class _Particles:
    """shape: standard normal variables (m, 5). score: log likelihood (m,). level, square: best level, mean square."""

    shape: np.ndarray
    score: np.ndarray
    level: np.ndarray
    square: np.ndarray

    @classmethod
    def at(cls, shape: np.ndarray, past: _Past) -> _Particles:
        """The level has its most likely value; the noise's scale likewise, but not below the family's own error."""
        rest = past.log_loss - log_shape(shape, past.distance, past.span)
        level = rest @ past.weights
        square = (rest - level[:, None]) ** 2 @ past.weights
        score = -0.5 * TRUST * past.total * np.log(square + ERROR_OF_FAMILY**2)
        return cls(shape, score, level, square)

    def take(self, rows: np.ndarray) -> _Particles:
        return _Particles(self.shape[rows], self.score[rows], self.level[rows], self.square[rows])

    def where(self, other: _Particles, chosen: np.ndarray) -> _Particles:
        """The other's particles where `chosen` (m,), these elsewhere."""
        return _Particles(
            np.where(chosen[:, None], other.shape, self.shape), np.where(chosen, other.score, self.score),
            np.where(chosen, other.level, self.level), np.where(chosen, other.square, self.square),
        )  # fmt: skip


def _rise(score: np.ndarray, most: float) -> float:
    """The largest rise of the likelihood's exponent after which KEPT of the draws still count (effective number)."""

    def counted(rise: float) -> float:
        weights = np.exp(rise * (score - score.max()))
        return float(weights.sum() ** 2 / (weights**2).sum())

    if counted(most) >= KEPT * len(score):
        return most
    low, high = 0.0, most
    for _ in range(30):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if counted(middle) >= KEPT * len(score) else (low, middle)
    return high


def _resampled(log_weights: np.ndarray, count: int, generator: np.random.Generator) -> np.ndarray:
    """Row numbers (count,), by systematic resampling."""
    weights = np.exp(log_weights - log_weights.max())
    edges = np.cumsum(weights) / weights.sum()
    return np.minimum(np.searchsorted(edges, (np.arange(count) + generator.random()) / count), len(weights) - 1)


def _moved(particles: _Particles, past: _Past, heat: float, generator: np.random.Generator) -> _Particles:
    """One Metropolis step of each particle, by normal steps of the particles' own covariance."""
    shape = particles.shape
    spread = np.linalg.cholesky(np.cov(shape.T) + 1e-4 * np.eye(shape.shape[1]))
    sizes = generator.choice(STEP_SIZES, size=(len(shape), 1))
    tried = _Particles.at(shape + sizes * (generator.normal(size=shape.shape) @ spread.T), past)
    gain = heat * (tried.score - particles.score)
    gain += 0.5 * ((shape**2).sum(axis=1) - (tried.shape**2).sum(axis=1))
    return particles.where(tried, np.log(generator.random(len(shape))) < gain)
