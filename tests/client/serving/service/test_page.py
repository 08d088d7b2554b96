"""The page of the HTTP API in a real browser: it asks, and shows what is answered."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from client.serving.service.clients import add_client
from tests.client.console.browser import CHROMIUM, Browser, browser
from tests.client.serving.service.running import Running, publish, running

if TYPE_CHECKING:
    from tests.conftest import Sites

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
FORM = 'form[data-path="/v1/recommend"]'


@pytest.fixture
def shown(sites: Sites, tmp_path: Path) -> Iterator[tuple[Browser, Running, str]]:
    """The page of a service that asks for a token, and the token."""
    site = sites.make(users=30, changes={"serve.clients": "clients.toml"})
    token = add_client(site / "clients.toml", "page")
    with (
        running(site, publish(sites, tmp_path / "published")) as service,
        browser(tmp_path / "browser") as page,
    ):
        page.go(f"{service.http_address}/")
        yield page, service, token


def ask(page: Browser, request: object) -> tuple[int, dict[str, object]]:
    """Type a request into the form, send it, and read the answer."""
    page.run(f"document.querySelector('{FORM} textarea').select()")
    page.run(f"document.querySelector('{FORM} output').textContent = ''")
    page.type(json.dumps(request))
    page.click(f"{FORM} button")
    output = f"document.querySelector('{FORM} output').textContent"
    page.wait(f"/^[0-9]/.test({output})")
    status, _, body = page.run(output).partition(" ")
    return int(status), json.loads(body)


def test_the_page_gets_recommendations(shown: tuple[Browser, Running, str]) -> None:
    page, service, token = shown
    request = {"user": "user1", "k": 4}
    status, refused = ask(page, request)
    assert (status, refused["code"]) == (401, "UNAUTHENTICATED")
    page.run("document.getElementById('token').focus()")
    page.type(token)
    status, answer = ask(page, request)
    headers = {"Authorization": f"Bearer {token}"}
    expected = service.post("/v1/recommend", request, headers=headers).json()
    assert (status, answer["items"]) == (200, expected["items"])
    status, wrong = ask(page, {"user": "<img src=x>", "k": 4})
    assert status == 404
    assert "<img src=x>" in str(wrong["message"])
    assert page.run("document.images.length") == 0
    assert {address.split("/")[2] for address in page.requests} == {
        service.http_address.removeprefix("http://")
    }
    expected_lines = ("status of 40", "favicon", "[DOM]")  # refusals; a hint of the browser's
    assert not [
        line for line in page.problems if not any(known in line for known in expected_lines)
    ]
