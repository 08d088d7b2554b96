"""Whole audits: an honest pipeline passes, and each planted fault is caught by what should."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from client.ledger.ledger import Ledger
from client.site.site import Site
from shared.data.catalogue import Catalogue
from shared.data.histories import Histories
from shared.errors import ConfigError
from shared.messages import StatisticsRequest, TrainRequest
from simulations.audit.audit import audit
from simulations.audit.plan import AuditPlan
from simulations.audit.planted_faults import TIED_IDS, audit_with_fault
from simulations.audit.replay import Replay
from simulations.experiment.config import read_settings
from simulations.experiment.federation import sites_in
from simulations.experiment.simulation import RoundFigures
from tests.simulations.audit.conftest import quick_settings

PLAN = AuditPlan(canaries=240, held_out=0.2)
FEW = AuditPlan(canaries=40, held_out=0.2)
"""Enough where what is caught is no estimate: every canary of a round is a round more to replay."""
STEPS = ("training.rounds=2",)
"""Two rounds of DP-SGD after the statistics."""

Found = dict[str, Any]
Auditor = Callable[..., Found]


class Silent:
    def stage(self, text: str) -> None: ...

    def round(self, done: int, of: int, figures: RoundFigures) -> None: ...


@pytest.fixture(scope="session")
def audited(walkers: Path, tmp_path_factory: pytest.TempPathFactory) -> Auditor:
    """Audits a fault under more settings; each combination once."""

    @cache
    def run(fault: str, *settings: str, plan: AuditPlan = PLAN) -> Found:
        folder = tmp_path_factory.mktemp("audited") / "run"
        return audit_with_fault(fault, [*quick_settings(walkers), *settings], plan, folder) | {
            "folder": folder
        }

    return run


def by_name(found: Found, name: str) -> Found:
    [observer] = [each for each in found["observers"] if each["name"] == name]
    return dict(observer)


@pytest.mark.parametrize("settings", [(), STEPS], ids=["statistics", "steps"])
def test_an_honest_pipeline_passes_and_the_attack_works(
    audited: Auditor, settings: tuple[str, ...]
) -> None:
    found = audited("none", *settings)
    assert found["verdict"] == "consistent"
    assert found["reasons"] == []
    white = by_name(found, "white-box")
    # The attack is as strong as there is: what it sees looks like the ε that was claimed.
    assert white["estimate"]["low"] < 4 < white["estimate"]["high"]
    assert white["estimate"]["epsilon"] > 2.5
    assert 0 < white["epsilon_lower_bound"] < 4
    assert found["sensitivity"]["largest"] == pytest.approx(1.0, abs=1e-3)
    assert found["books"]["epsilon_recomputed"] == pytest.approx(4.0, rel=0.01)
    assert found["books"]["seen"] == (4 if settings else 2)


def test_noise_that_is_off_is_caught(audited: Auditor) -> None:
    found = audited("noise off")
    assert found["verdict"] == "violated"
    assert by_name(found, "white-box")["estimate"]["low"] > 10
    between = by_name(found, "between organisations")
    assert between["correct"] >= 0.98 * between["guesses"]


@pytest.mark.parametrize("settings", [(), STEPS], ids=["statistics", "steps"])
def test_half_the_noise_is_caught(audited: Auditor, settings: tuple[str, ...]) -> None:
    found = audited("noise scaled by half", *settings)
    assert found["verdict"] == "violated"
    assert by_name(found, "white-box")["estimate"]["low"] > 4
    # Twice the signal: ε is about 9 where 4 is claimed.
    assert by_name(found, "white-box")["estimate"]["epsilon"] == pytest.approx(9, rel=0.3)


@pytest.mark.parametrize("settings", [(), STEPS], ids=["statistics", "steps"])
def test_clipping_that_is_off_is_caught(audited: Auditor, settings: tuple[str, ...]) -> None:
    found = audited("clipping off", *settings, plan=FEW)
    assert found["verdict"] == "violated"
    assert found["sensitivity"]["violated"]
    assert found["sensitivity"]["largest"] > 10
    assert by_name(found, "white-box")["violated"]


def test_one_seed_on_all_clients_is_caught_by_their_difference(audited: Auditor) -> None:
    found = audited("the same seed on all clients")
    assert found["verdict"] == "violated"
    assert by_name(found, "between organisations")["violated"]
    assert not by_name(found, "white-box")["violated"]


def test_noise_that_comes_again_is_caught_by_the_difference_of_rounds(audited: Auditor) -> None:
    found = audited("the same noise every round", *STEPS, plan=FEW)
    assert found["verdict"] == "violated"
    assert by_name(found, "between rounds")["violated"]


def test_a_ledger_that_forgets_is_caught_by_the_books(audited: Auditor) -> None:
    found = audited("an accountant that forgets rounds", *STEPS, plan=FEW)
    assert found["verdict"] == "violated"
    assert found["books"]["violated"]
    assert found["books"]["epsilon_recomputed"] > found["books"]["epsilon_ledger"] + 0.5
    assert found["claim"]["epsilon"] == found["books"]["epsilon_ledger"]


def test_a_norm_that_misses_a_path_is_caught_by_one_user_s_share(audited: Auditor) -> None:
    found = audited("a tied table's norm that misses a path", *STEPS, *TIED_IDS, plan=FEW)
    assert found["verdict"] == "violated"
    assert found["sensitivity"]["largest"] > 1.005
    honest = audited("none", *STEPS, *TIED_IDS, plan=FEW)
    assert honest["verdict"] == "consistent"


def test_what_is_written_is_what_is_returned(audited: Auditor) -> None:
    found = dict(audited("none"))
    folder = found.pop("folder")
    assert json.loads((folder / "audit.json").read_text()) == found
    assert (folder / "result.json").is_file()


def test_the_audited_sites_declare_what_does_not_depend_on_coins(audited: Auditor) -> None:
    found = audited("none")
    result = json.loads((found["folder"] / "result.json").read_text())
    declared = [each["population"] for each in result["data"]["organisations"]]
    assert declared == [40 + 80] * 3


def test_an_audit_says_what_it_could_not_have_seen(audited: Auditor) -> None:
    spots = " ".join(audited("none")["blind_spots"])
    assert "guesses can prove at most ε" in spots  # 240 canaries cannot prove 4
    assert "times weaker than claimed" in spots
    half = audited("none", "training.rounds=2", "training.sample_rate=0.5", plan=FEW)
    sampled = " ".join(half["blind_spots"])
    assert "which users were sampled" in sampled


def test_replayed_users_and_noise_add_up_to_what_left(
    audited: Auditor, walkers: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without noise, what left is what its users add: statistics and steps alike."""
    rests = []
    whole = Replay.released

    def noted(replay: Replay) -> Any:  # noqa: ANN401
        rests.append(replay)
        return whole(replay)

    monkeypatch.setattr(Replay, "released", noted)
    settings = [
        f'lab.data="{walkers}"',
        "lab.organisations=2",
        "lab.alone=false",
        "privacy.epsilon=4",
        "privacy.delta=1e-5",
        "model.feature_size=8",
        "training.rounds=1",
    ]
    audit_with_fault("noise off", settings, AuditPlan(canaries=20, held_out=0), tmp_path / "run")
    kinds = set()
    for replay in rests:
        folder = next(f for f in sites_in(tmp_path / "run" / "sites") if _is_of(replay, f))
        left, added = whole(replay), replay.added(_histories_in(folder, tmp_path / "run"))
        assert left == pytest.approx(added, abs=2e-3 * float(abs(added).max()))
        kinds.add(type(replay._seen.request))
    assert kinds == {StatisticsRequest, TrainRequest}


def _is_of(replay: Replay, folder: Path) -> bool:
    """Whether the site's own ledger kept these bytes."""
    ledger: Ledger = Site.load(folder).open_ledger()
    bodies = [ledger.sent_body(sent.number) for sent in ledger.outbox()]
    first = next(iter(replay._seen.answer.values())).tobytes()
    return any(body is not None and first in body for body in bodies)


def _histories_in(folder: Path, run: Path) -> Histories:
    return Site.load(folder).load_histories(Catalogue.load(run / "catalogue"), 10**6)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (['privacy.epsilon="none"'], "claims nothing"),
        (["lab.engine=ray"], "--set lab.engine=inprocess"),
        (["server.evaluate_every=1"], "--set server.evaluate_every=0"),
        (["lab.alone=true"], "--set lab.alone=false"),
    ],
)
def test_a_run_that_cannot_be_audited_is_refused_before_it_starts(
    quick: list[str], settings: list[str], words: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=words):
        audit(read_settings(None, {}, [*quick, *settings]), PLAN, tmp_path / "run", Silent())
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("field", "value", "name"),
    [
        ("canaries", 19, "--canaries 19"),
        ("held_out", 0.6, "--held-out 0.6"),
        ("confidence", 1.0, "--confidence 1.0"),
        ("seed", -1, "--audit-seed -1"),
    ],
)
def test_plans_out_of_range_name_their_option(field: str, value: float, name: str) -> None:
    with pytest.raises(ConfigError, match=name):
        AuditPlan(**{field: value})  # type: ignore[arg-type]


def test_more_canaries_than_items_allow_are_refused(quick: list[str], tmp_path: Path) -> None:
    plan = AuditPlan(canaries=3000)
    with pytest.raises(ConfigError, match="ask for 900 or fewer"):
        audit(read_settings(None, {}, quick), plan, tmp_path / "run", Silent())
