"""Audit pipelines with a planted fault, fault by fault.

    python -m simulations.audit.planted_faults [--canaries 600] [--epsilon 4] [--only NAME] \
        [--adversary hostile]

On the embedded data, four organisations, statistics and two rounds of DP-SGD; the tied table's
fault in a model of learned ids, those of secure aggregation in statistics alone. Prints a table:
the verdict, for each observer the bound from its guesses and the estimate from its scores, one
user's largest share of a clip norm, the comparison of what left with the ledger, and what was found
of the masks. A hostile coordinator asks what it likes instead, and sees no sums.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

import client.compute.noise_optimiser
import client.compute.statistics
import client.compute.steps
import client.compute.trainer
import client.ledger.ledger
import client.site.site
from client.site.site import Site
from shared.data.histories import Histories
from shared.models.moments import layer_norm, states
from shared.privacy.clipping.clipping import PerUserClipping
from shared.privacy.clipping.factors import WeightGradient, squared_norms
from shared.privacy.noise import RandomSource, SeededRandom, noised
from simulations.audit.audit import audit
from simulations.audit.masking_faults import MASKING_FAULTS, SECURE
from simulations.audit.plan import Adversary, AuditPlan
from simulations.experiment.config import read_settings
from simulations.experiment.simulation import RoundFigures

__all__ = ["FAULTS", "TIED_IDS", "audit_with_fault"]

Floats = NDArray[np.float64]

TIED_IDS = (
    'model.items="ids"',
    "model.hidden_size=16",
    'model.trained="all"',
    "warm_start.share=0",
)
"""Settings of a recommender with a learned, tied table of items."""
_NO_BOUND = 1e4
"""A clip norm above every gradient's, though not far above: sums are kept to 2^-24 of it."""
_MODULES = (client.compute.statistics, client.compute.noise_optimiser)


def _noise(changed: Callable[[Tensor, float, RandomSource], Tensor]) -> Iterator[None]:
    one, two = (patch.object(module, "noised", changed) for module in _MODULES)
    with one, two:
        yield


@contextmanager
def _no_noise() -> Iterator[None]:
    def none(total: Tensor, *_: object) -> Tensor:
        return total.clone()

    yield from _noise(none)


@contextmanager
def _half_the_noise() -> Iterator[None]:
    yield from _noise(lambda total, scale, random: noised(total, scale / 2, random))


@contextmanager
def _no_clipping() -> Iterator[None]:
    def counts(histories: Histories, items: int, *_: object) -> Floats:
        chosen = [np.unique(history) for history in histories]
        return np.bincount(np.concatenate(chosen) - 1, minlength=items).astype(float)

    def moments(
        histories: Histories, table: NDArray[np.float32], recency: float, *_: object
    ) -> Floats:
        normed, total = layer_norm(table), np.zeros((table.shape[1],) * 2)
        for history in histories:
            if len(history) > 1:
                total += states(normed, history[:-1], recency).T @ table[history[1:] - 1]
        return total

    def unclipped(model: Any, _: float) -> PerUserClipping:  # noqa: ANN401 a module
        return PerUserClipping(model, _NO_BOUND)

    with (
        patch.object(client.compute.statistics, "popularity_sum", counts),
        patch.object(client.compute.statistics, "moment_sum", moments),
        patch.object(client.compute.trainer, "PerUserClipping", unclipped),
        patch.object(client.compute.steps, "PerUserClipping", unclipped),
        # The coordinator would refuse sums that no clipped users add up to.
        patch("server.rounds.replies.MAX_DEVIATIONS", 1e9),
    ):
        yield


@contextmanager
def _one_seed_for_all() -> Iterator[None]:
    def random(site: Site, number: int, *purpose: int) -> RandomSource:
        return SeededRandom(site.lab.seed, 0, number, *purpose)

    with patch.object(Site, "random", random):
        yield


@contextmanager
def _the_same_noise_again() -> Iterator[None]:
    def random(site: Site, *_: int) -> RandomSource:
        return SeededRandom(site.lab.seed, site.lab.stream)

    with patch.object(Site, "random", random):
        yield


@contextmanager
def _forgetful_ledger() -> Iterator[None]:
    releases = client.ledger.ledger.Ledger.releases
    with patch.object(
        client.ledger.ledger.Ledger, "releases", lambda ledger: releases(ledger)[::2]
    ):
        yield


@contextmanager
def _missed_path() -> Iterator[None]:
    """Leave the look-ups out of a tied table's norm, and disable the check that would notice."""
    form = WeightGradient.form
    missed: list[Tensor] = []

    def formed(gradient: WeightGradient, users: slice) -> Tensor:
        values = form(gradient, users)
        if gradient.outers and gradient.rows:
            matrix_alone = gradient.outers[0].formed(users)
            missed.append(squared_norms(values) - squared_norms(matrix_alone))
        return values

    def without_missed(values: Tensor) -> Tensor:
        squares = squared_norms(values)
        while missed:
            squares -= missed.pop()
        return squares

    with (
        patch.object(WeightGradient, "form", formed),
        patch("shared.privacy.clipping.clipping.squared_norms", without_missed),
        patch.object(client.compute.trainer, "probe", lambda *_: None),
    ):
        yield


FAULTS: dict[str, Callable[[], Any]] = {
    "none": nullcontext,
    "noise off": _no_noise,
    "noise scaled by half": _half_the_noise,
    "clipping off": _no_clipping,
    "the same seed on all clients": _one_seed_for_all,
    "the same noise every round": _the_same_noise_again,
    "an accountant that forgets rounds": _forgetful_ledger,
    "a tied table's norm that misses a path": _missed_path,
    **MASKING_FAULTS,
}
"""A context manager that plants each fault; "none" is the unchanged pipeline."""


def audit_with_fault(
    fault: str, settings: list[str], plan: AuditPlan, folder: Path
) -> dict[str, Any]:
    """Audit a pipeline that has the fault.

    Args:
        fault: one of `FAULTS`.
        settings: of the run, as `section.key=value`.
        plan: of the audit.
        folder: for the run.
    """
    with FAULTS[fault]():
        return audit(read_settings(None, {}, settings), plan, folder, _Silent())


class _Silent:
    """A reporter that prints nothing."""

    def stage(self, text: str) -> None: ...

    def round(self, done: int, of: int, figures: RoundFigures) -> None: ...


def main() -> None:
    """Audit with each fault, and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--canaries", type=int, default=600)
    parser.add_argument("--epsilon", type=float, default=4.0)
    parser.add_argument("--adversary", type=Adversary, choices=list(Adversary), default="honest")
    parser.add_argument("--only", choices=list(FAULTS), action="append")
    options = parser.parse_args()
    sys.stdout.write(
        "| fault | verdict | observer: ε proved, ε estimated | largest share | ε recomputed | "
        "masks |\n|---|---|---|---|---|---|\n"
    )
    hostile = options.adversary is Adversary.HOSTILE
    tried = [name for name in FAULTS if not (hostile and name in MASKING_FAULTS)]
    for fault in options.only or tried:
        settings = [
            f"privacy.epsilon={options.epsilon}",
            "privacy.delta=1e-5",
            "lab.alone=false",
            *(SECURE if fault in MASKING_FAULTS else ("training.rounds=2",)),
            *(TIED_IDS if fault.startswith("a tied") else ()),
        ]
        with tempfile.TemporaryDirectory() as folder:
            plan = AuditPlan(adversary=options.adversary, canaries=options.canaries)
            record = audit_with_fault(fault, settings, plan, Path(folder) / "run")
        sys.stdout.write(_row(fault, record) + "\n")
        sys.stdout.flush()


def _row(fault: str, record: dict[str, Any]) -> str:
    seen = "; ".join(
        f"{each['name']}: {each['epsilon_lower_bound']:.1f}, {each['estimate']['epsilon']:.3g} "
        f"({each['estimate']['low']:.3g} to {each['estimate']['high']:.3g})"
        for each in record["observers"]
    )
    books = record["books"]
    masks = "" if record["masks"] is None else " ".join(record["masks"]["found"]) or "nothing"
    return (
        f"| {fault} | {record['verdict']} | {seen} | {record['sensitivity']['largest']:.3g} | "
        f"{books['epsilon_recomputed']:.2f}, ledger {books['epsilon_ledger']:.2f} | {masks} |"
    )


if __name__ == "__main__":
    main()
