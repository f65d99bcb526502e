"""Wrong labels found among CIFAR-10N's human ones, trained on these alone: average precision, and the time it takes.

The clean labels (CIFAR-10's own) only score the ranking; no constant of the room was chosen on them.
Beside it the common way with scikit-learn: five-fold logistic regression on principal components of the pixels,
ranked by cleanlab's self-confidence.
Intervals are 95 %, from 200 bootstrap samples of the images (one run of each way: they do not hold its seed's scatter).
The last part plants label noise into `zipf10`, where the truth is known, and tells what is seen three times or more
from what is not: nobody can know the class of a pattern that was seen once.

    SCALETUT_DATA=... python benchmarks/audit_labels.py [--labels worst random1 aggregate] [--images 50000] [--seed 0]

Exits 1 when an average precision is below what is asked for, or takes more than ten minutes (all images only).
CIFAR-10N: Wei et al. 2022, CC BY-NC 4.0.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable

import numpy as np
from cleanlab.rank import get_label_quality_scores
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score
from sklearn.model_selection import cross_val_predict
from sklearn.pipeline import make_pipeline
from tqdm import tqdm

from scaletut.audit import label_issues, out_of_fold, ranking
from scaletut.data import human_labels, load

ASKED = {"worst": 0.88, "random1": 0.77, "aggregate": 0.58}
LONGEST = 600  # seconds for one set of labels
ZIPF = {"noise=0.1": 0, "noise=0.3": 1, "noise=0.1,patterns=200,a=1": 2}  # options and a seed of their own
WORDS = ("labels", "way", "wrong", "average precision", "P of issues", "R", "wall s", "CPU s")


def ours(images: np.ndarray, labels: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Suspicion and probabilities by the audit."""
    with tqdm(total=1.0, desc="audit", leave=False, bar_format="{l_bar}{bar}| {elapsed}") as bar:
        probabilities = out_of_fold(
            images, labels, 10, seed=seed, network=True, progress=lambda share: bar.update(share - bar.n)
        )
    return ranking(labels, probabilities), probabilities


def peer(images: np.ndarray, labels: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The same by scikit-learn and cleanlab."""
    pixels = images.reshape(len(images), -1).astype(np.float32) / 255
    model = make_pipeline(PCA(100, whiten=True, random_state=seed), LogisticRegression(max_iter=200))
    probabilities = cross_val_predict(model, pixels, labels, cv=5, method="predict_proba")
    return -get_label_quality_scores(labels, probabilities, method="self_confidence"), probabilities


def interval(wrong: np.ndarray, score: np.ndarray, seed: int, samples: int = 200) -> tuple[float, float]:
    """95 % bootstrap interval of the average precision."""
    rng = np.random.default_rng(seed)
    draws = (rng.integers(0, len(wrong), len(wrong)) for _ in range(samples))
    low, high = np.quantile([average_precision_score(wrong[rows], score[rows]) for rows in draws], [0.025, 0.975])
    return float(low), float(high)


def measure(
    way: Callable[[np.ndarray, np.ndarray, int], tuple[np.ndarray, np.ndarray]],
    images: np.ndarray,
    labels: np.ndarray,
    clean: np.ndarray,
    title: str,
    seed: int,
) -> tuple[float, float]:
    """Print one line; the average precision and the seconds."""
    wall, cpu = time.perf_counter(), time.process_time()
    score, probabilities = way(images, labels, seed)
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    wrong = labels != clean
    found = label_issues(labels, probabilities).index
    reached = average_precision_score(wrong, score)
    low, high = interval(wrong, score, seed)
    precision, recall = wrong[found].mean(), wrong[found].sum() / wrong.sum()
    text = f"{reached:.3f} ({low:.3f} – {high:.3f})"
    print(
        f"{title:<34}{wrong.mean():>7.3f}{text:>26}{precision:>13.3f}{recall:>7.3f}{wall:>8.0f}{cpu:>8.0f}", flush=True
    )
    return float(reached), wall


def zipf(options: str, seed: int) -> None:
    """Print what is found of planted noise, for all images and for patterns seen three times or more."""
    data = load(f"zipf10:{options}", n_test=1, seed=seed).train
    probabilities = out_of_fold(data.images, data.labels, 10)
    score = ranking(data.labels, probabilities)
    wrong = data.labels != data.truth.clean_labels
    found = np.isin(np.arange(len(data)), label_issues(data.labels, probabilities).index)
    often = np.bincount(data.truth.pattern)[data.truth.pattern] >= 3
    for title, part in (("all", np.ones(len(data), bool)), ("seen three times", often)):
        precision, recall = wrong[found & part].mean(), found[wrong & part].mean()
        reached = average_precision_score(wrong[part], score[part])
        print(f"{options:<30}{title:<18}{part.sum():>7}{reached:>8.3f}{precision:>8.3f}{recall:>8.3f}", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--labels", nargs="+", choices=tuple(ASKED), default=list(ASKED))
    parser.add_argument("--images", type=int, default=50_000, help="the first so many (default: all 50,000)")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    data = load("cifar10").train
    images, clean = data.images[: options.images], human_labels("clean")[: options.images]
    print("{:<10}{:<22}{:>7}{:>26}{:>13}{:>7}{:>8}{:>7}".format(*WORDS))
    missed = []
    for kind in options.labels:
        labels = human_labels(kind)[: options.images]
        measure(peer, images, labels, clean, f"{kind:<10}pixels, scikit-learn", options.seed)
        reached, wall = measure(ours, images, labels, clean, f"{kind:<10}scaletut.audit", options.seed)
        if reached < ASKED[kind] or wall > LONGEST:
            missed.append(f"{kind} ({reached:.3f}, asked for {ASKED[kind]}; {wall:.0f} s)")
    print(f"\n{'zipf10':<30}{'patterns':<18}{'images':>7}{'AP':>8}{'P':>8}{'R':>8}")
    for source, seed in ZIPF.items():
        zipf(source, seed)
    whole = options.images >= len(data)
    print(
        "\nMISSED: " + "; ".join(missed)
        if missed and whole
        else "\nreached"
        if whole
        else "\nnot all images: no verdict"
    )
    return 1 if missed and whole else 0


if __name__ == "__main__":
    sys.exit(main())
