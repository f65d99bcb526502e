"""One browser, one page and one local server for all tests of the site."""

from __future__ import annotations

import shutil
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # for the modules beside this file

from rendered import NOT_BUILT, SITE, served

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.browser)


@pytest.fixture(scope="session")
def site() -> Path:
    """The folder of the rendered site. A site that is not built is a failure, not a reason to skip."""
    if not (SITE / "book" / "index.html").exists():
        pytest.fail(NOT_BUILT, pytrace=False)
    return SITE


@pytest.fixture(scope="session")
def origin(site: Path) -> Iterator[str]:
    with served(site) as address:
        yield address


@pytest.fixture(scope="session")
def browser():
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        reason = f"NO BROWSER: none of {', '.join(BROWSERS)} is installed, so the pages were not looked at"
        warnings.warn(reason, stacklevel=1)
        pytest.skip(reason)
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield running
        running.close()


@pytest.fixture(scope="session")
def context(browser, origin):
    """One browsing context for all tests: files that pages share are loaded once."""
    made = browser.new_context(color_scheme="light", reduced_motion="reduce")
    made.grant_permissions(["clipboard-read", "clipboard-write"], origin=origin)
    made.set_default_timeout(60_000)  # a busy machine is slow, not wrong
    yield made
    made.close()


@pytest.fixture(scope="session")
def watch(context, origin):
    """The page that visits the whole site, and what it notes on the way."""
    from checks import Watch

    return Watch(context.new_page(), origin)


@pytest.fixture
def page(context):
    """A fresh page."""
    made = context.new_page()
    yield made
    made.close()
