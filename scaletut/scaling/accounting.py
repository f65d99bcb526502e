"""What counts as a parameter and as a FLOP: named conventions, so that two of them are never mixed unseen.

Papers count N with embeddings (Hoffmann et al. 2022) or without (Kaplan et al. 2020), and C as 6 N D, with attention's
own products, or with every product of the network. At ten million parameters the choices differ by a factor of two and
move the fitted exponents, which is part of the gap between the two papers (Porian et al. 2024).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from scaletut.errors import ScaletutError

if TYPE_CHECKING:
    from scaletut.scaling.table import RunTable

Counting = Literal["all", "without_embeddings"]
Counted = Literal["unstated", "all", "without_embeddings"]
FlopRule = Literal["6ND", "attention", "every_product"]
TRAIN = 3  # forward, and twice as much backward
LARGEST_GAP = 0.1  # share by which C may differ from 6 N D where that rule is named: published tables are rounded


class TableError(ScaletutError):
    """A run table cannot be fitted as it stands."""


@dataclass(frozen=True)
class Transformer:
    """The shape of a decoder: what its parameters and FLOP are counted from.

    width: d_model. attention: key size x heads, the width if 0. feed_forward: hidden width, four times the width if 0.
    context: tokens a sequence. vocabulary: entries. Biases, norms and positions are left out, as both papers do.
    """

    layers: int
    width: int
    vocabulary: int
    context: int
    heads: int = 1
    attention: int = 0
    feed_forward: int = 0

    def __post_init__(self) -> None:
        for name in ("layers", "width", "vocabulary", "context", "heads"):
            if getattr(self, name) < 1:
                raise TableError(f"{name} is {getattr(self, name)}; a transformer has at least 1")

    def parameters(self, counting: Counting) -> int:
        """N: matrices of all layers (Kaplan et al. 2020, table 1), and with "all" one embedding of the vocabulary."""
        _known(counting, get_args(Counting), "counting")
        attention, hidden = self.attention or self.width, self.feed_forward or 4 * self.width
        layers = 2 * self.width * self.layers * (2 * attention + hidden)
        return layers + (self.vocabulary * self.width if counting == "all" else 0)

    def flops_per_token(self, rule: FlopRule, counting: Counting) -> float:
        """Training FLOP a token.

        "6ND": 6 N. "attention": and 6 x layers x context x attention width for the products with keys and values of a
        causal context, of which half is seen on average (Kaplan et al. 2020, table 1, times 3). "every_product":
        Hoffmann et al. 2022, appendix F, with both embeddings and the softmax; `counting` then does not matter.
        """
        _known(rule, get_args(FlopRule), "FLOP rule")
        attention, hidden = self.attention or self.width, self.feed_forward or 4 * self.width
        if rule != "every_product":
            extra = 2 * self.layers * self.context * attention if rule == "attention" else 0
            return float(TRAIN * (2 * self.parameters(counting) + extra))
        projections = 2 * 3 * self.width * attention + 2 * attention * self.width
        products = 2 * 2 * self.context * attention + 3 * self.heads * self.context
        dense = 2 * 2 * self.width * hidden
        embeddings = 2 * 2 * self.vocabulary * self.width
        return float(TRAIN * (embeddings + self.layers * (projections + products + dense)))


def recount(table: RunTable, counting: Counting) -> RunTable:
    """The table with N counted as named.

    A table with a column `embedding_params` counts all in `params`, and loses those for "without_embeddings". One
    without that column is taken at its word. Raises TableError when it already states another convention and has no
    such column, or when the embeddings are all of a model.
    """
    _known(counting, get_args(Counting), "counting")
    if table.counting == counting:
        return table
    if table.embedding_params is None or table.params is None:
        if table.counting != "unstated":
            raise TableError(
                f"the table counts parameters {_words(table.counting)}, and without a column embedding_params they "
                f"cannot be counted {_words(counting)}; add it, or keep to the table's own convention"
            )
        return replace(table, counting=counting)
    if counting == "all" and table.counting == "unstated":
        return replace(table, counting=counting)
    sign = -1 if counting == "without_embeddings" else 1
    params = table.params + sign * table.embedding_params
    if (params <= 0).any():
        row = int(np.flatnonzero(params <= 0)[0]) + 1
        raise TableError(f"in row {row} embedding_params is all of params or more; params must count both")
    return replace(table, params=params, counting=counting)


def same_counting(conventions: Sequence[str], what: str) -> str:
    """The one convention that is stated, "unstated" if none. Raises TableError for a mixture."""
    stated = sorted(set(conventions) - {"unstated"})
    if len(stated) > 1:
        raise TableError(
            f"{what} mix parameters counted {' and '.join(map(_words, stated))}: a law in N would bend where they "
            "meet; count all alike (column embedding_params, `--count without_embeddings`)"
        )
    return stated[0] if stated else "unstated"


def check_6nd(table: RunTable) -> None:
    """Raise TableError where a table has N, D and C, and C is not 6 N D."""
    if table.params is None or table.examples is None or table.flops is None:
        return
    ratio = table.flops / (6 * table.params * table.examples)
    if not np.allclose(ratio, 1.0, atol=LARGEST_GAP):
        raise TableError(
            f"flops are {ratio.min():.3g} to {ratio.max():.3g} times 6 N D, so they were counted by another rule or "
            "for another N (embeddings, attention, a unit); name the rule `measured`, or leave one of the columns out"
        )


def _words(counting: str) -> str:
    return "with embeddings" if counting == "all" else "without embeddings"


def _known(name: str, names: Sequence[str], what: str) -> None:
    if name not in names:
        raise TableError(f"unknown {what} {name!r}; it is {' or '.join(names)}")
