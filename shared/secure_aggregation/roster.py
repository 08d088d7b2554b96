"""Whom a partner believes in, and what it therefore asks of a round.

A coordinator may invent partners. So a partner counts on those alone whose names and keys it has
from elsewhere: everybody else that is invited counts as colluding with the coordinator.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from shared.errors import ConfigError, SecureAggregationError, TooFewPartners
from shared.secure_aggregation.encoding import require
from shared.secure_aggregation.messages import Invitation
from shared.secure_aggregation.parameters import Parameters
from shared.secure_aggregation.signing import Identity

__all__ = ["Roster"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Roster:
    """The organisations that a partner believes to be independent of the coordinator.

    Attributes:
        peers: their long-term public keys, 49 bytes, by name; without the partner itself.
        colluding: how many of them may collude with the coordinator all the same; >= 0.
        fewest: how many of them, with the partner itself, must be in every sum, and so take part in
            every step before it; >= 2 + colluding.

    Raises:
        ConfigError: `fewest` is out of range.
    """

    peers: Mapping[str, bytes]
    colluding: int
    fewest: int

    def __post_init__(self) -> None:
        """Check the numbers."""
        if self.colluding < 0 or self.fewest < 2 + self.colluding:
            raise ConfigError(
                f"a roster of which {self.colluding} may collude needs at least "
                f"{2 + max(0, self.colluding)} in every sum, not {self.fewest}: fewer, and a sum "
                "could hold one honest organisation's answer alone."
            )
        if self.fewest > len(self.peers) + 1:
            raise ConfigError(
                f"{self.fewest} organisations of the roster must be in a sum, and it names "
                f"{len(self.peers)} beside this one. Add peers, or ask for fewer."
            )

    def accept(self, invitation: Invitation, own: Identity) -> Parameters:
        """Return what the round withstands in this partner's own view, or refuse it.

        Outsiders are added to `colluding`.

        Raises:
            SecureAggregationError: a name has another key, this partner is not invited, or
                threshold and dropouts are not safe.
            TooFewPartners: fewer than `fewest` of the roster are invited.
        """
        trusted = {**self.peers, own.name: own.public}
        names = {key: name for name, key in trusted.items()}
        for participant in invitation.participants:
            name = participant.name
            require(
                trusted.get(name, participant.key) == participant.key,
                f"{name} is invited with another long-term key than the one known here.",
                name,
            )
            require(
                names.get(participant.key, name) == name,
                f"the long-term key of {names.get(participant.key)} is invited as {name}.",
                name,
            )
        invitation.index(own.name)
        self.require_members(invitation, range(len(invitation.participants)), own, "invited")
        count = len(invitation.participants)
        outsiders = sum(participant.name not in trusted for participant in invitation.participants)
        try:
            return Parameters(
                organisations=count,
                colluding=self.colluding + outsiders,
                dropouts=invitation.dropouts,
                threshold=invitation.threshold,
            )
        except ConfigError as error:
            because = f"{outsiders} invited outside the roster count as colluding: "
            raise SecureAggregationError(f"{because if outsiders else ''}{error}") from None

    def require_members(
        self, invitation: Invitation, members: Collection[int], own: Identity, what: str
    ) -> None:
        """Refuse a set of partners with too few of the roster.

        Raises:
            TooFewPartners: fewer than `fewest` of the roster are among them.
        """
        names = {invitation.participants[index].name for index in members}
        count = len(names & {*self.peers, own.name})
        if count < self.fewest:
            raise TooFewPartners(
                f"{count} organisations of the roster are {what}, and {self.fewest} must be."
            )
