"""What a coordinator may ask for: shapes, memory, disk and time, each bounded before the charge."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from flwr.app import Context, Message, RecordDict

import client.app
from client.checks import machine
from client.checks.base import Expected, Facts
from client.guard import Guard
from client.ledger import balance
from client.ledger.balance import EntryType
from client.ledger.ledger import Ledger
from client.ledger.limits import Limits
from client.ledger.outbox import Room
from client.ledger.refusals import RefusalCounter
from client.site.bounds import LARGEST_WEIGHT, answer_bytes, needed_memory
from client.site.policy import Policy
from client.site.site import Site
from shared.config import ItemRepresentation, ModelConfig, Trained
from shared.errors import Refused, WireError
from shared.messages import (
    EvaluateRequest,
    PlanRequest,
    Statistic,
    StatisticsRequest,
    TrainRequest,
    refusal_in,
)
from shared.outcomes import Refusal
from tests.client.ledger.entries import DELTA, answered, body, charge, entry
from tests.conftest import DESCRIBED, FEATURES, ITEMS, MODEL

if TYPE_CHECKING:
    from tests.conftest import Sites


def never_prepared() -> Any:  # noqa: ANN401
    pytest.fail("a request beyond the bounds was prepared for")


def statistics_request(sites: Sites, **changes: Any) -> StatisticsRequest:  # noqa: ANN401
    fields: dict[str, Any] = {
        "run": "r",
        "round": 1,
        "catalogue": sites.catalogue.fingerprint,
        "model": DESCRIBED,
        "noise_multiplier": 2.0,
        "statistic": Statistic.MOMENT,
        "fade": 0.5,
    }
    return StatisticsRequest(**fields | changes)


def evaluate_request(sites: Sites, **changes: Any) -> EvaluateRequest:  # noqa: ANN401
    request = sites.request()
    fields: dict[str, Any] = {
        name: getattr(request, name)
        for name in ("run", "round", "catalogue", "model", "weights", "noise_multiplier")
    }
    return EvaluateRequest(**fields | {"sample_rate": 0.5} | changes)


def weights_with(value: float) -> Callable[[TrainRequest], dict[str, np.ndarray[Any, Any]]]:
    def changed(request: TrainRequest) -> dict[str, np.ndarray[Any, Any]]:
        weights = {name: array.copy() for name, array in request.weights.items()}
        next(iter(weights.values())).flat[0] = value
        return weights

    return changed


def refused(sites: Sites, request: Any, **policy: Any) -> Refused:  # noqa: ANN401
    """Ask a fresh site; nothing may be prepared or charged."""
    site = Site.load(sites.make("alpha", {"policy.answers": ["statistics", "train", "evaluate"]}))
    site = replace(site, policy=replace(site.policy, **policy))
    ledger = site.open_ledger()
    guard = Guard(site, ledger, sites.catalogue)
    with pytest.raises(Refused) as caught:
        guard.answer(request, never_prepared)
    assert ledger.releases() == []
    assert ledger.history()[-1].type is EntryType.REFUSAL
    return caught.value


# --- what may be asked ----------------------------------------------------------------------------

ABSURD_MODELS = [
    replace(MODEL, max_length=2500),
    replace(MODEL, max_length=10**12),
    replace(MODEL, layers=10**6),
    replace(MODEL, hidden_size=10**6, heads=10**6),
    replace(MODEL, hidden_size=2**20),
    replace(MODEL, recency=1e-300),
    replace(MODEL, dropout=1 - 2**-53),
    ModelConfig(feature_size=10**9),
    ModelConfig(feature_size=FEATURES, own_items=tuple(range(1, 5000))),
]


@pytest.mark.parametrize("model", ABSURD_MODELS, ids=lambda model: str(model)[:200])
@pytest.mark.parametrize("make", [TrainRequest, EvaluateRequest, StatisticsRequest])
def test_an_absurd_model_is_refused_before_anything_is_read(
    sites: Sites, model: ModelConfig, make: type
) -> None:
    request: Any
    if make is TrainRequest:
        request = sites.request(model=model)
    elif make is EvaluateRequest:
        request = evaluate_request(sites, model=model)
    else:
        request = statistics_request(sites, model=model)
    assert refused(sites, request).code is Refusal.POLICY


def test_a_kind_of_model_that_the_policy_does_not_list_is_refused(sites: Sites) -> None:
    error = refused(sites, sites.request(), kinds=())
    assert error.code is Refusal.POLICY
    assert "model.kind 'attention', where policy.kinds allows none" in str(error)


@pytest.mark.parametrize(
    "changes",
    [
        {"noise_multiplier": 1e5},
        {"sample_rate": 1e-300},
        {"candidates": 10**9},
        {"learning_rate": 1e30},
        {"weight_decay": 1e30},
    ],
    ids=str,
)
def test_an_absurd_training_request_is_refused(sites: Sites, changes: dict[str, Any]) -> None:
    assert refused(sites, sites.request(**changes)).code is Refusal.POLICY


@pytest.mark.parametrize("value", [1e5, -1e20, 2.0**30, 3e38])
def test_a_huge_weight_is_refused(sites: Sites, value: float) -> None:
    weights = weights_with(value)(sites.request())
    assert refused(sites, sites.request(weights=weights)).code is Refusal.POLICY
    # Where the policy has no bound, the app's own holds.
    if abs(value) > LARGEST_WEIGHT:
        site = Site.load(sites.make("beta"))
        lax = replace(site, policy=replace(site.policy, max_weight=1e300))
        with pytest.raises(Refused, match="largest weight"):
            Guard(lax, site.open_ledger(), sites.catalogue).answer(
                sites.request(weights=weights), never_prepared
            )


@pytest.mark.parametrize(
    "changes",
    [{"k": ITEMS + 1}, {"k": 2**62}, {"noise_multiplier": 1e5}, {"sample_rate": 1e-12}],
    ids=str,
)
def test_an_absurd_evaluation_is_refused(sites: Sites, changes: dict[str, Any]) -> None:
    assert refused(sites, evaluate_request(sites, **changes)).code is Refusal.POLICY


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"noise_multiplier": 1e6}, Refusal.POLICY),
        ({"model": replace(DESCRIBED, own_items=(ITEMS + 1,))}, Refusal.MALFORMED),
        ({"model": MODEL}, Refusal.MALFORMED),
        ({"run": "r" * 101}, Refusal.MALFORMED),
        ({"run": "two\nlines"}, Refusal.MALFORMED),
        ({"run": "\u202e"}, Refusal.MALFORMED),
    ],
    ids=str,
)
def test_an_absurd_statistic_is_refused(
    sites: Sites, changes: dict[str, Any], code: Refusal
) -> None:
    assert refused(sites, statistics_request(sites, **changes)).code is code


@pytest.mark.parametrize("own", [(3, 3), (5, 4), (0, 1), (-1,)])
def test_repeated_or_unordered_own_items_are_no_request(sites: Sites, own: tuple[int, ...]) -> None:
    content = statistics_request(sites).to_content()
    content.config_records["fields"]["model.own_items"] = ",".join(map(str, own))
    with pytest.raises(WireError):
        StatisticsRequest.from_content(content)


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
def test_a_recency_that_is_no_weight_is_no_request(sites: Sites, value: float) -> None:
    content = statistics_request(sites).to_content()
    content.config_records["fields"]["model.recency"] = value
    with pytest.raises(WireError):
        StatisticsRequest.from_content(content)


# --- a whole run ----------------------------------------------------------------------------------


def plan(sites: Sites, **changes: Any) -> PlanRequest:  # noqa: ANN401
    fields: dict[str, Any] = {
        "run": "r",
        "catalogue": sites.catalogue.fingerprint,
        "model": DESCRIBED,
        "largest_weight": 1.0,
        "statistics": 1,
        "popularity_noise": 2.0,
        "moment_noise": 2.0,
        "training_noise": 2.0,
        "rounds": 3,
        "evaluations": 1,
    }
    return PlanRequest(**fields | changes)


SMALL_ROOM: dict[str, Any] = {"max_stored_mb": 6e-4}
"""Two rounds of training of `DESCRIBED` beside its statistics, and not the third; see the test."""


@pytest.mark.parametrize(
    ("changes", "policy"),
    [
        ({"model": replace(DESCRIBED, layers=10**6, trained=Trained.SCORES)}, {}),
        ({"model": replace(DESCRIBED, feature_size=10**9)}, {}),
        ({"model": replace(DESCRIBED, max_length=10**12)}, {}),
        ({"candidates": 10**9}, {}),
        ({"learning_rate": 1e30}, {}),
        ({"largest_weight": 1e5}, {}),
        ({"largest_weight": 1e300}, {}),
        ({"training_noise": 1e5}, {}),
        ({"moment_noise": 1e5}, {}),
        ({}, {"max_memory_gb": 1e-6}),
        ({}, {"max_answer_mb": 1e-6}),
        ({}, {"max_answers": 5}),
        ({}, SMALL_ROOM),
    ],
    ids=lambda value: str(value)[:80],
)
def test_a_plan_is_refused_if_a_request_of_its_run_would_be(
    sites: Sites, changes: dict[str, Any], policy: dict[str, Any]
) -> None:
    """So that nobody is charged for rounds that this site would refuse."""
    guard, ledger = guard_of(sites)
    guard.check_plan(plan(sites))
    guard, ledger = guard_of(sites, "beta", **policy)
    with pytest.raises(Refused) as caught:
        guard.check_plan(plan(sites, **changes))
    assert caught.value.code is Refusal.POLICY
    assert ledger.releases() == []


def test_room_for_a_plan_is_the_room_that_its_rounds_are_given(sites: Sites) -> None:
    """A site that would refuse round 3 says so before anybody is charged for round 1."""
    guard, _ = guard_of(sites, **SMALL_ROOM)
    request = sites.request(model=DESCRIBED)
    size = answer_bytes(request, ITEMS)

    def answer() -> dict[str, torch.Tensor]:
        return {"w": torch.ones(size // 4)}

    asked = plan(sites, statistics=0, rounds=2, evaluations=0)
    guard.check_plan(asked)
    with pytest.raises(Refused, match=r"policy\.max_stored_mb"):
        guard.check_plan(replace(asked, rounds=3))
    for number in (1, 2):
        guard.answer(replace(request, round=number), lambda: answer)
    with pytest.raises(Refused, match=r"policy\.max_stored_mb"):
        guard.answer(replace(request, round=3), lambda: answer)


def guard_of(sites: Sites, name: str = "alpha", **policy: Any) -> tuple[Guard, Ledger]:  # noqa: ANN401
    answers = ["statistics", "train", "evaluate"]
    site = Site.load(sites.make(name, {"policy.answers": answers, "policy.max_epsilon": 100.0}))
    site, ledger = replace(site, policy=replace(site.policy, **policy)), site.open_ledger()
    return Guard(site, ledger, sites.catalogue), ledger


# --- memory ---------------------------------------------------------------------------------------


def test_memory_follows_from_public_constants_and_is_refused_before_the_charge(
    sites: Sites,
) -> None:
    """As a request for 64 heads over 2,500 events, whose memory showed the longest history."""
    model = ModelConfig(
        items=ItemRepresentation.IDS,
        hidden_size=64,
        heads=64,
        dropout=0.1,
        trained=Trained.ALL,
        max_length=2500,
    )
    request = sites.request(model=model)
    policy = Policy(max_epsilon=8.0, delta=1e-3)
    needed = needed_memory(request, policy, population=50, items=50, device="cpu")
    assert needed > 8e9
    error = refused(sites, request, max_length=5000)
    assert "memory in GB" in str(error)


@pytest.mark.parametrize("model", [DESCRIBED, MODEL, replace(MODEL, max_length=500)], ids=str)
def test_check_estimates_the_memory_that_a_request_is_bounded_by(
    sites: Sites, model: ModelConfig
) -> None:
    site = Site.load(sites.make("alpha"))
    facts = Facts(site, Expected(model=model, sample_rate=0.5, candidates=7))
    host, step = machine.needed_memory(facts, "cuda")
    request = sites.request(model=model, candidates=7)
    assert step == needed_memory(
        request, site.policy, population=site.population, items=ITEMS, device="cuda"
    )
    assert machine.needed_memory(facts, "cpu")[0] > host


def test_what_is_read_of_the_data_does_not_depend_on_the_request(
    sites: Sites, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = sites.make("alpha", {"policy.max_events": 7})
    lengths: list[int] = []
    load = Site.load_histories

    def noted(site: Site, catalogue: Any, max_length: int, **how: Any) -> Any:  # noqa: ANN401
        lengths.append(max_length)
        return load(site, catalogue, max_length, **how)

    monkeypatch.setattr(Site, "load_histories", noted)
    ask(folder, sites.message())
    ask(folder, Message(statistics_request(sites).to_content(), 1, "train.statistics"))
    assert set(lengths) == {7}


# --- disk -----------------------------------------------------------------------------------------


def test_an_answer_that_is_too_large_is_refused(sites: Sites) -> None:
    error = refused(sites, statistics_request(sites), max_answer_mb=1e-6)
    assert "answer in MB" in str(error)


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger.create(tmp_path / "ledger", "users", tmp_path / "anchor")


def room(bodies: float, most: int = 1000) -> Room:
    size = len(body())
    return Room(answer_bytes=size, max_stored_bytes=bodies * size, max_answers=most)


def answer_in(ledger: Ledger, number: int, run: str, given: Room) -> bytes:
    what = entry(number, run)
    ledger.charge(what, Limits(max_epsilon=float("inf"), delta=DELTA), room=given)
    return ledger.keep_answer(what, body(number), room=given)


def test_bodies_of_older_runs_make_room_and_the_runs_own_stay(ledger: Ledger) -> None:
    for run in "abcd":
        for number in (1, 2):
            kept = answer_in(ledger, number, run, room(4))
            assert ledger.answer(entry(number, run)) == kept
    stored = [(sent.run, sent.round) for sent in ledger.outbox() if sent.kept]
    assert stored == [("c", 1), ("c", 2), ("d", 1), ("d", 2)]
    assert len(ledger.outbox()) == 8
    with pytest.raises(Refused) as caught:
        ledger.answer(entry(1, "a"))
    assert caught.value.code is Refusal.CLOSED
    ledger.verify()


def test_a_run_that_has_no_room_is_refused_before_the_charge(ledger: Ledger) -> None:
    kept = answer_in(ledger, 1, "a", room(1.5))
    before = ledger.releases()
    with pytest.raises(Refused, match=r"policy\.max_stored_mb") as caught:
        answer_in(ledger, 2, "a", room(1.5))
    assert caught.value.code is Refusal.POLICY
    assert ledger.releases() == before
    assert ledger.answer(entry(1, "a")) == kept


def test_a_charged_request_is_answered_whatever_the_room(ledger: Ledger) -> None:
    charge(ledger, entry(1))
    assert answer_in(ledger, 1, "r", room(0)) == body(1)


def test_no_more_requests_are_charged_than_the_policy_says(ledger: Ledger) -> None:
    for number in (1, 2):
        answered(ledger, number)
    with pytest.raises(Refused, match=r"policy\.max_answers is 2"):
        answer_in(ledger, 3, "r", room(100, most=2))
    assert answer_in(ledger, 2, "r", room(100, most=2)) == body(0)


def test_no_more_forms_of_release_are_charged_than_can_be_composed_soon(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each that is new is composed with all others: time and memory of every later charge."""
    monkeypatch.setattr(balance, "MOST_FORMS", 3)
    for number, sigma in enumerate([50.0, 60.0, 70.0], start=1):
        charged(ledger, number, sigma)
    charged(ledger, 4, 60.0)
    with pytest.raises(Refused, match="combinations of kind, noise and sample rate"):
        charged(ledger, 5, 80.0)
    assert len(ledger.releases()) == 3
    planned = [replace(entry(6).release, noise_multiplier=80.0)]
    with pytest.raises(Refused, match="combinations"):
        ledger.check_room_of_plan("r", [], planned)


def charged(ledger: Ledger, number: int, sigma: float) -> None:
    what = entry(number)
    what = replace(what, release=replace(what.release, noise_multiplier=sigma))
    ledger.charge(what, Limits(max_epsilon=float("inf"), delta=DELTA), room=room(100))


def test_refusals_take_bounded_room_and_none_is_lost(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(RefusalCounter, "DETAILED", 5)
    for _ in range(40):
        ledger.refuse(Refusal.MALFORMED, {"kind": "train"})
    ledger.refuse(Refusal.POLICY, {"kind": "train"})
    records = [r.fields for r in ledger.history() if r.type is EntryType.REFUSAL]
    times = [r.get("times", 1) for r in records if r["code"] == "malformed"]
    assert times == [1, 1, 1, 1, 1, 3, 8, 16]  # the 8th, the 16th, the 32nd; 8 are pending
    assert [r.get("times", 1) for r in records if r["code"] == "policy"] == [1]
    assert ledger.verify() == 1 + len(records)


# --- time and failures ----------------------------------------------------------------------------


def ask(folder: Path, message: Message) -> Message:
    context = Context(
        run_id=1,
        node_id=1,
        node_config={"site": str(folder), "simulated": True},
        state=RecordDict(),
        run_config={},
    )
    return client.app.app(message, context)


@pytest.mark.parametrize("changes", [{}, {"clip_norm": 1e9}], ids=["answered", "refused"])
def test_a_reply_is_held_back_until_the_declared_time(
    sites: Sites, changes: dict[str, Any]
) -> None:
    ask(sites.make("warm"), sites.message())  # what only the first request of a process does
    folder = sites.make("alpha", {"policy.answer_seconds": 1.5})
    started = time.monotonic()
    reply = ask(folder, sites.message(**changes))
    assert 1.5 <= time.monotonic() - started < 2.5
    assert refusal_in(reply) is (Refusal.POLICY if changes else None)


def test_a_computation_that_takes_longer_is_noted_and_answered(
    sites: Sites, caplog: pytest.LogCaptureFixture
) -> None:
    folder = sites.make("alpha", {"policy.answer_seconds": 1e-9})
    with caplog.at_level("WARNING"):
        assert refusal_in(ask(folder, sites.message())) is None
    assert "overran" in caplog.text


@pytest.mark.parametrize(
    "error",
    [Refused(Refusal.CATALOGUE, "x"), WireError("x"), MemoryError(), ValueError("x")],
    ids=lambda error: type(error).__name__,
)
def test_every_failure_after_the_charge_has_one_code(
    sites: Sites, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> dict[str, torch.Tensor]:
        raise error

    monkeypatch.setattr(client.app, "train", fail)
    folder = sites.make("alpha")
    assert refusal_in(ask(folder, sites.message())) is Refusal.FAILED
    ledger = Site.load(folder).open_ledger()
    assert len(ledger.releases()) == 1
    assert [record.type for record in ledger.history()[-2:]] == [EntryType.CHARGE, EntryType.ANSWER]
