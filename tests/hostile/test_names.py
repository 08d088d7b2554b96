"""A registered partner that declares another's name, an absurd population, or markup.

That node takes no part. Nobody else is affected: neither a start, nor the partner of that name.
"""

from __future__ import annotations

import html
import json
import logging
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from flwr.app import Message

import server.rounds.participants
from server.rounds.participants import Declined, Participants, Partner
from server.runs.model_card import Participation, Published, write_card
from server.runs.reporter import RunReporter
from server.state.audit_log import FILE, AuditLog
from server.state.partners import PartnerRegistry
from server.state.status import RunStatus
from shared.config import PrivacyConfig, RunConfig, ServerConfig, TrainingConfig
from shared.errors import QuorumError, ServerError
from shared.messages import DescribeReply

if TYPE_CHECKING:
    from tests.conftest import FakeGrid, Node

MARKUP = "[free](javascript:alert(1)) <img src=x onerror=alert(1)> | 1,000 | 9 |"
RECORD = {1: "alpha", 2: "beta", 3: "gamma"}
CONFIG = RunConfig(
    privacy=PrivacyConfig(epsilon=8.0, delta=1e-5),
    training=TrainingConfig(rounds=0),
    server=ServerConfig(organisations=2, deadline_seconds=0.3),
)
Connect = Callable[[Iterable[Path]], Any]


def describing(name: str, population: int = 100) -> Node:
    reply = DescribeReply(organisation=name, population=population, catalogue="c")
    return lambda message: Message(reply.to_content(), reply_to=message)


class Start:
    """A coordinator's start, with what it reports."""

    def __init__(
        self,
        grid: FakeGrid,
        names: Mapping[int, str] | None = RECORD,
        config: RunConfig = CONFIG,
    ) -> None:
        self.grid, self.declined = grid, list[Declined]()
        self.participants = Participants(
            config,
            "c",
            lambda _: None,
            self.declined.append,
            None if names is None else lambda: names,
        )

    def partners(self, count: int = 2) -> dict[str, Partner]:
        partners = self.participants.wait_for(self.grid, count)
        return {partner.organisation: partner for partner in partners}

    @property
    def reasons(self) -> dict[str, str]:
        return {declined.label: declined.reason for declined in self.declined}


@pytest.fixture
def grid(connect: Connect) -> FakeGrid:
    """Alpha and beta, as they are on record."""
    grid: FakeGrid = connect([])
    grid.nodes.update({1: describing("alpha"), 2: describing("beta")})
    return grid


@pytest.mark.parametrize("first", [True, False], ids=["before it", "after it"])
def test_who_declares_anothers_name_is_declined_and_the_real_one_takes_part(
    grid: FakeGrid, first: bool
) -> None:
    real = grid.nodes.pop(1)
    grid.nodes[3] = describing("alpha", population=1)
    start = Start(grid)
    if first:
        with pytest.raises(QuorumError, match="the node of 'gamma' calls itself 'alpha'"):
            start.partners()
    grid.nodes[1] = real
    assert {p.organisation: p.node_id for p in start.partners().values()} == {"alpha": 1, "beta": 2}
    assert set(start.reasons) == {"gamma"}


@pytest.mark.parametrize("population", [10**9, 100_000, 10**18])
def test_an_absurd_population_declines_its_node_alone(grid: FakeGrid, population: int) -> None:
    grid.nodes[3] = describing("gamma", population)
    start = Start(grid)
    assert set(start.partners()) == {"alpha", "beta"}
    assert set(start.reasons) == {"gamma"}


def test_without_privacy_a_population_has_a_bound_too(grid: FakeGrid) -> None:
    grid.nodes[3] = describing("gamma", 10**9)
    config = replace(CONFIG, privacy=PrivacyConfig(epsilon=None, delta=1e-5))
    start = Start(grid, config=config)
    assert set(start.partners()) == {"alpha", "beta"}
    assert "server.max_population is 100,000,000" in start.reasons["gamma"]


def test_a_node_that_is_not_on_record_is_not_asked(grid: FakeGrid) -> None:
    grid.nodes[9] = describing("delta")
    start = Start(grid)
    assert set(start.partners()) == {"alpha", "beta"}
    assert {message.metadata.dst_node_id for message in grid.sent} == {1, 2}
    assert start.reasons == {
        "node 9": "its key is not on record: sotto-server invite and accept",
    }


def test_a_partner_accepted_later_takes_part_at_once(grid: FakeGrid) -> None:
    names = dict(RECORD)
    grid.nodes[9] = describing("delta")
    start = Start(grid, names)
    start.partners()
    names[9] = "delta"
    assert "delta" in {p.organisation for p in start.participants.look_up(grid)}


def test_a_revoked_partner_is_out_though_its_node_is_still_connected(grid: FakeGrid) -> None:
    names = dict(RECORD)
    start = Start(grid, names)
    start.partners()
    del names[2]
    connected = {p.organisation: p.connected for p in start.participants.look_up(grid)}
    assert connected == {"alpha": True, "beta": False}


def test_without_a_record_the_first_of_a_name_takes_part(grid: FakeGrid) -> None:
    start = Start(grid, None)
    start.partners()
    grid.nodes[9] = describing("beta", population=7)
    found = {p.organisation: p.node_id for p in start.participants.look_up(grid)}
    assert found == {"alpha": 1, "beta": 2}
    assert "two nodes call themselves 'beta'" in start.reasons["node 9"]


def test_two_of_a_name_do_not_end_a_start_without_a_record(grid: FakeGrid) -> None:
    grid.nodes[9] = describing("beta", population=7)
    assert set(Start(grid, None).partners()) == {"alpha", "beta"}


def test_what_is_reported_of_a_false_node_holds_no_markup_of_its_own(
    grid: FakeGrid, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    grid.nodes[3] = describing(MARKUP)
    reporter = RunReporter(tmp_path, CONFIG, run="r", finished_rounds=0)
    participants = Participants(
        CONFIG, "c", reporter.partner_changed, reporter.partner_declined, lambda: RECORD
    )
    with caplog.at_level(logging.WARNING, "sotto.server"):
        participants.wait_for(grid, 2)
    status = RunStatus.load(tmp_path)
    assert set(status.declined) == {"gamma"}
    assert set(status.organisations) == {"alpha", "beta"}
    entries = json.dumps([dict(entry) for entry in AuditLog(tmp_path / FILE).entries()])
    assert "partner-declined" in entries
    for text in (caplog.text, (tmp_path / "progress.json").read_text(), entries):
        assert "‹img" in text or "\\u2039img" in text
        assert not any(raw in text for raw in ("<img", "[free](", "| 9 |"))


def test_a_declined_node_that_corrects_itself_is_no_longer_reported(
    grid: FakeGrid, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server.rounds.participants, "DECLINED_SECONDS", 0.0)
    grid.nodes[3] = describing("other")
    reporter = RunReporter(tmp_path, CONFIG, run="r", finished_rounds=0)
    participants = Participants(
        CONFIG, "c", reporter.partner_changed, reporter.partner_declined, lambda: RECORD
    )
    for _ in range(4):
        participants.look_up(grid)
    assert set(reporter.status.declined) == {"gamma"}
    declined = [e for e in AuditLog(tmp_path / FILE).entries() if e["event"] == "partner-declined"]
    assert len(declined) == 1, "a node is asked again and again, and reported once"
    grid.nodes[3] = describing("gamma")
    for _ in range(2):
        participants.look_up(grid)
    assert reporter.status.declined == {}
    assert "gamma" in reporter.status.organisations


def test_the_record_binds_the_node_that_was_accepted(tmp_path: Path) -> None:
    registry = PartnerRegistry(tmp_path)
    for name in ("alpha", "beta"):
        registry.invite(name)
    registry.accept("alpha", key="k", node=str(2**63 + 5))
    assert registry.names_by_node() == {2**63 + 5: "alpha"}
    registry.revoke("alpha")
    assert registry.names_by_node() == {}


# --- names in the model card -------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        MARKUP,
        "**bold** _slanted_ `code` ~~struck~~",
        "https://example.org www.example.org a@example.org",
        "&lt;img src=x&gt;",
        "![x](https://example.org/x.png)",
        "a|b\\|c",
        "abc\u202edcba",
    ],
)
def test_a_card_shows_a_name_as_text(name: str) -> None:
    config = replace(CONFIG, privacy=PrivacyConfig(epsilon=4.0, delta=1e-5))
    published = Published(
        name="run_1.x",
        config=config,
        rounds=0,
        parts=[Participation(organisation=name, population=3, answered=2)],
        bundle="b",
        catalogue="c",
        items=3,
        version="1",
    )
    text = write_card(published)
    rows = [line for line in text.splitlines() if line.endswith("| 3 | 2 |")]
    assert len(rows) == 1
    cell = rows[0].removeprefix("| ").removesuffix(" | 3 | 2 |")
    assert html.unescape(cell) == "".join(c if c.isprintable() else "\ufffd" for c in name)
    assert not set(re.sub(r"&#\d+;", "", cell)) & set("<>[]()|`*_~&\\!:.@")
    assert "# run&#95;1&#46;x" in text


@pytest.mark.parametrize("name", [MARKUP, "a|b", "<b>", "[x]", "`x`", "a\\b"])
def test_a_name_with_markup_is_not_invited(tmp_path: Path, name: str) -> None:
    with pytest.raises(ServerError, match="leave out"):
        PartnerRegistry(tmp_path).invite(name)
