"""Search everything that a coordinator received for what it can compute of single organisations.

A masked input is y = x + its own mask ± a mask for each pair, modulo 2^64. Of the masks some are
known: those whose seed or key is in the transcript, as shares or as bytes. The others are unknowns,
one for each key that they come from, in all attempts together. A combination Σ c_i y_i tells
Σ c_i x_i if the unknown masks cancel in it, and nothing otherwise, since each is uniform: so what
is determined is the left kernel of the matrix of unknown masks over the integers modulo 2^64.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from shared.errors import SecureAggregationError
from shared.secure_aggregation.agreement import KEY_SIZE, agree, derive, public_of, unseal
from shared.secure_aggregation.masks import add_mask
from shared.secure_aggregation.messages import (
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
from shared.secure_aggregation.shamir import SHARE_SIZE, recover
from shared.secure_aggregation.transcript import (
    commit,
    keys_digest,
    own_mask_key,
    pair_mask_key,
    sealing_context,
)

BITS = 64
MODULUS = 2**BITS
Row = list[int]
Sums = NDArray[np.uint64]
_SENT = (Invitation, KeyList, ShareDelivery, SurvivorList, SurvivorProof)
_RECEIVED = (KeyAdvertisement, EncryptedShares, MaskedInput, SurvivorSignature, UnmaskingShares)
_INPUT = 3


@dataclass(frozen=True, kw_only=True)
class Exchange:
    """A step that a partner answered.

    Attributes:
        step: 1 to 5.
        sent: what the coordinator asked.
        received: the answer.
    """

    step: int
    sent: bytes
    received: bytes


@dataclass
class Attempt:
    """All of one session: what was sent and received, and secrets of colluding partners."""

    invitation: Invitation
    key_list: KeyList | None = None
    advertised: dict[int, KeyAdvertisement] = field(default_factory=dict)
    sealed: dict[int, Mapping[int, bytes]] = field(default_factory=dict)
    inputs: dict[int, list[Sums]] = field(default_factory=dict)
    seed_shares: dict[int, dict[int, int]] = field(default_factory=dict)
    key_shares: dict[int, dict[int, int]] = field(default_factory=dict)
    seeds: dict[int, bytes] = field(default_factory=dict)
    mask_keys: dict[int, bytes] = field(default_factory=dict)

    @property
    def digest(self) -> bytes:
        """What salts the keys of the session."""
        assert self.key_list is not None
        return keys_digest(self.key_list)

    def names(self, indices: Iterable[int]) -> frozenset[str]:
        return frozenset(self.invitation.name(index) for index in indices)

    def take(self, exchange: Exchange) -> None:
        """Read one exchange; every byte of both messages belongs to a field."""
        sent = _SENT[exchange.step - 1].from_bytes(exchange.sent)
        received = _RECEIVED[exchange.step - 1].from_bytes(exchange.received)
        assert received.to_bytes() == exchange.received
        if isinstance(sent, KeyList):
            assert self.key_list in (None, sent)
            self.key_list = sent
        if isinstance(received, KeyAdvertisement):
            self.advertised[received.sender] = received
        elif isinstance(received, EncryptedShares):
            self.sealed[received.sender] = received.ciphertexts
        elif isinstance(received, MaskedInput):
            known = self.inputs.setdefault(received.sender, [])
            if not any(np.array_equal(values, received.values) for values in known):
                known.append(received.values)
        elif isinstance(received, UnmaskingShares):
            self.hold(received.sender, received.seed_shares, received.key_shares)

    def hold(self, holder: int, seeds: Mapping[int, int], keys: Mapping[int, int]) -> None:
        """Keep a holder's shares of others' secrets."""
        for kept, shares in ((self.seed_shares, seeds), (self.key_shares, keys)):
            for owner, share in shares.items():
                kept.setdefault(owner, {})[holder] = share

    def collude(self, index: int, cipher_key: bytes, mask_key: bytes, seed: bytes) -> None:
        """Take what a colluding partner knows: its secrets, and the shares that it can decrypt."""
        self.seeds[index], self.mask_keys[index] = seed, mask_key
        if self.key_list is None:
            return
        for sender, ciphertexts in self.sealed.items():
            if index in ciphertexts:
                context = sealing_context(self.digest, sender, index)
                shared = agree(cipher_key, self.advertised[sender].cipher_key)
                key = derive(shared, self.digest, context)
                pair = unseal(key, ciphertexts[index], context)
                share, seed_share = (
                    int.from_bytes(pair[at : at + SHARE_SIZE], "big") for at in (0, SHARE_SIZE)
                )
                self.hold(index, {sender: seed_share}, {sender: share})

    def is_seed(self, owner: int, secret: bytes) -> bool:
        expected = self.advertised[owner].commitment
        return commit(secret, self.invitation.digest, owner) == expected

    def is_mask_key(self, owner: int, secret: bytes) -> bool:
        return public_of(secret) == self.advertised[owner].mask_key

    def recover(self) -> None:
        """Recover what enough shares are known of."""
        for owner in self.advertised:
            for shares, known, is_right in (
                (self.seed_shares, self.seeds, self.is_seed),
                (self.key_shares, self.mask_keys, self.is_mask_key),
            ):
                held = shares.get(owner, {})
                for chosen in itertools.combinations(sorted(held), self.invitation.threshold):
                    try:
                        secret = recover({i: held[i] for i in chosen}, len(chosen))
                    except SecureAggregationError:
                        continue
                    if is_right(owner, secret):
                        known[owner] = secret
                        break

    def search_bytes(self, data: bytes, step: int = 0) -> None:
        """Look for a secret as it is, at any place in bytes that were received.

        The numbers of a masked input lie 8 bytes apart.
        """
        publics = {message.mask_key: index for index, message in self.advertised.items()}
        places = range(0, len(data) - KEY_SIZE + 1, 1)
        if step == _INPUT:
            places = range(len(data) % 8, len(data) - KEY_SIZE + 1, 8)
        for place in places:
            window = data[place : place + KEY_SIZE]
            owner = publics.get(public_of(window))
            if owner is not None:
                self.mask_keys[owner] = window
            self.seeds |= {i: window for i in self.advertised if self.is_seed(i, window)}


@dataclass(frozen=True)
class Determined:
    """What the coordinator can compute: a combination of organisations' vectors, and its value.

    Attributes:
        factors: by (number of the attempt, name, number of the input); those that are not 0.
        value: uint64 [m], or empty where inputs of two lengths are combined.
    """

    factors: Mapping[tuple[int, str, int], int]
    value: Sums


class Transcript:
    """All attempts of a run, by session."""

    def __init__(self, exchanges: Iterable[Exchange]) -> None:
        self.exchanges = list(exchanges)
        self.attempts: dict[bytes, Attempt] = {}
        for exchange in self.exchanges:
            self._attempt(exchange).take(exchange)

    def _attempt(self, exchange: Exchange) -> Attempt:
        if exchange.step == 1:
            invitation = Invitation.from_bytes(exchange.sent)
            return self.attempts.setdefault(invitation.digest, Attempt(invitation))
        return self.attempts[_RECEIVED[exchange.step - 1].from_bytes(exchange.received).session]

    def search_bytes(self) -> None:
        """Look for a secret as it is in all that was received."""
        for exchange in self.exchanges:
            self._attempt(exchange).search_bytes(exchange.received, exchange.step)

    def determined(self) -> list[Determined]:
        """Return generators of all that the coordinator can compute of the vectors."""
        rows: list[tuple[tuple[int, str, int], dict[object, int], Sums]] = []
        for attempt in self.attempts.values():
            attempt.recover()
            rows += _rows(attempt)
        unknown = list(dict.fromkeys(column for _, masks, _ in rows for column in masks))
        matrix = [[masks.get(column, 0) for column in unknown] for _, masks, _ in rows]
        return [_combined(factors, rows) for factors in left_kernel(matrix)]


def _rows(attempt: Attempt) -> list[tuple[tuple[int, str, int], dict[object, int], Sums]]:
    """Return each masked input: what is unknown of its masks, and its numbers without the others.

    The others of a pair are those whose shares were delivered: those that sent some.
    """
    rows: list[tuple[tuple[int, str, int], dict[object, int], Sums]] = []
    for sender, copies in attempt.inputs.items():
        for copy, values in enumerate(copies):
            masks: dict[object, int] = {}
            left = values.copy()
            if sender in attempt.seeds:
                _take_off(left, own_mask_key(attempt.seeds[sender], attempt.digest, sender), 1)
            else:
                masks[attempt.digest, attempt.advertised[sender].commitment] = 1
            for other in attempt.sealed.keys() - {sender}:
                sign = 1 if sender < other else -1
                key = _pair_key(attempt, sender, other)
                if key is None:
                    pair = (attempt.advertised[i].mask_key for i in sorted((sender, other)))
                    masks[attempt.digest, *pair] = sign % MODULUS
                else:
                    _take_off(left, key, sign)
            number = attempt.invitation.aggregation.round
            rows.append(((number, attempt.invitation.name(sender), copy), masks, left))
    return rows


def _pair_key(attempt: Attempt, one: int, other: int) -> bytes | None:
    for owner, peer in ((one, other), (other, one)):
        if owner in attempt.mask_keys:
            shared = agree(attempt.mask_keys[owner], attempt.advertised[peer].mask_key)
            return pair_mask_key(shared, attempt.digest, one, other)
    return None


def _take_off(values: Sums, key: bytes, sign: int) -> None:
    mask = np.zeros_like(values)
    add_mask(mask, key)
    if sign > 0:
        np.subtract(values, mask, out=values)
    else:
        np.add(values, mask, out=values)


def _combined(
    factors: Row, rows: Sequence[tuple[tuple[int, str, int], dict[object, int], Sums]]
) -> Determined:
    used = [(factor, label, left) for factor, (label, _, left) in zip(factors, rows, strict=True)]
    used = [one for one in used if one[0]]
    lengths = {len(left) for _, _, left in used}
    value = np.zeros(max(lengths) if len(lengths) == 1 else 0, np.uint64)
    for factor, _, left in used:
        if len(value):
            value += np.uint64(factor) * left
    return Determined({label: factor for factor, label, _ in used}, value)


# --- the integers modulo 2^64 ---------------------------------------------------------------------


def left_kernel(matrix: Sequence[Row]) -> list[Row]:
    """Return rows that generate all c with c^T M = 0 modulo 2^64.

    Each pivot has the fewest factors 2 of all entries that are left, so it divides them.

    >>> left_kernel([[1, 0], [MODULUS - 1, 0], [0, 2]])
    [[1, 1, 0], [0, 0, 9223372036854775808]]
    """
    count = len(matrix)
    rows = [[*row, *(int(i == j) for j in range(count))] for i, row in enumerate(matrix)]
    width = len(matrix[0]) if matrix else 0
    kernel: list[Row] = []
    while rows:
        pivot = _pivot(rows, width)
        if pivot is None:
            break
        row, column = pivot
        chosen = rows.pop(row)
        twos = _twos(chosen[column])
        inverse = pow(chosen[column] >> twos, -1, MODULUS)
        for other in rows:
            factor = (other[column] >> twos) * inverse
            for j in range(len(other)):
                other[j] = (other[j] - factor * chosen[j]) % MODULUS
        if twos:
            kernel.append([entry * 2 ** (BITS - twos) % MODULUS for entry in chosen])
    return [row[width:] for row in [*rows, *kernel]]


def spans(generators: Sequence[Row], wanted: Row) -> bool:
    """Return whether a row is a combination of others modulo 2^64."""
    rows, rest = [list(row) for row in generators], [entry % MODULUS for entry in wanted]
    while rows and (pivot := _pivot(rows, len(rest))) is not None:
        row, column = pivot
        chosen = rows.pop(row)
        twos = _twos(chosen[column])
        inverse = pow(chosen[column] >> twos, -1, MODULUS)
        for other in [*rows, rest]:
            if other is rest and rest[column] % 2**twos:
                return False
            factor = (other[column] >> twos) * inverse
            for j in range(len(other)):
                other[j] = (other[j] - factor * chosen[j]) % MODULUS
    return not any(rest)


def _pivot(rows: Sequence[Row], width: int) -> tuple[int, int] | None:
    places = [
        (_twos(row[column]), i, column)
        for i, row in enumerate(rows)
        for column in range(width)
        if row[column]
    ]
    return min(places)[1:] if places else None


def _twos(entry: int) -> int:
    return (entry & -entry).bit_length() - 1
