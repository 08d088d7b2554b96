"""What a search would cost in privacy, were its data private.

| trials         | settings are drawn         | the best one's release is bounded by           |
|----------------|----------------------------|------------------------------------------------|
| K fixed        | by the scores so far (TPE) | all K runs, composed                           |
| K fixed        | independently (random)     | all K runs, composed                           |
| K itself drawn | independently (random) | Papernot & Steinke: `accounting.selection` |

The bounds are about runs whose score is part of what they release, with noise. The lab's own score
is exact, so a search as the lab runs it protects nobody; `STATEMENT` says so.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from server.noise_plan import planned_releases
from shared.errors import SottoError
from shared.privacy.accounting.accountant import divergences, epsilon
from shared.privacy.accounting.renyi import epsilon_of
from shared.privacy.accounting.selection import TrialLaw, selection_epsilon
from shared.privacy.release import Release
from shared.sections import Value
from simulations.sweep.plan import Plan
from simulations.sweep.search import Draws, SearchPlan

__all__ = ["DECISIVE", "Price", "price"]

MOST_FORMS = 200
"""Different sums of releases that a bound goes through, at most."""
DECISIVE = (
    "privacy.epsilon",
    "privacy.delta",
    "warm_start.share",
    "training.rounds",
    "training.local_steps",
    "training.sample_rate",
    "server.evaluate_every",
)
"""Settings that decide what a run releases, with how much noise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """What each organisation's users would pay for the release of the best trial.

    Attributes:
        delta: of every ε here.
        one_run: ε of one run alone; infinity where it is not private.
        trials: K, or E[K].
        law: how K was drawn; None where it was fixed.
        draws: how settings were drawn.
        epsilon: of the search as it was made; None where nothing bounds it.
        laws: ε were K drawn like this, with mean `trials`, and settings independently.
    """

    delta: float
    one_run: float
    trials: int
    law: TrialLaw | None
    draws: Draws
    epsilon: float | None
    laws: Mapping[TrialLaw, float]

    @property
    def sentences(self) -> list[str]:
        """The price, and what it does not say, for people."""
        if self.epsilon is None:
            return [
                "No bound: the search varies what a run releases, in more ways than can be gone "
                f"through. Give {', '.join(DECISIVE)} as choices (a|b|c), or leave them as they "
                "are."
            ]
        if self.epsilon == math.inf:
            return ["At least one run is trained WITHOUT privacy: no ε bounds the search."]
        paper = "Papernot & Steinke, arXiv:2110.03620"
        theorem = "theorem 6" if self.law is TrialLaw.POISSON else "theorem 2"
        if self.law is None:
            bound = f"all {self.trials} runs composed; a fixed number has no better bound"
            laws = ", ".join(f"{cost:.2f} ({law})" for law, cost in self.laws.items())
            other = [
                f"With the number of trials drawn at random, {self.trials} on average, and "
                f"settings drawn independently (--trials LAW), it would be {laws}: {paper}."
            ]
        else:
            bound = (
                f"the number of trials was {self.law} with mean {self.trials}: {paper}, {theorem}"
            )
            other = []
        return [
            f"Were the data private, releasing the best run would cost ε = {self.epsilon:.2f} at "
            f"δ = {self.delta:g}, where one run costs {self.one_run:.2f}: {bound}.",
            *other,
            "That holds if the scores are noised within each run's own ε (server.evaluate_every) "
            "and nothing else of the search leaves. Here they are exact, of the validation items, "
            "part of the same users' data: this search itself protects nobody.",
        ]


def price(search: SearchPlan, plan: Plan, trials: int) -> Price:
    """What bounds the search.

    Args:
        search: what was searched, and how.
        plan: all other settings.
        trials: how many there were.
    """
    delta = plan.run({}, "trial").config.privacy.delta
    forms = _forms(search, plan)
    laws = {
        law: selection_epsilon(forms, delta, law=law, mean=search.trials)
        for law in (TrialLaw if forms else ())
    }
    fixed = _composed(forms, trials, delta) if forms else None
    return Price(
        delta=delta,
        one_run=max((epsilon(form, delta) for form in forms), default=math.inf),
        trials=search.trials,
        law=search.law,
        draws=search.draws,
        epsilon=fixed if search.law is None else laws.get(search.law),
        laws=laws,
    )


def _composed(forms: Sequence[Sequence[Release]], trials: int, delta: float) -> float:
    """All trials, whichever of the forms each has, even if it is chosen by what came before."""
    if len(forms) == 1:
        return epsilon([*forms[0]] * trials, delta)
    worst = np.max([divergences(form) for form in forms], axis=0)
    return epsilon_of(trials * worst, delta)


def _forms(search: SearchPlan, plan: Plan) -> list[list[Release]]:
    """Every sum of releases that a trial may have; none where they are too many to go through."""
    decisive = [space for space in search.spaces if space.key in DECISIVE]
    values = [space.all for space in decisive]
    if any(some is None for some in values):
        return []
    known = [some for some in values if some is not None]
    if math.prod(map(len, known)) > MOST_FORMS:
        return []
    found: list[list[Release]] = []
    for choice in itertools.product(*known):
        releases = _releases(plan, dict(zip((s.key for s in decisive), choice, strict=True)))
        if releases and releases not in found:
            found.append(releases)
    return found


def _releases(plan: Plan, drawn: Mapping[str, Value]) -> list[Release]:
    """None where such a run is refused, and nothing is released."""
    try:
        return planned_releases(plan.run(drawn, "trial").config.planned)
    except SottoError:
        return []
