"""What all releases of a site together may cost, and a check that is fast while little is spent."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from shared.errors import BudgetExceeded
from shared.privacy.accounting.accountant import epsilon
from shared.privacy.release import Release, merge

__all__ = ["Limits"]

_FAR_BELOW = 0.98
"""Share of a limit up to which more releases than there are tell that these are within it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Limits on the ε of all releases of a site together.

    Attributes:
        max_epsilon: limit on their ε, > 0; `inf` sets none.
        delta: the δ at which both limits hold, in (0, 1).
        max_if_all_collude: limit on their ε with the site's own noise alone, > 0; `inf`, the
            default, sets none.
    """

    max_epsilon: float
    delta: float
    max_if_all_collude: float = math.inf

    def check(self, releases: Sequence[Release], what: str) -> None:
        """Refuse releases that together exceed a limit.

        Args:
            releases: all of them.
            what: what would lead to them, for the message.

        Raises:
            BudgetExceeded: they exceed one.
        """
        limits = [("max_epsilon", "", self.max_epsilon, list(releases))]
        if self.max_if_all_collude < math.inf:
            own = [release.alone for release in releases]
            most = self.max_if_all_collude
            limits.append(("max_epsilon_if_all_collude", " if all others collude", most, own))
        for key, where, limit, counted in limits:
            if _clearly_within(counted, limit, self.delta):
                continue
            after = epsilon(counted, self.delta)
            if not after <= limit:  # also refuses NaN
                raise BudgetExceeded(
                    f"{what} would lead to ε = {after:.4g}{where} at δ = {self.delta:g}; "
                    f"policy.{key} is {limit:g}"
                )


def _clearly_within(releases: list[Release], max_epsilon: float, delta: float) -> bool:
    """Return whether slightly more than these releases stays below the limit.

    More steps never cost less, so this is a sufficient condition. It saves time: the accountant is
    the slowest part of a charge and caches its results, and with steps rounded up to five binary
    digits many rounds ask for the same result.
    """
    more = [replace(release, steps=_rounded_up(release.steps)) for release in merge(releases)]
    return epsilon(more, delta) <= _FAR_BELOW * max_epsilon


def _rounded_up(steps: int) -> int:
    """Round up to five significant binary digits; the result is at most 1/16 larger.

    >>> [_rounded_up(steps) for steps in (31, 33, 1000)]
    [31, 34, 1024]
    """
    unit = 1 << max(0, steps.bit_length() - 5)
    return -(-steps // unit) * unit
