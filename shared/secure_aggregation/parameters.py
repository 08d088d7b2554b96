"""How many organisations may collude or drop out, and the threshold of shares that is then safe.

n organisations take part, at most c of them collude with the coordinator, at most d drop out, and t
shares recover a secret. A partner gives the coordinator shares of one of two secrets of each
organisation: of the seed of its own mask if it is listed as a survivor, else of the key of its
pairwise masks. Whoever has both removes all masks of that organisation.

- **2t > n + c.** The c colluding partners give shares of both secrets, the n - c others of one
  each: at most n + c in all, and both secrets need 2t. The same inequality makes the list of
  survivors unique: each of two lists needs t signatures, the colluding sign both and the others one
  (Bonawitz et al. 2017, theorem 6.5; with c just below n / 3 it is t > 2n / 3).
- **t <= n - d**, or the round fails whenever d drop out.

Both can be met where c + 2d < n.

- **n >= 3 + c.** Any sum has at least t survivors, of whom t - c > (n - c) / 2 are honest. From
  n - c = 3 on these are at least two, so that no sum is one honest organisation's own.
"""

from __future__ import annotations

from dataclasses import dataclass

from shared.errors import ConfigError

__all__ = ["MOST_ORGANISATIONS", "Parameters", "default_colluding", "smallest_threshold"]

MOST_ORGANISATIONS = 1000
"""Most organisations in one round."""


def default_colluding(organisations: int) -> int:
    """Return a third of the organisations, rounded down, and at least 1.

    >>> [default_colluding(n) for n in (4, 8, 100)]
    [1, 2, 33]
    """
    return max(1, organisations // 3)


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameters:
    """What a round of secure aggregation withstands; checked when it is made.

    Attributes:
        organisations: n, how many are invited.
        colluding: c, how many of them may share all they know with the coordinator; >= 0.
        dropouts: d, how many may stop answering, at any step; >= 0.
        threshold: t, how many shares recover a secret.

    Raises:
        ConfigError: an inequality of the module's docstring does not hold.
    """

    organisations: int
    colluding: int
    dropouts: int
    threshold: int

    def __post_init__(self) -> None:
        """Check the inequalities."""
        n, c, d, t = self.organisations, self.colluding, self.dropouts, self.threshold
        if min(c, d) < 0 or n > MOST_ORGANISATIONS:
            raise ConfigError(
                f"secure aggregation of {n} organisations with {c} colluding and {d} dropouts: "
                f"choose at most {MOST_ORGANISATIONS} organisations, and no negative number."
            )
        if n < 3 + c:
            raise ConfigError(
                f"secure aggregation of {n} organisations with {c} colluding: a sum could hold "
                f"one honest organisation's answer alone. Invite at least {3 + c}, or use "
                'privacy.trust = "local".'
            )
        if c + 2 * d >= n:
            raise ConfigError(
                f"secure aggregation of {n} organisations with {c} colluding and {d} dropouts: no "
                f"threshold is both safe (2t > {n} + {c}) and reached when {d} drop out "
                f"(t <= {n} - {d}). Colluding + 2 × dropouts must be below {n}: allow at most "
                f"{(n - c - 1) // 2} dropouts."
            )
        if 2 * t <= n + c:
            raise ConfigError(
                f"a threshold of {t} of {n} organisations with {c} colluding is not safe: the "
                f"coordinator could show two lists of survivors and collect {t} shares of both "
                f"secrets of one organisation. Choose at least {smallest_threshold(n, c)}."
            )
        if t > n - d:
            raise ConfigError(
                f"a threshold of {t} of {n} organisations is not reached when {d} drop out. "
                f"Choose at most {n - d}."
            )

    @classmethod
    def choose(cls, organisations: int, colluding: int, dropouts: int) -> Parameters:
        """Return the parameters with the smallest safe threshold.

        It lets more partners drop out between their masked input and their shares.

        >>> Parameters.choose(8, 2, 2).threshold
        6

        Raises:
            ConfigError: no threshold is safe.
        """
        return cls(
            organisations=organisations,
            colluding=colluding,
            dropouts=dropouts,
            threshold=smallest_threshold(organisations, colluding),
        )

    @property
    def fewest_survivors(self) -> int:
        """The fewest masked inputs that are unmasked: n - d."""
        return self.organisations - self.dropouts

    @property
    def honest_survivors(self) -> int:
        """The fewest honest organisations in a sum: n - d - c, at least 2; noise counts on them."""
        return self.fewest_survivors - self.colluding


def smallest_threshold(organisations: int, colluding: int) -> int:
    """Return the smallest t with 2t > n + c.

    >>> smallest_threshold(9, 3)
    7
    """
    return (organisations + colluding) // 2 + 1
