"""A site whose titles, users and names are hostile, and a console of it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import torch
from starlette.types import ASGIApp

from client.console.access import ACTION_HEADER, Access
from client.console.app import PartnerConsole
from client.console.run import Place, RunningConsole
from client.home.home_model import Memory, TransitionCounts
from client.site.site import Site
from shared.data.catalogue import Catalogue
from shared.data.histories import Histories
from shared.data.reading import write_interactions
from shared.models.attention import build
from tests.client.home.stored import save_counts
from tests.client.ledger.spending import Spending
from tests.conftest import MODEL, some_catalogue, some_histories

if TYPE_CHECKING:
    from tests.conftest import Sites

SCRIPT = "<script>window.hacked = 1</script>"
TITLE = f"\"'><img src=x onerror='window.hacked = 1'>{SCRIPT}"
USER = f"anna\"'>{SCRIPT}"
ORGANISATION = "Alpha & <b>Sons</b>"
GENRE = "Drama <i>&</i>"
ORIGIN = "http://127.0.0.1:9473"


def hostile_catalogue() -> Catalogue:
    """Titles in words, one of them markup; genres and years."""
    plain = some_catalogue()
    titles = [f"Film number {item[1:]}" for item in plain.item_ids]
    titles[2] = TITLE
    genres = tuple((GENRE,) if number % 3 else ("Comedy",) for number in range(len(plain)))
    return replace(plain, titles=tuple(titles), genres=genres)


def hostile_site(sites: Sites, *, home: bool = True, lived: bool = True) -> tuple[Path, Path]:
    """A site with past runs, and a published folder; the first user has a hostile id."""
    catalogue = hostile_catalogue()
    site = sites.make(
        "alpha",
        {
            "organisation": ORGANISATION,
            "user_base": f"users {SCRIPT}",
            "catalogue": "published/catalogue",
            "policy.max_epsilon": 2.0,
            "population": 60,
            "serve.model": "published",
        },
    )
    drawn = some_histories(40, seed=5)
    users = (USER, *drawn.users[1:])
    own = Histories(users, drawn.items, drawn.offsets)
    write_interactions(own, catalogue, site / "interactions.parquet")
    published = site / "published"
    with torch.random.fork_rng():
        torch.manual_seed(1)
        build(MODEL, catalogue).save_pretrained(published / "model")
    catalogue.save(published / "catalogue")
    if home:
        counts = TransitionCounts.of(own, len(catalogue), Memory(3, 0.5))
        save_counts(site / "home.safetensors", counts, 12.0, catalogue.fingerprint)
    if lived:
        Spending(site).live()
    return site, published


def console_of(site: Path, model: Path | None = None, before: Path | None = None) -> PartnerConsole:
    """A console that listens nowhere; its model is loaded."""
    loaded = Site.load(site)
    console = PartnerConsole(loaded, model, before, Access(loaded.folder))
    console.desk.start()
    console.desk.wait(120)
    assert console.desk.progress.problem == ""
    return console


class Client:
    """A browser's requests to an application, without a network; it keeps cookies."""

    def __init__(self, app: ASGIApp, origin: str = ORIGIN) -> None:
        self._loop = asyncio.new_event_loop()
        self._client = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=origin)
        self.cookies = self._client.cookies

    def request(self, method: str, path: str, **options: Any) -> httpx.Response:
        return self._loop.run_until_complete(self._client.request(method, path, **options))

    def get(self, path: str, **options: Any) -> httpx.Response:
        return self.request("GET", path, **options)

    def post(self, path: str, **options: Any) -> httpx.Response:
        return self.request("POST", path, **options)

    def __del__(self) -> None:
        self._loop.close()


class Visitor:
    """Somebody with a session."""

    def __init__(self, console: PartnerConsole) -> None:
        self.client = Client(console.app)
        self.client.get("/", params={"token": console.access.token})
        page = self.client.get("/").text
        self.action = page.partition('name="sotto-action" content="')[2].partition('"')[0]

    def get(self, path: str) -> str:
        answer = self.client.get(path)
        assert answer.status_code == 200, (path, answer.text)
        return answer.text

    def post(self, path: str, body: object, **headers: str) -> Any:
        common = {"Origin": ORIGIN, ACTION_HEADER: self.action}
        return self.client.post(path, json=body, headers=common | headers)


@contextmanager
def running_console(site: Path, model: Path) -> Iterator[tuple[RunningConsole, str]]:
    """Listen on loopback in a thread while the block runs; yields the address with the token."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()

    def wait_for(work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, loop).result(60)

    running = RunningConsole(Site.load(site), model, None, Place(host="127.0.0.1", port=0))
    try:
        yield running, wait_for(running.start())
        wait_for(running.stop())
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
