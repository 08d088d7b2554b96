"""The console in a real browser: clicked, typed into, and looked at.

The browser reaches this machine alone. Fonts differ from machine to machine: what is checked is
what happens, colours as they are computed, and boxes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

from client.console.app import VIEWS
from client.console.run import RunningConsole
from client.serving.recommender import Recommender
from tests.client.console.browser import CHROMIUM, Browser, browser
from tests.client.console.desks import TITLE, USER, hostile_site, running_console

if TYPE_CHECKING:
    from tests.conftest import Sites

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")

LISTED = "[...document.querySelectorAll('[data-recommended]')].map(e => e.dataset.recommended)"
STATUS = "document.getElementById('status').textContent"
FOCUSED = "document.activeElement.id || document.activeElement.textContent.trim()"
LOOK = Path(__file__).with_name("look.js").read_text(encoding="utf-8")
"""Contrast by WCAG 2.2 (1.4.3, 1.4.11), on the colours that the browser computed; and boxes."""


@pytest.fixture(scope="module")
def made(
    tmp_path_factory: pytest.TempPathFactory, make_sites: Callable[[Path], Sites]
) -> tuple[Path, Path]:
    return hostile_site(make_sites(tmp_path_factory.mktemp("browser")))


@pytest.fixture(scope="module")
def opened(
    made: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Browser, str, RunningConsole]]:
    """A browser that has entered by the printed address."""
    with (
        running_console(*made) as (running, address),
        browser(tmp_path_factory.mktemp("chromium")) as page,
    ):
        running.console.desk.wait(120)
        page.look(1280)
        page.go(address)
        page.wait("location.search === '' && document.title.startsWith('Overview')")
        yield page, address.partition("/?")[0], running
        assert page.problems == []
        asked = {urlsplit(one).netloc for one in page.requests if one.startswith("http")}
        assert asked == {urlsplit(address).netloc}, "nothing else was asked for"
        assert page.run("window.hacked") is None


def expected(made: tuple[Path, Path], running: RunningConsole, blend: int, user: str) -> list[str]:
    """The list that a user gets at a position of the slider."""
    table = running.console.desk.table
    assert table is not None
    numbers = table.loaded.histories.find(user)
    assert numbers is not None
    recommender = Recommender.load(made[1], made[0] / "home.safetensors")
    history = [recommender.catalogue.item_ids[number - 1] for number in numbers]
    listed = table.recommenders[blend].recommend(history)
    return [one.item for one in listed]


def tab_to(page: Browser, name: str) -> None:
    """Press Tab until an element has the focus."""
    for _ in range(60):
        page.press("Tab")
        if page.run(FOCUSED) == name:
            return
    raise AssertionError(f"Tab never reaches {name}")


def test_the_token_is_no_longer_in_the_address_or_readable(
    opened: tuple[Browser, str, RunningConsole],
) -> None:
    page, _, running = opened
    page.go(opened[1] + "/")
    assert page.run("document.cookie") == ""
    token = running.access.token
    assert token not in page.run("location.href + document.documentElement.outerHTML")
    history = page.ask("Page.getNavigationHistory")["entries"]
    assert token not in json.dumps(history[1:])


def test_with_keys_alone_a_user_is_chosen_and_the_blend_moved(
    opened: tuple[Browser, str, RunningConsole], made: tuple[Path, Path]
) -> None:
    page, origin, running = opened
    page.look(1280)
    page.go(f"{origin}/try")
    page.press("Tab")
    assert page.run(FOCUSED) == "Skip to the content"
    assert page.run("document.activeElement.getBoundingClientRect().top >= 0")
    page.press("Enter")
    assert page.run("location.hash") == "#main"
    tab_to(page, "user")
    outline = page.run("getComputedStyle(document.activeElement).outlineWidth")
    assert float(outline.removesuffix("px")) >= 2, "the focus is seen"
    page.type("user7")
    page.wait("document.querySelectorAll('#users button').length >= 1")
    assert page.run("document.getElementById('user-found').textContent").endswith("found")
    page.press("ArrowDown")
    assert page.run("document.activeElement.dataset.user") == "user7"
    page.press("Enter")
    page.wait(f"{STATUS}.includes('user7')")
    assert page.run(FOCUSED) == "user"
    table = running.console.desk.table
    assert table is not None
    assert page.run(LISTED) == expected(made, running, table.start, "user7")
    tab_to(page, "blend")
    page.press("Home")
    page.wait(f"{STATUS}.includes('published model alone')")
    published = page.run(LISTED)
    assert published == expected(made, running, 0, "user7")
    assert page.run("document.getElementById('blend').ariaValueText") == table.blends[0].label
    page.press("End")
    page.wait(f"{STATUS}.includes('as much as 0.5')")
    own = page.run(LISTED)
    assert own == expected(made, running, len(table.blends) - 1, "user7")
    assert own != published
    tab_to(page, "seen")
    page.press("Space")
    page.wait(f"{LISTED}.join() !== {json.dumps(','.join(own))}")
    page.run("document.querySelector('summary').focus()")
    page.press("Enter")
    assert page.run("document.querySelector('details').open")
    assert "exactly" in page.run("document.querySelector('details').innerText")


def test_a_history_is_put_together_with_the_mouse(
    opened: tuple[Browser, str, RunningConsole], made: tuple[Path, Path]
) -> None:
    page, origin, _ = opened
    page.look(1280)
    page.go(f"{origin}/try")
    shown = "JSON.parse(document.getElementById('tried')?.dataset.history || '[]').join()"
    for text, item, history in (("img", "i3", "i3"), ("number 17", "i17", "i3,i17")):
        page.click("#title")
        page.type(text)
        page.wait(f"!!document.querySelector('#titles [data-item={item}]')")
        page.click(f"#titles [data-item={item}]")
        page.wait(f"{shown} === '{history}'")
    recommender = Recommender.load(made[1], made[0] / "home.safetensors")
    assert page.run(LISTED) == [one.item for one in recommender.recommend(["i3", "i17"])]
    assert TITLE in page.run("document.querySelector('.events').textContent")
    page.click("[data-place='0']")
    page.wait(f"{shown} === 'i17'")
    assert page.run("document.activeElement.dataset.place") == "0", "the focus stays in the list"
    page.click("#empty")
    page.wait(f"{shown} === ''")
    assert "close to popularity" in page.run("document.getElementById('result').innerText")
    page.click("#any")
    page.wait(f"{STATUS}.includes('for user ')")
    page.run("document.getElementById('user').value = ''")
    page.click("#user")
    page.type(USER)
    page.press("Enter")
    page.wait(f"{STATUS}.includes({json.dumps(USER)})")


def test_it_measures_in_the_background_and_says_so(
    opened: tuple[Browser, str, RunningConsole],
) -> None:
    page, origin, running = opened
    page.go(f"{origin}/quality")
    assert page.run("document.querySelectorAll('#part svg').length") == 0
    page.click("#start")
    page.wait(f"{STATUS} === 'Done.'", 120)
    measured = running.console.quality.progress.result
    assert measured is not None
    text = page.run("document.getElementById('part').innerText")
    for one in measured.models.values():
        assert f"{one.metrics.ndcg:.4f}" in text
    assert page.run(FOCUSED) == "measured-title"
    assert page.run("document.querySelectorAll('#part svg').length") == 4


def test_a_console_that_was_started_again_is_said(
    opened: tuple[Browser, str, RunningConsole], monkeypatch: pytest.MonkeyPatch
) -> None:
    page, origin, running = opened
    page.go(f"{origin}/try")
    before = list(page.problems)
    with monkeypatch.context() as patch:
        patch.setattr(running.access, "_sessions", {})
        page.click("#any")
        page.wait(f"{STATUS}.includes('started again')")
    page.problems[:] = before  # the browser writes down that it was refused


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [360, 1280])
def test_pages_can_be_read(
    opened: tuple[Browser, str, RunningConsole], width: int, dark: bool
) -> None:
    page, origin, _ = opened
    page.look(width, dark=dark)
    for path in (*(path for path, _ in VIEWS), "/left/22", "/none"):
        before = list(page.problems)
        page.go(f"{origin}{path}")
        if path == "/none":
            page.problems[:] = before  # 404
        if path == "/try":
            page.run("document.getElementById('any').click()")
            page.wait("!!document.getElementById('tried')")
            page.run("document.querySelectorAll('details').forEach(e => { e.open = true; })")
        found: dict[str, Any] = page.run(LOOK)
        assert found["texts"] > 10
        assert found["scroll"] <= found["width"] == width, path
        for kind in ("faint", "wide", "small", "edges"):
            assert found[kind] == [], (path, kind)
        background = page.run("getComputedStyle(document.body).backgroundColor")
        assert background == ("rgb(20, 24, 29)" if dark else "rgb(255, 255, 255)")


def test_the_look_finds_what_is_wrong(opened: tuple[Browser, str, RunningConsole]) -> None:
    page, origin, _ = opened
    page.look(360)
    page.go(f"{origin}/budget")
    page.run(
        "document.querySelector('.lead').style.color = '#aaa';"
        "document.querySelector('h2').style.width = '700px';"
    )
    found = page.run(LOOK)
    assert [text for text, _ in found["faint"]] == ["ε bounds what all answers toge"]
    assert any(name.startswith("H2") for name in found["wide"])
