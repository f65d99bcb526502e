"""The laws: what each says about the loss, and the derivatives and starting points that its fit needs.

A law works in coordinates theta where all of its parameters are free: logarithms of coefficients, plain exponents,
and inputs divided by their geometric means ("centred"), which takes the condition of the five-parameter law from 1e11
to below 1e6 (Open-Athena 2026 report 3.5e11 for the raw form). `Coordinates` in `problem.py` maps to public values.

Two kinds: `SumLaw`, a sum of exponentials of linear forms, whose sums over runs are matrix products; and `FormulaLaw`,
any other formula, differentiated by jets.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from scaletut.scaling import jets
from scaletut.scaling.jets import Jet

Kind = Literal["log", "plain"]
SMALLEST_FLOOR = 1e-6  # of the lowest loss: below it, no data tells a floor from none
Inputs = Mapping[str, np.ndarray]  # centred logarithms (n,), by variable


@dataclass(frozen=True)
class Parameter:
    """A parameter of a law: public name, whether theta holds its logarithm, bounds of theta, unit, meaning.

    Bounds and grid of a floor are relative to the lowest loss, of a span to the distance from floor to highest loss,
    of a ceiling to the highest loss, of a position to the range of x (see `Law.bounds` and `Law.shapes`).
    """

    name: str
    kind: Kind
    low: float = -np.inf
    high: float = np.inf
    unit: str = ""
    about: str = ""
    role: Literal["free", "floor", "span", "ceiling", "position"] = "free"


def coefficient(name: str, about: str) -> Parameter:
    """A positive factor."""
    return Parameter(name, "log", unit="nats x unit^exponent", about=about)


def exponent(name: str, about: str, high: float = 5.0) -> Parameter:
    """How fast a term falls; 0 leaves a constant, which is a floor by another name."""
    return Parameter(name, "plain", low=0.0, high=high, about=about)


FLOOR = Parameter("E", "log", unit="nats", about="loss that remains at infinite scale", role="floor")


@dataclass(frozen=True)
class Centring:
    """How a raw coordinate follows from the centred ones: raw = centred + sum factor * theta[by] * mean + constant.

    by: the exponent that multiplies the mean log of `variable`; "" when the mean is added by itself.
    """

    target: str
    by: str
    variable: str
    factor: float = 1.0
    constant: float = 0.0


@dataclass(frozen=True)
class Law:
    """A loss as a function of `variables`. Shapes: theta (b, p), inputs (n,), log-loss (b, n).

    `linear` names the coefficients that multiply fixed shapes once all other parameters (the `grid`) are given:
    variable projection solves for them (Golub and Pereyra 1973).
    """

    name: str
    formula: str
    variables: tuple[str, ...]
    parameters: tuple[Parameter, ...]
    centrings: tuple[Centring, ...]
    linear: tuple[str, ...]
    grid: Mapping[str, np.ndarray] = field(repr=False)
    source: str = ""
    starts: int = 4  # enough to meet the lowest minimum in tests; laws that bend have several

    @property
    def names(self) -> tuple[str, ...]:
        """Public names of the parameters, in the order of theta."""
        return tuple(parameter.name for parameter in self.parameters)

    def index(self, name: str) -> int:
        """Position of a parameter in theta."""
        return self.names.index(name)

    def bounds(self, inputs: Inputs, lowest_loss: float) -> tuple[np.ndarray, np.ndarray]:
        """Lower and upper bounds of theta (p,), given what was observed."""
        low = np.array([parameter.low for parameter in self.parameters])
        high = np.array([parameter.high for parameter in self.parameters])
        for i, parameter in enumerate(self.parameters):
            if parameter.role == "floor":
                low[i] = np.log(SMALLEST_FLOOR * lowest_loss)
            elif parameter.role == "position":
                values = inputs[self.variables[0]]
                low[i], high[i] = values.min() - 2.0, values.max() + 2.0
        return low, high

    def log_loss(self, theta: np.ndarray, inputs: Inputs) -> np.ndarray:
        """Natural logarithm of the predicted loss (b, n)."""
        raise NotImplementedError

    def shapes(self, inputs: Inputs, log_loss: np.ndarray) -> dict[str, np.ndarray]:
        """The grid's points (g,) by parameter, in coordinates of theta: where a fit may start."""
        points = np.array(list(itertools.product(*self.grid.values())), dtype=float)
        found = dict(zip(self.grid, points.T, strict=True))
        for parameter in self.parameters:
            if parameter.name in found and parameter.role == "floor":
                found[parameter.name] = log_loss.min() + found[parameter.name]
            elif parameter.name in found and parameter.role == "ceiling":
                found[parameter.name] = log_loss.max() + found[parameter.name]
            elif parameter.name in found and parameter.role == "span":
                room = np.exp(log_loss.max()) - np.exp(found["E"])
                found[parameter.name] = np.log(room) + found[parameter.name]
            elif parameter.name in found and parameter.role == "position":
                values = inputs[self.variables[0]]
                found[parameter.name] = values.min() + found[parameter.name] * np.ptp(values)
        return found

    def basis(self, shapes: Mapping[str, np.ndarray], inputs: Inputs) -> np.ndarray:
        """Log of each linear coefficient's shape (g, k, n), at the grid's points."""
        raise NotImplementedError

    def transform(self, shapes: Mapping[str, np.ndarray], log_loss: np.ndarray) -> np.ndarray:
        """Log of the quantity that is linear in the coefficients (g, n): the loss itself, for most laws."""
        return np.broadcast_to(log_loss, (len(next(iter(shapes.values()))), log_loss.size))


# --- sums of exponentials of linear forms -----------------------------------------------


@dataclass(frozen=True)
class Term:
    """exp(coefficient - sum exponent * (factor * log variable + constant)) over its powers; no power: the floor."""

    coefficient: str
    powers: tuple[tuple[str, str, float, float], ...] = ()  # exponent, variable, factor, constant


@dataclass(frozen=True)
class SumLaw(Law):
    """L = sum over terms; each term's logarithm is linear in theta with coefficients that the runs fix."""

    terms: tuple[Term, ...] = ()

    def features(self, inputs: Inputs) -> np.ndarray:
        """d log term / d theta (k, n, p), constant in theta."""
        size = len(next(iter(inputs.values())))
        found = np.zeros((len(self.terms), size, len(self.parameters)))
        for k, term in enumerate(self.terms):
            found[k, :, self.index(term.coefficient)] = 1.0
            for name, variable, factor, _ in term.powers:
                found[k, :, self.index(name)] -= factor * inputs[variable]
        return found

    def log_loss(self, theta: np.ndarray, inputs: Inputs) -> np.ndarray:
        logs = np.einsum("knp,bp->kbn", self.features(inputs), theta)
        return np.logaddexp.reduce(logs, axis=0)

    def basis(self, shapes: Mapping[str, np.ndarray], inputs: Inputs) -> np.ndarray:
        count, size = len(next(iter(shapes.values()))), len(next(iter(inputs.values())))
        logs = np.zeros((count, len(self.terms), size))
        for k, term in enumerate(self.terms):
            for name, variable, factor, _ in term.powers:
                logs[:, k] -= shapes[name][:, None] * (factor * inputs[variable])
        return logs


def _sum_law(name: str, formula: str, grid: Mapping[str, np.ndarray], terms: tuple[Term, ...], source: str) -> SumLaw:
    powers = [(term, power) for term in terms for power in term.powers]
    floors = [FLOOR for term in terms if not term.powers]
    factors = [coefficient(term.coefficient, "size of the falling term") for term in terms if term.powers]
    exponents = [exponent(name, "fall of the term per e-fold of scale") for name in grid]
    return SumLaw(
        name=name, formula=formula, source=source, terms=terms, grid=grid,
        variables=tuple(dict.fromkeys(variable for _, (_, variable, _, _) in powers)),
        parameters=(*floors, *factors, *exponents),
        centrings=tuple(Centring(term.coefficient, *power) for term, power in powers),
        linear=tuple(term.coefficient for term in terms),
    )  # fmt: skip


# --- any other formula ---------------------------------------------------------------


Formula = Callable[[Mapping[str, Jet], Inputs], Jet]


@dataclass(frozen=True)
class FormulaLaw(Law):
    """A law given by its formula in jets, with the logs of its linear shapes."""

    jet: Formula = field(default=lambda theta, inputs: theta["E"], repr=False)
    logs: Callable[[Mapping[str, np.ndarray], Inputs], np.ndarray] = field(
        default=lambda shapes, inputs: inputs["x"], repr=False
    )
    target: Callable[[Mapping[str, np.ndarray], np.ndarray], np.ndarray] | None = field(default=None, repr=False)

    def derivatives(self, theta: np.ndarray, inputs: Inputs) -> Jet:
        """Log-loss with gradient and Hessian in theta (b, p)."""
        return self._evaluate(jets.variables(theta), inputs)

    def log_loss(self, theta: np.ndarray, inputs: Inputs) -> np.ndarray:
        return self._evaluate(jets.constants(theta), inputs).value

    def _evaluate(self, theta: list[Jet], inputs: Inputs) -> Jet:
        rows = {name: values[None, :] for name, values in inputs.items()}
        return self.jet(dict(zip(self.names, theta, strict=True)), rows)

    def basis(self, shapes: Mapping[str, np.ndarray], inputs: Inputs) -> np.ndarray:
        columns = {name: values[:, None] for name, values in shapes.items()}
        return self.logs(columns, {name: values[None, :] for name, values in inputs.items()})

    def transform(self, shapes: Mapping[str, np.ndarray], log_loss: np.ndarray) -> np.ndarray:
        if self.target is None:
            return super().transform(shapes, log_loss)
        return self.target({name: values[:, None] for name, values in shapes.items()}, log_loss[None, :])


def _stack(*logs: np.ndarray) -> np.ndarray:
    return np.stack(np.broadcast_arrays(*logs), axis=1)


def _shifted(theta: Mapping[str, Jet], inputs: Inputs) -> Jet:
    distance = jets.logaddexp(theta["x0"], inputs["x"])
    return jets.logaddexp(theta["E"], theta["A"] - theta["alpha"] * distance)


def _shifted_logs(shapes: Mapping[str, np.ndarray], inputs: Inputs) -> np.ndarray:
    return _stack(0.0 * inputs["x"], -shapes["alpha"] * np.logaddexp(shapes["x0"], inputs["x"]))


def _broken(theta: Mapping[str, Jet], inputs: Inputs) -> Jet:
    width = jets.exp(theta["width"])
    bend = jets.softplus((inputs["x"] - theta["x_break"]) / width)
    slope = theta["A"] - theta["alpha"] * inputs["x"] - theta["change"] * width * bend
    return jets.logaddexp(theta["E"], slope)


def _broken_logs(shapes: Mapping[str, np.ndarray], inputs: Inputs) -> np.ndarray:
    width = np.exp(shapes["width"])
    bend = width * np.logaddexp(0.0, (inputs["x"] - shapes["x_break"]) / width)
    return _stack(0.0 * inputs["x"], -shapes["alpha"] * inputs["x"] - shapes["change"] * bend)


def _saturating(theta: Mapping[str, Jet], inputs: Inputs) -> Jet:
    """L = E + span * s with log s - gamma log(1-s) = A - alpha x + (gamma - 1) span, solved for the logit of s."""
    gamma = theta["gamma"]
    right = theta["A"] - theta["alpha"] * inputs["x"] + (gamma - 1.0) * theta["span"]
    logit = _solve_logit(right.value, gamma.value)
    share = jets.sigmoid_values(logit)
    slope = gamma.value * share + (1.0 - share)

    def residual(y: Jet) -> Jet:
        return gamma * jets.softplus(y) - jets.softplus(-y) - right

    y = jets.implicit(logit, slope, residual, len(right.gradient))
    return jets.logaddexp(theta["E"], theta["span"] - jets.softplus(-y))


def _saturating_logs(shapes: Mapping[str, np.ndarray], inputs: Inputs) -> np.ndarray:
    return _stack(-shapes["alpha"] * inputs["x"] + 0.0 * shapes["span"])


def _saturating_target(shapes: Mapping[str, np.ndarray], log_loss: np.ndarray) -> np.ndarray:
    floor, span, gamma = np.exp(shapes["E"]), np.exp(shapes["span"]), shapes["gamma"]
    share = np.clip((np.exp(log_loss) - floor) / span, 1e-9, 1 - 1e-9)
    return np.log(share) - gamma * np.log1p(-share) - (gamma - 1.0) * shapes["span"]


def _solve_logit(right: np.ndarray, gamma: np.ndarray) -> np.ndarray:
    """y with gamma softplus(y) - softplus(-y) = right: increasing and nearly linear, so Newton from its asymptote."""
    y = np.where(right > 0, right / np.maximum(gamma, 1e-3), right)
    for _ in range(12):
        share = jets.sigmoid_values(y)
        value = gamma * np.logaddexp(0.0, y) - np.logaddexp(0.0, -y) - right
        step = value / np.maximum(gamma * share + (1.0 - share), 1e-12)
        y = y - np.clip(step, -20.0, 20.0)
        if np.abs(step).max() < 1e-13 * (1.0 + np.abs(y).max()):
            break
    return y


def _kaplan(theta: Mapping[str, Jet], inputs: Inputs) -> Jet:
    size = (theta["alpha_N"] / theta["alpha_D"]) * (theta["N_c"] - inputs["params"])
    return theta["alpha_D"] * jets.logaddexp(size, theta["D_c"] - inputs["examples"])


def _kaplan_logs(shapes: Mapping[str, np.ndarray], inputs: Inputs) -> np.ndarray:
    ratio = shapes["alpha_N"] / shapes["alpha_D"]
    return _stack(-ratio * inputs["params"], -inputs["examples"])


def _kaplan_target(shapes: Mapping[str, np.ndarray], log_loss: np.ndarray) -> np.ndarray:
    return log_loss / shapes["alpha_D"]


def _rosenfeld(theta: Mapping[str, Jet], inputs: Inputs) -> Jet:
    """1 / L^2 = 1 / e^2 + 1 / top^2 with e of the additive law: the paper's modulus of e / (e - i eta), scaled so that
    L approaches e far out."""
    size, data = theta["A"] - theta["alpha"] * inputs["params"], theta["B"] - theta["beta"] * inputs["examples"]
    additive = jets.logaddexp(theta["E"], jets.logaddexp(size, data))
    return -0.5 * jets.logaddexp(-2.0 * additive, -2.0 * theta["top"])


def _rosenfeld_logs(shapes: Mapping[str, np.ndarray], inputs: Inputs) -> np.ndarray:
    return _stack(0.0 * inputs["params"], -shapes["alpha"] * inputs["params"], -shapes["beta"] * inputs["examples"])


def _rosenfeld_target(shapes: Mapping[str, np.ndarray], log_loss: np.ndarray) -> np.ndarray:
    return log_loss - 0.5 * np.log(-np.expm1(np.minimum(2 * (log_loss - shapes["top"]), -1e-6)))


def _repeated(theta: Mapping[str, Jet], inputs: Inputs) -> Jet:
    """Repeats and parameters in excess count with decaying worth; U_N is the compute-optimal N for the unique data."""
    unique = inputs["unique_examples"]
    balance = theta["A"] + jets.log(theta["alpha"]) - theta["B"] - jets.log(theta["beta"])
    best = (balance + theta["beta"] * unique) / theta["alpha"]
    size = _worth(best, inputs["params"], theta["R_N"])
    data = _worth(theta["R_D"] * 0.0 + unique, inputs["examples"], theta["R_D"])
    terms = jets.logaddexp(theta["A"] - theta["alpha"] * size, theta["B"] - theta["beta"] * data)
    return jets.logaddexp(theta["E"], terms)


def _worth(unique: Jet, used: np.ndarray, log_decay: Jet) -> Jet:
    """Log of U (1 + R* (1 - exp(-R / R*))) with R = used / U - 1, and of `used` itself where it is below U."""
    decay = jets.exp(log_decay)
    over = np.maximum(used - unique.value, 0.0)
    inside = Jet(np.minimum(unique.value, used), unique.gradient, unique.hessian)  # keeps the unused branch finite
    repeats = jets.exp(used - inside) + -1.0
    bonus = decay * (1.0 - jets.exp(-(repeats / decay)))
    return jets.where(over > 0, inside + jets.log(bonus + 1.0), inside * 0.0 + used)


def _repeated_logs(shapes: Mapping[str, np.ndarray], inputs: Inputs) -> np.ndarray:
    unique, decay = inputs["unique_examples"], np.exp(shapes["R_D"])
    repeats = np.expm1(np.maximum(inputs["examples"] - unique, 0.0))
    data = np.minimum(unique, inputs["examples"]) + np.log1p(decay * -np.expm1(-repeats / decay))
    return _stack(0.0 * unique, -shapes["alpha"] * inputs["params"], -shapes["beta"] * data)


# --- the list ------------------------------------------------------------------------

_ONE = np.geomspace(0.02, 2.0, 40)
_TWO = np.geomspace(0.05, 1.3, 14)
_FLOOR_TERM = Term("E")
_IN_X = Term("A", (("alpha", "x", 1.0, 0.0),))
_IN_N = Term("A", (("alpha", "params", 1.0, 0.0),))
_IN_D = Term("B", (("beta", "examples", 1.0, 0.0),))
_X_CENTRED = Centring("A", "alpha", "x")
_HOFFMANN = "Hoffmann et al. 2022, equation 2"

_ALABDULMOHSIN = "Alabdulmohsin, Neyshabur and Zhai 2022, table 1"

LAWS: dict[str, Law] = {
    law.name: law
    for law in (
        _sum_law("power", "A x^-alpha", {"alpha": _ONE}, (_IN_X,), "Hestness et al. 2017"),
        _sum_law("power_floor", "E + A x^-alpha", {"alpha": _ONE}, (_FLOOR_TERM, _IN_X), "Hestness et al. 2017"),
        FormulaLaw(
            "shifted", "E + A (x + x0)^-alpha", ("x",),
            (FLOOR, coefficient("A", "size of the falling term"), exponent("alpha", "fall per e-fold, far out"),
             Parameter("x0", "log", unit="examples", about="scale below which the curve is flat", role="position")),
            (_X_CENTRED, Centring("x0", "", "x")), ("E", "A"),
            {"alpha": np.geomspace(0.05, 2.0, 20), "x0": np.linspace(-0.3, 0.9, 13)},
            f"{_ALABDULMOHSIN}, M3", jet=_shifted, logs=_shifted_logs,
        ),
        FormulaLaw(
            "saturating", "(L - E) / (E + span - L)^gamma = A x^-alpha", ("x",),
            (FLOOR, Parameter("span", "log", -12.0, 12.0, unit="nats", about="floor to upper bound", role="span"),
             coefficient("A", "size of the falling term"), exponent("alpha", "fall per e-fold, far out"),
             Parameter("gamma", "plain", low=0.0, high=10.0, about="how long the curve stays near its upper bound")),
            (_X_CENTRED,), ("A",),
            {"E": np.linspace(-6.0, -0.02, 8), "span": np.linspace(0.02, 3.0, 6), "alpha": np.geomspace(0.05, 1.5, 8),
             "gamma": np.array([0.0, 0.5, 1.0, 2.0])},
            f"{_ALABDULMOHSIN}, M4", jet=_saturating, logs=_saturating_logs, target=_saturating_target, starts=24,
        ),
        FormulaLaw(
            "broken", "E + A x^-alpha (1 + (x / x_break)^(1/width))^(-change width)", ("x",),
            (FLOOR, coefficient("A", "size of the falling term"),
             Parameter("alpha", "plain", low=0.0, high=5.0, about="fall per e-fold before the break"),
             Parameter("change", "plain", low=-5.0, high=5.0, about="what the break adds to the exponent"),
             Parameter("x_break", "log", unit="examples", about="where the exponent changes", role="position"),
             Parameter("width", "log", low=np.log(0.05), high=np.log(4.0), about="e-folds over which it changes")),
            (_X_CENTRED, Centring("x_break", "", "x")), ("E", "A"),
            {"alpha": np.array([0.0, 0.05, 0.1, 0.2, 0.3, 0.5, 0.8, 1.2]),
             "change": np.array([-0.3, -0.1, 0.1, 0.3, 0.6, 1.0]), "x_break": np.linspace(0.0, 1.0, 9),
             "width": np.log([0.25, 1.0])},
            "Caballero et al. 2022, equation 1, one break", jet=_broken, logs=_broken_logs, starts=24,
        ),
        _sum_law("additive", "E + A N^-alpha + B D^-beta", {"alpha": _TWO, "beta": _TWO},
                 (_FLOOR_TERM, _IN_N, _IN_D), _HOFFMANN),
        _sum_law("additive_tied", "E + A N^-alpha + B D^-alpha", {"alpha": _ONE},
                 (_FLOOR_TERM, _IN_N, Term("B", (("alpha", "examples", 1.0, 0.0),))), f"{_HOFFMANN}, alpha = beta"),
        _sum_law("overtraining", "E + (A M^eta + B M^-eta) C^-eta, M = D/N, C = 6 N D", {"eta": _ONE},
                 (_FLOOR_TERM, Term("A", (("eta", "params", 2.0, np.log(6.0)),)),
                  Term("B", (("eta", "examples", 2.0, np.log(6.0)),))), "Gadre et al. 2024, equation 4"),
        _sum_law("product", "A N^-alpha D^-beta", {"alpha": _TWO, "beta": _TWO},
                 (Term("A", (("alpha", "params", 1.0, 0.0), ("beta", "examples", 1.0, 0.0))),), "popular articles"),
        FormulaLaw(
            "kaplan", "((N_c / N)^(alpha_N / alpha_D) + D_c / D)^alpha_D", ("params", "examples"),
            (Parameter("N_c", "log", unit="parameters", about="scale of the term in N"),
             Parameter("D_c", "log", unit="examples", about="scale of the term in D"),
             Parameter("alpha_N", "plain", low=1e-3, high=5.0, about="fall per e-fold of N"),
             Parameter("alpha_D", "plain", low=1e-3, high=5.0, about="fall per e-fold of D")),
            (Centring("N_c", "", "params"), Centring("D_c", "", "examples")), ("N_c", "D_c"),
            {"alpha_N": np.geomspace(0.01, 1.0, 20), "alpha_D": np.geomspace(0.01, 1.0, 20)},
            "Kaplan et al. 2020, equation 1.5", jet=_kaplan, logs=_kaplan_logs, target=_kaplan_target,
        ),
        FormulaLaw(
            "rosenfeld", "(e^-2 + top^-2)^(-1/2), e = E + A N^-alpha + B D^-beta", ("params", "examples"),
            (FLOOR, coefficient("A", "size of the term in N"), exponent("alpha", "fall per e-fold of N"),
             coefficient("B", "size of the term in D"), exponent("beta", "fall per e-fold of D"),
             Parameter("top", "log", unit="nats", about="loss of a guess, above which no curve rises", role="ceiling")),
            (Centring("A", "alpha", "params"), Centring("B", "beta", "examples")), ("E", "A", "B"),
            {"alpha": np.linspace(0.05, 1.0, 10), "beta": np.linspace(0.05, 1.0, 10),
             "top": np.array([0.03, 0.1, 0.3, 1.0])},
            "Rosenfeld et al. 2020, equations 4 and 5", jet=_rosenfeld, logs=_rosenfeld_logs, target=_rosenfeld_target,
            starts=8,
        ),
        FormulaLaw(
            "repeated", "E + A N'^-alpha + B D'^-beta, D' = U_D (1 + R_D (1 - exp(-R / R_D))), N' alike",
            ("params", "examples", "unique_examples"),
            (FLOOR, coefficient("A", "size of the term in N"), coefficient("B", "size of the term in D"),
             Parameter("alpha", "plain", low=1e-3, high=5.0, about="fall per e-fold of N"),
             Parameter("beta", "plain", low=1e-3, high=5.0, about="fall per e-fold of D"),
             Parameter("R_D", "log", low=np.log(0.1), high=np.log(1e4), about="repeats until worth fades"),
             Parameter("R_N", "log", low=np.log(0.1), high=np.log(1e4), about="excess until worth fades")),
            (Centring("A", "alpha", "params"), Centring("B", "beta", "examples")), ("E", "A", "B"),
            {"alpha": np.linspace(0.05, 1.0, 10), "beta": np.linspace(0.05, 1.0, 10),
             "R_D": np.log([2.0, 5.0, 15.0, 50.0]), "R_N": np.log([5.0])},
            "Muennighoff et al. 2023, equations 4 to 7", jet=_repeated, logs=_repeated_logs,
        ),
    )
}  # fmt: skip
