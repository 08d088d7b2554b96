"""A site with two past runs, refusals, and answers that are no longer kept."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors.numpy import save

from client.ledger.ledger import Entry, Ledger
from client.ledger.limits import Limits
from client.site.site import Site
from shared.outcomes import Refusal
from shared.privacy.release import Release, ReleaseKind

FIRST, SECOND = "3f2a9c01d4e5b677", "b81e0f6677aa2310"


@dataclass(frozen=True)
class Spending:
    """A site that charges and answers rounds without any data."""

    folder: Path

    @property
    def site(self) -> Site:
        return Site.load(self.folder)

    @property
    def ledger(self) -> Ledger:
        return self.site.open_ledger()

    def round(
        self,
        run: str,
        number: int,
        noise: float = 2.0,
        *,
        kind: ReleaseKind = ReleaseKind.TRAIN,
        steps: int = 1,
    ) -> bytes:
        """Charge and answer a round; may raise BudgetExceeded."""
        release = Release(kind=kind, noise_multiplier=noise, sample_rate=0.1, steps=steps)
        policy, ledger = self.site.policy, self.ledger
        entry = Entry(run=run, round=number, release=release)
        ledger.charge(entry, Limits(max_epsilon=policy.max_epsilon, delta=policy.delta))
        names = {"blocks.0.query": (4, 3), "item_bias": (20,)}
        if kind is ReleaseKind.EVALUATE:
            names = {"sums": (3,)}
        draw = np.random.default_rng(number)
        arrays = {name: draw.normal(size=s).astype(np.float32) for name, s in names.items()}
        return ledger.keep_answer(entry, save(arrays))

    def live(self) -> None:
        """Five rounds with two metrics, then two rounds of two steps; one refusal in between."""
        for number in range(1, 6):
            self.round(FIRST, number)
            if number in (2, 4):
                self.round(FIRST, number, kind=ReleaseKind.EVALUATE)
        self.ledger.refuse(Refusal.POLICY, {"kind": "train", "run": SECOND, "round": 1})
        self.ledger.refuse(Refusal.BUDGET, {"kind": "train", "run": SECOND, "round": 1})
        self.ledger.refuse(Refusal.BUDGET, {"kind": "train", "run": SECOND, "round": 1})
        for number in (1, 2):
            self.round(SECOND, number, 1.5, steps=2)
