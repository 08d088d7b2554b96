"""Sentences say what the numbers say, and stay neutral where those show nothing."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from simulations.report.figures.frontier import Frontier, Line, Point
from simulations.report.numbers.shares import Share
from simulations.report.numbers.users import Gain, Part
from simulations.report.reading.audits import Audit, read_audit
from simulations.report.reading.runs import Run, read_run
from simulations.report.text import claim, takeaways
from tests.simulations.report.folders import RunSpec, audit_of, write_run


def frontier(own: dict[float, list[float]], rival: dict[float, list[float]]) -> str:
    lines = [
        Line(model, "", tuple(Point(e, tuple(values)) for e, values in points.items()))
        for model, points in (("federated", own), ("popularity_private", rival))
    ]
    return takeaways.frontier(Frontier("ndcg@10", (lines[0],), (lines[1],)))


def test_a_frontier_says_where_it_starts_and_ends_and_what_it_beats() -> None:
    text = frontier({1: [0.05, 0.07], 8: [0.2, 0.2], math.inf: [0.3, 0.3]}, {1: [0.01], 8: [0.01]})
    assert "NDCG@10 is 0.0600 ± 0.0141 at ε = 1, and 0.2000 ± 0.0000 at ε = 8." in text
    assert "Without privacy it is 0.3000 ± 0.0000." in text
    assert "above the most popular items, counted under the same ε, at every measured ε" in text


@pytest.mark.parametrize(
    ("own", "expected"),
    [
        ([0.02, 0.04], "within the standard deviations at every ε"),  # .03 ± .014 against .02
        ([0.001, 0.001], "It is below the most popular items under the same ε at ε = 1."),
        ([0.5, 0.5], "above the most popular items"),
    ],
)
def test_a_frontier_within_the_spread_is_no_difference(own: list[float], expected: str) -> None:
    assert expected in frontier({1: own}, {1: [0.02, 0.02]})


def test_a_mixed_frontier_names_each_side() -> None:
    text = frontier({1: [0.01], 2: [0.02], 4: [0.5]}, {1: [0.05], 2: [0.02], 4: [0.05]})
    assert (
        "above the most popular items under the same ε at ε = 4, and below them at ε = 1." in text
    )
    assert "elsewhere the difference is within the standard deviations" in frontier(
        {2: [0.02], 4: [0.5]}, {2: [0.02], 4: [0.05]}
    )


def gain(name: str, separate: int, together: int, p: float) -> Gain:
    return Gain(name, Share(separate, 100), Share(together, 100), 0.1, 0.1, p)


def test_gains_are_counted_and_tested() -> None:
    each = [gain("a", 3, 9, 0.01), gain("b", 9, 9, 1.0), gain("c", 9, 3, 0.1)]
    text = takeaways.gains([gain("", 21, 61, 1e-9), *each], ())
    assert "adapted at home, has a hit for 61.0% of users (61 of 100)" in text
    assert "own data alone for 21.0% (21)." in text
    assert "The difference is statistically significant (p < 0.001" in text
    assert "1 of 3 organisations" in text
    neutral = takeaways.gains([gain("", 21, 22, 0.9), *each], ())
    assert "The difference is not statistically significant (p = 0.9" in neutral


def part(label: str, count: int, users: int) -> Part:
    return Part(label, {"federated": Share(count, users)}, {"federated": 0.0})


def test_parts_that_differ_are_named_and_others_are_not() -> None:
    apart = takeaways.parts([part("F", 10, 100), part("M", 50, 100), part("X", 3, 9)], "gender")
    assert "There are too few hits" in apart
    apart = takeaways.parts([part("F", 10, 100), part("M", 50, 100)], "gender")
    assert "50.0% of users (50 of 100) in the group “M”, and for 10.0% of users (10 of" in apart
    alike = takeaways.parts([part("F", 30, 100), part("M", 31, 100)], "gender")
    assert "from 30.0% to 31.0%, do not differ significantly" in alike
    active = takeaways.parts([part("3 to 9", 50, 100), part("10 to 90", 10, 100)], "events")
    assert "with 3 to 9 events, and for 10.0% of users (10 of 100) with 10 to 90 events" in active


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("words") / "run"
    write_run(folder, RunSpec())
    return read_run(folder)


def audit(folder: Path, **changes: Any) -> Audit:  # noqa: ANN401
    (folder / "audit.json").write_text(json.dumps(audit_of(**changes)))
    return read_audit(folder)


def test_each_observer_is_compared_with_what_is_claimed_against_it(tmp_path: Path) -> None:
    seen = audit_of()["observers"][0]
    others = seen | {"name": "all others collude", "epsilon_claimed": 9.0, "epsilon_lower_bound": 5}
    found = audit(tmp_path, observers=[seen, others])
    assert [found.claimed(one) for one in found.observers] == [4.0, 9.0]
    text = takeaways.audits([found])
    assert "ε ≥ 5.00 (all others collude, confidence 95%); the claim is ε ≤ 9" in text


def test_an_audit_that_found_nothing_says_what_it_could_have_found(tmp_path: Path) -> None:
    found = audit(tmp_path)
    text = takeaways.audits([found])
    assert "No violation was found. The highest proved lower bound is ε ≥ 1.07 (white-box" in text
    assert "could not have shown" not in takeaways.audits([found])
    blind = audit(tmp_path, claim={"epsilon": 4.5, "delta": 1e-5, "organisation": "north"})
    assert "even if all were right, they would prove at most ε = 4.20" in takeaways.audits([blind])
    notes = " ".join(takeaways.audit_notes([found]))
    assert "24 releases left the organisation; by dp-accounting's PLD they cost ε = 3.998" in notes
    assert "the two agree" in notes
    assert "What it could not have detected: An attacker who joins" in notes


def test_a_violation_comes_first(tmp_path: Path) -> None:
    found = audit(tmp_path, verdict="violated", reasons=["The white-box bound is 9.1."])
    assert takeaways.audits([found]).startswith("VIOLATED (")
    assert "The white-box bound is 9.1." in takeaways.audits([found])
    books = audit_of()["books"] | {"violated": True, "epsilon_recomputed": None}
    found = audit(tmp_path, verdict="violated", books=books)
    assert "they cost ε = none" in " ".join(takeaways.audit_notes([found]))
    assert "the two contradict" in " ".join(takeaways.audit_notes([found]))


def test_an_attack_is_better_than_guessing_only_if_its_interval_says_so(tmp_path: Path) -> None:
    found = audit(tmp_path).membership
    assert found is not None
    assert "no evidence that this is better than guessing" in takeaways.membership(found)
    [first, second] = found.rates
    better = replace(found, rates=(replace(first, low=0.0012), second))
    assert "more than by guessing" in takeaways.membership(better)


def test_the_models_are_compared_with_a_test(run: Run) -> None:
    assert "The difference is statistically significant" in takeaways.models(run)
    assert run.evaluation is not None
    same = replace(
        run,
        evaluation=replace(
            run.evaluation,
            ranks=dict.fromkeys(run.evaluation.ranks, run.evaluation.ranks["markov"]),
        ),
    )
    assert "not statistically significant (p = 1" in takeaways.models(same)
    assert "significant" not in takeaways.models(replace(run, evaluation=None))


def test_exposure_names_the_most_popular_tenth(run: Run) -> None:
    assert run.exposure is not None
    own = run.exposure.models["federated"][0]
    text = takeaways.exposure(run, run.exposure)
    assert f"takes {own:.0%} of the positions in the federated model's lists" in text
    assert "40% of the users' next items are from it" in text


# --- the claim -----------------------------------------------------------------------------------


def test_the_claim_states_the_worst_organisation_and_the_sum(run: Run) -> None:
    first, *rest = run.organisations
    uneven = replace(run, organisations=(replace(first, epsilon=7.5), *rest))
    found = claim.claim_of_run(uneven)
    assert found.holds
    assert "ε = 7.50, at δ = 1e-05" in found.headline
    total = 7.5 + sum(one.epsilon or 0 for one in rest)
    assert any(f"all 3, the total is up to ε = {total:.1f}" in text for text in found.leaves_out)
    assert "by north, which spent most" in claim.cards(uneven, [])[0].about


def test_a_claim_that_an_audit_disproves_is_said_to_be_violated(run: Run, tmp_path: Path) -> None:
    stated = claim.claim_of_run(run)
    assert claim.apply_audits(stated, [audit(tmp_path)]) == stated
    found = claim.apply_audits(stated, [audit(tmp_path, verdict="violated")])
    assert (found.holds, found.title) == (False, "The claim is violated")
    assert found.headline.startswith("VIOLATED.")
    assert stated.headline in found.headline
    nothing = claim.claim_of_run(replace(run, private=False))
    assert claim.apply_audits(nothing, [audit(tmp_path, verdict="violated")]) == nothing


def test_without_noise_nothing_is_claimed(run: Run) -> None:
    open_run = replace(run, private=False)
    found = claim.claim_of_run(open_run)
    assert not found.holds
    assert found.headline.startswith("NO PRIVACY")
    assert found.covers == ()
    assert claim.cards(open_run, [])[0].good is False
    first, *rest = run.organisations
    leaked = replace(run, organisations=(replace(first, epsilon=math.inf), *rest))
    assert claim.claim_of_run(leaked).headline.startswith("NO PRIVACY")


@pytest.mark.parametrize("epsilon", [0.01, 0.1, 0.5, 1, 2, 4, 6, 8, 10, 11.5, 12, 20, 100, 1e4])
def test_how_sure_one_can_be_is_never_understated_nor_certain(epsilon: float) -> None:
    text = claim.surest(epsilon)
    shown = float(re.sub("[^0-9.]", "", text))
    odds = np.exp(min(epsilon, 600))
    assert shown < 100
    if text.startswith("over"):
        assert 100 * odds / (1 + odds) > shown
    else:
        assert shown == pytest.approx(100 * odds / (1 + odds), abs=0.05)
