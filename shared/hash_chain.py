"""A chain of entries: each one's hash covers all before it, so that no edit goes unseen.

An entry is one JSON object with sorted keys, no spaces and ASCII alone; it is stored as that text,
and the text is what is hashed:

    hash(n) = SHA-256(hash(n - 1) || text(n)),  hash(0) = 32 zero bytes

Nothing else of an entry is stored, so nothing of it can differ from what was hashed. What no chain
can show by itself is that its end was cut off: whoever cares keeps the last hash elsewhere.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

__all__ = ["START", "encoded", "linked"]

START = bytes(32)
"""The hash before the first entry."""


def encoded(fields: Mapping[str, Any]) -> str:
    """The canonical text of an entry.

    >>> encoded({"round": 1, "entry": "charge"})
    '{"entry":"charge","round":1}'
    """
    return json.dumps(fields, sort_keys=True, separators=(",", ":"), allow_nan=False)


def linked(previous: bytes, text: str) -> bytes:
    """The hash of an entry, from the hash before it; 32 bytes each."""
    return hashlib.sha256(previous + text.encode()).digest()
