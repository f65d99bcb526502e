"""What must be on the site, read from its files."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest
from rendered import ROOT, elements, foreign_sources, ids, pages, toc_files

ROOMS = ("data", "models", "train", "records", "chapters")


@pytest.mark.parametrize("file", toc_files())
def test_every_document_has_a_page(file, site):
    assert (site / f"{file}.html").is_file()


def test_every_prose_page_and_notebook_is_in_the_contents():
    written = [*(ROOT / "book").rglob("*.md"), *(ROOT / "notebooks").glob("*.ipynb")]
    names = {path.relative_to(ROOT).with_suffix("").as_posix() for path in written if not path.name.startswith("_")}
    assert names <= set(toc_files()), f"pages that no reader can find: {sorted(names - set(toc_files()))}"


@pytest.mark.parametrize("room", ROOMS)
def test_every_public_name_is_documented(room, site):
    module = importlib.import_module(f"scaletut.{room}")
    documented = ids((site / "book" / "api" / f"{room}.html").read_text(encoding="utf-8"))
    missing = {name for name in module.__all__ if f"scaletut.{room}.{name}" not in documented}
    assert not missing


@pytest.mark.parametrize("page", pages() or ["book/index.html"])
def test_page_loads_nothing_from_elsewhere(page, site):
    html = (site / page).read_text(encoding="utf-8")
    assert not foreign_sources(html)
    assert "thebe" not in html, "live code is off, yet its loader is on the page"


def test_front_door_leads_to_the_landing_page(site):
    html = (site / "index.html").read_text(encoding="utf-8")
    assert 'content="0; url=book/index.html"' in html
    assert any(one.tag == "html" and one.attributes.get("lang") == "en" for one in elements(html))


def test_landing_page_shows_the_question_the_figure_and_three_ways_in(site):
    parts = elements((site / "book" / "index.html").read_text(encoding="utf-8"))
    figures = [one for one in parts if one.tag == "img" and "headline" in one.attributes["src"]]
    assert any("question" in one.classes for one in parts)
    assert len(figures) == 2
    assert sum("sd-card" in one.classes for one in parts) == 3


def test_bundled_files_carry_their_licences():
    vendor = [
        ROOT / "book" / "_extra" / "vendor",
        Path(__file__).parent / "vendor",
        ROOT / "book" / "_static" / "fonts",
    ]
    for folder in vendor:
        for path in folder.iterdir():
            if path.suffix in {".js", ".woff2"}:
                stem = path.name.split("-latin")[0].split(".")[0]
                found = [one for one in folder.iterdir() if one.suffix == ".txt" and one.name.startswith(stem)]
                assert found, f"{path.relative_to(ROOT)} has no licence beside it"
