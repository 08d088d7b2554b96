"""Figures and sentences from scores whose meaning is known."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from shared.data.histories import Histories
from simulations.audit.canaries import Canaries
from simulations.audit.verdict import Claim, limitations, observer_figures, violations

MANY = 1000
FINE = {"largest": 1.0, "violated": False}
BOOKS = {
    "organisation": "a",
    "seen": 2,
    "epsilon_recomputed": 4.0,
    "epsilon_ledger": 4.0,
    "violated": False,
}


def canaries(number: int, seed: int = 0) -> Canaries:
    rng = np.random.default_rng(seed)
    lists = [[1, 2]] * number
    return Canaries(Histories.from_lists(lists), rng.random(number) < 0.5, np.arange(number) % 2)


def figures(claim: float, *, noise: float, number: int = MANY) -> dict[str, Any]:
    own = canaries(number)
    scores = own.inside + noise * np.random.default_rng(1).normal(size=number)
    observed = observer_figures([scores], [own], Claim(claim, 1e-5, "a"), 0.95)
    return {"name": "white-box"} | observed


def test_certain_scores_prove_more_than_a_small_claim() -> None:
    observed = figures(2.0, noise=1e-6)
    assert observed["violated"]
    assert observed["epsilon_lower_bound"] == pytest.approx(observed["largest_provable"])
    [proved, suggested] = violations([observed], FINE, BOOKS)
    assert "proves ε ≥" in proved
    assert "the claim is ε = 2.00" in proved
    assert "suggest ε = 1000.00" in suggested


def test_what_is_hidden_as_claimed_is_no_reason() -> None:
    observed = figures(4.0, noise=1 / 0.92)
    assert not observed["violated"]
    assert violations([observed], FINE, BOOKS) == []


def test_unobserved_organisations_do_not_count() -> None:
    own, other = canaries(40), canaries(60, seed=1)
    observed = observer_figures(
        [None, other.inside.astype(np.float64)], [own, other], Claim(1.0, 1e-5, "a"), 0.95
    )
    assert observed["canaries"] == 60
    assert observed["estimate"]["epsilon"] == 1000


def test_the_kind_of_canary_with_the_highest_estimate_counts() -> None:
    own = canaries(MANY)
    signal = np.where(own.kinds == 1, 10.0, 0.0) * own.inside
    scores = signal + np.random.default_rng(2).normal(size=MANY)
    observed = observer_figures([scores], [own], Claim(4.0, 1e-5, "a"), 0.95)
    assert observed["estimate"]["low"] > 50


def test_a_share_and_books_beyond_the_claim_are_reasons() -> None:
    share, books = (
        {"largest": 1.3, "violated": True},
        BOOKS
        | {
            "epsilon_ledger": 2.0,
            "violated": True,
        },
    )
    [one, two] = violations([], share, books)
    assert one == "One user added 1.3 clip norms to a sum; the limit is 1."
    assert two == "The 2 releases that left a cost ε = 4.00; its ledger states 2.00."


def test_limits_say_what_could_not_be_seen() -> None:
    claim = Claim(8.0, 1e-5, "a")
    observed = figures(8.0, noise=1 / 1.65)
    [guesses, estimate] = limitations(observed, observed["largest_provable"], claim)
    assert "claimed: only the estimates could have shown a violation" in guesses
    assert "times weaker than claimed" in estimate
    assert "No release could be replayed" in limitations(None, 9.0, claim)[0]


def test_an_observer_that_detects_nothing_is_reported() -> None:
    observed = figures(8.0, noise=100.0, number=60)
    assert (
        "no weakness of the noise would have been detected"
        in limitations(observed, 9.0, Claim(8.0, 1e-5, "a"))[0]
    )


def test_noise_as_weak_as_limits_say_would_have_been_detected() -> None:
    """The factor that the sentence names, taken off the noise, is caught; half of it is not."""
    claim = Claim(4.0, 1e-5, "a")
    honest = figures(4.0, noise=1 / 0.925, number=4000)
    sentence = limitations(honest, 9.0, claim)[0]
    factor = float(sentence.split("detected noise ")[1].split(" ")[0])
    assert 1 < factor < 1.5
    assert figures(4.0, noise=1 / (0.925 * (factor + 0.15)), number=4000)["violated"]
    assert not figures(4.0, noise=1 / (0.925 * (1 + (factor - 1) / 4)), number=4000)["violated"]
