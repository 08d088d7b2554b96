"""Fingerprint of the code that this node runs."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path

__all__ = ["app_fingerprint"]

_PACKAGES = ("client", "shared")


@lru_cache(maxsize=1)
def app_fingerprint() -> str:
    """Return the SHA-256, in hex, over the path and bytes of every source file that a node runs.

    It covers the files themselves, so that a change by hand shows, which a version number would
    not. The coordinator's package is part of the bundle and is left out, since no node runs it.
    """
    root, digest = Path(__file__).parents[2], hashlib.sha256()
    for file in sorted(path for package in _PACKAGES for path in (root / package).rglob("*.py")):
        content = file.read_bytes()
        digest.update(f"{file.relative_to(root).as_posix()}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()
