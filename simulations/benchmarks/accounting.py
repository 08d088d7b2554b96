"""Time the computation of ε, and compare it with two other accountants.

    python -m simulations.benchmarks.accounting [--grid] [--json FILE]

Prints seconds for three histories, by our accountant and by Opacus's PRV; with --grid also the
difference from dp_accounting's PLD over noise multipliers from .3 to 50, sample rates from 1e-4 to
1 and 1 to 10,000 steps, wherever ε lies from .001 to 100 at δ = 1e-5 (several minutes).
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import dp_accounting
import numpy as np
from dp_accounting.pld import PLDAccountant
from opacus.accountants import PRVAccountant

from shared.privacy.accounting.accountant import epsilon
from shared.privacy.release import Release, ReleaseKind

DELTA = 1e-5
NOISE = (0.3, 0.5, 0.7, 1.0, 1.5, 3.0, 10.0, 50.0)
RATES = (1e-4, 1e-3, 1e-2, 0.1, 0.5, 1.0)
STEPS = (1, 10, 100, 1000, 10_000)
LEAST, MOST = 0.001, 100.0

Form = tuple[float, float, int]
HISTORIES: dict[str, list[Form]] = {
    "10,000 equal": [(2.0, 0.01, 10_000)],
    "200 different": [(4.0 - 0.01 * i, 0.02, 50) for i in range(200)],
}


def releases(forms: list[Form]) -> list[Release]:
    """Return releases as the ledger stores them."""
    return [
        Release(kind=ReleaseKind.TRAIN, noise_multiplier=noise, sample_rate=rate, steps=steps)
        for noise, rate, steps in forms
    ]


def by_prv(forms: list[Form]) -> float:
    """Return ε by Opacus's numerical composition."""
    accountant = PRVAccountant()
    accountant.history = list(forms)
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return float(accountant.get_epsilon(DELTA))


def by_pld(form: Form) -> float:
    """Return ε by dp-accounting, on a grid fine enough that it does not overestimate ε."""
    noise, rate, steps = form
    mesh = 2e-3 * epsilon(releases([form]), DELTA) / math.sqrt(steps)
    accountant = PLDAccountant(
        dp_accounting.NeighboringRelation.ADD_OR_REMOVE_ONE,
        value_discretization_interval=float(np.clip(mesh, 1e-6, 1e-3)),
    )
    event = dp_accounting.PoissonSampledDpEvent(rate, dp_accounting.GaussianDpEvent(noise))
    accountant.compose(event, steps)
    return float(accountant.get_epsilon(DELTA))


def by_ours(forms: list[Form]) -> float:
    """Return ε by the ledger's accountant."""
    return epsilon(releases(forms), DELTA)


def timed(accountant: Callable[[list[Form]], float], forms: list[Form]) -> tuple[float, float]:
    """Return a function's result and its seconds."""
    started = time.perf_counter()
    return accountant(forms), time.perf_counter() - started


def grid() -> dict[Form, float]:
    """Return the relative difference of our ε from PLD's, by form."""
    differences = {}
    for form in itertools.product(NOISE, RATES, STEPS):
        ours = epsilon(releases([form]), DELTA)
        if LEAST <= ours <= MOST:
            differences[form] = ours / by_pld(form) - 1
    return differences


def main() -> None:
    """Print the timings, and with --grid the differences."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--grid", action="store_true")
    parser.add_argument("--json")
    options = parser.parse_args()
    measurements: dict[str, object] = {}
    for name, forms in HISTORIES.items():
        ours, seconds = timed(by_ours, forms)
        theirs, longer = timed(by_prv, forms)
        measurements[name] = {"ours": [ours, seconds], "prv": [theirs, longer]}
        sys.stdout.write(
            f"{name}: ours {ours:.4f} in {seconds:.3f} s, PRV {theirs:.4f} in {longer:.2f} s\n"
        )
    if options.grid:
        differences = grid()
        low, high = (pick(differences, key=differences.__getitem__) for pick in (min, max))
        measurements["grid"] = [[*form, difference] for form, difference in differences.items()]
        sys.stdout.write(
            f"{len(differences)} combinations against PLD: from {differences[low]:+.4%} at {low} "
            f"to {differences[high]:+.4%} at {high}\n"
        )
    if options.json:
        Path(options.json).write_text(json.dumps(measurements, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
