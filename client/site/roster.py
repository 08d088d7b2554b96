"""Which organisations a partner believes to be independent: the [roster] table of site.toml.

A coordinator may invent partners, and say what it likes about the others. So how many honest shares
of noise a sum holds is the partner's own knowledge, and stands here.
"""

from __future__ import annotations

from shared.errors import ConfigError
from shared.sections import NonNegativeInt, PositiveInt, section

__all__ = ["Roster"]


@section("roster")
class Roster:
    """How many organisations' noise a partner counts on under secure aggregation.

    Attributes:
        organisations: how many it knows to be independent of the coordinator, itself included;
            1, the default, answers no request under secure aggregation.
        colluding: how many of them may collude with the coordinator all the same, >= 0.
        fewest: how many of them are in every sum, >= 2 + `colluding`.

    Raises:
        ConfigError: the numbers do not fit together.
    """

    organisations: PositiveInt = 1
    colluding: NonNegativeInt = 1
    fewest: PositiveInt = 1

    def __post_init__(self) -> None:
        if self.organisations == 1:
            return
        if not 2 + self.colluding <= self.fewest <= self.organisations:
            raise ConfigError(
                f"roster.fewest = {self.fewest}: choose a number from 2 + roster.colluding = "
                f"{2 + self.colluding} to roster.organisations = {self.organisations}: with fewer, "
                "a sum could hold one honest organisation's answer alone."
            )

    @property
    def honest_shares(self) -> int:
        """How many honest organisations' shares of noise are in every sum; 0 without a roster."""
        return self.fewest - self.colluding if self.organisations > 1 else 0
