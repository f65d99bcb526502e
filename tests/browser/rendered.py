"""The rendered site: where it is, which pages it has, and how to serve it on this machine alone."""

from __future__ import annotations

import contextlib
import functools
import http.server
import json
import os
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
SITE = Path(os.environ.get("SCALETUT_SITE", ROOT / "_build" / "html")).resolve()
NOT_BUILT = f"the site is not built: {SITE}/book/index.html is missing; run `make book`"
LEDGER = "book/ledger.html"


def pages() -> list[str]:
    """Addresses of all pages relative to the site's root, such as "book/index.html", without the front door,
    which leads on at once.
    """
    found = (path.relative_to(SITE).as_posix() for path in SITE.rglob("*.html"))
    return sorted(
        page for page in found if page != "index.html" and not page.startswith(("_static/", "_sources/", "vendor/"))
    )


def chapters() -> list[str]:
    """Names of the chapters in the table of contents, such as "finetune"."""
    return [Path(file).name for file in toc_files() if file.startswith("notebooks/")]


def toc_files() -> list[str]:
    """Every document that the table of contents names, in order."""
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))

    def walk(node: Any) -> Iterator[str]:
        if isinstance(node, dict):
            if "file" in node:
                yield node["file"]
            for key in ("parts", "chapters", "sections"):
                yield from walk(node.get(key, []))
        elif isinstance(node, list):
            for one in node:
                yield from walk(one)

    return [toc["root"], *walk({key: value for key, value in toc.items() if key != "root"})]


def config() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))


def expected_buttons(chapter: str) -> dict[str, str]:
    """Addresses that the buttons of a chapter must have, spelt out from the one repository setting."""
    repository = config()["repository"]
    owner_and_name = repository["url"].removeprefix("https://github.com/")
    path = f"notebooks/{chapter}.ipynb"
    return {
        "colab": f"https://colab.research.google.com/github/{owner_and_name}/blob/{repository['branch']}/{path}",
        "binder": f"https://mybinder.org/v2/gh/{owner_and_name}/{repository['branch']}?urlpath=lab/tree/{path}",
        "download": f"../_sources/{path}",
    }


@contextlib.contextmanager
def served(folder: Path) -> Iterator[str]:
    """Serve `folder` on the loopback address; yields the origin, such as "http://127.0.0.1:40123"."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        protocol_version = "HTTP/1.1"  # keeps connections open: pages load several times faster

        def log_message(self, *_: object) -> None:
            pass

    class Server(http.server.ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 128

        def handle_error(self, request: object, client_address: object) -> None:
            pass  # a browser that closes a connection early is no fault of the site

    server = Server(("127.0.0.1", 0), functools.partial(Handler, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


@dataclass
class Element:
    """A start tag of a page."""

    tag: str
    attributes: dict[str, str]

    @property
    def classes(self) -> set[str]:
        return set(self.attributes.get("class", "").split())


class _Collector(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.elements: list[Element] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append(Element(tag, {name: value or "" for name, value in attrs}))


def elements(html: str) -> list[Element]:
    """All start tags of a page, in order."""
    collector = _Collector()
    collector.feed(html)
    return collector.elements


def ids(html: str) -> set[str]:
    return {element.attributes["id"] for element in elements(html) if "id" in element.attributes}


def broken_evidence(html: str, ledger_ids: set[str]) -> list[str]:
    """Evidence links of a page that lead to no row of the ledger."""
    links = [one.attributes.get("href", "") for one in elements(html) if one.tag == "a" and "evidence" in one.classes]
    return [href for href in links if href.partition("#")[2] not in ledger_ids or "ledger.html" not in href]


def wrong_buttons(html: str, chapter: str) -> list[str]:
    """Buttons of a chapter's run bar that are missing or lead elsewhere."""
    found = {
        kind: one.attributes.get("href", "")
        for one in elements(html)
        for kind in ("colab", "binder", "download")
        if f"run-{kind}" in one.classes
    }
    wanted = expected_buttons(chapter)
    return [
        f"{kind}: {found.get(kind)!r}, not {address!r}"
        for kind, address in wanted.items()
        if found.get(kind) != address
    ]


def foreign_sources(html: str) -> list[str]:
    """Scripts, styles, fonts, frames and pictures that a page would load from another host."""
    faults = []
    for one in elements(html):
        loads = one.attributes.get("src", "")
        if one.tag == "link" and one.attributes.get("rel") not in {"canonical", "license", "author"}:
            loads = one.attributes.get("href", "")
        if re.match(r"(https?:)?//", loads):
            faults.append(f"<{one.tag}> {loads}")
    return faults


def stored_notebook(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))
