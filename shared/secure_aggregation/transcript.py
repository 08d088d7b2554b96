"""What signatures, keys and ciphertexts are bound to; both sides compute it alike.

The invitation's digest (`session`) covers federation, run, round, request, length, modulus and
participants. `keys_digest` covers that and every key advertised: it salts each key and is part of
what is signed and sealed, so two partners that were shown different keys agree on nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection

from shared.secure_aggregation.agreement import derive
from shared.secure_aggregation.encoding import INDEX_SIZE, indices, number
from shared.secure_aggregation.messages import KeyAdvertisement, KeyList

__all__ = [
    "advertised_content",
    "commit",
    "keys_digest",
    "own_mask_key",
    "pair_mask_key",
    "sealing_context",
    "survivors_content",
]

_LABEL = b"sotto secure aggregation 1: "


def commit(seed: bytes, session: bytes, owner: int) -> bytes:
    """Return the commitment to the seed of a partner's own mask."""
    return derive(seed, session, _text(b"commitment", owner))


def advertised_content(message: KeyAdvertisement) -> bytes:
    """Return what the signature of a key advertisement covers."""
    keys = message.cipher_key + message.mask_key + message.commitment
    return _text(b"key advertisement", message.sender) + message.session + keys


def keys_digest(message: KeyList) -> bytes:
    """Return SHA-256 of all keys of a round."""
    return hashlib.sha256(_text(b"key list") + message.to_bytes()).digest()


def sealing_context(keys: bytes, sender: int, holder: int) -> bytes:
    """Return what the key of a pair of shares, and their ciphertext, are bound to."""
    return _text(b"shares", sender, holder) + keys


def own_mask_key(seed: bytes, keys: bytes, owner: int) -> bytes:
    """Return the key of a partner's own mask."""
    return derive(seed, keys, _text(b"own mask", owner))


def pair_mask_key(secret: bytes, keys: bytes, one: int, other: int) -> bytes:
    """Return the key of the mask that two partners share; the order does not matter."""
    return derive(secret, keys, _text(b"pair mask", *sorted((one, other))))


def survivors_content(
    keys: bytes, signer: int, holders: Collection[int], survivors: Collection[int]
) -> bytes:
    """Return what a partner signs: who sent shares, and whose masked inputs are in the sum."""
    return _text(b"survivors", signer) + keys + indices(holders) + indices(survivors)


def _text(use: bytes, *partners: int) -> bytes:
    return _LABEL + use + b"\0" + b"".join(number(index, INDEX_SIZE) for index in partners)
