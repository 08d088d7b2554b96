"""A whole round as one partner saw it: its requests, its answers, and its state before each."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

from numpy.typing import NDArray

from shared.secure_aggregation.messages import (
    Invitation,
    KeyList,
    Message,
    ShareDelivery,
    SurvivorList,
    SurvivorProof,
)
from shared.secure_aggregation.parameters import Parameters
from shared.secure_aggregation.partner import Partner
from tests.shared.secure_aggregation.federation import Federation, identity, roster, seeded

SIX = Parameters.choose(6, 1, 2)
OWN, INDEX = "p001", 1


@dataclass
class Recorded:
    """Requests to `OWN`, by step, and what it answered; `states[i]` is from before request i."""

    federation: Federation
    invitation: Invitation
    key_list: KeyList
    delivery: ShareDelivery
    survivors: SurvivorList
    proof: SurvivorProof
    values: NDArray  # type: ignore[type-arg]
    states: list[bytes]
    replies: list[bytes]

    def partner(self, step: int) -> Partner:
        """The partner as it was before the request of a step."""
        return Partner.from_bytes(
            self.states[step], identity(OWN), roster(OWN, self.federation.names), seeded(7)
        )

    def ask(self, partner: Partner, step: int) -> Message:
        """Send a partner the request of a step."""
        asked: list[Callable[[], Message]] = [
            lambda: partner.advertise(self.invitation),
            lambda: partner.share_keys(self.key_list),
            lambda: partner.mask(self.delivery, self.values),
            lambda: partner.sign_survivors(self.survivors),
            lambda: partner.unmask(self.proof),
        ]
        return asked[step]()


@functools.cache
def recorded(seed: int = 0, gone: str = "p005") -> Recorded:
    """A round of six in which one drops out before its masked input."""
    federation = Federation(SIX, length=4, seed=seed)
    coordinator, partner = federation.coordinator, federation.partners[OWN]
    states, replies = [partner.to_bytes()], []

    def record(reply: Message) -> None:
        replies.append(reply.to_bytes())
        states.append(partner.to_bytes())

    federation.advertise()
    record(partner.advertise(federation.invitation))
    key_list = coordinator.key_list()
    federation.share()
    record(partner.share_keys(key_list))
    delivery = coordinator.delivery(OWN)
    federation.mask([name for name in federation.names if name != gone])
    record(partner.mask(delivery, federation.vectors[OWN]))
    survivors = coordinator.survivors()
    federation.sign()
    record(partner.sign_survivors(survivors))
    proof = coordinator.proof()
    federation.unmask()
    record(partner.unmask(proof))
    return Recorded(
        federation=federation,
        invitation=federation.invitation,
        key_list=key_list,
        delivery=delivery,
        survivors=survivors,
        proof=proof,
        values=federation.vectors[OWN],
        states=states,
        replies=replies,
    )
