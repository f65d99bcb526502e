"""The objective of a fit, for many fits at once: value, gradient and exact Hessian.

Robust loss on log residuals r = log L_predicted - log L_observed (Hoffmann et al. 2022, equation 3):
sum over runs of weight * huber_delta(r). Bootstrap samples, jackknife, back-test prefixes are rows of weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from scaletut.scaling.coordinates import Constraint, Coordinates
from scaletut.scaling.laws import FormulaLaw, Inputs, SumLaw

LARGEST_LOG = 600.0  # keeps exp finite where a trial step strays


@dataclass(frozen=True)
class Problem:
    """A law on a table's runs. delta: Huber's threshold on the log residual; infinite for squared loss.

    log_loss: observed (n,). low, high: bounds of phi (f,).
    """

    coordinates: Coordinates
    constraint: Constraint
    inputs: Inputs
    log_loss: np.ndarray
    delta: float
    low: np.ndarray
    high: np.ndarray
    products: _Products | None = field(default=None, repr=False)

    @classmethod
    def of(
        cls, coordinates: Coordinates, constraint: Constraint, columns: Mapping[str, np.ndarray], loss: np.ndarray,
        delta: float,
    ) -> Problem:  # fmt: skip
        """The problem of fitting `loss` (n,) at the columns (n,)."""
        law, inputs = coordinates.law, coordinates.inputs(columns)
        low, high = (bound[list(constraint.free)] for bound in law.bounds(inputs, float(loss.min())))
        products = None
        if isinstance(law, SumLaw):
            products = _Products.of(law.features(inputs), constraint, np.log(loss))
        return cls(coordinates, constraint, inputs, np.log(loss), delta, low, high, products)

    def with_delta(self, delta: float) -> Problem:
        """The same runs under another threshold."""
        return replace(self, delta=delta)

    def residuals(self, phi: np.ndarray) -> np.ndarray:
        """r (b, n)."""
        if self.products:
            return np.log(self.products.shares(phi)[1])
        return self.coordinates.law.log_loss(self.constraint.theta(phi), self.inputs) - self.log_loss

    def value(self, phi: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """Objective (b,) at phi (b, f) under weights (b, n) or (1, n)."""
        residuals = self.residuals(phi)
        clipped = np.clip(residuals, -self.delta, self.delta)
        found = np.einsum("bn,bn->b", np.broadcast_to(weights, residuals.shape), clipped * (residuals - 0.5 * clipped))
        return np.where(np.isfinite(found), found, np.inf)

    def expand(self, phi: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Objective (b,), gradient (b, f) and Hessian (b, f, f)."""
        if self.products:
            return self.products.expand(phi, weights, self.delta)
        residuals, jacobian, curvature = self._derivatives(phi)
        clipped = np.clip(residuals, -self.delta, self.delta)
        inside = weights * (np.abs(residuals) <= self.delta)
        pull = weights * clipped
        gradient = np.einsum("bn,fbn->bf", pull, jacobian)
        rows = np.moveaxis(jacobian, 0, 1)
        hessian = (rows * inside[:, None, :]) @ rows.swapaxes(1, 2)
        hessian += np.einsum("bn,fgbn->bfg", pull, curvature)
        return (pull * (residuals - 0.5 * clipped)).sum(1), gradient, hessian

    def _derivatives(self, phi: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        law = self.coordinates.law
        if not isinstance(law, FormulaLaw):
            raise TypeError(f"{law.name} is neither a sum nor a formula")
        jet, matrix = law.derivatives(self.constraint.theta(phi), self.inputs), self.constraint.matrix
        if len(self.constraint.free) == len(matrix):  # nothing pinned or tied: the matrix is the identity
            return jet.value - self.log_loss, jet.gradient, jet.hessian
        jacobian = np.einsum("pf,pbn->fbn", matrix, jet.gradient)
        curvature = np.einsum("pf,pqbn,qg->fgbn", matrix, jet.hessian, matrix, optimize=True)
        return jet.value - self.log_loss, jacobian, curvature

    def jacobian(self, phi: np.ndarray) -> np.ndarray:
        """d r / d phi (b, f, n)."""
        if self.products:
            shares, total = self.products.shares(phi)
            return np.einsum("kbn,knf->bfn", shares / total, self.products.features)
        return np.moveaxis(self._derivatives(phi)[1], 0, 1)


@dataclass(frozen=True)
class _Products:
    """A sum law's features, and their products by pairs of terms, with only the columns that are not zero.

    The sums over runs of an objective's derivatives are then a few matrix products, whatever the number of fits.
    """

    features: np.ndarray  # (k, n, f): d log term / d phi
    constant: np.ndarray  # (k, n): log term at phi = 0, less the observed log loss
    # By term: its columns, rows and columns of its products, matrix.
    firsts: tuple[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray], ...]
    seconds: tuple[tuple[int, int, np.ndarray, np.ndarray, np.ndarray], ...]  # by pair of terms

    @classmethod
    def of(cls, features: np.ndarray, constraint: Constraint, log_loss: np.ndarray) -> _Products:
        constant = features @ constraint.base - log_loss
        reduced = features @ constraint.matrix
        used = [np.flatnonzero(np.abs(term).max(axis=0)) for term in reduced]
        firsts, seconds = [], []
        for k, own in enumerate(used):
            rows, columns = (own[side] for side in np.indices((len(own), len(own))).reshape(2, -1))
            products = reduced[k][:, rows] * reduced[k][:, columns]
            firsts.append((own, rows, columns, np.hstack([reduced[k][:, own], products])))
            for m in range(k, len(used)):
                left, right = (used[term][side] for term, side in zip((k, m), _pairs(own, used[m]), strict=True))
                seconds.append((k, m, left, right, reduced[k][:, left] * reduced[m][:, right]))
        return cls(reduced, constant, tuple(firsts), tuple(seconds))

    def shares(self, phi: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Each term (k, b, n) relative to the observed loss, and their sum (b, n)."""
        terms = np.empty((len(self.features), len(phi), self.constant.shape[1]))
        for k, (feature, constant) in enumerate(zip(self.features, self.constant, strict=True)):
            np.matmul(phi, feature.T, out=terms[k])
            terms[k] += constant
        np.clip(terms, -LARGEST_LOG, LARGEST_LOG, out=terms)
        np.exp(terms, out=terms)
        return terms, terms.sum(0)

    def expand(self, phi: np.ndarray, weights: np.ndarray, delta: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        terms, total = self.shares(phi)
        residuals = np.log(total)
        terms /= total
        clipped = np.clip(residuals, -delta, delta)
        pull = weights * clipped
        bend = weights * (np.abs(residuals) <= delta) - pull
        gradient = np.zeros((len(phi), phi.shape[1]))
        hessian = np.zeros((len(phi), phi.shape[1], phi.shape[1]))
        for k, (own, rows, columns, matrix) in enumerate(self.firsts):
            sums = (pull * terms[k]) @ matrix
            gradient[:, own] += sums[:, : len(own)]
            hessian[:, rows, columns] += sums[:, len(own) :]
        for k, m, left, right, matrix in self.seconds:
            sums = (bend * terms[k] * terms[m]) @ matrix
            hessian[:, left, right] += sums
            if m != k:
                hessian[:, right, left] += sums
        return (pull * (residuals - 0.5 * clipped)).sum(1), gradient, hessian


def _pairs(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    left, right = np.indices((len(first), len(second))).reshape(2, -1)
    return left, right
