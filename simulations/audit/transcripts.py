"""Record what the partners of secure aggregation are sent, what they answer, and their secrets.

The coordinator sees all of the first two; what a partner keeps secret is known to an adversary with
whom it colludes. It is recorded at the partners' state machines, whatever carries the messages.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import patch

import numpy as np
from numpy.typing import NDArray

from shared.secure_aggregation.messages import (
    Invitation,
    KeyList,
    MaskedInput,
    ShareDelivery,
    UnmaskingShares,
)
from shared.secure_aggregation.partner import Partner

__all__ = ["Secrets", "Transcript", "transcripts_of"]

_STEPS = ("advertise", "share_keys", "mask", "sign_survivors", "unmask")


@dataclass(frozen=True, slots=True, repr=False)
class Secrets:
    """What a partner keeps to itself in one round; 32 bytes each.

    Attributes:
        cipher_key: private key for the shares that others send it.
        mask_key: private key for the masks that it shares with others.
        seed: of its own mask.
    """

    cipher_key: bytes
    mask_key: bytes
    seed: bytes


@dataclass(slots=True)
class Transcript:
    """One round; partners are indices among the invitation's participants.

    Attributes:
        invitation: the coordinator's.
        key_list: the coordinator's; None if the round ended before it.
        deliveries: the encrypted shares that each partner was to hold.
        inputs: the masked inputs, uint64 [m], of those whose never arrived, too.
        opened: each partner's shares of others' secrets.
        secrets: of every partner; an adversary has those of the colluding.
    """

    invitation: Invitation
    key_list: KeyList | None = None
    deliveries: dict[int, ShareDelivery] = field(default_factory=dict)
    inputs: dict[int, NDArray[np.uint64]] = field(default_factory=dict)
    opened: dict[int, UnmaskingShares] = field(default_factory=dict)
    secrets: dict[int, Secrets] = field(default_factory=dict)

    def add(self, partner: Partner, request: Any, reply: Any) -> None:  # noqa: ANN401 of five types
        """Add one exchange."""
        if isinstance(request, KeyList):
            self.key_list = request
            own = partner._live_secrets()
            self.secrets[reply.sender] = Secrets(own.cipher_key, own.mask_key, own.seed)
        elif isinstance(reply, MaskedInput):
            self.deliveries[reply.sender] = request
            self.inputs[reply.sender] = reply.values.copy()
        elif isinstance(reply, UnmaskingShares):
            self.opened[reply.sender] = reply


@contextmanager
def transcripts_of() -> Iterator[list[Transcript]]:
    """Record every round in which a partner of this process takes part, in their order."""
    rounds: list[Transcript] = []
    by_session: dict[bytes, Transcript] = {}

    def heard(step: Callable[..., Any]) -> Callable[..., Any]:
        def answer(partner: Partner, request: Any, *values: Any) -> Any:  # noqa: ANN401
            reply = step(partner, request, *values)
            if isinstance(request, Invitation) and reply.session not in by_session:
                by_session[reply.session] = Transcript(request)
                rounds.append(by_session[reply.session])
            by_session[reply.session].add(partner, request, reply)
            return reply

        return answer

    with ExitStack() as patches:
        for name in _STEPS:
            patches.enter_context(patch.object(Partner, name, heard(getattr(Partner, name))))
        yield rounds
