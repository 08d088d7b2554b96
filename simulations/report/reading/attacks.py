"""Read the attack.json of a folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import Field

from simulations.experiment.result_json import Count, Document, Finite, FromZero, UnitInterval
from simulations.report.reading.documents import read_document

__all__ = ["Attacked", "Attacks", "Evaded", "Shown", "read_attacks"]

FILE = "attack.json"
REMEDY = "give the folder that `sotto-lab attack --out` wrote."


class Shown(Document):
    """What users are shown of the target.

    Attributes:
        users: who could be shown it.
        share: of them whose first ten hold it.
        rank: its mean rank.
    """

    users: Count
    share: UnitInterval
    rank: FromZero


class Attacked(Document):
    """One attack on one part.

    Attributes:
        part: the attacked model.
        target: "rare", "middle" or "popular".
        direction: "push" or "nuke".
        attack: its kind.
        crafted: number of crafted users.
        defended: whether the partner's limits and caps were on.
        before: without crafted users.
        after: with them.
        strongest: whether no other attack of its kind came further.
    """

    part: str
    target: str
    direction: Literal["push", "nuke"]
    attack: str
    crafted: Count
    defended: bool
    before: Shown
    after: Shown
    strongest: bool


class Evaded(Document):
    """What is left of lists when one event changes.

    Attributes:
        model: that ranks.
        samples: thinned histories of a smoothed scorer; 0 without smoothing.
        change: "replace", "insert" or "remove".
        kept: share of the first ten that stays, on average.
        kept_worst: the same of the worst try of each user.
        ndcg: NDCG@10.
    """

    model: str
    samples: Count
    change: str
    kept: UnitInterval
    kept_worst: UnitInterval
    ndcg: FromZero = Field(alias="ndcg@10")


class _Run(Document):
    epsilon: Finite | None = None
    aggregation: str
    organisations: Count


class _At(Document):
    organisation: str
    users: Count


class _Document(Document):
    run: _Run
    at: _At
    attacks: tuple[Attacked, ...]
    evasion: tuple[Evaded, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Attacks:
    """The attacks on one run.

    Attributes:
        name: of its folder.
        epsilon: of the run; None without privacy.
        aggregation: how changes are combined.
        organisations: their number.
        at: the attacked organisation.
        users: of it.
        attacks: on each part.
        evasion: changes of single events.
    """

    name: str
    epsilon: float | None
    aggregation: str
    organisations: int
    at: str
    users: int
    attacks: tuple[Attacked, ...]
    evasion: tuple[Evaded, ...]


def read_attacks(folder: Path) -> Attacks:
    """Read the attack.json of a folder.

    Raises:
        ReportError: it is missing or damaged.
    """
    document = read_document(folder / FILE, _Document, REMEDY)
    return Attacks(
        name=folder.resolve().name,
        epsilon=document.run.epsilon,
        aggregation=document.run.aggregation,
        organisations=document.run.organisations,
        at=document.at.organisation,
        users=document.at.users,
        attacks=document.attacks,
        evasion=document.evasion,
    )
