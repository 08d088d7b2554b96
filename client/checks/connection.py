"""Check the way to the coordinator: certificate, connection, TLS, clocks, and the key's acceptance.

What is found here depends on no user, so `up` may print it.
"""

from __future__ import annotations

import socket
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes

from client.checks.base import Check, Facts, Status, Verdict, doubtful, failed, passed
from client.checks.handshake import PATIENCE
from client.site.keys import public_file
from client.site.proxies import proxy_for
from shared.errors import SiteError

__all__ = ["CHECKS"]

SOON = timedelta(days=30)
TOLERATED, DOUBTFUL = 300.0, 30.0
"""Seconds between the clocks. Flower refuses a signature that is 305 s old."""
_NTP = "Set the clock, and keep it right with NTP: signatures carry the time."
_TLS = (
    "Compare coordinator.root_certificates and coordinator.superlink with what the coordinator "
    "gave you, over another channel: somebody else may be answering."
)


def _certificate(facts: Facts) -> Verdict:
    file = facts.site.root_certificates_file
    if file is None:
        return passed("the authorities that the system trusts")
    try:
        certificates = x509.load_pem_x509_certificates(file.read_bytes())
    except ValueError:
        return failed(f"{file}: no PEM certificate", "Get the file from the coordinator again.")
    ends = min(certificate.not_valid_after_utc for certificate in certificates)
    starts = max(certificate.not_valid_before_utc for certificate in certificates)
    if starts > datetime.now(UTC):
        return failed(f"{file}: not valid before {starts:%Y-%m-%d}", "Check this machine's clock.")
    digest = ":".join(f"{byte:02X}" for byte in certificates[0].fingerprint(hashes.SHA256()))
    return _until(f"{file}, SHA-256 of the certificate {digest}", ends)


def _coordinator(facts: Facts) -> Verdict:
    if not (name := facts.site.coordinator.superlink):
        return doubtful("none is named", "Set coordinator.superlink: `sotto-node up` needs it.")
    host, port = facts.site.coordinator.address
    if proxy := proxy_for(host, port):
        if why := _connection_problem(proxy.host, proxy.port):
            return failed(
                f"{name}: the HTTP proxy {proxy} cannot be reached ({why})", _bypass(host)
            )
        return passed(f"{name}, through the HTTP proxy {proxy}")
    try:
        why = _connection_problem(host, port)
    except socket.gaierror:
        return failed(
            f"{name}: the name {host} is not known", "Check coordinator.superlink and DNS."
        )
    if why:
        return failed(
            f"{name}: no connection ({why})",
            f"Check coordinator.superlink, and that the firewall lets TCP to port {port} out; ask "
            "the coordinator whether it is up.",
        )
    return passed(f"{name} answers")


def _connection_problem(host: str, port: int) -> str:
    """Return why no TCP connection can be made; "" if one can.

    Raises:
        socket.gaierror: the name is not known.
    """
    try:
        socket.create_connection((host, port), timeout=PATIENCE).close()
    except socket.gaierror:
        raise
    except OSError as error:
        return "no answer" if isinstance(error, TimeoutError) else error.strerror or str(error)
    return ""


def _bypass(host: str) -> str:
    return (
        f"If {host} is to be reached without the proxy: export NO_PROXY={host}, also for the "
        "service that runs `sotto-node up`. Otherwise ask whoever runs the proxy to let "
        "connections to the coordinator through."
    )


def _tls(facts: Facts) -> Verdict:
    if not facts.site.coordinator.superlink:
        return Verdict(Status.SKIPPED, "no coordinator is named")
    try:
        handshake = facts.handshake
    except SiteError as error:
        host, port = facts.site.coordinator.address
        if proxy := proxy_for(host, port):
            return failed(f"{error}, through the HTTP proxy {proxy}", _bypass(host))
        raise
    return _until(f"{handshake.version}, the coordinator's certificate", handshake.expires)


def _accepted(facts: Facts) -> Verdict:
    from client.checks.registration import Registration, ask_registration  # noqa: PLC0415 loads Flower

    site, name = facts.site, facts.site.coordinator.superlink
    if not name:
        return Verdict(Status.SKIPPED, "no coordinator is named")
    try:
        registration = ask_registration(name, site.root_certificates_file, site.key_file)
    except SiteError as error:
        return doubtful(f"{name} was asked, and {error}", "Ask the coordinator whether it is up.")
    if registration is Registration.UNKNOWN_KEY:
        return doubtful(
            "the coordinator has not accepted this node's key",
            f"Send {public_file(site.key_file)} to the coordinator and ask for accept. "
            "`sotto-node up` tries again until then.",
        )
    if registration is Registration.BAD_SIGNATURE:
        return failed("the coordinator refuses this node's signature", _NTP)
    if registration is Registration.OTHER_SERVICE:
        return failed(
            f"{name} is not the coordinator's port for partners: it serves something else, such "
            "as administrators",
            "Set coordinator.superlink to the address in the coordinator's invitation.",
        )
    return passed("the coordinator has accepted this node's key")


def _until(what: str, ends: datetime) -> Verdict:
    if ends < datetime.now(UTC):
        return failed(f"{what}: expired on {ends:%Y-%m-%d}", "Get a new one from the coordinator.")
    if ends < datetime.now(UTC) + SOON:
        return doubtful(
            f"{what}: expires on {ends:%Y-%m-%d}", "Ask the coordinator for the next one."
        )
    return passed(f"{what}, valid until {ends:%Y-%m-%d}")


def _clock(facts: Facts) -> Verdict:
    """Check that the ledger's last entry is not from the future."""
    last = datetime.fromisoformat(facts.ledger.history(1)[0].fields["at"])
    now = datetime.now(UTC)
    now_text = f"{now:%Y-%m-%d %H:%M:%S} UTC"
    if now < last:
        return failed(
            f"{now_text}, but the ledger's last entry is of {last:%Y-%m-%d %H:%M:%S}", _NTP
        )
    return passed(now_text)


def _difference(facts: Facts) -> Verdict:
    ahead = facts.handshake.clock_ahead
    if ahead is None:
        return passed("not compared: the coordinator's answer holds no time")
    difference = (
        f"{abs(ahead):.0f} s {'behind' if ahead > 0 else 'ahead of'} the coordinator's clock"
    )
    if abs(ahead) > TOLERATED:
        return failed(difference, _NTP)
    return doubtful(difference, _NTP) if abs(ahead) > DOUBTFUL else passed(difference)


CHECKS = (
    Check("clock", _clock, _NTP, ("ledger",)),
    Check("certificate", _certificate, "Check coordinator.root_certificates."),
    Check("coordinator", _coordinator, "", may_be_skipped=True),
    Check("tls", _tls, _TLS, ("certificate", "coordinator")),
    Check("clock difference", _difference, _NTP, ("tls",)),
    Check("accepted", _accepted, "Check coordinator.key.", ("key", "tls")),
)
