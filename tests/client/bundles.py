"""App bundles that a test makes itself, whole or odd."""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Mapping

PROJECT = """
[project]
name = "sotto"
version = "0.1.0"

[tool.flwr.app]
publisher = "sotto"

[tool.flwr.app.components]
serverapp = "server.app:app"
clientapp = "client.app:app"
"""
APP = {"pyproject.toml": PROJECT, "client/__init__.py": "", "client/app.py": "app = print\n"}


def listing(files: Mapping[str, bytes]) -> bytes:
    """What .info/CONTENT says of these files."""
    lines = (f"{p},{hashlib.sha256(c).hexdigest()},{8 * len(c)}" for p, c in files.items())
    return "\n".join(lines).encode()


def bundle(
    changes: Mapping[str, str | bytes] | None = None, *, content: bytes | None = None
) -> bytes:
    """A bundle of a small app.

    Args:
        changes: files that differ from the small app's, or come on top.
        content: of .info/CONTENT, in place of what is true.
    """
    files = {
        path: text.encode() if isinstance(text, str) else text
        for path, text in (APP | dict(changes or {})).items()
    }
    return zipped(files | {".info/CONTENT": listing(files) if content is None else content})


def zipped(files: Mapping[str, bytes]) -> bytes:
    """An archive of these files, made as Flower makes them."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
        for path, content in files.items():
            info = zipfile.ZipInfo(path, (2024, 10, 1, 0, 0, 0))
            info.external_attr = 0o600 << 16
            archive.writestr(info, content)
    return out.getvalue()
