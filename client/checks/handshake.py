"""One look at the coordinator over TLS: its certificate, and what time it thinks it is."""

from __future__ import annotations

import socket
import ssl
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path

from shared.errors import SiteError

__all__ = ["PATIENCE", "Hello", "hello"]

PATIENCE = 5.0
"""Seconds to wait for the coordinator."""
_LONGEST = 65536
# OpenSSL's X509_V_ERR_*, x509_vfy.h
_NOT_YET, _EXPIRED, _OTHER_HOST = 9, 10, (62, 64)
_NOT_SIGNED = (18, 19, 20, 21)


@dataclass(frozen=True, slots=True)
class Hello:
    """What a coordinator shows before anything is asked.

    Attributes:
        version: of TLS.
        expires: when its certificate does.
        ahead: seconds that its clock is ahead of ours; None where it does not say.
    """

    version: str
    expires: datetime
    ahead: float | None


def hello(address: tuple[str, int], roots: Path | None) -> Hello:
    """Shakes hands and asks for the headers of `/`.

    Args:
        address: host and port.
        roots: PEM file of the authority to trust; None trusts the system's.

    Raises:
        SiteError: says what about the handshake failed.
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
                return Hello(str(version), expires, _ahead(secured, host))
        except ssl.SSLCertVerificationError as error:
            raise SiteError(_why(error, f"{host}:{port}", roots)) from None
        except (ssl.SSLError, ConnectionError, TimeoutError) as error:
            raise SiteError(
                f"{host}:{port}: it answers, but not in TLS ({error.__class__.__name__})"
            ) from None


def _ahead(secured: ssl.SSLSocket, host: str) -> float | None:
    """From the Date header, to the middle of its second and of the time the question took."""
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


def _why(error: ssl.SSLCertVerificationError, where: str, roots: Path | None) -> str:
    code = error.verify_code
    if code in _NOT_SIGNED:
        trusted = "any authority that the system trusts" if roots is None else str(roots)
        return f"{where}: its certificate was not signed by {trusted}"
    if code in _OTHER_HOST:
        return f"{where}: its certificate is for another name"
    if code in (_EXPIRED, _NOT_YET):
        return f"{where}: its certificate has expired, or is not valid yet by this clock"
    return f"{where}: its certificate is refused ({error.verify_message})"
