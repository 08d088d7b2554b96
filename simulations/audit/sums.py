"""Attack the sums of secure aggregation: what comes out beneath the masks, and what it tells.

The canaries are all at one organisation, the target. Two adversaries see the same run:

| observer           | is the coordinator with           | and attacks                          |
|--------------------|-----------------------------------|--------------------------------------|
| white-box          | `privacy.colluding` of the others | the smallest sum that comes out with |
|                    |                                   |   the target's answer in it          |
| all others collude | everybody else                    | the target's own answer              |

Both know all users but the canaries' coins, and take the colluding organisations' answers off.
Where `privacy.dropouts` organisations may be missing, the masked inputs of so many are withheld
from each sum, since fewer honest shares of noise protect less. The adversaries have them all the
same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shared.config import PrivacyConfig
from shared.data.histories import Histories
from shared.messages import Request, StatisticsRequest, TrainRequest, Weights
from shared.models.moments import STATISTIC_CLIP_NORM
from shared.privacy.distributed_noise import GRID_BITS
from shared.privacy.release import Release
from simulations.audit.canaries import Canaries
from simulations.audit.observers import (
    BETWEEN_ROUNDS,
    WHITE_BOX,
    AuditedSite,
    Observations,
    observe_views,
)
from simulations.audit.recorder import RecordedAnswer
from simulations.audit.transcripts import Transcript
from simulations.audit.unmasking import Opened, is_uniform, p_uniform, take_off
from simulations.experiment.simulation import Simulation

__all__ = ["ALL_OTHERS", "Roles", "SumsSeen", "examine_sums", "roles_in"]

ALL_OTHERS = "all others collude"

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Roles:
    """Who is who among the organisations; names.

    Attributes:
        target: has the canaries.
        colluding: tell the coordinator all they know.
        lost: their masked inputs are withheld from every sum; the adversaries have them.
        honest: the others, the target among them.
    """

    target: str
    colluding: tuple[str, ...]
    lost: tuple[str, ...]
    honest: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class SumsSeen:
    """What the adversaries found.

    Attributes:
        observed: of the canaries of the target, by observer.
        summed: the honest organisations in the smallest sums that came out.
        masks: the section "masks" of audit.json.
    """

    observed: Observations
    summed: tuple[str, ...]
    masks: dict[str, Any]

    def releases(self, own: Mapping[str, Sequence[Release]]) -> dict[str, list[Release]]:
        """Return what left as the adversary saw it: with the noise of all that were summed.

        Args:
            own: of each organisation, with its share of the noise.
        """
        shares = len(self.summed)
        return {name: [r.with_shares(shares) for r in each] for name, each in own.items()}


def roles_in(names: Sequence[str], privacy: PrivacyConfig) -> Roles:
    """Return the roles: the first organisation is the target, the last ones collude."""
    colluding = privacy.colluding_of(len(names))
    honest, told = names[: len(names) - colluding], names[len(names) - colluding :]
    stay = len(honest) - privacy.dropouts
    return Roles(names[0], tuple(told), tuple(honest[stay:]), tuple(honest[:stay]))


def examine_sums(
    simulation: Simulation,
    canaries: Canaries,
    roles: Roles,
    rounds: Sequence[tuple[Request, Transcript]],
) -> SumsSeen:
    """Unmask what each adversary can, score the canaries, and test the masks.

    Args:
        simulation: under audit.
        canaries: of the target.
        roles: of the organisations.
        rounds: what was asked for in each round of the protocol that gave a sum, in order.
    """
    everybody = {*simulation.names} - {roles.target}
    near = [_Round(question, heard, roles.target, roles.colluding) for question, heard in rounds]
    far = [_Round(question, heard, roles.target, everybody) for question, heard in rounds]
    summed = min((each.summed for each in near), key=len)
    views = (
        _as_site(simulation, canaries, near, summed),
        _as_site(simulation, canaries, far, (roles.target,)),
    )
    one, all_others = observe_views(views, simulation.dataset.catalogue)
    nothing = [None] * (len(simulation.names) - 1)  # of organisations without canaries
    scores = {
        WHITE_BOX: [*one.scores[WHITE_BOX], *nothing],
        BETWEEN_ROUNDS: [*one.scores[BETWEEN_ROUNDS], *nothing],
        ALL_OTHERS: [*all_others.scores[WHITE_BOX], *nothing],
    }
    observed = Observations(scores, one.largest_share, one.releases)
    return SumsSeen(observed, summed, _test_masks(roles, near, summed))


class _Round:
    """One round, as one adversary sees it.

    Args:
        question: what was asked for.
        heard: the messages.
        target: whose answer is looked for.
        colluding: who tells the coordinator all they know.
    """

    def __init__(
        self, question: Request, heard: Transcript, target: str, colluding: Sequence[str] | set[str]
    ) -> None:
        self.question, self.heard = question, heard
        invitation = heard.invitation
        self._target = invitation.index(target)
        self.opened: Opened = take_off(heard, [invitation.index(name) for name in colluding])
        members = self.opened.smallest_sum(self._target)
        own = self.opened.left[self._target]
        self.points: Ints
        if members is None or (len(members) > 1 and not is_uniform(own)):
            # Whatever should hide it does not, or nothing comes out at all.
            members, self.points = frozenset({self._target}), own.view(np.int64)
        else:
            self.points = self.opened.total(members)
        self.summed = tuple(sorted(invitation.name(one) for one in members))

    def sums_of(self, names: set[str]) -> set[tuple[str, ...]]:
        """Return the smallest sums with one of these partners, of those that come out."""
        inputs = [one for one in self.heard.inputs if self.name(one) in names]
        found = [self.opened.smallest_sum(one) for one in inputs]
        return {tuple(sorted(map(self.name, members))) for members in found if members}

    def name(self, partner: int) -> str:
        """Return a partner's name."""
        return self.heard.invitation.name(partner)


def _as_site(
    simulation: Simulation, canaries: Canaries, rounds: Sequence[_Round], members: tuple[str, ...]
) -> AuditedSite:
    """Return the organisations of a sum as the one site that the observers attack."""
    planted = simulation.planted
    assert planted is not None
    numbers = [simulation.names.index(name) for name in members]
    population = sum(planted.populations[number] for number in numbers)
    return AuditedSite(
        others=Histories.joined(
            [simulation.split.train.select(planted.kept[number]) for number in numbers]
        ),
        canaries=canaries,
        population=population,
        seen=[
            RecordedAnswer(each.question, _answer(each.question, each.points, population))
            for each in rounds
            if each.summed == members
            and isinstance(each.question, TrainRequest | StatisticsRequest)
        ],
        shares=len(members),
    )


def _answer(question: TrainRequest | StatisticsRequest, points: Ints, population: int) -> Weights:
    """Return a sum as an organisation of so many users would have answered it."""
    if isinstance(question, StatisticsRequest):
        return {"total": points * (STATISTIC_CLIP_NORM / 2.0**GRID_BITS)}
    # One step of SGD by the mean of the summed gradients, as the coordinator takes it.
    batch = question.sample_rate * population
    gradient: Any = points * (question.clip_norm / 2.0**GRID_BITS / batch)
    change, start = {}, 0
    for name in sorted(question.weights):
        weight = question.weights[name]
        part = gradient[start : start + weight.size].reshape(weight.shape)
        change[name] = -question.learning_rate * (part + question.weight_decay * weight)
        start += weight.size
    return change


def _test_masks(roles: Roles, rounds: Sequence[_Round], summed: tuple[str, ...]) -> dict[str, Any]:
    """Return the section "masks" of audit.json: what is uniform, and what came out."""
    p_values, found = [], []

    def test(values: NDArray[np.uint64], what: str) -> None:
        p_values.append(p_uniform(values))
        if not is_uniform(values):
            found.append(what)

    honest = {*roles.honest, *roles.lost}
    for number, each in enumerate(rounds, start=1):
        for partner, values in each.heard.inputs.items():
            name = each.name(partner)
            if name not in honest:
                continue
            if each.opened.hidden_by[partner]:
                test(
                    each.opened.left[partner],
                    f"What {name} sent in sum {number} is not hidden: it is not uniform.",
                )
            test(values, f"{name}'s masked input in sum {number} is not uniform.")
    for number, (one, other) in enumerate(pairwise(rounds), start=1):
        for partner in {*one.heard.inputs} & {*other.heard.inputs}:
            name = one.name(partner)
            if name in honest:
                first, second = one.heard.inputs[partner], other.heard.inputs[partner]
                size = min(len(first), len(second))
                test(
                    second[:size] - first[:size],
                    f"The difference of {name}'s masked inputs in sums {number} and {number + 1} "
                    "is not uniform: it is the difference of what it answered.",
                )
    for members in sorted({summed, *(small for each in rounds for small in each.sums_of(honest))}):
        if not {*roles.honest} <= {*members}:
            found.append(
                f"The sum of {', '.join(members)} alone came out, where {', '.join(roles.honest)} "
                "should be in every sum."
            )
    return {
        "target": roles.target,
        "colluding": list(roles.colluding),
        "lost": list(roles.lost),
        "summed": list(summed),
        "tested": len(p_values),
        "smallest_p": min(p_values, default=1.0),
        "found": found,
        "violated": bool(found),
    }
