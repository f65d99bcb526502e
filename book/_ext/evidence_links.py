"""Links that lead to a row of the ledger are evidence: they get a quiet look of their own and a word for the reader."""

from __future__ import annotations

from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.transforms.post_transforms import SphinxPostTransform

LEDGER = "book/ledger"


class EvidenceLinks(SphinxPostTransform):
    """Mark each resolved link into the ledger page, wherever it stands in the book."""

    default_priority = 20  # after the links are resolved (9 and 10)
    formats = ("html",)

    def run(self, **_: Any) -> None:
        if self.env.docname == LEDGER or LEDGER not in self.env.all_docs:
            return
        row = self.app.builder.get_relative_uri(self.env.docname, LEDGER) + "#"
        for link in self.document.findall(nodes.reference):
            if link.get("refuri", "").startswith(row):
                link["classes"].append("evidence")
                link.setdefault("reftitle", "Measured: how, when, and how surely is in the ledger")


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_post_transform(EvidenceLinks)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
