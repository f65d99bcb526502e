"""Mend, in the finished pages, what the theme and its parts write and a reader should not meet.

Each mend is a pattern, its replacement, and the reason; applying one twice changes nothing.
The tests look at every page with axe-core and note every request, so a theme that changes its HTML is noticed.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

MENDS = (
    # The label hides the visible words "Search Ctrl+K" from those who control the page by voice.
    (r'(<button class="btn search-button-field[^>]*?) aria-label="Search"', r"\1"),
    # Likewise the words on a fold: "Show the solution".
    (r'<summary aria-label="Toggle hidden content">', "<summary>"),
    # Titles inside a button that has a name of its own are read out after it, all three at once.
    (r'(<i class="theme-switch [^>]*?) +title="[^"]*"', r"\1"),
    # The arrow that folds a part of the contents has no words at all.
    (r'<summary><span class="toctree-toggle"', '<summary aria-label="Fold or unfold"><span class="toctree-toggle"'),
    # A formula wider than the screen scrolls: it must be reachable with the keyboard.
    (r'<div class="math (?!")([^"]*)"(?! tabindex)', r'<div class="math \1" tabindex="0"'),
    # A list whose children are no list items.
    (r'<div role="list" class="citation-list">', '<div class="citation-list">'),
    # Parameters of a signature, one a line, are written as definitions without terms.
    (r'<dt class="sig .*?</dt>', lambda found: _lines_of_signature(found[0])),
    # In this book the cells that are folded whole are the solutions of exercises.
    (r"(Show|Hide) code cell content", r"\1 the solution"),
    # Live code is off, but its loader is on every page and knows the address of another host.
    (r'<script type="text/x-thebe-config">.*?</script>', ""),
    (r"<script>[^<]*thebe[^<]*</script>|<script [^>]*sphinx-thebe\.js[^>]*></script>", ""),
    (r"<link [^>]*sphinx-thebe\.css[^>]*>", ""),
)


def mended(html: str) -> str:
    """The page after all mends."""
    for pattern, replacement in MENDS:
        html = re.sub(pattern, replacement, html, flags=re.DOTALL)
    return html


def _lines_of_signature(html: str) -> str:
    for tag, name in (("dl", "sig-lines"), ("dd", "sig-line")):
        html = html.replace(f"<{tag}>", f'<span class="{name}">').replace(f"</{tag}>", "</span>")
    return html


def mend_pages(app: Sphinx, error: Exception | None) -> None:
    """Rewrite the pages that need it, once the builder is done."""
    if error is not None or app.builder.format != "html":
        return
    for page in Path(app.outdir).rglob("*.html"):
        before = page.read_text(encoding="utf-8")
        after = mended(before)
        if after != before:
            page.write_text(after, encoding="utf-8")


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("build-finished", mend_pages)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
