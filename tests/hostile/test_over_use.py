"""A coordinator asks for the model of over-use: what a partner answers, and what one user adds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from flwr.app import Message
from numpy.typing import NDArray
from torch import Tensor

import client.app
from client.compute import over_use
from client.ledger.balance import EntryType
from client.site.site import Site
from shared.config import ModelConfig, ModelKind, Optimiser, Trust
from shared.errors import WireError
from shared.messages import (
    PLAN,
    TRAIN,
    EvaluateRequest,
    PlanReply,
    PlanRequest,
    TrainReply,
    TrainRequest,
    refusal_in,
)
from shared.outcomes import Refusal
from shared.over_use.kind import bare
from shared.over_use_task import LabelSource, OverUseTask
from shared.privacy.noise import SeededRandom
from tests.conftest import ask, context

if TYPE_CHECKING:
    from tests.conftest import Sites

DAY, BEGIN = 86_400, 1_700_000_000
USERS, CLIP = 6, 0.5
MODEL = ModelConfig(kind=ModelKind.OVER_USE, max_length=4, hidden_size=4, heads=2)
TASK = OverUseTask(
    until="2023-12-20", days=1, hours=0.1, history_weeks=4.0, weeks=2.0, gap_minutes=30.0
)
ALLOWED = {"policy.kinds": ["attention", "over-use"], "policy.answers": ["train"]}


def rows(user: int) -> list[str]:
    """Some sessions before the present, 6 December, and for odd users after it."""
    starts = [DAY * day for day in range(user + 1)] + [DAY * 25] * (user % 2)
    return [f"u{user},i{1 + n % 5},{BEGIN + start + 300 * n}" for start in starts for n in range(3)]


def make(
    sites: Sites,
    users: list[int] | None = None,
    name: str = "alpha",
    changes: Mapping[str, object] | None = None,
) -> Path:
    """A site with the events of some users, and a table with their labels."""
    chosen = list(range(USERS)) if users is None else users
    data = {"data.source": "events.csv", "data.users": "users.csv", "population": USERS}
    site = sites.make(name, data | ALLOWED | {"policy.delta": 1e-3} | dict(changes or {}), seed=1)
    lines = [line for user in chosen for line in rows(user)]
    (site / "events.csv").write_text("\n".join(["user_id,item_id,timestamp", *lines]) + "\n")
    labels = [f"u{user},{user % 2}" for user in chosen]
    (site / "users.csv").write_text("\n".join(["user_id,over_use", *labels]) + "\n")
    return site


def weights(scale: float = 0.3) -> dict[str, NDArray[np.float32]]:
    draw = torch.Generator().manual_seed(0)
    return {
        name: (torch.randn(p.shape, generator=draw) * scale).numpy()
        for name, p in bare(MODEL, 0).named_parameters()
    }


def request(sites: Sites, **changes: Any) -> TrainRequest:  # noqa: ANN401
    fields: dict[str, Any] = {
        "run": "r",
        "round": 1,
        "catalogue": sites.catalogue.fingerprint,
        "model": MODEL,
        "weights": weights(),
        "noise_multiplier": 2.0,
        "clip_norm": CLIP,
        "optimiser": Optimiser.SGD,
        "over_use": TASK.text,
    }
    return TrainRequest(**fields | changes)


def answer(site: Path, asked: TrainRequest) -> Message:
    reply = client.app.app(
        ask(asked.to_content(), TRAIN), context({"site": str(site), "simulated": True})
    )
    assert isinstance(reply, Message)
    return reply


def change_of(reply: Message) -> NDArray[np.float32]:
    assert refusal_in(reply) is None
    assert reply.has_content()
    change = TrainReply.from_content(reply.content).change
    return np.concatenate([change[name].ravel() for name in sorted(change)])


class Quiet(SeededRandom):
    """Draws everybody, and no noise."""

    def normal(self, shape: tuple[int, ...]) -> Tensor:
        return torch.zeros(shape, dtype=torch.float64)

    def uniform(self, count: int) -> NDArray[np.float64]:
        return np.zeros(count)


@pytest.fixture
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Site, "random", lambda *_: Quiet(0))


# --- what one user adds --------------------------------------------------------------------------


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize("label", LabelSource)
def test_a_user_moves_the_answer_by_one_clipped_gradient_at_most(
    sites: Sites, label: LabelSource
) -> None:
    """Brute force through messages, guard and files: each user is taken out once."""
    asked = request(sites, over_use=OverUseTask(**_values(label)).text)
    whole, moved = change_of(answer(make(sites), asked)), []
    for user in range(USERS):
        others = [other for other in range(USERS) if other != user]
        site = make(sites, others, name=f"without {user}")
        moved.append(float(np.linalg.norm(whole - change_of(answer(site, asked)))))
    assert 0 < min(moved) <= max(moved) <= CLIP / USERS * (1 + 1e-4)


def _values(label: LabelSource) -> dict[str, Any]:
    return {
        name: getattr(TASK, name) for name in type(TASK).__dataclass_fields__ if name != "label"
    } | {"label": label}


@pytest.mark.usefixtures("quiet")
def test_rows_that_cannot_be_read_and_later_events_touch_their_own_user_alone(
    sites: Sites,
) -> None:
    whole = change_of(answer(make(sites), request(sites)))
    without = change_of(answer(make(sites, [0, 1, 2, 3, 4], "without"), request(sites)))
    for name, line in {
        "no time": "u5,i1,never",
        "another form": "u5,i1,2023-11-20",
        "nobody": ",i1,1700000000",
    }.items():
        site = make(sites, name=name)
        with (site / "events.csv").open("a") as file:
            file.write(line + "\n")
        expected = whole if name == "nobody" else without
        np.testing.assert_array_equal(change_of(answer(site, request(sites))), expected)
    column = request(sites, over_use=OverUseTask(**_values(LabelSource.COLUMN)).text)
    unlabelled = make(sites, name="odd label")
    text = (unlabelled / "users.csv").read_text()
    (unlabelled / "users.csv").write_text(text.replace("u5,1", "u5,perhaps"))
    np.testing.assert_array_equal(
        change_of(answer(unlabelled, column)),
        change_of(answer(make(sites, [0, 1, 2, 3, 4], "five"), column)),
    )
    later = make(sites, name="later")  # the last user is up all night, when the run is not looking
    with (later / "events.csv").open("a") as file:
        file.writelines(f"u5,i1,{BEGIN + DAY * 60 + 60 * n}\n" for n in range(500))
    np.testing.assert_array_equal(change_of(answer(later, request(sites))), whole)


# --- what is refused -----------------------------------------------------------------------------


def refused(site: Path, asked: TrainRequest) -> Refusal | None:
    """The code, after a check that nothing was charged and the refusal is recorded."""
    code = refusal_in(answer(site, asked))
    ledger = Site.load(site).open_ledger()
    assert ledger.releases() == []
    assert ledger.history()[-1].type is EntryType.REFUSAL
    return code


def test_a_partner_must_allow_it(sites: Sites) -> None:
    site = make(sites, changes={"policy.kinds": None})
    assert refused(site, request(sites)) is Refusal.POLICY


def _nan(asked: dict[str, Any]) -> dict[str, Any]:
    broken = weights()
    next(iter(broken.values())).flat[0] = np.nan
    return asked | {"weights": broken}


def _without_one(asked: dict[str, Any]) -> dict[str, Any]:
    return asked | {"weights": dict(list(weights().items())[1:])}


def _another_shape(asked: dict[str, Any]) -> dict[str, Any]:
    return asked | {"weights": {name: value[..., None] for name, value in weights().items()}}


BAD: list[tuple[Callable[[dict[str, Any]], dict[str, Any]], Refusal]] = [
    (_nan, Refusal.MALFORMED),
    (_without_one, Refusal.MALFORMED),
    (_another_shape, Refusal.MALFORMED),
    (lambda asked: asked | {"weights": weights(1e9)}, Refusal.POLICY),
    (lambda asked: asked | {"noise_multiplier": 0.1}, Refusal.POLICY),
    (lambda asked: asked | {"clip_norm": 1e4}, Refusal.POLICY),
    (lambda asked: asked | {"trust": Trust.SECURE_AGGREGATION}, Refusal.POLICY),
]


@pytest.mark.parametrize(("make_bad", "code"), BAD)
def test_bad_weights_and_terms_are_refused_before_anything_is_charged(
    sites: Sites, make_bad: Callable[[dict[str, Any]], dict[str, Any]], code: Refusal
) -> None:
    site = make(sites, changes={"policy.max_epsilon": 50.0})
    assert refused(site, request(sites, **make_bad({}))) is code


@pytest.mark.parametrize(
    "model",
    [
        ModelConfig(kind=ModelKind.OVER_USE, max_length=10**6),
        ModelConfig(kind=ModelKind.OVER_USE, hidden_size=10**6),
        ModelConfig(kind=ModelKind.OVER_USE, hidden_size=4096, max_length=1000, heads=64),
    ],
)
def test_an_absurd_shape_is_refused(sites: Sites, model: ModelConfig) -> None:
    assert refused(make(sites), request(sites, model=model)) is Refusal.POLICY


def test_a_site_without_times_or_labels_refuses_and_says_so(sites: Sites) -> None:
    asked = request(sites, over_use=OverUseTask(**_values(LabelSource.COLUMN)).text)
    site = make(sites, name="no table", changes={"data.users": None})
    assert refused(site, asked) is Refusal.POLICY
    reason = answer(make(sites, name="no times", changes={"data.time": "position"}), request(sites))
    assert refusal_in(reason) is Refusal.POLICY


def test_it_is_trained_and_never_ranked(sites: Sites) -> None:
    with pytest.raises(WireError, match="lacks a task"):
        request(sites, over_use="")
    with pytest.raises(WireError, match=r"over_use\.until"):
        request(sites, over_use=OverUseTask().text)
    asked = EvaluateRequest(
        run="r",
        round=1,
        catalogue=sites.catalogue.fingerprint,
        model=MODEL,
        weights=weights(),
        noise_multiplier=2.0,
        sample_rate=1.0,
    )
    site = make(sites, changes={"policy.answers": ["train", "evaluate"]})
    message = ask(asked.to_content(), "evaluate")
    reply = client.app.app(message, context({"site": str(site), "simulated": True}))
    assert refusal_in(reply) is Refusal.MALFORMED
    assert Site.load(site).open_ledger().releases() == []


# --- the ledger ----------------------------------------------------------------------------------


def test_the_ledger_is_charged_first_and_a_repeated_request_costs_nothing(
    sites: Sites, monkeypatch: pytest.MonkeyPatch
) -> None:
    site, seen = make(sites, changes={"policy.max_epsilon": 50.0}), []
    real = over_use.train

    def train(*arguments: Any) -> Any:  # noqa: ANN401
        seen.append(Site.load(site).open_ledger().releases())
        return real(*arguments)

    monkeypatch.setattr(over_use, "train", train)
    first = change_of(answer(site, request(sites)))
    np.testing.assert_array_equal(change_of(answer(site, request(sites))), first)
    [charged] = Site.load(site).open_ledger().releases()
    assert seen == [[charged]]
    assert (charged.noise_multiplier, charged.steps) == (2.0, 1)
    other = request(sites, over_use=OverUseTask(**_values(LabelSource.COLUMN)).text)
    assert refusal_in(answer(site, other)) is Refusal.POLICY  # the same round with another task


def test_a_whole_run_is_asked_about_first(sites: Sites) -> None:
    asked = request(sites)
    plan = PlanRequest(
        run="r",
        catalogue=asked.catalogue,
        model=MODEL,
        largest_weight=1.0,
        statistics=0,
        popularity_noise=0.0,
        moment_noise=0.0,
        training_noise=2.0,
        rounds=3,
        evaluations=0,
        over_use=TASK.text,
    )
    for kinds, admitted in ((["over-use"], True), (["attention"], False)):
        site = make(sites, name=kinds[0], changes={"policy.kinds": kinds})
        node = context({"site": str(site), "simulated": True})
        reply = client.app.app(ask(plan.to_content(), PLAN), node)
        if admitted:
            PlanReply.from_content(reply.content)
        else:
            assert refusal_in(reply) is Refusal.POLICY
