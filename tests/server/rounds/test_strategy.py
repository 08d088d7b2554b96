from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pytest
from flwr.app import ConfigRecord, Error, Message
from flwr.serverapp import Grid

from server.aggregation.records import to_arrays, to_weights
from server.rounds.collection import Memory
from server.rounds.participants import Partner
from server.rounds.requests import Terms
from server.rounds.strategy import FederatedStrategy
from server.state.checkpoint import Checkpoint
from shared.config import (
    Aggregation,
    PrivacyConfig,
    RunConfig,
    ServerConfig,
    StrategyName,
    Weighting,
)
from shared.errors import QuorumError
from shared.messages import TRAIN, TrainReply, TrainRequest, Weights, refusal_reply, traffic
from shared.outcomes import Refusal

Array = npt.NDArray[np.float64]

# Not in alphabetical order, which a saved file has.
START: Weights = {
    "z": np.array([[0.5, -1.0], [2.0, 0.25]], np.float32),
    "a": np.array([1.0, 2.0, 3.0], np.float32),
}
PARTNERS = [
    Partner(node_id=11, organisation="beta", population=300),
    Partner(node_id=7, organisation="alpha", population=100),
    Partner(node_id=9, organisation="gamma", population=600),
]
STRATEGIES = {
    StrategyName.FEDAVG: ServerConfig(strategy=StrategyName.FEDAVG),
    StrategyName.FEDAVGM: ServerConfig(
        strategy=StrategyName.FEDAVGM, learning_rate=0.7, momentum=0.6
    ),
    StrategyName.FEDADAM: ServerConfig(
        strategy=StrategyName.FEDADAM, learning_rate=0.05, momentum=0.8, tau=0.01
    ),
}
each_strategy = pytest.mark.parametrize("name", StrategyName)
NOBODY = cast(Grid, None)
"""The strategy knows its partners, and asks no grid for them."""
Changes = dict[str, Weights]
"""By organisation."""


class Rounds:
    """A strategy, and the weights that it has come to."""

    def __init__(
        self,
        server: ServerConfig,
        partners: Sequence[Partner] = PARTNERS,
        *,
        weights: Weights = START,
        done: int = 0,
    ) -> None:
        self.config = RunConfig(
            privacy=PrivacyConfig(epsilon=8.0, delta=1e-5), server=replace(server, retries=0)
        )
        self.partners = {partner.node_id: partner.organisation for partner in partners}
        self.strategy = FederatedStrategy(
            self.config,
            Terms(run="r", catalogue="c", noise_multiplier=1.25),
            lambda _: partners,
            names=list(weights),
            rounds_done=done,
        )
        self.weights, self.started = weights, 0

    def ask(self) -> dict[str, Message]:
        """The next round's requests by organisation."""
        self.started += 1
        arrays = to_arrays(self.weights)
        asked = list(self.strategy.configure_train(self.started, arrays, ConfigRecord(), NOBODY))
        for number, message in enumerate(asked):
            message.metadata.__dict__["_message_id"] = f"{self.started}-{number}"
        return {self.partners[message.metadata.dst_node_id]: message for message in asked}

    def take(self, replies: Sequence[Message]) -> Weights:
        """Ends the round; the next one starts from what comes out."""
        arrays, metrics = self.strategy.aggregate_train(self.started, replies)
        assert metrics is None
        assert arrays is not None
        self.weights = to_weights(arrays)
        assert all(array.dtype == "float32" for array in arrays.values())
        return self.weights

    def round(self, changes: Changes) -> Weights:
        asked = self.ask()
        return self.take([reply(asked[name], change) for name, change in changes.items()])


def reply(request: Message, change: Weights) -> Message:
    return Message(TrainReply(change=change).to_content(), reply_to=request)


def some_changes(seed: int, size: float = 1.0) -> Changes:
    draw = np.random.default_rng(seed)
    return {
        partner.organisation: {
            name: (size * draw.standard_normal(value.shape)).astype(np.float32)
            for name, value in START.items()
        }
        for partner in PARTNERS
    }


def bits(weights: Weights) -> dict[str, bytes]:
    return {name: value.tobytes() for name, value in weights.items()}


def close(left: Weights, right: dict[str, Array]) -> None:
    assert set(left) == set(right)
    for name, value in left.items():
        assert value.dtype == np.float32
        np.testing.assert_allclose(value, right[name], rtol=1e-5, atol=1e-6)


# --- arithmetic --------------------------------------------------------------------------------


def mean(changes: Changes, name: str, shares: dict[str, float]) -> Array:
    total = sum(shares[organisation] for organisation in changes)
    parts = [shares[o] / total * change[name].astype(np.float64) for o, change in changes.items()]
    return np.asarray(np.sum(parts, axis=0))


EQUAL = {partner.organisation: 1.0 for partner in PARTNERS}
BY_POPULATION = {partner.organisation: float(partner.population) for partner in PARTNERS}


def fedavg(rounds: list[Changes], shares: dict[str, float], _: ServerConfig) -> dict[str, Array]:
    return {
        name: start + np.sum([mean(changes, name, shares) for changes in rounds], axis=0)
        for name, start in START.items()
    }


def fedavgm(
    rounds: list[Changes], shares: dict[str, float], config: ServerConfig
) -> dict[str, Array]:
    """Hsu et al. 2019: a heavy ball, as torch.optim.SGD has it."""
    result: dict[str, Array] = {}
    for name, start in START.items():
        weight, velocity = start.astype(np.float64), np.zeros(start.shape)
        for changes in rounds:
            velocity = config.momentum * velocity + mean(changes, name, shares)
            weight = weight + config.learning_rate * velocity
        result[name] = weight
    return result


def fedadam(
    rounds: list[Changes], shares: dict[str, float], config: ServerConfig
) -> dict[str, Array]:
    """Reddi et al. 2020, algorithm 2, with Flower's bias correction and second decay rate."""
    decay = 0.99
    result: dict[str, Array] = {}
    for name, start in START.items():
        weight = start.astype(np.float64)
        first, second = np.zeros(start.shape), np.zeros(start.shape)
        for number, changes in enumerate(rounds, start=1):
            step = mean(changes, name, shares)
            first = config.momentum * first + (1 - config.momentum) * step
            second = decay * second + (1 - decay) * step**2
            rate = config.learning_rate * np.sqrt(1 - decay ** (number + 1))
            rate /= 1 - config.momentum ** (number + 1)
            weight = weight + rate * first / (np.sqrt(second) + config.tau)
        result[name] = weight
    return result


BY_HAND: dict[StrategyName, Callable[..., dict[str, Array]]] = {
    StrategyName.FEDAVG: fedavg,
    StrategyName.FEDAVGM: fedavgm,
    StrategyName.FEDADAM: fedadam,
}


@each_strategy
@pytest.mark.parametrize("weighting", Weighting)
def test_rounds_follow_the_formula(name: StrategyName, weighting: Weighting) -> None:
    server = STRATEGIES[name]
    config = ServerConfig(
        strategy=name,
        learning_rate=server.learning_rate,
        momentum=server.momentum,
        tau=server.tau,
        weighting=weighting,
    )
    shares = EQUAL if weighting is Weighting.EQUAL else BY_POPULATION
    federation, past = Rounds(config), []
    for number in range(4):
        past.append(some_changes(number))
        close(federation.round(past[-1]), BY_HAND[name](past, shares, config))


@each_strategy
def test_who_does_not_answer_has_no_share(name: StrategyName) -> None:
    config = ServerConfig(
        strategy=name,
        learning_rate=0.7,
        momentum=0.6,
        tau=0.01,
        weighting=Weighting.POPULATION,
    )
    changes = some_changes(0)
    del changes["gamma"]
    expected = BY_HAND[name]([changes], BY_POPULATION, config)
    close(Rounds(config).round(changes), expected)


def test_one_partner_is_enough_of_a_federation() -> None:
    federation = Rounds(STRATEGIES[StrategyName.FEDAVG], PARTNERS[:1])
    changes = {"beta": some_changes(1)["beta"]}
    close(federation.round(changes), fedavg([changes], EQUAL, federation.config.server))


@each_strategy
def test_weights_stay_float32(name: StrategyName) -> None:
    """FedAdam computes in float64, and the next request must not carry that."""
    federation = Rounds(STRATEGIES[name])
    federation.round(some_changes(0))
    for message in federation.ask().values():
        sent = TrainRequest.from_content(message.content).weights
        assert bits(sent) == bits(federation.weights)


# --- order -------------------------------------------------------------------------------------


@each_strategy
def test_the_order_of_arrival_does_not_change_a_bit(name: StrategyName) -> None:
    changes = some_changes(3, size=1e-3)
    changes["alpha"]["z"] += np.float32(1e4)
    changes["gamma"]["z"] -= np.float32(1e4)
    results = []
    for order in itertools.permutations(changes):
        federation = Rounds(
            ServerConfig(strategy=name, max_update_norm=1e6),
            sorted(PARTNERS, key=lambda partner: order.index(partner.organisation)),
        )
        asked = federation.ask()
        results.append(bits(federation.take([reply(asked[who], changes[who]) for who in order])))
    assert all(result == results[0] for result in results)


def test_the_sum_would_depend_on_the_order() -> None:
    """The test above has something to find."""
    a, b, c = np.float32(1e4), np.float32(1e-3), np.float32(-1e4)
    assert (a + b) + c != (a + c) + b


# --- what is left out --------------------------------------------------------------------------


BAD: dict[str, Callable[[Message, Weights], Message | None]] = {
    "holds values that are not finite": lambda request, good: reply(
        request, {name: value * np.float32("nan") for name, value in good.items()}
    ),
    "'a' has shape (1,), not (3,)": lambda request, good: reply(
        request, good | {"a": good["a"][:1]}
    ),
    "differ from the model's in ['a']": lambda request, good: reply(request, {"z": good["z"]}),
    "server.max_update_norm is": lambda request, good: reply(
        request, {name: value * np.float32(1e9) for name, value in good.items()}
    ),
    Refusal.BUDGET.sentence: lambda request, _: refusal_reply(Refusal.BUDGET, request),
    "the node failed (code 3)": lambda request, _: Message(Error(3, "user7"), reply_to=request),
    "no reply before the deadline": lambda request, good: None,
}


@pytest.mark.parametrize("reason", BAD)
def test_a_bad_reply_is_left_out_and_said_why(
    reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    federation, changes = Rounds(STRATEGIES[StrategyName.FEDAVG]), some_changes(0)
    asked = federation.ask()
    bad = BAD[reason](asked["beta"], changes.pop("beta"))
    others = [reply(asked[name], change) for name, change in changes.items()]
    with caplog.at_level(logging.WARNING, "sotto.server"):
        result = federation.take([*others, *([bad] if bad else [])])
    close(result, fedavg([changes], EQUAL, federation.config.server))
    assert "round 1 goes on without beta: " in caplog.text
    assert reason in caplog.text
    assert "user7" not in caplog.text


@pytest.mark.parametrize("reason", BAD)
def test_too_few_valid_replies_name_who_failed_and_why(reason: str) -> None:
    federation, changes = Rounds(STRATEGIES[StrategyName.FEDAVG]), some_changes(0)
    asked = federation.ask()
    bad = [BAD[reason](asked[name], changes[name]) for name in ("beta", "gamma")]
    replies = [reply(asked["alpha"], changes["alpha"]), *(message for message in bad if message)]
    with pytest.raises(QuorumError, match=r"round 1 has 1 valid replies of 3, 2 are") as caught:
        federation.take(replies)
    assert str(caught.value).count(reason) == 2
    assert "beta: " in str(caught.value)
    assert "gamma: " in str(caught.value)
    assert "alpha" not in str(caught.value)
    assert "correct the cause and resume, or resume with a smaller quorum" in str(caught.value)
    assert "user7" not in str(caught.value)


@pytest.mark.parametrize(
    ("quorum", "partners", "needed"),
    [(0.5, 3, 2), (0.5, 4, 2), (1.0, 3, 3), (0.01, 3, 1), (0.28, 25, 7), (0.56, 50, 28)],
)
def test_the_quorum_is_a_share_of_the_partners(quorum: float, partners: int, needed: int) -> None:
    crowd = [Partner(node_id=i, organisation=f"o{i}", population=9) for i in range(partners)]
    change = some_changes(0)["beta"]
    for count in (needed, needed - 1):
        federation = Rounds(ServerConfig(strategy=StrategyName.FEDAVG, quorum=quorum), crowd)
        replies = [reply(message, change) for message in list(federation.ask().values())[:count]]
        if count == needed:
            assert federation.take(replies)
        else:
            with pytest.raises(QuorumError, match=f"{needed} are needed"):
                federation.take(replies)


def test_a_round_without_any_reply_ends_the_run() -> None:
    federation = Rounds(STRATEGIES[StrategyName.FEDAVG])
    federation.ask()
    with pytest.raises(QuorumError, match="alpha: no reply before the deadline; beta: no reply"):
        federation.take([])


def test_a_reply_to_something_else_does_not_count() -> None:
    federation, changes = Rounds(STRATEGIES[StrategyName.FEDAVG]), some_changes(0)
    old = federation.ask()
    federation.round(some_changes(1))
    asked = federation.ask()
    late = [reply(old[name], changes[name]) for name in changes]
    with pytest.raises(QuorumError, match="1 valid replies of 3"):
        federation.take([*late, reply(asked["alpha"], changes["alpha"])])


def test_an_error_from_another_source_still_belongs_to_its_request() -> None:
    """For a node that died, Flower answers itself, as node 1."""
    federation = Rounds(STRATEGIES[StrategyName.FEDAVG])
    asked = federation.ask()
    error = Message(Error(3, "Node Unavailable"), reply_to=asked["alpha"])
    error.metadata.__dict__["_src_node_id"] = 1
    with pytest.raises(QuorumError, match=r"alpha: the node failed \(code 3\)"):
        federation.take([error])


def test_of_several_replies_to_one_request_the_first_counts() -> None:
    federation, changes = Rounds(STRATEGIES[StrategyName.FEDAVG]), some_changes(0)
    asked = federation.ask()
    replies = [reply(asked[name], change) for name, change in changes.items()]
    again = [reply(asked[name], change) for name, change in some_changes(1).items()]
    close(federation.take([*replies, *again]), fedavg([changes], EQUAL, federation.config.server))


def test_a_huge_change_within_the_bound_does_not_move_a_robust_run() -> None:
    changes = some_changes(0)
    changes["beta"]["z"] += np.float32(3e3)
    for rule, far in ((Aggregation.MEDIAN, False), (Aggregation.MEAN, True)):
        malicious = int(rule is not Aggregation.MEAN)
        server = ServerConfig(aggregation=rule, malicious=malicious, organisations=3)
        weights = Rounds(server).round(changes)
        assert bool(np.abs(weights["z"]).max() > 10) is far


# --- state -------------------------------------------------------------------------------------


@each_strategy
@pytest.mark.parametrize("rounds", [0, 1, 3])
def test_a_restored_strategy_continues_bit_for_bit(
    name: StrategyName, rounds: int, tmp_path: Path
) -> None:
    through = Rounds(STRATEGIES[name])
    for number in range(rounds):
        through.round(some_changes(number))
    Checkpoint(
        run="r",
        round=rounds,
        config="",
        catalogue="",
        weights=through.weights,
        optimiser=through.strategy.state,
    ).save(tmp_path)
    saved = Checkpoint.load(tmp_path)
    resumed = Rounds(STRATEGIES[name], weights=saved.weights, done=rounds)
    resumed.strategy.restore(saved.optimiser, Memory(answers=saved.answers))
    for number in range(rounds, rounds + 2):
        changes = some_changes(number)
        assert bits(resumed.round(changes)) == bits(through.round(changes))
    after = resumed.strategy.state
    assert bits(after) == bits(through.strategy.state)


def test_what_has_state_loses_its_way_without_it() -> None:
    """The test above has something to find."""
    for name in (StrategyName.FEDAVGM, StrategyName.FEDADAM):
        through = Rounds(STRATEGIES[name])
        through.round(some_changes(0))
        resumed = Rounds(STRATEGIES[name], weights=through.weights, done=1)
        changes = some_changes(1)
        assert bits(resumed.round(changes)) != bits(through.round(changes))


def test_a_restarted_coordinator_detects_the_last_rounds_answer(
    caplog: pytest.LogCaptureFixture,
) -> None:
    before, changes = Rounds(STRATEGIES[StrategyName.FEDAVG]), some_changes(0)
    before.round(changes)
    after = Rounds(STRATEGIES[StrategyName.FEDAVG], done=1)
    after.strategy.restore(before.strategy.state, Memory(answers=before.strategy.memory.answers))
    after.round(some_changes(1) | {"beta": changes["beta"]})
    assert "round 2 goes on without beta: the same bytes" in caplog.text


# --- requests ----------------------------------------------------------------------------------


def test_every_partner_gets_the_same_request() -> None:
    federation = Rounds(STRATEGIES[StrategyName.FEDADAM], done=4)
    asked = federation.ask()
    assert {who: message.metadata.dst_node_id for who, message in asked.items()} == {
        "alpha": 7,
        "beta": 11,
        "gamma": 9,
    }
    training = federation.config.training
    for message in asked.values():
        assert message.metadata.message_type == TRAIN
        request = TrainRequest.from_content(message.content)
        assert bits(request.weights) == bits(START)
        fields: dict[str, Any] = {
            "run": "r",
            "round": 5,
            "catalogue": "c",
            "model": federation.config.model,
            "noise_multiplier": 1.25,
            "sample_rate": training.sample_rate,
            "clip_norm": training.clip_norm,
            "local_steps": training.local_steps,
            "optimiser": training.optimiser,
            "learning_rate": training.learning_rate,
            "weight_decay": training.weight_decay,
            "candidates": training.candidates,
        }
        assert {name: getattr(request, name) for name in fields} == fields


def test_rounds_go_on_counting() -> None:
    federation = Rounds(STRATEGIES[StrategyName.FEDAVG], done=4)
    numbers = []
    for _ in range(3):
        message = next(iter(federation.ask().values()))
        numbers.append(TrainRequest.from_content(message.content).round)
    assert numbers == [5, 6, 7]


def test_traffic_is_that_of_the_last_round() -> None:
    federation, changes = Rounds(STRATEGIES[StrategyName.FEDAVG]), some_changes(0)
    federation.round(some_changes(1))
    asked = federation.ask()
    replies = [reply(asked[name], changes[name]) for name in ("alpha", "beta")]
    federation.take(replies)
    assert federation.strategy.report.bytes_down == sum(traffic(m) for m in asked.values()) > 0
    assert federation.strategy.report.bytes_up == sum(traffic(m) for m in replies) > 0


def test_partners_are_asked_for_no_metrics() -> None:
    federation = Rounds(STRATEGIES[StrategyName.FEDAVG])
    arrays = to_arrays(START)
    assert list(federation.strategy.configure_evaluate(1, arrays, ConfigRecord(), NOBODY)) == []
    assert federation.strategy.aggregate_evaluate(1, []) is None


def test_the_summary_says_how_replies_are_aggregated(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "sotto.server"):
        Rounds(STRATEGIES[StrategyName.FEDADAM]).strategy.summary()
    assert "aggregated by FedAdam" in caplog.text
