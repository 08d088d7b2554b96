"""What scores and books add up to: figures for each observer, a verdict, and what it cannot say.

An honest pipeline is called violated with a chance of at most 1 - confidence. Half of that error is
the white-box observer's, who sees most, the rest is shared out among the others; half of each goes
to what guesses prove, half to what scores look like.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simulations.audit.canaries import KINDS, Canaries
from simulations.audit.evidence import (
    Estimate,
    gaussian_epsilon,
    gaussian_estimate,
    gaussian_separation,
    guess,
    largest_provable,
)

__all__ = ["Claim", "limits", "observer", "reasons"]

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Claim:
    """What the ledger says of the organisation that spent most.

    Attributes:
        epsilon: of each of its users.
        delta: likewise.
        organisation: its name.
    """

    epsilon: float
    delta: float
    organisation: str


def observer(
    scores: Sequence[Floats | None],
    canaries: Sequence[Canaries],
    claim: Claim,
    confidence: float,
) -> dict[str, Any]:
    """What an observer's scores prove and look like; as audit.json has it.

    Args:
        scores: of each organisation's canaries; None where it saw nothing. Not all are None.
        canaries: of each organisation.
        claim: to compare with.
        confidence: of the bound, and again of the estimate.
    """
    seen = [(s, own) for s, own in zip(scores, canaries, strict=True) if s is not None]
    score = np.concatenate([s for s, _ in seen])
    inside = np.concatenate([own.inside for _, own in seen])
    kinds = np.concatenate([own.kinds for _, own in seen])
    best = guess(score, inside, delta=claim.delta, confidence=confidence)
    estimate = _loudest(score, inside, kinds, claim.delta, confidence)
    return {
        "canaries": len(score),
        "guesses": best.guesses,
        "correct": best.correct,
        "epsilon_lower_bound": best.epsilon,
        "largest_provable": largest_provable(len(score), delta=claim.delta, confidence=confidence),
        "estimate": asdict(estimate),
        "violated": best.epsilon > claim.epsilon or estimate.low > claim.epsilon,
    }


def _loudest(
    scores: Floats, inside: Bools, kinds: NDArray[np.int64], delta: float, confidence: float
) -> Estimate:
    """The estimate of the kind of canary that is heard best, its interval for the choice too."""
    each = 1 - (1 - confidence) / len(KINDS)
    estimates = [
        gaussian_estimate(
            scores[kinds == kind], inside[kinds == kind], delta=delta, confidence=each
        )
        for kind in range(len(KINDS))
    ]
    return max(estimates, key=lambda estimate: estimate.low)


def reasons(
    observers: Sequence[Mapping[str, Any]],
    sensitivity: Mapping[str, Any],
    books: Mapping[str, Any],
    claim: Claim,
) -> list[str]:
    """Why the claim is violated, in sentences; none where it is not."""
    found = []
    for each in observers:
        if each["epsilon_lower_bound"] > claim.epsilon:
            found.append(
                f"The {each['name']} observer guessed {each['correct']} of {each['guesses']} "
                f"coins, which proves ε of at least {each['epsilon_lower_bound']:.2f}; claimed are "
                f"{claim.epsilon:.2f}."
            )
        if each["estimate"]["low"] > claim.epsilon:
            found.append(
                f"The {each['name']} observer's scores look like ε = "
                f"{each['estimate']['epsilon']:.2f}, and not below {each['estimate']['low']:.2f}; "
                f"claimed are {claim.epsilon:.2f}."
            )
    if sensitivity["violated"]:
        found.append(
            f"One user added {sensitivity['largest']:.3g} clip norms to a sum; 1 is allowed."
        )
    if books["violated"]:
        found.append(
            f"{books['seen']} releases left {books['organisation']}, which cost ε = "
            f"{books['epsilon_recomputed']:.2f}; its ledger says {books['epsilon_ledger']:.2f}."
        )
    return found


def limits(white: Mapping[str, Any] | None, provable: float, claim: Claim) -> list[str]:
    """What the observers together could not have seen, in sentences.

    Args:
        white: figures of the one who sees all that left; None if nobody could look.
        provable: the most that any observer's guesses could have proven.
        claim: what they were to disprove.
    """
    found = []
    if provable <= claim.epsilon:
        found.append(
            f"So many canaries can prove ε of {provable:.2f} at most, and {claim.epsilon:.2f} is "
            "claimed: guesses could not have shown a violation, only estimates could. Plant more, "
            "or audit the same pipeline at a smaller ε."
        )
    if white is None:
        found.append("No release could be replayed: nobody looked at what left the sites.")
    else:
        found.append(_least_visible(white["estimate"], claim))
    return found


def _least_visible(estimate: Mapping[str, float], claim: Claim) -> str:
    """How much weaker the noise would have had to be to be noticed, from the interval's width."""
    middle, low, wanted = (
        gaussian_separation(value, claim.delta)
        for value in (estimate["epsilon"], estimate["low"], claim.epsilon)
    )
    if middle <= 0 or middle - low >= middle:
        return (
            "The white-box observer told nothing from nothing: with so few canaries no weakness of "
            "the noise would have been noticed. Plant more."
        )
    factor = (wanted + (middle - low)) / middle
    return (
        f"The white-box observer would have noticed noise {factor:.3g} times weaker than claimed "
        f"(then about ε = {gaussian_epsilon(factor * middle, claim.delta):.1f}), not much less."
        if factor > 1
        else "The white-box observer's estimate is above the claim already."
    )
