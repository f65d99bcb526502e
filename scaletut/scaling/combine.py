"""Laws in N and D that predict together, with a band as wide as their own back-test's misses say.

A bootstrap's band knows the noise of the runs and takes the law for true. A back-test also sees how far the law leads
astray: its misses, against how far beyond the seen runs they lie, set the width here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from scaletut.scaling.coordinates import Coordinates
from scaletut.scaling.laws import LAWS

DRIFTS = np.geomspace(1e-4, 1.0, 81)  # log loss per e-fold of N x D beyond the runs: from none to a useless law


@dataclass(frozen=True)
class Combination:
    """One law in N and D, or several that are averaged in log loss.

    weights: by law, they sum to 1. parameters: public values by law. edge: log of the largest N x D fitted.
    noise: log loss of a run about the law. drift: log loss by which the law strays per e-fold of N x D beyond the edge.
    freedom: independent misses behind the drift, one a horizon of the back-test.
    """

    weights: Mapping[str, float]
    parameters: Mapping[str, Mapping[str, float]]
    edge: float
    noise: float
    drift: float
    freedom: int

    def predict(self, columns: Mapping[str, np.ndarray]) -> np.ndarray:
        """Predicted loss (n,) at columns params and examples (n,)."""
        total = np.zeros(len(columns["params"]))
        for name, weight in self.weights.items():
            vector = np.array([[self.parameters[name][key] for key in LAWS[name].names]])
            total += weight * Coordinates.of(LAWS[name], columns).log_loss(vector, columns)[0]
        return np.exp(total)

    def band(self, columns: Mapping[str, np.ndarray], level: float) -> tuple[np.ndarray, np.ndarray]:
        """Low and high (n,) of a new run's loss: Student's t about the prediction, wider the farther out."""
        from scipy.special import stdtrit  # slow to import, and seldom wanted

        beyond = np.maximum(np.log(columns["params"]) + np.log(columns["examples"]) - self.edge, 0.0)
        width = stdtrit(self.freedom, (1 + level) / 2) * np.hypot(self.noise, self.drift * beyond)
        loss = self.predict(columns)
        return loss * np.exp(-width), loss * np.exp(width)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        parameters = {name: dict(values) for name, values in self.parameters.items()}
        return {name: getattr(self, name) for name in self.__dataclass_fields__} | {
            "weights": dict(self.weights), "parameters": parameters,
        }  # fmt: skip


def drift_of(errors: np.ndarray, beyond: np.ndarray, noise: float, independent: int = 0) -> float:
    """The drift, per e-fold, behind back-test errors (m,) at e-folds `beyond` the runs then seen (m,).

    Root mean square over all drifts by their likelihood, each order of magnitude alike before: a back-test that looks a
    short way ahead cannot exclude a drift that matters far out, and the likeliest one may be none at all.
    independent: how many of the errors are; the runs that one fit predicts share that fit's miss. 0: all.
    """
    variance = noise**2 + (DRIFTS[:, None] * beyond) ** 2 + 1e-300
    log_likelihood = -0.5 * (np.log(variance) + errors**2 / variance).sum(axis=1)
    weight = (independent or len(errors)) / len(errors)
    chance = np.exp(weight * (log_likelihood - log_likelihood.max()))
    return float(np.sqrt(np.average(DRIFTS**2, weights=chance)))


def shares(mean_squares: Mapping[str, float]) -> dict[str, float]:
    """Weights of laws, as 1 / mean square error squared: a law twice as far off counts a sixteenth."""
    raw = {name: 1 / (value + 1e-12) ** 2 for name, value in mean_squares.items() if np.isfinite(value)}
    total = sum(raw.values())
    return {name: value / total for name, value in raw.items()}
