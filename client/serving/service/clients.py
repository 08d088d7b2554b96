"""Who may ask: clients with bearer tokens, whose digests are in a file, and TLS.

The file has one line a client, `name = "SHA-256 of its token"`, and no token. It is read again when
it changes, so that a client can be added or taken out while the service runs.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import ssl
import threading
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import tomlkit

from shared.errors import SiteError
from shared.sections import is_name
from shared.system.files import PRIVATE, write_atomically

__all__ = ["Clients", "Tls", "add_client"]

_TOKEN_BYTES, _DIGEST = 32, 64
_SCHEME = "bearer "


def add_client(file: Path, name: str) -> str:
    """Add a client to the file, which is made if need be, and return its new token.

    Raises:
        SiteError: the name is taken or cannot be shown, or the file cannot be read or written.
    """
    if not is_name(name):
        raise SiteError(f"--add-client {name!r}: give a name that can be shown.")
    known = dict(_read(file)) if file.exists() else {}
    if name in known:
        raise SiteError(
            f"{file}: '{name}' has a token already: take its line out to give it a new one."
        )
    token = secrets.token_urlsafe(_TOKEN_BYTES)
    known[name] = _digest(token)
    try:
        write_atomically(file, tomlkit.dumps(known).encode(), mode=PRIVATE)
    except OSError as error:
        raise SiteError(f"{file}: not writable ({error.strerror}). Check the path.") from error
    return token


class Clients:
    """The clients of a file.

    Args:
        file: see the top of this module; None asks nobody for a token.

    Raises:
        SiteError: it cannot be read, or has no client.
    """

    def __init__(self, file: Path | None) -> None:
        self._file, self._lock = file, threading.Lock()
        self._stamp, self._digests = self._load() if file is not None else ((), ())

    def accepts(self, authorization: str) -> bool:
        """Return whether an Authorization header may ask.

        Args:
            authorization: `Bearer TOKEN`; "" without one.
        """
        if self._file is None:
            return True
        self._reload()
        scheme, token = authorization[: len(_SCHEME)], authorization[len(_SCHEME) :].strip()
        if scheme.lower() != _SCHEME or not token:
            return False
        digest = _digest(token)
        return any(hmac.compare_digest(digest, known) for known in self._digests)

    def _reload(self) -> None:
        """Read the file again if it changed; a damaged one lets nobody in."""
        with self._lock:
            if self._status() == self._stamp:
                return
            try:
                self._stamp, self._digests = self._load()
            except SiteError:
                self._stamp, self._digests = self._status(), ()

    def _load(self) -> tuple[tuple[int, ...], tuple[str, ...]]:
        assert self._file is not None
        stamp = self._status()
        digests = tuple(_read(self._file).values())
        if not digests:
            raise SiteError(
                f"{self._file}: it names no client. Add one: sotto-node serve --add-client NAME"
            )
        return stamp, digests

    def _status(self) -> tuple[int, ...]:
        assert self._file is not None
        try:
            status = self._file.stat()
        except OSError:
            return ()
        return status.st_mtime_ns, status.st_size, status.st_ino


@dataclass(frozen=True, slots=True)
class Tls:
    """Certificates of the service, in PEM.

    Attributes:
        certificate: file of the chain.
        key: file of its private key.
        client_authority: file of the authority that signs clients' certificates; None asks clients
            for none.
    """

    certificate: Path
    key: Path
    client_authority: Path | None = None

    def check(self) -> None:
        """Refuse files that cannot be used.

        Raises:
            SiteError: one is missing, or the key is another's.
        """
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        try:
            context.load_cert_chain(self.certificate, self.key, password=lambda: "")
        except (OSError, ssl.SSLError) as error:
            raise SiteError(
                f"serve.certificate = '{self.certificate}', serve.key = '{self.key}': they are no "
                f"pair that can be used ({error}). Name a PEM chain, and its key, without password."
            ) from None
        if self.client_authority is not None:
            try:
                context.load_verify_locations(self.client_authority)
            except (OSError, ssl.SSLError) as error:
                raise SiteError(
                    f"serve.client_authority = '{self.client_authority}': it holds no certificate "
                    f"({error}). Name a PEM file."
                ) from None


def _read(file: Path) -> Mapping[str, str]:
    try:
        if os.name == "posix" and (mode := file.stat().st_mode & 0o077):
            raise SiteError(
                f"{file}: others may open it (its mode ends in {mode:03o}): chmod 600 it."
            )
        entries = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise SiteError(
            f"{file}: not readable ({error.strerror}). Make it: sotto-node serve --add-client NAME"
        ) from error
    except ValueError as error:
        raise SiteError(f'{file}: not valid TOML: write lines name = "digest".') from error
    for name, digest in entries.items():
        if not (isinstance(digest, str) and len(digest) == _DIGEST):
            raise SiteError(
                f"{file}: '{name}' is not the SHA-256 of a token in hex: take its line out, and "
                f"add it with sotto-node serve --add-client"
            )
    return {name: str(digest) for name, digest in entries.items()}


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
