"""Stands between every request and the data: admits or refuses, charges, repeats itself.

The order is fixed: a kept answer goes out again; else the request is checked and prepared for, the
ledger is charged, and only then anything is computed; the answer is on disk before it leaves.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from safetensors.torch import load, save
from torch import Tensor

from client.ledger import Entry, Ledger
from client.site import Site
from shared.errors import Refusal, Refused
from shared.privacy.release import Release, ReleaseKind
from shared.wire import TrainRequest

__all__ = ["Computation", "Guard"]

Change = dict[str, Tensor]
"""Noised change of each trainable weight, by name."""
Computation = Callable[[], Change]
SMALLEST_SPREAD = 1e-20
"""Least standard deviation of a release: near float32's smallest numbers noise rounds to 0."""
LARGEST_SPREAD = 1e20
"""Largest clip norm and noise: near float32's largest numbers a sum would be infinite."""


class Guard:
    """The partner's policy, as it meets each request.

    Args:
        site: whose policy.
        ledger: where its budget is kept.
        catalogue: fingerprint of the catalogue that the site holds.
    """

    def __init__(self, site: Site, ledger: Ledger, catalogue: str) -> None:
        self._site, self._ledger, self._catalogue = site, ledger, catalogue

    def train(self, request: TrainRequest, prepare: Callable[[], Computation]) -> Change:
        """The answer to a request for training: kept, or computed once and paid for.

        Args:
            request: what the coordinator asks.
            prepare: does all that may fail, and releases nothing: reads the data, builds the
                model. What it returns is called at most once, after the charge, and gives the
                noised change: a broken data file costs no budget.

        Raises:
            Refused: the request is outside the policy, or would overspend.
            LedgerError: the ledger cannot be read or written; nothing was computed.
        """
        kept = self._ledger.answer(request.run, request.round)
        if kept is None:
            release, compute = self._admit(request), prepare()
            policy = self._site.policy
            self._ledger.charge(
                Entry(run=request.run, round=request.round, release=release),
                max_epsilon=policy.max_epsilon,
                delta=policy.delta,
            )
            change = {name: value.contiguous() for name, value in compute().items()}
            kept = self._ledger.keep_answer(request.run, request.round, save(change))
        # In a fixed order, which `load` does not have: the same bytes go out again.
        return dict(sorted(load(kept).items()))

    def _admit(self, request: TrainRequest) -> Release:
        if request.catalogue != self._catalogue:
            raise Refused(
                Refusal.CATALOGUE,
                f"the request is for catalogue {request.catalogue[:12]}, this site holds "
                f"{self._catalogue[:12]}: ask the coordinator for the current one",
            )
        spread = request.noise_multiplier * request.clip_norm
        if request.noise_multiplier and not SMALLEST_SPREAD < spread < LARGEST_SPREAD:
            raise Refused(Refusal.POLICY, f"noise of {spread:g} would be lost in float32")
        if request.clip_norm > LARGEST_SPREAD:
            raise Refused(Refusal.POLICY, f"clip norm {request.clip_norm:g} would overflow float32")
        if not all(np.isfinite(value).all() for value in request.weights.values()):
            raise Refused(Refusal.MALFORMED, "the global weights are not all finite")
        return Release(
            kind=ReleaseKind.TRAIN,
            noise_multiplier=request.noise_multiplier,
            sample_rate=request.sample_rate,
            steps=request.local_steps,
        )
