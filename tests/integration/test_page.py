"""The status page in a real Chromium: nothing fails, all is seen at one glance, on each screen.

With PAGE_SHOTS=docs/images the pictures of docs/http.md are made anew.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from healthcheck.html import REFRESH_S
from tests.rig.page_scenes import HEALTHY, NO_KAFKA, ONE_ISOLATED, SCENES, TOPICS, Scene, served
from tests.services import Browser
from tests.waiting import wait_until

SHOTS = "PAGE_SHOTS"
DESKTOP, PHONE = (1280, 800), (390, 844)
TAB = {"key": "Tab", "code": "Tab", "windowsVirtualKeyCode": 9}

SIZES = """
const page = document.documentElement;
return [page.scrollWidth, innerWidth, page.scrollHeight, innerHeight];
"""
VERDICT = """
const verdict = document.querySelector('.status'), box = verdict.getBoundingClientRect();
const isSeen = box.width > 20 && box.height > 10 && box.left >= 0 && box.top >= 0
    && box.right <= innerWidth && box.bottom <= innerHeight;
return isSeen ? verdict.innerText : null;
"""
CUT_OFF = """
return [...document.querySelectorAll('main *')]
    .filter(each => each.getBoundingClientRect().width > 1)
    .filter(each => each.getBoundingClientRect().right > innerWidth + 1
        || each.clientWidth && each.scrollWidth > each.clientWidth + 1
        || each.clientWidth && each.clientHeight > 5 * each.clientWidth)
    .map(each => each.tagName + ' ' + each.textContent.slice(0, 40));
"""
"""Elements that reach out of the screen, whose text reaches out of them, or stands in one letter a
line."""
OWN = ("chrome:", "data:")
"""Addresses of the browser's first page, which may still be loading parts of itself."""
GROUND = "return getComputedStyle(document.body).backgroundColor"
TEXT = "return document.body.innerText"
FOCUSED = """
const active = document.activeElement;
return [active.getAttribute('href'), getComputedStyle(active).outlineStyle];
"""


@pytest.fixture
def address(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Give the address of a page that shows the scene."""
    with served(request.param, tmp_path) as url:
        yield url


def shows(*scenes: Scene) -> pytest.MarkDecorator:
    """Run a test on the pages of these scenes."""
    return pytest.mark.parametrize("address", scenes, indirect=True, ids=lambda scene: scene.name)


def brightness(colour: str) -> float:
    """0 to 255 of a colour as the browser tells it."""
    return sum(map(int, re.findall(r"\d+", colour)[:3])) / 3


def check(browser: Browser, address: str, size: tuple[int, int], dark: bool) -> None:
    """Load the page and see that nothing failed, is cut off, or can be scrolled sideways."""
    browser.console(), browser.requests()
    browser.show(address, *size, dark=dark)
    width, width_max, _height, _height_max = browser.run(SIZES)
    assert (width_max, width) == (size[0], size[0])
    assert browser.run(CUT_OFF) == []
    assert (brightness(browser.run(GROUND)) < 128) is dark
    assert browser.console() == []
    assert {each for each in browser.requests() if not each[0].startswith(OWN)} == {
        (address, 200)}


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@shows(*SCENES)
def test_eight_topics_are_seen_at_one_glance(
    browser: Browser, address: str, dark: bool, request: pytest.FixtureRequest
) -> None:
    """Whoever is woken by the pager must not have to search."""
    check(browser, address, DESKTOP, dark)
    scene = request.node.callspec.params["address"]
    keep(browser, f"page-{scene.name}{'-dark' if dark else ''}.png")
    _width, _width_max, height, height_max = browser.run(SIZES)
    assert height <= height_max
    assert browser.run(VERDICT) == scene.status


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@shows(*SCENES)
def test_a_phone_scrolls_in_one_direction_only(
    browser: Browser, address: str, dark: bool, request: pytest.FixtureRequest
) -> None:
    """And the verdict comes first."""
    check(browser, address, PHONE, dark)
    scene = request.node.callspec.params["address"]
    keep(browser, f"phone-{scene.name}{'-dark' if dark else ''}.png")
    assert browser.run(VERDICT) == scene.status


@pytest.mark.parametrize(("address", "words"), [
    (HEALTHY, ["Messages get to their tables.", "Nothing is late.", "json +",
               "6 d 23 h", "never", "unknown", "or by size"]),
    (ONE_ISOLATED, ["Late: payments (3 min)", "isolated", "it failed 4 cycles", "403 Forbidden",
                    "loss is near"]),
    (NO_KAFKA, ["Late: orders", "KafkaUnavailable", "backing off",
                "what to do: Check that the brokers are up"]),
], indirect=["address"], ids=["healthy", "isolated", "kafka-gone"])
def test_the_words_on_the_page_say_what_is_wrong(
    browser: Browser, address: str, words: list[str]
) -> None:
    """As a person sees them: after the style has hidden what it hides."""
    browser.show(address, *DESKTOP)
    text = browser.run(TEXT)
    for each in (*words, *TOPICS):
        assert each in text


@shows(HEALTHY)
def test_the_page_comes_anew_by_itself(browser: Browser, address: str) -> None:
    """Somebody looks at it from across the room."""
    browser.show(address, *DESKTOP)
    browser.run("window.isOld = true")
    wait_until(lambda: not browser.run("return window.isOld || document.readyState === 'loading'"),
               3 * REFRESH_S, "the page was loaded again")
    assert browser.run(VERDICT) == "healthy"


@shows(HEALTHY)
def test_links_are_reached_by_the_keyboard_and_seen_to_be(browser: Browser, address: str) -> None:
    """Without a mouse, one must know where one is."""
    wanted = [[path, "solid"] for path in ("/health", "/livez", "/readyz", "/metrics")]

    def visited() -> list[list[str]]:
        browser.show(address, *DESKTOP)
        found = []
        for _ in wanted:
            browser.command("Input.dispatchKeyEvent", type="keyDown", **TAB)
            browser.command("Input.dispatchKeyEvent", type="keyUp", **TAB)
            found.append(browser.run(FOCUSED))
        return found

    # A page that came anew meanwhile begins at its top again.
    wait_until(lambda: visited() == wanted, 6 * REFRESH_S, "the links were visited in their order")


@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
@shows(HEALTHY)
def test_a_screen_reader_finds_a_table_on_every_screen(
    browser: Browser, address: str, size: tuple[int, int]
) -> None:
    """A table that is laid out otherwise is none to Chromium, unless it is told."""
    browser.show(address, *size)
    nodes = browser.command("Accessibility.getFullAXTree")["nodes"]
    roles = [node["role"]["value"] for node in nodes if not node["ignored"]]
    assert roles.count("table") == 1
    assert roles.count("rowheader") == len(TOPICS)
    assert roles.count("columnheader") == 12
    assert roles.count("cell") == 11 * len(TOPICS)
    assert {"banner", "main", "navigation", "contentinfo", "image"} <= set(roles)


STRANGE = replace(ONE_ISOLATED, name="strange", names=(
    "a" * 249, "<script>alert(1)</script>", "\u202egnirts", "b" * 60, "c\nd", "\"'>", "e.f", "g"))


@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
@shows(STRANGE)
def test_strange_names_neither_run_nor_push_anything_aside(
    browser: Browser, address: str, size: tuple[int, int]
) -> None:
    """The browser has the last word on what is text."""
    check(browser, address, size, dark=False)
    text = browser.run(TEXT)
    assert "<script>alert(1)</script>" in text
    assert "\\u202egnirts" in text


def test_the_checks_find_a_page_with_faults(browser: Browser, tmp_path: Path) -> None:
    """Else all the above might pass on an empty page."""
    page = tmp_path / "faulty.html"
    page.write_text(
        f"<main><p>{'x' * 900}</p><img src='missing.png'><script>nothing()</script></main>")
    browser.console(), browser.requests()
    browser.show(page.as_uri(), *DESKTOP)
    width, width_max, *_heights = browser.run(SIZES)
    assert width > width_max
    assert any(each.startswith("P x") for each in browser.run(CUT_OFF))
    assert any("nothing is not defined" in line for line in browser.console())
    assert any("ERR_FILE_NOT_FOUND" in str(answer) for _url, answer in browser.requests())


def keep(browser: Browser, name: str) -> None:
    """Write a picture where one is wanted."""
    folder = os.environ.get(SHOTS)
    if folder:
        browser.screenshot(Path(folder) / name)
