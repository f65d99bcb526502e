"""From a reader's parameters to the coordinates in which a law is fitted, and back; pins and ties."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from scaletut.scaling.laws import Inputs, Law
from scaletut.scaling.table import TableError

SHARED_CENTRE = {"unique_examples": "examples"}  # the two are compared, so one centre serves both


@dataclass(frozen=True)
class Coordinates:
    """`law` with the mean logarithm of each of its variables.

    Public values (b, p): coefficients and exponents as printed. Raw: logarithms of the coefficients.
    Centred (theta): raw for inputs divided by their geometric means.
    """

    law: Law
    means: Mapping[str, float]

    @classmethod
    def of(cls, law: Law, columns: Mapping[str, np.ndarray]) -> Coordinates:
        """Centred on the columns (n,) that are to be fitted."""
        means = {name: float(np.log(columns[name]).mean()) for name in law.variables}
        return cls(law, {name: means.get(SHARED_CENTRE.get(name, name), mean) for name, mean in means.items()})

    def inputs(self, columns: Mapping[str, np.ndarray]) -> Inputs:
        """Centred logarithms of the columns."""
        return {name: np.log(np.asarray(columns[name], dtype=float)) - self.means[name] for name in self.law.variables}

    def affine(self) -> tuple[np.ndarray, np.ndarray]:
        """Matrix (p, p) and offset (p,) with raw = matrix @ theta + offset."""
        count = len(self.law.parameters)
        matrix, offset = np.eye(count), np.zeros(count)
        for centring in self.law.centrings:
            row, shift = self.law.index(centring.target), centring.factor * self.means[centring.variable]
            if centring.by:
                matrix[row, self.law.index(centring.by)] += shift + centring.constant
            else:
                offset[row] += shift
        return matrix, offset

    def to_public(self, theta: np.ndarray) -> np.ndarray:
        """Public values (b, p) of centred coordinates (b, p)."""
        matrix, offset = self.affine()
        raw = theta @ matrix.T + offset
        logs = self._logs()
        with np.errstate(over="ignore"):
            return np.where(logs, np.exp(raw), raw)

    def from_public(self, public: np.ndarray) -> np.ndarray:
        """Centred coordinates (b, p) of public values (b, p)."""
        matrix, offset = self.affine()
        logs = self._logs()
        with np.errstate(divide="ignore"):
            raw = np.where(logs, np.log(np.where(logs, np.maximum(public, 1e-300), 1.0)), public)
        return np.linalg.solve(matrix, (raw - offset).T).T

    def log_loss(self, public: np.ndarray, columns: Mapping[str, np.ndarray]) -> np.ndarray:
        """Log of the loss (b, n) that public values (b, p) predict at the columns (n,)."""
        return self.law.log_loss(self.from_public(np.atleast_2d(public)), self.inputs(columns))

    def _logs(self) -> np.ndarray:
        return np.array([parameter.kind == "log" for parameter in self.law.parameters])


@dataclass(frozen=True)
class Constraint:
    """theta = base + matrix @ phi, where phi (f,) are the free ones among theta (p,), at the indices `free`."""

    base: np.ndarray
    matrix: np.ndarray
    free: tuple[int, ...]
    pinned: Mapping[str, float]
    tied: tuple[tuple[str, str], ...]

    def theta(self, phi: np.ndarray) -> np.ndarray:
        """Centred coordinates (b, p) of free ones (b, f)."""
        return self.base + phi @ self.matrix.T


def constrain(coordinates: Coordinates, fixed: Mapping[str, float], tied: Sequence[tuple[str, str]]) -> Constraint:
    """The constraint that pins `fixed` public values and makes each pair of `tied` parameters equal.

    Raises TableError for an unknown name, a value outside the law's bounds, or a contradiction.
    """
    law, (matrix, offset) = coordinates.law, coordinates.affine()
    rows, values, gone = [], [], []
    for name, value in fixed.items():
        i = _index(law, name)
        rows.append(matrix[i])
        values.append(_raw(law, i, value) - offset[i])
        gone.append(i)
    for first, second in tied:
        i, j = _index(law, first), _index(law, second)
        if law.parameters[i].kind != law.parameters[j].kind or i == j:
            raise TableError(f"cannot tie {first} to {second}: tie two different exponents, or two coefficients")
        rows.append(matrix[j] - matrix[i])
        values.append(offset[i] - offset[j])
        gone.append(j)
    if len(set(gone)) < len(gone):
        raise TableError(f"{law.names[max(gone, key=gone.count)]} is pinned or tied twice; say it once")
    free = tuple(i for i in range(len(law.parameters)) if i not in gone)
    base, dependence = np.zeros(len(law.parameters)), np.zeros((len(law.parameters), len(free)))
    dependence[free, range(len(free))] = 1.0
    if gone:
        system, right = np.array(rows), np.array(values)
        base[gone] = np.linalg.solve(system[:, gone], right)
        dependence[gone] = -np.linalg.solve(system[:, gone], system[:, free])
    return Constraint(base, dependence, free, dict(fixed), tuple(tied))


def _index(law: Law, name: str) -> int:
    if name not in law.names:
        raise TableError(f"the law {law.name!r} has no parameter {name!r}; it has {', '.join(law.names)}")
    return law.index(name)


def _raw(law: Law, i: int, value: float) -> float:
    parameter = law.parameters[i]
    low, high = (0.0, np.inf) if parameter.kind == "log" else (parameter.low, parameter.high)
    if not np.isfinite(value) or not low <= value <= high or (parameter.kind == "log" and value == 0):
        raise TableError(f"{parameter.name} = {value:g} is outside its range ({low:g} to {high:g}); pin another value")
    return float(np.log(value)) if parameter.kind == "log" else float(value)
