"""Every page, opened in a real browser."""

from __future__ import annotations

import pytest
from rendered import pages

PAGES = pages() or ["book/index.html"]  # an unbuilt site fails in the fixture, with the command to run


@pytest.mark.parametrize("page", PAGES)
def test_page_is_sound(page, watch, origin):
    """No console error, exception, failed or foreign request; words for pictures; fits a phone; no grave barrier."""
    from checks import all_faults

    faults = all_faults(watch, f"{origin}/{page}")
    assert not faults, "\n".join(f"{kind}: {one}" for kind, found in faults.items() for one in found)
