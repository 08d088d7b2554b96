"""sotto-node peers: keys that partners exchange by themselves."""

from __future__ import annotations

import io
import json
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from client.site.aggregation_key import public_line_of
from shared.secure_aggregation.signing import Identity, fingerprint, public_to_text

if TYPE_CHECKING:
    from tests.client.partner import Partner

NAMES = ("Beta", "Gamma & Söhne", "delta.org")
OTHERS = {n: Identity(name=n, key=ec.generate_private_key(ec.SECP384R1())) for n in NAMES}


@pytest.fixture
def joined(partner: Partner) -> Partner:
    assert partner.init()[0] == 0
    return partner


def peers(partner: Partner, *words: object) -> tuple[int, str, str]:
    return partner.types("peers", *words, "--site", partner.site)


def add(partner: Partner, name: str, *words: object) -> tuple[int, str, str]:
    return peers(partner, "add", name, public_line_of(OTHERS[name]), *words)


def listed(partner: Partner) -> dict[str, Any]:
    code, out, _ = peers(partner, "list", "--json")
    assert code == 0
    roster: dict[str, Any] = json.loads(out)
    return roster


def names(partner: Partner) -> list[str]:
    return [peer["name"] for peer in listed(partner)["peers"]]


def test_what_one_site_prints_another_one_adds(joined: Partner, tmp_path: Path) -> None:
    _, out, _ = peers(joined, "key", "--json")
    own = json.loads(out)
    _, shown, err = peers(joined, "key")
    assert f"public key    {own['public_key']}\n" in shown
    assert f"fingerprint   {own['fingerprint']}\n" in shown
    assert "not through the coordinator" in err
    assert Path(own["file"]).read_text().strip() == own["public_key"]
    other = tmp_path / "other"
    assert joined.types("init", other, *joined.options({"--user-base": "b", "--organisation": "B"}))
    words = ("add", own["organisation"], own["file"], "--fingerprint", own["fingerprint"])
    code, out, err = joined.types("peers", *words, "--site", other)
    assert code == 0, err
    assert own["fingerprint"] in out


def test_a_roster_grows_until_answers_can_be_masked(joined: Partner) -> None:
    text = (joined.site / "site.toml").read_text()
    for count, name in enumerate(NAMES, start=1):
        code, out, _ = add(joined, name, "--yes")
        assert code == 0
        assert ("No answer can be masked yet" in out) == (count < 3)
    assert "4 organisations, of which 1 may collude" in out
    roster = listed(joined)
    assert [peer["name"] for peer in roster["peers"]] == list(NAMES)
    assert roster["honest_shares"] == 3
    assert roster["problem"] is None
    changed = (joined.site / "site.toml").read_text()
    assert set(text.splitlines()) <= set(changed.splitlines())  # every comment is still there
    keys = {name: one.public for name, one in OTHERS.items()}
    assert dict(joined.loaded.roster.peers) == keys


def test_the_same_again_changes_nothing_and_another_key_is_refused(joined: Partner) -> None:
    add(joined, "Beta", "--yes")
    before = (joined.site / "site.toml").read_bytes()
    assert add(joined, "Beta", "--yes")[0] == 0
    key = public_to_text(OTHERS["delta.org"].public)
    code, _, err = peers(joined, "add", "Beta", key, "--yes")
    assert (code, "'Beta' has another key" in err) == (2, True)
    code, _, err = peers(joined, "add", "Gamma", public_to_text(OTHERS["Beta"].public), "--yes")
    assert (code, "'Beta' and 'Gamma' have the same key" in err) == (2, True)
    assert (joined.site / "site.toml").read_bytes() == before


@pytest.mark.parametrize(("answer", "code", "added"), [("y\n", 0, ["Beta"]), ("n\n", 1, [])])
def test_the_fingerprint_is_shown_and_asked_for(
    joined: Partner, answer: str, code: int, added: list[str]
) -> None:
    joined.patch.setattr("sys.stdin", io.StringIO(answer))
    left, _, err = add(joined, "Beta")
    assert left == code
    assert f"Beta: {fingerprint(OTHERS['Beta'].public)}" in err
    assert names(joined) == added


def test_another_fingerprint_than_the_expected_one_is_refused(joined: Partner) -> None:
    expected = fingerprint(OTHERS["Beta"].public)
    code, _, err = add(joined, "Beta", "--yes", "--fingerprint", expected[:-1] + "?")
    assert (code, "Somebody may have put another key" in err) == (2, True)
    assert names(joined) == []
    spelled = expected.upper().replace(" ", ":")
    assert add(joined, "Beta", "--fingerprint", spelled)[0] == 0


def test_neither_the_site_itself_nor_a_wrong_name_is_added(joined: Partner) -> None:
    own = (joined.site / "aggregation_key.pub").read_text()
    for words in (("Beta", own), ("ALPHA books", public_line_of(OTHERS["Beta"]))):
        code, _, err = peers(joined, "add", *words, "--yes")
        assert (code, "the site itself" in err) == (2, True)
    code, _, err = peers(joined, "add", "Betta", public_line_of(OTHERS["Beta"]), "--yes")
    assert (code, "the key of 'Beta', not of 'Betta'" in err) == (2, True)
    assert names(joined) == []


def test_one_that_is_removed_no_longer_counts(joined: Partner) -> None:
    for name in NAMES:
        add(joined, name, "--yes")
    assert peers(joined, "remove", "Beta")[0] == 0
    assert names(joined) == list(NAMES[1:])
    code, _, err = peers(joined, "remove", "Beta")
    assert (code, "it names Gamma & Söhne, delta.org" in err) == (2, True)
    for name in NAMES[1:]:
        peers(joined, "remove", name)
    assert "\n[roster.peers]" not in (joined.site / "site.toml").read_text()
    assert add(joined, "Beta", "--yes")[0] == 0


def test_an_old_site_gets_its_key_by_the_first_command(joined: Partner) -> None:
    for name in ("aggregation_key", "aggregation_key.pub"):
        (joined.site / name).unlink()
    assert listed(joined)["fingerprint"] == listed(joined)["fingerprint"]
    assert stat.S_IMODE((joined.site / "aggregation_key").stat().st_mode) == 0o600


def test_a_file_written_by_hand_keeps_its_form_and_its_access(joined: Partner) -> None:
    file = joined.site / "site.toml"
    lines = "[roster.peers] # by telephone\n" + "".join(
        f"'{name}' = '{public_to_text(OTHERS[name].public)}' # {name}'s\n" for name in NAMES[:2]
    )
    file.write_text(file.read_text() + lines)
    file.chmod(0o640)
    if os.geteuid() == 0:
        os.chown(file, 1234, 1235)
    owner = file.stat().st_uid, file.stat().st_gid
    assert add(joined, "delta.org", "--yes")[0] == 0
    assert lines in file.read_text()
    assert stat.S_IMODE(file.stat().st_mode) == 0o640
    assert (file.stat().st_uid, file.stat().st_gid) == owner


def test_a_file_that_would_not_be_valid_stays_as_it_is(joined: Partner) -> None:
    joined.edit("# organisations = 8", "organisations = 4")
    joined.edit("# fewest = 8", "fewest = 4")
    before = (joined.site / "site.toml").read_bytes()
    code, _, err = add(joined, "Beta", "--yes")
    assert code == 2
    assert "roster.organisations = 4: [roster.peers] names 1, so with this site it is 2" in err
    assert (joined.site / "site.toml").read_bytes() == before
