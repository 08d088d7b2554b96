"""Solve for noise, steps or ε given the other two, and compare several accountants.

Releases that were spent before are counted too. The Gaussian central limit ("GDP") understates ε,
so it is not among the accountants.
"""

from __future__ import annotations

import importlib.util
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from shared.errors import ConfigError
from shared.privacy.accounting.accountant import (
    epsilon,
    noise_multiplier_for,
    renyi_epsilon,
    steps_for,
)
from shared.privacy.release import Release, ReleaseKind, merge

__all__ = ["Answer", "Question", "answer", "opacus_epsilon"]

OTHERS_EPSILON, OTHERS_STEPS, OTHERS_FORMS = 100.0, 100_000, 10
"""The other accountants take minutes beyond these limits, and are skipped."""
OTHERS_GRID = 4e6
"""Most grid points for Opacus; they limit its accuracy where ε is small."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """Two of noise, steps and target ε; with none of them, only the cost of `spent` is asked.

    Attributes:
        delta: in (0, 1).
        sample_rate: probability that a user is in a step, in (0, 1].
        noise_multiplier: > 0.
        steps: >= 1.
        target: ε that `spent` and the new steps may cost together, > 0.
        spent: earlier releases.
    """

    delta: float
    sample_rate: float | None = None
    noise_multiplier: float | None = None
    steps: int | None = None
    target: float | None = None
    spent: tuple[Release, ...] = ()

    def __post_init__(self) -> None:
        noise, rate, steps = self.noise_multiplier, self.sample_rate, self.steps
        checks = (
            ("--noise-multiplier", noise, noise is None or 0 < noise < math.inf, "above 0"),
            ("--sample-rate", rate, rate is None or 0 < rate <= 1, "above 0, at most 1"),
            ("--steps", steps, steps is None or steps >= 1, "of 1 or more"),
        )
        for name, value, holds, range_text in checks:
            if not holds:
                raise ConfigError(f"{name} {value}: give a number {range_text}.")
        given = sum(value is not None for value in (noise, steps, self.target))
        if given != 2 and not (given == 0 and self.spent):
            raise ConfigError(
                "give two of --noise-multiplier, --steps and --epsilon, and the third is computed; "
                "or only --spent, for the ε that it cost."
            )
        if given and rate is None:
            raise ConfigError("--sample-rate is not set: state the probability of a user.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """The release that was solved for, and its ε.

    Attributes:
        release: the new steps; None if only `spent` was given, or if not one step fits.
        epsilon: of earlier and new steps together, by accountant; None where an accountant was
            skipped or failed.
    """

    release: Release | None
    epsilon: dict[str, float | None]


def answer(question: Question) -> Answer:
    """Solve for the missing quantity, and return what all releases cost.

    Raises:
        AccountingError: delta or the target is out of range, or no noise meets the target.
    """
    release = _solve(question)
    together = [*question.spent, *([release] if release else [])]
    return Answer(release=release, epsilon=_epsilon_by_accountant(together, question.delta))


def _solve(question: Question) -> Release | None:
    noise, rate, steps = question.noise_multiplier, question.sample_rate, question.steps
    if rate is None:
        return None
    spent, target, delta = question.spent, question.target, question.delta
    if noise is None and steps is not None and target is not None:
        noise = noise_multiplier_for(target, delta, sample_rate=rate, steps=steps, spent=spent)
    elif steps is None and noise is not None and target is not None:
        steps = steps_for(target, delta, noise_multiplier=noise, sample_rate=rate, spent=spent)
    if noise is None or not steps:
        return None
    return Release(kind=ReleaseKind.TRAIN, noise_multiplier=noise, sample_rate=rate, steps=steps)


def _epsilon_by_accountant(releases: Sequence[Release], delta: float) -> dict[str, float | None]:
    ours, merged = epsilon(releases, delta), merge(list(releases))
    epsilons: dict[str, float | None] = {
        "sotto": ours,
        "rdp": renyi_epsilon(releases, delta),
        "prv": None,
    }
    others = {"prv": opacus_epsilon}
    if importlib.util.find_spec("dp_accounting"):
        others["pld"] = _google_epsilon
        epsilons["pld"] = None
    few = len(merged) <= OTHERS_FORMS and sum(r.steps for r in merged) <= OTHERS_STEPS
    if few and 0 < ours < OTHERS_EPSILON:
        with np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            epsilons |= {
                name: accountant(merged, delta, ours) for name, accountant in others.items()
            }
    return epsilons


def opacus_epsilon(releases: Sequence[Release], delta: float, scale: float) -> float | None:
    """Return Opacus's upper bound of ε (Gopi, Lee & Wutschitz 2021, arXiv:2106.02848).

    Args:
        releases: merged; many distinct ones take minutes.
        delta: in (0, 1).
        scale: a rough value of ε, which sets the grid's width.

    Returns:
        None where Opacus fails.
    """
    from opacus.accountants import PRVAccountant  # noqa: PLC0415 takes seconds to import

    accountant = PRVAccountant()
    accountant.history = [(r.noise_multiplier, r.sample_rate, r.steps) for r in releases]
    total = sum(release.steps for release in releases)
    width = 2 * (scale + 4) * math.sqrt(total * math.log(12e3 / delta) / 2)
    error = max(scale / 1000, width / OTHERS_GRID)
    try:
        return float(accountant.get_epsilon(delta, eps_error=error, delta_error=delta / 1000))
    except (ArithmeticError, MemoryError, RuntimeError, ValueError):
        return None


def _google_epsilon(releases: Sequence[Release], delta: float, scale: float) -> float | None:
    """Return ε by dp-accounting (Doroshenko et al. 2022, arXiv:2207.04380)."""
    import dp_accounting  # noqa: PLC0415 only where it is installed
    from dp_accounting.pld import PLDAccountant  # noqa: PLC0415

    total = sum(release.steps for release in releases)
    accountant = PLDAccountant(
        dp_accounting.NeighboringRelation.ADD_OR_REMOVE_ONE,
        value_discretization_interval=min(1e-3, max(1e-6, 5e-3 * scale / math.sqrt(total))),
    )
    for release in releases:
        event = dp_accounting.GaussianDpEvent(release.noise_multiplier)
        sampled = dp_accounting.PoissonSampledDpEvent(release.sample_rate, event)
        accountant.compose(sampled, release.steps)
    return float(accountant.get_epsilon(delta))
