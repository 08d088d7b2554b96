"""The key that a site signs with under secure aggregation, and what the protocol gets of it."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from client.site.aggregation_key import (
    key_file,
    load_identity,
    make_aggregation_key,
    protocol_roster,
    public_line_of,
    read_public,
)
from client.site.keys import make_key, public_file
from client.site.site import Site
from shared.errors import ConfigError, SiteError
from shared.secure_aggregation.signing import Identity, fingerprint, is_signature, public_to_text

if TYPE_CHECKING:
    from tests.conftest import Sites


def identity(name: str) -> Identity:
    return Identity(name=name, key=ec.generate_private_key(ec.SECP384R1()))


OTHERS = [identity(name) for name in ("Beta", "Gamma", "Password & Co", "delta.org")]


@pytest.fixture
def site(sites: Sites) -> Site:
    return with_peers(sites.make("alpha"), OTHERS)


def with_peers(folder: Path, others: list[Identity], name: str = "") -> Site:
    """Write [roster.peers] as the command does."""
    lines = [f"{json.dumps(name or one.name)} = '{public_to_text(one.public)}'" for one in others]
    with (folder / "site.toml").open("a", encoding="utf-8") as file:
        file.write("\n".join(["", "[roster.peers]", *lines, ""]))
    return Site.load(folder)


def test_the_key_is_made_once_and_is_its_owners_alone(site: Site) -> None:
    made = make_aggregation_key(site)
    file = key_file(site)
    assert file.read_bytes().startswith(b"-----BEGIN")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    before = file.read_bytes()
    public_file(file).unlink()
    assert make_aggregation_key(site).public == made.public
    assert file.read_bytes() == before
    line = public_file(file).read_text().strip()
    assert line == public_line_of(made)
    assert is_signature(read_public(line)[0], b"text", load_identity(site).sign(b"text"))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away")
def test_the_key_that_root_makes_is_the_executor_users(sites: Sites) -> None:
    site = Site.load(sites.make("alpha", {"node.executor_user": "nobody"}))
    make_aggregation_key(site)
    assert key_file(site).stat().st_uid != 0
    assert stat.S_IMODE(key_file(site).stat().st_mode) == 0o600


def test_without_a_key_the_command_that_makes_one_is_named(site: Site) -> None:
    with pytest.raises(SiteError, match="sotto-node peers key"):
        load_identity(site)


def test_the_protocol_gets_the_sites_own_roster(site: Site) -> None:
    make_aggregation_key(site)
    roster = protocol_roster(site)
    assert roster.peers == {one.name: one.public for one in OTHERS}
    assert (roster.colluding, roster.fewest) == (1, 5)


@pytest.mark.parametrize("others", [[], OTHERS[:2]])
def test_no_roster_no_masks(sites: Sites, others: list[Identity]) -> None:
    site = with_peers(sites.make("alpha"), others)
    make_aggregation_key(site)
    with pytest.raises(ConfigError, match=r"\[roster\]"):
        protocol_roster(site)


def test_counts_alone_still_load_and_mask_nothing(sites: Sites) -> None:
    counts = {"roster.organisations": 8, "roster.colluding": 2, "roster.fewest": 7}
    site = Site.load(sites.make("alpha", counts))
    make_aggregation_key(site)
    assert site.roster.honest_shares == 5
    with pytest.raises(ConfigError, match="names no organisation"):
        protocol_roster(site)


def test_the_own_key_is_no_peers(sites: Sites) -> None:
    folder = sites.make("alpha")
    own = make_aggregation_key(Site.load(folder))
    site = with_peers(folder, [*OTHERS[:3], Identity(name="Delta", key=own.key)])
    with pytest.raises(SiteError, match=r"roster\.peers\.Delta is this site's own"):
        protocol_roster(site)


def test_the_own_name_is_no_peers(sites: Sites) -> None:
    folder = sites.make("alpha")
    with pytest.raises(SiteError, match="this site's own name"):
        with_peers(folder, OTHERS[:1], name=Site.load(folder).organisation.upper())


def test_a_public_key_is_read_in_each_of_its_forms(tmp_path: Path) -> None:
    one = OTHERS[0]
    line = public_line_of(one)
    (tmp_path / "key.pub").write_text(f"{line}\n")
    for form in (line, f"  {line}\n", str(tmp_path / "key.pub")):
        assert read_public(form) == (one.public, "Beta")
    assert read_public(public_to_text(one.public)) == (one.public, "")


def test_a_nodes_key_is_not_taken_for_one(tmp_path: Path) -> None:
    make_key(tmp_path / "node_key")
    with pytest.raises(ConfigError, match="a node's key"):
        read_public(str(tmp_path / "node_key.pub"))


@pytest.mark.parametrize("text", ["nowhere.pub", "ecdsa-sha2-nistp384 AAAA", "ssh-ed25519 AAAA x"])
def test_what_is_no_key_is_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        read_public(text)


def test_a_private_key_is_refused_without_repeating_it(tmp_path: Path) -> None:
    make_key(tmp_path / "key")
    secret = (tmp_path / "key").read_text().splitlines()[1]
    with pytest.raises(ConfigError, match="this is a private key") as refused:
        read_public(str(tmp_path / "key"))
    assert secret[:20] not in str(refused.value)


def test_fingerprints_differ_and_can_be_read_aloud() -> None:
    texts = {fingerprint(one.public) for one in OTHERS}
    assert len(texts) == len(OTHERS)
    assert all(len(text.split()) == 8 for text in texts)
