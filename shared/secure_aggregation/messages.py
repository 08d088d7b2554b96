"""Every message of the protocol: a frozen record with `to_bytes` and `from_bytes`.

| step | coordinator to partner | partner to coordinator |
|------|------------------------|------------------------|
| 1    | `Invitation`           | `KeyAdvertisement`     |
| 2    | `KeyList`              | `EncryptedShares`      |
| 3    | `ShareDelivery`        | `MaskedInput`          |
| 4    | `SurvivorList`         | `SurvivorSignature`    |
| 5    | `SurvivorProof`        | `UnmaskingShares`      |

All but the first begin with the digest of the invitation, which names the federation, run, round,
request, length, modulus, participants with their long-term keys, threshold and dropouts: a message
of one round is a message of no other. A partner is its index among the participants, which are
sorted by name. A message's size follows from the invitation and from who takes part, never from
data. `from_bytes` refuses every bytes that `to_bytes` would not have written
(`SecureAggregationError`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from shared.errors import SecureAggregationError
from shared.secure_aggregation.agreement import KEY_SIZE, TAG_SIZE, is_canonical
from shared.secure_aggregation.encoding import (
    INDEX_SIZE,
    Reader,
    indices,
    is_text,
    number,
    require,
    table,
    text,
)
from shared.secure_aggregation.parameters import MOST_ORGANISATIONS
from shared.secure_aggregation.shamir import PRIME, SHARE_SIZE
from shared.secure_aggregation.signing import PUBLIC_SIZE, SIGNATURE_SIZE, check_public

__all__ = [
    "DIGEST_SIZE",
    "MODULUS_BITS",
    "SEALED_SIZE",
    "Aggregation",
    "EncryptedShares",
    "Invitation",
    "KeyAdvertisement",
    "KeyList",
    "MaskedInput",
    "Message",
    "Participant",
    "ShareDelivery",
    "SurvivorList",
    "SurvivorProof",
    "SurvivorSignature",
    "UnmaskingShares",
]

DIGEST_SIZE, MODULUS_BITS = 32, 64
SEALED_SIZE = 2 * SHARE_SIZE + TAG_SIZE
"""Bytes of the two shares for one partner, encrypted."""
_FORM = b"sotto-aggregation-1"
_WORD, _LENGTH = 4, 4
"""Bytes of a round's number and of a vector's length."""
_VALUE = MODULUS_BITS // 8


class _Kind(IntEnum):
    """The byte that tells messages apart."""

    INVITATION = 1
    KEY_ADVERTISEMENT = 2
    KEY_LIST = 3
    ENCRYPTED_SHARES = 4
    SHARE_DELIVERY = 5
    MASKED_INPUT = 6
    SURVIVOR_LIST = 7
    SURVIVOR_SIGNATURE = 8
    SURVIVOR_PROOF = 9
    UNMASKING_SHARES = 10

    @property
    def words(self) -> str:
        """For error messages."""
        return self.name.lower().replace("_", " ")


class Message(Protocol):
    """What all messages of a partner have."""

    @property
    def session(self) -> bytes:
        """The digest of the invitation, 32 bytes."""

    @property
    def sender(self) -> int:
        """Index of the partner."""

    def to_bytes(self) -> bytes:
        """Return the one encoding of the message."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Aggregation:
    """What is summed. A partner knows it from the request, not from the coordinator's invitation.

    Attributes:
        federation: name of the federation.
        run: name of the run.
        round: number of the round in its run; >= 0.
        request: SHA-256 of the request that the vectors answer.
        length: m, how many numbers a vector has; >= 1.
    """

    federation: str
    run: str
    round: int
    request: bytes
    length: int

    def __post_init__(self) -> None:
        """Check the values."""
        for name, given in (("federation", self.federation), ("run", self.run)):
            require(is_text(given), f"the {name} {given!r:.80} is blank, long or not printable.")
        for name, value, size in (("round", self.round, _WORD), ("length", self.length, _LENGTH)):
            require(0 <= value < 256**size, f"the {name} {value} is not in [0, 2^{8 * size}).")
        require(self.length > 0, "a vector of no numbers has no sum.")
        require(len(self.request) == DIGEST_SIZE, "the request's digest is not SHA-256.")

    @property
    def words(self) -> str:
        """For error messages."""
        return f"round {self.round} of run {self.run!r}"

    def to_bytes(self) -> bytes:
        """Return the one encoding."""
        return (
            text(self.federation)
            + text(self.run)
            + number(self.round, _WORD)
            + self.request
            + number(self.length, _LENGTH)
            + number(MODULUS_BITS, 1)
        )

    @classmethod
    def read(cls, reader: Reader) -> Aggregation:
        """Read the encoding."""
        federation, run = reader.text(), reader.text()
        made = cls(
            federation=federation,
            run=run,
            round=reader.number(_WORD),
            request=reader.raw(DIGEST_SIZE),
            length=reader.number(_LENGTH),
        )
        bits = reader.number(1)
        if bits != MODULUS_BITS:
            raise reader.fail(f"asks for sums modulo 2^{bits}, not 2^{MODULUS_BITS}")
        return made


@dataclass(frozen=True, slots=True)
class Participant:
    """An organisation that is invited.

    Attributes:
        name: what it goes by.
        key: its long-term public key, 49 bytes.
    """

    name: str
    key: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Invitation:
    """Who is asked for a sum, of what, and how many may drop out. Everything is bound to it.

    Attributes:
        aggregation: what is summed.
        participants: sorted by name; names and keys are all different.
        threshold: how many shares recover a secret.
        dropouts: how many may stop answering.
    """

    aggregation: Aggregation
    participants: tuple[Participant, ...]
    threshold: int
    dropouts: int

    def __post_init__(self) -> None:
        """Check what needs no knowledge of the participants."""
        names = [participant.name for participant in self.participants]
        require(2 <= len(names) <= MOST_ORGANISATIONS, f"{len(names)} participants are invited.")
        require(names == sorted(set(names)), "the participants' names do not ascend.")
        keys: dict[bytes, str] = {}
        for participant in self.participants:
            require(is_text(participant.name), f"a participant's name is {participant.name!r:.80}.")
            check_public(participant.key)
            other = keys.setdefault(participant.key, participant.name)
            require(
                other == participant.name,
                f"{other} and {participant.name} are invited with one long-term key.",
                participant.name,
            )
        for field, count in (("threshold", self.threshold), ("dropouts", self.dropouts)):
            require(
                0 <= count <= len(names), f"a {field} of {count} for {len(names)} participants."
            )

    @property
    def digest(self) -> bytes:
        """SHA-256 of the encoding: the session."""
        return hashlib.sha256(self.to_bytes()).digest()

    def index(self, name: str) -> int:
        """Return the index of a participant.

        Raises:
            SecureAggregationError: it is not invited.
        """
        for index, participant in enumerate(self.participants):
            if participant.name == name:
                return index
        raise SecureAggregationError(f"{name} is not among the participants.", name)

    def name(self, index: int) -> str:
        """Return a participant's name, or words for an index that nobody has."""
        if index < len(self.participants):
            return self.participants[index].name
        return f"participant {index}"

    def to_bytes(self) -> bytes:
        """Return the one encoding."""
        return (
            _start(_Kind.INVITATION)
            + self.aggregation.to_bytes()
            + number(len(self.participants), INDEX_SIZE)
            + b"".join(text(p.name) + p.key for p in self.participants)
            + number(self.threshold, INDEX_SIZE)
            + number(self.dropouts, INDEX_SIZE)
        )

    @classmethod
    def from_bytes(cls, data: bytes) -> Invitation:
        """Read the message; raises SecureAggregationError."""
        reader = _open(data, _Kind.INVITATION)
        made = cls(
            aggregation=Aggregation.read(reader),
            participants=tuple(
                Participant(reader.text(), reader.raw(PUBLIC_SIZE))
                for _ in range(reader.number(INDEX_SIZE))
            ),
            threshold=reader.number(INDEX_SIZE),
            dropouts=reader.number(INDEX_SIZE),
        )
        reader.end()
        return made


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyAdvertisement:
    """A partner's keys for this round, signed with its long-term key.

    Attributes:
        session: digest of the invitation.
        sender: index of the partner.
        cipher_key: X25519 public key for the shares that others send it.
        mask_key: X25519 public key for the masks that it shares with others.
        commitment: to the seed of its own mask.
        signature: of all of that.
    """

    session: bytes
    sender: int
    cipher_key: bytes
    mask_key: bytes
    commitment: bytes
    signature: bytes
    KIND: ClassVar = _Kind.KEY_ADVERTISEMENT
    SIZE: ClassVar = 2 * KEY_SIZE + DIGEST_SIZE + SIGNATURE_SIZE

    def __post_init__(self) -> None:
        """Check the keys' form."""
        for key in (self.cipher_key, self.mask_key):
            require(is_canonical(key), "a key advertisement holds no X25519 key in its short form.")

    @property
    def body(self) -> bytes:
        """All after the sender."""
        return self.cipher_key + self.mask_key + self.commitment + self.signature

    def to_bytes(self) -> bytes:
        """Return the one encoding."""
        return _start(self.KIND, self.session, self.sender) + self.body

    @classmethod
    def from_bytes(cls, data: bytes) -> KeyAdvertisement:
        """Read the message; raises SecureAggregationError."""
        reader = _open(data, cls.KIND)
        session, sender = reader.raw(DIGEST_SIZE), reader.number(INDEX_SIZE)
        made = cls.read(reader, session, sender)
        reader.end()
        return made

    @classmethod
    def read(cls, reader: Reader, session: bytes, sender: int) -> KeyAdvertisement:
        """Read the body."""
        return cls(
            session=session,
            sender=sender,
            cipher_key=reader.raw(KEY_SIZE),
            mask_key=reader.raw(KEY_SIZE),
            commitment=reader.raw(DIGEST_SIZE),
            signature=reader.raw(SIGNATURE_SIZE),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyList:
    """The advertisements of all partners that sent one in time, by index.

    Attributes:
        session: digest of the invitation.
        advertisements: by the index of their sender.
    """

    session: bytes
    advertisements: Mapping[int, KeyAdvertisement]
    KIND: ClassVar = _Kind.KEY_LIST

    def to_bytes(self) -> bytes:
        """Return the one encoding."""
        bodies = {index: message.body for index, message in self.advertisements.items()}
        return _start(self.KIND, self.session) + table(bodies)

    @classmethod
    def from_bytes(cls, data: bytes) -> KeyList:
        """Read the message; raises SecureAggregationError."""
        reader = _open(data, cls.KIND)
        session = reader.raw(DIGEST_SIZE)
        bodies = reader.table(lambda reader: reader.raw(KeyAdvertisement.SIZE))
        reader.end()
        advertisements = {
            index: KeyAdvertisement.read(Reader(body, "a key advertisement"), session, index)
            for index, body in bodies.items()
        }
        return cls(session=session, advertisements=advertisements)


@dataclass(frozen=True, slots=True, kw_only=True)
class EncryptedShares:
    """A partner's shares of its two secrets, each pair encrypted for its holder.

    Attributes:
        session: digest of the invitation.
        sender: index of the partner.
        ciphertexts: by the index of the holder; `SEALED_SIZE` bytes each.
    """

    session: bytes
    sender: int
    ciphertexts: Mapping[int, bytes]
    KIND: ClassVar = _Kind.ENCRYPTED_SHARES

    def to_bytes(self) -> bytes:
        """Return the one encoding."""
        return _start(self.KIND, self.session, self.sender) + table(self.ciphertexts)

    @classmethod
    def from_bytes(cls, data: bytes) -> EncryptedShares:
        """Read the message; raises SecureAggregationError."""
        reader = _open(data, cls.KIND)
        made = cls(
            session=reader.raw(DIGEST_SIZE),
            sender=reader.number(INDEX_SIZE),
            ciphertexts=reader.table(lambda reader: reader.raw(SEALED_SIZE)),
        )
        reader.end()
        return made


@dataclass(frozen=True, slots=True, kw_only=True)
class ShareDelivery:
    """The shares that a partner is to hold, one pair from each other partner that sent them.

    Attributes:
        session: digest of the invitation.
        recipient: index of the partner they are for.
        ciphertexts: by the index of the sender; `SEALED_SIZE` bytes each.
    """

    session: bytes
    recipient: int
    ciphertexts: Mapping[int, bytes]
    KIND: ClassVar = _Kind.SHARE_DELIVERY

    @property
    def holders(self) -> frozenset[int]:
        """All partners that sent shares, the recipient among them."""
        return frozenset(self.ciphertexts) | {self.recipient}

    def to_bytes(self) -> bytes:
        """Return the one encoding."""
        return _start(self.KIND, self.session, self.recipient) + table(self.ciphertexts)

    @classmethod
    def from_bytes(cls, data: bytes) -> ShareDelivery:
        """Read the message; raises SecureAggregationError."""
        reader = _open(data, cls.KIND)
        made = cls(
            session=reader.raw(DIGEST_SIZE),
            recipient=reader.number(INDEX_SIZE),
            ciphertexts=reader.table(lambda reader: reader.raw(SEALED_SIZE)),
        )
        reader.end()
        return made


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class MaskedInput:
    """A partner's vector under all its masks.

    Attributes:
        session: digest of the invitation.
        sender: index of the partner.
        values: uint64 [m].
    """

    session: bytes
    sender: int
    values: NDArray[np.uint64]
    KIND: ClassVar = _Kind.MASKED_INPUT

    def to_bytes(self) -> bytes:
        """Return the one encoding."""
        values = np.ascontiguousarray(self.values, "<u8")
        return b"".join((_start(self.KIND, self.session, self.sender), values.data.cast("B")))

    @property
    def digest(self) -> bytes:
        """SHA-256 of the encoding, without a copy of the values."""
        hashed = hashlib.sha256(_start(self.KIND, self.session, self.sender))
        hashed.update(np.ascontiguousarray(self.values, "<u8").data.cast("B"))
        return hashed.digest()

    @classmethod
    def from_bytes(cls, data: bytes) -> MaskedInput:
        """Read the message without a copy of its values; raises SecureAggregationError."""
        reader = _open(data, cls.KIND)
        session, sender = reader.raw(DIGEST_SIZE), reader.number(INDEX_SIZE)
        values = reader.remainder()
        if not values or len(values) % _VALUE:
            raise reader.fail(f"has {len(values)} bytes of values, no multiple of {_VALUE} above 0")
        return cls(session=session, sender=sender, values=np.frombuffer(values, "<u8"))


@dataclass(frozen=True, slots=True, kw_only=True)
class SurvivorList:
    """Whose masked inputs are in the sum.

    Attributes:
        session: digest of the invitation.
        survivors: their indices.
    """

    session: bytes
    survivors: frozenset[int]
    KIND: ClassVar = _Kind.SURVIVOR_LIST

    def to_bytes(self) -> bytes:
        """Return the one encoding."""
        return _start(self.KIND, self.session) + indices(self.survivors)

    @classmethod
    def from_bytes(cls, data: bytes) -> SurvivorList:
        """Read the message; raises SecureAggregationError."""
        reader = _open(data, cls.KIND)
        made = cls(session=reader.raw(DIGEST_SIZE), survivors=reader.indices())
        reader.end()
        return made


@dataclass(frozen=True, slots=True, kw_only=True)
class SurvivorSignature:
    """A partner's signature of the one list of survivors that it accepts.

    Attributes:
        session: digest of the invitation.
        sender: index of the partner.
        signature: with its long-term key.
    """

    session: bytes
    sender: int
    signature: bytes
    KIND: ClassVar = _Kind.SURVIVOR_SIGNATURE

    def to_bytes(self) -> bytes:
        """Return the one encoding."""
        return _start(self.KIND, self.session, self.sender) + self.signature

    @classmethod
    def from_bytes(cls, data: bytes) -> SurvivorSignature:
        """Read the message; raises SecureAggregationError."""
        reader = _open(data, cls.KIND)
        made = cls(
            session=reader.raw(DIGEST_SIZE),
            sender=reader.number(INDEX_SIZE),
            signature=reader.raw(SIGNATURE_SIZE),
        )
        reader.end()
        return made


@dataclass(frozen=True, slots=True, kw_only=True)
class SurvivorProof:
    """The signatures of the list of survivors.

    Attributes:
        session: digest of the invitation.
        signatures: by the index of the partner.
    """

    session: bytes
    signatures: Mapping[int, bytes]
    KIND: ClassVar = _Kind.SURVIVOR_PROOF

    def to_bytes(self) -> bytes:
        """Return the one encoding."""
        return _start(self.KIND, self.session) + table(self.signatures)

    @classmethod
    def from_bytes(cls, data: bytes) -> SurvivorProof:
        """Read the message; raises SecureAggregationError."""
        reader = _open(data, cls.KIND)
        made = cls(
            session=reader.raw(DIGEST_SIZE),
            signatures=reader.table(lambda reader: reader.raw(SIGNATURE_SIZE)),
        )
        reader.end()
        return made


@dataclass(frozen=True, slots=True, kw_only=True)
class UnmaskingShares:
    """The shares that a partner holds of one secret of each partner that sent shares.

    Attributes:
        session: digest of the invitation.
        sender: index of the partner.
        seed_shares: of the own masks' seeds, by the index of each survivor.
        key_shares: of the mask keys, by the index of each partner that dropped out before its
            masked input.
    """

    session: bytes
    sender: int
    seed_shares: Mapping[int, int]
    key_shares: Mapping[int, int]
    KIND: ClassVar = _Kind.UNMASKING_SHARES

    def to_bytes(self) -> bytes:
        """Return the one encoding."""
        seed_shares, key_shares = (
            table({index: number(share, SHARE_SIZE) for index, share in shares.items()})
            for shares in (self.seed_shares, self.key_shares)
        )
        return _start(self.KIND, self.session, self.sender) + seed_shares + key_shares

    @classmethod
    def from_bytes(cls, data: bytes) -> UnmaskingShares:
        """Read the message; raises SecureAggregationError."""
        reader = _open(data, cls.KIND)
        made = cls(
            session=reader.raw(DIGEST_SIZE),
            sender=reader.number(INDEX_SIZE),
            seed_shares=reader.table(_read_share),
            key_shares=reader.table(_read_share),
        )
        reader.end()
        return made


def _read_share(reader: Reader) -> int:
    share = reader.number(SHARE_SIZE)
    if share >= PRIME:
        raise reader.fail("holds a share that is not below 2^521 - 1")
    return share


def _start(kind: _Kind, session: bytes = b"", sender: int | None = None) -> bytes:
    start = _FORM + number(kind, 1) + session
    return start if sender is None else start + number(sender, INDEX_SIZE)


def _open(data: bytes, kind: _Kind) -> Reader:
    """Return a reader behind the form and the kind, which must be those that are due."""
    reader = Reader(data, f"the {kind.words}")
    if reader.raw(len(_FORM)) != _FORM:
        raise reader.fail(f"is no message of {_FORM.decode()}")
    sent = reader.number(1)
    if sent != kind:
        is_a_kind = sent in _Kind.__members__.values()
        raise reader.fail(f"is {f'the {_Kind(sent).words}' if is_a_kind else f'of kind {sent}'}")
    return reader
