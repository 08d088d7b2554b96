"""The coordinator's own certificate authority, and the server certificates that it signs.

Keys are NIST P-384. Partners get the authority's certificate; with it they trust only what this
coordinator signs. Server certificates carry `subjectAltName` and
`extendedKeyUsage=serverAuth`, without which Flower's and Python's clients refuse them.
"""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from shared.errors import ServerError
from shared.system.files import UMASK, write_atomically

__all__ = [
    "AUTHORITY_DAYS",
    "SERVER_DAYS",
    "Authority",
    "check_pair",
    "days_left",
    "file_fingerprint",
    "fingerprint",
    "names_of",
]

AUTHORITY_DAYS, SERVER_DAYS = 3650, 397
"""Validity in days; browsers refuse a server's certificate that is valid for more than 398."""
_SLACK = timedelta(hours=1)
"""How far a partner's clock may be behind."""


@dataclass(frozen=True, slots=True)
class Authority:
    """Signs server certificates.

    Attributes:
        certificate: PEM file of its own certificate.
        key: PEM file of its private key, its owner's alone.
    """

    certificate: Path
    key: Path

    def create(self, name: str) -> None:
        """Create key and certificate.

        Args:
            name: common name in the certificate.
        """
        key = ec.generate_private_key(ec.SECP384R1())
        builder = (
            _builder(name, name, AUTHORITY_DAYS)
            .public_key(key.public_key())
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(signs=True), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)
        )
        write_atomically(self.key, _pem(key))
        signed = builder.sign(key, hashes.SHA384()).public_bytes(Encoding.PEM)
        write_atomically(self.certificate, signed, mode=UMASK)

    def sign(self, names: Sequence[str], certificate: Path, key: Path) -> None:
        """Create a server's key and certificate, and replace existing ones.

        Args:
            names: host names and IP addresses that clients connect to, the main one first.
            certificate: file for the certificate.
            key: file for the private key.

        Raises:
            ServerError: the authority's own files cannot be read, or a name is not valid.
        """
        own, signer = self._load()
        new_key = ec.generate_private_key(ec.SECP384R1())
        days = min(SERVER_DAYS, days_left(own))
        purpose = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])
        identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key())
        builder = (
            _builder(names[0], "", days)
            .issuer_name(own.subject)
            .public_key(new_key.public_key())
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(signs=False), critical=True)
            .add_extension(purpose, critical=False)
            .add_extension(identifier, critical=False)
            .add_extension(
                x509.SubjectAlternativeName([_alternative(name) for name in names]), critical=False
            )
        )
        signed = builder.sign(signer, hashes.SHA384())
        write_atomically(key, _pem(new_key))
        write_atomically(certificate, signed.public_bytes(Encoding.PEM), mode=UMASK)

    def _load(self) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
        try:
            own = x509.load_pem_x509_certificate(self.certificate.read_bytes())
            key = load_pem_private_key(self.key.read_bytes(), None)
        except (OSError, ValueError, TypeError) as error:
            raise ServerError(
                f"the certificate authority cannot be used: {self.certificate} or {self.key} is "
                "missing or damaged. Restore a copy, or set up a new coordinator."
            ) from error
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        return own, key


def fingerprint(certificate: Path) -> str:
    """Return the SHA-256 of a certificate, in hex with colons, as `openssl x509 -fingerprint` does.

    Raises:
        ServerError: it is missing, or is not a certificate.
    """
    digest = _read(certificate).fingerprint(hashes.SHA256())
    return ":".join(f"{byte:02X}" for byte in digest)


def file_fingerprint(file: Path) -> str:
    """Return the SHA-256 of a file's bytes in hex, as `sha256sum` prints it.

    Raises:
        ServerError: it cannot be read.
    """
    try:
        return hashlib.sha256(file.read_bytes()).hexdigest()
    except OSError as error:
        raise ServerError(f"{file}: not readable ({error.strerror}). Check the path.") from error


def names_of(certificate: Path) -> list[str]:
    """Return the host names and IP addresses that a certificate is for.

    Raises:
        ServerError: it is missing, or is not a certificate.
    """
    try:
        extension = _read(certificate).extensions.get_extension_for_class(
            x509.SubjectAlternativeName
        )
    except x509.ExtensionNotFound:
        return []
    return [str(name.value) for name in extension.value]


def days_left(certificate: Path | x509.Certificate) -> int:
    """Return for how many whole days a certificate is still valid; negative if it has expired.

    Raises:
        ServerError: it is missing, or is not a certificate.
    """
    read = _read(certificate) if isinstance(certificate, Path) else certificate
    return (read.not_valid_after_utc - datetime.now(UTC)).days


def check_pair(certificate: Path, key: Path) -> None:
    """Refuse a certificate and a private key that do not belong together.

    Raises:
        ServerError: one is missing or cannot be read, or they do not belong together.
    """
    public = _read(certificate)
    try:
        private = load_pem_private_key(key.read_bytes(), None)
    except OSError as error:
        raise ServerError(f"{key}: not readable ({error.strerror}). Check the path.") from error
    except (ValueError, TypeError):
        # The parser's own message could contain a part of the key.
        raise ServerError(f"{key}: not a private key in PEM form without a passphrase.") from None
    if private.public_key() != public.public_key():
        raise ServerError(f"{certificate} and {key} do not belong together: name the pair.")


def _read(certificate: Path) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(certificate.read_bytes())
    except OSError as error:
        raise ServerError(
            f"{certificate}: not readable ({error.strerror}). Check the path."
        ) from error
    except ValueError as error:
        raise ServerError(f"{certificate}: not a certificate in PEM form.") from error


def _builder(subject: str, issuer: str, days: int) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(_name(subject))
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _SLACK)
        .not_valid_after(now + timedelta(days=days))
    )
    return builder.issuer_name(_name(issuer)) if issuer else builder


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text[:64])])


def _alternative(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        pass
    try:
        return x509.DNSName(name.encode("idna").decode("ascii"))
    except UnicodeError:
        raise ServerError(f"'{name}' is neither a host name nor an IP address.") from None


def _usage(*, signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs,
        key_cert_sign=signs,
        crl_sign=signs,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
