"""Answer the five steps of secure aggregation, each from the session on disk.

| the step                                             | gets                                      |
|------------------------------------------------------|-------------------------------------------|
| 1, with a number above the last attempt's            | fresh keys, if the partner's own roster   |
|                                                      | finds the invitation safe                 |
| any, the same bytes as one that was answered         | the same bytes                            |
| 3, in time                                           | is charged, computed, masked, kept, sent  |
| 3, with another request than in the invitation       | refused before the charge                 |
| 3, again, whose masked input is kept                 | the kept one                              |
| 3, again, after a kill between charge and session    | is computed; the charge stands, once      |
| 3, again, after a kill between session and outbox,   | refused: dropped out of                   |
|    or where the computation failed                   |                                           |
| 3, in a session that the ledger says was answered    | refused: the session is an older copy     |
| of an attempt that is not the last, or out of order, | refused: dropped out of                   |
| or with other bytes than those that were answered    |                                           |
| one that was refused, mended                         | answered: a refusal changes nothing       |

Steps 1, 2, 4 and 5 read no private data and cost nothing. What a step says does not depend on
any user, but for the masked input, which is uniform.

Order of writing in step 3: the charge; then the session, which has masked from then on; then the
outbox; then the answer leaves. So what left is in the ledger, and nothing is masked twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from client.secure_aggregation.sessions import Session, Sessions
from shared.errors import Refused, SecureAggregationError
from shared.messages import AggregateReply, AggregateRequest, Request, request_digest
from shared.outcomes import Refusal
from shared.secure_aggregation.messages import (
    Invitation,
    KeyList,
    MaskedInput,
    ShareDelivery,
    SurvivorList,
    SurvivorProof,
)
from shared.secure_aggregation.partner import Partner

__all__ = ["Mask", "Points", "Summing", "answer_step"]

Points = NDArray[np.int64]
Mask = Callable[[Points], Points]
"""Masks the numbers, [m], and writes down that it did."""


class Summing(Protocol):
    """The rest of the site, which knows data, policy and ledger."""

    def masked(self, request: Request, attempt: int, length: int, mask: Mask) -> Points:
        """Return the masked numbers of a request, charged and kept before they leave."""

    def kept(self, request: Request, attempt: int) -> Points:
        """Return the masked numbers that were kept."""


def answer_step(request: AggregateRequest, sessions: Sessions, summing: Summing) -> AggregateReply:
    """Return the answer to a step.

    Args:
        request: the step.
        sessions: of the site.
        summing: computes, charges and keeps in step 3.

    Raises:
        Refused: the step is not answered; malformed, outside the policy, or dropped out of.
        LedgerError: the ledger cannot be read or written.
        OSError: the session cannot be written: nothing leaves.
    """
    with sessions.open(request.run) as session:
        if request.step == 1:
            return AggregateReply(message=_advertise(request, sessions, session))
        partner = session.of(request.attempt)
        if request.step == 3:
            return AggregateReply(message=_mask(request, session, partner, summing))
        with _refused_as(Refusal.DROPPED):
            reply = _take_step(request, partner)
        session.save()
        return AggregateReply(message=reply)


def _advertise(request: AggregateRequest, sessions: Sessions, session: Session) -> bytes:
    with _refused_as(Refusal.MALFORMED):
        invitation = Invitation.from_bytes(request.message)
    asked = invitation.aggregation
    if (asked.run, asked.round) != (request.run, request.attempt):
        raise Refused(Refusal.MALFORMED, f"the invitation is to {asked.words} of another request")
    if request.attempt <= session.number:
        with _refused_as(Refusal.DROPPED):
            return session.of(request.attempt).advertise(invitation).to_bytes()
    # What is summed is compared with the request in step 3, before anything is computed.
    partner = Partner(sessions.identity, sessions.roster, asked)
    with _refused_as(Refusal.POLICY):
        reply = partner.advertise(invitation).to_bytes()
    session.begin(partner, request.attempt)
    session.save()
    return reply


def _take_step(request: AggregateRequest, partner: Partner) -> bytes:
    message = request.message
    match request.step:
        case 2:
            return partner.share_keys(KeyList.from_bytes(message)).to_bytes()
        case 4:
            return partner.sign_survivors(SurvivorList.from_bytes(message)).to_bytes()
        case _:
            return partner.unmask(SurvivorProof.from_bytes(message)).to_bytes()


def _mask(request: AggregateRequest, session: Session, partner: Partner, summing: Summing) -> bytes:
    asked, summed = partner.aggregation, request.request
    # The catalogue names the federation: the guard compares it with the partner's own.
    if (
        summed is None
        or request_digest(summed) != asked.request
        or summed.catalogue != asked.federation
    ):
        raise Refused(Refusal.MALFORMED, "the request is not the one of the accepted invitation")
    with _refused_as(Refusal.DROPPED):
        delivery = ShareDelivery.from_bytes(request.message)
        digest = partner.masked_before(delivery)

    def mask(points: Points) -> Points:
        masked = partner.mask(delivery, points)
        session.save()
        return masked.values.view(np.int64)

    if digest is None:
        values = summing.masked(summed, request.attempt, asked.length, mask)
    else:
        values = summing.kept(summed, request.attempt)
    reply = MaskedInput(
        session=delivery.session, sender=delivery.recipient, values=values.view(np.uint64)
    )
    if digest not in (None, reply.digest):
        raise Refused(Refusal.DROPPED, "the kept answer is not the one of this session")
    return reply.to_bytes()


@contextmanager
def _refused_as(code: Refusal) -> Iterator[None]:
    """Refuse with a code what the protocol refuses."""
    try:
        yield
    except SecureAggregationError as error:
        raise Refused(code, str(error)) from error
