"""A certificate authority of the test's own, and a server that shows what it signed."""

from __future__ import annotations

import ipaddress
import re
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

YEAR = 365


@dataclass(frozen=True)
class Authority:
    """Signs certificates for servers on 127.0.0.1.

    Attributes:
        folder: where it puts its files.
        days: for how long its own certificate is valid, from two days ago.
        key: its private key.
    """

    folder: Path
    days: float = YEAR
    key: ec.EllipticCurvePrivateKey = field(
        default_factory=lambda: ec.generate_private_key(ec.SECP256R1())
    )

    @property
    def certificate(self) -> Path:
        """Its own certificate."""
        file = self.folder / "ca.crt"
        if not file.exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            built = self._builder("The test's own authority", self.days, self.key.public_key())
            ca = x509.BasicConstraints(ca=True, path_length=None)
            usage = x509.KeyUsage(
                digital_signature=True,
                key_cert_sign=True,
                crl_sign=True,
                content_commitment=False,
                key_encipherment=False,
                data_encipherment=False,
                key_agreement=False,
                encipher_only=False,
                decipher_only=False,
            )
            built = built.add_extension(ca, critical=True).add_extension(usage, critical=True)
            file.write_bytes(self._signed(built))
        return file

    def server(
        self, days: float = YEAR, address: str = "127.0.0.1", *, client: bool = False
    ) -> tuple[Path, Path]:
        """A server's certificate and its key, or a client's."""
        _ = self.certificate
        purpose = ExtendedKeyUsageOID.CLIENT_AUTH if client else ExtendedKeyUsageOID.SERVER_AUTH
        key = ec.generate_private_key(ec.SECP256R1())
        names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(address))])
        built = (
            self._builder("coordinator", days, key.public_key())
            .add_extension(names, critical=False)
            .add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
        )
        stem = f"{'client' if client else 'server'}-{days:g}-{address}"
        certificate, private = self.folder / f"{stem}.pem", self.folder / f"{stem}.key"
        certificate.write_bytes(self._signed(built))
        private.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        return certificate, private

    def _builder(
        self, name: str, days: float, key: ec.EllipticCurvePublicKey
    ) -> x509.CertificateBuilder:
        start = datetime.now(UTC) - timedelta(days=2)
        ours = self.key.public_key()
        return (
            x509.CertificateBuilder()
            .subject_name(_named(name))
            .issuer_name(_named("The test's own authority"))
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(start)
            .not_valid_after(start + timedelta(days=2 + days))
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ours), critical=False)
        )

    def _signed(self, built: x509.CertificateBuilder) -> bytes:
        return built.sign(self.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


ACCEPTED = (400, '{"code": 2003, "detail": "Invalid heartbeat interval"}')
"""What Flower's SuperLink answers to the question whether a key is registered: it is."""
NOT_ACCEPTED = (400, '{"code": 2004, "detail": "SuperNode activation failed"}')
"""And here it is not."""


@contextmanager
def serving(
    files: tuple[Path, Path] | None, ahead: float = 0.0, registration: tuple[int, str] = ACCEPTED
) -> Iterator[str]:
    """A server at the address it yields, with a clock that is `ahead` seconds ahead.

    Without certificate and key it speaks, but not TLS. It answers `registration` to a node.
    """
    listener = socket.create_server(("127.0.0.1", 0))
    context = None
    if files is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*files)
    thread = threading.Thread(
        target=_serve, args=(listener, context, ahead, registration), daemon=True
    )
    thread.start()
    try:
        yield f"127.0.0.1:{listener.getsockname()[1]}"
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(5)


def _serve(
    listener: socket.socket,
    context: ssl.SSLContext | None,
    ahead: float,
    registration: tuple[int, str],
) -> None:
    while True:
        try:
            plain, _ = listener.accept()
        except OSError:
            return
        with suppress(OSError), plain:
            plain.settimeout(5)
            if context is None:
                plain.sendall(b"220 mail.example ESMTP\r\n")
                continue
            with context.wrap_socket(plain, server_side=True) as secured:
                request = _read_request(secured)
                status, body = (404, "")
                if request.startswith(b"POST /v1/fleet/activate-node "):
                    status, body = registration
                now = format_datetime(datetime.now(UTC) + timedelta(seconds=ahead), usegmt=True)
                head = f"HTTP/1.1 {status} .\r\nDate: {now}\r\nContent-Length: {len(body)}\r\n"
                secured.sendall(f"{head}Connection: close\r\n\r\n{body}".encode())


def _read_request(secured: ssl.SSLSocket) -> bytes:
    """Read head and body: what is left unread would reset the connection."""
    request = b""
    while b"\r\n\r\n" not in request and (more := secured.recv(4096)):
        request += more
    head, _, body = request.partition(b"\r\n\r\n")
    length = re.search(rb"content-length: *(\d+)", head.lower())
    while length and len(body) < int(length[1]) and (more := secured.recv(4096)):
        body += more
    return head
