"""Compare each ledger with an independent accountant's ε of what left the organisation."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from shared.privacy.accounting.accountant import epsilon
from shared.privacy.release import Release, merge
from simulations.experiment.accountants import opacus_epsilon

__all__ = ["compare_with_ledgers"]

TOLERANCE = 0.01
"""Largest relative difference between two accountants' ε."""


def compare_with_ledgers(
    releases: Mapping[str, Sequence[Release]], ledgers: Mapping[str, float], delta: float
) -> dict[str, Any]:
    """Return the organisation whose releases cost most beyond what its ledger states.

    Args:
        releases: observed leaving each organisation; a repeated one counts once.
        ledgers: ε that each organisation's ledger states.
        delta: of the claim.

    Returns:
        The section "books" of audit.json.
    """
    comparisons = []
    for name, ledger in ledgers.items():
        observed = list(releases.get(name, []))
        recomputed, accountant = _recompute(observed, delta)
        comparisons.append(
            (recomputed - ledger, name, len(observed), recomputed, ledger, accountant)
        )
    _, name, count, recomputed, ledger, accountant = max(comparisons)
    return {
        "organisation": name,
        "seen": count,
        "epsilon_recomputed": recomputed,
        "epsilon_ledger": ledger,
        "accountant": accountant,
        "violated": recomputed > ledger * (1 + TOLERANCE) + 1e-6,
    }


def _recompute(releases: Sequence[Release], delta: float) -> tuple[float, str]:
    scale = epsilon(releases, delta)
    if 0 < scale < math.inf:
        with np.errstate(all="ignore"):
            other = opacus_epsilon(merge(list(releases)), delta, scale)
        if other is not None:
            return other, "Opacus's PRV"
    return scale, "Sotto's own"
