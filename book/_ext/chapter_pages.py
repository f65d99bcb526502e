"""What every page of the site gets: a run bar on chapters, boxes, Chinese marked as such, a front door."""

from __future__ import annotations

import re
from html import escape
from pathlib import Path
from typing import Any, ClassVar

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.transforms.post_transforms import SphinxPostTransform

FRONT_DOOR = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>{title}</title>
<meta http-equiv="refresh" content="0; url={target}">
<link rel="canonical" href="{target}">
</head>
<body><p><a href="{target}">{title}</a></p></body>
</html>
"""


def run_links(app: Sphinx, docname: str) -> list[tuple[str, str, str]]:
    """(class, label, address) of the ways to run a chapter, all made from the one repository setting."""
    options = app.config.html_theme_options
    owner_and_name = options["repository_url"].removeprefix("https://github.com/").strip("/")
    branch, launch = options["repository_branch"], options["launch_buttons"]
    up = "../" * docname.count("/")
    return [
        ("colab", "Open in Colab", f"{launch['colab_url']}/github/{owner_and_name}/blob/{branch}/{docname}.ipynb"),
        (
            "binder",
            "Open in Binder",
            f"{launch['binderhub_url']}/v2/gh/{owner_and_name}/{branch}?urlpath=lab/tree/{docname}.ipynb",
        ),
        ("download", "Download the notebook", f"{up}_sources/{docname}.ipynb"),
    ]


class RunBar(SphinxPostTransform):
    """Under the title of each chapter: the ways to run it, visible without opening a menu."""

    default_priority = 900
    formats = ("html",)

    def run(self, **_: Any) -> None:
        docname = self.env.docname
        title = next(iter(self.document.findall(nodes.title)), None)
        if title is None or not self.env.doc2path(docname).endswith(".ipynb"):
            return
        buttons = "".join(
            f'<a class="run-{kind}" href="{escape(address)}"{" download" if kind == "download" else ""}>{label}</a>'
            for kind, label, address in run_links(self.app, docname)
        )
        bar = nodes.raw("", f'<nav class="run-bar" aria-label="Run this chapter">{buttons}</nav>', format="html")
        title.parent.insert(title.parent.index(title) + 1, bar)


class Boxes(SphinxPostTransform):
    """A quotation that opens with **Takeaway** or **Guess first** becomes a box.

    So the source stays plain Markdown, and reads as a quotation in Colab and Jupyter.
    """

    default_priority = 901
    kinds: ClassVar = {"takeaway": "takeaway", "guess first": "guess"}

    def run(self, **_: Any) -> None:
        for quote in self.document.findall(nodes.block_quote):
            first = next(iter(quote.findall(nodes.strong)), None)
            kind = self.kinds.get(first.astext().rstrip(".:").lower()) if first is not None else None
            if kind:
                quote["classes"].append(kind)


class ChineseTerms(SphinxPostTransform):
    """Say which terms of the glossary are Chinese, for the choice of glyphs and for screen readers."""

    default_priority = 902

    def run(self, **_: Any) -> None:
        for term in self.document.findall(nodes.term):
            if re.search(r"[\u4e00-\u9fff]", term.astext()):
                term["classes"].append("language-zh-Hans")  # docutils writes such a class as the lang attribute


def write_front_door(app: Sphinx, error: Exception | None) -> None:
    """Lead from the site's root to the landing page.

    Jupyter Book writes such a page only when there is none, and names a landing page in a folder wrongly.
    """
    if error is None and app.builder.format == "html" and app.config.root_doc != "index":
        page = FRONT_DOOR.format(title=escape(app.config.html_title), target=f"{app.config.root_doc}.html")
        Path(app.outdir, "index.html").write_text(page, encoding="utf-8")


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_post_transform(RunBar)
    app.add_post_transform(Boxes)
    app.add_post_transform(ChineseTerms)
    app.connect("build-finished", write_front_door)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
