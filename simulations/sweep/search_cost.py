"""The privacy cost of a search, if its data were private.

| trials         | settings are drawn         | bound of ε for releasing the best run          |
|----------------|----------------------------|------------------------------------------------|
| K fixed        | by the scores so far (TPE) | all K runs, composed                           |
| K fixed        | independently (random)     | all K runs, composed                           |
| K random       | independently (random)     | Papernot & Steinke: `accounting.selection`     |

The bounds are for runs whose score is a noised part of what they release. The lab's own score is
exact, so a search in the lab protects nobody, and `SearchCost.sentences` says so.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from server.noise_plan import planned_releases
from shared.errors import SottoError
from shared.privacy.accounting.accountant import divergences, epsilon
from shared.privacy.accounting.renyi import epsilon_of
from shared.privacy.accounting.selection import TrialLaw, selection_epsilon
from shared.privacy.release import Release
from shared.sections import Value
from simulations.sweep.plan import Plan
from simulations.sweep.search import Sampler, SearchPlan

__all__ = ["DECISIVE", "SearchCost", "search_cost"]

MOST_FORMS = 200
"""Most combinations of releases that a bound considers."""
DECISIVE = (
    "privacy.epsilon",
    "privacy.delta",
    "warm_start.share",
    "training.rounds",
    "training.local_steps",
    "training.sample_rate",
    "server.evaluate_every",
)
"""Settings that determine what a run releases, and its noise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchCost:
    """The ε of releasing the best trial, for each organisation's users.

    Attributes:
        delta: of every ε here.
        one_run: ε of one run; infinity without privacy.
        trials: K, or its mean.
        law: distribution of K; None if K was fixed.
        draws: how settings were drawn.
        epsilon: of the search; None without a bound.
        laws: ε if K had this distribution with mean `trials`, and settings were independent.
    """

    delta: float
    one_run: float
    trials: int
    law: TrialLaw | None
    draws: Sampler
    epsilon: float | None
    laws: Mapping[TrialLaw, float]

    @property
    def sentences(self) -> list[str]:
        """Return the cost and its assumptions, in sentences."""
        if self.epsilon is None:
            return [
                "There is no bound of ε: the search varies what a run releases in too many ways. "
                f"Search {', '.join(DECISIVE)} by a few choices (a|b|c), or leave them fixed."
            ]
        if self.epsilon == math.inf:
            return ["At least one run is trained WITHOUT privacy, so no ε bounds the search."]
        paper = "Papernot & Steinke, arXiv:2110.03620"
        theorem = "theorem 6" if self.law is TrialLaw.POISSON else "theorem 2"
        if self.law is None:
            bound = f"all {self.trials} runs composed; for a fixed number there is no better bound"
            laws = ", ".join(f"{cost:.2f} ({law})" for law, cost in self.laws.items())
            other = [
                f"With a random number of trials, {self.trials} on average, and independently "
                f"drawn settings (--trials LAW), it would be {laws}: {paper}."
            ]
        else:
            bound = (
                f"the number of trials was {self.law} with mean {self.trials}: {paper}, {theorem}"
            )
            other = []
        return [
            f"If the data were private, releasing the best run would cost ε = {self.epsilon:.2f} "
            f"at δ = {self.delta:g}; one run costs {self.one_run:.2f}. Bound: {bound}.",
            *other,
            "This holds if the scores are noised within each run's own ε (server.evaluate_every) "
            "and nothing else of the search is released. Here the scores are exact, from "
            "validation items of the same users: this search itself protects nobody.",
        ]


def search_cost(search: SearchPlan, plan: Plan, trials: int) -> SearchCost:
    """Return the cost of a search.

    Args:
        search: the search space, and how it was searched.
        plan: all other settings.
        trials: number of trials.
    """
    delta = plan.run({}, "trial").config.privacy.delta
    forms = _forms(search, plan)
    laws = {
        law: selection_epsilon(forms, delta, law=law, mean=search.trials)
        for law in (TrialLaw if forms else ())
    }
    fixed = _composed(forms, trials, delta) if forms else None
    return SearchCost(
        delta=delta,
        one_run=max((epsilon(form, delta) for form in forms), default=math.inf),
        trials=search.trials,
        law=search.law,
        draws=search.sampler,
        epsilon=fixed if search.law is None else laws.get(search.law),
        laws=laws,
    )


def _composed(forms: Sequence[Sequence[Release]], trials: int, delta: float) -> float:
    """Return ε of all trials, whatever releases each has, even if chosen adaptively."""
    if len(forms) == 1:
        return epsilon([*forms[0]] * trials, delta)
    worst = np.max([divergences(form) for form in forms], axis=0)
    return epsilon_of(trials * worst, delta)


def _forms(search: SearchPlan, plan: Plan) -> list[list[Release]]:
    """Return the releases of every possible trial; empty where there are too many."""
    decisive = [space for space in search.spaces if space.key in DECISIVE]
    values = [space.all for space in decisive]
    if any(options is None for options in values):
        return []
    choices = [options for options in values if options is not None]
    if math.prod(map(len, choices)) > MOST_FORMS:
        return []
    distinct: list[list[Release]] = []
    for choice in itertools.product(*choices):
        releases = _releases(plan, dict(zip((s.key for s in decisive), choice, strict=True)))
        if releases and releases not in distinct:
            distinct.append(releases)
    return distinct


def _releases(plan: Plan, drawn: Mapping[str, Value]) -> list[Release]:
    """Return a run's releases; empty where its settings are refused."""
    try:
        run = plan.run(drawn, "trial").config.planned
        if run.training.planned:
            # Sums of all users compose to one Gaussian release at ε, however a plan divides it.
            run = replace(run, training=replace(run.training, rounds=0))
        return planned_releases(run)
    except SottoError:
        return []
