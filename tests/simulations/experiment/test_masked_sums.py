"""The lab's rounds under masks: the same sums, and no single answer reaches the coordinator."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Error, Message
from flwr.clientapp import ClientApp

import client.app
from shared.errors import ConfigError, TooFewPartners
from shared.messages import STATISTICS, StatisticsReply, TrainReply
from shared.sections import Value
from simulations.experiment import federation
from simulations.experiment.config import SimulationConfig, read_settings
from simulations.experiment.masked_sums import SUMMED, MaskedSums
from simulations.experiment.prepare import prepare
from simulations.experiment.simulate import simulate
from tests.simulations.conftest import TINY_SETTINGS
from tests.simulations.experiment.test_simulate import Silent

ORGANISATIONS = 5
SECURE = (
    *("privacy.trust=secure-aggregation", f"lab.organisations={ORGANISATIONS}"),
    *("server.weighting=population", "lab.alone=false", "training.rounds=1"),
    *("warm_start.share=0.7", "server.evaluate_every=1", "privacy.dropouts=1"),
)


def settings(data: Path, *assignments: str) -> SimulationConfig:
    options: dict[str, Value] = {
        "privacy.epsilon": 4.0,
        "privacy.delta": 1e-2,
        "lab.data": str(data),
    }
    return read_settings(None, options, [*TINY_SETTINGS, *SECURE, *assignments])


class Watched(MaskedSums):
    """Keeps what the sites answered and what the coordinator's app got instead."""

    answered: list[list[Message]]
    handed_on: list[list[Message]]

    def __call__(self, requests: Sequence[Message], replies: Sequence[Message]) -> list[Message]:
        sums = super().__call__(requests, replies)
        self.answered.append(list(replies))
        self.handed_on.append(sums)
        return sums


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> type[Watched]:
    Watched.answered, Watched.handed_on = [], []
    monkeypatch.setattr(federation, "MaskedSums", Watched)
    return Watched


def numbers(reply: Message) -> np.ndarray[Any, Any]:
    content = reply.content
    if "weights" in content and reply.metadata.message_type == "train":
        change = TrainReply.from_content(content).change
        return np.concatenate([change[name].ravel() for name in sorted(change)])
    return StatisticsReply.from_content(content).total.ravel()


def run(data: Path, folder: Path, *assignments: str) -> dict[str, Any]:
    return simulate(prepare(settings(data, *assignments), folder), Silent())


def test_masked_and_unmasked_runs_come_to_the_same_model(
    tiny_data: Path, tmp_path: Path, watched: type[Watched]
) -> None:
    """Statistics, a training round and noised metrics; the noise repeats, the masks do not."""
    masked = run(tiny_data, tmp_path / "on")
    kinds = {replies[0].metadata.message_type for replies in watched.answered}
    assert kinds == SUMMED
    plain = run(tiny_data, tmp_path / "off", "privacy.masking=off")
    assert (masked["privacy"]["masking"], plain["privacy"]["masking"]) == ("on", "off")
    for key in ("ndcg@10", "hr@10"):
        ours, theirs = (one["evaluation"]["models"]["federated"][key] for one in (masked, plain))
        assert ours == pytest.approx(theirs, abs=1e-3)


def test_the_coordinator_gets_equal_parts_of_each_sum_and_no_answer(
    tiny_data: Path, tmp_path: Path, watched: type[Watched]
) -> None:
    run(tiny_data, tmp_path / "run", "training.rounds=0")
    assert len(watched.answered) == 2
    for answered, handed_on in zip(watched.answered, watched.handed_on, strict=True):
        own, parts = [numbers(reply) for reply in answered], [numbers(r) for r in handed_on]
        assert len(parts) == ORGANISATIONS
        assert all(np.array_equal(part, parts[0]) for part in parts)
        assert not any(np.allclose(part, answer) for part in parts for answer in own)
        total = np.sum(own, axis=0, dtype=np.float64)
        np.testing.assert_allclose(
            np.sum(parts, axis=0, dtype=np.float64), total, rtol=1e-5, atol=1e-4
        )


def failing(*, failures: int) -> ClientApp:
    """Organisations of which some fail to answer requests for statistics."""
    failed: set[int] = set()

    def answer(message: Message, context: Any) -> Message:  # noqa: ANN401
        node = message.metadata.dst_node_id
        if message.metadata.message_type == STATISTICS and node <= failures:
            failed.add(node)
            return Message(Error(0, "failed"), reply_to=message)
        return client.app.app(message, context)

    return federation.WrappedApp(answer)


def test_one_that_fails_is_left_out_of_the_sum(
    tiny_data: Path, tmp_path: Path, watched: type[Watched]
) -> None:
    simulation = prepare(settings(tiny_data, "training.rounds=0"), tmp_path / "run")
    simulate(simulation, Silent(), failing(failures=1))
    for answered, handed_on in zip(watched.answered, watched.handed_on, strict=True):
        own = [numbers(reply) for reply in answered if reply.has_content()]
        parts = [numbers(reply) for reply in handed_on if reply.has_content()]
        assert len(own) == len(parts) == ORGANISATIONS - 1
        total = np.sum(own, axis=0, dtype=np.float64)
        np.testing.assert_allclose(
            np.sum(parts, axis=0, dtype=np.float64), total, rtol=1e-5, atol=1e-4
        )


def test_more_that_fail_end_the_run(tiny_data: Path, tmp_path: Path) -> None:
    simulation = prepare(settings(tiny_data, "training.rounds=0"), tmp_path / "run")
    with pytest.raises(TooFewPartners, match="3 of 5 partners answered, and 4 must"):
        simulate(simulation, Silent(), failing(failures=2))


def test_ray_cannot_mask(tiny_data: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"lab.engine = 'inprocess'"):
        prepare(settings(tiny_data, "lab.engine=ray"), tmp_path / "run")
    assert not (tmp_path / "run").exists()
