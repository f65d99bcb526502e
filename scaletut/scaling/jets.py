"""Second-order jets: numbers that carry their exact gradient and Hessian through a formula.

Forward-mode differentiation to second order (Griewank and Walther 2008, chapter 13): a law is written once, as its
formula, and the fitter gets the derivatives that a damped Newton step needs, exact to rounding.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Jet:
    """`value` (b, n) with `gradient` (p, b, n) and `hessian` (p, p, b, n) in p parameters.

    The batch b runs over fits, n over runs; axes of length one stand for values that do not vary along them.
    """

    value: np.ndarray
    gradient: np.ndarray
    hessian: np.ndarray
    __array_ufunc__ = None  # so that array + jet asks the jet

    def apply(self, value: np.ndarray, first: np.ndarray, second: np.ndarray) -> Jet:
        """The jet of f(self), from f, f' and f'' at `self.value`."""
        outer = self.gradient[:, None] * self.gradient[None]
        return Jet(value, first * self.gradient, first * self.hessian + second * outer)

    def __add__(self, other: Jet | np.ndarray | float) -> Jet:
        if isinstance(other, Jet):
            return Jet(self.value + other.value, self.gradient + other.gradient, self.hessian + other.hessian)
        return Jet(self.value + other, self.gradient, self.hessian)

    def __mul__(self, other: Jet | np.ndarray | float) -> Jet:
        if not isinstance(other, Jet):
            return Jet(self.value * other, self.gradient * other, self.hessian * other)
        cross = self.gradient[:, None] * other.gradient[None]
        hessian = self.hessian * other.value + other.hessian * self.value + cross + cross.swapaxes(0, 1)
        gradient = self.gradient * other.value + other.gradient * self.value
        return Jet(self.value * other.value, gradient, hessian)

    def __neg__(self) -> Jet:
        return self * -1.0

    def __sub__(self, other: Jet | np.ndarray | float) -> Jet:
        return self + -other

    def __rsub__(self, other: np.ndarray | float) -> Jet:
        return -self + other

    def __truediv__(self, other: Jet) -> Jet:
        inverse = 1.0 / other.value
        return self * other.apply(inverse, -(inverse**2), 2 * inverse**3)

    __radd__ = __add__
    __rmul__ = __mul__


def variables(theta: np.ndarray) -> list[Jet]:
    """One jet a parameter, from `theta` (b, p): the place where differentiation starts."""
    count = theta.shape[1]
    flat = np.zeros((count, count, 1, 1))
    return [Jet(theta[:, [i]], np.eye(count)[i][:, None, None], flat) for i in range(count)]


def constants(theta: np.ndarray) -> list[Jet]:
    """One jet a parameter, without derivatives: for the value of a formula alone."""
    return [Jet(theta[:, [i]], np.zeros((0, 1, 1)), np.zeros((0, 0, 1, 1))) for i in range(theta.shape[1])]


def exp(jet: Jet) -> Jet:
    """e to the jet."""
    value = np.exp(np.minimum(jet.value, 700.0))
    return jet.apply(value, value, value)


def log(jet: Jet) -> Jet:
    """Natural logarithm of a positive jet."""
    return jet.apply(np.log(jet.value), 1 / jet.value, -1 / jet.value**2)


def sigmoid_values(y: np.ndarray) -> np.ndarray:
    """1 / (1 + e^-y) without overflow."""
    return 0.5 * (1.0 + np.tanh(0.5 * y))


def softplus(jet: Jet) -> Jet:
    """log(1 + e^y), without overflow."""
    share = sigmoid_values(jet.value)
    return jet.apply(np.logaddexp(0.0, jet.value), share, share * (1 - share))


def logaddexp(first: Jet, second: Jet | np.ndarray) -> Jet:
    """log(e^first + e^second), without overflow."""
    return first + softplus(second - first)


def where(condition: np.ndarray, first: Jet, second: Jet) -> Jet:
    """`first` where the condition (b, n) holds, `second` elsewhere."""
    return Jet(
        np.where(condition, first.value, second.value),
        np.where(condition, first.gradient, second.gradient),
        np.where(condition, first.hessian, second.hessian),
    )


def implicit(guess: np.ndarray, slope: np.ndarray, residual: Callable[[Jet], Jet], count: int) -> Jet:
    """The jet of y(theta) that solves residual(y, theta) = 0, from the solution's value and the residual's slope in y.

    guess, slope: (b, n); count: of the parameters. Simplified Newton steps in jet arithmetic: the first makes the
    gradient exact, the second the Hessian, since each gains one order.
    """
    y = Jet(guess, np.zeros((count, *guess.shape)), np.zeros((count, count, *guess.shape)))
    for _ in range(2):
        y = y - residual(y) * (1.0 / slope)
    return y
