from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.app import Error, Message

import server.rounds.participants
from server.rounds.participants import Participants, Partner
from shared.config import PrivacyConfig, RunConfig, ServerConfig
from shared.errors import QuorumError
from shared.messages import DescribeReply, refusal_reply
from shared.outcomes import Refusal
from shared.secure_aggregation.signing import Identity, public_to_text

if TYPE_CHECKING:
    from tests.conftest import FakeGrid, Node

MakeGrid = Callable[[Iterable[Path]], Any]


def describing(
    name: str, population: int = 9, catalogue: str = "c", aggregation_key: str = ""
) -> Node:
    """A node that says who it is."""
    reply = DescribeReply(
        organisation=name,
        population=population,
        catalogue=catalogue,
        aggregation_key=aggregation_key,
    )
    return lambda message: Message(reply.to_content(), reply_to=message)


@dataclass
class Coordinator:
    """Participants, their grid, and the changes that were reported."""

    grid: FakeGrid
    config: RunConfig
    changes: list[tuple[str, bool]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.participants = Participants(self.config, "c", self.record)

    def record(self, partner: Partner) -> None:
        self.changes.append((partner.organisation, partner.connected))

    def connected(self) -> dict[str, int]:
        return {
            p.organisation: p.node_id for p in self.participants.look_up(self.grid) if p.connected
        }


@pytest.fixture
def coordinator(connect: MakeGrid) -> Coordinator:
    """Two of two organisations."""
    config = RunConfig(
        privacy=PrivacyConfig(epsilon=8.0, delta=1e-3),
        server=ServerConfig(organisations=2, deadline_seconds=0.1),
    )
    made = Coordinator(connect([]), config)
    made.grid.nodes.update({7: describing("beta"), 3: describing("alpha")})
    return made


def test_partners_come_in_the_order_of_their_names(coordinator: Coordinator) -> None:
    assert [
        (p.organisation, p.node_id) for p in coordinator.participants.wait_for(coordinator.grid, 2)
    ] == [
        ("alpha", 3),
        ("beta", 7),
    ]
    assert sorted(coordinator.changes) == [("alpha", True), ("beta", True)]


def test_one_that_joins_is_asked_once_and_takes_part(coordinator: Coordinator) -> None:
    coordinator.participants.wait_for(coordinator.grid, 2)
    coordinator.grid.nodes[9] = describing("gamma")
    for _ in range(3):
        assert coordinator.connected() == {"alpha": 3, "beta": 7, "gamma": 9}
    assert len(coordinator.grid.sent) == 3
    assert coordinator.changes[-1] == ("gamma", True)


def test_one_that_leaves_stays_listed_and_comes_back(coordinator: Coordinator) -> None:
    coordinator.participants.wait_for(coordinator.grid, 2)
    left = coordinator.grid.nodes.pop(7)
    assert coordinator.connected() == {"alpha": 3}
    assert [p.connected for p in coordinator.participants.look_up(coordinator.grid)] == [
        True,
        False,
    ]
    coordinator.grid.nodes[7] = left
    assert coordinator.connected() == {"alpha": 3, "beta": 7}
    assert coordinator.changes[-2:] == [("beta", False), ("beta", True)]
    assert len(coordinator.grid.sent) == 2


def test_one_may_come_back_as_another_node(coordinator: Coordinator) -> None:
    """With a new key, for instance."""
    coordinator.participants.wait_for(coordinator.grid, 2)
    del coordinator.grid.nodes[7]
    coordinator.connected()
    coordinator.grid.nodes[8] = describing("beta", population=20)
    assert coordinator.connected() == {"alpha": 3, "beta": 8}
    assert [p.population for p in coordinator.participants.look_up(coordinator.grid)] == [9, 20]


def test_a_node_that_takes_anothers_name_is_left_out(coordinator: Coordinator) -> None:
    coordinator.participants.wait_for(coordinator.grid, 2)
    coordinator.grid.nodes[1] = describing("beta", population=1)
    assert coordinator.connected() == {"alpha": 3, "beta": 7}


def test_the_aggregation_key_is_kept_and_no_other_may_state_it(coordinator: Coordinator) -> None:
    public = Identity(name="", key=ec.generate_private_key(ec.SECP384R1())).public
    key = public_to_text(public)
    coordinator.grid.nodes = {3: describing("alpha", aggregation_key=key), 7: describing("beta")}
    partners = coordinator.participants.wait_for(coordinator.grid, 2)
    assert [partner.aggregation_key for partner in partners] == [public, b""]
    coordinator.grid.nodes[9] = describing("gamma", aggregation_key=key)
    assert coordinator.connected() == {"alpha": 3, "beta": 7}
    del coordinator.grid.nodes[3]
    coordinator.connected()
    coordinator.grid.nodes[8] = describing("alpha", aggregation_key=key)
    assert coordinator.connected() == {"alpha": 8, "beta": 7}


@pytest.mark.parametrize(
    "node",
    [
        describing("gamma", catalogue="other"),
        describing("gamma", population=1000),
        lambda message: refusal_reply(Refusal.POLICY, message),
        lambda message: Message(Error(8, "user7"), reply_to=message),
        lambda message: None,
    ],
    ids=["another catalogue", "too large for δ", "declining", "failing", "silent"],
)
def test_one_that_cannot_take_part_delays_no_round(
    coordinator: Coordinator,
    node: Node,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    coordinator.participants.wait_for(coordinator.grid, 2)
    coordinator.grid.nodes[9] = node
    started = time.monotonic()
    for _ in range(3):
        assert coordinator.connected() == {"alpha": 3, "beta": 7}
    assert time.monotonic() - started < 1
    assert len(coordinator.grid.sent) == 3, "it is asked once"
    assert "user7" not in caplog.text
    coordinator.grid.nodes[9] = describing("gamma")
    monkeypatch.setattr(server.rounds.participants, "DECLINED_SECONDS", 0.0)
    monkeypatch.setattr(server.rounds.participants, "REMINDER_SECONDS", 0.0)
    time.sleep(0.11)
    assert coordinator.connected() == {"alpha": 3, "beta": 7, "gamma": 9}, "and again after a while"


def test_a_start_with_too_few_names_the_population_that_delta_does_not_fit(
    coordinator: Coordinator,
) -> None:
    coordinator.grid.nodes[7] = describing("beta", population=1000)
    with pytest.raises(QuorumError, match=r"1 of 2 .* not below 1 / 1000, the population of beta"):
        coordinator.participants.wait_for(coordinator.grid, 2)


def test_a_start_waits_for_all_that_are_connected_up_to_the_deadline(
    coordinator: Coordinator,
) -> None:
    coordinator.grid.nodes[9] = lambda _: None
    started = time.monotonic()
    assert len(coordinator.participants.wait_for(coordinator.grid, 2)) == 2
    assert 0.1 <= time.monotonic() - started < 2


def test_a_silent_node_does_not_delay_a_start_until_the_deadline(
    connect: MakeGrid, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node that was killed counts as connected until its lease ends."""
    monkeypatch.setattr(server.rounds.participants, "SILENT_SECONDS", 0.3)
    config = RunConfig(
        privacy=PrivacyConfig(epsilon=8.0, delta=1e-3),
        server=ServerConfig(organisations=2, deadline_seconds=60.0),
    )
    coordinator = Coordinator(connect([]), config)
    coordinator.grid.nodes.update(
        {7: describing("beta"), 3: describing("alpha"), 9: lambda _: None}
    )
    started = time.monotonic()
    assert len(coordinator.participants.wait_for(coordinator.grid, 2)) == 2
    assert 0.3 <= time.monotonic() - started < 5


def test_too_few_are_waited_for_until_the_deadline(coordinator: Coordinator) -> None:
    coordinator.grid.nodes[7] = describing("beta", catalogue="other")
    with pytest.raises(QuorumError, match=r"1 of 2 .* \(beta holds another version of the cat"):
        coordinator.participants.wait_for(coordinator.grid, 2)


def test_either_of_two_answers_counts(
    coordinator: Coordinator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node that says nothing is reminded; its first answer comes after all."""
    monkeypatch.setattr(server.rounds.participants, "REMINDER_SECONDS", 0.0)
    held: list[Message] = []
    coordinator.grid.nodes[9] = held.append
    assert coordinator.connected() == {"alpha": 3, "beta": 7}
    assert coordinator.connected() == {"alpha": 3, "beta": 7}
    first, _ = held
    reply = describing("gamma")(first)
    assert reply is not None
    coordinator.grid._replies[first.metadata.message_id] = reply
    monkeypatch.setattr(server.rounds.participants, "REMINDER_SECONDS", 60.0)
    assert coordinator.connected() == {"alpha": 3, "beta": 7, "gamma": 9}
    assert coordinator.changes.count(("gamma", True)) == 1
