from __future__ import annotations

import base64
import json
import math
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch import Tensor

from client.guard import Computation as Computed
from client.guard import Guard
from client.ledger.balance import EntryType
from client.ledger.ledger import Ledger
from client.site.policy import Ask
from client.site.site import Site
from shared.config import ModelConfig, ModelKind, Optimiser
from shared.errors import BudgetExceeded, LedgerError, Refused, WireError
from shared.messages import EvaluateRequest, PlanRequest, StatisticsRequest, TrainRequest
from shared.outcomes import Refusal
from shared.privacy.accounting.accountant import epsilon
from shared.privacy.release import Release, ReleaseKind
from tests.conftest import DESCRIBED, MODEL
from tests.flower_internals import ProtoRecordDict, recorddict_from_proto

if TYPE_CHECKING:
    from tests.conftest import Sites

ROOT = Path(__file__).parents[1]
DELTA = 1e-3
ANSWER = {"w": torch.tensor([[1.0, -2.0], [0.5, math.nan]]), "b": torch.arange(3.0)}


class Computation:
    """Counts how often it runs; gives another answer each time, or fails."""

    def __init__(self, failures: int = 0) -> None:
        self.calls, self.failures = 0, failures

    def __call__(self) -> dict[str, Tensor]:
        self.calls += 1
        if self.calls <= self.failures:
            raise RuntimeError("no memory")
        return {name: value + self.calls for name, value in ANSWER.items()}


def ready(compute: Callable[[], dict[str, Tensor]]) -> Callable[[], Computed]:
    """A preparation that has nothing to do."""
    return lambda: compute


class House:
    """A site with its ledger and guard."""

    def __init__(self, sites: Sites, **policy: Any) -> None:  # noqa: ANN401
        limits = {f"policy.{key}": value for key, value in policy.items()}
        self.site = Site.load(sites.make("alpha", {"policy.delta": DELTA} | limits))
        self.ledger = self.site.open_ledger()
        self.guard = Guard(self.site, self.ledger, sites.catalogue)


def release(steps: int = 1) -> Release:
    """What `Sites.request` asks for."""
    return Release(kind=ReleaseKind.TRAIN, noise_multiplier=2.0, sample_rate=0.5, steps=steps)


def cost(steps: int, delta: float = DELTA) -> float:
    return epsilon([release(steps)], delta)


def bits(answer: dict[str, Tensor]) -> dict[str, bytes]:
    return {name: value.numpy().tobytes() for name, value in answer.items()}


# --- admitted ----------------------------------------------------------------------------------


def test_an_admitted_request_is_charged_and_answered(sites: Sites) -> None:
    house = House(sites)
    request = sites.request(noise_multiplier=3.0, sample_rate=0.25, local_steps=2)
    answer = house.guard.answer(request, ready(lambda: dict(ANSWER)))
    assert bits(answer) == bits(ANSWER)
    assert {name: value.shape for name, value in answer.items()} == {"w": (2, 2), "b": (3,)}
    assert house.ledger.releases() == [
        Release(kind=ReleaseKind.TRAIN, noise_multiplier=3.0, sample_rate=0.25, steps=2)
    ]


def test_the_charge_comes_before_the_computation(sites: Sites) -> None:
    house, seen = House(sites), []

    def compute() -> dict[str, Tensor]:
        seen.append(house.site.open_ledger().releases())
        return dict(ANSWER)

    house.guard.answer(sites.request(), ready(compute))
    assert seen == [[release()]]


def test_what_fails_in_preparation_is_not_paid_for(sites: Sites) -> None:
    house, seen = House(sites), []

    def broken() -> Computed:
        seen.append(house.ledger.releases())
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        house.guard.answer(sites.request(), broken)
    assert seen == [[]]
    assert house.ledger.releases() == []


def test_a_computation_that_fails_is_paid_for_and_is_not_repeated(sites: Sites) -> None:
    """Not with other weights either: whether it fails may tell of the data, each time anew."""
    house, compute = House(sites), Computation(failures=1)
    with pytest.raises(RuntimeError, match="no memory"):
        house.guard.answer(sites.request(), ready(compute))
    other = {name: value + 1 for name, value in sites.request().weights.items()}
    for request in (sites.request(), sites.request(weights=other)):
        with pytest.raises(RuntimeError, match="is not repeated"):
            house.guard.answer(request, ready(compute))
    assert (compute.calls, house.ledger.releases()) == (1, [release()])
    house.guard.answer(sites.request(round=2), ready(compute))
    assert (compute.calls, house.ledger.releases()) == (2, [release(steps=2)])


def test_the_first_outcome_of_a_round_is_its_only_one(sites: Sites) -> None:
    house = House(sites)

    def overtaken() -> dict[str, Tensor]:
        with pytest.raises(RuntimeError, match="no memory"):
            house.guard.answer(sites.request(), ready(Computation(failures=1)))
        return ANSWER

    with pytest.raises(RuntimeError, match="in another process"):
        house.guard.answer(sites.request(), ready(overtaken))

    def overtaking() -> dict[str, Tensor]:
        house.guard.answer(sites.request(round=2), ready(Computation()))
        raise RuntimeError("no memory")

    answer = house.guard.answer(sites.request(round=2), ready(overtaking))
    assert bits(answer) == bits(house.guard.answer(sites.request(round=2), ready(Computation())))


def test_values_in_any_layout_are_kept(sites: Sites) -> None:
    turned = torch.arange(6.0).reshape(2, 3).T
    answer = House(sites).guard.answer(sites.request(), ready(lambda: {"w": turned}))
    assert torch.equal(answer["w"], turned)


# --- repeated ----------------------------------------------------------------------------------


def test_a_repeated_request_costs_nothing_and_computes_nothing(sites: Sites) -> None:
    house, compute = House(sites, max_epsilon=cost(1)), Computation()
    first = house.guard.answer(sites.request(), ready(compute))
    again = Guard(
        house.site,
        house.site.open_ledger(),
        sites.catalogue,
    ).answer(sites.request(), ready(compute))
    assert bits(first) == bits(again)
    assert compute.calls == 1
    assert house.ledger.releases() == [release()]


def test_a_repeat_with_other_weights_gets_the_same_answer(sites: Sites) -> None:
    house, compute = House(sites), Computation()
    first = house.guard.answer(sites.request(), ready(compute))
    other = {name: value + 1 for name, value in sites.request().weights.items()}
    assert bits(house.guard.answer(sites.request(weights=other), ready(compute))) == bits(first)
    assert house.ledger.releases() == [release()]


OTHER_PARAMETERS = [
    {"noise_multiplier": 0.0},
    {"noise_multiplier": 3.0},
    {"local_steps": 9},
    {"sample_rate": 0.25},
    {"clip_norm": 7.0},
    {"learning_rate": 9.0},
    {"weight_decay": 9.0},
    {"optimiser": Optimiser.ADAM},
    {"model": ModelConfig(hidden_size=64)},
    {"catalogue": "other"},
]


@pytest.mark.parametrize("answered", [True, False], ids=["answered", "killed before the answer"])
@pytest.mark.parametrize("changes", OTHER_PARAMETERS, ids=str)
def test_the_same_round_with_other_parameters_is_refused(
    sites: Sites, changes: dict[str, Any], answered: bool
) -> None:
    house, compute = House(sites), Computation(failures=0 if answered else 1)
    if answered:
        house.guard.answer(sites.request(), ready(compute))
    else:
        with pytest.raises(RuntimeError, match="no memory"):
            house.guard.answer(sites.request(), ready(compute))
    assert refused(house, sites.request(**changes)).code is Refusal.POLICY
    assert compute.calls == 1


def test_what_another_process_answered_first_is_what_leaves(sites: Sites) -> None:
    house, compute = House(sites), Computation()
    others: list[dict[str, Tensor]] = []

    def slow() -> dict[str, Tensor]:
        others.append(house.guard.answer(sites.request(), ready(compute)))
        return compute()

    answer = house.guard.answer(sites.request(), ready(slow))
    assert compute.calls == 2
    assert bits(answer) == bits(others[0])
    assert house.ledger.releases() == [release()]


def test_a_round_that_was_passed_is_closed(sites: Sites) -> None:
    house, compute = House(sites), Computation()
    house.guard.answer(sites.request(round=2), ready(compute))
    with pytest.raises(Refused) as caught:
        house.guard.answer(sites.request(round=1), ready(compute))
    assert caught.value.code is Refusal.CLOSED
    assert (compute.calls, house.ledger.releases()) == (1, [release()])


def test_rounds_and_runs_are_distinguished(sites: Sites) -> None:
    house, compute = House(sites), Computation()
    answers = [
        house.guard.answer(sites.request(run=run, round=number), ready(compute))
        for run, number in (("r", 1), ("r", 2), ("s", 1), ("", 1))
    ]
    assert len({value["b"].numpy().tobytes() for value in answers}) == 4
    assert house.ledger.releases() == [release(steps=4)]


# --- refused -----------------------------------------------------------------------------------


def refused(house: House, request: TrainRequest) -> Refused:
    """Refuses without computing or charging anything."""
    compute, before = Computation(), house.ledger.releases()
    with pytest.raises(Refused) as caught:
        house.guard.answer(request, ready(compute))
    assert compute.calls == 0
    assert house.ledger.releases() == before
    [last] = house.ledger.history(last=1)
    assert (last.type, last.fields["code"]) == (EntryType.REFUSAL, str(caught.value.code))
    asked = request.noise_multiplier, request.local_steps, request.round, request.run[:100]
    noted = [last.fields[key] for key in ("noise_multiplier", "steps", "round", "run")]
    assert noted == list(asked), "what was asked is recorded"
    return caught.value


def test_another_catalogue_is_refused(sites: Sites) -> None:
    error = refused(House(sites), sites.request(catalogue="0" * 64))
    assert error.code is Refusal.CATALOGUE
    assert "000000000000" in error.detail


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_weights_that_are_not_finite_are_refused(sites: Sites, value: float) -> None:
    weights = dict(sites.request().weights)
    name, array = next(iter(weights.items()))
    weights[name] = array.copy()
    weights[name].flat[-1] = value
    error = refused(House(sites), sites.request(weights=weights))
    assert error.code is Refusal.MALFORMED


@pytest.mark.parametrize("clip_norm", [1e-45, 1e-38, 1e-21, 1e-13])
def test_noise_that_float32_would_lose_is_refused(sites: Sites, clip_norm: float) -> None:
    """At 0.7e-45 a standard deviation is stored as 0: nothing would hide the clipped sum."""
    assert np.float32(0.5 * 1.4e-45) == 0
    error = refused(House(sites), sites.request(clip_norm=clip_norm))
    assert error.code is Refusal.POLICY


@pytest.mark.parametrize("noise_multiplier", [0.0, 1e-6, 2.0])
def test_a_sum_that_float32_could_not_hold_is_refused(
    sites: Sites, noise_multiplier: float
) -> None:
    request = sites.request(clip_norm=1e25, noise_multiplier=noise_multiplier)
    assert refused(House(sites), request).code is Refusal.POLICY


def test_without_noise_a_small_clip_norm_does_not_matter(sites: Sites) -> None:
    request = sites.request(noise_multiplier=0.0, clip_norm=1e-45)
    assert House(sites).guard.answer(request, ready(Computation()))


@pytest.mark.parametrize(
    "wish",
    [
        {"noise_multiplier": 0.3},
        {"noise_multiplier": 1.0, "sample_rate": 1.0},
        {"local_steps": 50},
        {"local_steps": 1000, "round": 2**62},
    ],
    ids=str,
)
def test_the_partners_limit_holds_whatever_is_asked(sites: Sites, wish: dict[str, Any]) -> None:
    house = House(sites, max_epsilon=2.0)
    house.guard.answer(sites.request(run="before"), ready(Computation()))
    assert isinstance(refused(house, sites.request(**wish)), BudgetExceeded)


WISHES = [
    ({"noise_multiplier": 0.0}, {}),
    ({"noise_multiplier": 1e-9}, {}),
    ({"noise_multiplier": math.nextafter(0.3, 0)}, {}),
    ({"noise_multiplier": 1.4}, {"min_noise_multiplier": 1.5}),
    ({"sample_rate": 1.0}, {"max_sample_rate": 0.5}),
    ({"sample_rate": math.nextafter(0.25, 1)}, {"max_sample_rate": 0.25}),
    ({"clip_norm": 101.0}, {}),
    ({"clip_norm": 1e30}, {"max_clip_norm": 1e35}),
    ({"clip_norm": 2.0}, {"max_clip_norm": 1.5}),
    ({"local_steps": 1001}, {}),
    ({"local_steps": 10**12}, {}),
    ({"local_steps": 3}, {"max_steps": 2}),
]


@pytest.mark.parametrize(("wish", "policy"), WISHES, ids=str)
def test_each_limit_of_the_policy_holds(
    sites: Sites, wish: dict[str, Any], policy: dict[str, float]
) -> None:
    house = House(sites, **{"max_epsilon": 1e6} | policy)
    error = refused(house, sites.request(**wish))
    assert error.code is Refusal.POLICY
    assert not isinstance(error, BudgetExceeded)


@pytest.mark.parametrize(
    ("wish", "policy"),
    [
        ({"noise_multiplier": 0.3}, {}),
        ({"noise_multiplier": 0.05}, {"min_noise_multiplier": 0.0}),
        ({"sample_rate": 0.5}, {"max_sample_rate": 0.5}),
        ({"sample_rate": 1.0}, {}),
        ({"clip_norm": 100.0}, {}),
        ({"local_steps": 1000}, {}),
        ({"noise_multiplier": 0.0}, {"max_epsilon": math.inf}),
        ({"noise_multiplier": 0.01}, {"max_epsilon": math.inf}),
    ],
    ids=str,
)
def test_what_the_policy_allows_is_admitted(
    sites: Sites, wish: dict[str, Any], policy: dict[str, float]
) -> None:
    house = House(sites, **{"max_epsilon": 1e9} | policy)
    assert house.guard.answer(sites.request(**wish), ready(Computation()))


def test_linked_users_are_all_in_a_step_and_in_no_more_samples_than_is_stated(sites: Sites) -> None:
    house = House(sites, max_epsilon=1e6, kinds=["social"])
    social = replace(MODEL, kind=ModelKind.SOCIAL, friends=4)
    assert refused(house, sites.request(model=social)).code is Refusal.POLICY  # sample rate 0.5
    of_all = sites.request(model=social, sample_rate=1.0)
    assert house.guard.answer(of_all, ready(Computation()))
    for stated, admitted in ((4, True), (5, False)):
        data = replace(house.site.data, bounded_friends="none.csv", friends_most=stated)
        other = replace(house.site, data=data)
        guard = Guard(other, house.ledger, sites.catalogue)
        asked = replace(of_all, run=f"of {stated}")
        if admitted:  # the table is not there: it is not looked at
            assert guard.answer(asked, ready(Computation()))
            continue
        with pytest.raises(Refused, match="the friend of 5 others"):
            guard.answer(asked, ready(Computation()))
        with pytest.raises(Refused, match="the friend of 5 others"):
            guard.check_plan(plan(sites, model=social, sample_rate=1.0))


def test_a_minimum_that_is_stated_holds_without_a_budget_too(sites: Sites) -> None:
    house = House(sites, max_epsilon=math.inf, min_noise_multiplier=0.5)
    assert refused(house, sites.request(noise_multiplier=0.0)).code is Refusal.POLICY


@pytest.mark.parametrize("run", ["a\nb", "\x00", "x" * 101, "\u202e"])
def test_a_run_whose_name_cannot_be_shown_is_refused(sites: Sites, run: str) -> None:
    house = House(sites)
    assert refused(house, sites.request(run=run)).code is Refusal.MALFORMED
    assert house.ledger.verify() == 2


def test_a_request_that_the_model_cannot_take_is_refused_and_recorded(sites: Sites) -> None:
    house = House(sites)

    def prepare() -> Computed:
        raise WireError("the weights differ")

    with pytest.raises(Refused, match="the weights differ") as caught:
        house.guard.answer(sites.request(), prepare)
    assert caught.value.code is Refusal.MALFORMED
    assert house.ledger.history(last=1)[0].fields["code"] == "malformed"
    assert house.ledger.releases() == []


@pytest.mark.parametrize("answers", [[], ["describe"], ["evaluate"]])
def test_training_is_refused_where_it_is_not_answered(sites: Sites, answers: list[str]) -> None:
    house = House(sites, answers=answers)
    assert refused(house, sites.request()).code is Refusal.POLICY


def test_training_that_is_no_longer_answered_is_not_repeated(sites: Sites) -> None:
    house = House(sites)
    house.guard.answer(sites.request(), ready(Computation()))
    closed = replace(house.site, policy=replace(house.site.policy, answers=(Ask.DESCRIBE,)))
    with pytest.raises(Refused):
        Guard(closed, house.ledger, sites.catalogue).answer(sites.request(), ready(Computation()))


def test_a_stricter_policy_still_repeats_what_left(sites: Sites) -> None:
    house = House(sites)
    first = house.guard.answer(sites.request(), ready(Computation()))
    policy = replace(house.site.policy, max_epsilon=1e-3, min_noise_multiplier=50.0)
    strict = Guard(replace(house.site, policy=policy), house.ledger, sites.catalogue)
    assert bits(strict.answer(sites.request(), ready(Computation()))) == bits(first)
    with pytest.raises(Refused):
        strict.answer(sites.request(round=2), ready(Computation()))


# --- metrics -----------------------------------------------------------------------------------


def asked(sites: Sites, **changes: Any) -> EvaluateRequest:  # noqa: ANN401
    train = sites.request()
    fields: dict[str, Any] = {
        "run": "r",
        "round": 1,
        "catalogue": train.catalogue,
        "model": train.model,
        "weights": train.weights,
        "noise_multiplier": 2.0,
        "sample_rate": 0.5,
    }
    return EvaluateRequest(**fields | changes)


BOTH = {"answers": ["describe", "train", "evaluate"]}


def test_metrics_are_refused_unless_they_are_allowed(sites: Sites) -> None:
    house, compute = House(sites), Computation()
    with pytest.raises(Refused) as caught:
        house.guard.answer(asked(sites), ready(compute))
    assert caught.value.code is Refusal.POLICY
    assert (compute.calls, house.ledger.releases()) == (0, [])
    assert house.ledger.history(last=1)[0].fields["kind"] == "evaluate"


def test_metrics_and_training_are_charged_to_one_ledger(sites: Sites) -> None:
    house, compute = House(sites, max_epsilon=cost(3), **BOTH), Computation()
    trained = house.guard.answer(sites.request(), ready(compute))
    sums = house.guard.answer(asked(sites), ready(compute))
    assert bits(trained) != bits(sums)
    assert bits(house.guard.answer(asked(sites), ready(compute))) == bits(sums)
    assert compute.calls == 2
    metric = replace(release(), kind=ReleaseKind.EVALUATE)
    assert house.ledger.releases() == [release(), metric]
    assert house.ledger.spent(DELTA) == cost(2)
    house.guard.answer(sites.request(round=2), ready(compute))
    with pytest.raises(BudgetExceeded):
        house.guard.answer(asked(sites, round=2), ready(compute))


@pytest.mark.parametrize(
    ("wish", "policy"),
    [
        ({"noise_multiplier": 0.2}, {}),
        ({"sample_rate": 1.0}, {"max_sample_rate": 0.5}),
        ({}, {"max_clip_norm": 1.7}),
        ({"catalogue": "other"}, {}),
        ({"run": "\n"}, {}),
        ({"noise_multiplier": 0.5}, {"max_epsilon": 0.1}),
    ],
    ids=str,
)
def test_metrics_meet_the_same_policy(
    sites: Sites, wish: dict[str, Any], policy: dict[str, float]
) -> None:
    house, compute = House(sites, **{"max_epsilon": 1e6} | policy | BOTH), Computation()
    with pytest.raises(Refused) as caught:
        house.guard.answer(asked(sites, **wish), ready(compute))
    assert compute.calls == 0
    assert house.ledger.releases() == []
    assert house.ledger.history(last=1)[0].fields["code"] == str(caught.value.code)


@pytest.mark.parametrize("changes", [{"k": 5}, {"noise_multiplier": 3.0}])
def test_the_same_evaluation_with_other_parameters_is_refused(
    sites: Sites, changes: dict[str, Any]
) -> None:
    house = House(sites, **BOTH)
    house.guard.answer(asked(sites), ready(Computation()))
    with pytest.raises(Refused) as caught:
        house.guard.answer(asked(sites, **changes), ready(Computation()))
    assert caught.value.code is Refusal.POLICY


def test_the_limit_counts_every_run(sites: Sites) -> None:
    house = House(sites, max_epsilon=cost(2))
    for run in ("first", "second"):
        house.guard.answer(sites.request(run=run), ready(Computation()))
    assert isinstance(refused(house, sites.request(run="third")), BudgetExceeded)


def test_the_cost_is_at_the_partners_delta(sites: Sites) -> None:
    """A request names no δ: nobody but the partner can."""
    assert "delta" not in {field.name for field in fields(TrainRequest)}
    strict, limit = 1e-6, (cost(1, 1e-3) + cost(1, 1e-6)) / 2
    house = House(sites, max_epsilon=limit, delta=strict)
    assert isinstance(refused(house, sites.request()), BudgetExceeded)


def test_the_same_limit_admits_it_at_a_larger_delta(sites: Sites) -> None:
    limit, compute = (cost(1, 1e-3) + cost(1, 1e-6)) / 2, Computation()
    House(sites, max_epsilon=limit, delta=1e-3).guard.answer(sites.request(), ready(compute))
    assert compute.calls == 1


def test_without_a_ledger_nothing_is_computed(sites: Sites) -> None:
    house, compute = House(sites), Computation()
    house.site.ledger_file.unlink()
    with pytest.raises(LedgerError):
        house.guard.answer(sites.request(), ready(compute))
    assert compute.calls == 0


def test_an_answer_that_cannot_be_kept_does_not_leave(
    sites: Sites, monkeypatch: pytest.MonkeyPatch
) -> None:
    house = House(sites)

    def full(*_: object, **__: object) -> bytes:
        raise LedgerError("the disk is full")

    monkeypatch.setattr(Ledger, "keep_answer", full)
    with pytest.raises(LedgerError, match="full"):
        house.guard.answer(sites.request(), ready(Computation()))


# --- ledgers of earlier versions -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("read", "fingerprint"),
    [
        (TrainRequest, "2621bbb01cde7a205b32c20a2b1727c3ed04ba495f9b049963f971cef63cb303"),
        (EvaluateRequest, "6e0df87d93fd031f1c5432e7698917b93d55becbb0354584b740e3f791afef9c"),
        (StatisticsRequest, "bd0c36fd6530c23d11731d724d88b8d5dab78653549df153fb9dbb45baafec65"),
    ],
)
def test_a_request_has_the_fingerprint_that_earlier_versions_recorded(
    sites: Sites, monkeypatch: pytest.MonkeyPatch, read: type[Any], fingerprint: str
) -> None:
    """A repeated request must find its kept answer, whichever version gave it."""
    house, entries = House(sites, answers=["train", "evaluate", "statistics"]), list[Any]()
    monkeypatch.setattr(house.ledger, "answer", entries.append)
    monkeypatch.setattr(house.ledger, "refuse", lambda *_: None)
    stored = json.loads((ROOT / "shared" / "stored" / "messages.json").read_text())
    raw = ProtoRecordDict.FromString(base64.b64decode(stored[read.__name__]))
    request = read.from_content(recorddict_from_proto(raw))
    with pytest.raises(Refused):  # of another catalogue, which is looked at later
        house.guard.answer(request, ready(Computation()))
    assert [entry.request for entry in entries] == [fingerprint]


# --- a whole run, before anything is charged ---------------------------------------------------


def plan(sites: Sites, **changes: Any) -> PlanRequest:  # noqa: ANN401
    """Ten rounds of what `Sites.request` asks for."""
    fields: dict[str, Any] = {
        "run": "autumn",
        "catalogue": sites.catalogue.fingerprint,
        "model": DESCRIBED,
        "largest_weight": 1.0,
        "statistics": 0,
        "popularity_noise": 0.0,
        "moment_noise": 0.0,
        "training_noise": 2.0,
        "sample_rate": 0.5,
        "clip_norm": 1.0,
        "local_steps": 1,
        "rounds": 10,
        "evaluations": 0,
    }
    return PlanRequest(**fields | changes)


def test_a_plan_within_the_budget_is_admitted_and_charges_nothing(sites: Sites) -> None:
    house = House(sites, max_epsilon=cost(10))
    house.guard.check_plan(plan(sites))
    assert house.ledger.releases() == []
    assert [record.type for record in house.ledger.history()] == [EntryType.OPENED]


def test_a_plan_beyond_the_budget_is_refused_with_what_other_runs_have_spent(sites: Sites) -> None:
    house = House(sites, max_epsilon=cost(10))
    house.guard.answer(sites.request(run="spring"), ready(lambda: dict(ANSWER)))
    with pytest.raises(BudgetExceeded, match=r"run autumn as a whole would lead to ε = "):
        house.guard.check_plan(plan(sites))
    house.guard.check_plan(plan(sites, rounds=9))
    assert house.ledger.releases() == [release()]
    recorded = {"kind": "plan", "run": "autumn", "code": "budget"}
    assert recorded.items() <= house.ledger.history()[-1].fields.items()


def test_what_the_run_has_paid_already_is_part_of_its_plan(sites: Sites) -> None:
    house = House(sites, max_epsilon=cost(10))
    for number in (1, 2):
        house.guard.answer(sites.request(run="autumn", round=number), ready(lambda: dict(ANSWER)))
    house.guard.check_plan(plan(sites))


def test_statistics_and_evaluations_are_part_of_a_plan(sites: Sites) -> None:
    house = House(sites, max_epsilon=cost(10), answers=["describe", "statistics", "train"])
    noisy = {"statistics": 1, "popularity_noise": 50.0, "moment_noise": 50.0}
    with pytest.raises(BudgetExceeded):
        house.guard.check_plan(plan(sites, **noisy))
    house.guard.check_plan(plan(sites, rounds=8, **noisy))
    house.guard.check_plan(plan(sites, evaluations=5))  # the run does without its metrics


@pytest.mark.parametrize(
    ("wish", "code"),
    [
        ({"training_noise": 0.1}, Refusal.POLICY),
        ({"local_steps": 5000}, Refusal.POLICY),
        ({"clip_norm": 1e3}, Refusal.POLICY),
        ({"catalogue": "c"}, Refusal.CATALOGUE),
        ({"run": "x" * 101}, Refusal.MALFORMED),
        ({"run": "a\nb"}, Refusal.MALFORMED),
    ],
)
def test_a_plan_is_refused_as_its_requests_would_be(
    sites: Sites, wish: dict[str, Any], code: Refusal
) -> None:
    house = House(sites, max_epsilon=100.0)
    with pytest.raises(Refused) as refused:
        house.guard.check_plan(plan(sites, **wish))
    assert refused.value.code is code
    assert house.ledger.history()[-1].fields["code"] == code
