from dataclasses import replace

import pytest

from shared.errors import ConfigError, SecureAggregationError, TooFewPartners
from shared.secure_aggregation.messages import Participant
from shared.secure_aggregation.parameters import Parameters
from shared.secure_aggregation.roster import Roster
from tests.shared.secure_aggregation.federation import identity, invitation, names, roster

EIGHT = Parameters.choose(8, 2, 1)


def test_those_on_the_roster_are_counted_on() -> None:
    accepted = roster("p000", names(8), 2).accept(invitation(EIGHT), identity("p000"))
    assert accepted == EIGHT


def test_outsiders_count_as_colluding() -> None:
    """With 2 that may collude and one outsider 6 of 8 are enough, with two outsiders no more."""
    asked = invitation(EIGHT)
    accepted = roster("p000", names(7), 2).accept(asked, identity("p000"))
    assert (accepted.colluding, accepted.honest_survivors) == (3, 4)
    with pytest.raises(
        SecureAggregationError,
        match=r"2 invited outside the roster count as .* not safe.*at least 7",
    ):
        roster("p000", names(6), 2).accept(asked, identity("p000"))


def test_seven_invented_partners_are_refused() -> None:
    own = roster("p000", ["p000", "friend", "other"], 0)
    with pytest.raises(TooFewPartners, match="1 organisations of the roster are invited, and 2"):
        own.accept(invitation(EIGHT), identity("p000"))


def test_a_known_name_with_another_key_is_refused() -> None:
    asked = invitation(EIGHT)
    false = Participant("p003", identity("stranger").public)
    asked = replace(asked, participants=(*asked.participants[:3], false, *asked.participants[4:]))
    with pytest.raises(SecureAggregationError, match="p003 is invited with another") as refused:
        roster("p000", names(8)).accept(asked, identity("p000"))
    assert refused.value.suspect == "p003"


def test_a_known_key_under_another_name_is_refused() -> None:
    asked = invitation(EIGHT)
    false = Participant("zzz", asked.participants[3].key)
    asked = replace(asked, participants=(*asked.participants[:3], *asked.participants[4:], false))
    with pytest.raises(SecureAggregationError, match="key of p003 is invited as zzz"):
        roster("p000", names(8)).accept(asked, identity("p000"))


def test_a_partner_that_is_not_invited_refuses() -> None:
    with pytest.raises(SecureAggregationError, match="other is not among the participants"):
        roster("other", names(8)).accept(invitation(EIGHT), identity("other"))


@pytest.mark.parametrize(
    ("colluding", "fewest", "words"),
    [(1, 2, "needs at least 3 in every sum"), (-1, 3, "at least 2"), (1, 9, "names 7 beside")],
)
def test_a_roster_that_cannot_hold_is_refused(colluding: int, fewest: int, words: str) -> None:
    peers = {name: identity(name).public for name in names(7)}
    with pytest.raises(ConfigError, match=words):
        Roster(peers=peers, colluding=colluding, fewest=fewest)
