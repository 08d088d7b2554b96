"""One partner in one round: five requests in a fixed order, each answered once.

| the partner has answered | it answers next           | and gives                               |
|--------------------------|---------------------------|-----------------------------------------|
| nothing                  | `advertise(invitation)`   | two fresh public keys, a commitment     |
| the invitation           | `share_keys(key_list)`    | shares of its two secrets, encrypted    |
| the key list             | `mask(delivery, values)`  | its vector under all its masks          |
| the share delivery       | `sign_survivors(list)`    | its signature of whose inputs are summed |
| the list of survivors    | `unmask(proof)`           | one share of one secret of each partner |

What a repeated or changed request gets:

| request                                                  | answer                               |
|----------------------------------------------------------|--------------------------------------|
| the same bytes as one that was answered                  | the same bytes, nothing new drawn    |
| the same share delivery with the same vector             | the same bytes, computed anew        |
| the same share delivery with another vector              | refused                              |
| the same share delivery after the last step              | refused: the secrets are gone        |
| other bytes where one was answered (other participants,  | refused, whatever they say           |
| keys, shares, survivors or signatures)                   |                                      |
| one whose predecessor was not answered                   | refused                              |
| one of another federation, run, round, request or length | refused                              |
| one that was refused, mended                             | answered: a refusal changes nothing  |

A refusal is a `SecureAggregationError`; its `suspect` names the partner at fault if one is.

`to_bytes` is the whole state, for a partner that must survive a restart between two requests. Who
keeps it must write it durably before an answer leaves, keep one machine for each (federation, run,
round), and never go back to an older copy: one from before the masked input would mask a second
vector with the same masks. A partner whose state is lost, damaged or in doubt drops out of the
round: it must not start that round anew. The long-term key, the roster and the vector are not in
the state.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from enum import IntEnum
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from shared.errors import SecureAggregationError, TooFewPartners
from shared.secure_aggregation.agreement import KEY_SIZE, agree, derive, public_of, seal, unseal
from shared.secure_aggregation.encoding import Reader, number, require
from shared.secure_aggregation.masks import add_mask, subtract_mask
from shared.secure_aggregation.messages import (
    DIGEST_SIZE,
    Aggregation,
    EncryptedShares,
    Invitation,
    KeyAdvertisement,
    KeyList,
    MaskedInput,
    ShareDelivery,
    SurvivorList,
    SurvivorProof,
    SurvivorSignature,
    UnmaskingShares,
)
from shared.secure_aggregation.parameters import Parameters
from shared.secure_aggregation.roster import Roster
from shared.secure_aggregation.shamir import PRIME, SHARE_SIZE, split
from shared.secure_aggregation.signing import Identity, is_signature
from shared.secure_aggregation.transcript import (
    advertised_content,
    commit,
    keys_digest,
    own_mask_key,
    pair_mask_key,
    sealing_context,
    survivors_content,
)

__all__ = ["Partner", "Step"]

_STATE = b"sotto-partner-state-1"


class Step(IntEnum):
    """How many requests a partner has answered."""

    NEW = 0
    ADVERTISED = 1
    SHARED = 2
    MASKED = 3
    SIGNED = 4
    FINISHED = 5


@dataclass(frozen=True, slots=True)
class _Secrets:
    """What is dropped after the last step; 32 bytes each, but the pair of shares."""

    cipher_key: bytes
    mask_key: bytes
    seed: bytes
    own_shares: bytes = b""

    @property
    def both(self) -> tuple[bytes, bytes]:
        """The two secrets that are shared."""
        return self.mask_key, self.seed


@dataclass(frozen=True, slots=True)
class _Exchange:
    """A request and its answer; of a masked input the digest."""

    request: bytes
    reply: bytes


class Partner:
    """The state machine of one partner in one round.

    Args:
        identity: its name and long-term key.
        roster: whom it believes in.
        aggregation: what it was asked to sum, as it knows from the request itself.
        random: returns that many secret uniform bytes.
    """

    def __init__(
        self,
        identity: Identity,
        roster: Roster,
        aggregation: Aggregation,
        random: Callable[[int], bytes] = os.urandom,
    ) -> None:
        self._identity, self._roster, self._aggregation = identity, roster, aggregation
        self._random = random
        self._log: list[_Exchange] = []
        self._secrets: _Secrets | None = _Secrets(
            random(KEY_SIZE), random(KEY_SIZE), random(KEY_SIZE)
        )

    @property
    def step(self) -> Step:
        """How far it is."""
        return Step(len(self._log))

    @property
    def aggregation(self) -> Aggregation:
        """What it was asked to sum."""
        return self._aggregation

    @property
    def parameters(self) -> Parameters:
        """What the round withstands in this partner's view: outsiders count as colluding.

        Raises:
            SecureAggregationError: no invitation was accepted yet.
        """
        require(self.step >= Step.ADVERTISED, "no invitation was accepted yet.")
        return self._roster.accept(self._invitation, self._identity)

    # --- the five requests -----------------------------------------------------------------------

    def advertise(self, invitation: Invitation) -> KeyAdvertisement:
        """Return fresh public keys, if this partner accepts the round.

        Raises:
            SecureAggregationError: it does not.
        """
        request = invitation.to_bytes()
        if kept := self._kept(Step.NEW, request):
            return KeyAdvertisement.from_bytes(kept)
        self._check_invitation(invitation)
        secrets, session = self._live_secrets(), invitation.digest
        own = invitation.index(self._identity.name)
        unsigned = KeyAdvertisement(
            session=session,
            sender=own,
            cipher_key=public_of(secrets.cipher_key),
            mask_key=public_of(secrets.mask_key),
            commitment=commit(secrets.seed, session, own),
            signature=b"",
        )
        content = advertised_content(unsigned)
        reply = replace(unsigned, signature=self._identity.sign(content))
        self._log.append(_Exchange(request, reply.to_bytes()))
        return reply

    def share_keys(self, key_list: KeyList) -> EncryptedShares:
        """Return shares of this partner's two secrets, encrypted for every partner on the list.

        Raises:
            SecureAggregationError: a key is not signed by its owner, is there twice or of low
                order, or too few take part.
        """
        request = key_list.to_bytes()
        if kept := self._kept(Step.ADVERTISED, request):
            return EncryptedShares.from_bytes(kept)
        self._check_keys(key_list)
        secrets, digest = self._live_secrets(), keys_digest(key_list)
        threshold, own = self._invitation.threshold, self._index
        key_shares, seed_shares = (
            split(secret, threshold, key_list.advertisements, self._random)
            for secret in secrets.both
        )
        pairs = {i: _pair(key_shares[i], seed_shares[i]) for i in key_list.advertisements}
        ciphertexts = {}
        for holder, message in key_list.advertisements.items():
            if holder != own:
                context = sealing_context(digest, own, holder)
                key = self._sealing_key(message, context, digest)
                ciphertexts[holder] = seal(key, pairs[holder], context)
        reply = EncryptedShares(session=self._session, sender=own, ciphertexts=ciphertexts)
        self._secrets = replace(secrets, own_shares=pairs[own])
        self._log.append(_Exchange(request, reply.to_bytes()))
        return reply

    def mask(self, delivery: ShareDelivery, values: NDArray[np.integer]) -> MaskedInput:
        """Return this partner's vector under its own mask and one for each other partner.

        Args:
            delivery: the shares that this partner is to hold.
            values: int64 or uint64 [m]; what is summed, modulo 2^64.

        Raises:
            SecureAggregationError: a pair of shares is not authentic, too few take part, or a
                different vector was masked before.
        """
        kept = self.masked_before(delivery)
        reply = self._masked(delivery, values)
        if kept is None:
            self._log.append(_Exchange(delivery.to_bytes(), reply.digest))
        require(kept in (None, reply.digest), "another vector was masked in this round.")
        return reply

    def masked_before(self, delivery: ShareDelivery) -> bytes | None:
        """Check shares before a vector is computed for them.

        Returns:
            The digest of the masked input that they were answered with; None if they were not yet.

        Raises:
            SecureAggregationError: `mask` would refuse them, whatever the vector.
        """
        kept = self._kept(Step.SHARED, delivery.to_bytes())
        if kept is None:
            self._check_delivery(delivery)
        return kept

    def sign_survivors(self, survivors: SurvivorList) -> SurvivorSignature:
        """Return this partner's signature of the list of partners whose inputs are summed.

        Raises:
            SecureAggregationError: the list leaves this partner out, names one that sent no
                shares, or is too short.
        """
        request = survivors.to_bytes()
        if kept := self._kept(Step.MASKED, request):
            return SurvivorSignature.from_bytes(kept)
        self._check_members(survivors.session, survivors.survivors, "listed as survivors")
        more = survivors.survivors - self._delivery.holders
        require(not more, f"{self._names(more)} sent no shares and cannot survive.")
        content = self._signed_content(self._index, survivors.survivors)
        reply = SurvivorSignature(
            session=self._session, sender=self._index, signature=self._identity.sign(content)
        )
        self._log.append(_Exchange(request, reply.to_bytes()))
        return reply

    def unmask(self, proof: SurvivorProof) -> UnmaskingShares:
        """Return a seed share of each survivor and a key share of each partner that dropped out.

        Never both of one partner: the survivors are those that this partner signed, once. Its
        secrets are dropped.

        Raises:
            SecureAggregationError: fewer than the threshold signed the same list.
        """
        request = proof.to_bytes()
        if kept := self._kept(Step.SIGNED, request):
            return UnmaskingShares.from_bytes(kept)
        self._check_proof(proof)
        survivors, shares = self._survivors.survivors, self._held_shares(self._delivery)
        reply = UnmaskingShares(
            session=self._session,
            sender=self._index,
            seed_shares={i: seed for i, (_, seed) in shares.items() if i in survivors},
            key_shares={i: key for i, (key, _) in shares.items() if i not in survivors},
        )
        self._log.append(_Exchange(request, reply.to_bytes()))
        self._secrets = None
        return reply

    # --- state -----------------------------------------------------------------------------------

    def to_bytes(self) -> bytes:
        """Return the whole state. It holds secrets until the last step; see the module."""
        secrets = self._secrets
        parts = [_STATE, self._aggregation.to_bytes(), self._identity.public]
        fields = (
            (secrets.cipher_key, secrets.mask_key, secrets.seed, secrets.own_shares)
            if secrets
            else ()
        )
        parts.append(number(len(fields), 1))
        blocks = [*fields, *(part for e in self._log for part in (e.request, e.reply))]
        parts += [number(len(self._log), 1), *(number(len(b), 8) + b for b in blocks)]
        content = b"".join(parts)
        return content + hashlib.sha256(content).digest()

    @classmethod
    def from_bytes(
        cls,
        data: bytes,
        identity: Identity,
        roster: Roster,
        random: Callable[[int], bytes] = os.urandom,
    ) -> Partner:
        """Return the machine that `to_bytes` was called on.

        Raises:
            SecureAggregationError: the state is damaged or another partner's: drop out of the
                round.
        """
        content, digest = data[:-DIGEST_SIZE], data[-DIGEST_SIZE:]
        require(
            hashlib.sha256(content).digest() == digest,
            "the stored state of a round is damaged: this partner drops out of the round.",
        )
        reader = Reader(content, "the stored state of a round")
        require(reader.raw(len(_STATE)) == _STATE, "the stored state has another form.")
        made = cls(identity, roster, Aggregation.read(reader), random)
        require(
            reader.raw(len(identity.public)) == identity.public,
            "the stored state of a round belongs to another long-term key.",
        )
        fields, exchanges = reader.number(1), reader.number(1)
        secrets = [reader.block() for _ in range(fields)]
        made._secrets = _Secrets(*secrets) if secrets else None
        made._log = [_Exchange(reader.block(), reader.block()) for _ in range(exchanges)]
        reader.end()
        return made

    # --- checks ----------------------------------------------------------------------------------

    def _kept(self, before: Step, request: bytes) -> bytes | None:
        """Return the kept answer to a request, or None if it is the next one due."""
        if self.step == before:
            return None
        require(
            self.step > before,
            f"this request is early: its predecessor was not answered in {self._words}.",
        )
        require(
            self._log[before].request == request,
            f"another request was answered at this step of {self._words}, and it is answered once.",
        )
        return self._log[before].reply

    def _check_invitation(self, invitation: Invitation) -> None:
        asked, expected = invitation.aggregation, self._aggregation
        for field in ("federation", "run", "round", "request", "length"):
            require(
                getattr(asked, field) == getattr(expected, field),
                f"the invitation's {field} is {getattr(asked, field)!r:.100}, and the one asked "
                f"for is {getattr(expected, field)!r:.100}.",
            )
        self._roster.accept(invitation, self._identity)

    def _check_keys(self, key_list: KeyList) -> None:
        self._check_members(key_list.session, key_list.advertisements, "on the key list")
        own = KeyAdvertisement.from_bytes(self._log[Step.NEW].reply)
        secrets, seen = self._live_secrets(), dict[bytes, str]()
        require(
            key_list.advertisements[self._index] == own,
            "the key list does not hold this partner's own keys.",
        )
        for index, message in key_list.advertisements.items():
            participant = self._invitation.participants[index]
            require(
                is_signature(participant.key, advertised_content(message), message.signature),
                f"the keys of {participant.name} are not signed with its long-term key for "
                f"{self._words}.",
                participant.name,
            )
            for key in (message.cipher_key, message.mask_key):
                require(
                    key not in seen,
                    f"{participant.name} advertises a key that {seen.get(key)} has, too.",
                    participant.name,
                )
                seen[key] = participant.name
            if index != self._index:
                self._agree(secrets.cipher_key, message.cipher_key, participant.name)
                self._agree(secrets.mask_key, message.mask_key, participant.name)

    def _check_delivery(self, delivery: ShareDelivery) -> None:
        require(
            delivery.recipient == self._index,
            f"the shares are addressed to {self._invitation.name(delivery.recipient)}.",
        )
        require(self._index not in delivery.ciphertexts, "this partner's own share came back.")
        self._check_members(delivery.session, delivery.holders, "sending shares")
        more = delivery.holders - set(self._key_list.advertisements)
        require(not more, f"{self._names(more)} sent shares without advertising keys.")
        self._held_shares(delivery)

    def _check_proof(self, proof: SurvivorProof) -> None:
        self._check_session(proof.session)
        survivors = self._survivors.survivors
        more = set(proof.signatures) - survivors
        require(not more, f"{self._names(more)} signed without being a survivor.")
        for index, signature in proof.signatures.items():
            participant = self._invitation.participants[index]
            require(
                is_signature(participant.key, self._signed_content(index, survivors), signature),
                f"{participant.name} did not sign the list of survivors that was shown here: the "
                "coordinator may have shown it another.",
                participant.name,
            )
        count, threshold = len(proof.signatures), self._invitation.threshold
        if count < threshold:
            raise TooFewPartners(f"{count} signed the list of survivors, and {threshold} must.")

    def _check_session(self, session: bytes) -> None:
        require(session == self._session, f"the message is not of this session, {self._words}.")

    def _check_members(self, session: bytes, members: Collection[int], what: str) -> None:
        """Check a set of participants: invited, this partner among them, and enough."""
        self._check_session(session)
        invitation, count = self._invitation, len(members)
        invited = range(len(invitation.participants))
        more = [index for index in members if index not in invited]
        require(not more, f"participant {more[:1]} is {what}, and only {len(invited)} are invited.")
        require(self._index in members, f"this partner is not among those {what}.")
        least = max(invitation.threshold, len(invited) - invitation.dropouts)
        if count < least:
            raise TooFewPartners(
                f"{count} partners are {what}, and {least} must be: the threshold is "
                f"{invitation.threshold}, and at most {invitation.dropouts} of {len(invited)} may "
                "drop out."
            )
        self._roster.require_members(invitation, members, self._identity, what)

    # --- computations ----------------------------------------------------------------------------

    def _masked(self, delivery: ShareDelivery, values: NDArray[np.integer]) -> MaskedInput:
        length = self._aggregation.length
        require(
            values.shape == (length,) and values.dtype in (np.int64, np.uint64),
            f"the vector is {values.dtype} {values.shape}, not int64 or uint64 ({length},).",
        )
        secrets, digest, own = self._live_secrets(), self._keys_digest, self._index
        masked = values.view(np.uint64).copy()
        add_mask(masked, own_mask_key(secrets.seed, digest, own))
        for other in delivery.ciphertexts:
            public = self._key_list.advertisements[other].mask_key
            shared = self._agree(secrets.mask_key, public, self._invitation.name(other))
            apply = add_mask if own < other else subtract_mask
            apply(masked, pair_mask_key(shared, digest, own, other))
        return MaskedInput(session=self._session, sender=own, values=masked)

    def _held_shares(self, delivery: ShareDelivery) -> Mapping[int, tuple[int, int]]:
        """Return the key share and the seed share of each partner that sent them."""
        secrets, digest = self._live_secrets(), self._keys_digest
        held = {self._index: _shares(secrets.own_shares)}
        for sender, ciphertext in delivery.ciphertexts.items():
            name = self._invitation.name(sender)
            context = sealing_context(digest, sender, self._index)
            key = self._sealing_key(self._key_list.advertisements[sender], context, digest)
            try:
                held[sender] = _shares(unseal(key, ciphertext, context))
            except SecureAggregationError:
                raise SecureAggregationError(
                    f"the shares from {name} are not what {name} encrypted for this partner in "
                    f"{self._words}, under the keys that were shown here.",
                    name,
                ) from None
        return held

    def _sealing_key(self, message: KeyAdvertisement, context: bytes, digest: bytes) -> bytes:
        name = self._invitation.name(message.sender)
        shared = self._agree(self._live_secrets().cipher_key, message.cipher_key, name)
        return derive(shared, digest, context)

    def _agree(self, private: bytes, public: bytes, name: str) -> bytes:
        try:
            return agree(private, public)
        except SecureAggregationError as error:
            raise SecureAggregationError(f"{name}: {error}", name) from None

    def _signed_content(self, signer: int, survivors: Collection[int]) -> bytes:
        return survivors_content(self._keys_digest, signer, self._delivery.holders, survivors)

    # --- what was accepted -----------------------------------------------------------------------

    def _live_secrets(self) -> _Secrets:
        if self._secrets is None:
            raise SecureAggregationError(
                f"the secrets of {self._words} are gone: it is finished here."
            )
        return self._secrets

    @cached_property
    def _invitation(self) -> Invitation:
        return Invitation.from_bytes(self._log[Step.NEW].request)

    @cached_property
    def _key_list(self) -> KeyList:
        return KeyList.from_bytes(self._log[Step.ADVERTISED].request)

    @cached_property
    def _delivery(self) -> ShareDelivery:
        return ShareDelivery.from_bytes(self._log[Step.SHARED].request)

    @cached_property
    def _survivors(self) -> SurvivorList:
        return SurvivorList.from_bytes(self._log[Step.MASKED].request)

    @cached_property
    def _session(self) -> bytes:
        return self._invitation.digest

    @cached_property
    def _keys_digest(self) -> bytes:
        return keys_digest(self._key_list)

    @cached_property
    def _index(self) -> int:
        return self._invitation.index(self._identity.name)

    @property
    def _words(self) -> str:
        return self._aggregation.words

    def _names(self, indices: Collection[int]) -> str:
        return ", ".join(self._invitation.name(index) for index in sorted(indices))


def _pair(key_share: int, seed_share: int) -> bytes:
    return number(key_share, SHARE_SIZE) + number(seed_share, SHARE_SIZE)


def _shares(pair: bytes) -> tuple[int, int]:
    """Read a pair of shares; raises SecureAggregationError."""
    key, seed = (int.from_bytes(pair[i : i + SHARE_SIZE], "big") for i in (0, SHARE_SIZE))
    require(len(pair) == 2 * SHARE_SIZE and max(key, seed) < PRIME, "these are not two shares.")
    return key, seed
