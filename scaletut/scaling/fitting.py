"""Fit a scaling law to a run table: parameters, a certificate that they are the minimum, and how sure they are."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from statistics import NormalDist
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from scaletut.scaling.accounting import Counting, same_counting
from scaletut.scaling.combine import Combination
from scaletut.scaling.coordinates import Coordinates, constrain
from scaletut.scaling.forecast import Forecast, forecast
from scaletut.scaling.laws import LAWS, SMALLEST_FLOOR, Law
from scaletut.scaling.newton import SMALLEST_GAIN, STEPS, Solution, minimise
from scaletut.scaling.notes import Note
from scaletut.scaling.problem import Problem
from scaletut.scaling.seeds import starting_points
from scaletut.scaling.table import RunTable, TableError, as_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from scaletut.scaling.planning import Plan

Loss = Literal["huber", "squared"]
AGREE = 1e-7  # relative: starts within it of the lowest objective found the same minimum
LARGEST_GRADIENT = 1e-6  # scaled gradient of a converged fit; at a minimum rounding leaves about 1e-12
LEVEL = 0.95
RESIDUALS_KEPT = 2000
NO_FLOOR = 0.05  # of the fitted floor: an interval that reaches below it does not exclude none
WEAK = 0.5  # standard errors beyond this share of an exponent leave its size open
CHOSEN_STARTS = 6  # of a law that a back-test from as many has found good
OPTIONAL = ("forecast", "combination")  # fields that the JSON of a fit may lack
# A law with many starts runs them roughly first: those within NEAR of the lowest, and the POLISHED lowest, go on.
ROUGH_STEPS, ROUGH_GAIN, NEAR, POLISHED = 40, 1e-4, 1.1, 8
SCREENED = 60_000  # grid points x runs whose objective is looked at: the best of them start


@dataclass(frozen=True)
class Interval:
    """Bounds of a quantity at a level (0.95: nineteen in twenty)."""

    level: float
    low: float
    high: float


@dataclass(frozen=True)
class Certificate:
    """Why the parameters are a minimum, or not.

    gradient: largest entry of |sum_n w psi J| / sum_n |w psi J|, from 0 at a minimum to 1.
    curvature: smallest eigenvalue of the Hessian scaled to a unit diagonal; near 0: a direction the runs do not fix.
    agreement: share of `starts` that ended at the lowest objective.
    """

    converged: bool
    gradient: float
    curvature: float
    agreement: float
    starts: int


@dataclass(frozen=True)
class Fit:
    """A fitted law. Made by `fit`, or read again with `Fit.from_json`.

    parameters, standard_errors, intervals: public values by name. samples: bootstrap draws (draws, p), None without.
    residuals: log L_predicted - log L_observed, at most 2,000 of them. ranges: smallest and largest value fitted, by
    variable. x: the column that a one-variable law reads as x.
    forecast, combination: with the law "auto", of a curve and of runs in N and D. They then predict: an average over
    many curves, and over several laws where the back-test says so, is nearer to what follows than the best law.
    """

    law: str
    parameters: Mapping[str, float]
    objective: float
    certificate: Certificate
    standard_errors: Mapping[str, float]
    intervals: Mapping[str, Interval]
    notes: tuple[Note, ...]
    checklist: Mapping[str, Any]
    seconds: float
    x: str
    ranges: Mapping[str, tuple[float, float]]
    residuals: np.ndarray = field(repr=False)
    samples: np.ndarray | None = field(default=None, repr=False)
    forecast: Forecast | None = field(default=None, repr=False)
    combination: Combination | None = field(default=None, repr=False)

    @property
    def vector(self) -> np.ndarray:
        """Parameters (p,) in the law's order."""
        return np.array([self.parameters[name] for name in LAWS[self.law].names])

    def predict(self, at: Any) -> np.ndarray:
        """Predicted loss (n,), nats, at a run table, a mapping of columns, or the x values of a one-variable law."""
        if self.forecast is not None:
            return self.forecast.predict(self.columns(at)["x"])
        if self.combination is not None and len(self.combination.weights) > 1:
            return self.combination.predict(self.columns(at))
        return self.draws(at, self.vector[None])[0]

    def draws(self, at: Any, samples: np.ndarray | None = None) -> np.ndarray:
        """Predicted loss (draws, n) under each of `samples` (draws, p), by default those of the bootstrap."""
        chosen = self.samples if samples is None else samples
        if chosen is None:
            raise TableError("this fit has no bootstrap samples; fit again with bootstrap=1000 for intervals")
        columns = self.columns(at)
        coordinates = Coordinates.of(LAWS[self.law], columns)
        with np.errstate(all="ignore"):
            return np.exp(coordinates.log_loss(chosen, columns))

    def interval(
        self, at: Any, level: float = LEVEL, *, noise: bool = False, seed: int = 0
    ) -> tuple[np.ndarray, np.ndarray]:
        """Low and high (n,) of the law's loss at `at`, or with `noise` of a new run's loss there.

        Percentiles of the bootstrap; run noise is drawn from the residuals, widened by sqrt(n / (n - p)).
        With a forecast, its own band. Raises TableError without either, or for a level outside (0, 1).
        """
        if not 0 < level < 1:
            raise TableError(f"level {level:g} is outside 0 to 1; 0.95 means nineteen in twenty")
        if self.forecast is not None:
            return self.forecast.interval(self.columns(at)["x"], level, noise=noise, seed=seed)
        found = self.draws(at)
        if noise:
            generator = np.random.default_rng(seed)
            runs, free = self.checklist["runs"], self.checklist["free_parameters"]
            wider = np.sqrt(runs / max(runs - free, 1))
            found = found * np.exp(-wider * generator.choice(self.residuals, size=found.shape))
        low, high = np.nanquantile(found, [(1 - level) / 2, (1 + level) / 2], axis=0)
        return low, high

    def band(self, at: Any, level: float = 0.9) -> tuple[np.ndarray, np.ndarray]:
        """Low and high (n,) of a new run's loss, as wide as misses were in back-tests: of this table, or of a curve's
        forecast on simulated ones. Raises TableError unless the law was "auto", nothing pinned, tied or weighted.
        """
        if self.forecast is not None:
            return self.forecast.interval(self.columns(at)["x"], level)
        if self.combination is not None:
            return self.combination.band(self.columns(at), level)
        raise TableError('a band set by back-test needs the law "auto", without pins, ties or weights; or use interval')

    def optimal(self, flops: float, **options: Any) -> Plan:
        """The best use of a compute budget, FLOP: see `plan`."""
        from scaletut.scaling.planning import plan

        return plan(self, flops, **options)

    def plot(self, table: Any, **options: Any) -> Figure:
        """The law over the runs of a table: see `plot_fit`."""
        from scaletut.scaling.plot import plot_fit

        return plot_fit(self, table, **options)

    def columns(self, at: Any) -> dict[str, np.ndarray]:
        """The law's variables (n,) from a run table, a mapping, or bare x values."""
        variables = LAWS[self.law].variables
        if isinstance(at, RunTable):
            same_counting([self.checklist.get("counting", "unstated"), at.counting], "the fitted runs and these")
            return {name: at.column(self.x if name == "x" else name) for name in variables}
        if isinstance(at, Mapping):
            missing = [name for name in variables if name not in at and not (name == "x" and self.x in at)]
            if missing:
                raise TableError(f"to predict, {self.law} needs {', '.join(missing)}; it got {', '.join(map(str, at))}")
            given = {name: at[self.x] if name == "x" and "x" not in at else at[name] for name in variables}
        elif variables == ("x",):
            given = {"x": at}
        else:
            raise TableError(f"to predict, {self.law} needs {', '.join(variables)}: give a mapping of columns")
        arrays = np.broadcast_arrays(*(np.atleast_1d(np.asarray(value, dtype=float)) for value in given.values()))
        for name, array in zip(given, arrays, strict=True):
            if not (np.isfinite(array).all() and (array > 0).all()):
                raise TableError(f"{name} must be finite and above 0 to predict at; check for zeros and blanks")
        return dict(zip(given, arrays, strict=True))

    def to_json(self) -> str:
        """The fit as JSON text; `Fit.from_json` gives it back, draws included."""
        return json.dumps(self.to_dict(), indent=1, allow_nan=False)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; numbers that are not finite become None."""
        plain = {name: getattr(self, name) for name in self.__dataclass_fields__}
        plain["certificate"] = asdict(self.certificate)
        plain["intervals"] = {name: asdict(interval) for name, interval in self.intervals.items()}
        plain["notes"] = [asdict(note) for note in self.notes]
        plain["residuals"] = [float(f"{value:.6g}") for value in self.residuals]
        plain["samples"] = None if self.samples is None else [[float(f"{v:.10g}") for v in row] for row in self.samples]
        plain["combination"] = None if self.combination is None else self.combination.to_dict()
        plain["forecast"] = None if self.forecast is None else self.forecast.to_dict()
        return _finite(plain)

    @classmethod
    def from_json(cls, text: str) -> Fit:
        """A fit from its JSON. Raises TableError when the text is none."""
        try:
            plain = json.loads(text)
            known = {name: plain.get(name) if name in OPTIONAL else plain[name] for name in cls.__dataclass_fields__}
            known["certificate"] = Certificate(**plain["certificate"])
            known["intervals"] = {name: Interval(**value) for name, value in plain["intervals"].items()}
            known["notes"] = tuple(Note(**note) for note in plain["notes"])
            known["ranges"] = {name: (low, high) for name, (low, high) in plain["ranges"].items()}
            known["residuals"] = np.array(plain["residuals"], dtype=float)
            known["samples"] = None if plain["samples"] is None else np.array(plain["samples"], dtype=float)
            known["forecast"] = Forecast.from_dict(known["forecast"]) if known["forecast"] else None
            known["combination"] = Combination(**known["combination"]) if known["combination"] else None
            if plain["law"] not in LAWS or set(plain["parameters"]) != set(LAWS[plain["law"]].names):
                raise ValueError("unknown law or parameters")
            return cls(**known)
        except (ValueError, KeyError, TypeError) as error:
            raise TableError(f"this is no JSON of a fit ({error}); write one with `scaletut fit --json`") from None


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    if isinstance(value, (float, np.floating)):
        return float(value) if np.isfinite(value) else None
    if isinstance(value, np.integer):
        return int(value)
    return value


# --- fitting -------------------------------------------------------------------------


@dataclass(frozen=True)
class Prepared:
    """A table and law made ready: what every refit (bootstrap, jackknife, profile, back-test) starts from.

    problem: the objective. weights: of the runs (n,). x: the column behind a one-variable law's x.
    """

    problem: Problem
    table: RunTable
    weights: np.ndarray
    x: str

    @property
    def law(self) -> Law:
        """The law."""
        return self.problem.coordinates.law

    def public(self, phi: np.ndarray) -> np.ndarray:
        """Public values (b, p) of phi (b, f)."""
        return self.problem.coordinates.to_public(self.problem.constraint.theta(phi))


def law_named(name: str) -> Law:
    """The law of that name. Raises TableError that lists the names."""
    if name not in LAWS:
        raise TableError(f"unknown law {name!r}; the laws are {', '.join(LAWS)}")
    return LAWS[name]


def prepare(
    table: RunTable, law: str, *, loss: Loss = "huber", delta: float = 1e-3, weights: np.ndarray | None = None,
    fixed: Mapping[str, float] | None = None, tied: Sequence[tuple[str, str]] = (), x: str = "",
) -> Prepared:  # fmt: skip
    """Check that `law` can be fitted to the table, and make its objective.

    Raises TableError, in one line: fewer runs than free parameters, a variable with one value only, an unknown name.
    """
    chosen = law_named(law)
    if loss not in ("huber", "squared"):
        raise TableError(f"unknown loss {loss!r}; it is huber or squared")
    if not delta > 0:
        raise TableError(f"delta {delta:g} must be above 0: the log residual beyond which a run's pull stops growing")
    used = np.ones(len(table)) if table.weight is None else table.weight
    used = used if weights is None else np.asarray(weights, dtype=float)
    if used.shape != (len(table),) or not np.isfinite(used).all() or (used < 0).any() or not used.any():
        raise TableError(f"weights must be {len(table)} finite numbers, at least 0 and not all 0")
    x = x or default_x(table)
    columns = {name: table.column(x if name == "x" else name) for name in chosen.variables}
    _check_spread(chosen, columns, used, x)
    coordinates = Coordinates.of(chosen, columns)
    constraint = constrain(coordinates, fixed or {}, tied)
    runs = int((used > 0).sum())
    if runs < max(len(constraint.free), 1):
        raise TableError(
            f"{runs} runs cannot fix the {len(constraint.free)} free parameters of {law!r} "
            f"({', '.join(chosen.names[i] for i in constraint.free)}); add runs, pin some, or take a simpler law"
        )
    problem = Problem.of(coordinates, constraint, columns, table.loss, delta if loss == "huber" else np.inf)
    return Prepared(problem, table, used, x)


def default_x(table: RunTable) -> str:
    """The one of examples, params and flops that varies; examples first."""
    for name in ("examples", "params", "flops"):
        column = getattr(table, name)
        if column is not None and np.ptp(column) > 0:
            return name
    return "examples"


def _check_spread(law: Law, columns: Mapping[str, np.ndarray], weights: np.ndarray, x: str) -> None:
    for name, column in columns.items():
        if len(np.unique(column[weights > 0])) < 2:
            shown = x if name == "x" else name
            raise TableError(
                f"all runs have the same {shown} ({column[0]:g}), so {law.name!r} cannot be told from a constant; "
                f"add runs at other {shown}, or fit a law in what varies"
            )


def fit(
    table: Any, law: str = "auto", *, loss: Loss = "huber", delta: float = 1e-3, weights: np.ndarray | None = None,
    fixed: Mapping[str, float] | None = None, tied: Sequence[tuple[str, str]] = (), bootstrap: int = 0, seed: int = 0,
    level: float = LEVEL, x: str = "", starts: int = 0, drop_highest: int = 0,
    columns: Mapping[str, str] | None = None, cost: Literal["6ND", "measured"] | None = None,
    counting: Counting | None = None,
) -> Fit:  # fmt: skip
    """Fit `law` to a run table and certify the minimum.

    table: anything that `as_table` takes. law: a name in `LAWS`, or "auto", which back-tests (see `choose`),
    and for a curve adds its forecast.
    loss, delta: Huber on log residuals with threshold delta (Hoffmann et al. 2022), or squared. weights: of the runs
    (n,), in place of the table's. fixed: public values to pin, {"E": 1.8}. tied: pairs to keep equal.
    bootstrap: number of resamples, of runs or of groups where the table has them. starts: tried, the lowest wins; 0 for
    the law's own number.

    Trouble is told in `notes` and the certificate. Raises TableError, in one line, for input that no fit can use.
    """
    started = time.perf_counter()
    checked = as_table(table, columns=columns, cost=cost, counting=counting)
    kept = checked.drop_highest(drop_highest)
    if weights is not None and drop_highest:
        raise TableError("weights and drop_highest cannot go together; give dropped runs the weight 0 instead")
    notes: list[Note] = []
    future, together = None, None
    chosen = law == "auto"
    if chosen:
        from scaletut.scaling.choose import backtest, combination, why_best

        tested = backtest(kept, loss=loss, delta=delta, x=x, seed=seed)
        law = tested.best
        notes.append(Note("law_chosen", "info", why_best(tested)))
        free = not fixed and not tied and weights is None
        if free and law_named(law).variables == ("x",):
            future = _future(kept, x or default_x(kept), seed)
        elif free:
            together = combination(kept, tested, loss=loss, delta=delta, seed=seed)
    ready = prepare(kept, law, loss=loss, delta=delta, weights=weights, fixed=fixed, tied=tied, x=x)
    solution = solve(ready, starts=starts or (min(CHOSEN_STARTS, ready.law.starts) if chosen else 0), seed=seed)
    best = int(np.argmin(solution.objective))
    phi = solution.phi[best]
    certificate = certify(ready, solution)
    samples = None
    if bootstrap:
        from scaletut.scaling.uncertainty import bootstrap_samples

        samples, failed = bootstrap_samples(ready, phi, bootstrap, seed)
        if failed:
            text = f"{failed} of {bootstrap} resamples did not converge and were left out of the intervals"
            notes.append(Note("bootstrap_failed", "warning", text))
    values = ready.public(phi[None])[0]
    notes += diagnose(ready, phi, certificate)
    if drop_highest:
        notes.append(Note("runs_dropped", "info", f"{len(checked) - len(kept)} runs of highest loss were left out"))
    names = ready.law.names
    errors, intervals = _uncertain(ready, phi, values, samples, level)
    notes += doubts(ready, values, errors, intervals)
    residuals = ready.problem.residuals(phi[None])[0]
    return Fit(
        law=law, parameters=dict(zip(names, map(float, values), strict=True)),
        objective=float(solution.objective[best]), certificate=certificate,
        standard_errors=dict(zip(names, errors, strict=True)), intervals=dict(zip(names, intervals, strict=True)),
        notes=tuple(notes), seconds=time.perf_counter() - started, x=ready.x, samples=samples,
        checklist={
            "form": ready.law.formula, "source": ready.law.source, "loss": loss,
            "delta": delta if loss == "huber" else None, "optimiser": "damped Newton, exact Hessian",
            "starts": certificate.starts, "start_rule": "variable projection over a grid of exponents",
            "runs": len(kept), "runs_dropped": len(checked) - len(kept), "free_parameters": phi.size,
            "fixed": dict(fixed or {}), "tied": [list(pair) for pair in tied],
            "unit": kept.unit, "counting": kept.counting,
            "bootstrap": bootstrap, "resampled": "groups" if kept.group is not None else "runs",
            "weighted": bool(np.ptp(ready.weights) > 0), "seed": seed, "digest": checked.digest,
            "standard_errors": "bootstrap" if bootstrap else "sandwich",
            "flops_per_param_example": _measured_cost(kept),
        },
        ranges={name: (float(column.min()), float(column.max())) for name, column in _fitted_columns(ready).items()},
        forecast=future, combination=together,
        residuals=residuals[np.linspace(0, len(residuals) - 1, min(len(residuals), RESIDUALS_KEPT)).astype(int)],
    )  # fmt: skip


def _future(table: RunTable, x: str, seed: int) -> Forecast | None:
    """The curve's forecast; None for one too short to have any."""
    try:
        return forecast(table.column(x), table.loss, seed=seed)
    except TableError:
        return None


def _measured_cost(table: RunTable) -> float | None:
    """Median of C / (N D), FLOP, where the table has all three: 6 for training at 6ND."""
    if table.flops is None or table.params is None or table.examples is None:
        return None
    return float(np.median(table.flops / (table.params * table.examples)))


def _fitted_columns(ready: Prepared) -> dict[str, np.ndarray]:
    return {name: ready.table.column(ready.x if name == "x" else name) for name in ready.law.variables}


def solve(
    ready: Prepared, *, starts: int = 0, seed: int = 0, steps: int = STEPS, gain: float = SMALLEST_GAIN
) -> Solution:
    """Minimise from the best points of the grid and from random others: phi (starts, f), objective (starts,)."""
    if starts < 0:
        raise TableError(f"starts is {starts}; give at least 1, or 0 for the law's own number")
    starts = starts or ready.law.starts
    weights, problem = ready.weights[None], ready.problem
    generator = np.random.default_rng(seed)
    points = starting_points(problem, ready.weights)
    most = max(256, SCREENED // problem.log_loss.size)
    if len(points) > most:
        points = points[generator.choice(len(points), most, replace=False)]
    with np.errstate(all="ignore"):
        values = problem.value(points, weights)
    order = np.argsort(values)
    best, rest = order[: (starts + 1) // 2], order[(starts + 1) // 2 : max(len(order) // 12, starts)]
    chosen = np.concatenate([best, generator.choice(rest, min(starts - len(best), len(rest)), replace=False)])
    chosen = points[chosen.astype(int)]
    if len(chosen) <= POLISHED or gain > SMALLEST_GAIN:
        return minimise(problem, chosen, weights, steps=steps, gain=gain)
    rough = minimise(problem, chosen, weights, steps=min(steps, ROUGH_STEPS), gain=ROUGH_GAIN)
    return _polished(problem, weights, rough, steps)


def _polished(problem: Problem, weights: np.ndarray, rough: Solution, steps: int) -> Solution:
    """The batch with its lowest fits taken on to the minimum; the others stand for other valleys and stay."""
    lowest = np.argsort(rough.objective)
    most = max(POLISHED, int(np.sum(rough.objective <= NEAR * rough.objective[lowest[0]])))
    lowest = lowest[:most]
    fine = minimise(problem, rough.phi[lowest], weights, steps=steps)
    phi, objective, finished = rough.phi.copy(), rough.objective.copy(), np.zeros(len(rough.phi), dtype=bool)
    phi[lowest], objective[lowest], finished[lowest] = fine.phi, fine.objective, fine.finished
    return Solution(phi, objective, finished, rough.steps + fine.steps)


def certify(ready: Prepared, solution: Solution) -> Certificate:
    """The certificate of the lowest of a batch of fits."""
    best = int(np.argmin(solution.objective))
    phi, lowest = solution.phi[[best]], solution.objective[best]
    gradient = scaled_gradient(ready, phi, ready.weights[None])[0]
    tolerance = AGREE * lowest + 1e-24 * ready.weights.sum()
    agreement = float(np.mean(solution.objective <= lowest + tolerance))
    curvature = _curvature(ready, phi)
    perfect = lowest <= 1e-24 * ready.weights.sum()
    converged = bool((gradient <= LARGEST_GRADIENT or perfect) and curvature > -1e-6)
    return Certificate(converged, float(gradient), curvature, agreement, len(solution.objective))


def scaled_gradient(ready: Prepared, phi: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Largest |sum w psi J| / sum |w psi J| over the free parameters of each fit (b,), but for bounds that hold."""
    problem = ready.problem
    residuals = problem.residuals(phi)
    pull = (weights * np.clip(residuals, -problem.delta, problem.delta))[:, None, :] * problem.jacobian(phi)
    gradient, total = pull.sum(2), np.abs(pull).sum(2)
    held = ((phi <= problem.low) & (gradient >= 0)) | ((phi >= problem.high) & (gradient <= 0))
    ratio = np.where(held | (total == 0), 0.0, np.abs(gradient) / np.where(total == 0, 1.0, total))
    return ratio.max(axis=1, initial=0.0)


def _curvature(ready: Prepared, phi: np.ndarray) -> float:
    hessian = ready.problem.expand(phi, ready.weights[None])[2][0]
    inside = (phi[0] > ready.problem.low) & (phi[0] < ready.problem.high)
    hessian = hessian[np.ix_(inside, inside)]
    scale = np.sqrt(np.abs(np.diag(hessian)))
    if not inside.any() or (scale == 0).any():
        return 0.0
    return float(np.linalg.eigvalsh(hessian / np.outer(scale, scale))[0])


def diagnose(ready: Prepared, phi: np.ndarray, certificate: Certificate) -> list[Note]:
    """Notes on convergence, bounds, floor and exponents of a fit at phi (f,)."""
    notes, problem, names = [], ready.problem, ready.law.names
    if not certificate.converged:
        text = f"the fit did not converge (scaled gradient {certificate.gradient:.1e}); do not use its numbers"
        notes.append(Note("not_converged", "error", text))
    if certificate.converged and certificate.agreement < 0.25:
        text = f"only {certificate.agreement:.0%} of {certificate.starts} starts found this minimum; there are others"
        notes.append(Note("starts_disagree", "warning", text))
    for position, i in enumerate(ready.problem.constraint.free):
        if problem.low[position] < phi[position] < problem.high[position]:
            continue
        if ready.law.parameters[i].role == "floor":
            text = "the runs show no floor: E went to zero; only an upper bound for it can be told (see its profile)"
            notes.append(Note("floor_not_identified", "warning", text))
        else:
            text = f"{names[i]} lies on its bound; the law is richer than these runs can show"
            notes.append(Note("bound_hit", "warning", text))
    if 0 <= certificate.curvature < 1e-9 and certificate.converged:
        notes.append(Note("flat_direction", "warning", "some combination of parameters is not fixed by these runs"))
    runs, free = int((ready.weights > 0).sum()), phi.size
    if runs < 3 * free:
        text = f"{runs} runs for {free} free parameters: residuals say little about the error; 3 a parameter are better"
        notes.append(Note("few_runs", "warning", text))
    return notes


def doubts(ready: Prepared, values: np.ndarray, errors: Sequence[float], intervals: Sequence[Interval]) -> list[Note]:
    """Notes on a floor or an exponent that the runs hardly fix, by its standard error and interval."""
    notes = []
    for parameter, value, error, interval in zip(ready.law.parameters, values, errors, intervals, strict=True):
        if parameter.name in ready.problem.constraint.pinned:
            continue
        if parameter.role == "floor" and interval.low < NO_FLOOR * value < value - SMALLEST_FLOOR:
            text = f"the interval of E reaches from nearly zero to {interval.high:.4g}; runs at larger scale would tell"
            notes.append(Note("floor_not_identified", "warning", text))
        if parameter.kind == "plain" and error > WEAK * abs(value):
            text = f"{parameter.name} = {value:.3g} has a standard error of {error:.2g}: the noise decides it"
            notes.append(Note("exponent_not_identified", "warning", text))
    return notes


def _uncertain(
    ready: Prepared, phi: np.ndarray, values: np.ndarray, samples: np.ndarray | None, level: float
) -> tuple[list[float], list[Interval]]:
    if samples is not None and len(samples) > 1:
        errors = samples.std(axis=0)
        low, high = np.quantile(samples, [(1 - level) / 2, (1 + level) / 2], axis=0)
        return errors.tolist(), [Interval(level, *ends) for ends in zip(low.tolist(), high.tolist(), strict=True)]
    from scaletut.scaling.uncertainty import sandwich

    errors = sandwich(ready, phi)

    wide = NormalDist().inv_cdf((1 + level) / 2)
    return errors.tolist(), [
        Interval(level, float(v - wide * e), float(v + wide * e)) for v, e in zip(values, errors, strict=True)
    ]


__all__ = ["Certificate", "Fit", "Interval", "Prepared", "fit", "prepare", "replace", "solve"]
