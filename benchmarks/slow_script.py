"""The slow script of the chapter on tuning, and its solution: seconds of an epoch, interleaved.

    python benchmarks/slow_script.py [--images 1000] [--rounds 5]

Both functions are read from the notebook, so that it is the printed code that is timed; each round runs both, each in
a process of its own, because the solution changes the process's allocator.
The first round warms up; exits 1 when the median ratio is below 3.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path
from statistics import median

from tqdm import tqdm

from scaletut.chapters import pairs

BAR = 3.0
ROOT = Path(__file__).parents[1]
PREAMBLE = """
import sys, time, torch
from scaletut.data import load
from scaletut.models import build
from scaletut.resources import Setting
from scaletut.train import Recipe, fit
full = load("zipf10").train
data, _ = full.split(len(full) - int(sys.argv[1]), seed=0)
"""


def cell_with(text: str) -> str:
    """The source of the notebook's one code cell that defines `text`; what follows the definitions is left out."""
    book = pairs.read_notebook(ROOT / "notebooks" / "tuning.ipynb")
    (source,) = [cell.source for cell in book.cells if cell.cell_type == "code" and text in cell.source]
    return source.split("\nfew, _ =")[0]


def seconds(function: str, images: int) -> float:
    """One epoch of `function` in a fresh process."""
    code = f"{PREAMBLE}\n{cell_with(f'def {function}(')}\nprint({function}(data))"
    run = subprocess.run([sys.executable, "-c", code, str(images)], capture_output=True, text=True, check=True)
    return float(run.stdout.split()[-1])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    found: dict[str, list[float]] = {"slow": [], "mended": []}
    for turn in tqdm(range(options.rounds + 1), unit="round"):
        for name, times in found.items():
            taken = seconds(name, options.images)
            if turn:
                times.append(taken)
    ratio = median(slow / mended for slow, mended in zip(found["slow"], found["mended"], strict=True))
    print(f"slow {median(found['slow']):.2f} s, mended {median(found['mended']):.2f} s: {ratio:.1f} times, bar {BAR}")
    return 0 if ratio >= BAR else 1


if __name__ == "__main__":
    sys.exit(main())
