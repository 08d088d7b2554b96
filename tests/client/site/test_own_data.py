"""All users are read, in however many passes."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

import client.site.own_data as module
from client.data.feedback import FeedbackEvent
from client.data.interactions import Kind
from client.site.own_data import OwnData
from client.site.site import Site
from shared.data.histories import Histories
from shared.errors import ConfigError, DataError
from tests.conftest import Sites


def as_lists(histories: Histories) -> dict[str, list[int]]:
    return {user: histories[row].tolist() for row, user in enumerate(histories.users)}


def together(passes: list[Callable[[], Histories]]) -> dict[str, list[int]]:
    parts = [as_lists(read()) for read in passes]
    assert sum(map(len, parts)) == len({user for part in parts for user in part}), "each user once"
    return {user: items for part in parts for user, items in part.items()}


@pytest.fixture
def own(sites: Sites) -> OwnData:
    return OwnData.of_site(Site.load(sites.make(users=30)))


def test_passes_read_every_user_once(
    sites: Sites, own: OwnData, monkeypatch: pytest.MonkeyPatch
) -> None:
    [whole] = own.passes(sites.catalogue, None)
    assert len(whole()) == 30
    monkeypatch.setattr(module, "_ROWS", 40)
    passes = own.passes(sites.catalogue, None)
    assert len(passes) == -(-own.count_rows() // 40) > 2
    assert max(len(read()) for read in passes) < 30
    assert together(passes) == as_lists(whole())


def test_named_users_are_in_their_order_with_or_without_events(
    sites: Sites, own: OwnData, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_USERS", 2)
    named = ["user7", "nobody", "user3"]
    passes = own.passes(sites.catalogue, named)
    whole = as_lists(own.histories(sites.catalogue))
    assert len(passes) == 2
    expected = {"user7": whole["user7"], "nobody": [], "user3": whole["user3"]}
    assert list(together(passes).items()) == list(expected.items())


def test_feedback_has_the_form_of_times_that_the_site_states(sites: Sites) -> None:
    def read(name: str, times: str) -> dict[str, list[int]]:
        folder = sites.make(name, {"data.source": "events.csv", "serve.times": times})
        rows = ["user_id,item_id,timestamp", "a,i1,1700000000", "a,i2,1700000009", "b,i3,1"]
        (folder / "events.csv").write_text("\n".join(rows) + "\n")
        site, moment = Site.load(folder), 1_700_000_001_000_000
        store = site.open_feedback(create=True)
        assert store is not None
        with closing(store):
            store.add([[FeedbackEvent(id="e", user="a", item="i4", kind=Kind.CHOSEN, time=moment)]])
        return as_lists(OwnData.of_site(site).histories(sites.catalogue))

    assert read("right", "seconds")["a"] == [1, 4, 2]
    with pytest.raises(DataError, match="size of milliseconds"):
        read("wrong", "milliseconds")


def test_a_file_is_read_without_a_site(sites: Sites, tmp_path: Path) -> None:
    file = tmp_path / "mine.csv"
    file.write_text("who,what,timestamp\na,i1,1\na,i2,2\nb,i3,1\n")
    own = OwnData.of_file(str(file), {"user": "who", "item": "what"})
    assert as_lists(own.histories(sites.catalogue)) == {"a": [1, 2], "b": [3]}
    with pytest.raises(DataError, match="--user-column who"):
        OwnData.of_file(str(file), {"item": "what"}).passes(sites.catalogue, None)
    with pytest.raises(ConfigError):
        OwnData.of_file("", {})
