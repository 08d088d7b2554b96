from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from flwr.app import Error, Message

import server.rounds.roll
from server.rounds.roll import Partner, Roll
from shared.config import PrivacyConfig, RunConfig, ServerConfig
from shared.errors import ConfigError, QuorumError, Refusal
from shared.messages import DescribeReply, refusal_reply

if TYPE_CHECKING:
    from tests.conftest import FakeGrid, Node

MakeGrid = Callable[[Iterable[Path]], Any]


def who(name: str, population: int = 9, catalogue: str = "c") -> Node:
    """A node that says who it is."""
    reply = DescribeReply(organisation=name, population=population, catalogue=catalogue)
    return lambda message: Message(reply.to_content(), reply_to=message)


@dataclass
class Hall:
    """A roll, its grid, and who came and went."""

    grid: FakeGrid
    config: RunConfig
    heard: list[tuple[str, bool]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.roll = Roll(self.config, "c", self.note)

    def note(self, partner: Partner) -> None:
        self.heard.append((partner.organisation, partner.connected))

    def here(self) -> dict[str, int]:
        return {p.organisation: p.node_id for p in self.roll.look_up(self.grid) if p.connected}


@pytest.fixture
def hall(connect: MakeGrid) -> Hall:
    """Two of two organisations."""
    config = RunConfig(
        privacy=PrivacyConfig(epsilon=8.0, delta=1e-3),
        server=ServerConfig(organisations=2, deadline_seconds=0.1),
    )
    made = Hall(connect([]), config)
    made.grid.nodes.update({7: who("beta"), 3: who("alpha")})
    return made


def test_partners_come_in_the_order_of_their_names(hall: Hall) -> None:
    assert [(p.organisation, p.node_id) for p in hall.roll.gather(hall.grid, 2)] == [
        ("alpha", 3),
        ("beta", 7),
    ]
    assert sorted(hall.heard) == [("alpha", True), ("beta", True)]


def test_one_that_joins_is_asked_once_and_takes_part(hall: Hall) -> None:
    hall.roll.gather(hall.grid, 2)
    hall.grid.nodes[9] = who("gamma")
    for _ in range(3):
        assert hall.here() == {"alpha": 3, "beta": 7, "gamma": 9}
    assert len(hall.grid.sent) == 3
    assert hall.heard[-1] == ("gamma", True)


def test_one_that_leaves_is_known_and_comes_back(hall: Hall) -> None:
    hall.roll.gather(hall.grid, 2)
    left = hall.grid.nodes.pop(7)
    assert hall.here() == {"alpha": 3}
    assert [p.connected for p in hall.roll.look_up(hall.grid)] == [True, False]
    hall.grid.nodes[7] = left
    assert hall.here() == {"alpha": 3, "beta": 7}
    assert hall.heard[-2:] == [("beta", False), ("beta", True)]
    assert len(hall.grid.sent) == 2


def test_one_may_come_back_as_another_node(hall: Hall) -> None:
    """With a new key, for instance."""
    hall.roll.gather(hall.grid, 2)
    del hall.grid.nodes[7]
    hall.here()
    hall.grid.nodes[8] = who("beta", population=20)
    assert hall.here() == {"alpha": 3, "beta": 8}
    assert [p.population for p in hall.roll.look_up(hall.grid)] == [9, 20]


def test_a_node_that_takes_anothers_name_is_left_out(hall: Hall) -> None:
    hall.roll.gather(hall.grid, 2)
    hall.grid.nodes[1] = who("beta", population=1)
    assert hall.here() == {"alpha": 3, "beta": 7}


@pytest.mark.parametrize(
    "node",
    [
        who("gamma", catalogue="other"),
        who("gamma", population=1000),
        lambda message: refusal_reply(Refusal.POLICY, message),
        lambda message: Message(Error(8, "user7"), reply_to=message),
        lambda message: None,
    ],
    ids=["another catalogue", "too large for δ", "declining", "failing", "silent"],
)
def test_one_that_cannot_take_part_holds_nobody_up(
    hall: Hall, node: Node, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    hall.roll.gather(hall.grid, 2)
    hall.grid.nodes[9] = node
    started = time.monotonic()
    for _ in range(3):
        assert hall.here() == {"alpha": 3, "beta": 7}
    assert time.monotonic() - started < 1
    assert len(hall.grid.sent) == 3, "it is asked once"
    assert "user7" not in caplog.text
    hall.grid.nodes[9] = who("gamma")
    monkeypatch.setattr(server.rounds.roll, "ASK_AGAIN", 0.0)
    monkeypatch.setattr(server.rounds.roll, "REMIND", 0.0)
    time.sleep(0.11)
    assert hall.here() == {"alpha": 3, "beta": 7, "gamma": 9}, "and again after a while"


def test_before_the_first_round_a_wrong_delta_ends_the_run(hall: Hall) -> None:
    hall.grid.nodes[7] = who("beta", population=1000)
    with pytest.raises(ConfigError, match=r"δ|population of beta"):
        hall.roll.gather(hall.grid, 2)


def test_everybody_who_is_connected_is_waited_for_and_not_for_ever(hall: Hall) -> None:
    hall.grid.nodes[9] = lambda _: None
    started = time.monotonic()
    assert len(hall.roll.gather(hall.grid, 2)) == 2
    assert 0.1 <= time.monotonic() - started < 2


def test_one_that_says_nothing_does_not_hold_a_start_up_until_the_deadline(
    connect: MakeGrid, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node that was killed counts as connected until its lease ends."""
    monkeypatch.setattr(server.rounds.roll, "LAST_CALL", 0.3)
    config = RunConfig(
        privacy=PrivacyConfig(epsilon=8.0, delta=1e-3),
        server=ServerConfig(organisations=2, deadline_seconds=60.0),
    )
    hall = Hall(connect([]), config)
    hall.grid.nodes.update({7: who("beta"), 3: who("alpha"), 9: lambda _: None})
    started = time.monotonic()
    assert len(hall.roll.gather(hall.grid, 2)) == 2
    assert 0.3 <= time.monotonic() - started < 5


def test_too_few_are_waited_for_until_the_deadline(hall: Hall) -> None:
    hall.grid.nodes[7] = who("beta", catalogue="other")
    with pytest.raises(QuorumError, match=r"1 of 2 .* \(beta holds another version of the cat"):
        hall.roll.gather(hall.grid, 2)


def test_either_of_two_answers_will_do(hall: Hall, monkeypatch: pytest.MonkeyPatch) -> None:
    """A node that says nothing is reminded; its first answer comes after all."""
    monkeypatch.setattr(server.rounds.roll, "REMIND", 0.0)
    held: list[Message] = []
    hall.grid.nodes[9] = held.append
    assert hall.here() == {"alpha": 3, "beta": 7}
    assert hall.here() == {"alpha": 3, "beta": 7}
    first, _ = held
    reply = who("gamma")(first)
    assert reply is not None
    hall.grid._replies[first.metadata.message_id] = reply
    monkeypatch.setattr(server.rounds.roll, "REMIND", 60.0)
    assert hall.here() == {"alpha": 3, "beta": 7, "gamma": 9}
    assert hall.heard.count(("gamma", True)) == 1
