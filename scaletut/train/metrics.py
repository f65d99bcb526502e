"""Classification metrics from logits, each as its definition says."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from scaletut.errors import DataError


@dataclass(frozen=True)
class ClassificationReport:
    """What a classifier does on one set of n examples with K classes.

    Attributes:
        accuracy: share of examples whose largest logit is the label (0 to 1).
        cross_entropy: mean of -log softmax(logits)[label], in nats.
        calibration_error: expected calibration error over 15 bins of equal width (0 to 1).
        precision, recall, f1: float64 (K,), one value a class; 0 where the denominator is 0.
        confusion: int64 (K, K), rows are labels, columns predictions.
        n: number of examples.
    """

    accuracy: float
    cross_entropy: float
    calibration_error: float
    precision: np.ndarray
    recall: np.ndarray
    f1: np.ndarray
    confusion: np.ndarray
    n: int

    @property
    def macro(self) -> tuple[float, float, float]:
        """Precision, recall and F1, each averaged over the classes with equal weight."""
        return float(self.precision.mean()), float(self.recall.mean()), float(self.f1.mean())


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """float64 (n, K) log-probabilities, computed from the row maximum so that nothing overflows."""
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def confusion_matrix(predicted: np.ndarray, labels: np.ndarray, classes: int) -> np.ndarray:
    """int64 (classes, classes): entry [i, j] counts examples of class i predicted as j."""
    return np.bincount(labels * classes + predicted, minlength=classes * classes).reshape(classes, classes)


def calibration_bins(logits: np.ndarray, labels: np.ndarray, bins: int = 15) -> np.ndarray:
    """float64 (bins, 3): count, mean confidence and accuracy of the examples in each bin of confidence.

    Bins have equal width over (0, 1]; an empty bin has count 0 and zeros. Source: Guo et al. 2017, section 2.
    """
    confidence = np.exp(log_softmax(logits).max(axis=1))
    correct = logits.argmax(axis=1) == labels
    index = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    count = np.bincount(index, minlength=bins).astype(float)
    safe = np.maximum(count, 1)
    mean_confidence = np.bincount(index, weights=confidence, minlength=bins) / safe
    accuracy = np.bincount(index, weights=correct.astype(float), minlength=bins) / safe
    return np.stack([count, mean_confidence, accuracy], axis=1)


def expected_calibration_error(logits: np.ndarray, labels: np.ndarray, bins: int = 15) -> float:
    """Mean distance of confidence and accuracy over the bins, weighted by their counts (Guo et al. 2017, eq. 3)."""
    count, confidence, accuracy = calibration_bins(logits, labels, bins).T
    return float((count * np.abs(confidence - accuracy)).sum() / count.sum())


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.zeros(len(part)), where=whole > 0)


def report(logits: np.ndarray, labels: np.ndarray) -> ClassificationReport:
    """All metrics at once.

    Args:
        logits: float (n, K).
        labels: int (n,), each in 0..K-1.

    Raises:
        DataError: shapes differ, nothing to score, a label out of range, or a logit that is not finite.
    """
    logits, labels = np.asarray(logits), np.asarray(labels)
    if logits.ndim != 2 or labels.shape != (len(logits),) or len(labels) == 0:
        raise DataError(f"report needs logits (n, K) and labels (n,) with n > 0, got {logits.shape} and {labels.shape}")
    classes = logits.shape[1]
    if labels.min() < 0 or labels.max() >= classes:
        raise DataError(f"labels run from {labels.min()} to {labels.max()} but there are {classes} logits a row")
    if not np.isfinite(logits).all():
        raise DataError("a logit is not finite: the run diverged, try a smaller learning rate")
    predicted = logits.argmax(axis=1)
    matrix = confusion_matrix(predicted, labels, classes)
    hits = np.diag(matrix).astype(float)
    precision, recall = _ratio(hits, matrix.sum(axis=0)), _ratio(hits, matrix.sum(axis=1))
    return ClassificationReport(
        accuracy=float(hits.sum() / len(labels)),
        cross_entropy=float(-log_softmax(logits)[np.arange(len(labels)), labels].mean()),
        calibration_error=expected_calibration_error(logits, labels),
        precision=precision,
        recall=recall,
        f1=_ratio(2 * precision * recall, precision + recall),
        confusion=matrix,
        n=len(labels),
    )
