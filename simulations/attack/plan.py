"""The size of a measurement, and the kinds of attacks.

| attack    | users | what their histories hold                             | strongest against    |
|-----------|-------|-------------------------------------------------------|----------------------|
| `flood`   | 1     | 1,000 events in 100 seconds: popular item, payload,   | exact counts         |
|           |       |   the next popular item, payload, ...                 |                      |
| `patient` | 1     | the same, an event every two hours: no limit drops it | counts behind limits |
| `pair`    | 1     | two events: popular item, payload; one user's whole   | clipped sums         |
|           |       |   share of a clipped sum goes to one transition       |                      |
| `pairs`   | 1%    | the same, each with another popular item              | clipped sums         |
| `fillers` | 1%    | ten popular items, drawn as users choose them, then   | counts with caps     |
|           |       |   the payload: they look like users                   |                      |

The payload of a push is the target. To bury a target, it is what competes with it: the items that
are a little less popular, and for `pair` and `pairs` the popular items least like it.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from shared.errors import ConfigError

__all__ = ["ATTACKS", "KINDS", "Attack", "AttackPlan", "Direction", "Parts"]


class Direction(StrEnum):
    """What an attack wants of its target."""

    PUSH = "push"
    NUKE = "nuke"


class Attack(StrEnum):
    """Kinds of attacks; see the table at the top of this module."""

    FLOOD = "flood"
    PATIENT = "patient"
    PAIR = "pair"
    PAIRS = "pairs"
    FILLERS = "fillers"

    @property
    def grouped(self) -> bool:
        """Whether many users take part, or one."""
        return self in (Attack.PAIRS, Attack.FILLERS)


class Parts(StrEnum):
    """What is attacked.

    ALL: the federated model, and what is made of it at home. FEDERATED: the federated model alone,
    on which alone robust rules bear. HOME: own counts alone, beside a federated model that was
    published before the attack; it is trained once.
    """

    ALL = "all"
    FEDERATED = "federated"
    HOME = "home"


ATTACKS = tuple(Attack)
KINDS = ("rare", "middle", "popular")
"""Of targets, by the organisation's own events."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AttackPlan:
    """The size of a measurement.

    Attributes:
        at: name of the organisation whose users attack; "" for the first.
        targets: kinds of items, of `KINDS`.
        share: crafted users of a group, as a share of the organisation's, in (0, .5].
        parts: what is attacked.
        evasion: users of whom small changes are tried; 0 tries none.
        seed: of targets and crafted histories; the run has its own seed.
    """

    at: str = ""
    targets: tuple[str, ...] = KINDS
    share: float = 0.01
    parts: Parts = Parts.ALL
    evasion: int = 40
    seed: int = 0

    def __post_init__(self) -> None:
        checks = (
            ("targets", ",".join(self.targets), set(self.targets) <= set(KINDS), ", ".join(KINDS)),
            ("share", self.share, 0 < self.share <= 0.5, "a share above 0, up to .5"),
            ("evasion", self.evasion, self.evasion >= 0, "0 or more users"),
            ("attack-seed", self.seed, self.seed >= 0, "0 or more"),
        )
        for name, value, holds, expected in checks:
            if not holds:
                raise ConfigError(f"--{name} {value}: give {expected}.")

    def users(self, population: int) -> int:
        """Return how many crafted users a group has: at least one."""
        return max(1, round(self.share * population))
