"""What a page must satisfy: each check returns its faults, an empty list when there are none."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from playwright.sync_api import ConsoleMessage, Page, Request, Response, Route, ViewportSize

Theme = Literal["light", "dark"]

AXE = Path(__file__).parent / "vendor" / "axe.min.js"
DESKTOP: ViewportSize = {"width": 1280, "height": 900}
PHONE: ViewportSize = {"width": 390, "height": 844}
SMALLEST_TEXT = 14  # CSS pixels
GRAVE = {"serious", "critical"}


@dataclass
class Watch:
    """Everything that a page says and asks for while it is open. Requests to other hosts are noted and stopped."""

    page: Page
    origin: str
    console: list[str] = field(default_factory=list)
    exceptions: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    foreign: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.page.on("console", self._on_console)
        self.page.on("pageerror", lambda error: self.exceptions.append(str(error)))
        self.page.on("response", self._on_response)
        self.page.on("requestfailed", self._on_failure)
        self.page.route(self._is_foreign, self._stop)

    def open(self, address: str, size: ViewportSize = DESKTOP) -> None:
        """Go to `address` with a clean slate, as a light page, and wait until formulas are set."""
        for faults in (self.console, self.exceptions, self.failed, self.foreign):
            faults.clear()
        self.page.set_viewport_size(size)
        self.page.goto(address, wait_until="load")
        set_theme(self.page, "light")
        self.page.evaluate("async () => { if (window.MathJax?.startup) await MathJax.startup.promise }")

    def faults(self) -> dict[str, list[str]]:
        return {
            "console error": self.console,
            "exception": self.exceptions,
            "failed request": self.failed,
            "foreign request": self.foreign,
        }

    def _is_foreign(self, url: str) -> bool:
        return not url.startswith((self.origin, "data:", "blob:", "about:"))

    def _stop(self, route: Route) -> None:
        self.foreign.append(route.request.url)
        route.abort()

    def _on_console(self, message: ConsoleMessage) -> None:
        if message.type == "error":
            self.console.append(message.text)

    def _on_response(self, response: Response) -> None:
        if response.status >= 400:
            self.failed.append(f"{response.status} {response.url}")

    def _on_failure(self, request: Request) -> None:
        if not self._is_foreign(request.url) and request.failure != "net::ERR_ABORTED":  # left by navigating on
            self.failed.append(f"{request.failure} {request.url}")


def set_theme(page: Page, theme: Theme) -> None:
    page.evaluate("theme => { document.documentElement.dataset.theme = theme }", theme)


def pictures_without_words(page: Page) -> list[str]:
    """Pictures in the text whose description is missing, empty, or only a file name or a program's default."""
    return page.evaluate(
        """() => {
          const article = document.querySelector('article, main') ?? document.body;
          const words = one => (one.getAttribute('alt') ?? one.getAttribute('aria-label')
            ?? one.querySelector('title')?.textContent ?? '').trim();
          const isDefault = text => /^[\\w.\\/:-]+\\.(png|svg|jpe?g|gif|webp)$/i.test(text)
            || /^<.*(\\d+x\\d+|object at).*>$/.test(text) || text.length < 8;
          const ours = one => !one.closest('mjx-container, [aria-hidden="true"], button, a.headerlink, .sd-octicon');
          return [...article.querySelectorAll('img, svg, canvas, [role="img"]')].filter(ours)
            .filter(one => !one.classList.contains('svg-inline--fa') && isDefault(words(one)))
            .map(one => one.outerHTML.slice(0, 160));
        }"""
    )


def wide_elements(page: Page) -> list[str]:
    """What makes the page scroll sideways: nothing on a sound page."""
    return page.evaluate(
        """() => {
          const root = document.documentElement, width = root.clientWidth;
          if (Math.max(root.scrollWidth, document.body.scrollWidth) <= width + 1) return [];
          const scrolls = one => { for (let up = one.parentElement; up && up !== document.body; up = up.parentElement)
            if (getComputedStyle(up).overflowX !== 'visible') return true; return false; };
          const wide = [...document.body.querySelectorAll('*')]
            .filter(one => one.getBoundingClientRect().right > width + 1 && !scrolls(one));
          const culprits = wide.slice(0, 5).map(one => one.outerHTML.slice(0, 120));
          return [`page is ${root.scrollWidth} px wide on ${width}`, ...culprits];
        }"""
    )


def small_text(page: Page) -> list[str]:
    """Running text below the least size."""
    return page.evaluate(
        """least => [...document.querySelectorAll('article :is(p, li, dd, td, th, figcaption)')]
          .filter(one => one.offsetParent && one.textContent.trim() && !one.closest('sup, sub, mjx-container'))
          .map(one => [parseFloat(getComputedStyle(one).fontSize), one])
          .filter(([size]) => size < least)
          .slice(0, 5).map(([size, one]) => `${size} px: ${one.textContent.trim().slice(0, 60)}`)""",
        SMALLEST_TEXT,
    )


@functools.lru_cache(maxsize=1)
def _axe_source() -> str:
    return AXE.read_text(encoding="utf-8")


def barriers(page: Page) -> list[str]:
    """Violations that axe-core calls serious or critical, as the page stands now."""
    if not page.evaluate("() => 'axe' in window"):
        page.evaluate(_axe_source())
    found: list[dict[str, Any]] = page.evaluate(
        """async () =>
          (await axe.run(document, {resultTypes: ['violations'], iframes: false, preload: false})).violations"""
    )
    return [
        f"{one['impact']} {one['id']}: {node['html'][:140]} ({node['failureSummary'].splitlines()[-1].strip()[:160]})"
        for one in found
        if one["impact"] in GRAVE
        for node in one["nodes"][:3]
    ]


def raw_formulas(page: Page) -> list[str]:
    """Formulas that are still source text, or that MathJax could not set."""
    return page.evaluate(
        """() => [...document.querySelectorAll('article .math')]
          .filter(one => !one.querySelector('mjx-container') || one.querySelector('[data-mml-node="merror"]'))
          .map(one => one.textContent.trim().slice(0, 80))"""
    )


def all_faults(watch: Watch, address: str) -> dict[str, list[str]]:
    """Open a page and look at it: on a phone in light and dark, then on a desktop.

    The phone comes first: the theme makes scrolling parts reachable with the keyboard when the page is loaded.
    """
    page = watch.page
    watch.open(address, PHONE)
    faults = {"formula not set": raw_formulas(page)}
    for theme in ("light", "dark"):
        set_theme(page, theme)
        faults[f"too wide, {theme}"] = wide_elements(page)
        faults[f"text too small, {theme}"] = small_text(page)
    faults["barrier, dark"] = barriers(page)
    page.set_viewport_size(DESKTOP)
    set_theme(page, "light")
    faults["barrier, light"] = barriers(page)
    faults["picture without words"] = pictures_without_words(page)
    faults |= watch.faults()
    return {kind: found for kind, found in faults.items() if found}
