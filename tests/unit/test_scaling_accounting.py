"""Conventions for N and C: their formulas against sums by hand, and mixtures refused."""

from __future__ import annotations

import numpy as np
import pytest
from scaling_cases import table_for

from scaletut.scaling import RunTable, TableError, Transformer, as_table, fit, recount

pytestmark = pytest.mark.filterwarnings("error")
SHAPE = Transformer(layers=3, width=8, vocabulary=50, context=16, heads=2, attention=6, feed_forward=20)


def test_parameters_are_the_matrices_of_a_real_decoder() -> None:
    shapes = [(8, 6), (8, 6), (8, 6), (6, 8), (8, 20), (20, 8)]  # query, key, value, output, up, down
    layer = sum(a * b for a, b in shapes)
    assert SHAPE.parameters("without_embeddings") == 3 * layer
    assert SHAPE.parameters("all") == 3 * layer + 50 * 8


def test_flops_are_twice_the_products_and_three_passes() -> None:
    def product(rows: int, inner: int, columns: int) -> int:
        return 2 * rows * inner * columns

    n = 16
    layer = 3 * product(n, 8, 6) + product(n, 6, n) + 3 * 2 * n * n + product(n, n, 6) + product(n, 6, 8)
    layer += product(n, 8, 20) + product(n, 20, 8)
    forward = product(n, 50, 8) + 3 * layer + product(n, 8, 50)
    assert SHAPE.flops_per_token("every_product", "all") == 3 * forward / n
    plain = SHAPE.flops_per_token("6ND", "without_embeddings")
    assert plain == 6 * SHAPE.parameters("without_embeddings")
    assert SHAPE.flops_per_token("attention", "without_embeddings") - plain == 6 * 3 * 16 * 6


def test_defaults_are_the_usual_shape_and_nonsense_is_refused() -> None:
    usual = Transformer(layers=12, width=768, vocabulary=50257, context=1024)
    assert usual.parameters("without_embeddings") == 12 * 12 * 768**2
    with pytest.raises(TableError, match="at least 1"):
        Transformer(layers=0, width=8, vocabulary=5, context=4)
    with pytest.raises(TableError, match="unknown counting"):
        usual.parameters("most")
    with pytest.raises(TableError, match="unknown FLOP rule"):
        usual.flops_per_token("8ND", "all")


def test_recount_takes_embeddings_out_and_puts_them_back() -> None:
    table = RunTable(loss=np.array([3.0, 2.0]), params=np.array([10.0, 100.0]), embedding_params=np.array([4.0, 9.0]))
    bare = recount(table, "without_embeddings")
    assert bare.params.tolist() == [6.0, 91.0]
    assert recount(bare, "all").params.tolist() == [10.0, 100.0]
    assert recount(bare, "without_embeddings") is bare
    with pytest.raises(TableError, match="params or more"):
        recount(RunTable(loss=table.loss, params=table.params, embedding_params=table.params), "without_embeddings")
    stated = RunTable(loss=table.loss, params=table.params, counting="all")
    with pytest.raises(TableError, match="without a column embedding_params"):
        recount(stated, "without_embeddings")


def test_mixtures_are_refused() -> None:
    table = table_for("additive", scale=0.01)
    columns = {"params": table.params, "examples": table.examples, "loss": table.loss}
    found = fit(columns, "additive", counting="all")
    assert found.checklist["counting"] == "all"
    found.predict(as_table(columns))
    with pytest.raises(TableError, match="mix parameters counted with embeddings and without"):
        found.predict(as_table(columns, counting="without_embeddings"))
    exact = columns | {"flops": 6 * table.params * table.examples}
    assert len(as_table(exact, cost="6ND")) == len(table)
    with pytest.raises(TableError, match="times 6 N D"):
        as_table(exact | {"embedding_params": 0.4 * table.params}, cost="6ND", counting="without_embeddings")
    with pytest.raises(TableError, match=r"1\.33 to 1\.33 times 6 N D"):
        as_table(columns | {"flops": 8 * table.params * table.examples}, cost="6ND")
    as_table(columns | {"flops": 8 * table.params * table.examples}, cost="measured")
