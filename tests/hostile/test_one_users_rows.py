"""No user's rows make a difference to another user, nor to whether a site answers."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from flwr.app import Message
from hypothesis import given, settings
from hypothesis import strategies as st

from client.checks.base import Expected, Status
from client.checks.preflight import preflight
from client.site.site import Site
from shared.data.domains import within
from shared.data.event_limits import NO_LIMITS, EventLimits
from shared.data.histories import Histories
from shared.data.reading import histories_from_tables
from shared.data.tables import MemoryTable
from shared.messages import (
    EvaluateReply,
    Statistic,
    StatisticsReply,
    TrainReply,
    refusal_in,
)
from shared.models.query_text import MOST_LETTERS, bag_of, words_of
from shared.outcomes import Refusal
from tests.conftest import DESCRIBED, Sites, some_catalogue
from tests.hostile.test_bounds import ask, evaluate_request, statistics_request

Row = tuple[str | None, str | None, str | None]
NAMES = ("user_id", "item_id", "timestamp")
OTHERS: list[Row] = [(user, f"i{n}", f"170000000{n}") for user in "ab" for n in (1, 2, 3)]
PRIVATE = {
    "policy.max_epsilon": 100.0,
    "policy.answers": ["train", "evaluate", "statistics"],
    "data.source": "interactions.csv",
}

BAD: dict[str, list[Row]] = {
    "no id of an item": [("u", "", "1700000001"), ("u", "i1", "1700000002")],
    "a missing item": [("u", None, "1700000001"), ("u", "i1", "1700000002")],
    "a rounded item": [("u", "1.23e+11", "1700000001"), ("u", "i1", "1700000002")],
    "no user": [("", "i1", "1700000001")],
    "a spelling of no user": [("NULL", "i1", "1700000001")],
    "no time": [("u", "i1", None), ("u", "i2", "1700000002")],
    "a time that is none": [("u", "i1", "yesterday"), ("u", "i2", "1700000002")],
    "times of two units": [("u", "i1", "1700000000000"), ("u", "i2", "1700000002")],
    "times of two forms": [("u", "i1", "2024-05-01"), ("u", "i2", "1700000002")],
    # More rows than all others have: no vote decides what a time is.
    "another form": [("u", f"i{n}", f"2024-05-{n:02}") for n in range(1, 20)],
    "another unit": [("u", f"i{n}", f"17000000000{n:02}") for n in range(1, 20)],
}


def read(rows: list[Row], limits: EventLimits = NO_LIMITS) -> Histories:
    columns = [pa.array([row[n] for row in rows], pa.string()) for n in range(3)]
    table = MemoryTable(pa.table(columns, names=list(NAMES)), "here")
    return histories_from_tables(
        [table], some_catalogue(), source="here", strict=False, limits=limits
    )


def by_user(histories: Histories) -> dict[str, list[int]]:
    return dict(zip(histories.users, map(np.ndarray.tolist, histories), strict=True))


def times_of(histories: Histories) -> dict[str, list[int]]:
    assert histories.times is not None
    own = np.split(histories.times, histories.offsets[1:-1])
    return dict(zip(histories.users, map(np.ndarray.tolist, own), strict=False))


# --- reading --------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD)
@pytest.mark.parametrize("first", [True, False])
def test_other_users_are_read_as_if_nobody_had_such_a_row(bad: list[Row], first: bool) -> None:
    rows = [*bad, *OTHERS] if first else [*OTHERS, *bad]
    without, read_with = by_user(read(OTHERS)), by_user(read(rows))
    read_with.pop("u", None)
    assert read_with == without
    assert without == {"a": [1, 2, 3], "b": [1, 2, 3]}


def test_what_is_left_out_is_counted() -> None:
    rows = [*OTHERS, *BAD["no time"], *BAD["no user"], ("v", "i1", "2024-05-01"), ("v", "i2", "1")]
    dropped = read(rows).dropped
    assert dropped["unreadable_user"] == 2
    assert dropped["unreadable_row"] == 1
    assert dropped["short_history"] == 0


texts = st.sampled_from(["", "1", "i1", "i2", "2024-05-01", "1700000000000", "x", "NULL", "1.5"])
times = st.one_of(texts, st.integers(1_700_000_000, 1_700_000_009).map(str))
some_rows = st.lists(st.tuples(st.sampled_from(["a", "b", "c", ""]), texts, times), max_size=12)


@settings(max_examples=60, deadline=None)
@given(some_rows, st.sampled_from("abc"))
def test_removing_a_user_changes_no_other_users_history(rows: list[Any], user: str) -> None:
    others = [row for row in rows if row[0] != user]
    for limits in (NO_LIMITS, EventLimits(per_minute=2, per_day=3, repeat_seconds=5)):
        for what in (by_user, times_of):
            whole, rest = what(read(rows, limits)), what(read(others, limits))
            whole.pop(user, None)
            assert whole == rest


# --- answering ------------------------------------------------------------------------------------


def write_rows(folder: Path, rows: list[Row]) -> None:
    lines = [",".join(NAMES), *(",".join(value or "" for value in row) for row in rows)]
    (folder / "interactions.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")


def answers(sites: Sites, folder: Path) -> list[np.ndarray[Any, Any]]:
    """The arrays of a statistic of each kind, of a round of training and of an evaluation."""
    arrays = []
    for statistic in (Statistic.POPULARITY, Statistic.MOMENT):
        request = statistics_request(sites, statistic=statistic, run=f"r{statistic}")
        reply = ask(folder, Message(request.to_content(), 1, "train.statistics"))
        assert refusal_in(reply) is None
        arrays.append(StatisticsReply.from_content(reply.content).total)
    reply = ask(folder, Message(sites.request(noise_multiplier=2.0).to_content(), 1, "train"))
    assert refusal_in(reply) is None
    arrays += TrainReply.from_content(reply.content).change.values()
    reply = ask(folder, Message(evaluate_request(sites).to_content(), 1, "evaluate"))
    assert refusal_in(reply) is None
    return [*arrays, EvaluateReply.from_content(reply.content).sums]


@pytest.mark.parametrize("rows", [[], BAD["no time"], OTHERS[:1], [("u", "nowhere", "1")]], ids=str)
def test_a_site_with_nobody_answers_with_noise_alone(sites: Sites, rows: list[Row]) -> None:
    folder = sites.make("alpha", PRIVATE)
    write_rows(folder, rows)
    for array in answers(sites, folder):
        assert np.isfinite(array).all()
        assert array.any()


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD)
def test_a_site_answers_whatever_one_users_rows_are(
    sites: Sites, bad: list[Row], caplog: pytest.LogCaptureFixture
) -> None:
    folder = sites.make("alpha", PRIVATE)
    write_rows(folder, [*OTHERS, *bad])
    request = statistics_request(sites, model=DESCRIBED)
    reply = ask(folder, Message(request.to_content(), 1, "train.statistics"))
    assert refusal_in(reply) is None
    left_out = read([*OTHERS, *bad]).dropped
    expected = bool(left_out["unreadable_user"] or left_out["unreadable_row"])
    assert ("unreadable" in caplog.text) is expected


def test_one_users_long_query_takes_no_more_time_and_memory_than_another() -> None:
    """One of a million letters took seconds, and memory that no estimate of a step counts."""
    for letter in ("a", "\ufdfa", "a b "):
        assert np.array_equal(bag_of(letter * 10**5), bag_of(letter * MOST_LETTERS))
        assert sum(map(len, words_of(letter * 10**5))) <= 18 * MOST_LETTERS  # as Unicode expands


def test_events_outside_of_a_sites_domains_are_as_if_they_were_not(sites: Sites) -> None:
    """Bit for bit, and as other unknown items: what is left out follows from public constants."""
    union = replace(sites.catalogue, domains=("own", "other") * (len(sites.catalogue) // 2))
    union.save(sites.catalogue_folder)
    of_union = Sites(sites.folder, union)
    own: list[Row] = [("a", f"i{n}", f"170000000{n}") for n in (1, 3, 5)]
    own += [("b", f"i{n}", f"170000000{n}") for n in (7, 5, 1)]
    outside: list[Row] = [(user, f"i{n}", f"170000000{n}") for user in "abc" for n in (2, 4)]
    found = []
    for name, rows in (("alpha", own), ("gamma", [*own, *outside])):
        keys = PRIVATE | {"data.domains": ["own"], "lab.simulated": True}
        folder = of_union.make(name, keys, seed=3)
        write_rows(folder, rows)
        found.append(answers(of_union, folder))
    for one, other in zip(*found, strict=True):
        np.testing.assert_array_equal(one, other)
    site = Site.load(sites.folder / "gamma")
    assert site.load_histories(within(union, ["own"]), 9).dropped["unknown_item"] == len(outside)
    seen = {one.name: one.observation for one in preflight(Path(site.folder), Expected())}
    assert "10 are yours (own)" in seen["catalogue"]
    assert "outside of data.domains" in seen["items"]


def test_a_domain_that_the_catalogue_lacks_is_refused_before_anything_is_read(
    sites: Sites,
) -> None:
    folder = sites.make("alpha", PRIVATE | {"data.domains": "films"})
    write_rows(folder, OTHERS)
    reply = ask(folder, Message(statistics_request(sites).to_content(), 1, "train.statistics"))
    assert refusal_in(reply) is Refusal.FAILED
    catalogue = next(f for f in preflight(folder, Expected()) if f.name == "catalogue")
    assert catalogue.status is Status.ERROR
    assert "the domain 'films' is named, and the catalogue names no domain" in catalogue.observation


def test_check_is_strict_and_says_how_many_a_running_node_leaves_out(sites: Sites) -> None:
    folder = sites.make("alpha", PRIVATE)
    write_rows(folder, [*OTHERS, *BAD["no time"], *BAD["no user"]])
    schema = next(f for f in preflight(folder, Expected()) if f.name == "schema")
    assert schema.status is Status.ERROR
    assert "row 9" in schema.observation
    assert "leaves out 1 users and 1 rows" in schema.remedy


def test_strict_reading_finds_nobody_where_the_others_read_all(sites: Sites) -> None:
    folder = sites.make("alpha", PRIVATE)
    write_rows(folder, [])
    site = Site.load(folder)
    assert len(site.load_histories(sites.catalogue, 5, strict=False)) == 0
    schema = next(f for f in preflight(folder, Expected()) if f.name == "schema")
    assert "there are no rows" in schema.observation
    assert math.isfinite(site.policy.max_epsilon)
