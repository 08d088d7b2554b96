"""Which version of the app this node runs."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path

__all__ = ["app_fingerprint"]

_PACKAGES = ("client", "shared")


@lru_cache(maxsize=1)
def app_fingerprint() -> str:
    """SHA-256, in hex, of every source file that a node executes: its path and its bytes.

    Of the files themselves, not of a version number or of the bundle's name: what was changed by
    hand has another fingerprint. The coordinator's package is in the bundle and left out here.
    """
    root, digest = Path(__file__).parents[2], hashlib.sha256()
    for file in sorted(path for package in _PACKAGES for path in (root / package).rglob("*.py")):
        content = file.read_bytes()
        digest.update(f"{file.relative_to(root).as_posix()}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()
