"""A TLS handshake with the coordinator, which shows its certificate and its clock."""

from __future__ import annotations

import socket
import ssl
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path

from shared.errors import SiteError

__all__ = ["PATIENCE", "Handshake", "shake_hands"]

PATIENCE = 5.0
"""Seconds to wait for the coordinator."""
_LONGEST = 65536
# OpenSSL's X509_V_ERR_*, x509_vfy.h
_NOT_YET, _EXPIRED, _OTHER_HOST = 9, 10, (62, 64)
_NOT_SIGNED = (18, 19, 20, 21)


@dataclass(frozen=True, slots=True)
class Handshake:
    """What a handshake shows.

    Attributes:
        version: of TLS.
        expires: when its certificate does.
        clock_ahead: seconds that its clock is ahead of ours; None if it does not tell the time.
    """

    version: str
    expires: datetime
    clock_ahead: float | None


def shake_hands(address: tuple[str, int], roots: Path | None) -> Handshake:
    """Shake hands with the coordinator, and read its time from the headers of `/`.

    Args:
        address: host and port.
        roots: PEM file of the authority to trust; None trusts those of the system.

    Raises:
        SiteError: the handshake failed; the message says why.
        OSError: there is no connection, or `roots` is not readable.
    """
    host, port = address
    context = ssl.create_default_context(cafile=None if roots is None else str(roots))
    with socket.create_connection(address, timeout=PATIENCE) as plain:
        try:
            with context.wrap_socket(plain, server_hostname=host) as secured:
                certificate = secured.getpeercert() or {}
                ends = ssl.cert_time_to_seconds(str(certificate["notAfter"]))
                expires, version = datetime.fromtimestamp(ends, UTC), secured.version()
                return Handshake(str(version), expires, _clock_ahead(secured, host))
        except ssl.SSLCertVerificationError as error:
            raise SiteError(_reason(error, f"{host}:{port}", roots)) from None
        except (ssl.SSLError, ConnectionError, TimeoutError) as error:
            raise SiteError(
                f"{host}:{port}: something answers, but not in TLS ({error.__class__.__name__})"
            ) from None


def _clock_ahead(secured: ssl.SSLSocket, host: str) -> float | None:
    """Seconds that the Date header is ahead of our clock.

    Both are taken in their middle: of the second that the header names, and of the round trip.
    """
    before = datetime.now(UTC).timestamp()
    headers = b""
    with suppress(OSError):
        secured.sendall(f"HEAD / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
        while b"\r\n\r\n" not in headers and len(headers) < _LONGEST:
            if not (more := secured.recv(4096)):
                break
            headers += more
    now = (before + datetime.now(UTC).timestamp()) / 2
    for line in headers.decode("latin-1").split("\r\n"):
        name, _, value = line.partition(":")
        if name.lower() == "date":
            with suppress(ValueError):
                return parsedate_to_datetime(value.strip()).timestamp() + 0.5 - now
    return None


def _reason(error: ssl.SSLCertVerificationError, where: str, roots: Path | None) -> str:
    code = error.verify_code
    if code in _NOT_SIGNED:
        trusted = "any authority that the system trusts" if roots is None else str(roots)
        return f"{where}: its certificate was not signed by {trusted}"
    if code in _OTHER_HOST:
        return f"{where}: its certificate is for another name"
    if code in (_EXPIRED, _NOT_YET):
        return f"{where}: its certificate has expired, or is not valid yet by this clock"
    return f"{where}: its certificate is refused ({error.verify_message})"
