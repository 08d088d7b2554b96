"""Who was invited, accepted, revoked: one state at a time, and no key twice."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from server.state.partners import FILE, PartnerRegistry, PartnerState, read_key
from shared.errors import ServerError


@pytest.fixture
def registry(tmp_path: Path) -> PartnerRegistry:
    return PartnerRegistry(tmp_path)


def line(curve: ec.EllipticCurve | None = None) -> str:
    key = ec.generate_private_key(curve or ec.SECP384R1())
    return key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()


def test_the_states_follow_each_other(registry: PartnerRegistry, tmp_path: Path) -> None:
    registry.invite("Bücher & Co")
    registry.check_key("Bücher & Co", "k")
    assert registry.accept("Bücher & Co", key="k", node="7").state is PartnerState.ACCEPTED
    assert registry.accepted("Bücher & Co").node == "7"
    revoked = registry.revoke("Bücher & Co")
    assert (revoked.state, revoked.node, revoked.key) == (PartnerState.REVOKED, "7", "k")
    registry.invite("Bücher & Co")
    assert [(m.name, m.state) for m in PartnerRegistry(tmp_path).all()] == [
        ("Bücher & Co", PartnerState.INVITED)
    ]
    assert (tmp_path / FILE).stat().st_mode & 0o777 == 0o600


def test_out_of_turn_nothing_happens(registry: PartnerRegistry) -> None:
    with pytest.raises(ServerError, match="'A' is not invited: first sotto-server invite"):
        registry.check_key("A", "k")
    with pytest.raises(ServerError, match="'A' is not known"):
        registry.revoke("A")
    registry.invite("A")
    with pytest.raises(ServerError, match="'A' is invited already"):
        registry.invite("A")
    with pytest.raises(ServerError, match="'A' is invited, not accepted"):
        registry.accepted("A")
    registry.accept("A", key="k", node="1")
    with pytest.raises(ServerError, match="'A' is accepted, not invited"):
        registry.check_key("A", "k")
    registry.invite("B")
    with pytest.raises(ServerError, match="this key belongs to A"):
        registry.check_key("B", "k")
    registry.revoke("A")
    with pytest.raises(ServerError, match="this key was revoked"):
        registry.check_key("B", "k")
    registry.check_key("B", "another")
    with pytest.raises(ServerError, match="'A' is revoked already"):
        registry.revoke("A")


@pytest.mark.parametrize("name", ["", " ", " a", "a\nb", "a\x1b[0m", "x" * 101])
def test_names_can_be_shown(registry: PartnerRegistry, name: str) -> None:
    with pytest.raises(ServerError, match="printable characters"):
        registry.invite(name)
    assert registry.all() == []


@pytest.mark.parametrize("text", ["{", "[1]", '[{"name": "a"}]', '[{"name": "a", "state": "x"}]'])
def test_a_damaged_record_is_said_to_be(
    registry: PartnerRegistry, tmp_path: Path, text: str
) -> None:
    (tmp_path / FILE).write_text(text)
    with pytest.raises(ServerError, match="restore a copy"):
        registry.all()
    with pytest.raises(ServerError, match="restore a copy"):
        registry.invite("new")
    assert (tmp_path / FILE).read_text() == text


def test_a_key_is_read_from_a_line_or_a_file(tmp_path: Path) -> None:
    given = line()
    (tmp_path / "k.pub").write_text(given + " somebody@home\n")
    assert read_key(given) == read_key(str(tmp_path / "k.pub")) == read_key(f"  {given} x ")
    plain, digest = read_key(given)
    assert plain.decode() == given
    assert len(digest) == 64


def test_other_keys_are_refused_and_private_ones_not_repeated(tmp_path: Path) -> None:
    for other in (line(ec.SECP256R1()), "ecdsa-sha2-nistp384 AAAA", "ssh-rsa AAAA"):
        with pytest.raises(ServerError, match="not a public P-384 key"):
            read_key(other)
    private = ec.generate_private_key(ec.SECP384R1()).private_bytes(
        Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()
    )
    (tmp_path / "node_key").write_bytes(private)
    with pytest.raises(ServerError, match="which is private") as refused:
        read_key(str(tmp_path / "node_key"))
    assert private.decode().splitlines()[1] not in str(refused.value)
    with pytest.raises(ServerError, match="not readable"):
        read_key(str(tmp_path / "none"))


def test_an_aggregation_key_stays_with_the_record(tmp_path: Path) -> None:
    registry = PartnerRegistry(tmp_path)
    registry.invite("alpha")
    before = registry.accept("alpha", key="k1", node="3")
    registry.keep_aggregation_key("alpha", "A" * 68)
    registry.keep_aggregation_key("unknown", "B" * 68)
    (member,) = registry.all()
    assert member == replace(before, aggregation_key="A" * 68)
    written = (tmp_path / FILE).stat().st_mtime_ns
    registry.keep_aggregation_key("alpha", "A" * 68)
    assert (tmp_path / FILE).stat().st_mtime_ns == written


def test_a_revoked_partner_comes_back_with_another_key(tmp_path: Path) -> None:
    registry = PartnerRegistry(tmp_path)
    for key, node in (("k1", "1"), ("k2", "2")):
        registry.invite("alpha")
        registry.check_key("alpha", key)
        registry.accept("alpha", key=key, node=node)
        registry.revoke("alpha")
    registry.invite("alpha")
    registry.invite("beta")
    for name in ("alpha", "beta"):
        for key in ("k1", "k2"):
            with pytest.raises(ServerError, match="was revoked, and Flower registers no key twice"):
                registry.check_key(name, key)
    registry.check_key("alpha", "k3")
    assert registry.accept("alpha", key="k3", node="3").revoked_keys == ("k1", "k2")
    assert registry.names_by_node() == {3: "alpha"}
