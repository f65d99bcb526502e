"""From the answers of several labellers to one label an image: by majority, and by how good each of them is.

crowd-kit holds both, and brings nltk, pyarrow and transformers along; here are the few lines that are needed, held
against it by a test.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from scaletut.errors import DataError

NO_ANSWER = -1
TOLERANCE = 1e-8  # nats an answer that the likelihood must still gain for another round
MOST_ROUNDS = 500


@dataclass(frozen=True)
class Consensus:
    """What several labellers say together.

    Attributes:
        labels: int64 (n,), the likeliest class of each image.
        probabilities: float64 (n, K), how likely each class is, given the answers.
        confusion: float64 (labellers, K, K), entry [j, k, l] the chance that labeller j answers l where k is right;
            None for a majority, which holds all labellers for equally good.
        log_likelihood: nats, one entry a round of the fit, never falling; empty for a majority.
    """

    labels: np.ndarray
    probabilities: np.ndarray
    confusion: np.ndarray | None = None
    log_likelihood: tuple[float, ...] = ()


def majority(answers: np.ndarray, classes: int, *, seed: int = 0) -> Consensus:
    """The most frequent answer to each image, ties broken at random.

    Args:
        answers: int (n, labellers), 0 to `classes` - 1, or -1 where a labeller gave none.
        classes: K.
        seed: of the draws between equals.

    Raises:
        DataError: answers of another shape or range, or an image that nobody answered.
    """
    votes = _counts(answers, classes)
    drawn = np.random.default_rng(seed).random(votes.shape)  # below 1, so that it decides among equals only
    return Consensus((votes + drawn).argmax(axis=1), votes / votes.sum(axis=1, keepdims=True))


def dawid_skene(answers: np.ndarray, classes: int) -> Consensus:
    """The maximum-likelihood labels when each labeller errs by a confusion matrix of its own.

    Given an image's right class, labellers are taken to answer independently. Classes, matrices and class shares
    are estimated in turn by expectation maximisation, from the majority's shares on, until the likelihood stands.
    Source: Dawid and Skene 1979, "Maximum Likelihood Estimation of Observer Error-Rates Using the EM Algorithm",
    Applied Statistics 28, equations 2.3 to 2.5.

    Args:
        answers: int (n, labellers), 0 to `classes` - 1, or -1 where a labeller gave none.
        classes: K.

    Raises:
        DataError: answers of another shape or range, or an image that nobody answered.
    """
    votes = _counts(answers, classes)
    # (n, labellers, K), all zeros where there is no answer
    given = (np.asarray(answers)[:, :, None] == np.arange(classes)).astype(np.float64)
    probabilities = votes / votes.sum(axis=1, keepdims=True)
    likelihood: list[float] = []
    for _ in range(MOST_ROUNDS):
        confusion, prior = _maximise(given, probabilities)
        joint = _log(prior) + np.einsum("njl,jkl->nk", given, _log(confusion))
        evidence = np.logaddexp.reduce(joint, axis=1, keepdims=True)
        probabilities = np.exp(joint - evidence)
        likelihood.append(float(evidence.sum()))
        if len(likelihood) > 1 and likelihood[-1] - likelihood[-2] < TOLERANCE * votes.sum():
            break
    return Consensus(probabilities.argmax(axis=1), probabilities, confusion, tuple(likelihood))


def _maximise(given: np.ndarray, probabilities: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Confusion (labellers, K, K) and class shares (K,) that fit the classes' probabilities best."""
    counts = np.einsum("nk,njl->jkl", probabilities, given)
    total = counts.sum(axis=2, keepdims=True)
    # A class that a labeller never met tells nothing about him: all answers equally likely.
    confusion = np.divide(counts, total, out=np.full(counts.shape, 1 / counts.shape[2]), where=total > 0)
    return confusion, probabilities.mean(axis=0)


def _log(values: np.ndarray) -> np.ndarray:
    """The logarithm, with what never happens held just above zero: 0 · log 0 would not be a number."""
    return np.log(np.maximum(values, np.finfo(np.float64).tiny))


def _counts(answers: np.ndarray, classes: int) -> np.ndarray:
    """Votes for each class, float64 (n, K)."""
    answers = np.asarray(answers)
    if answers.ndim != 2 or answers.dtype.kind not in "iu" or not answers.size:
        raise DataError(
            f"answers are {answers.dtype} {answers.shape}; give whole numbers (images, labellers), -1 for no answer"
        )
    if answers.min() < NO_ANSWER or answers.max() >= classes:
        raise DataError(f"answers run from {answers.min()} to {answers.max()}; classes are 0 to {classes - 1}, none -1")
    votes = (answers[:, :, None] == np.arange(classes)).sum(axis=1).astype(np.float64)
    silent = np.flatnonzero(votes.sum(axis=1) == 0)
    if len(silent):
        raise DataError(f"{len(silent)} images have no answer, the first is row {silent[0]}; leave them out")
    return votes
