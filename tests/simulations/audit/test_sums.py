"""Audits of secure aggregation: an honest run passes, and each fault is caught by what should."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shared.errors import ConfigError
from simulations.audit import sums
from simulations.audit.audit import audit
from simulations.audit.masking_faults import SECURE
from simulations.audit.observers import observe_views
from simulations.audit.plan import Adversary, AuditPlan
from simulations.audit.planted_faults import audit_with_fault
from simulations.audit.replay import Replay
from simulations.experiment.config import read_settings
from tests.simulations.audit.conftest import quick_settings
from tests.simulations.audit.test_audit import Silent, by_name

PLAN = AuditPlan(canaries=300, held_out=0.2)
LOOSE = "privacy.epsilon=8"
"""At which scores of few canaries tell more, over their own noise."""
Found = dict[str, Any]
Auditor = Callable[..., Found]


@pytest.fixture(scope="session")
def audited(walkers: Path, tmp_path_factory: pytest.TempPathFactory) -> Auditor:
    """Audits a fault; each once."""

    @cache
    def run(fault: str) -> Found:
        folder = tmp_path_factory.mktemp("audited") / "run"
        settings = [*quick_settings(walkers), *SECURE, LOOSE]
        return audit_with_fault(fault, settings, PLAN, folder)

    return run


def test_an_honest_run_passes_and_both_attacks_work(audited: Auditor) -> None:
    found = audited("none")
    assert (found["verdict"], found["reasons"]) == ("consistent", [])
    one, both = by_name(found, "white-box"), by_name(found, "all others collude")
    everybody = found["claim"]["epsilon_if_all_collude"]
    assert found["claim"]["epsilon"] == pytest.approx(8, rel=0.01)
    assert everybody > 1.4 * 8
    # Each tier's attack is as strong as there is: what it sees looks like what was claimed.
    assert (one["epsilon_claimed"], both["epsilon_claimed"]) == (
        found["claim"]["epsilon"],
        everybody,
    )
    for each in (one, both):
        assert each["estimate"]["low"] < each["epsilon_claimed"] < each["estimate"]["high"]
        assert each["estimate"]["epsilon"] > 0.8 * each["epsilon_claimed"]
        assert 1 < each["epsilon_lower_bound"] < each["epsilon_claimed"]
    masks = found["masks"]
    assert (masks["target"], masks["colluding"], masks["lost"]) == ("org-1", ["org-4"], ["org-3"])
    assert masks["summed"] == ["org-1", "org-2"]
    # In two sums the inputs of three, one of them withheld: as sent, unmasked, and the differences.
    assert masks["tested"] == 15
    assert masks["smallest_p"] > 1e-4
    assert masks["found"] == []
    assert found["books"]["epsilon_recomputed"] == pytest.approx(8, rel=0.01)
    assert found["sensitivity"]["largest"] == pytest.approx(1.0, abs=1e-3)


@pytest.mark.parametrize("fault", ["no masks", "shares leaked"])
def test_a_single_answer_that_comes_out_is_found(audited: Auditor, fault: str) -> None:
    found = audited(fault)
    assert found["verdict"] == "violated"
    assert found["masks"]["summed"] == ["org-1"]
    assert any("The sum of org-1 alone came out" in each for each in found["masks"]["found"])
    # What was counted as the noise of two is one organisation's.
    one, both = by_name(found, "white-box"), by_name(found, "all others collude")
    assert one["estimate"] == both["estimate"] | one["estimate"]
    assert one["violated"]
    assert not both["violated"]
    assert found["books"]["violated"]


def test_missing_masks_are_named_round_by_round(audited: Auditor) -> None:
    found = audited("no masks")["masks"]["found"]
    assert "org-1's masked input in sum 1 is not uniform." in found
    assert audited("shares leaked")["masks"]["smallest_p"] > 1e-4  # they are masked, and in vain


def test_masks_used_twice_are_found_in_the_difference_of_two_rounds(audited: Auditor) -> None:
    found = audited("masks used twice")
    assert found["verdict"] == "violated"
    assert all("sums 1 and 2 is not uniform" in each for each in found["masks"]["found"])
    assert any("org-1's" in each for each in found["masks"]["found"])
    assert not any(each["violated"] for each in found["observers"])


def test_a_share_of_noise_that_is_missing_is_caught_by_the_sum_s_observer(
    audited: Auditor,
) -> None:
    found = audited("a share of noise missing")
    assert found["verdict"] == "violated"
    assert by_name(found, "white-box")["violated"]
    # Nothing else could see it: the organisation with the canaries does add its own share.
    assert not by_name(found, "all others collude")["violated"]
    assert not found["masks"]["violated"]
    assert not found["books"]["violated"]


def test_noise_that_counts_on_those_that_drop_out_is_caught_by_the_books(
    audited: Auditor,
) -> None:
    found = audited("lost shares counted")
    assert found["verdict"] == "violated"
    assert found["books"]["violated"]
    # sqrt(3 / 2) times less noise than the ledger states.
    assert found["books"]["epsilon_recomputed"] > found["books"]["epsilon_ledger"] + 2
    white = by_name(found, "white-box")["estimate"]
    assert white["epsilon"] == pytest.approx(found["books"]["epsilon_recomputed"], rel=0.2)


def test_sums_of_training_rounds_are_what_their_users_add(
    walkers: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the coins known, what is left of any sum is noise of the claimed deviation."""
    rests: list[np.ndarray[Any, Any]] = []

    def noted(views: Any, catalogue: Any) -> Any:  # noqa: ANN401
        for view in views:
            inside = view.canaries.histories.select(np.flatnonzero(view.canaries.inside))
            for seen in view.seen:
                replay = Replay(seen, catalogue, view.population, view.shares)
                added = replay.added(view.others) + replay.added(inside)
                rests.append((replay.released() - added) / replay.spread)
        return observe_views(views, catalogue)

    monkeypatch.setattr(sums, "observe_views", noted)
    settings = [
        *quick_settings(walkers),
        *SECURE,
        "training.rounds=1",
        "server.weighting=population",
        "privacy.epsilon=4",
    ]
    plan = AuditPlan(canaries=20, held_out=0)
    audit(read_settings(None, {}, settings), plan, tmp_path / "run", Silent())
    assert len(rests) == 6  # popularity, moment and a step, as two adversaries see them
    for rest in rests:
        assert rest.mean() == pytest.approx(0, abs=5 / len(rest) ** 0.5)
        assert rest.std() == pytest.approx(1, abs=5 / len(rest) ** 0.5)


@pytest.mark.parametrize(
    ("settings", "adversary", "words"),
    [
        (["privacy.masking=off"], Adversary.HONEST, "--set privacy.masking=on"),
        ([], Adversary.HOSTILE, "--set privacy.trust=local"),
    ],
)
def test_what_has_no_masked_sums_is_refused(
    quick: list[str], tmp_path: Path, settings: list[str], adversary: Adversary, words: str
) -> None:
    plan = AuditPlan(canaries=300, adversary=adversary)
    config = read_settings(None, {}, [*quick, *SECURE, *settings])
    with pytest.raises(ConfigError, match=words):
        audit(config, plan, tmp_path / "run", Silent())
    assert not (tmp_path / "run").exists()


def test_canaries_of_one_organisation_are_limited_by_its_items(
    quick: list[str], tmp_path: Path
) -> None:
    config = read_settings(None, {}, [*quick, *SECURE])
    with pytest.raises(ConfigError, match="ask for 300 or fewer"):
        audit(config, AuditPlan(canaries=301), tmp_path / "run", Silent())
