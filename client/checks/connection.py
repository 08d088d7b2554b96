"""Check the certificate, connection and TLS to the coordinator, and that the clocks agree."""

from __future__ import annotations

import socket
from datetime import UTC, datetime, timedelta

from cryptography import x509

from client.checks.base import Check, Facts, Status, Verdict, doubtful, failed, passed
from client.checks.handshake import PATIENCE

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
        found = x509.load_pem_x509_certificates(file.read_bytes())
    except ValueError:
        return failed(f"{file}: no PEM certificate", "Get the file from the coordinator again.")
    ends = min(certificate.not_valid_after_utc for certificate in found)
    starts = max(certificate.not_valid_before_utc for certificate in found)
    if starts > datetime.now(UTC):
        return failed(f"{file}: not valid before {starts:%Y-%m-%d}", "Check this machine's clock.")
    return _until(f"{file}", ends)


def _coordinator(facts: Facts) -> Verdict:
    if not (name := facts.site.coordinator.superlink):
        return doubtful("none is named", "Set coordinator.superlink: `sotto-node up` needs it.")
    host, port = facts.site.coordinator.address
    try:
        socket.create_connection((host, port), timeout=PATIENCE).close()
    except socket.gaierror:
        return failed(
            f"{name}: the name {host} is not known", "Check coordinator.superlink and DNS."
        )
    except OSError as error:
        why = "no answer" if isinstance(error, TimeoutError) else error.strerror or str(error)
        return failed(
            f"{name}: no connection ({why})",
            f"Check coordinator.superlink, and that the firewall lets TCP to port {port} out; ask "
            "the coordinator whether it is up.",
        )
    return passed(f"{name} answers")


def _tls(facts: Facts) -> Verdict:
    if not facts.site.coordinator.superlink:
        return Verdict(Status.SKIPPED, "no coordinator is named")
    found = facts.handshake
    return _until(f"{found.version}, the coordinator's certificate", found.expires)


def _until(what: str, ends: datetime) -> Verdict:
    if ends < datetime.now(UTC):
        return failed(f"{what}: expired on {ends:%Y-%m-%d}", "Get a new one from the coordinator.")
    if ends < datetime.now(UTC) + SOON:
        return doubtful(
            f"{what}: expires on {ends:%Y-%m-%d}", "Ask the coordinator for the next one."
        )
    return passed(f"{what}, valid until {ends:%Y-%m-%d}")


def _clock(facts: Facts) -> Verdict:
    """The ledger's last entry is not from the future."""
    last = datetime.fromisoformat(facts.ledger.history(1)[0].fields["at"])
    now = datetime.now(UTC)
    found = f"{now:%Y-%m-%d %H:%M:%S} UTC"
    if now < last:
        return failed(f"{found}, but the ledger's last entry is of {last:%Y-%m-%d %H:%M:%S}", _NTP)
    return passed(found)


def _difference(facts: Facts) -> Verdict:
    ahead = facts.handshake.clock_ahead
    if ahead is None:
        return passed("not known: the coordinator does not tell the time")
    found = f"{abs(ahead):.0f} s {'behind' if ahead > 0 else 'ahead of'} the coordinator's clock"
    if abs(ahead) > TOLERATED:
        return failed(found, _NTP)
    return doubtful(found, _NTP) if abs(ahead) > DOUBTFUL else passed(found)


CHECKS = (
    Check("clock", _clock, _NTP, ("ledger",)),
    Check("certificate", _certificate, "Check coordinator.root_certificates."),
    Check("coordinator", _coordinator, "", may_be_skipped=True),
    Check("tls", _tls, _TLS, ("certificate", "coordinator")),
    Check("clock difference", _difference, _NTP, ("tls",)),
)
