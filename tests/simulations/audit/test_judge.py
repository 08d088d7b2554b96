"""Figures and sentences from scores whose meaning is known."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from shared.data.histories import Histories
from simulations.audit.canaries import Canaries
from simulations.audit.judge import Claim, limits, observer, reasons

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


def told(claim: float, *, noise: float, number: int = MANY) -> dict[str, Any]:
    own = canaries(number)
    scores = own.inside + noise * np.random.default_rng(1).normal(size=number)
    found = observer([scores], [own], Claim(claim, 1e-5, "a"), 0.95)
    return {"name": "white-box"} | found


def test_what_is_told_for_certain_is_proven_beyond_a_small_claim() -> None:
    found = told(2.0, noise=1e-6)
    assert found["violated"]
    assert found["epsilon_lower_bound"] == pytest.approx(found["largest_provable"])
    [proven, looks] = reasons([found], FINE, BOOKS, Claim(2.0, 1e-5, "a"))
    assert "proves ε of at least" in proven
    assert "claimed are 2.00" in proven
    assert "look like ε = 1000.00" in looks


def test_what_is_hidden_as_claimed_is_no_reason() -> None:
    found = told(4.0, noise=1 / 0.92)
    assert not found["violated"]
    assert reasons([found], FINE, BOOKS, Claim(4.0, 1e-5, "a")) == []


def test_organisations_that_nobody_could_look_at_do_not_count() -> None:
    own, other = canaries(40), canaries(60, seed=1)
    found = observer(
        [None, other.inside.astype(np.float64)], [own, other], Claim(1.0, 1e-5, "a"), 0.95
    )
    assert found["canaries"] == 60
    assert found["estimate"]["epsilon"] == 1000


def test_the_kind_that_is_heard_best_counts() -> None:
    own = canaries(MANY)
    loud = np.where(own.kinds == 1, 10.0, 0.0) * own.inside
    scores = loud + np.random.default_rng(2).normal(size=MANY)
    found = observer([scores], [own], Claim(4.0, 1e-5, "a"), 0.95)
    assert found["estimate"]["low"] > 50


def test_a_share_and_books_beyond_the_claim_are_reasons() -> None:
    share, books = (
        {"largest": 1.3, "violated": True},
        BOOKS
        | {
            "epsilon_ledger": 2.0,
            "violated": True,
        },
    )
    [one, two] = reasons([], share, books, Claim(2.0, 1e-5, "a"))
    assert one == "One user added 1.3 clip norms to a sum; 1 is allowed."
    assert two == "2 releases left a, which cost ε = 4.00; its ledger says 2.00."


def test_limits_say_what_could_not_be_seen() -> None:
    claim = Claim(8.0, 1e-5, "a")
    found = told(8.0, noise=1 / 1.65)
    [guesses, estimate] = limits(found, found["largest_provable"], claim)
    assert "claimed: guesses could not have shown a violation" in guesses
    assert "times weaker than claimed" in estimate
    assert "nobody looked" in limits(None, 9.0, claim)[0]


def test_a_deaf_observer_is_called_deaf() -> None:
    found = told(8.0, noise=100.0, number=60)
    assert (
        "no weakness of the noise would have been noticed"
        in limits(found, 9.0, Claim(8.0, 1e-5, "a"))[0]
    )


def test_noise_as_weak_as_limits_say_would_have_been_noticed() -> None:
    """The factor that the sentence names, taken off the noise, is caught; half of it is not."""
    claim = Claim(4.0, 1e-5, "a")
    honest = told(4.0, noise=1 / 0.925, number=4000)
    sentence = limits(honest, 9.0, claim)[0]
    factor = float(sentence.split("noticed noise ")[1].split(" ")[0])
    assert 1 < factor < 1.5
    assert told(4.0, noise=1 / (0.925 * (factor + 0.15)), number=4000)["violated"]
    assert not told(4.0, noise=1 / (0.925 * (1 + (factor - 1) / 4)), number=4000)["violated"]
