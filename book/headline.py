"""Make the headline of the landing page: a figure for light and for dark pages, its description and its caption.

Run by hand after new records, and commit what it writes: `python book/headline.py`.
It shows what the recorded chapter found about old weights and few labels;
before there is such a record, it shows the law that the built-in data obeys.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np

from scaletut.data import ZipfLaw
from scaletut.files import atomic_write
from scaletut.records import Entry, Ledger

BOOK = Path(__file__).parent
STATIC = BOOK / "_static"

# Okabe and Ito's palette, darkened for a white page and lightened for a dark one: at least 3 : 1 against it.
SCHEMES: dict[str, dict[str, Any]] = {
    "light": {"ink": "#22303c", "quiet": "#5c6b78", "grid": "#e3e8ec", "colours": ("#0b6aa2", "#c44601", "#00795a")},
    "dark": {"ink": "#e4eaef", "quiet": "#9fb0be", "grid": "#2d3843", "colours": ("#6db7e8", "#f39a5b", "#4cc9a4")},
}
WAYS = {"full": ("fine-tuned", "o"), "scratch": ("from scratch", "s")}


@dataclass(frozen=True)
class Headline:
    """What stands on the landing page: how to draw it in one scheme, what it shows, what it says."""

    draw: Callable[[dict[str, Any]], plt.Figure]
    description: str
    caption: str


# --- what the chapter found -----------------------------------------------------------------------------------


def recorded_budgets(ledger: Ledger) -> list[int]:
    """Labels a class for which the ledger holds every way of `WAYS`, rising."""
    counts = {key.rsplit("_", 1)[1] for key in ledger if key.startswith("finetune.full_")}
    found = [int(count) for count in counts if count.isdecimal()]
    return sorted(n for n in found if all(f"finetune.{way}_{n}" in ledger for way in WAYS))


def old_weights(ledger: Ledger, budgets: Sequence[int]) -> Headline:
    """Accuracy on a new task against labels, with and without old weights."""
    first, last = budgets[0], budgets[-1]

    def link(way: str, n: int) -> str:
        key = f"finetune.{way}_{n}"
        return f"[{ledger.format(key)}](#{key})"

    return Headline(
        draw=lambda colours: _draw_old_weights(ledger, budgets, colours),
        description=(
            "Test accuracy on five new classes against labels a class on a logarithmic axis. Two lines with bands for "
            "their intervals: a network that was trained on other classes and fine-tuned, and one trained from scratch."
        ),
        caption=(
            "**When are old weights worth having?**\n"
            f"With {first} labels a class, a network that has learnt five other classes reaches {link('full', first)} "
            f"on five new ones, and one that starts from scratch {link('scratch', first)}.\n"
            f"With {last:,} labels a class it is {link('full', last)} against {link('scratch', last)}.\n"
            "The bands are the intervals of the mean over seeds; each number leads to its record."
        ),
    )


def _draw_old_weights(ledger: Ledger, budgets: Sequence[int], colours: dict[str, Any]) -> plt.Figure:
    figure, axes = plt.subplots(figsize=(8.4, 3.9))
    drawn = {way: [ledger[f"finetune.{way}_{n}"] for n in budgets] for way in WAYS}
    highest = max(drawn, key=lambda way: drawn[way][1].value)
    for (way, entries), colour in zip(drawn.items(), colours["colours"], strict=False):
        label, marker = WAYS[way]
        middle = [entry.value for entry in entries]
        axes.fill_between(budgets, *_band(entries), color=colour, alpha=0.22, lw=0)
        axes.plot(budgets, middle, color=colour, lw=2.6, marker=marker, ms=7, solid_capstyle="round")
        _name(axes, label, (budgets[1], middle[1]), (-30, 24) if way == highest else (50, -24), colour, "center")
    axes.set(xscale="log", xlabel="labels a class of the new task", ylabel="test accuracy (%)")
    axes.set_xticks(budgets, [f"{n:,}" for n in budgets])
    return _finish(figure, axes)


def _band(entries: Sequence[Entry]) -> tuple[list[float], list[float]]:
    """Ends of the intervals; a single run has none, and its band no width."""
    low = [entry.value if entry.low is None else entry.low for entry in entries]
    high = [entry.value if entry.high is None else entry.high for entry in entries]
    return low, high


# --- before anything is recorded ------------------------------------------------------------------------------


def known_law() -> Headline:
    """The exact learning curves of the built-in data."""
    return Headline(
        draw=_draw_known_law,
        description=(
            "Expected test error against number of training examples, both on logarithmic axes. "
            "Three falling lines, one for each exponent a of the pattern frequencies; "
            "the heavier the tail of rare patterns, the slower the fall."
        ),
        caption=(
            "**Why error falls as a power of the data.**\n"
            "When patterns have Zipf frequencies, a learner that knows what it has seen and guesses the rest "
            "has an error that can be written down {cite:p}`hutter2021`.\n"
            "The book's built-in data obeys this law exactly, "
            "so what is measured on it can be compared with what is right."
        ),
    )


def _draw_known_law(colours: dict[str, Any]) -> plt.Figure:
    sizes = np.unique(np.geomspace(8, 65_536, 50).astype(int))
    figure, axes = plt.subplots(figsize=(8.4, 3.9))
    for a, colour in zip((0.3, 0.6, 1.2), colours["colours"], strict=True):
        law = ZipfLaw(a=a, patterns=20_000)
        error = [law.expected_error(int(n)) for n in sizes]
        axes.loglog(sizes, error, color=colour, lw=2.6, solid_capstyle="round")
        _name(axes, f"a = {a}", (sizes[-1], error[-1]), (10, 0), colour, "left")
    axes.set(xlabel="training examples", ylabel="expected test error", xlim=(8, 65_536))
    axes.xaxis.set_major_formatter(mpl.ticker.FuncFormatter(lambda x, _: f"{x:,.0f}"))
    axes.yaxis.set_major_formatter(mpl.ticker.FuncFormatter(lambda y, _: f"{100 * y:g} %"))
    return _finish(figure, axes)


# --- what is written ------------------------------------------------------------------------------------------


def _name(axes: plt.Axes, text: str, at: tuple[Any, Any], shift: tuple[int, int], colour: str, side: str) -> None:
    """Write a line's name beside it, `shift` points from the place `at`, instead of in a legend."""
    style = {"color": colour, "weight": "bold", "ha": side, "va": "center"}
    axes.annotate(text, at, shift, textcoords="offset points", **style)


def _finish(figure: plt.Figure, axes: plt.Axes) -> plt.Figure:
    axes.grid(True, which="major")
    axes.set_axisbelow(True)
    axes.minorticks_off()
    return figure


def picture(draw: Callable[[dict[str, Any]], plt.Figure], colours: dict[str, Any]) -> str:
    """An SVG whose text stays text, in the book's own typeface, which it carries inside: a picture may load nothing."""
    font = base64.b64encode((STATIC / "fonts" / "source-sans-3-latin-wght-normal.woff2").read_bytes()).decode("ascii")
    face = f'@font-face{{font-family:"Book Sans";font-weight:200 900;src:url(data:font/woff2;base64,{font})}}'
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
    return svg.replace("<defs>", f"<defs><style>{face}</style>", 1)


def page_part(headline: Headline) -> str:
    """The part of the landing page that shows the headline, as Markdown."""
    images = "\n".join(
        f"```{{image}} _static/headline-{scheme}.svg\n:class: only-{scheme}\n:alt: {headline.description}\n```"
        for scheme in SCHEMES
    )
    note = "<!-- Written by book/headline.py; edits are lost. -->"
    return f"{note}\n::::{{div}} headline\n{images}\n\n{headline.caption}\n::::\n"


def choose(ledger: Ledger) -> Headline:
    """What the records allow to show."""
    budgets = recorded_budgets(ledger)
    return old_weights(ledger, budgets) if len(budgets) >= 3 else known_law()


def main() -> None:
    """Draw the headline from the ledger and write its files."""
    headline = choose(Ledger.load(BOOK.parent / "results"))
    for scheme, colours in SCHEMES.items():
        atomic_write(STATIC / f"headline-{scheme}.svg", picture(headline.draw, colours))
    atomic_write(BOOK / "_headline.md", page_part(headline))


if __name__ == "__main__":
    main()
