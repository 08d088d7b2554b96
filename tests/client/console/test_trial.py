"""Recommendations on the page are the recommender's, whoever's titles they are."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from client.console.app import PartnerConsole
from client.console.desk import STRENGTHS
from client.console.trial import Question, find_titles, try_it
from client.home.home_model import HomeModel
from client.serving.recommender import Recommender
from tests.client.console.desks import (
    GENRE,
    TITLE,
    USER,
    Visitor,
    console_of,
    hostile_site,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.conftest import Sites


@pytest.fixture(scope="module")
def made(
    tmp_path_factory: pytest.TempPathFactory, make_sites: Callable[[Path], Sites]
) -> tuple[Path, Path]:
    return hostile_site(make_sites(tmp_path_factory.mktemp("trial")))


@pytest.fixture(scope="module")
def console(made: tuple[Path, Path]) -> Iterator[PartnerConsole]:
    opened = console_of(*made)
    yield opened
    opened.close()


@pytest.fixture
def visitor(console: PartnerConsole) -> Visitor:
    return Visitor(console)


def tried(console: PartnerConsole, **fields: Any) -> Any:
    table = console.desk.table
    assert table is not None
    return try_it(table, Question.read(fields, table))


def test_a_users_list_is_the_adapted_models(
    console: PartnerConsole, made: tuple[Path, Path]
) -> None:
    site, published = made
    recommender = Recommender.load(published, site / "home.safetensors")
    table = console.desk.table
    assert table is not None
    for user in (USER, "user7", "user12"):
        numbers = table.loaded.histories.find(user)
        assert numbers is not None
        history = [recommender.catalogue.item_ids[number - 1] for number in numbers]
        found = tried(console, user=user, k=6)
        assert [event.item for event in found.history] == history
        assert [one.item for one in found.shown] == recommender.recommend(history, 6, explain=True)
        read = [event.attention for event in found.history if event.attention is not None]
        assert sum(read) == pytest.approx(1, abs=1e-4)
        for one in found.shown:
            parts = one.reason.popularity + one.reason.federated + one.reason.home
            assert parts == pytest.approx(one.item.score, rel=1e-5)
            largest = [abs(event.difference) for event in one.events]
            assert largest == sorted(largest, reverse=True)


def test_the_slider_goes_from_the_published_model_to_own_counts(
    console: PartnerConsole, made: tuple[Path, Path]
) -> None:
    table = console.desk.table
    assert table is not None
    blends = table.blends
    assert [blend.strength for blend in blends] == [
        None,
        *sorted({*STRENGTHS, 12.0}, reverse=True),
    ]
    assert [blend.strength for blend in blends if blend.adapted] == [12.0]
    assert blends[table.start].adapted
    site, published = made
    history = ["i3", "i9", "i1"]
    alone = Recommender.load(published)
    assert [one.item for one in tried(console, history=history, blend=0).shown] == alone.recommend(
        history, explain=True
    )
    home = Recommender.load(published, site / "home.safetensors").home
    assert home is not None
    shares = []
    for number, blend in enumerate(blends[1:], start=1):
        assert blend.strength is not None
        other = alone.with_home(HomeModel(home.transitions, home.prior, blend.strength))
        found = tried(console, history=history, blend=number).shown
        assert [one.item for one in found] == other.recommend(history, explain=True)
        shares.append(sum(one.reason.home for one in found) / sum(o.item.score for o in found))
    assert shares == sorted(shares)


def test_filters_and_what_was_seen(console: PartnerConsole) -> None:
    history = ["i3", "i9"]
    comedies = tried(console, history=history, category="Comedy", k=20).shown
    assert {one.about for one in comedies} == {"Comedy"}
    assert not {"i3", "i9"} & {one.item.item for one in comedies}
    everything = tried(console, history=history, seen=True, k=20).shown
    assert {"i3", "i9"} <= {one.item.item for one in everything}
    empty = tried(console, history=[])
    assert empty.history == ()
    assert all(one.events == () for one in empty.shown)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"user": "nobody"}, "no history"),
        ({"history": ["no item"]}, "no item"),
        ({"history": "i1"}, "list"),
        ({"history": [1]}, "text"),
        ({"history": ["i1"] * 1001}, "1,000"),
        ({"history": [], "blend": 99}, "`blend`"),
        ({"history": [], "blend": True}, "`blend`"),
        ({"history": [], "k": 0}, "`k`"),
        ({"history": [], "k": 51}, "`k`"),
        ({"user": "x" * 201}, "200"),
        ({"history": [], "category": "None such"}, "category"),
    ],
)
def test_what_cannot_be_tried_is_said(visitor: Visitor, fields: object, said: str) -> None:
    answer = visitor.post("/api/recommend", fields)
    assert answer.status_code == 400
    assert said in answer.json()["message"]


def test_titles_and_users_are_found(console: PartnerConsole, visitor: Visitor) -> None:
    table = console.desk.table
    assert table is not None
    assert [one.item for one in find_titles(table, "NUMBER 17")] == ["i17"]
    assert [one.item for one in find_titles(table, "i17")] == ["i17"]
    assert find_titles(table, "  ") == []
    assert len(find_titles(table, "film")) == 12
    users = visitor.post("/api/users", {"text": "user1"}).text
    assert 'data-user="user1"' in users
    assert users.index('data-user="user1"') < users.index('data-user="user10"')
    assert "No user has" in visitor.post("/api/users", {"text": "<b>none"}).text
    assert "&lt;b&gt;none" in visitor.post("/api/titles", {"text": "<b>none"}).text
    drawn = visitor.post("/api/any-user", {}).json()["user"]
    assert table.loaded.histories.find(drawn)


def test_hostile_titles_and_ids_stay_text(visitor: Visitor) -> None:
    parts = [
        visitor.post("/api/recommend", {"user": USER, "seen": True, "k": 20}).text,
        visitor.post("/api/recommend", {"history": ["i3", "i3"], "k": 20}).text,
        visitor.post("/api/users", {"text": "anna"}).text,
        visitor.post("/api/titles", {"text": "img"}).text,
    ]
    for part in parts:
        for raw in ("<script", "<img", "<i>", TITLE, USER, GENRE):
            assert raw not in part
    assert "&lt;img src=x" in parts[0]
    assert "&lt;i&gt;" in parts[0]
    assert "anna&#34;&#39;&gt;&lt;script&gt;" in parts[2]


def test_trying_writes_nothing(visitor: Visitor, made: tuple[Path, Path]) -> None:
    site, _ = made
    before = {file: file.read_bytes() for file in site.rglob("*") if file.is_file()}
    visitor.post("/api/recommend", {"user": "user7"})
    visitor.post("/api/any-user", {})
    after = {file: file.read_bytes() for file in site.rglob("*") if file.is_file()}
    assert after == before


def test_without_a_home_model_counts_are_made_here(sites: Sites) -> None:
    console = console_of(*hostile_site(sites, home=False, lived=False))
    table = console.desk.table
    assert table is not None
    assert (table.adapted, table.start) == (False, 0)
    found = tried(console, user="user7", blend=len(table.blends) - 1)
    assert found.shown[0].reason.home > 0
    assert "is not adapted" in Visitor(console).get("/try")
    console.close()


def test_dismissed_items_are_left_out(
    console: PartnerConsole, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = console.desk.table
    assert table is not None
    first = tried(console, user="user7", k=3).shown[0].item.item
    monkeypatch.setattr(type(table.loaded.histories), "dismissed", lambda *_: frozenset({first}))
    found = tried(console, user="user7", k=3)
    assert found.dismissed == 1
    assert first not in [one.item.item for one in found.shown]
