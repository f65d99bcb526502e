"""Published tables of finished runs, for chapters: on disk or downloaded at the reader's wish; and simulated ones.

The Chinchilla runs (Hoffmann et al. 2022, figure 4) were read back from the figure by Besiroglu et al. 2024; their
repository states no licence, so the table is not part of this book.
"""

from __future__ import annotations

import os
import urllib.request
from pathlib import Path

import numpy as np

from scaletut.errors import DataError
from scaletut.files import atomic_write, sha256_bytes
from scaletut.scaling import RunTable, as_table, simulate

SOURCE = (
    "https://raw.githubusercontent.com/epoch-research/analyzing-chinchilla/"
    "92258837425e1b5f2851d624287f0120583a3d0e/data/svg_extracted_data.csv"
)
DIGEST = "193478df4e90f040016431996c45682659306840ecdadf83cfb9cd5ca0aa1b30"
NAME = "svg_extracted_data.csv"
PUBLISHED = {"E": 1.8172, "A": 477.83, "B": 2143.4, "alpha": 0.3473, "beta": 0.3672}  # minimum for 240 of the runs
SIMULATED_RUNS, SHORT_RUNS, NOISE = 240, 5, 0.01
SHORT_EXCESS = 0.25  # of the loss: how far the published table's five highest losses lie above its law


def chinchilla_runs(download: bool = False) -> RunTable:
    """The 245 runs, columns params, examples and flops (C = 6 N D), from $SCALETUT_DATA/scaling or the user's cache.

    download: fetch the table once, verified by its sha256. Raises DataError when it is absent or altered.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "scaletut" / "scaling"
    places = [Path(os.environ["SCALETUT_DATA"]) / "scaling"] if os.environ.get("SCALETUT_DATA") else []
    path = next((place / NAME for place in (*places, cache) if (place / NAME).is_file()), None)
    if path is None and not download:
        raise DataError(
            f"the published table {NAME} is not here; set download = True to fetch it, put it under "
            '$SCALETUT_DATA/scaling, or use table = "simulated"'
        )
    content = path.read_bytes() if path else _fetched()
    if sha256_bytes(content) != DIGEST:
        raise DataError(f"{path or SOURCE} is not the table that was published (sha256); remove it and download")
    path = path or atomic_write(cache / NAME, content)
    return as_table(path, columns={"params": "Model Size", "flops": "Training FLOP"}, cost="6ND")


def _fetched() -> bytes:
    try:
        with urllib.request.urlopen(SOURCE, timeout=60) as answer:
            return answer.read()
    except OSError as error:
        wanted = f'the published table cannot be fetched ({error}); without a network use table = "simulated"'
        raise DataError(wanted) from None


def simulated_runs(seed: int) -> RunTable:
    """As many runs with known truth: sizes and data of a like range, the law of `PUBLISHED`, Laplace noise of 1 %.

    Five short runs of large models lie above the law, as in the published table.
    """
    generator = np.random.default_rng(seed)
    params = 10 ** generator.uniform(7.7, 10.1, SIMULATED_RUNS)
    examples = 10 ** generator.uniform(9.4, 11.5, SIMULATED_RUNS)
    short = {"params": 10 ** generator.uniform(9.5, 9.85, SHORT_RUNS), "examples": np.full(SHORT_RUNS, 2.5e8)}
    columns = {"params": np.append(params, short["params"]), "examples": np.append(examples, short["examples"])}
    table = simulate("additive", PUBLISHED, columns, noise="laplace", scale=NOISE, seed=seed)
    loss = table.loss.copy()
    loss[SIMULATED_RUNS:] *= 1 + SHORT_EXCESS
    return as_table({**columns, "loss": loss, "flops": 6 * columns["params"] * columns["examples"]})
