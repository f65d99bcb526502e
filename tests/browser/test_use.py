"""What readers do with the site: search, copy, follow evidence, run a chapter, open solutions, read it from a disk."""

from __future__ import annotations

import json
import re

import pytest
from checks import PHONE, Watch, raw_formulas
from rendered import LEDGER, ROOT, broken_evidence, chapters, ids, pages, wrong_buttons

CHAPTERS = chapters()


def numbers(text):
    return [float(one) for one in re.findall(r"\d+(?:\.\d+)?", text.replace(",", ""))]


def test_search_finds_a_word(page, origin):
    page.goto(f"{origin}/book/run.html")
    page.keyboard.press("Control+k")
    page.keyboard.type("profile")
    page.keyboard.press("Enter")
    page.wait_for_url(re.compile(r"search\.html\?q=profile"))
    # Results come in one after the other, so the first of them says nothing about the others.
    page.wait_for_selector("#search-results li a[href*='book/run.html']", timeout=20_000)


def test_search_for_nonsense_finds_nothing(page, origin):
    page.goto(f"{origin}/search.html?q=qzxjkvw")
    page.wait_for_selector("#search-results .search-summary")
    page.wait_for_function(
        "() => /did not match|no results|0 /i.test(document.querySelector('#search-results').textContent)"
    )
    assert page.locator("#search-results li a").count() == 0


def test_dark_mode_button_changes_the_page(page, origin):
    page.goto(f"{origin}/book/index.html")
    colour = "() => getComputedStyle(document.body).backgroundColor"
    seen = {page.evaluate(colour)}
    for _ in range(3):  # automatic, light, dark
        page.locator("button.theme-switch-button:visible").first.click()
        seen.add(page.evaluate(colour))
    assert len(seen) == 2, seen


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_copy_button_copies_the_code(chapter, page, origin):
    page.goto(f"{origin}/notebooks/{chapter}.html")
    cell = page.locator("div.cell_input div.highlight").first
    cell.hover()
    cell.locator("button.copybtn").click()
    page.wait_for_selector("button.copybtn.success")
    copied = page.evaluate("() => navigator.clipboard.readText()")
    assert copied.strip() == cell.locator("pre").inner_text().strip()


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_buttons_lead_to_this_chapter(chapter, site):
    html = (site / "notebooks" / f"{chapter}.html").read_text(encoding="utf-8")
    assert not wrong_buttons(html, chapter)


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_download_is_the_notebook_of_the_repository(chapter, page, origin):
    page.goto(f"{origin}/notebooks/{chapter}.html")
    address = page.locator("a.run-download").evaluate("one => one.href")
    answer = page.request.get(address)
    assert answer.status == 200
    assert json.loads(answer.body()) == json.loads((ROOT / "notebooks" / f"{chapter}.ipynb").read_bytes())


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_evidence_leads_to_its_row(chapter, page, origin):
    page.goto(f"{origin}/notebooks/{chapter}.html")
    links = page.locator("a.evidence")
    assert links.count() > 0, "a chapter without evidence"
    text = links.first.inner_text()
    links.first.click()
    page.wait_for_url(re.compile(r"book/ledger\.html#"))
    row = page.locator(":target")
    assert row.is_visible()
    assert row.evaluate(
        "one => { const box = one.getBoundingClientRect(); return box.top >= 0 && box.top < innerHeight }"
    )
    around = row.evaluate("one => (one.closest('tr, dl, section') ?? one.parentElement).textContent")
    assert numbers(text), f"{text!r} holds no number"
    number = numbers(text)[0]
    near = [one for one in numbers(around) if abs(one - number) <= 0.05 * abs(one) + 0.05]  # as rounded in the text
    assert near, f"{text!r} is not in the row it leads to: {around!r}"


def test_every_evidence_link_has_a_row(site):
    ledger = ids((site / LEDGER).read_text(encoding="utf-8"))
    faults = {page: broken_evidence((site / page).read_text(encoding="utf-8"), ledger) for page in pages()}
    assert not {page: found for page, found in faults.items() if found}


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_folded_solutions_open(chapter, page, origin):
    page.goto(f"{origin}/notebooks/{chapter}.html")
    folds = page.locator("div.cell:is(.tag_hide-cell, .tag_hide-input) details")
    assert folds.count() >= 3, "an exercise without a folded solution, or fewer than three of them"
    for number in range(folds.count()):
        fold = folds.nth(number)
        assert not fold.evaluate("one => one.open"), "a solution that is open from the start"
        fold.locator("summary").first.click()
        inside = fold.locator(":scope > :not(summary)").first
        assert inside.is_visible()
        assert inside.inner_text().strip()


def test_contents_open_on_a_phone(page, origin):
    page.set_viewport_size(PHONE)
    page.goto(f"{origin}/book/run.html")
    entry = page.locator(".bd-sidebar-primary a", has_text="Glossary").first
    assert not entry.is_visible()
    page.locator("button.primary-toggle:visible").first.click()
    entry.wait_for(state="visible")
    entry.click()
    page.wait_for_url(re.compile("glossary"))


def test_site_reads_from_a_disk(context, site):
    """Opened as files, without any server: the front door leads in, formulas are set, nothing fails."""
    watch = Watch(context.new_page(), "file://")
    page = watch.page
    try:
        page.goto(f"file://{site}/index.html", wait_until="commit")  # it leads on before it is loaded
        page.wait_for_url(re.compile(r"book/index\.html$"))
        watch.open(f"file://{site}/book/checked.html")
        assert not raw_formulas(page)
        assert page.locator("article mjx-container").count() > 0
        assert not any(watch.faults().values()), watch.faults()
        assert page.evaluate("() => document.fonts.check('16px \"Book Serif\"')")
    finally:
        page.close()
