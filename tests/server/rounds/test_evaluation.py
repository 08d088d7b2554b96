from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from flwr.app import ConfigRecord, Message

from client.site.site import Site
from server.aggregation.records import to_arrays
from server.rounds.evaluation import mean_metrics
from server.rounds.participants import Partner
from server.rounds.replies import checked_sums
from server.rounds.requests import Terms
from server.rounds.strategy import FederatedStrategy
from shared.config import (
    ModelConfig,
    PrivacyConfig,
    RunConfig,
    ServerConfig,
    TrainingConfig,
    WarmStartConfig,
)
from shared.errors import ReplyError, WireError
from shared.messages import EVALUATE, EvaluateReply, EvaluateRequest, TrainReply, refusal_reply
from shared.outcomes import Refusal
from shared.privacy.release import ReleaseKind

if TYPE_CHECKING:
    from tests.conftest import FakeGrid, Sites


CHANGE = {"w": np.ones(3, np.float32)}


def request(noise_multiplier: float = 1.0) -> EvaluateRequest:
    return EvaluateRequest(
        run="r",
        round=1,
        catalogue="c",
        model=ModelConfig(),
        weights={},
        noise_multiplier=noise_multiplier,
        sample_rate=0.5,
    )


def asked() -> Message:
    return Message(request().to_content(), 1, EVALUATE)


def reply(*sums: float) -> Message:
    content = EvaluateReply(sums=np.array(sums, np.float32)).to_content()
    return Message(content, reply_to=asked())


def test_means_weigh_each_user_alike() -> None:
    sums = [np.array(row, np.float32) for row in ([30, 20, 100], [10, 10, 300])]
    means = mean_metrics(sums, request())
    assert means == {
        "hr@10": 0.1,
        "ndcg@10": 0.075,
        "noise": pytest.approx(math.sqrt(3) * math.sqrt(2) / 400),
    }


@pytest.mark.parametrize("users", [-50.0, 0.0, 5.0])
def test_means_over_no_users_are_not_reported(users: float) -> None:
    assert mean_metrics([np.array([3, 1, users], np.float32)], request()) is None
    assert mean_metrics([], request()) is None


def test_sums_that_users_can_add_up_to_are_taken() -> None:
    assert checked_sums(reply(5, -3, 10), request(), population=10).tolist() == [5, -3, 10]


@pytest.mark.parametrize(
    "bad",
    [
        lambda: reply(math.nan, 0, 1),
        lambda: reply(0, math.inf, 1),
        lambda: reply(0, 0, 1e9),
        lambda: reply(-1e9, 0, 1),
        lambda: reply(0, 0),
        lambda: Message(TrainReply(change=CHANGE).to_content(), reply_to=asked()),
        lambda: refusal_reply(Refusal.POLICY, asked()),
    ],
)
def test_other_sums_are_refused(bad: Callable[[], Message]) -> None:
    with pytest.raises(ReplyError):
        checked_sums(bad(), request(), population=100)


def test_partners_that_allow_it_answer_and_are_charged(
    sites: Sites, connect: Callable[[Iterable[Path]], FakeGrid], model: ModelConfig
) -> None:
    answers = {"policy.answers": ["describe", "train", "evaluate"]}
    folders = [sites.make(name, answers, users=200) for name in ("alpha", "beta")]
    folders.append(sites.make("gamma", users=200))  # declines
    grid = connect(folders)
    partners = [
        Partner(node_id=number, organisation=folder.name, population=200)
        for number, folder in enumerate(folders, start=1)
    ]
    config = RunConfig(
        privacy=PrivacyConfig(epsilon=8.0, delta=1e-3),
        model=model,
        warm_start=WarmStartConfig(share=0.0),
        training=TrainingConfig(rounds=4, sample_rate=1.0),
        server=ServerConfig(evaluate_every=2),
    )
    arrays = to_arrays(sites.request().weights)
    terms = Terms(run="r", catalogue=sites.catalogue.fingerprint, noise_multiplier=1.0)
    strategy = FederatedStrategy(config, terms, lambda _: partners, names=list(arrays))
    metrics = {}
    for number in (1, 2, 3, 4):
        messages = list(strategy.configure_evaluate(number, arrays, ConfigRecord(), grid))
        assert len(messages) == (0 if number % 2 else 3)
        metrics[number] = strategy.aggregate_evaluate(number, grid.send_and_receive(messages))
    assert [number for number, means in metrics.items() if means is not None] == [2, 4]
    for means in (metrics[2], metrics[4]):
        assert means is not None
        noise = math.sqrt(6) / 400
        assert means["noise"] == pytest.approx(noise, rel=0.1)
        # 20 items and an untrained model: the chance to be among the first ten is a half.
        assert means["hr@10"] == pytest.approx(0.6, abs=0.25)
    for folder, steps in zip(folders, (2, 2, 0), strict=True):
        releases = Site.load(folder).open_ledger().releases()
        assert [(r.kind, r.steps) for r in releases] == [(ReleaseKind.EVALUATE, 2)] * bool(steps)


def test_a_request_for_metrics_cannot_be_without_noise() -> None:
    for noise in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(WireError, match="noise_multiplier"):
            replace(request(), noise_multiplier=noise)
