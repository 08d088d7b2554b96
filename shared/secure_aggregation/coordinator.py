"""The coordinator in one round: five times it collects messages, closes, and sends what follows.

| it collects         | until it closes with | which gives                | and needs at least |
|---------------------|----------------------|----------------------------|--------------------|
| `receive_keys`      | `key_list()`         | the keys of all            | n - d, and t       |
| `receive_shares`    | `delivery(name)`     | a partner's shares to hold | n - d, and t       |
| `receive_masked`    | `survivors()`        | whose inputs are summed    | n - d, and t       |
| `receive_signature` | `proof()`            | the signatures             | t                  |
| `receive_unmasking` | `total()`            | the sum                    | t                  |

Who is missing when a step closes has dropped out of all later ones.

| what happens                                            | result                               |
|---------------------------------------------------------|--------------------------------------|
| the same message again, before or after its step closed | ignored                              |
| another message from a partner that sent one            | refused; the first stands            |
| a message after its step closed, or before it began     | refused                              |
| a message from one that dropped out at an earlier step  | refused                              |
| a message in another name, of another session, or with  | refused                              |
| a wrong signature, key, set or length                   |                                      |
| a step that is closed again                             | the same result                      |
| a step that is closed before its predecessor            | refused                              |
| a step that is closed with too few                      | `TooFewPartners`; it stays open      |
| one wrong share of a secret, and t others               | the right total, and `faulty` names  |
|                                                         | its sender                           |
| more wrong shares than that, or wrongly dealt ones      | `total` is refused                   |

A refusal is a `SecureAggregationError` whose `suspect` names the partner at fault. The machine
holds one sum, not the masked inputs. `to_bytes` is its whole state; it holds no secret of anybody's
before `receive_unmasking`, and then what the partners released. If it is lost, so is the round.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from enum import IntEnum
from functools import cached_property
from typing import TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from shared.errors import SecureAggregationError, TooFewPartners
from shared.secure_aggregation.agreement import agree, public_of
from shared.secure_aggregation.encoding import Reader, number, require, table
from shared.secure_aggregation.masks import add_mask, subtract_mask
from shared.secure_aggregation.messages import (
    DIGEST_SIZE,
    EncryptedShares,
    Invitation,
    KeyAdvertisement,
    KeyList,
    MaskedInput,
    Message,
    ShareDelivery,
    SurvivorList,
    SurvivorProof,
    SurvivorSignature,
    UnmaskingShares,
)
from shared.secure_aggregation.shamir import interpolate, recover
from shared.secure_aggregation.signing import is_signature
from shared.secure_aggregation.transcript import (
    advertised_content,
    commit,
    keys_digest,
    own_mask_key,
    pair_mask_key,
    survivors_content,
)

__all__ = ["Coordinator", "Phase"]

_STATE = b"sotto-coordinator-state-1"


class Phase(IntEnum):
    """What the coordinator collects."""

    KEYS = 0
    SHARES = 1
    INPUTS = 2
    SIGNATURES = 3
    UNMASKING = 4
    FINISHED = 5


M = TypeVar("M", KeyAdvertisement, EncryptedShares, SurvivorSignature, UnmaskingShares)
"""Messages that are kept whole; of a masked input the digest is."""
Keys = Mapping[int, KeyAdvertisement]
_ANY_PRIVATE_KEY = bytes(32)
"""With it, agreement fails for a public key of low order alone."""


class Coordinator:
    """The state machine of the coordinator in one round.

    Args:
        invitation: what every participant is sent.
    """

    def __init__(self, invitation: Invitation) -> None:
        self.invitation = invitation
        self._session = invitation.digest
        self._phase = Phase.KEYS
        self._received: dict[Phase, dict[int, bytes]] = {
            phase: {} for phase in Phase if phase is not Phase.FINISHED
        }
        self._sum = np.zeros(invitation.aggregation.length, np.uint64)
        self._faulty: set[int] = set()
        self._closed: dict[Phase, object] = {}

    @property
    def phase(self) -> Phase:
        """What it collects now."""
        return self._phase

    @property
    def present(self) -> tuple[str, ...]:
        """The partners whose message of the current phase has come; of the last one at the end."""
        phase = min(self._phase, Phase.UNMASKING)
        return tuple(self.invitation.name(index) for index in sorted(self._received[phase]))

    @property
    def expected(self) -> tuple[str, ...]:
        """The partners that the current phase waits for: those of the phase before."""
        if self._phase is Phase.KEYS:
            return tuple(participant.name for participant in self.invitation.participants)
        return tuple(
            self.invitation.name(i) for i in sorted(self._received[Phase(self._phase - 1)])
        )

    @property
    def faulty(self) -> tuple[str, ...]:
        """The partners whose shares did not fit the others', as `total` found out."""
        return tuple(self.invitation.name(index) for index in sorted(self._faulty))

    # --- the five phases -------------------------------------------------------------------------

    def receive_keys(self, sender: str, message: KeyAdvertisement) -> None:
        """Take a partner's keys; `sender` is who the transport says that it is."""
        index = self._sender(sender, message)
        if self._is_new(Phase.KEYS, index, message.to_bytes()):
            self._check_keys(index, message)
            self._received[Phase.KEYS][index] = message.to_bytes()

    def key_list(self) -> KeyList:
        """Return the keys of all that sent them, for each of them."""
        self._close(Phase.KEYS)
        return KeyList(
            session=self._session,
            advertisements=self._messages(Phase.KEYS, KeyAdvertisement),
        )

    def receive_shares(self, sender: str, message: EncryptedShares) -> None:
        """Take a partner's encrypted shares."""
        index = self._sender(sender, message)
        if self._is_new(Phase.SHARES, index, message.to_bytes()):
            others = set(self._received[Phase.KEYS]) - {index}
            require(
                set(message.ciphertexts) == others,
                f"{sender} did not send shares for exactly the others on the key list.",
                sender,
            )
            self._received[Phase.SHARES][index] = message.to_bytes()

    def delivery(self, recipient: str) -> ShareDelivery:
        """Return the shares that a partner is to hold."""
        self._close(Phase.SHARES)
        index = self.invitation.index(recipient)
        require(index in self._received[Phase.SHARES], f"{recipient} sent no shares.", recipient)
        messages = self._messages(Phase.SHARES, EncryptedShares)
        return ShareDelivery(
            session=self._session,
            recipient=index,
            ciphertexts={
                i: message.ciphertexts[index] for i, message in messages.items() if i != index
            },
        )

    def receive_masked(self, sender: str, message: MaskedInput) -> None:
        """Add a partner's masked input to the sum."""
        index, digest = self._sender(sender, message), message.digest
        if self._is_new(Phase.INPUTS, index, digest):
            require(
                message.values.shape == self._sum.shape,
                f"{sender} sent {len(message.values)} numbers, not {len(self._sum)}.",
                sender,
            )
            np.add(self._sum, message.values, out=self._sum)
            self._received[Phase.INPUTS][index] = digest

    def survivors(self) -> SurvivorList:
        """Return the partners whose inputs are in the sum."""
        self._close(Phase.INPUTS)
        return SurvivorList(
            session=self._session, survivors=frozenset(self._received[Phase.INPUTS])
        )

    def receive_signature(self, sender: str, message: SurvivorSignature) -> None:
        """Take a partner's signature of the list of survivors."""
        index = self._sender(sender, message)
        if self._is_new(Phase.SIGNATURES, index, message.to_bytes()):
            content = survivors_content(
                self._keys_digest,
                index,
                self._received[Phase.SHARES],
                self._received[Phase.INPUTS],
            )
            require(
                is_signature(self.invitation.participants[index].key, content, message.signature),
                f"{sender} did not sign this list of survivors.",
                sender,
            )
            self._received[Phase.SIGNATURES][index] = message.to_bytes()

    def proof(self) -> SurvivorProof:
        """Return the signatures of the list of survivors."""
        self._close(Phase.SIGNATURES)
        messages = self._messages(Phase.SIGNATURES, SurvivorSignature)
        return SurvivorProof(
            session=self._session,
            signatures={index: message.signature for index, message in messages.items()},
        )

    def receive_unmasking(self, sender: str, message: UnmaskingShares) -> None:
        """Take a partner's shares of one secret of each partner that sent shares."""
        index = self._sender(sender, message)
        if self._is_new(Phase.UNMASKING, index, message.to_bytes()):
            require(
                set(message.seed_shares) == set(self._received[Phase.INPUTS])
                and set(message.key_shares) == self._dropped,
                f"{sender} did not send a seed share of each survivor and a key share of each "
                "partner that dropped out.",
                sender,
            )
            self._received[Phase.UNMASKING][index] = message.to_bytes()

    def total(self) -> NDArray[np.uint64]:
        """Return the sum of the survivors' vectors modulo 2^64, uint64 [m].

        `total().view(numpy.int64)` is the sum of signed numbers, if it is within [-2^63, 2^63).

        Raises:
            TooFewPartners: fewer than the threshold sent their shares.
            SecureAggregationError: shares are wrong and no right secret can be told.
        """
        self._close(Phase.UNMASKING)
        key_list, shares = self.key_list(), self._messages(Phase.UNMASKING, UnmaskingShares)
        advertised, digest = key_list.advertisements, self._keys_digest
        seeds, keys = self._seeds(advertised, shares), self._mask_keys(advertised, shares)
        total = self._sum.copy()
        for owner, seed in seeds.items():
            subtract_mask(total, own_mask_key(seed, digest, owner))
        for dropped, key in keys.items():
            for survivor in seeds:
                shared = agree(key, advertised[survivor].mask_key)
                # The survivor added this mask if its index is the lower one.
                remove = subtract_mask if survivor < dropped else add_mask
                remove(total, pair_mask_key(shared, digest, survivor, dropped))
        return total

    # --- state -----------------------------------------------------------------------------------

    def to_bytes(self) -> bytes:
        """Return the whole state."""
        parts = [_STATE, _block(self.invitation.to_bytes()), number(self._phase, 1)]
        for messages in self._received.values():
            parts.append(table({index: _block(data) for index, data in messages.items()}))
        parts.append(self._sum.astype("<u8", copy=False).tobytes())
        content = b"".join(parts)
        return content + hashlib.sha256(content).digest()

    @classmethod
    def from_bytes(cls, data: bytes) -> Coordinator:
        """Return the machine that `to_bytes` was called on.

        Raises:
            SecureAggregationError: the state is damaged: the round is lost.
        """
        content, digest = data[:-DIGEST_SIZE], data[-DIGEST_SIZE:]
        require(
            hashlib.sha256(content).digest() == digest,
            "the stored state of a round is damaged: the round is lost.",
        )
        reader = Reader(content, "the stored state of a round")
        require(reader.raw(len(_STATE)) == _STATE, "the stored state has another form.")
        made = cls(Invitation.from_bytes(reader.block()))
        made._phase = Phase(reader.number(1))
        for messages in made._received.values():
            messages.update(reader.table(lambda reader: reader.block()))
        made._sum[:] = np.frombuffer(reader.remainder(), "<u8")
        return made

    # --- checks ----------------------------------------------------------------------------------

    def _sender(self, name: str, message: Message) -> int:
        """Return the sender's index, if the message names the same sender and this session."""
        index = self.invitation.index(name)
        require(
            message.session == self._session, f"{name} sent a message of another session.", name
        )
        require(
            message.sender == index,
            f"{name} sent a message in the name of {self.invitation.name(message.sender)}.",
            name,
        )
        return index

    def _is_new(self, phase: Phase, index: int, data: bytes) -> bool:
        """Return whether a message is to be judged; False for one that is there already."""
        name, kept = self.invitation.name(index), self._received[phase].get(index)
        if kept is not None:
            require(kept == data, f"{name} sent two different messages in one step.", name)
            return False
        require(phase >= self._phase, f"{name} is late: this step is closed.", name)
        require(phase <= self._phase, f"{name} is early: this step has not begun.", name)
        require(name in self.expected, f"{name} dropped out at an earlier step.", name)
        return True

    def _check_keys(self, index: int, message: KeyAdvertisement) -> None:
        name = self.invitation.name(index)
        require(
            is_signature(
                self.invitation.participants[index].key,
                advertised_content(message),
                message.signature,
            ),
            f"{name}'s keys are not signed with its long-term key.",
            name,
        )
        keys = (message.cipher_key, message.mask_key)
        others = self._messages(Phase.KEYS, KeyAdvertisement).values()
        taken = {key for other in others for key in (other.cipher_key, other.mask_key)}
        require(
            keys[0] != keys[1] and not taken & {*keys},
            f"{name} advertises a key that is there already.",
            name,
        )
        for key in keys:
            try:
                agree(_ANY_PRIVATE_KEY, key)
            except SecureAggregationError as error:
                raise SecureAggregationError(f"{name}: {error}", name) from None

    def _close(self, phase: Phase) -> None:
        """Close a phase, unless it is closed."""
        require(phase <= self._phase, "an earlier step is not closed yet.")
        if phase < self._phase:
            return
        invitation, count = self.invitation, len(self._received[phase])
        least, invited = invitation.threshold, len(invitation.participants)
        if phase <= Phase.INPUTS:
            least = max(least, invited - invitation.dropouts)
        if count < least:
            raise TooFewPartners(
                f"{count} of {invited} partners answered, and {least} must. Nothing is learned. "
                "Wait for more, or ask again in a new round."
            )
        self._phase = Phase(phase + 1)

    # --- what was collected ----------------------------------------------------------------------

    @property
    def _dropped(self) -> set[int]:
        """Those that sent shares and no masked input."""
        return set(self._received[Phase.SHARES]) - set(self._received[Phase.INPUTS])

    def _messages(self, phase: Phase, form: type[M]) -> dict[int, M]:
        received, closed = self._received[phase], phase < self._phase
        if closed and phase in self._closed:
            return cast(dict[int, M], self._closed[phase])
        messages = {index: form.from_bytes(received[index]) for index in sorted(received)}
        if closed:
            self._closed[phase] = messages
        return messages

    @cached_property
    def _keys_digest(self) -> bytes:
        return keys_digest(self.key_list())

    def _seeds(self, advertised: Keys, shares: Mapping[int, UnmaskingShares]) -> dict[int, bytes]:
        """Recover the seed of each survivor's own mask."""

        def is_right(owner: int, seed: bytes) -> bool:
            return commit(seed, self._session, owner) == advertised[owner].commitment

        return {
            owner: self._recover(
                owner, {i: m.seed_shares[owner] for i, m in shares.items()}, is_right
            )
            for owner in self._received[Phase.INPUTS]
        }

    def _mask_keys(
        self, advertised: Keys, shares: Mapping[int, UnmaskingShares]
    ) -> dict[int, bytes]:
        """Recover the key of the pairwise masks of each partner that dropped out."""

        def is_right(owner: int, key: bytes) -> bool:
            return public_of(key) == advertised[owner].mask_key

        return {
            owner: self._recover(
                owner, {i: m.key_shares[owner] for i, m in shares.items()}, is_right
            )
            for owner in self._dropped
        }

    def _recover(
        self, owner: int, shares: Mapping[int, int], is_right: Callable[[int, bytes], bool]
    ) -> bytes:
        """Return the secret that fits what its owner advertised; one wrong share is survived."""
        threshold = self.invitation.threshold
        for left_out in (None, *sorted(shares)):
            rest = [index for index in sorted(shares) if index != left_out][:threshold]
            if len(rest) < threshold:
                continue
            chosen = {index: shares[index] for index in rest}
            try:
                secret = recover(chosen, threshold)
            except SecureAggregationError:
                continue
            if is_right(owner, secret):
                others = set(shares) - set(chosen)
                self._faulty |= {i for i in others if interpolate(chosen, i) != shares[i]}
                return secret
        name = self.invitation.name(owner)
        raise SecureAggregationError(
            f"the shares of {name}'s secret do not give what {name} advertised: it dealt wrong "
            "shares, or more than one partner returned wrong ones. Ask again in a new round.",
            name,
        )


def _block(data: bytes) -> bytes:
    return number(len(data), 8) + data
