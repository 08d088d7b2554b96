"""The books: what left, added up by an accountant of another make than the ledger's."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from shared.privacy.accounting.accountant import epsilon
from shared.privacy.release import Release, merge
from simulations.experiment.accountants import opacus_epsilon

__all__ = ["books"]

TOLERANCE = 0.01
"""How far two accountants may differ, of ε."""


def books(
    releases: Mapping[str, Sequence[Release]], ledgers: Mapping[str, float], delta: float
) -> dict[str, Any]:
    """The organisation where what left costs most beyond what its ledger says.

    Args:
        releases: seen leaving each organisation, a repeated one once.
        ledgers: ε that each organisation's ledger says.
        delta: of the claim.

    Returns:
        As audit.json has it.
    """
    found = []
    for name, ledger in ledgers.items():
        seen = list(releases.get(name, []))
        recomputed, accountant = _recomputed(seen, delta)
        found.append((recomputed - ledger, name, len(seen), recomputed, ledger, accountant))
    _, name, count, recomputed, ledger, accountant = max(found)
    return {
        "organisation": name,
        "seen": count,
        "epsilon_recomputed": recomputed,
        "epsilon_ledger": ledger,
        "accountant": accountant,
        "violated": recomputed > ledger * (1 + TOLERANCE) + 1e-6,
    }


def _recomputed(releases: Sequence[Release], delta: float) -> tuple[float, str]:
    scale = epsilon(releases, delta)
    if 0 < scale < math.inf:
        with np.errstate(all="ignore"):
            other = opacus_epsilon(merge(list(releases)), delta, scale)
        if other is not None:
            return other, "Opacus's PRV"
    return scale, "Sotto's own"
