"""The guards of the site, guarded: a fault is planted in a copy of a page, and its check must go red.

Each fault is served in place of the page on disk; the unchanged page must pass the same check.
"""

from __future__ import annotations

import pytest
from checks import PHONE, Watch, barriers, pictures_without_words, raw_formulas, set_theme, small_text, wide_elements
from rendered import broken_evidence, foreign_sources, wrong_buttons

PAGE = "book/checked.html"
PIXEL = "data:image/gif;base64,R0lGODlhAQABAAAAACH5BAEKAAEALAAAAAABAAEAAAICTAEAOw=="


def phone(check, theme="light"):
    def run(watch):
        watch.page.set_viewport_size(PHONE)
        set_theme(watch.page, theme)
        return check(watch.page)

    return run


def desktop(check, theme="light"):
    def run(watch):
        set_theme(watch.page, theme)
        return check(watch.page)

    return run


def noted(kind):
    def run(watch):
        watch.page.wait_for_timeout(150)  # a late request or message
        return watch.faults()[kind]

    return run


FAULTS = {
    "foreign image": (
        '<img src="https://example.org/a.png" alt="A picture from elsewhere">',
        noted("foreign request"),
    ),
    "foreign font": (
        "<style>@font-face{font-family:X;src:url(https://example.org/x.woff2)} b{font-family:X}</style><b>x</b>",
        noted("foreign request"),
    ),
    "script that asks elsewhere": (
        "<script>fetch('https://example.org/a').catch(() => {})</script>",
        noted("foreign request"),
    ),
    "missing file": ('<img src="no-such-file.png" alt="A picture that is not there">', noted("failed request")),
    "console error": ("<script>console.error('planted')</script>", noted("console error")),
    "exception": ("<script>throw new Error('planted')</script>", noted("exception")),
    "picture without alt": (f'<img src="{PIXEL}" width="80" height="80">', desktop(pictures_without_words)),
    "picture with an empty alt": (f'<img src="{PIXEL}" alt="">', desktop(pictures_without_words)),
    "picture with a file name for words": (
        f'<img src="{PIXEL}" alt="../_images/0a1b2c.png">',
        desktop(pictures_without_words),
    ),
    "drawing without words": ('<svg width="90" height="90"><circle r="9"/></svg>', desktop(pictures_without_words)),
    "wide element": ('<div style="width:900px">wide</div>', phone(wide_elements)),
    "wide table": (f'<pre style="overflow:visible">{"long " * 60}</pre>', phone(wide_elements)),
    "small text": ('<p style="font-size:11px">fine print</p>', phone(small_text)),
    "formula that cannot be set": ('<span class="math">\\(\\frac{1\\)</span>', desktop(raw_formulas)),
    "grey on white": ('<p style="color:#bbb">hard to read</p>', desktop(barriers)),
    "dark on dark": ('<p style="color:#333">hard to read at night</p>', desktop(barriers, "dark")),
    "button without a name": ("<button></button>", desktop(barriers)),
    "link without words": ('<a href="run.html"></a>', desktop(barriers)),
}


@pytest.fixture(scope="module")
def stand(context, origin):
    watch = Watch(context.new_page(), origin)
    yield watch
    watch.page.close()


@pytest.fixture(scope="module")
def html(site):
    return (site / PAGE).read_text(encoding="utf-8")


def planted(html, fault):
    end = html.rindex("</article>")
    return html[:end] + fault + html[end:]


@pytest.mark.parametrize("name", FAULTS)
def test_planted_fault_is_found(name, stand, origin, html):
    fault, check = FAULTS[name]
    address = f"{origin}/{PAGE}"
    stand.open(address)
    assert not check(stand), "the unchanged page must pass"
    stand.page.route(address, lambda route: route.fulfill(body=planted(html, fault), content_type="text/html"))
    try:
        stand.open(address)
        assert check(stand), f"{name}: planted, and not found"
    finally:
        stand.page.unroute(address)


def test_broken_evidence_link_is_found():
    good = '<a class="evidence reference internal" href="../book/ledger.html#finetune-accuracy">93.1 %</a>'
    rows = {"finetune-accuracy"}
    assert not broken_evidence(good, rows)
    assert broken_evidence(good.replace("accuracy", "acuracy"), rows)
    assert broken_evidence(good.replace("ledger", "run"), rows)


@pytest.mark.parametrize("spoilt", ["run-colab", "/blob/main/", "mybinder.org", "_sources/notebooks/sample.ipynb"])
def test_wrong_button_is_found(spoilt):
    from rendered import expected_buttons

    html = "".join(f'<a class="run-{kind}" href="{href}">x</a>' for kind, href in expected_buttons("sample").items())
    assert not wrong_buttons(html, "sample")
    assert wrong_buttons(html.replace(spoilt, "spoilt"), "sample")


@pytest.mark.parametrize(
    "fault",
    [
        '<script src="https://cdn.example.org/x.js"></script>',
        '<link rel="stylesheet" href="//fonts.example.org/css">',
        '<iframe src="http://example.org"></iframe>',
    ],
)
def test_foreign_source_is_found(fault):
    own = '<link rel="canonical" href="https://example.org/"><script src="../_static/x.js"></script><a href="https://example.org">x</a>'
    assert not foreign_sources(own)
    assert foreign_sources(own + fault)
