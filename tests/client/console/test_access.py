"""An enemy at the console: without the token, under another name, from a page of another site."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from client.console.access import ACTION_HEADER, MOST_SESSIONS, Access
from client.console.app import PartnerConsole
from client.console.run import Place
from client.serving.service.clients import Tls
from client.site.site import Site
from shared.errors import SiteError
from tests.client.console.desks import ORIGIN, Client, Visitor

if TYPE_CHECKING:
    from tests.conftest import Sites

PAGES = ("/", "/left", "/left/4", "/budget", "/try", "/quality", "/health")
READS = ("/api/quality", "/api/check", "/api/model", "/part/quality", "/part/check")
ACTIONS = (
    "/api/users",
    "/api/any-user",
    "/api/titles",
    "/api/recommend",
    "/api/quality",
    "/api/check",
)
SECRET = "the viewers of alpha"


@pytest.fixture
def console(sites: Sites) -> Iterator[PartnerConsole]:
    site = Site.load(sites.make("alpha", {"user_base": SECRET, "policy.max_epsilon": 2.0}))
    made = PartnerConsole(site, None, None, Access(site.folder))
    yield made
    made.close()


def stranger(console: PartnerConsole) -> Client:
    return Client(console.app)


def test_without_the_token_nothing_is_shown(console: PartnerConsole) -> None:
    client = stranger(console)
    for path in (*PAGES, *READS, "/none", "/openapi.json"):
        for session in ("", "guessed"):
            answer = client.get(path, headers={"Cookie": f"{console.access.cookie}={session}"})
            assert answer.status_code == 401, path
            assert "alpha" not in answer.text
            assert SECRET not in answer.text
    for path in ACTIONS:
        assert client.post(path, json={"do": "start"}).status_code == 401
    assert not console.check.progress.running


@pytest.mark.parametrize("token", ["", "x", "é", "a" * 5000])
def test_a_wrong_token_opens_nothing(console: PartnerConsole, token: str) -> None:
    client = stranger(console)
    for answer in (
        client.get("/", params={"token": token}),
        client.post("/enter", data={"token": token}),
    ):
        assert answer.status_code == 401
        assert "set-cookie" not in answer.headers
        assert "not the token" in answer.text


@pytest.mark.parametrize("way", ["address", "form"])
def test_the_token_begins_a_session_that_no_script_reads(console: PartnerConsole, way: str) -> None:
    client, token = stranger(console), console.access.token
    entered = (
        client.get("/", params={"token": token})
        if way == "address"
        else client.post("/enter", data={"token": token})
    )
    assert entered.status_code == 200
    cookie = entered.headers["set-cookie"]
    assert {"HttpOnly", "SameSite=strict", "Path=/"} <= set(cookie.split("; "))
    assert token not in cookie
    page = client.get("/")
    assert page.status_code == 200
    assert SECRET in client.get("/budget").text
    assert token not in page.text + entered.text


def test_over_tls_the_cookie_is_for_tls_alone(sites: Sites) -> None:
    site = Site.load(sites.make())
    console = PartnerConsole(site, None, None, Access(site.folder, secure=True))
    client = Client(console.app, "https://127.0.0.1:9473")
    cookie = client.get("/", params={"token": console.access.token}).headers["set-cookie"]
    assert "Secure" in cookie.split("; ")
    assert cookie.startswith("__Host-")
    console.close()


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:9473",
        "127.0.0.1.evil.example:9473",
        "10.0.0.7:9473",
        "",
        "a@b",
    ],
)
def test_it_answers_to_no_other_name(console: PartnerConsole, host: str) -> None:
    """A page of evil.example whose name now leads here sends its own name, and cookies or not."""
    visitor = Visitor(console)
    for path in (*PAGES, "/assets/console.js", f"/?token={console.access.token}"):
        answer = visitor.client.get(path, headers={"Host": host})
        assert answer.status_code == 421
        assert SECRET not in answer.text
        assert "set-cookie" not in answer.headers
    headers = {"Host": host, "Origin": f"http://{host}"}
    assert visitor.post("/api/check", {"do": "start"}, **headers).status_code == 421


@pytest.mark.parametrize("host", ["localhost:8888", "[::1]:9473", "127.0.0.1:1", "127.8.8.8:9473"])
def test_it_answers_to_the_names_of_this_machine(console: PartnerConsole, host: str) -> None:
    """Other ports, too: a tunnel has its own."""
    assert stranger(console).get("/assets/console.css", headers={"Host": host}).status_code == 200


def test_another_sites_page_cannot_act(console: PartnerConsole) -> None:
    """It makes the browser send the cookie, were there no SameSite, but knows no action token."""
    visitor, other = Visitor(console), Visitor(console)
    assert visitor.action != other.action
    for path in ACTIONS:
        for change in (
            {"Origin": "http://evil.example"},
            {"Origin": "null"},
            {"Origin": ""},
            {"Origin": "http://127.0.0.1:9999"},
            {"Origin": "https://127.0.0.1:9473"},
            {"Sec-Fetch-Site": "cross-site"},
            {"Sec-Fetch-Site": "same-site"},
            {ACTION_HEADER: ""},
            {ACTION_HEADER: other.action},
            {"Content-Type": "text/plain"},
            {"Content-Type": "application/x-www-form-urlencoded"},
        ):
            answer = visitor.post(path, {"do": "start"}, **change)
            assert answer.status_code == 403, (path, change)
    assert not console.check.progress.running
    assert visitor.post("/api/check", {"do": "stop"}).status_code == 200


def test_another_sites_page_cannot_read(console: PartnerConsole) -> None:
    visitor = Visitor(console)
    for site in ("cross-site", "same-site"):
        headers = {"Sec-Fetch-Site": site, "Sec-Fetch-Mode": "no-cors"}
        assert visitor.client.get("/left", headers=headers).status_code == 403
        link = {"Sec-Fetch-Site": site, "Sec-Fetch-Mode": "navigate"}
        assert visitor.client.get("/left", headers=link).status_code == 200


def test_reading_changes_nothing_and_other_methods_are_refused(console: PartnerConsole) -> None:
    visitor = Visitor(console)
    for path in ("/api/users", "/api/recommend"):
        assert visitor.client.get(path).status_code == 405
    for method in ("PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"):
        assert visitor.client.request(method, "/").status_code == 405


def test_every_answer_forbids_what_pages_do_not_need(console: PartnerConsole) -> None:
    visitor = Visitor(console)
    answers = [
        visitor.client.get("/"),
        visitor.client.get("/none"),
        visitor.client.get("/assets/console.js"),
        visitor.client.get("/", headers={"Host": "evil.example"}),
        visitor.post("/api/check", {"do": "what"}),
        stranger(console).get("/"),
    ]
    assert [one.status_code for one in answers] == [200, 404, 200, 421, 400, 401]
    for answer in answers:
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert "http" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["cross-origin-resource-policy"] == "same-origin"
        assert "access-control-allow-origin" not in answer.headers


def test_what_is_no_action_is_said(console: PartnerConsole) -> None:
    visitor = Visitor(console)
    common = {"Origin": ORIGIN, ACTION_HEADER: visitor.action, "Content-Type": "application/json"}
    for body in (b"", b"[1]", b"{", b"[" * 100_000, b'{"a": "' + b"x" * 300_000 + b'"}'):
        answer = visitor.client.post("/api/check", content=body, headers=common)
        assert answer.status_code == 400
        assert answer.json()["message"].startswith("an action")
    answer = visitor.post("/api/recommend", {"history": []})
    assert (answer.status_code, answer.json()["message"]) == (400, "the model is being loaded.")


def test_of_many_sessions_the_oldest_ends(console: PartnerConsole) -> None:
    first = Visitor(console)
    for _ in range(MOST_SESSIONS - 1):
        stranger(console).get("/", params={"token": console.access.token})
    assert first.client.get("/").status_code == 200
    stranger(console).get("/", params={"token": console.access.token})
    assert first.client.get("/").status_code == 401


def test_beyond_this_machine_it_listens_only_with_certificates_and_names(tmp_path: Path) -> None:
    tls = Tls(tmp_path / "crt", tmp_path / "key")
    with pytest.raises(SiteError, match="--certificate and --key"):
        Place(host="192.0.2.7", port=9473)
    with pytest.raises(SiteError, match="--certificate and --key"):
        Place(host="0.0.0.0", port=9473, names=("console.example",))
    with pytest.raises(SiteError, match="by which name"):
        Place(host="0.0.0.0", port=9473, tls=tls)
    known = Place(host="0.0.0.0", port=9473, tls=tls, names=("console.example",)).known_as
    access = Access("site", known, secure=True)
    assert access.knows_host("Console.example:9473")
    assert not access.knows_host("0.0.0.0:9473")
    assert not access.knows_host("evil.example:9473")
    assert Place(host="::1", port=0).known_as == ("::1",)
