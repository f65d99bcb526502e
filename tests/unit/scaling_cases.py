"""Tables with known truth for the tests of the scaling room, and the published one where it is present."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from scaletut.scaling import RunTable, as_table, simulate

MINIMUM = {"E": 1.817218, "A": 477.826, "B": 2143.417, "alpha": 0.347310, "beta": 0.367172}
GRID_N, GRID_D = (axis.ravel() for axis in np.meshgrid(np.geomspace(4e7, 1e10, 12), np.geomspace(3e8, 1e12, 12)))

# A truth for each law, at scales where all of its terms are seen.
TRUTH: dict[str, dict[str, float]] = {
    "power": {"A": 3.0, "alpha": 0.4},
    "power_floor": {"E": 0.3, "A": 3.0, "alpha": 0.4},
    "shifted": {"E": 0.1, "A": 30.0, "alpha": 0.5, "x0": 800.0},
    "saturating": {"E": 0.05, "span": 0.85, "A": 20.0, "alpha": 0.5, "gamma": 0.8},
    "broken": {"E": 0.05, "A": 2.0, "alpha": 0.1, "change": 0.5, "x_break": 5e3, "width": 0.7},
    "additive": MINIMUM,
    "additive_tied": {"E": 1.8, "A": 400.0, "B": 1500.0, "alpha": 0.35},
    "overtraining": {"E": 1.6, "A": 200.0, "B": 600.0, "eta": 0.17},
    "product": {"A": 30.0, "alpha": 0.06, "beta": 0.05},
    "kaplan": {"N_c": 8.8e13, "D_c": 5.4e13, "alpha_N": 0.076, "alpha_D": 0.095},
    "rosenfeld": {"E": 0.3, "A": 19.0, "alpha": 0.35, "B": 32.0, "beta": 0.47, "top": 2.3},
    "repeated": {"E": 1.8, "A": 520.0, "B": 1490.0, "alpha": 0.35, "beta": 0.36, "R_D": 15.4, "R_N": 5.3},
}  # fmt: skip


def columns_for(law: str) -> dict[str, np.ndarray]:
    """The columns that show all of a law's terms."""
    if law in ("power", "power_floor", "shifted", "saturating", "broken"):
        return {"x": np.geomspace(30.0, 1e6, 40)}
    if law == "rosenfeld":  # its ceiling shows in small networks on few examples
        return {"params": GRID_N * 5e-5, "examples": GRID_D * 1e-6}
    if law == "repeated":
        share = np.tile([1.0, 0.3, 0.05, 0.01], GRID_N.size // 4)
        return {"params": GRID_N, "examples": GRID_D, "unique_examples": GRID_D * share}
    return {"params": GRID_N, "examples": GRID_D}


def table_for(law: str, scale: float = 0.0, seed: int = 0) -> RunTable:
    """Runs that follow the law's truth, with log-normal noise of standard deviation `scale`."""
    return simulate(law, TRUTH[law], columns_for(law), noise="normal", scale=scale, seed=seed)


def published(name: str) -> Path:
    """A published table under $SCALETUT_DATA/scaling; the test is skipped, loudly, without it."""
    path = Path(os.environ.get("SCALETUT_DATA", "")) / "scaling" / name
    if not path.is_file():
        pytest.skip(f"{name} is not under $SCALETUT_DATA/scaling; the check on the published table was NOT made")
    return path


def epoch_runs() -> RunTable:
    """All 245 runs of the Chinchilla table (Besiroglu et al. 2024)."""
    roles = {"params": "Model Size", "flops": "Training FLOP"}
    return as_table(published("svg_extracted_data.csv"), columns=roles, cost="6ND")
