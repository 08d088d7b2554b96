"""Organisations with keys and rosters, and a round between them, step by step."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Collection
from dataclasses import replace

import numpy as np
from cryptography.hazmat.primitives.asymmetric import ec
from numpy.typing import NDArray

from shared.secure_aggregation.coordinator import Coordinator
from shared.secure_aggregation.messages import Aggregation, Invitation, Participant
from shared.secure_aggregation.parameters import Parameters
from shared.secure_aggregation.partner import Partner
from shared.secure_aggregation.roster import Roster
from shared.secure_aggregation.signing import Identity

AGGREGATION = Aggregation(federation="films", run="r1", round=3, request=bytes(range(32)), length=5)
Values = NDArray[np.int64]


@functools.cache
def identity(name: str) -> Identity:
    """The same key for the same name in all tests of a process."""
    return Identity(name=name, key=ec.generate_private_key(ec.SECP384R1()))


def name(index: int) -> str:
    return f"p{index:03}"


def names(count: int) -> list[str]:
    return [name(index) for index in range(count)]


def seeded(seed: int) -> Callable[[int], bytes]:
    """Bytes that repeat, so that a statistical test passes always or never."""
    return random.Random(seed).randbytes


def roster(own: str, members: Collection[str], colluding: int = 1, fewest: int = 0) -> Roster:
    return Roster(
        peers={other: identity(other).public for other in members if other != own},
        colluding=colluding,
        fewest=fewest or 2 + colluding,
    )


def invitation(
    parameters: Parameters, aggregation: Aggregation = AGGREGATION, members: Collection[str] = ()
) -> Invitation:
    invited = members or names(parameters.organisations)
    return Invitation(
        aggregation=aggregation,
        participants=tuple(Participant(n, identity(n).public) for n in sorted(invited)),
        threshold=parameters.threshold,
        dropouts=parameters.dropouts,
    )


class Federation:
    """One round: a coordinator, partners, and vectors.

    Args:
        parameters: of the round.
        length: of a vector.
        seed: of vectors and secrets.
    """

    def __init__(self, parameters: Parameters, length: int = 5, seed: int = 0) -> None:
        self.parameters = parameters
        self.names = names(parameters.organisations)
        self.aggregation = replace(AGGREGATION, length=length)
        self.invitation = invitation(parameters, self.aggregation)
        self.coordinator = Coordinator(self.invitation)
        self.partners = {
            n: Partner(
                identity(n),
                roster(n, self.names, parameters.colluding),
                self.aggregation,
                seeded(1000 * seed + index),
            )
            for index, n in enumerate(self.names)
        }
        draw = np.random.default_rng(seed)
        self.vectors: dict[str, Values] = {
            n: draw.integers(-(2**63), 2**63, length, np.int64) for n in self.names
        }

    def advertise(self, members: Collection[str] | None = None) -> Federation:
        for n in self.names if members is None else members:
            self.coordinator.receive_keys(n, self.partners[n].advertise(self.invitation))
        return self

    def share(self, members: Collection[str] | None = None) -> Federation:
        key_list = self.coordinator.key_list()
        for n in self.coordinator.expected if members is None else members:
            self.coordinator.receive_shares(n, self.partners[n].share_keys(key_list))
        return self

    def mask(self, members: Collection[str] | None = None) -> Federation:
        everybody = self.coordinator.present
        for n in everybody if members is None else members:
            delivery = self.coordinator.delivery(n)
            self.coordinator.receive_masked(n, self.partners[n].mask(delivery, self.vectors[n]))
        return self

    def sign(self, members: Collection[str] | None = None) -> Federation:
        survivors = self.coordinator.survivors()
        for n in self.coordinator.expected if members is None else members:
            self.coordinator.receive_signature(n, self.partners[n].sign_survivors(survivors))
        return self

    def unmask(self, members: Collection[str] | None = None) -> Federation:
        proof = self.coordinator.proof()
        for n in self.coordinator.expected if members is None else members:
            self.coordinator.receive_unmasking(n, self.partners[n].unmask(proof))
        return self

    def resume(self) -> None:
        """Continue from the bytes of every machine, as after a restart of all."""
        self.coordinator = Coordinator.from_bytes(self.coordinator.to_bytes())
        for n in self.names:
            self.restart(n)

    def restart(self, n: str) -> None:
        self.partners[n] = Partner.from_bytes(
            self.partners[n].to_bytes(),
            identity(n),
            roster(n, self.names, self.parameters.colluding),
            seeded(99),
        )

    def sum_of(self, members: Collection[str]) -> NDArray[np.uint64]:
        """What the coordinator should get."""
        total = np.zeros(self.aggregation.length, np.uint64)
        for n in members:
            total += self.vectors[n].view(np.uint64)
        return total
