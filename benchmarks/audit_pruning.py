"""Data pruning: from how large a set does keeping the hardest examples beat keeping the easiest?

    python benchmarks/audit_pruning.py perceptron [--record results]
    SCALETUT_DATA=... python benchmarks/audit_pruning.py images [--sizes 6000 24000] [--record results]

* `perceptron`: the setting of the theory (Sorscher et al. 2022, section 2, arXiv:2206.14486), where it is seconds of
  work. A teacher draws a plane through the origin, examples are normal, the hard ones lie near the plane (the probe
  that ranks them is the teacher itself), and the student is a linear classifier of nearly the largest margin. Its error
  is exact: the angle between the two planes over π.
* `images`: CIFAR-10 at 16 pixels, the chapter's small network and its measure of difficulty (EL2N of two networks),
  from sets larger than the chapter has time for. Every arm of one size takes as many steps.

Intervals are 95 %, Student's t over seeds; a turning point is where the lead of the hardest over the easiest, on a
straight line between two sizes on a logarithmic axis, is zero.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from sklearn.linear_model import LogisticRegression
from tqdm import tqdm

from scaletut.audit import el2n, keep
from scaletut.data import ImageSet, load
from scaletut.files import digest_json
from scaletut.records import Value, format_value, new_record, peak_memory, write_record
from scaletut.train.presets import PRESETS, run_preset

RULES = ("hardest", "easiest", "random")
DIMENSIONS = 100
EXAMPLES = (2, 4, 8, 16, 32, 64)  # a dimension
WEAK = 1e5  # inverse strength of the penalty: so weak that the separating plane is nearly that of the largest margin
WIDTH, SIDE, EPOCHS = 8, 16, 6  # the chapter's `laptop`
Errors = dict[tuple[int, float, str], list[float]]  # (size, share, rule) -> error in %, one a seed


def perceptron(options: argparse.Namespace) -> Errors:
    """Errors of a linear student of a linear teacher."""
    sizes, shares = options.sizes or EXAMPLES, options.shares or (0.2, 0.5, 0.8)
    errors: Errors = {}
    for examples in tqdm(sizes, desc="examples a dimension"):
        for seed in range(options.seeds or 20):
            draw = np.random.default_rng([seed, examples])
            teacher = draw.normal(size=DIMENSIONS)
            x = draw.normal(size=(examples * DIMENSIONS, DIMENSIONS))
            margin = x @ teacher
            for share in shares:
                for rule in RULES:
                    rows = keep(-np.abs(margin), share, rule, seed=seed)
                    error = student_error(x[rows], margin[rows] > 0, teacher)
                    errors.setdefault((examples, share, rule), []).append(error)
    return errors


def student_error(x: np.ndarray, labels: np.ndarray, teacher: np.ndarray) -> float:
    """Error in % on all normal examples of a student that separates `x`."""
    model = LogisticRegression(C=WEAK, fit_intercept=False, max_iter=5000)
    plane = model.fit(x, labels).coef_[0]
    cosine = plane @ teacher / (np.linalg.norm(plane) * np.linalg.norm(teacher))
    return float(100 * np.arccos(np.clip(cosine, -1, 1)) / np.pi)


def images(options: argparse.Namespace) -> Errors:
    """Test errors of the chapter's network on CIFAR-10."""
    data = load("cifar10")
    pool, test = shrunk(data.train), shrunk(data.test)
    sizes, shares, seeds = (
        options.sizes or (6000, 24_000),
        options.shares or (0.4, 0.8),
        options.seeds or 3,
    )
    errors: Errors = {}
    with tqdm(total=sum(sizes) * seeds, desc="images") as bar:
        for n in sizes:
            for seed in range(seeds):
                part = pool.take(np.sort(np.random.default_rng(seed).permutation(len(pool))[:n]))
                difficulty = np.mean(
                    [el2n(trained(part, 100 + 2 * seed + k, 2, n).predict(part), part.labels) for k in range(2)], axis=0
                )
                for share in shares:
                    for rule in RULES:
                        kept = part.take(keep(difficulty, share, rule, labels=part.labels, seed=seed))
                        run = trained(kept, seed, EPOCHS / 2 / share, n)
                        error = 100 * np.mean(run.predict(test).argmax(axis=1) != test.labels)
                        errors.setdefault((n, share, rule), []).append(float(error))
                bar.update(n)
    return errors


def trained(data: ImageSet, seed: int, epochs: float, like: int):
    """The chapter's network and recipe, in batches as for `like` images."""
    batch = min(256, max(16, 2 ** round(np.log2(like / 10))))
    recipe = replace(PRESETS["fast"].recipe, crop=0, flip="none", epochs=epochs, batch_size=batch)
    return run_preset(replace(PRESETS["fast"], width=WIDTH / 32, recipe=recipe), data, seed)


def shrunk(data: ImageSet) -> ImageSet:
    """The set at `SIDE` pixels: the mean of each square of pixels."""
    n, height, width, _ = data.images.shape
    blocks = data.images.reshape(n, SIDE, height // SIDE, SIDE, width // SIDE, 3)
    return replace(data, images=blocks.mean(axis=(2, 4)).round().astype(np.uint8))


def turnover(sizes: Sequence[int], leads: Iterable[float]) -> float:
    """Size from which the lead stays positive; nan where it is so at none, or already at the smallest."""
    lead = np.array(list(leads))
    below = np.flatnonzero(lead <= 0)
    if not len(below) or below[-1] == len(lead) - 1:
        return np.nan
    i = below[-1]
    step = lead[i] / (lead[i] - lead[i + 1])
    return float(np.exp(np.log(sizes[i]) + step * np.log(sizes[i + 1] / sizes[i])))


def summary(errors: Errors) -> dict[str, Value]:
    """Each arm's error, the lead of the hardest at each size and share, and where it turns."""
    values = {f"{rule}_{n}_{round(100 * share)}": Value.of(e, "%") for (n, share, rule), e in errors.items()}
    sizes, shares = (sorted({key[i] for key in errors}) for i in (0, 1))
    for share in shares:
        leads = np.array([np.subtract(errors[n, share, "easiest"], errors[n, share, "hardest"]) for n in sizes])
        for n, lead in zip(sizes, leads, strict=True):
            values[f"lead_{n}_{round(100 * share)}"] = Value.of(lead, "points")
        turns = [turnover(sizes, lead) for lead in leads.T]
        if np.isfinite(turns).all():
            values[f"turnover_{round(100 * share)}"] = Value.of(turns)
    return values


def show(errors: Errors, values: dict[str, Value]) -> None:
    print(f"{'size':>7}{'kept':>6}" + "".join(f"{rule + ': error (%)':>24}" for rule in RULES) + f"{'lead':>22}")
    for n, share in dict.fromkeys(key[:2] for key in errors):
        names = [*RULES, "lead"]
        row = [format_value(values[f"{name}_{n}_{round(100 * share)}"], "interval") for name in names]
        print(f"{n:>7}{share:>6.0%}" + "".join(f"{text:>24}" for text in row[:3]) + f"{row[3]:>22}")
    for name, value in values.items():
        if name.startswith("turnover"):
            print(f"{name}: the hardest lead from {format_value(value, 'interval')} on")
    if not any(name.startswith("turnover") for name in values):
        print("at no share do the hardest come to lead in every seed")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("part", choices=("perceptron", "images"))
    parser.add_argument("--sizes", type=int, nargs="+", help="examples a dimension, or images")
    parser.add_argument("--shares", type=float, nargs="+", help="shares that are kept")
    parser.add_argument("--seeds", type=int)
    parser.add_argument("--record", type=Path, help="folder that gets a record of the run")
    options = parser.parse_args()
    began = time.perf_counter()
    errors = globals()[options.part](options)
    values = summary(errors)
    show(errors, values)
    if options.record:
        sizes, shares = (sorted({key[i] for key in errors}) for i in (0, 1))
        parameters = {"sizes": list(sizes), "shares": list(shares)}
        known = {"perceptron": {"dimensions": DIMENSIONS}, "images": {"width": WIDTH, "side": SIDE, "epochs": EPOCHS}}
        parameters |= known[options.part]
        record = new_record(
            f"labels.{options.part}",
            profile="laptop",
            parameters=parameters,
            data_digest=load("cifar10").train.digest if options.part == "images" else digest_json(parameters),
            seeds=range(len(next(iter(errors.values())))),
            values=values,
            wall_seconds=time.perf_counter() - began,
            peak_memory_bytes=peak_memory(),
            dtype="float32" if options.part == "images" else "float64",
            command=f"python benchmarks/audit_pruning.py {options.part}",
        )
        print(write_record(record, options.record, replace=True))
    return 0


if __name__ == "__main__":
    sys.exit(main())
