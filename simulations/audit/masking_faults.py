"""Faults of secure aggregation, planted in protocol and noise, as in `planted_faults`.

| fault                    | what is wrong                                                        |
|--------------------------|----------------------------------------------------------------------|
| no masks                 | every mask is zeros, at partners and coordinator alike               |
| masks used twice         | a partner has the same secrets in every round, and masks are not     |
|                          |   bound to the round                                                 |
| shares leaked            | a partner gives the shares of both secrets that it holds             |
| a share of noise missing | one honest organisation adds none                                    |
| lost shares counted      | the noise of those that may be lost counts, for plan and ledger      |
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import numpy as np
from numpy.typing import NDArray

import shared.privacy.noise_share
import shared.secure_aggregation.coordinator
import shared.secure_aggregation.masks
import shared.secure_aggregation.transcript
from client.site.roster import Roster
from client.site.site import Site
from shared.config import PrivacyConfig
from shared.privacy.discrete_gaussian import discrete_gaussian
from shared.privacy.noise import RandomSource, SeededRandom
from shared.secure_aggregation.agreement import derive
from shared.secure_aggregation.messages import Aggregation, SurvivorProof, UnmaskingShares
from shared.secure_aggregation.partner import Partner
from shared.secure_aggregation.roster import Roster as ProtocolRoster
from shared.secure_aggregation.signing import Identity

__all__ = ["MASKING_FAULTS", "SECURE"]

SECURE = (
    "privacy.trust=secure-aggregation",
    "lab.organisations=4",
    "privacy.colluding=1",
    "privacy.dropouts=1",
    "training.rounds=0",
)
"""Settings of a run whose sums hold two honest organisations."""
_SILENT = 1
"""Number, from 0, of the honest organisation that adds no noise; the first has the canaries."""


@contextmanager
def _no_masks() -> Iterator[None]:
    with patch.object(shared.secure_aggregation.masks, "_apply", lambda *_: None):
        yield


@contextmanager
def _masks_used_twice() -> Iterator[None]:
    made = Partner.__init__

    def init(
        partner: Partner, identity: Identity, roster: ProtocolRoster, asked: Aggregation, *_: object
    ) -> None:
        same = random.Random(identity.name)  # noqa: S311 that is the fault
        made(partner, identity, roster, asked, same.randbytes)

    with (
        patch.object(Partner, "__init__", init),
        patch.object(
            shared.secure_aggregation.transcript,
            "derive",
            lambda secret, _, info: derive(secret, b"", info),
        ),
    ):
        yield


@contextmanager
def _shares_leaked() -> Iterator[None]:
    unmask = Partner.unmask

    def leak(partner: Partner, proof: SurvivorProof) -> UnmaskingShares:
        held = partner._held_shares(partner._delivery) if partner._secrets else {}
        reply = unmask(partner, proof)
        return replace(reply, key_shares={owner: key for owner, (key, _) in held.items()})

    with (
        patch.object(Partner, "unmask", leak),
        # A coordinator that wants them does not refuse them.
        patch.object(shared.secure_aggregation.coordinator, "require", lambda *_: None),
    ):
        yield


class _Nothing(SeededRandom):
    """The random source of an organisation that adds no noise."""


@contextmanager
def _a_share_missing() -> Iterator[None]:
    drawn = Site.random

    def source(site: Site, number: int, *purpose: int) -> RandomSource:
        if site.lab.stream == _SILENT:
            return _Nothing(site.lab.seed, site.lab.stream, number, *purpose)
        return drawn(site, number, *purpose)

    def noise(count: int, deviation: int, source: RandomSource) -> NDArray[np.int64]:
        if isinstance(source, _Nothing):
            return np.zeros(count, np.int64)
        return discrete_gaussian(count, deviation, source)

    with (
        patch.object(Site, "random", source),
        patch.object(shared.privacy.noise_share, "discrete_gaussian", noise),
    ):
        yield


@contextmanager
def _lost_shares_counted() -> Iterator[None]:
    with (
        patch.object(PrivacyConfig, "honest_shares", lambda self, n: n - self.colluding_of(n)),
        patch.object(
            Roster, "honest_shares", property(lambda self: self.organisations - self.colluding)
        ),
    ):
        yield


MASKING_FAULTS: dict[str, Callable[[], Any]] = {
    "none, under secure aggregation": nullcontext,
    "no masks": _no_masks,
    "masks used twice": _masks_used_twice,
    "shares leaked": _shares_leaked,
    "a share of noise missing": _a_share_missing,
    "lost shares counted": _lost_shares_counted,
}
"""A context manager that plants each fault."""
