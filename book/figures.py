"""Draw the headline figure of the landing page, once for light and once for dark pages.

Run by hand, its pictures are committed: `python book/figures.py`.
The text stays text, in the book's own typeface, which each picture carries inside: a picture may load nothing.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np

from scaletut.files import atomic_write

STATIC = Path(__file__).parent / "_static"

# Okabe and Ito's palette, darkened for a white page and lightened for a dark one: at least 3 : 1 against it.
SCHEMES: dict[str, dict[str, Any]] = {
    "light": {"ink": "#22303c", "quiet": "#5c6b78", "grid": "#e3e8ec", "colours": ("#0b6aa2", "#c44601", "#00795a")},
    "dark": {"ink": "#e4eaef", "quiet": "#9fb0be", "grid": "#2d3843", "colours": ("#6db7e8", "#f39a5b", "#4cc9a4")},
}


def both_schemes(name: str, draw: Callable[[dict[str, Any]], plt.Figure]) -> None:
    """Write `name`-light.svg and `name`-dark.svg."""
    font = base64.b64encode((STATIC / "fonts" / "source-sans-3-latin-wght-normal.woff2").read_bytes()).decode("ascii")
    face = f'@font-face{{font-family:"Book Sans";font-weight:200 900;src:url(data:font/woff2;base64,{font})}}'
    for scheme, colours in SCHEMES.items():
        style = {
            "text.color": colours["ink"],
            "axes.labelcolor": colours["ink"],
            "axes.edgecolor": colours["quiet"],
            "xtick.color": colours["quiet"],
            "ytick.color": colours["quiet"],
            "grid.color": colours["grid"],
            "axes.spines.top": False,
            "axes.spines.right": False,
            "font.size": 13,
            "svg.fonttype": "none",
            "svg.hashsalt": "scale-measured",
        }
        with mpl.rc_context(style):
            figure, buffer = draw(colours), io.StringIO()
            figure.savefig(buffer, format="svg", transparent=True, bbox_inches="tight", metadata={"Date": None})
            plt.close(figure)
        svg = buffer.getvalue().replace("'DejaVu Sans'", "'Book Sans', 'DejaVu Sans'")
        atomic_write(STATIC / f"{name}-{scheme}.svg", svg.replace("<defs>", f"<defs><style>{face}</style>", 1))


def expected_error(n: np.ndarray, a: float, patterns: int = 200_000) -> np.ndarray:
    """Error of a learner that knows the patterns it has seen: (1 - 1/10) Σ p_k (1 - p_k)^n, p_k ∝ k^-(1+a)."""
    weights = np.arange(1, patterns + 1, dtype=float) ** -(1 + a)
    p = weights / weights.sum()
    return np.array([0.9 * np.sum(p * np.exp(size * np.log1p(-p))) for size in n])


def closed_form(colours: dict[str, Any]) -> plt.Figure:
    """The known learning curve of the built-in data for three exponents."""
    sizes = np.geomspace(8, 65_536, 60)
    figure, axes = plt.subplots(figsize=(8.4, 3.9))
    for a, colour in zip((0.3, 0.6, 1.2), colours["colours"], strict=True):
        error = expected_error(sizes, a)
        axes.loglog(sizes, error, color=colour, lw=2.6, solid_capstyle="round")
        axes.text(sizes[-1] * 1.13, error[-1], f"a = {a}", color=colour, va="center", weight="bold")
    axes.set(xlabel="training examples", ylabel="expected test error", xlim=(8, 65_536))
    axes.xaxis.set_major_formatter(mpl.ticker.FuncFormatter(lambda x, _: f"{x:,.0f}"))
    axes.yaxis.set_major_formatter(mpl.ticker.FuncFormatter(lambda y, _: f"{100 * y:g} %"))
    axes.grid(True, which="major")
    axes.set_axisbelow(True)
    axes.minorticks_off()
    return figure


if __name__ == "__main__":
    both_schemes("headline", closed_form)
