from __future__ import annotations

import logging
import math
import shutil
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from flwr.app import Context, Message, RecordDict

import client.app
from client.app import app, load_weights
from client.ledger.balance import EntryType
from client.ledger.ledger import Ledger
from client.site.aggregation_key import make_aggregation_key
from client.site.site import Site
from shared.config import ModelKind
from shared.data.histories import Histories
from shared.data.reading import write_interactions
from shared.errors import WireError
from shared.messages import (
    DESCRIBE,
    EVALUATE,
    TRAIN,
    DescribeReply,
    DescribeRequest,
    EvaluateReply,
    EvaluateRequest,
    TrainReply,
    Weights,
    refusal_in,
)
from shared.models.attention import build, trainable
from shared.models.registry import build_recommender, frozen_fingerprint
from shared.outcomes import Refusal
from shared.privacy.release import Release, ReleaseKind
from shared.sections import Value
from shared.secure_aggregation.signing import public_from_text
from tests.conftest import DESCRIBED
from tests.flower_internals import message_to_proto, recorddict_to_proto

if TYPE_CHECKING:
    from tests.conftest import Sites

SECRET = "user7 likes item 13"
PLAIN = {"noise_multiplier": 0.0}


@pytest.fixture(autouse=True)
def outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No site may depend on the folder that a node was started in."""
    monkeypatch.chdir(tmp_path)


def at(site: Path) -> Context:
    """The context of a partner's node."""
    return context({"site": str(site), "simulated": True})


def context(node_config: dict[str, Value], run_config: dict[str, Value] | None = None) -> Context:
    return Context(
        run_id=1,
        node_id=1,
        node_config=node_config,
        state=RecordDict(),
        run_config=run_config or {},
    )


def described() -> Message:
    return Message(DescribeRequest().to_content(), 1, DESCRIBE)


def raw(reply: Message) -> bytes:
    """All that leaves."""
    return bytes(message_to_proto(reply).SerializeToString())


def change(reply: Message) -> Weights:
    assert refusal_in(reply) is None
    return TrainReply.from_content(reply.content).change


def flat(reply: Message) -> np.ndarray[Any, np.dtype[np.float32]]:
    weights = change(reply)
    return np.concatenate([weights[name].ravel() for name in sorted(weights)])


def ledger(site: Path) -> Ledger:
    return Ledger(
        site / "ledger.sqlite", f"{site.name}'s users", site.parent / "anchors" / site.name
    )


def charged(site: Path) -> list[Release]:
    return ledger(site).releases()


def release(steps: int = 1, noise: float = 2.0) -> Release:
    return Release(kind=ReleaseKind.TRAIN, noise_multiplier=noise, sample_rate=0.5, steps=steps)


# --- describe ----------------------------------------------------------------------------------


def test_a_site_describes_itself_by_public_constants(sites: Sites) -> None:
    site = sites.make("alpha", {"population": 999})
    reply = app(described(), at(site))
    assert DescribeReply.from_content(reply.content) == DescribeReply(
        organisation="alpha", population=999, catalogue=sites.catalogue.fingerprint
    )
    assert charged(site) == []


def test_a_site_states_the_key_that_its_peers_know(sites: Sites) -> None:
    folder = sites.make("alpha")
    identity = make_aggregation_key(Site.load(folder))
    reply = DescribeReply.from_content(app(described(), at(folder)).content)
    assert public_from_text(reply.aggregation_key) == identity.public
    (folder / "aggregation_key").write_text("damaged")
    reply = DescribeReply.from_content(app(described(), at(folder)).content)
    assert reply.aggregation_key == ""


def test_a_description_needs_no_data(sites: Sites) -> None:
    site = sites.make("alpha")
    (site / "interactions.parquet").unlink()
    (site / "ledger.sqlite").unlink()
    assert app(described(), at(site)).has_content()


# --- train -------------------------------------------------------------------------------------


def test_a_private_round_is_answered_and_charged(sites: Sites) -> None:
    site = sites.make("alpha")
    reply = app(sites.message(local_steps=2), at(site))
    weights = sites.request().weights
    assert {name: value.shape for name, value in change(reply).items()} == {
        name: value.shape for name, value in weights.items()
    }
    assert all(np.isfinite(value).all() and value.any() for value in change(reply).values())
    assert charged(site) == [release(steps=2)]


def test_a_round_without_privacy_is_answered_where_the_partner_allows_it(sites: Sites) -> None:
    site = sites.make("alpha", seed=0)
    assert np.abs(flat(app(sites.message(**PLAIN), at(site)))).max() > 0
    assert charged(site) == [release(noise=0.0)]


def test_a_round_without_privacy_is_refused_otherwise(sites: Sites) -> None:
    site = sites.make("alpha", {"policy.max_epsilon": 1e6})
    reply = app(sites.message(**PLAIN), at(site))
    assert refusal_in(reply) is Refusal.POLICY
    assert charged(site) == []


def test_a_reply_holds_the_change_and_nothing_else(sites: Sites) -> None:
    reply = app(sites.message(), at(sites.make("alpha")))
    ((name, record),) = reply.content.items()
    assert set(record) == set(sites.request().weights)
    assert set(reply.content.array_records) == {name}
    assert [field.name for field in fields(TrainReply)] == ["change"]


def test_a_repeated_request_gets_the_same_bytes_and_costs_nothing(sites: Sites) -> None:
    site = sites.make("alpha")
    contents = {
        recorddict_to_proto(app(sites.message(), at(site)).content).SerializeToString()
        for _ in range(3)
    }
    assert len(contents) == 1
    assert charged(site) == [release()]


def test_a_simulated_node_serves_the_site_of_its_rank(sites: Sites) -> None:
    sites.make("alpha")
    sites.make("beta")
    run: dict[str, Value] = {"paths.sites": str(sites.folder)}
    reply = app(described(), context({"partition-id": 1}, run))
    assert DescribeReply.from_content(reply.content).organisation == "beta"


def test_the_run_config_leads_no_node_to_a_site(sites: Sites) -> None:
    site = sites.make("alpha")
    run: dict[str, Value] = {
        "paths.sites": str(sites.folder),
        "site": str(site),
        "partition-id": 0,
    }
    assert refusal_in(app(sites.message(), context({}, run))) is Refusal.FAILED
    assert charged(site) == []


@pytest.mark.parametrize("population", [3, 900])
def test_the_declared_population_need_not_be_the_real_one(sites: Sites, population: int) -> None:
    """It is the divisor of every sum, and the only count that plays a part."""
    declared = sites.make("alpha", {"population": population}, seed=0)
    exact = sites.make("gamma", seed=0)
    shutil.copy(exact / "interactions.parquet", declared / "interactions.parquet")
    request = {"sample_rate": 1.0, **PLAIN}
    ratio = 12 / population
    assert flat(app(sites.message(**request), at(declared))) == pytest.approx(
        ratio * flat(app(sites.message(**request), at(exact))), rel=1e-3, abs=1e-6
    )


def test_new_data_is_read_when_the_file_changes(sites: Sites) -> None:
    site = sites.make("alpha", seed=0)

    def trained(run: str) -> bytes:
        return flat(app(sites.message(run=run, sample_rate=1.0, **PLAIN), at(site))).tobytes()

    before = trained("a")
    assert trained("b") == before
    file = site / "interactions.parquet"
    write_interactions(Histories.from_lists([[1, 2, 3]]), sites.catalogue, file)
    assert trained("c") != before


def test_a_real_node_refuses_noise_that_repeats_itself(sites: Sites) -> None:
    site = sites.make("alpha", seed=0)
    assert refusal_in(app(sites.message(), context({"site": str(site)}))) is Refusal.FAILED
    assert charged(site) == []
    real = sites.make("beta")
    assert app(sites.message(), context({"site": str(real)})).has_content()


def test_friends_are_read_where_the_table_keeps_its_bound(sites: Sites) -> None:
    """One that breaks it is answered as data that cannot be read are, and costs no budget."""
    bound = {"data.bounded_friends": "friends.csv", "data.friends_most": 2}
    site = sites.make("alpha", {**bound, "policy.kinds": ["social"]}, users=12)
    model = replace(DESCRIBED, kind=ModelKind.SOCIAL)
    weights = trainable(build_recommender(model, sites.catalogue))
    asked = {
        "model": model,
        "weights": {name: p.detach().numpy() for name, p in weights.items()},
        "sample_rate": 1.0,
    }
    users = Site.load(site).load_histories(sites.catalogue, 99).users
    ring = [f"{one},{other}" for one, other in zip(users, [*users[1:], users[0]], strict=True)]
    table = site / "friends.csv"
    table.write_text("\n".join(["user,friend", *ring, f"{users[0]},{users[5]}"]) + "\n")
    assert refusal_in(app(sites.message(**asked), at(site))) is Refusal.FAILED
    table.write_text("\n".join(["user,friend", *ring, f"{users[0]},nobody"]) + "\n")
    few = {**asked, "model": replace(model, friends=1)}
    assert refusal_in(app(sites.message(**few), at(site))) is Refusal.POLICY
    assert charged(site) == []
    with_friends = change(app(sites.message(**asked), at(site)))
    assert with_friends["friend_shares.weight"].any()
    table.unlink()
    assert refusal_in(app(sites.message(**asked, round=2), at(site))) is Refusal.FAILED


def test_a_broken_data_file_costs_no_budget(sites: Sites) -> None:
    site = sites.make("alpha")
    (site / "interactions.parquet").write_bytes(b"PAR1 no more")
    assert refusal_in(app(sites.message(), at(site))) is Refusal.FAILED
    assert charged(site) == []


# --- noise -------------------------------------------------------------------------------------

LOUD = {"noise_multiplier": 1000.0, "sample_rate": 1.0}


@pytest.mark.parametrize("seed", [None, 0])
def test_organisations_and_rounds_never_share_noise(sites: Sites, seed: int | None) -> None:
    alpha = sites.make("alpha", seed=seed)
    beta = sites.make("beta", seed=seed, stream=1)
    shutil.copy(alpha / "interactions.parquet", beta / "interactions.parquet")
    noise = np.stack(
        [
            flat(app(sites.message(round=number, **LOUD), at(site)))
            for site in (alpha, beta)
            for number in (1, 2)
        ]
    )
    alike = np.corrcoef(noise) - np.eye(4)
    assert noise.shape[1] > 1000
    assert np.abs(alike).max() < 0.15


def test_without_a_lab_seed_two_runs_differ_with_one_they_agree(sites: Sites) -> None:
    for seed, same in ((None, False), (5, True)):
        site = sites.make(f"site-{seed}", seed=seed)
        first, second = (flat(app(sites.message(run=run), at(site))) for run in "ab")
        assert (first == second).all() == same


@pytest.mark.parametrize("item", [1, 2])
def test_a_user_whose_gradient_overflows_does_not_show(
    sites: Sites, item: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Finite weights may be so large that one item's vector overflows; who has it must not show.

    It holds without the bound on weights, too.
    """
    monkeypatch.setattr("client.site.bounds.LARGEST_WEIGHT", np.inf)
    site = sites.make("alpha", {"policy.max_weight": 1e300}, seed=0)
    users = Histories.from_lists([[3, 1, 4], [5, 6, 7]])
    write_interactions(users, sites.catalogue, site / "interactions.parquet")
    weights = dict(sites.request().weights)
    weights["item.weight"] = weights["item.weight"].copy()
    weights["item.weight"][item] = 3e38
    reply = app(sites.message(weights=weights, sample_rate=1.0), at(site))
    assert np.isfinite(flat(reply)).all()


# --- what goes wrong ---------------------------------------------------------------------------


def refused(reply: Message, code: Refusal) -> None:
    """The reply says `code` in its fixed words, and nothing else."""
    assert refusal_in(reply) is code
    assert reply.error.reason == f"{code}: {code.sentence}"
    assert SECRET.encode() not in raw(reply)
    assert b"Error" not in raw(reply)


@pytest.mark.parametrize("error", [RuntimeError, KeyError, MemoryError, ValueError, OSError])
def test_an_exception_reveals_nothing_to_the_coordinator(
    sites: Sites,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    error: type[Exception],
) -> None:
    def fail(*_: object) -> None:
        raise error(SECRET)

    monkeypatch.setattr(client.app, "train", fail)
    site = sites.make("alpha")
    refused(app(sites.message(), at(site)), Refusal.FAILED)
    assert SECRET not in caplog.text, "an error's text may hold data"
    assert f'error="{error.__name__}" where="client/' in caplog.text
    assert charged(site) == [release()]


def test_a_failed_round_is_paid_for_and_not_repeated(
    sites: Sites, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = sites.make("alpha")
    with monkeypatch.context() as patch:
        patch.setattr(client.app, "train", lambda *_: 1 / 0)
        refused(app(sites.message(), at(site)), Refusal.FAILED)
    refused(app(sites.message(), at(site)), Refusal.FAILED)
    assert charged(site) == [release()]
    (answer,) = Site.load(site).open_ledger().outbox()
    assert answer.arrays == ()


@pytest.mark.parametrize(
    ("missing", "error"),
    [
        ("site.toml", "SiteError"),
        ("ledger.sqlite", "LedgerError"),
        ("interactions.parquet", "SiteError"),
        ("../catalogue/items.parquet", "FileNotFoundError"),
    ],
)
def test_a_missing_file_reveals_nothing_to_the_coordinator(
    sites: Sites, missing: str, error: str, caplog: pytest.LogCaptureFixture
) -> None:
    site = sites.make("alpha")
    (site / missing).unlink()
    reply = app(sites.message(), at(site))
    refused(reply, Refusal.FAILED)
    assert str(sites.folder).encode() not in raw(reply)
    assert f'error="{error}" where="' in caplog.text
    assert (site / "ledger.sqlite").exists() == (missing != "ledger.sqlite")


def test_without_a_ledger_nothing_is_trained(sites: Sites, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[object] = []
    monkeypatch.setattr(client.app, "train", lambda *_: calls.append(1))
    site = sites.make("alpha")
    (site / "ledger.sqlite").write_bytes(b"")
    refused(app(sites.message(), at(site)), Refusal.FAILED)
    assert not calls


def test_what_is_left_of_the_budget_stays_private(
    sites: Sites, caplog: pytest.LogCaptureFixture
) -> None:
    site = sites.make("alpha", {"policy.max_epsilon": 0.125})
    with caplog.at_level(logging.WARNING):
        reply = app(sites.message(), at(site))
    refused(reply, Refusal.BUDGET)
    assert b"0.125" not in raw(reply)
    assert "policy.max_epsilon is 0.125" in caplog.text


def test_another_catalogue_is_refused(sites: Sites) -> None:
    site = sites.make("alpha")
    refused(app(sites.message(catalogue="c" * 64), at(site)), Refusal.CATALOGUE)
    assert charged(site) == []


@pytest.mark.parametrize("kind", [DESCRIBE, TRAIN])
def test_a_malformed_message_is_refused(sites: Sites, kind: str) -> None:
    site = sites.make("alpha")
    refused(app(Message(RecordDict(), 1, kind), at(site)), Refusal.MALFORMED)
    assert charged(site) == []


@pytest.mark.parametrize(
    "kind",
    ["query.steal", "train.other", "evaluate.exact", "query", "system", "query." + "x" * 999],
)
def test_an_unknown_request_is_refused_and_recorded(sites: Sites, kind: str) -> None:
    site, message = sites.make("alpha"), sites.message()
    message.metadata.__dict__["_message_type"] = kind
    refused(app(message, at(site)), Refusal.MALFORMED)
    assert charged(site) == []
    [last] = ledger(site).history(last=1)
    assert (last.type, last.fields["code"]) == (EntryType.REFUSAL, "malformed")
    assert last.fields["kind"] == kind[:100]


def test_every_refusal_is_recorded(sites: Sites) -> None:
    site = sites.make("alpha", {"policy.max_epsilon": 1.0})
    asks = [
        (sites.message(**PLAIN), "policy"),
        (sites.message(noise_multiplier=0.31, local_steps=1000), "budget"),
        (sites.message(catalogue="c" * 64), "catalogue"),
        (Message(RecordDict(), 1, TRAIN), "malformed"),
        (sites.message(weights={}), "malformed"),
        (evaluation(sites), "policy"),
    ]
    for message, code in asks:
        refused(app(message, at(site)), Refusal(code))
    assert charged(site) == []
    records = ledger(site).history()[1:]
    assert [record.fields["code"] for record in records] == [code for _, code in asks]
    assert ledger(site).verify() == 1 + len(asks)


def test_a_refusal_that_cannot_be_recorded_is_a_failure(sites: Sites) -> None:
    site = sites.make("alpha")
    (site / "ledger.sqlite").unlink()
    refused(app(Message(RecordDict(), 1, TRAIN), at(site)), Refusal.FAILED)
    refused(app(sites.message(**PLAIN), at(site)), Refusal.FAILED)


def test_the_run_config_raises_no_limit(sites: Sites) -> None:
    """The policy is the partner's file; whatever the coordinator's run says is not read."""
    site = sites.make("alpha", {"policy.max_epsilon": 0.125})
    run: dict[str, Value] = {
        "policy.max_epsilon": math.inf,
        "policy.min_noise_multiplier": 0.0,
        "max_epsilon": math.inf,
        "site": "/elsewhere",
        "simulated": True,
        "paths.sites": "/elsewhere",
    }
    reply = app(sites.message(), context({"site": str(site)}, run))
    refused(reply, Refusal.BUDGET)


def test_a_description_that_is_not_answered_is_refused(sites: Sites) -> None:
    site = sites.make("alpha", {"policy.answers": ["train"]})
    refused(app(described(), at(site)), Refusal.POLICY)
    [last] = ledger(site).history(last=1)
    assert (last.fields["kind"], last.fields["code"]) == ("describe", "policy")
    assert app(sites.message(), at(site)).has_content()


# --- metrics -----------------------------------------------------------------------------------

ALL = {"policy.answers": ["describe", "train", "evaluate"]}


def evaluation(sites: Sites, **changes: Any) -> Message:  # noqa: ANN401
    train = sites.request()
    fields: dict[str, Any] = {
        "run": "r",
        "round": 1,
        "catalogue": train.catalogue,
        "model": train.model,
        "weights": train.weights,
        "noise_multiplier": 2.0,
        "sample_rate": 1.0,
    }
    return Message(EvaluateRequest(**fields | changes).to_content(), 1, EVALUATE)


def sums(reply: Message) -> list[float]:
    assert refusal_in(reply) is None
    return [float(value) for value in EvaluateReply.from_content(reply.content).sums]


def test_metrics_leave_as_noised_sums_and_are_charged(sites: Sites) -> None:
    site = sites.make("alpha", ALL)
    first = sums(app(evaluation(sites), at(site)))
    assert sums(app(evaluation(sites), at(site))) == first
    assert sums(app(evaluation(sites, round=2), at(site))) != first
    assert [(r.kind, r.steps) for r in charged(site)] == [(ReleaseKind.EVALUATE, 2)]
    assert charged(site)[0].noise_multiplier == 2.0
    sent = ledger(site).outbox()
    assert [(s.kind, [a.shape for a in s.arrays]) for s in sent] == [("evaluate", [(3,)])] * 2


def test_metrics_do_not_leave_unless_they_are_allowed(sites: Sites) -> None:
    site = sites.make("alpha")
    refused(app(evaluation(sites), at(site)), Refusal.POLICY)
    assert charged(site) == []


def test_with_hardly_any_noise_the_sums_are_those_of_the_users(sites: Sites) -> None:
    """Against a loop over single users, each ranked on its own."""
    site = sites.make("alpha", ALL | {"policy.min_noise_multiplier": 0.0})
    found = sums(app(evaluation(sites, noise_multiplier=1e-6, k=5), at(site)))
    histories = Site.load(site).load_histories(sites.catalogue, 10**9)
    model = build(sites.request().model, sites.catalogue)
    load_weights(model, sites.request())
    model.train(mode=False)
    expected = np.zeros(3)
    for history in histories:
        scores = model.next_item_scores(torch.tensor([history[:-1].tolist()]))[0]
        target, seen = int(history[-1]), set(history[:-1].tolist())
        rivals = [i for i in range(1, 21) if i not in seen and i != target]
        rank = 1 + sum(bool(scores[i - 1] >= scores[target - 1]) for i in rivals)
        hit = rank <= 5
        expected += [hit, hit / math.log2(1 + rank), 1]
    assert expected[2] == 12
    assert 0 < expected[0] < 12
    assert found == pytest.approx(expected, abs=1e-4)


def test_the_evaluated_event_is_kept_out_of_training(sites: Sites) -> None:
    """A site that answers "evaluate" trains as one whose users' last events never happened."""
    evaluated = sites.make("alpha", ALL, seed=0)
    shorter = sites.make("gamma", seed=0)
    whole = Site.load(evaluated).load_histories(sites.catalogue, 10**9)
    kept = [row for row in range(len(whole)) if whole.lengths[row] > 2]
    write_interactions(whole.select(kept), sites.catalogue, evaluated / "interactions.parquet")
    write_interactions(
        whole.select(kept).without_last(1), sites.catalogue, shorter / "interactions.parquet"
    )
    everything = sites.make("delta", seed=0)
    shutil.copy(evaluated / "interactions.parquet", everything / "interactions.parquet")
    request = {"sample_rate": 1.0, **PLAIN}
    trained = [
        flat(app(sites.message(**request), at(site))) for site in (evaluated, shorter, everything)
    ]
    np.testing.assert_array_equal(trained[0], trained[1])
    assert (trained[0] != trained[2]).any()


@pytest.mark.parametrize("item", [1, 2])
def test_a_user_whose_scores_overflow_stops_no_evaluation(
    sites: Sites, item: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("client.site.bounds.LARGEST_WEIGHT", np.inf)
    site = sites.make("alpha", {**ALL, "policy.max_weight": 1e300})
    users = Histories.from_lists([[3, 1, 4], [5, 6, 7]])
    write_interactions(users, sites.catalogue, site / "interactions.parquet")
    weights = dict(sites.request().weights)
    weights["item.weight"] = weights["item.weight"].copy()
    weights["item.weight"][item] = 3e38
    found = sums(app(evaluation(sites, weights=weights, noise_multiplier=0.3), at(site)))
    assert np.isfinite(found).all()


@pytest.mark.parametrize("what", ["name", "shape", "missing", "more"])
def test_weights_of_another_model_are_refused(sites: Sites, what: str) -> None:
    weights = dict(sites.request().weights)
    name = "norm.weight"
    value = weights[name] if what == "more" else weights.pop(name)
    if what == "shape":
        weights[name] = value[:1]  # would broadcast
    elif what != "missing":
        weights["else"] = value
    reply = app(sites.message(weights=weights), at(sites.make("alpha")))
    refused(reply, Refusal.MALFORMED)


def test_frozen_weights_that_differ_are_refused_before_anything_is_charged(sites: Sites) -> None:
    """Else every organisation would train against another projection, and ε would buy nothing."""
    request = sites.request()
    model = build(request.model, sites.catalogue)
    for frozen in ("", frozen_fingerprint(request.model)):
        load_weights(model, replace(request, frozen=frozen))
    with pytest.raises(WireError, match="the frozen weights differ"):
        load_weights(model, replace(request, frozen="0" * 64))
