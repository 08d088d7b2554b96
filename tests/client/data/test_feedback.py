"""The store of feedback: what it keeps once, refuses, and never loses; SQLite and PostgreSQL."""

from __future__ import annotations

import sqlite3
import stat
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from client.data.config import DataConfig
from client.data.feedback import (
    ConflictingEventError,
    Exposure,
    FeedbackEvent,
    FeedbackStore,
    Stored,
)
from client.data.interactions import Interaction, Kind
from client.data.sources import read_source
from client.site.serve import INTERACTIONS
from client.site.site import Site
from shared.errors import SiteError
from tests.client.conftest import CANARY
from tests.conftest import some_catalogue

if TYPE_CHECKING:
    from simulations.datasets.temporary_postgresql import Server
    from tests.conftest import Sites

EVENT = FeedbackEvent(
    id="e1",
    user="user1",
    item="i3",
    kind=Kind.CHOSEN,
    time=1_700_000_000_250_000,
    exposure="x1",
    position=2,
    model="m",
)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[FeedbackStore]:
    with closing(FeedbackStore("sqlite:///feedback.sqlite", folder=tmp_path)) as made:
        yield made


def check(store: FeedbackStore) -> None:
    """What holds for every database."""
    rated = replace(EVENT, id="e2", kind=Kind.RATED, rating=4.5, position=None)
    assert store.add([[EVENT, rated], [EVENT]]) == [Stored(2, 0), Stored(0, 1)]
    later = replace(EVENT, time=EVENT.time + 5)  # the same event, sent again
    assert store.add([[later, later]]) == [Stored(0, 2)]
    other, new = replace(EVENT, item="i4"), replace(EVENT, id="e3", kind=Kind.DISMISSED)
    first, second = store.add([[new, other], [replace(EVENT, id="e4")]])
    assert isinstance(first, ConflictingEventError)
    assert "'e1' names another event already" in str(first)
    assert second == Stored(1, 0)  # a refused request leaves the others alone
    assert [event.id for event in store.events()] == ["e1", "e2", "e4"]
    assert list(store.events())[:2] == [EVENT, rated]
    [one, two] = store.interactions(["chosen"])
    assert one == Interaction(one.number, "user1", "i3", EVENT.time, Kind.CHOSEN)
    assert list(store.interactions(["chosen", "rated"], after=one.number))[-1] == two
    assert store.last_number() == two.number > one.number
    shown = Exposure(id="x1", user="u", time=1, model="m", items=("i1", "i2"), scores=(0.5, 0.25))
    store.add_exposures([shown])
    store.add_exposures([shown])
    assert list(store.exposures()) == [shown]


def test_events_are_kept_once_and_in_order(store: FeedbackStore, tmp_path: Path) -> None:
    check(store)
    store.close()
    with closing(FeedbackStore("sqlite:///feedback.sqlite", folder=tmp_path)) as again:
        assert [event.id for event in again.events()] == ["e1", "e2", "e4"]
    for file in tmp_path.iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o600, file


def test_postgresql_keeps_the_same(postgresql: Server, secrets: dict[str, str]) -> None:
    made = FeedbackStore(postgresql.url, folder=Path(), credentials=Path(secrets["postgresql"]))
    with closing(made) as store:
        check(store)
    wrong = f"{postgresql.url}-of-nobody"
    with pytest.raises(SiteError) as refused:
        FeedbackStore(wrong, folder=Path(), credentials=Path(secrets["postgresql"]))
    assert CANARY not in str(refused.value)


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("mysql://host/db", "kept in SQLite or PostgreSQL"),
        ("sqlite://", "names no file"),
        ("sqlite:////proc/none/feedback.sqlite", "cannot be made"),
        ("://", "not a URL"),
    ],
)
def test_an_address_that_cannot_be_used_is_refused(tmp_path: Path, url: str, words: str) -> None:
    with pytest.raises(SiteError, match=words) as refused:
        FeedbackStore(url, folder=tmp_path)
    assert f"serve.feedback = '{url}'" in str(refused.value)


def test_another_schema_and_a_damaged_file_are_refused(tmp_path: Path) -> None:
    url = "sqlite:///feedback.sqlite"
    FeedbackStore(url, folder=tmp_path).close()
    with closing(sqlite3.connect(tmp_path / "feedback.sqlite")) as opened, opened:
        opened.execute("UPDATE sotto_feedback SET value = '2' WHERE key = 'schema'")
    with pytest.raises(SiteError, match="version 2 of the schema"):
        FeedbackStore(url, folder=tmp_path)
    for file in list(tmp_path.iterdir()):
        file.unlink()
    (tmp_path / "feedback.sqlite").write_bytes(b"no database" * 1000)
    with pytest.raises(SiteError, match="the database refused"):
        FeedbackStore(url, folder=tmp_path)


# --- as rows of a source -----------------------------------------------------------------------

TIMES = {
    "seconds": ("timestamp", "1700000000", "1700000001"),
    "milliseconds": ("timestamp", "1700000000250", "1700000001250"),
    "nanoseconds": ("timestamp", "1700000000250000000", "1700000001250000000"),
    "iso": ("timestamp", "2023-11-14T22:13:20.25Z", "2023-11-14T22:13:21.25Z"),
    "position": ("position", "1", "2"),
    "dates": ("day", "2023-11-13", "2023-11-14"),
}


@pytest.mark.parametrize("form", TIMES)
@pytest.mark.parametrize("strict", [True, False])
def test_feedback_is_read_as_rows_whatever_form_times_have(
    tmp_path: Path, form: str, strict: bool
) -> None:
    name, first, second = TIMES[form]
    rows = [f"who,what,{name}", f"user1,i1,{first}", f"user1,i2,{second}", f"user2,i1,{first}"]
    (tmp_path / "events.csv").write_text("\n".join([*rows, ""]))
    data = DataConfig(
        source="events.csv", user="who", item="what", time="day" if name == "day" else ""
    )
    hour = 3_600_000_000
    feedback = [
        Interaction(1, "user1", "i3", 1_700_000_000_250_000 + hour, Kind.CHOSEN),
        Interaction(2, "new", "i4", 1_700_000_000_000_000, Kind.CHOSEN),
        Interaction(3, "user1", "outside", 1_700_000_000_000_000, Kind.CHOSEN),
    ]
    read = read_source(
        data,
        tmp_path,
        some_catalogue(),
        max_length=9,
        strict=strict,
        min_events=1,
        feedback=feedback,
    )
    histories = dict(zip(read.users, [list(items) for items in read], strict=True))
    assert histories == {"user1": [1, 2, 3], "user2": [1], "new": [4]}


def test_an_event_that_the_source_has_too_counts_once(tmp_path: Path) -> None:
    (tmp_path / "events.csv").write_text(
        "user_id,item_id,timestamp\nuser1,i1,1700000000\nuser1,i2,1700000001\n"
    )
    same = Interaction(1, "user1", "i2", 1_700_000_001_000_000, Kind.CHOSEN)
    data = DataConfig(source="events.csv")
    read = read_source(data, tmp_path, some_catalogue(), max_length=9, feedback=[same])
    assert read[0].tolist() == [1, 2]


@pytest.mark.parametrize("first", ["1600000000", "1600000000000000", "2020-01-01", "no time"])
def test_no_time_of_another_user_changes_how_feedback_is_read(tmp_path: Path, first: str) -> None:
    (tmp_path / "events.csv").write_text(
        f"user_id,item_id,timestamp\nother,i3,{first}\nuser1,i1,1700000000\nuser1,i2,1700000009\n"
    )
    event = Interaction(1, "user1", "i4", 1_700_000_001_000_000, Kind.CHOSEN)
    read = read_source(
        DataConfig(source="events.csv"),
        tmp_path,
        some_catalogue(),
        max_length=9,
        strict=False,
        feedback=[event],
        feedback_times="seconds",
    )
    assert read[read.users.index("user1")].tolist() == [1, 4, 2]


def test_feedback_for_a_coordinator_needs_the_form_of_times(sites: Sites) -> None:
    with pytest.raises(SiteError, match=r"serve\.federate = true needs serve\.times"):
        Site.load(sites.make("a", changes={"serve.federate": True}))


def test_a_coordinator_reads_feedback_only_where_the_site_says_so(sites: Sites) -> None:
    asked = []
    for federate in (False, True):
        changes = {"serve.federate": federate, "serve.times": "seconds"}
        folder = sites.make(f"site {federate}", changes=changes)
        site = Site.load(folder)
        before = site.data_version()
        store = site.open_feedback(create=True)
        assert store is not None
        with closing(store):
            store.add([[replace(EVENT, id=f"e{n}", item=f"i{n}") for n in (1, 2)]])
            store.add([[replace(EVENT, id="shown", kind=Kind.SHOWN, item="i9")]])
        histories = site.load_histories(sites.catalogue, 50, strict=False)
        row = histories.users.index("user1")
        asked.append((histories[row].tolist()[-2:] == [1, 2], site.data_version() != before))
        at_home = site.load_histories(sites.catalogue, 50, feedback=site.read_feedback())
        assert at_home[at_home.users.index("user1")].tolist()[-2:] == [1, 2]
    assert asked == [(False, False), (True, True)]


def test_kinds_are_the_same_everywhere() -> None:
    assert set(INTERACTIONS) < {str(kind) for kind in Kind}
