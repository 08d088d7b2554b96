"""The fault of an expired certificate."""

from __future__ import annotations

import ssl
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key

from simulations.faults.deployment import Deployment
from simulations.faults.injection import finished_rounds

__all__ = ["expire_certificate"]

LIFE = 60.0
"""Seconds that the short-lived certificate is valid."""


def expire_certificate(deployment: Deployment) -> str:
    """Let the coordinator's public certificate expire while all runs, and renew it later."""
    deployment.down("server")
    ends = _shorten(deployment.server, timedelta(seconds=LIFE))
    deployment.up_server()
    time.sleep(max(0.0, (ends - datetime.now(UTC)).total_seconds()) + 1.0)
    with deployment.link.cut():  # every node has to connect again
        time.sleep(1.0)
    before = finished_rounds(deployment)
    time.sleep(30.0)
    assert finished_rounds(deployment) == before, "a node accepted the expired certificate"
    tls_error = _refusal_of_tls(deployment)
    deployment.down("server")
    assert "has expired" in _refusal_of(deployment, "server", "up", "--server", deployment.server)
    deployment.call("server", "renew", "--server", deployment.server)
    deployment.up_server()
    return f"nodes: {tls_error}; `up` refuses until `renew`; renewed after 30 s"


def _shorten(folder: Path, life: timedelta) -> datetime:
    """Sign the coordinator's public certificate again with a short life, and return its end."""
    old = x509.load_pem_x509_certificate((folder / "server.crt").read_bytes())
    signer = load_pem_private_key((folder / "ca.key").read_bytes(), None)
    assert isinstance(signer, ec.EllipticCurvePrivateKey)
    ends = datetime.now(UTC) + life
    builder = x509.CertificateBuilder(
        issuer_name=old.issuer,
        subject_name=old.subject,
        public_key=old.public_key(),
        serial_number=x509.random_serial_number(),
        not_valid_before=old.not_valid_before_utc.replace(tzinfo=None),
        not_valid_after=ends.replace(tzinfo=None, microsecond=0),
        extensions=[*old.extensions],
    )
    signed = builder.sign(signer, hashes.SHA384())
    (folder / "server.crt").write_bytes(signed.public_bytes(Encoding.PEM))
    return ends


def _refusal_of(deployment: Deployment, *command: object) -> str:
    """Return the error of a command that must fail."""
    try:
        deployment.call(*map(str, command))
    except RuntimeError as error:
        return str(error)
    raise AssertionError(f"{command[1]} was not refused")


def _refusal_of_tls(deployment: Deployment) -> str:
    """Return the error of a client with the partners' root certificate."""
    context = ssl.create_default_context(cafile=str(deployment.server / "ca.crt"))
    try:
        httpx.get(f"https://localhost:{deployment.link.port}/", verify=context, timeout=20)
    except httpx.ConnectError as error:
        if (expected := "certificate has expired") in str(error):
            return expected
        raise
    raise AssertionError("the expired certificate is accepted")
