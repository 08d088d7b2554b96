"""Sites that know each other, and a coordinator that takes them through the steps by hand."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flwr.app import Message

import client.app
from client.site.aggregation_key import load_identity, make_aggregation_key
from client.site.site import Site
from shared.config import Trust
from shared.messages import (
    AGGREGATE,
    LARGEST_STEP,
    AggregateReply,
    AggregateRequest,
    Request,
    TrainRequest,
    refusal_in,
    request_digest,
    summed_kind,
)
from shared.outcomes import Refusal
from shared.secure_aggregation.coordinator import Coordinator
from shared.secure_aggregation.messages import (
    Aggregation,
    EncryptedShares,
    Invitation,
    KeyAdvertisement,
    MaskedInput,
    Participant,
    SurvivorSignature,
    UnmaskingShares,
)
from shared.secure_aggregation.parameters import Parameters
from shared.secure_aggregation.signing import public_to_text
from tests.conftest import ask, context, toml

if TYPE_CHECKING:
    from tests.conftest import Sites

NAMES = ("alpha", "beta", "gamma", "delta")
PARAMETERS = Parameters.choose(len(NAMES), 1, 1)


@dataclass(frozen=True)
class Peers:
    """Real sites with keys and rosters.

    Attributes:
        sites: the folders.
        names: of all.
        node_config: what marks a node as the lab's.
    """

    sites: Sites
    names: Sequence[str] = NAMES
    node_config: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def make(
        cls,
        sites: Sites,
        changes: Mapping[str, object] | None = None,
        names: Sequence[str] = NAMES,
        parameters: Parameters = PARAMETERS,
        **options: Any,  # noqa: ANN401
    ) -> Peers:
        """Make the sites, with `changes` in every site.toml and `options` of `Sites.make`."""
        made = cls(sites, names)
        for stream, name in enumerate(names):
            sites.make(name, changes, stream=stream, **options)
        keys = {
            name: public_to_text(make_aggregation_key(Site.load(sites.folder / name)).public)
            for name in names
        }
        for name in names:
            roster: dict[str, object] = {
                "roster.colluding": parameters.colluding,
                "roster.fewest": parameters.fewest_survivors,
            }
            roster |= {f"roster.peers.{peer}": keys[peer] for peer in names if peer != name}
            with (sites.folder / name / "site.toml").open("a") as file:
                file.write(toml(roster))
        return made

    def folder(self, name: str) -> Path:
        return self.sites.folder / name

    def site(self, name: str) -> Site:
        return Site.load(self.folder(name))

    def answer(self, name: str, request: AggregateRequest) -> Message:
        """What the node of a site replies."""
        node_config = {"site": str(self.folder(name))} | dict(self.node_config)
        return client.app.app(ask(request.to_content(), AGGREGATE), context(node_config))

    def participants(self) -> tuple[Participant, ...]:
        keys = {name: load_identity(self.site(name)).public for name in self.names}
        return tuple(Participant(name, keys[name]) for name in sorted(keys))

    def charged(self, name: str) -> int:
        """Steps that the ledger says were released."""
        ledger = self.site(name).open_ledger()
        ledger.verify()
        return sum(release.steps for release in ledger.releases())


def secure_request(sites: Sites, **changes: Any) -> TrainRequest:  # noqa: ANN401
    settings = {"noise_multiplier": 0.8, "sample_rate": 0.5} | changes
    return replace(sites.request(**settings), trust=Trust.SECURE_AGGREGATION)


class Attempt:
    """One attempt at a sum, step by step.

    Args:
        peers: whom it asks.
        number: of the attempt.
        request: whose answers are summed.
        length: how many numbers an answer has.
        digest: of the request, where the invitation is to tell another one.
    """

    RECEIVE: Mapping[int, tuple[Any, Callable[..., None]]] = {
        1: (KeyAdvertisement, Coordinator.receive_keys),
        2: (EncryptedShares, Coordinator.receive_shares),
        3: (MaskedInput, Coordinator.receive_masked),
        4: (SurvivorSignature, Coordinator.receive_signature),
        5: (UnmaskingShares, Coordinator.receive_unmasking),
    }

    def __init__(
        self,
        peers: Peers,
        number: int,
        request: Request,
        *,
        length: int = 0,
        digest: bytes = b"",
        parameters: Parameters = PARAMETERS,
    ) -> None:
        self.peers, self.number, self.request = peers, number, request
        assert isinstance(request, TrainRequest) or length
        weights = request.weights if isinstance(request, TrainRequest) else {}
        invitation = Invitation(
            aggregation=Aggregation(
                federation=request.catalogue,
                run=request.run,
                round=number,
                request=digest or request_digest(request),
                length=length or sum(value.size for value in weights.values()),
            ),
            participants=peers.participants(),
            threshold=parameters.threshold,
            dropouts=parameters.dropouts,
        )
        self.machine = Coordinator(invitation)

    def step(self, number: int, name: str, **changes: Any) -> AggregateRequest:  # noqa: ANN401
        """What a site is asked in a step."""
        machine = self.machine
        message: Any = {
            1: lambda: machine.invitation,
            2: machine.key_list,
            3: lambda: machine.delivery(name),
            4: machine.survivors,
            5: machine.proof,
        }[number]()
        request = AggregateRequest(
            run=self.request.run,
            attempt=self.number,
            kind=summed_kind(self.request),
            step=number,
            message=message.to_bytes(),
            request=self.request if number == 3 else None,
        )
        return replace(request, **changes)

    def take(self, number: int, names: Collection[str] = ()) -> dict[str, bytes]:
        """Take these sites, or all that are left, through a step; what they answered."""
        sent = {}
        for name in names or self.machine.expected:
            sent[name] = said(self.peers.answer(name, self.step(number, name)))
            self.receive(number, name, sent[name])
        return sent

    def receive(self, number: int, name: str, reply: bytes) -> None:
        form, receive = self.RECEIVE[number]
        receive(self.machine, name, form.from_bytes(reply))

    def until(self, number: int) -> Attempt:
        """Take all sites through all steps before this one."""
        for step in range(1, number):
            self.take(step)
        return self


def said(reply: Message) -> bytes:
    """The bytes of an answer that is no refusal."""
    assert reply.has_content(), reply.error
    return AggregateReply.from_content(reply.content, LARGEST_STEP).message


def refused(reply: Message) -> Refusal:
    code = refusal_in(reply)
    assert code is not None
    return code
