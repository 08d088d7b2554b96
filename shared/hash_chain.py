"""A hash chain of entries: each hash covers all entries before it, so that every edit shows.

An entry is a JSON object. It is stored and hashed as one text: sorted keys, no spaces, ASCII only.

    hash(n) = SHA-256(hash(n - 1) || text(n)),  hash(0) = 32 zero bytes

The text is all that is stored of an entry, so no part of it can differ from what was hashed. A
chain alone cannot show that its last entries were removed: keep the last hash elsewhere for that.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

__all__ = ["INITIAL_HASH", "canonical_text", "next_hash"]

INITIAL_HASH = bytes(32)
"""The hash before the first entry."""


def canonical_text(fields: Mapping[str, Any]) -> str:
    """Return the canonical text of an entry.

    >>> canonical_text({"round": 1, "entry": "charge"})
    '{"entry":"charge","round":1}'
    """
    return json.dumps(fields, sort_keys=True, separators=(",", ":"), allow_nan=False)


def next_hash(previous: bytes, text: str) -> bytes:
    """Return the hash of an entry from its text and the hash before it; 32 bytes each."""
    return hashlib.sha256(previous + text.encode()).digest()
