"""Whom a partner counts on, by its own site.toml."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from client.site.roster import Peers, Roster
from shared.errors import ConfigError
from shared.secure_aggregation.signing import Identity, public_to_text


def key() -> bytes:
    return Identity(name="", key=ec.generate_private_key(ec.SECP384R1())).public


KEYS = [key() for _ in range(7)]
NAMES = ["Beta", "Gamma", "Delta & Co", "Épsilon", "Zeta", "Eta", "Theta"]


def peers(count: int) -> Peers:
    return Peers(dict(zip(NAMES[:count], KEYS, strict=False)))


def test_only_the_honest_among_the_fewest_count() -> None:
    assert Roster(organisations=8, colluding=2, fewest=7).honest_shares == 5
    assert Roster().honest_shares == 0


@pytest.mark.parametrize(
    ("organisations", "colluding", "fewest"), [(8, 2, 3), (8, 2, 9), (3, 2, 3), (2, 1, 2)]
)
def test_a_sum_that_could_be_one_honest_answer_is_refused(
    organisations: int, colluding: int, fewest: int
) -> None:
    with pytest.raises(ConfigError, match=r"roster\.fewest"):
        Roster(organisations=organisations, colluding=colluding, fewest=fewest)


def test_numbers_follow_from_the_names() -> None:
    roster = Roster(peers=peers(7))
    assert (roster.organisations, roster.colluding, roster.fewest) == (8, 2, 8)
    assert roster.honest_shares == 6
    assert Roster(peers=peers(3)).colluding == 1
    assert Roster(organisations=8, peers=peers(7)) == roster
    assert roster.peers["Delta & Co"] == KEYS[2]
    assert hash(roster) == hash(Roster(peers=peers(7)))


def test_a_number_that_the_names_deny_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"roster\.organisations = 9: .* names 7, .* it is 8"):
        Roster(organisations=9, peers=peers(7))


@pytest.mark.parametrize(
    ("count", "settings", "says"),
    [
        (0, {}, "names no other organisation"),
        (1, {}, "Add peers until there are 4$"),
        (2, {"fewest": 3}, "Add peers until there are 4$"),
        (4, {"colluding": 3}, "until there are 6, or state roster.colluding = 2$"),
        (7, {"fewest": 3}, "from 2 + roster.colluding = 4 to 8"),
        (7, {"fewest": 9}, "from 2 + roster.colluding = 4 to 8"),
    ],
)
def test_a_roster_with_which_nothing_can_be_masked_says_what_would_do(
    count: int, settings: dict[str, int], says: str
) -> None:
    roster = Roster(peers=peers(count), **settings)
    assert roster.honest_shares == 0
    assert says.removesuffix("$") in roster.problem
    assert not says.endswith("$") or roster.problem.endswith(says.removesuffix("$"))


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ({"Beta": KEYS[0], "beta ": KEYS[1]}, "is no name"),
        ({"Beta": KEYS[0], "BETA": KEYS[1]}, "one name in two spellings"),
        ({"Beta": KEYS[0], "Gamma": KEYS[0]}, "'Beta' and 'Gamma' have the same key"),
        ({"two\nlines": KEYS[0]}, "is no name"),
        ({"Beta": b"\x02" + b"\xff" * 48}, "roster.peers.Beta = .* not an aggregation key"),
        ({"Beta": "c2hvcnQ="}, "roster.peers.Beta = 'c2hvcnQ=': not an aggregation key"),
        ({"Beta": "no base64"}, "roster.peers.Beta = 'no base64': not an aggregation key"),
        ({"Beta": 3}, "roster.peers.Beta = 3: not an aggregation key"),
        (3, "takes a table"),
    ],
)
def test_what_is_no_peer_is_refused(table: object, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        Roster(peers=table)  # type: ignore[arg-type]


def test_keys_are_read_as_the_file_has_them() -> None:
    table = {name: public_to_text(key) for name, key in peers(4).items()}
    assert Roster(peers=table).peers == peers(4)  # type: ignore[arg-type]
