"""Certificates that clients accept, and others that they do not."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from server.service.certificates import (
    AUTHORITY_DAYS,
    SERVER_DAYS,
    Authority,
    check_pair,
    days_left,
    fingerprint,
    names_of,
)
from shared.errors import ServerError


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    made = Authority(tmp_path / "ca.crt", tmp_path / "ca.key")
    made.create("The test's coordinator")
    return made


def sign(authority: Authority, folder: Path, *names: str) -> tuple[Path, Path]:
    certificate, key = folder / "server.crt", folder / "server.key"
    authority.sign(names, certificate, key)
    return certificate, key


def handshake(pair: tuple[Path, Path], authority: Path, host: str) -> None:
    """A TLS handshake in memory, as Python's own client does it."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(*pair)
    client = ssl.create_default_context(cafile=authority)
    a, b = ssl.MemoryBIO(), ssl.MemoryBIO()
    ours = client.wrap_bio(a, b, server_hostname=host)
    theirs = server.wrap_bio(b, a, server_side=True)
    done: set[ssl.SSLObject] = set()
    while len(done) < 2:
        for side in (ours, theirs):
            try:
                side.do_handshake()
                done.add(side)
            except ssl.SSLWantReadError:
                pass


@pytest.mark.parametrize("host", ["sotto.example", "192.0.2.7", "2001:db8::1"])
def test_a_client_accepts_what_was_signed(authority: Authority, tmp_path: Path, host: str) -> None:
    pair = sign(authority, tmp_path, "sotto.example", "192.0.2.7", "2001:db8::1")
    handshake(pair, authority.certificate, host)


def test_a_client_refuses_another_name_and_another_authority(
    authority: Authority, tmp_path: Path
) -> None:
    pair = sign(authority, tmp_path, "sotto.example")
    with pytest.raises(ssl.SSLCertVerificationError, match=r"not valid for 'other\.example'"):
        handshake(pair, authority.certificate, "other.example")
    stranger = Authority(tmp_path / "x.crt", tmp_path / "x.key")
    stranger.create("Somebody else")
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(pair, stranger.certificate, "sotto.example")


def test_a_servers_certificate_signs_nothing(authority: Authority, tmp_path: Path) -> None:
    certificate, key = sign(authority, tmp_path, "sotto.example")
    Authority(certificate, key).sign(["evil.example"], tmp_path / "e.crt", tmp_path / "e.key")
    chain = (tmp_path / "e.crt").read_bytes() + certificate.read_bytes()
    (tmp_path / "e.crt").write_bytes(chain)
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake((tmp_path / "e.crt", tmp_path / "e.key"), authority.certificate, "evil.example")


def test_what_a_certificate_says(authority: Authority, tmp_path: Path) -> None:
    certificate, _ = sign(authority, tmp_path, "bücher.example", "127.0.0.1")
    found = x509.load_pem_x509_certificate(certificate.read_bytes())
    usage = found.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [ExtendedKeyUsageOID.SERVER_AUTH]
    assert names_of(certificate) == ["xn--bcher-kva.example", "127.0.0.1"]
    assert SERVER_DAYS - 1 <= days_left(certificate) <= SERVER_DAYS
    assert AUTHORITY_DAYS - 1 <= days_left(authority.certificate) <= AUTHORITY_DAYS
    assert found.not_valid_before_utc < datetime.now(UTC)
    assert len(fingerprint(certificate).split(":")) == 32


def test_private_keys_are_their_owners_alone(authority: Authority, tmp_path: Path) -> None:
    _, key = sign(authority, tmp_path, "a.example")
    assert {file.stat().st_mode & 0o777 for file in (key, authority.key)} == {0o600}
    key.chmod(0o644)
    sign(authority, tmp_path, "a.example")
    assert key.stat().st_mode & 0o777 == 0o600
    assert [file.name for file in tmp_path.iterdir() if file.name.startswith(".")] == []


def test_pairs_that_do_not_fit_are_refused(authority: Authority, tmp_path: Path) -> None:
    certificate, key = sign(authority, tmp_path, "a.example")
    check_pair(certificate, key)
    with pytest.raises(ServerError, match="do not belong together"):
        check_pair(certificate, authority.key)
    with pytest.raises(ServerError, match="not readable"):
        check_pair(certificate, tmp_path / "none")
    with pytest.raises(ServerError, match="not a private key"):
        check_pair(certificate, certificate)
    with pytest.raises(ServerError, match="not a certificate"):
        check_pair(key, key)


def test_an_authority_that_is_damaged_signs_nothing(authority: Authority, tmp_path: Path) -> None:
    authority.key.write_text("nonsense")
    with pytest.raises(ServerError, match=r"ca\.key is missing or damaged"):
        sign(authority, tmp_path, "a.example")


def test_a_name_that_is_none_is_refused(authority: Authority, tmp_path: Path) -> None:
    with pytest.raises(ServerError, match="neither a host name nor an IP address"):
        sign(authority, tmp_path, "a" * 70 + ".example")
