"""Each observer's figures, the reasons for a violation, and the limitations of the audit.

An honest pipeline is called violated with probability at most 1 - confidence. Half of that error
goes to the white-box observer, who sees most; the others share the rest. Of each observer's error,
half goes to the bound from guesses, half to the estimate from scores.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simulations.audit.canaries import KINDS, Canaries
from simulations.audit.epsilon_bounds import (
    Estimate,
    gaussian_epsilon,
    gaussian_estimate,
    gaussian_separation,
    guess,
    largest_provable,
)
from simulations.audit.observers import WHITE_BOX
from simulations.audit.plan import AuditPlan

__all__ = [
    "SEEDED_NOISE",
    "Claim",
    "audit_record",
    "confidence_of_each",
    "limitations",
    "observer_figures",
    "sensitivity_section",
    "violations",
]

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

SLACK = 1e-3
"""Tolerance for float32 rounding of one user's share, over the clip norm."""
SEEDED_NOISE = (
    "Simulated noise is seeded: the random generator of real sites, floating-point effects of "
    "the noise, and response times were not examined."
)
"""A limitation of every audit."""


@dataclass(frozen=True, slots=True)
class Claim:
    """The ledger of the organisation that spent most.

    Attributes:
        epsilon: of each of its users.
        delta: likewise.
        organisation: its name.
        epsilon_if_all_collude: under secure aggregation, where its own noise alone counts.
    """

    epsilon: float
    delta: float
    organisation: str
    epsilon_if_all_collude: float | None = None

    @property
    def if_all_collude(self) -> Claim:
        """The claim against everybody else."""
        assert self.epsilon_if_all_collude is not None
        return replace(self, epsilon=self.epsilon_if_all_collude)


def audit_record(  # noqa: PLR0913 each is a section of audit.json
    plan: AuditPlan,
    claim: Claim,
    *,
    observers: Sequence[Mapping[str, Any]],
    sensitivity: Mapping[str, Any],
    books: Mapping[str, Any],
    membership: Mapping[str, Any] | None,
    blind_spots: Sequence[str],
    masks: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return audit.json: its sections, and the verdict that they lead to."""
    reasons = [*violations(observers, sensitivity, books), *(masks["found"] if masks else ())]
    return {
        "schema": 1,
        "adversary": str(plan.adversary),
        "claim": asdict(claim),
        "verdict": "violated" if reasons else "consistent",
        "reasons": reasons,
        "confidence": plan.confidence,
        "observers": list(observers),
        "sensitivity": sensitivity,
        "books": books,
        "masks": masks,
        "membership": membership,
        "blind_spots": list(blind_spots),
    }


def confidence_of_each(observers: Sequence[str], confidence: float) -> dict[str, float]:
    """Return the confidence of each observer's bound, and again of its estimate.

    Half of the error is the white-box observer's; the others share the rest.
    """
    others = max(1, len(observers) - 1)
    return {
        name: 1 - (1 - confidence) / (4 if name == WHITE_BOX else 4 * others) for name in observers
    }


def sensitivity_section(largest: float) -> dict[str, Any]:
    """Return the section "sensitivity" of audit.json: one user's largest share of a sum."""
    return {"largest": largest, "allowed": 1.0, "violated": largest > 1 + SLACK}


def observer_figures(
    scores: Sequence[Floats | None],
    canaries: Sequence[Canaries],
    claim: Claim,
    confidence: float,
) -> dict[str, Any]:
    """Return what an observer's scores prove, and the ε that they suggest, as in audit.json.

    Args:
        scores: of each organisation's canaries; None where it saw nothing; not all are None.
        canaries: of each organisation.
        claim: to compare with.
        confidence: of the bound, and again of the estimate.
    """
    scored = [(s, own) for s, own in zip(scores, canaries, strict=True) if s is not None]
    score = np.concatenate([s for s, _ in scored])
    inside = np.concatenate([own.inside for _, own in scored])
    kinds = np.concatenate([own.kinds for _, own in scored])
    best = guess(score, inside, delta=claim.delta, confidence=confidence)
    estimate = _highest_estimate(score, inside, kinds, claim.delta, confidence)
    return {
        "canaries": len(score),
        "guesses": best.guesses,
        "correct": best.correct,
        "epsilon_lower_bound": best.epsilon,
        "largest_provable": largest_provable(len(score), delta=claim.delta, confidence=confidence),
        "estimate": asdict(estimate),
        "epsilon_claimed": claim.epsilon,
        "violated": best.epsilon > claim.epsilon or estimate.low > claim.epsilon,
    }


def _highest_estimate(
    scores: Floats, inside: Bools, kinds: NDArray[np.int64], delta: float, confidence: float
) -> Estimate:
    """Return the highest estimate over the kinds of canaries, corrected for the choice."""
    each = 1 - (1 - confidence) / len(KINDS)
    estimates = [
        gaussian_estimate(
            scores[kinds == kind], inside[kinds == kind], delta=delta, confidence=each
        )
        for kind in range(len(KINDS))
    ]
    return max(estimates, key=lambda estimate: estimate.low)


def violations(
    observers: Sequence[Mapping[str, Any]],
    sensitivity: Mapping[str, Any],
    books: Mapping[str, Any],
) -> list[str]:
    """Return why the claim is violated, in sentences; none where it holds."""
    sentences = []
    for each in observers:
        claimed = each["epsilon_claimed"]
        if each["epsilon_lower_bound"] > claimed:
            sentences.append(
                f"The {each['name']} observer guessed {each['correct']} of {each['guesses']} "
                f"coins correctly, which proves ε ≥ {each['epsilon_lower_bound']:.2f}; the claim "
                f"is ε = {claimed:.2f}."
            )
        if each["estimate"]["low"] > claimed:
            sentences.append(
                f"The {each['name']} observer's scores suggest ε = "
                f"{each['estimate']['epsilon']:.2f}, at least {each['estimate']['low']:.2f}; "
                f"the claim is ε = {claimed:.2f}."
            )
    if sensitivity["violated"]:
        sentences.append(
            f"One user added {sensitivity['largest']:.3g} clip norms to a sum; the limit is 1."
        )
    if books["violated"]:
        sentences.append(
            f"The {books['seen']} releases that left {books['organisation']} cost ε = "
            f"{books['epsilon_recomputed']:.2f}; its ledger states {books['epsilon_ledger']:.2f}."
        )
    return sentences


def limitations(white: Mapping[str, Any] | None, provable: float, claim: Claim) -> list[str]:
    """Return what the observers could not have detected, in sentences.

    Args:
        white: figures of the white-box observer; None if no release could be replayed.
        provable: the largest ε that any observer's guesses could have proved.
        claim: the claim under audit.
    """
    sentences = []
    if provable <= claim.epsilon:
        sentences.append(
            f"With this number of canaries, guesses can prove at most ε = {provable:.2f}, and "
            f"{claim.epsilon:.2f} is claimed: only the estimates could have shown a violation. "
            "Plant more canaries, or audit the same pipeline at a smaller ε."
        )
    if white is None:
        sentences.append(
            "No release could be replayed, so the answers of the sites were not examined."
        )
    else:
        sentences.append(_least_visible(white["estimate"], claim))
    return sentences


def _least_visible(estimate: Mapping[str, float], claim: Claim) -> str:
    """Return which weakness of the noise would be detected, from the interval's width."""
    middle, low, claimed = (
        gaussian_separation(value, claim.delta)
        for value in (estimate["epsilon"], estimate["low"], claim.epsilon)
    )
    if middle <= 0 or middle - low >= middle:
        return (
            "The white-box observer could not tell canaries in from canaries out: with so few of "
            "them, no weakness of the noise would have been detected. Plant more."
        )
    factor = (claimed + (middle - low)) / middle
    return (
        f"The white-box observer would have detected noise {factor:.3g} times weaker than claimed "
        f"(about ε = {gaussian_epsilon(factor * middle, claim.delta):.1f}), but not much less."
        if factor > 1
        else "The white-box observer's estimate is already above the claim."
    )
