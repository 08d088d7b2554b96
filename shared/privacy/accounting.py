"""What releases cost together: (ε, δ) by numerical composition of privacy loss variables.

Mechanism: the Poisson-subsampled Gaussian. Composition: Gopi, Lee & Wutschitz 2021
(arXiv:2106.02848) as Opacus implements it; its upper bound is what is reported. Opacus's GDP
accountant understates ε and is never used.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from opacus.accountants import PRVAccountant

from shared.errors import AccountingError
from shared.privacy.release import Release, ReleaseKind, merge

__all__ = ["epsilon", "noise_multiplier_for"]

RELATIVE_ERROR = 0.002
"""Error allowed to the numerical composition, as a share of ε (absolute 0.01 at most)."""
LARGEST_NOISE = 1e4
"""Beyond this noise multiplier nothing could be learned: a target that needs more is refused."""


def epsilon(releases: Sequence[Release], delta: float) -> float:
    """The ε that `releases` cost together at `delta`.

    Returns:
        An upper bound on ε, >= 0; 0 for no release, infinity if one carried no noise.

    Raises:
        AccountingError: delta is not in (0, 1).
    """
    if not 0 < delta < 1:
        raise AccountingError(f"delta must be in (0, 1), not {delta}: choose one below 1/users.")
    if not releases:
        return 0.0
    if not all(release.private for release in releases):
        return float("inf")
    forms = tuple(sorted((m.noise_multiplier, m.sample_rate, m.steps) for m in _costs(releases)))
    return _prv_epsilon(forms, delta)


def _costs(releases: Sequence[Release]) -> list[Release]:
    """Releases merged across kinds: what a sum was for does not change its cost."""
    return merge(
        [
            Release(
                kind=ReleaseKind.TRAIN,
                noise_multiplier=release.noise_multiplier,
                sample_rate=release.sample_rate,
                steps=release.steps,
            )
            for release in releases
        ]
    )


@lru_cache(maxsize=256)
def _prv_epsilon(forms: tuple[tuple[float, float, int], ...], delta: float) -> float:
    accountant = PRVAccountant()
    accountant.history = list(forms)
    rough = float(accountant.get_epsilon(delta, eps_error=0.1))
    error = min(0.01, max(RELATIVE_ERROR * rough, 1e-4))
    return max(0.0, float(accountant.get_epsilon(delta, eps_error=error)))


def noise_multiplier_for(
    target_epsilon: float, delta: float, *, sample_rate: float, steps: int
) -> float:
    """The least noise with which `steps` sums at `sample_rate` cost at most `target_epsilon`.

    Found by bisection to a relative 1e-4, always on the private side of the target.

    Raises:
        AccountingError: the target is not a positive number, or no usable noise meets it.
    """
    if not 0 < target_epsilon < float("inf"):
        raise AccountingError(
            f"epsilon must be a positive number, not {target_epsilon}: "
            "8 is a loose budget, 1 a strict one; 'none' trains without privacy."
        )

    def cost(noise: float) -> float:
        form = Release(
            kind=ReleaseKind.TRAIN, noise_multiplier=noise, sample_rate=sample_rate, steps=steps
        )
        return epsilon([form], delta)

    high = 1.0
    while cost(high) > target_epsilon:
        high *= 2
        if high > LARGEST_NOISE:
            raise AccountingError(
                f"no noise multiplier up to {LARGEST_NOISE:g} meets ε = {target_epsilon} at "
                f"δ = {delta} over {steps} steps at sample rate {sample_rate}: "
                "take fewer steps, a smaller sample rate, or a larger ε."
            )
    low = high / 2
    while low > 0.05 and cost(low) <= target_epsilon:
        low, high = low / 2, low
    while high / low > 1 + 1e-4:
        middle = (low + high) / 2
        low, high = (low, middle) if cost(middle) <= target_epsilon else (middle, high)
    return high
