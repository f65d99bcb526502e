"""Make the data of `book/sweeps/cleaned.yaml`: labels with a fifth of them wrong, as the audit leaves them.

    python book/clean_labels.py    # writes _build/cleaned.npz

Of the images that the sweeps train on, 16,000 get noisy labels, the audit judges these labels without seeing the right
ones, and what it suspects is left out. The test part is the sweeps' held-out images, so that losses can be compared.
"""

from __future__ import annotations

import io
import sys
from pathlib import Path

import numpy as np

from scaletut.audit import label_issues, out_of_fold
from scaletut.data import load
from scaletut.files import atomic_write
from scaletut.sweep.train import with_wrong_labels

TARGET = Path(__file__).parents[1] / "_build" / "cleaned.npz"
HELD_OUT, IMAGES, NOISE, SEED = 5000, 16_000, 0.2, 0


def main() -> int:
    pool, held = load("cifar10").train.split(HELD_OUT, seed=0)  # as `scaletut.sweep` splits it
    pool = pool.split(IMAGES, SEED)[1]
    labels = with_wrong_labels(pool, NOISE, np.random.default_rng(SEED))
    wrong = labels != pool.labels
    found = label_issues(labels, out_of_fold(pool.images, labels, pool.num_classes, seed=SEED))
    keep = np.setdiff1d(np.arange(IMAGES), found.index)
    content = io.BytesIO()
    np.savez_compressed(
        content, x_train=pool.images[keep], y_train=labels[keep], x_test=held.images, y_test=held.labels
    )  # fmt: skip
    TARGET.parent.mkdir(exist_ok=True)
    atomic_write(TARGET, content.getvalue())
    sys.stdout.write(
        f"{len(found.index):,} of {IMAGES:,} labels suspected, {wrong[found.index].mean():.1%} of these wrong; "
        f"of {wrong.sum():,} wrong ones {wrong[found.index].sum() / wrong.sum():.1%} found\n"
        f"{len(keep):,} images kept, {wrong[keep].mean():.1%} of their labels wrong: {TARGET}\n"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
