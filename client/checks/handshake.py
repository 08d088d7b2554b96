"""A TLS handshake with the coordinator, which shows its certificate and its clock.

It takes the way that Flower's client takes: the same library, the same proxies, the same trust.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

import httpx

from client.site.proxies import loopback_bypassed
from shared.errors import SiteError
from shared.system.address import Address

__all__ = ["PATIENCE", "Handshake", "shake_hands"]

PATIENCE = 5.0
"""Seconds to wait for the coordinator."""
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
        SiteError: there is no connection, or the handshake failed; the message says why.
        OSError: `roots` is not readable.
    """
    where = Address(*address)
    context = _context(roots)
    before = datetime.now(UTC).timestamp()
    try:
        with loopback_bypassed(), httpx.Client(verify=context, timeout=PATIENCE) as client:
            before = datetime.now(UTC).timestamp()
            with client.stream("HEAD", f"https://{where}/") as response:
                secured = response.extensions["network_stream"].get_extra_info("ssl_object")
                return _read(response, secured, before)
    except httpx.ProxyError as error:
        raise SiteError(
            f"{where}: the HTTP proxy did not let the connection through ({error})"
        ) from None
    except httpx.TransportError as error:
        raise SiteError(_reason(error, str(where), roots)) from None


def _context(roots: Path | None) -> ssl.SSLContext:
    """Return what Flower's client trusts."""
    if roots is None:
        return httpx.create_ssl_context()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=roots.read_text(encoding="ascii"))
    return context


def _read(response: httpx.Response, secured: Any, before: float) -> Handshake:  # noqa: ANN401 ssl's
    certificate = secured.getpeercert() or {}
    expires = datetime.fromtimestamp(ssl.cert_time_to_seconds(str(certificate["notAfter"])), UTC)
    return Handshake(str(secured.version()), expires, _clock_ahead(response, before))


def _clock_ahead(response: httpx.Response, before: float) -> float | None:
    """Return the seconds that the Date header is ahead of our clock.

    Both are taken in their middle: of the second that the header names, and of the round trip.
    """
    now = (before + datetime.now(UTC).timestamp()) / 2
    try:
        return parsedate_to_datetime(response.headers["date"]).timestamp() + 0.5 - now
    except (KeyError, ValueError):
        return None


def _reason(error: httpx.TransportError, where: str, roots: Path | None) -> str:
    """Return why there is no handshake, from the first cause that says so."""
    causes = list(_causes(error))
    for cause in causes:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return _refused_certificate(cause, where, roots)
    if isinstance(error, httpx.RemoteProtocolError):
        return f"{where}: something answers in TLS, but not in HTTP"
    kinds = [type(cause).__name__ for cause in causes if isinstance(cause, OSError)]
    return f"{where}: something answers, but not in TLS ({kinds[0] if kinds else error})"


def _causes(error: BaseException) -> list[BaseException]:
    causes: list[BaseException] = []
    current: BaseException | None = error
    while current is not None and current not in causes:
        causes.append(current)
        current = current.__cause__ or current.__context__
    return causes


def _refused_certificate(
    error: ssl.SSLCertVerificationError, where: str, roots: Path | None
) -> str:
    code = error.verify_code
    if code in _NOT_SIGNED:
        trusted = "any authority that the system trusts" if roots is None else str(roots)
        return f"{where}: its certificate was not signed by {trusted}"
    if code in _OTHER_HOST:
        return f"{where}: its certificate is for another name"
    if code in (_EXPIRED, _NOT_YET):
        return f"{where}: its certificate has expired, or is not valid yet by this clock"
    return f"{where}: its certificate is refused ({error.verify_message})"
