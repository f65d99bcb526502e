"""Labels that are probably wrong: what a classifier that never saw an image thinks of its label.

Each image is judged by classifiers that were trained without it and without its near duplicates, on the labels as
they are, wrong ones included.
Two classifiers that fail differently are asked: a ridge regression on patch features, and, where there are images
enough to train it, a small network for a few epochs (a network learns what most labels agree on before it learns the
exceptions: Arpit et al. 2017, "A Closer Look at Memorization in Deep Networks").
Confident learning then says how many of the labels are wrong, and a margin says which come first.

Source: C. Northcutt, L. Jiang and I. Chuang, "Confident Learning: Estimating Uncertainty in Dataset Labels", JAIR 70,
2021, by its authors' library cleanlab.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
from scipy.linalg import cho_factor, cho_solve
from scipy.optimize import minimize
from scipy.special import logsumexp, softmax

from scaletut.audit.features import at_side, patch_features
from scaletut.errors import DataError, ParameterError

FOLDS = 5  # of the ridge regression, whose fits cost next to nothing
STRENGTHS = (0.003, 0.01, 0.03, 0.1, 0.3)  # of the ridge penalty, a share of the images learned from
NETWORK_FROM = 10_000  # images; a network that sees fewer in its few epochs adds little to the patches
NETWORK_FOLDS = 2  # on 15,000 images 2 x 6 epochs ranked better than 3 x 3, at equal cost
NETWORK_EPOCHS, NETWORK_BATCH, NETWORK_WIDTH = 4, 256, 0.5
SHARPEST = 30.0  # largest weight of a classifier's scores, whose standard deviation is 1
PATCH_SHARE = 0.25  # of the work, about, that the patch features are when there is a network too

Progress = Callable[[float], None]


@dataclass(frozen=True)
class LabelIssues:
    """Labels that are probably wrong, the most suspicious first.

    `index` int64 (m,): rows of the images. `given`, `suggested` int64 (m,): the label and the likelier one.
    `score` float64 (m,): falls, at most 1; see `ranking`.
    `threshold`: the lowest score that counts, and `reason` where it comes from.
    """

    index: np.ndarray
    given: np.ndarray
    suggested: np.ndarray
    score: np.ndarray
    threshold: float
    reason: str

    def __len__(self) -> int:
        return len(self.index)


def out_of_fold(
    images: np.ndarray,
    labels: np.ndarray,
    classes: int,
    *,
    folds: int = FOLDS,
    seed: int = 0,
    groups: np.ndarray | None = None,
    network: bool | None = None,
    progress: Progress | None = None,
) -> np.ndarray:
    """Probability of each class for each image, by classifiers that did not see it: float64 (n, `classes`).

    Args:
        images: uint8 (n, height, width, 3).
        labels: int64 (n,), 0 to `classes` - 1; they may be wrong, and a class may be empty.
        classes: 2 or more.
        folds: parts that the images are dealt to; each part is judged by what the others teach. 2 to n.
            The network, which costs most, is trained on `NETWORK_FOLDS` parts of its own.
        seed: decides the folds, the patches and the network.
        groups: int64 (n,); images of equal number (near duplicates) are never on both sides.
        network: whether a small network is asked beside the patches; by default from `NETWORK_FROM` images on.
        progress: told the share done, 0 to 1.

    Raises `DataError` for images or labels that do not fit together, `ParameterError` for too many folds.
    """
    _check_labels(labels, classes, len(images))
    fold = assign_folds(labels, folds, seed, groups)
    images = at_side(images)
    network = len(images) >= NETWORK_FROM if network is None else network
    share = PATCH_SHARE if network else 1.0
    features = patch_features(images, seed=seed, progress=_part(progress, 0, share))
    members = [ridge_scores(features, labels, classes, fold)]
    if network:
        del features
        fold = assign_folds(labels, NETWORK_FOLDS, seed, groups)
        members.append(network_scores(images, labels, classes, fold, seed, _part(progress, share, 1)))
    return blend(members, labels)


def ranking(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """How suspicious each label is, float64 (n,), -0.5 to 1: (1 + p of the likeliest other class) / 2 - p of its own.

    The mean of two measures of cleanlab with the sign turned, for neither is best everywhere.
    One minus the probability of the given label (self-confidence) ranks best where people err on pictures that are
    hard for the classifier too.
    The likeliest other class less the given one (normalised margin) ranks best where one class is often mistaken for
    another, and passes over images that no class claims, such as a `zipf10` pattern that is seen once.
    """
    _check_labels(labels, probabilities.shape[1], len(probabilities))
    rows = np.arange(len(labels))
    own = probabilities[rows, labels].astype(np.float64)
    return (1 + _others(labels, probabilities).max(axis=1)) / 2 - own


def label_issues(labels: np.ndarray, probabilities: np.ndarray) -> LabelIssues:
    """The labels that are probably wrong, the most suspicious first.

    `labels` int64 (n,), `probabilities` float (n, classes) out of fold.
    As many as confident learning counts (the entries beside the diagonal of the confident joint), in the order of
    `ranking`, and only where another class is likelier than the given one.
    The only image of its class is never among them: out of its fold nobody knows the class.

    Raises `DataError` when the two do not fit together, `ParameterError` when cleanlab is not installed.
    """
    score = ranking(labels, probabilities)
    suggested = _others(labels, probabilities).argmax(axis=1)
    rows = np.arange(len(labels))
    contested = probabilities[rows, suggested] > probabilities[rows, labels]
    contested &= np.bincount(labels, minlength=probabilities.shape[1])[labels] > 1
    counted = _counted_issues(labels, probabilities)
    order = np.argsort(-score, kind="stable")
    order = order[contested[order]][:counted]
    threshold = float(score[order[-1]]) if len(order) else 1.0
    reason = (
        f"confident learning counts {counted} wrong labels among {len(labels)}: the score that so many reach, "
        "less those whose given class is the likeliest"
    )
    return LabelIssues(order, labels[order], suggested[order], score[order], threshold, reason)


def _others(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Probabilities with the given class ruled out, float64 (n, classes)."""
    others = probabilities.astype(np.float64)
    others[np.arange(len(labels)), labels] = -np.inf
    return others


def _counted_issues(labels: np.ndarray, probabilities: np.ndarray) -> int:
    if len(np.unique(labels)) < 2:
        return 0  # one class: there is nothing to confuse it with
    try:
        from cleanlab.count import num_label_issues
    except ImportError as error:
        raise ParameterError(
            'label errors are counted by cleanlab, which is not installed; run `pip install "scaletut[audit]"`'
        ) from error
    return int(num_label_issues(labels, probabilities, estimation_method="off_diagonal"))


def assign_folds(labels: np.ndarray, folds: int, seed: int, groups: np.ndarray | None = None) -> np.ndarray:
    """The fold of each image, int64 (n,): dealt within each class in turn, groups as wholes.

    A group counts to the class of its first image.
    Raises `ParameterError` unless there are 2 folds or more and as many groups.
    """
    groups = np.arange(len(labels)) if groups is None else groups
    if len(groups) != len(labels):
        raise DataError(f"groups are {len(groups)} for {len(labels)} images; give one number an image")
    _, first, group = np.unique(groups, return_index=True, return_inverse=True)
    if not 2 <= folds <= len(first):
        raise ParameterError(
            f"folds={folds} for {len(first)} images that are no copies of each other; use 2 to {max(2, len(first))}"
        )
    shuffled = np.random.default_rng(seed).permutation(len(first))
    by_class = shuffled[np.argsort(labels[first[shuffled]], kind="stable")]
    dealt = np.empty(len(first), np.int64)
    dealt[by_class] = np.arange(len(first)) % folds
    return dealt[group]


def ridge_scores(
    features: np.ndarray,
    labels: np.ndarray,
    classes: int,
    fold: np.ndarray,
    strengths: tuple[float, ...] = STRENGTHS,
) -> np.ndarray:
    """Out-of-fold scores by ridge regression on one-hot labels, float64 (n, classes).

    `features` float32 (n, d), standardised in place. `fold` int64 (n,).
    A penalty of `strength` times the number of images learned from; of `strengths` the one whose scores are closest
    to the given labels out of fold.
    """
    features -= features.mean(axis=0)
    features /= features.std(axis=0) + 1e-6
    if len(features) < features.shape[1]:  # n images span n directions; in those as axes the fits are the same
        features = np.linalg.qr(features.T, mode="r").T
    targets = np.eye(classes)[labels]
    scores = {strength: np.zeros((len(labels), classes)) for strength in strengths}
    for out, fitted in _fold_solutions(features, targets, fold, strengths):
        for strength, (weights, intercept) in fitted.items():
            scores[strength][out] = features[out] @ weights.astype(np.float32) + intercept
    return min(scores.values(), key=lambda one: float(np.square(one - targets).sum()))


def _fold_solutions(
    features: np.ndarray, targets: np.ndarray, fold: np.ndarray, strengths: tuple[float, ...]
) -> Iterator[tuple[np.ndarray, dict[float, tuple[np.ndarray, np.ndarray]]]]:
    """For each fold its mask and, by strength, the weights (d, classes) and intercept of the ridge fit without it.

    All that a fit needs of the images are sums of products, which are added up once a fold: a fit without a fold
    takes the total less the fold's own, and factorises one d x d matrix.
    """
    sums = [_Sums.of(features[fold == number], targets[fold == number]) for number in range(fold.max() + 1)]
    total = sums[0]
    for one in sums[1:]:
        total = total.plus(one, 1)
    for number, own in enumerate(sums):
        rest = total.plus(own, -1)
        yield fold == number, {strength: rest.ridge(strength) for strength in strengths}


@dataclass(frozen=True)
class _Sums:
    """Sums over n images of x xᵀ, x yᵀ, x and y, in float64."""

    n: int
    xx: np.ndarray
    xy: np.ndarray
    x: np.ndarray
    y: np.ndarray

    @staticmethod
    def of(features: np.ndarray, targets: np.ndarray) -> _Sums:
        xy = features.T @ targets.astype(np.float32)
        x = features.sum(axis=0, dtype=np.float64)
        return _Sums(
            len(features), (features.T @ features).astype(np.float64), xy.astype(np.float64), x, targets.sum(axis=0)
        )

    def plus(self, other: _Sums, sign: int) -> _Sums:
        return _Sums(
            self.n + sign * other.n,
            self.xx + sign * other.xx,
            self.xy + sign * other.xy,
            self.x + sign * other.x,
            self.y + sign * other.y,
        )

    def ridge(self, strength: float) -> tuple[np.ndarray, np.ndarray]:
        """Weights and an unpenalised intercept that minimise ‖y - x w - b‖² + strength n ‖w‖²."""
        covariance = self.xx - np.outer(self.x, self.x) / self.n
        covariance.flat[:: len(covariance) + 1] += strength * self.n
        weights = cho_solve(
            cho_factor(covariance, lower=True, overwrite_a=True, check_finite=False),
            self.xy - np.outer(self.x, self.y) / self.n,
        )
        return weights, (self.y - self.x @ weights) / self.n


def network_scores(
    images: np.ndarray,
    labels: np.ndarray,
    classes: int,
    fold: np.ndarray,
    seed: int,
    progress: Progress | None = None,
) -> np.ndarray:
    """Out-of-fold logits of the small speed net, trained for a few epochs on the other folds: float32 (n, classes)."""
    from scaletut.data import ImageSet
    from scaletut.train.presets import FAST, run_preset

    recipe = replace(FAST.recipe, epochs=NETWORK_EPOCHS, batch_size=NETWORK_BATCH)
    preset = replace(FAST, width=NETWORK_WIDTH, recipe=recipe)
    data = ImageSet(images, labels, tuple(map(str, range(classes))), "audited images")
    logits = np.zeros((len(labels), classes), np.float32)
    folds = int(fold.max()) + 1
    for number in range(folds):
        told = _part(progress, number / folds, (number + 1) / folds)
        step = (lambda at, told=told: told(at.step / at.steps)) if told else None
        run = run_preset(preset, data.take(fold != number), seed + number, step)
        logits[fold == number] = run.predict(data.take(fold == number), views=2)
    return np.nan_to_num(logits)  # a run that diverged says nothing


def blend(members: list[np.ndarray], labels: np.ndarray) -> np.ndarray:
    """Probabilities softmax(Σ w_m s_m) of the members' out-of-fold scores, float64 (n, classes).

    The weights w_m ≥ 0 are those under which the given labels are likeliest: at once the temperature of each member
    and their shares. A convex problem in as many numbers as members, so next to nothing of a label leaks in.
    """
    scores = np.stack([_standardised(one) for one in members])  # (m, n, classes)
    own = scores[:, np.arange(len(labels)), labels]

    def loss(weights: np.ndarray) -> tuple[float, np.ndarray]:
        logits = np.tensordot(weights, scores, 1)
        gradient = (np.einsum("mnk,nk->mn", scores, softmax(logits, axis=1)) - own).mean(axis=1)
        return float((logsumexp(logits, axis=1) - weights @ own).mean()), gradient

    start = np.ones(len(members))
    found = minimize(loss, start, jac=True, bounds=[(0, SHARPEST)] * len(members), method="L-BFGS-B")
    return softmax(np.tensordot(found.x, scores, 1), axis=1)


def _standardised(scores: np.ndarray) -> np.ndarray:
    scores = scores.astype(np.float64) - scores.mean(axis=1, keepdims=True)
    return scores / max(float(scores.std()), 1e-12)


def _check_labels(labels: np.ndarray, classes: int, images: int) -> None:
    if labels.dtype != np.int64 or labels.shape != (images,):
        raise DataError(f"labels are {labels.dtype} {labels.shape} for {images} images; needed is one int64 an image")
    if classes < 2:
        raise DataError(f"there is {classes} class; a label can be wrong only where there are two or more")
    if images and not 0 <= labels.min() <= labels.max() < classes:
        raise DataError(f"labels run from {labels.min()} to {labels.max()} but there are {classes} classes")


def _part(progress: Progress | None, low: float, high: float) -> Progress | None:
    """`progress` for a part of the work that goes from `low` to `high` of the whole."""
    if progress is None:
        return None
    return lambda share: progress(low + (high - low) * share)
