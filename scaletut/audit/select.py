"""Which images to label next, and which to train on: scores, and rules that choose by them."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np

from scaletut.errors import DataError, ParameterError

Doubt = Literal["margin", "entropy"]
Rule = Literal["hardest", "easiest", "random"]


def doubt(logits: np.ndarray, kind: Doubt = "margin") -> np.ndarray:
    """How unsure a network is of each image, float64 (n,), 0 to 1: what to have labelled next comes first.

    `margin`: one less the gap between the two largest probabilities (Scheffer et al. 2001);
    `entropy`: entropy of the probabilities over its largest value, log K.

    Raises:
        DataError: logits that are not (n, K) with K > 1, or not finite.
        ParameterError: an unknown kind.
    """
    if kind not in get_args(Doubt):
        raise ParameterError(f"unknown doubt {kind!r}; use {' or '.join(get_args(Doubt))}")
    probabilities = _softmax(logits)
    if kind == "margin":
        second, first = np.partition(probabilities, -2, axis=1)[:, -2:].T
        return 1 - (first - second)
    terms = np.where(probabilities > 0, probabilities * np.log(np.maximum(probabilities, 1e-300)), 0)
    return -terms.sum(axis=1) / np.log(probabilities.shape[1])


def k_center(features: np.ndarray, k: int, chosen: np.ndarray | None = None) -> np.ndarray:
    """`k` rows that leave no other far from a chosen one, int64 (k,), in the order of the choice.

    Each step takes the row that is farthest from all chosen so far, which keeps the largest remaining distance within
    a factor of two of the best possible. Source: Sener and Savarese 2018, algorithm 1 (arXiv:1708.00489).

    Args:
        features: float (n, d), finite.
        k: rows to choose, 1 to the rows that are left.
        chosen: int (m,), rows that are in already; without any, the row nearest to the mean is the first choice.

    Raises:
        DataError: features of another shape, or not finite.
        ParameterError: more rows than are left.
    """
    features = np.asarray(features, np.float32)
    if features.ndim != 2 or not np.isfinite(features).all():
        raise DataError(f"features must be finite numbers (n, d), got {features.shape}; look for NaN in them")
    old = np.asarray([] if chosen is None else chosen, np.int64)
    if not 0 < k <= len(features) - len(old):
        raise ParameterError(f"cannot choose {k} of the {len(features) - len(old)} rows that are left")
    if not len(old):
        first = int(np.square(features - features.mean(axis=0)).sum(axis=1).argmin())
        rest = k_center(features, k - 1, np.array([first])) if k > 1 else np.empty(0, np.int64)
        return np.concatenate([[first], rest])
    squares = np.square(features).sum(axis=1)
    nearest = np.full(len(features), np.inf, np.float32)
    for row in old:
        np.minimum(nearest, _distances(features, squares, row), out=nearest)
    picked = np.empty(k, np.int64)
    nearest[old] = -np.inf  # never twice, also where rows are equal
    for number in range(k):
        picked[number] = row = int(nearest.argmax())
        np.minimum(nearest, _distances(features, squares, row), out=nearest)
        nearest[row] = -np.inf
    return picked


def _distances(features: np.ndarray, squares: np.ndarray, row: int) -> np.ndarray:
    """Squared distances of all rows to one, float32 (n,)."""
    return squares + squares[row] - 2 * (features @ features[row])


def el2n(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Difficulty of each image: length of the error vector |softmax(logits) - one-hot label|, float64 (n,), 0 to √2.

    Meant for logits of a network early in its training, averaged over several of them.
    Source: Paul, Ganguli and Dziugaite 2021, definition 2 (arXiv:2107.07075).
    Raises DataError when logits (n, K) and labels (n,) do not fit together.
    """
    error = _softmax(logits)
    labels = _checked_labels(error, labels)
    error[np.arange(len(labels)), labels] -= 1
    return np.linalg.norm(error, axis=1)


def label_margin(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Difficulty of each image: largest probability of another class less that of the label, float64 (n,), -1 to 1.

    Above 0 the network would answer wrongly. Raises DataError when logits and labels do not fit together.
    """
    probabilities = _softmax(logits)
    labels = _checked_labels(probabilities, labels)
    rows = np.arange(len(labels))
    own = probabilities[rows, labels].copy()
    probabilities[rows, labels] = -1
    return probabilities.max(axis=1) - own


def keep(
    difficulty: np.ndarray, share: float, rule: Rule, *, labels: np.ndarray | None = None, seed: int = 0
) -> np.ndarray:
    """Rows of the images that stay when a set is pruned to a `share` of it, int64, rising.

    Args:
        difficulty: float (n,), larger is harder.
        share: of the images that stay, above 0 to 1.
        rule: which ones: the `hardest`, the `easiest`, or `random` ones.
        labels: int (n,); when given, each class keeps its share, so that pruning does not unbalance the classes.
        seed: of the random rule, and of the draws between equal difficulties.

    Raises:
        ParameterError: an unknown rule, or a share out of range.
        DataError: difficulties or labels of another shape, or not finite.
    """
    difficulty = np.asarray(difficulty, np.float64)
    if rule not in get_args(Rule):
        raise ParameterError(f"unknown rule {rule!r}; use {', '.join(get_args(Rule))}")
    if not 0 < share <= 1:
        raise ParameterError(f"share={share} is what stays of the images; use above 0 to 1")
    groups = np.zeros(difficulty.shape, np.int64) if labels is None else np.asarray(labels)
    if difficulty.ndim != 1 or groups.shape != difficulty.shape or not np.isfinite(difficulty).all():
        raise DataError(
            f"difficulties {difficulty.shape} and labels {groups.shape} must be one finite number each an image"
        )
    draw = np.random.default_rng(seed).random(len(difficulty))
    rank = {"hardest": -difficulty, "easiest": difficulty, "random": draw}[rule]
    order = np.lexsort((draw, rank))
    kept = [order[groups[order] == group] for group in np.unique(groups)]
    return np.sort(np.concatenate([rows[: max(1, round(share * len(rows)))] for rows in kept]))


def _softmax(logits: np.ndarray) -> np.ndarray:
    logits = np.asarray(logits, np.float64)
    if logits.ndim != 2 or logits.shape[1] < 2 or not np.isfinite(logits).all():
        raise DataError(f"logits must be finite numbers (n, K) with K > 1, got {logits.shape}; did the run diverge?")
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    return weights / weights.sum(axis=1, keepdims=True)


def _checked_labels(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    labels = np.asarray(labels)
    if labels.shape != (len(scores),) or labels.dtype.kind not in "iu":
        raise DataError(f"labels are {labels.dtype} {labels.shape} for {len(scores)} rows of logits; give one each")
    if len(labels) and not 0 <= labels.min() <= labels.max() < scores.shape[1]:
        raise DataError(f"labels run from {labels.min()} to {labels.max()}; there are {scores.shape[1]} logits a row")
    return labels
