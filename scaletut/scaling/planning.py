"""Spending a compute budget with a fitted law: how large a model, how much data, what loss, how sure.

The optimum is found on the budget line itself, for the fit and for each of its bootstrap draws, so one routine serves
every law in N and D: for the additive law it agrees with the closed form (Hoffmann et al. 2022, equation 4).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from scaletut.scaling.coordinates import Coordinates
from scaletut.scaling.fitting import LEVEL, Fit, Interval
from scaletut.scaling.laws import LAWS
from scaletut.scaling.notes import Note
from scaletut.scaling.table import Cost, TableError

TRAIN, INFER = 6.0, 2.0  # FLOP a parameter and token: forward and backward, forward alone (Kaplan et al. 2020)
WORTH_OF_REPEATS = {"R_D": 15.387756, "R_N": 5.309743}  # Muennighoff et al. 2023, section 6, fitted to text
SPAN, POINTS = 9.0, 361  # e-folds of N to each side of the fit's optimum that its draws may reach; points of the line
REFINEMENTS = 9  # each narrows the fit's own line tenfold
FAR = 10.0  # an extrapolation in compute beyond this factor is told
MOST_DRAWS = 1000


@dataclass(frozen=True)
class Plan:
    """What a budget buys. params: N. examples: D, with repeats. loss: nats. ratio: D / N. repeats: D over unique ones.

    intervals: of params, examples, loss and ratio, from the fit's draws; empty without. flops: the whole budget, FLOP.
    """

    flops: float
    cost: str
    params: float
    examples: float
    ratio: float
    loss: float
    repeats: float | None
    inference_tokens: float
    unique_examples: float | None
    intervals: Mapping[str, Interval]
    notes: tuple[Note, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Line:
    """The loss along a budget line: a fit, what a parameter-example costs, and what inference and data allow."""

    fit: Fit
    law: str
    flops_per_pair: float
    inference_tokens: float
    unique_examples: float | None

    def examples(self, flops: float, params: np.ndarray) -> np.ndarray:
        """D (n,) that the budget leaves at N (n,); 0 or less where inference alone exceeds it."""
        return (flops / params - INFER * self.inference_tokens) / self.flops_per_pair

    def log_loss(self, vectors: np.ndarray, params: np.ndarray, examples: np.ndarray) -> np.ndarray:
        """Log of the loss (b, n) under public parameters (b, p) of the fit, infinite where no data is left."""
        allowed = examples > 0
        columns = {"params": params, "examples": np.where(allowed, examples, 1.0)}
        if self.law == "repeated":
            columns["unique_examples"] = np.minimum(self.unique_examples or np.inf, columns["examples"])
            if self.fit.law != "repeated":
                constants = np.tile(list(WORTH_OF_REPEATS.values()), (len(vectors), 1))
                vectors = np.hstack([vectors, constants])
        with np.errstate(all="ignore"):
            found = Coordinates.of(LAWS[self.law], columns).log_loss(vectors, columns)
        return np.where(allowed[None, :], found, np.inf)

    def optimum(self, flops: float) -> float:
        """Log N of the lowest loss under the fit. Raises TableError where the line has no lowest point inside."""
        low, high = 0.0, np.log(flops / max(self.flops_per_pair, INFER * self.inference_tokens))
        for round_ in range(REFINEMENTS):
            grid = np.linspace(low, high, 401 if round_ == 0 else 21)
            loss = self._along(self.fit.vector[None], flops, grid)[0]
            best = int(np.argmin(loss))
            last = int(np.flatnonzero(np.isfinite(loss))[-1]) if np.isfinite(loss).any() else 0
            if round_ == 0 and best in (0, last):
                raise TableError(
                    f"{self.fit.law!r} has no best size within {flops:.3g} FLOP: its loss falls up to an end of the "
                    "budget line; give a larger budget, or fit a law with a term for N and one for D, such as additive"
                )
            low, high = grid[max(best - 1, 0)], grid[min(best + 1, len(grid) - 1)]
        return float(grid[best])

    def optima(self, vectors: np.ndarray, flops: float, centre: float) -> tuple[np.ndarray, np.ndarray]:
        """Log N and log loss (b,) of each draw's lowest point, by a parabola through the three lowest on the line."""
        grid = centre + np.linspace(-SPAN, SPAN, POINTS)
        loss = self._along(vectors, flops, grid)
        best = np.clip(np.argmin(loss, axis=1), 1, POINTS - 2)
        rows = np.arange(len(vectors))
        left, middle, right = (loss[rows, best + side] for side in (-1, 0, 1))
        bend = left - 2 * middle + right
        with np.errstate(all="ignore"):
            shift = np.where((bend > 0) & np.isfinite(bend), 0.5 * (left - right) / bend, 0.0)
        return grid[best] + shift * (grid[1] - grid[0]), middle - 0.25 * np.nan_to_num(left - right) * shift

    def _along(self, vectors: np.ndarray, flops: float, log_params: np.ndarray) -> np.ndarray:
        params = np.exp(log_params)
        return self.log_loss(vectors, params, self.examples(flops, params))


def line(fit: Fit, *, cost: Cost = "6ND", inference_tokens: float = 0.0, unique_examples: float | None = None) -> Line:
    """Check what a plan needs. Raises TableError for a law without N and D, or a cost or amount that cannot be."""
    law = LAWS[fit.law]
    if not {"params", "examples"} <= set(law.variables):
        raise TableError(f"a plan needs a law in params and examples; {fit.law!r} is in {', '.join(law.variables)}")
    if inference_tokens < 0 or not np.isfinite(inference_tokens):
        raise TableError(f"inference tokens {inference_tokens:g} must be 0 or more")
    if unique_examples is not None and not 0 < unique_examples < np.inf:
        raise TableError(f"unique examples {unique_examples:g} must be above 0 and finite")
    if fit.law == "repeated" and unique_examples is None:
        raise TableError("this law knows of repeats; say how many unique examples there are")
    if unique_examples is not None and fit.law not in ("additive", "repeated"):
        raise TableError(f"the worth of repeats is known for the additive law, not for {fit.law!r}; fit that one")
    pair = _flops_per_pair(fit, cost)
    return Line(fit, "repeated" if unique_examples is not None else fit.law, pair, inference_tokens, unique_examples)


def _flops_per_pair(fit: Fit, cost: str) -> float:
    if cost == "6ND":
        return TRAIN
    if cost != "measured":
        raise TableError(f"unknown cost rule {cost!r}; the rules are 6ND and measured")
    measured = fit.checklist.get("flops_per_param_example")
    if not measured:
        raise TableError("the fitted table had no flops column, so no cost was measured; add one, or plan with 6ND")
    return float(measured)


def plan(
    fit: Fit, flops: float, *, cost: Cost = "6ND", inference_tokens: float = 0.0,
    unique_examples: float | None = None, level: float = LEVEL,
) -> Plan:  # fmt: skip
    """The N and D of lowest loss for a budget, with intervals from the fit's draws.

    flops: FLOP for training, and for inference too when `inference_tokens` T is given: 6 N D + 2 N T (the dual of
    Sardana et al. 2024, who fix the loss). unique_examples: distinct ones there are; beyond them data repeats, at
    the worth fitted by Muennighoff et al. 2023, or by this fit's own law. cost: "6ND", or "measured" in the table.

    Raises TableError for a budget that is not above 0, or a law that has no best size.
    """
    if not 0 < flops < np.inf:
        raise TableError(f"a budget of {flops:g} FLOP must be above 0 and finite; 1e21 is about one GPU-month")
    spend = line(fit, cost=cost, inference_tokens=inference_tokens, unique_examples=unique_examples)
    centre = spend.optimum(flops)
    params = float(np.exp(centre))
    examples = float(spend.examples(flops, np.array([params]))[0])
    loss = float(np.exp(spend.log_loss(fit.vector[None], np.array([params]), np.array([examples]))[0, 0]))
    repeats = None if unique_examples is None else examples / unique_examples
    return Plan(
        flops, cost, params, examples, examples / params, loss, repeats, inference_tokens, unique_examples,
        _intervals(spend, flops, centre, level), tuple(_notes(fit, params, examples)),
    )  # fmt: skip


def _intervals(spend: Line, flops: float, centre: float, level: float) -> dict[str, Interval]:
    samples = spend.fit.samples
    if samples is None or len(samples) < 2:
        return {}
    log_params, log_loss = spend.optima(samples[:MOST_DRAWS], flops, centre)
    params = np.exp(log_params)
    examples = spend.examples(flops, params)
    draws = {"params": params, "examples": examples, "ratio": examples / params, "loss": np.exp(log_loss)}
    ends = [(1 - level) / 2, (1 + level) / 2]
    return {name: Interval(level, *map(float, np.quantile(values, ends))) for name, values in draws.items()}


def _notes(fit: Fit, params: float, examples: float) -> list[Note]:
    seen_params, seen_examples = fit.ranges["params"][1], fit.ranges["examples"][1]
    beyond = params * examples / (seen_params * seen_examples)
    found = []
    if beyond > FAR:
        text = f"the plan lies {beyond:,.0f} times beyond the largest N x D fitted; its interval knows of noise only"
        found.append(Note("extrapolation", "warning", text))
    return found


# --- inverse questions ---------------------------------------------------------------


@dataclass(frozen=True)
class Budget:
    """The cheapest compute, FLOP, that reaches a loss; its N and D; an interval where the fit has draws."""

    flops: float
    params: float
    examples: float
    loss: float
    interval: Interval | None


def compute_for(fit: Fit, loss: float, *, level: float = LEVEL, **options: Any) -> Budget:
    """The cheapest compute that reaches `loss`. options: as of `plan`.

    Raises TableError where the law's floor, or the scale of the universe (1e40 FLOP), forbids it.
    """
    spend = line(fit, **options)
    floor = fit.parameters.get("E", 0.0)
    if not floor < loss < np.inf:
        raise TableError(f"a loss of {loss:g} lies at or below the law's floor, {floor:.4g}: no compute reaches it")
    budgets = np.arange(3.0, 40.0, 0.25)
    vectors = fit.vector[None] if fit.samples is None else np.vstack([fit.vector, fit.samples[:200]])
    frontier = np.array([spend.optima(vectors, 10**b, spend.optimum(10**b))[1] for b in budgets]).T
    found = [_first_below(budgets, row, np.log(loss)) for row in frontier]
    if not np.isfinite(found[0]):
        raise TableError(f"no budget from 1e3 to 1e40 FLOP just reaches a loss of {loss:g}; ask nearer the runs")
    flops = 10 ** _bisect(lambda power: plan(fit, 10**power, **options).loss - loss, found[0] - 0.3, found[0] + 0.3)
    best = plan(fit, flops, **options)
    interval = None
    if len(found) > 2:
        low, high = np.quantile(np.array(found[1:]), [(1 - level) / 2, (1 + level) / 2])
        interval = Interval(level, float(10**low), float(10**high))
    return Budget(float(flops), best.params, best.examples, best.loss, interval)


def _first_below(budgets: np.ndarray, log_loss: np.ndarray, target: float) -> float:
    below = np.flatnonzero(log_loss <= target)
    if not below.size or below[0] == 0:
        return np.inf
    i = below[0]
    share = (log_loss[i - 1] - target) / (log_loss[i - 1] - log_loss[i])
    return float(budgets[i - 1] + share * (budgets[i] - budgets[i - 1]))


def _bisect(excess: Callable[[float], float], low: float, high: float) -> float:
    """Where a falling function crosses zero."""
    for _ in range(40):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if excess(middle) > 0 else (low, middle)
    return 0.5 * (low + high)


@dataclass(frozen=True)
class Worth:
    """What `factor` times the data buys at a fixed N: the loss before and after, and the N that would buy as much.

    equal_params: the factor on N that gives the same loss on the old data; infinite where no size does.
    """

    factor: float
    before: float
    after: float
    equal_params: float


def worth_of_data(fit: Fit, params: float, examples: float, factor: float = 2.0) -> Worth:
    """Compare `factor` times the data with a larger model. Raises TableError for a law without N and D."""
    spend = line(fit)
    sizes = np.exp(np.linspace(0.0, np.log(1e9), 4001))
    losses = spend.log_loss(fit.vector[None], params * sizes, np.full(sizes.size, examples))[0]
    after = spend.log_loss(fit.vector[None], np.array([params]), np.array([factor * examples]))[0, 0]
    equal = float(np.interp(-after, -losses, sizes)) if losses[-1] < after else np.inf
    return Worth(factor, float(np.exp(losses[0])), float(np.exp(after)), equal)


@dataclass(frozen=True)
class Miss:
    """A plan with N off by `factor` (n,): its loss (n,), and the share of the compute that is wasted (n,)."""

    factor: np.ndarray
    loss: np.ndarray
    wasted: np.ndarray


def cost_of_miss(fit: Fit, flops: float, factors: np.ndarray) -> Miss:
    """How wrong a plan may be: at N = factor x the best, the loss, and 1 - C'/C where C' would have sufficed."""
    spend, best = line(fit), plan(fit, flops)
    factors = np.asarray(factors, dtype=float)
    params = best.params * factors
    log_loss = spend.log_loss(fit.vector[None], params, spend.examples(flops, params))[0]
    budgets = np.log(flops) - np.linspace(8.0**0.5, 0.0, 33) ** 2  # dense where misses are small
    frontier = np.array([spend.optima(fit.vector[None], c, spend.optimum(c))[1][0] for c in np.exp(budgets)])
    needed = np.interp(-log_loss, -frontier, budgets)
    return Miss(factors, np.exp(log_loss), 1 - np.exp(needed - np.log(flops)))
