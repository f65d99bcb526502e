"""The page of `scaletut serve`: a reader uploads a picture and sees class, probabilities and milliseconds."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from checks import DESKTOP, PHONE, Watch, barriers, wide_elements

pytest.importorskip("uvicorn", reason="the extra `serve` is not installed: its page is NOT opened in a browser here")
pytest.importorskip("onnxruntime")
sys.path.insert(0, str(Path(__file__).parents[1] / "unit"))

from serve_cases import COLOURS, colour_program, picture

from scaletut.serve import Service, running


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    model = colour_program(tmp_path_factory.mktemp("page") / "colours.onnx").path
    with running(model, max_bytes="100KB") as found:
        yield found


@pytest.fixture
def opened(browser, service: Service) -> Iterator[Watch]:
    """The page, and what it says and asks for; in the dark theme, where contrast is forgotten first."""
    context = browser.new_context(color_scheme="dark", reduced_motion="reduce")
    context.set_default_timeout(30_000)
    seen = Watch(context.new_page(), service.url)
    seen.open(service.url, PHONE)
    yield seen
    context.close()


def file(name: str, content: bytes) -> dict:
    return {"name": name, "mimeType": "image/png", "buffer": content}


@pytest.mark.parametrize("colour", COLOURS)
def test_a_picture_gives_class_probabilities_and_milliseconds(opened: Watch, colour: str) -> None:
    page = opened.page
    page.locator("input[type=file]").set_input_files(file("some.png", picture(colour, (60, 40))))
    page.get_by_role("heading", level=2).wait_for()
    told = re.fullmatch(r"(\w+), > 99\.[0-9] %|(\w+), (\d+\.\d) %", page.get_by_role("heading", level=2).inner_text())
    assert told[1] == colour or (told[2] == colour and float(told[3]) > 90)
    rows = page.locator("tr").all_inner_texts()
    assert [row.split()[0] for row in rows[:1]] == [colour]
    assert {row.split()[0] for row in rows} == set(COLOURS)
    widths = page.eval_on_selector_all(".bar div", "all => all.map(one => one.getBoundingClientRect().width)")
    assert widths == sorted(widths, reverse=True)
    assert widths[0] > 20 * widths[-1]
    assert re.search(r"[\d.]+ ms of computing, [\d.]+ ms of waiting", page.locator("#answer").inner_text())
    assert page.locator("#picture").evaluate("one => one.naturalWidth") == 60
    assert not {kind: found for kind, found in opened.faults().items() if found}


@pytest.mark.parametrize("key", ["Space", "Enter"])
def test_it_can_be_used_with_the_keyboard_alone(opened: Watch, key: str) -> None:
    page = opened.page
    page.on("filechooser", lambda _: None)  # from now on, not from the key on: Chromium needs a moment to hand it over
    page.keyboard.press("Tab")
    assert page.evaluate("() => document.activeElement.id") == "file"
    assert page.locator(".drop").evaluate("one => getComputedStyle(one).outlineStyle") == "solid"
    with page.expect_file_chooser() as chooser:
        page.keyboard.press(key)
    chooser.value.set_files(file("some.png", picture("green")))
    page.get_by_role("heading", name="green").wait_for()


def test_a_picture_can_be_dropped(opened: Watch) -> None:
    page = opened.page
    page.evaluate(
        """bytes => {
          const carried = new DataTransfer();
          carried.items.add(new File([new Uint8Array(bytes)], 'some.png', {type: 'image/png'}));
          document.querySelector('.drop').dispatchEvent(new DragEvent('drop', {dataTransfer: carried, bubbles: true}));
        }""",
        list(picture("blue")),
    )
    page.get_by_role("heading", name="blue").wait_for()


@pytest.mark.parametrize(
    ("content", "reason"), [(b"hello", "no picture of a kind"), (bytes(100_001), "more than 100,000 bytes")]
)
def test_a_refusal_is_told_in_words(opened: Watch, content: bytes, reason: str) -> None:
    opened.page.locator("input[type=file]").set_input_files(file("some.png", content))
    told = opened.page.locator(".error", has_text="No answer")
    told.wait_for()
    assert reason in told.inner_text()
    assert opened.page.locator("#picture").is_hidden()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_has_no_barriers_and_fits_a_phone_and_a_desk(opened: Watch, scheme: str) -> None:
    page = opened.page
    page.emulate_media(color_scheme=scheme)
    page.locator("input[type=file]").set_input_files(file("some.png", picture("red", (900, 500))))
    page.get_by_role("heading", level=2).wait_for()
    for size in (PHONE, DESKTOP):
        page.set_viewport_size(size)
        assert not wide_elements(page)
        assert not barriers(page)
    paper = page.evaluate("() => getComputedStyle(document.body).backgroundColor")
    assert (paper == "rgb(255, 255, 255)") == (scheme == "light")
