"""How well curves are extrapolated: simulated learning curves of many shapes, the forecast against single laws.

    OMP_NUM_THREADS=1 python benchmarks/scaling_curves.py [--curves 92] [--seed 0] [--laws] [--zipf10]

A curve has 8 to 70 runs over 1.2 to 4.5 decades, evenly in log x or in x, noise of 0.1 to 2.5 % that neighbours may
share, and often the counting noise of a test set of 1,000 to 50,000. Its larger half is hidden, or all beyond a 2nd to
a 16th of its largest x. Shapes: a power on a floor, with a flat beginning, leaving chance level, with one or two
breaks, a sigmoid in log x, and the closed form of `zipf10` with a full or a bounded memory; as an error, a loss or a
perplexity. --laws adds each law fitted alone, --zipf10 nearest-neighbour error curves measured on `zipf10` itself.
No published curve is used here, so that published ones stay a test.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from scaletut.scaling import TableError, fit, forecast
from scaletut.scaling.laws import LAWS

FORMS = ("power_floor", "shifted", "saturating", "one_break", "two_breaks", "zipf", "sigmoid")
SCALES = {"error": 0.6, "loss": 0.3, "perplexity": 0.1}
STEEPEST = 3.0  # a curve that falls by more beyond its seen part is drawn anew: nothing in its past told so
LAWS_ALONE = ("power_floor", "shifted", "saturating", "broken")
Predictor = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Curve:
    """Losses (n,) at x (n,), and which of them may be seen (n,)."""

    x: np.ndarray
    loss: np.ndarray
    seen: np.ndarray
    kind: str

    def error(self, predict: Predictor) -> float:
        """Root mean square of the log error on the hidden runs."""
        predicted = predict(self.x[self.seen], self.loss[self.seen], self.x[~self.seen])
        return float(np.sqrt(np.mean(np.log(predicted / self.loss[~self.seen]) ** 2)))


# --- simulated curves ------------------------------------------------------------------


def draw(generator: np.random.Generator) -> Curve:
    """A random curve."""
    while True:
        curve = _drawn(generator)
        if curve is not None and curve.loss[~curve.seen].min() > curve.loss[curve.seen][-1] / STEEPEST:
            return curve


def _drawn(generator: np.random.Generator) -> Curve | None:
    count = int(generator.integers(8, 21) if generator.random() < 0.35 else generator.integers(20, 71))
    x = 10 ** generator.uniform(0, 7) * np.geomspace(1, 10 ** generator.uniform(1.2, 4.5), count)
    if generator.random() < 0.3:  # checkpoints of one run
        x = np.linspace(x[-1] / count, x[-1], count)
    form, scale = str(generator.choice(FORMS)), str(generator.choice(list(SCALES), p=list(SCALES.values())))
    clean = _levels(_share(form, np.log(x), scale, generator), scale, generator)
    if not np.isfinite(clean).all() or clean.min() < 1e-4 or clean[0] < 1.05 * clean[-1]:
        return None
    return Curve(x, _noisy(clean, scale, generator), _seen(x, generator), f"{form}/{scale}")


def _share(form: str, log_x: np.ndarray, scale: str, generator: np.random.Generator) -> np.ndarray:
    """Share (n,) of the reducible loss that is left."""
    low, span = log_x[0], np.ptp(log_x)
    alpha = (0.3 if scale == "error" else 0.2) * np.exp(generator.normal(0, 0.6))
    middle = low + span * generator.uniform(-0.2, 0.7)
    if form == "power_floor":
        return generator.uniform(0.3, 1) * np.exp(-alpha * (log_x - low))
    if form == "shifted":
        return np.exp(-alpha * (np.logaddexp(log_x, middle) - np.logaddexp(low, middle)))
    if form == "saturating":
        return _saturating(alpha * (log_x - middle), generator.uniform(0.3, 2.0))
    if form == "zipf":
        return _zipf(log_x, generator)
    if form == "sigmoid":
        return 1 / (1 + np.exp(2 * alpha * (log_x - middle)))
    power = -alpha * generator.uniform(0, 1) * (log_x - low)
    for _ in range(1 if form == "one_break" else 2):
        width, place = generator.uniform(0.2, 1.5), low + span * generator.uniform(0, 1)
        bend = np.logaddexp(0, (log_x - place) / width) - np.logaddexp(0, (low - place) / width)
        power -= generator.normal(0.15, 0.25) * width * bend
    return np.exp(np.minimum(power, 0))


def _saturating(fall: np.ndarray, gamma: float) -> np.ndarray:
    """s with log s - gamma log(1 - s) = -fall (M4 of Alabdulmohsin et al. 2022), by bisection in the logit."""
    low, high = np.full_like(fall, -30.0), np.full_like(fall, 30.0)
    for _ in range(60):
        logit = 0.5 * (low + high)
        below = gamma * np.logaddexp(0, logit) - np.logaddexp(0, -logit) + fall < 0
        low, high = np.where(below, logit, low), np.where(below, high, logit)
    return 1 / (1 + np.exp(-logit))


def _zipf(log_x: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Chance that a drawn pattern was not seen, or is one beyond the memory: the closed form of `zipf10`."""
    rank = np.arange(1, 20_001.0)
    share = rank ** -(1 + generator.uniform(0.2, 1.5))
    share /= share.sum()
    held = np.where(rank <= 10 ** generator.uniform(2, 4.3), share, 0.0)
    seen = np.exp(log_x - log_x[0] + generator.uniform(-1, 3))
    return np.array([share @ np.exp(-held * count) for count in seen])


def _levels(share: np.ndarray, scale: str, generator: np.random.Generator) -> np.ndarray:
    top = generator.uniform(*{"error": (0.5, 1.0), "loss": (2.0, 10.0), "perplexity": (3.0, 8.0)}[scale])
    floor = 0.0 if generator.random() < 0.25 else 10 ** generator.uniform(-2.5, -0.2)
    level = top * (floor + (1 - floor) * share)
    return np.exp(level) if scale == "perplexity" else level


def _noisy(clean: np.ndarray, scale: str, generator: np.random.Generator) -> np.ndarray:
    shared, noise = generator.choice([0.0, 0.5, 0.8]), generator.normal(size=clean.size)
    for i in range(1, clean.size):
        noise[i] = shared * noise[i - 1] + np.sqrt(1 - shared**2) * noise[i]
    loss = clean * np.exp(10 ** generator.uniform(-3, -1.6) * noise)
    if scale == "error" and generator.random() < 0.6:
        tested = int(10 ** generator.uniform(3, 4.7))
        loss = np.maximum(generator.binomial(tested, np.minimum(loss, 1)), 1) / tested
    return loss


def _seen(x: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    order = np.arange(len(x))
    half = order < max(len(x) // 2, 4)
    if generator.random() < 0.5:
        return half
    near = x <= x[-1] / np.exp(generator.uniform(np.log(2), np.log(16)))
    return near if near.sum() >= 4 else half


# --- measured curves --------------------------------------------------------------------


def zipf10_curves() -> list[Curve]:
    """Error of one nearest neighbour in 8 x 8 colour pixels on `zipf10` data sets of several laws."""
    from scaletut.data.zipf import zipf10

    sizes = np.unique((64 * 2 ** (np.arange(33) / 4)).astype(int))
    found = []
    for seed, (a, noise) in enumerate([(a, noise) for a in (0.3, 0.6, 1.0) for noise in (0, 0.1)]):
        data = zipf10(f"a={a},noise={noise}", seed=seed, n_train=int(sizes[-1]), n_test=2000)
        train, test = (_small(part.images) for part in (data.train, data.test))
        distance = (train**2).sum(1) - 2 * test @ train.T
        wrong = [(data.train.labels[distance[:, :n].argmin(1)] != data.test.labels).mean() for n in sizes]
        loss = np.maximum(wrong, 1 / 4000)
        kept = loss > 0.01  # counts below 20 tell nothing
        for reach in (4, 8):
            found.append(Curve(sizes[kept].astype(float), loss[kept], sizes[kept] <= sizes[-1] / reach, "zipf10"))
    return [curve for curve in found if (~curve.seen).any()]


def _small(images: np.ndarray) -> np.ndarray:
    side = images.shape[1] // 8
    blocks = images.reshape(len(images), 8, side, 8, side, 3).mean((2, 4))
    return blocks.reshape(len(images), -1).astype(np.float32) / 128 - 1


# --- report ---------------------------------------------------------------------------


def by_forecast(x: np.ndarray, loss: np.ndarray, at: np.ndarray) -> np.ndarray:
    """The room's own extrapolation."""
    return forecast(x, loss).predict(at)


def by_law(law: str) -> Predictor:
    """One law, fitted; the last loss where it cannot be."""

    def predict(x: np.ndarray, loss: np.ndarray, at: np.ndarray) -> np.ndarray:
        try:
            return fit({"examples": x, "loss": loss}, law, starts=min(6, LAWS[law].starts)).predict(at)
        except TableError:
            return np.full(at.size, loss[-1])

    return predict


def last_loss(x: np.ndarray, loss: np.ndarray, at: np.ndarray) -> np.ndarray:
    """No progress at all."""
    return np.full(at.size, loss[-1])


def covered(curve: Curve) -> float:
    """Share of the hidden runs inside their band of 90 %."""
    low, high = forecast(curve.x[curve.seen], curve.loss[curve.seen]).interval(curve.x[~curve.seen], 0.9)
    return float(np.mean((low <= curve.loss[~curve.seen]) & (curve.loss[~curve.seen] <= high)))


def report(title: str, curves: list[Curve], methods: dict[str, Predictor]) -> None:
    """One line a method: errors over curves, and processor seconds a curve."""
    print(f"{title}: {len(curves)} curves, root mean square of the log error on their hidden runs")
    print(f"{'':<14}{'mean':>9}{'median':>9}{'90 %':>9}{'worst':>9}{'> 0.2':>7}{'s':>9}")
    for name, method in methods.items():
        started = time.process_time()
        values = np.array([curve.error(method) for curve in curves])
        seconds = (time.process_time() - started) / len(curves)
        ends = f"{np.mean(values):>9.4f}{np.median(values):>9.4f}{np.quantile(values, 0.9):>9.4f}{values.max():>9.4f}"
        print(f"{name:<14}{ends}{np.sum(values > 0.2):>7}{seconds:>9.3f}")
    print(f"bands of 90 % hold {np.mean([covered(curve) for curve in curves]):.1%} of the hidden runs\n")


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--curves", type=int, default=92)
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--laws", action="store_true", help="also each law alone")
    options.add_argument("--zipf10", action="store_true", help="also curves measured on zipf10")
    given = options.parse_args()
    generator = np.random.default_rng(given.seed)
    methods: dict[str, Predictor] = {"forecast": by_forecast, "last loss": last_loss}
    if given.laws:
        methods |= {law: by_law(law) for law in LAWS_ALONE}
    report("simulated", [draw(generator) for _ in range(given.curves)], methods)
    if given.zipf10:
        report("zipf10", zipf10_curves(), methods)


if __name__ == "__main__":
    main()
