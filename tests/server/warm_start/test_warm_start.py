"""The warm start, with sites that answer, decline, cheat or are silent."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from client.site.site import Site
from server.noise_plan import statistics_noise
from server.rounds.participants import Partner
from server.rounds.statistics import StatisticsCollector
from server.warm_start.denoise import Prior
from server.warm_start.warm_start import OwnItemsChoice, compute_first_weights, select_own_items
from shared.config import Aggregation, PrivacyConfig, RunConfig, ServerConfig, WarmStartConfig
from shared.data.histories import Histories
from shared.errors import QuorumError
from shared.messages import StatisticsReply
from shared.models.attention import build, trainable
from shared.models.losses import loss_per_user, next_item_pairs
from shared.models.moments import popularity_sum
from tests.conftest import DESCRIBED, ITEMS, some_histories

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from flwr.app import Message

    from tests.conftest import FakeGrid, Node, Sites

    Connect = Callable[[Iterable[Path]], FakeGrid]

NAMES = ("alpha", "beta", "gamma")


class Coordinator:
    """Three real sites, and a coordinator that asks them.

    Args:
        sites: makes them.
        connect: makes the grid.
        noise: of both statistics as one.
        changes: of the second site's file.
    """

    def __init__(
        self, sites: Sites, connect: Connect, noise: float = 0.0, **changes: object
    ) -> None:
        keys = {name: changes if name == "beta" else {} for name in NAMES}
        self.folders = [sites.make(name, keys[name], users=40) for name in NAMES]
        self.populations = dict.fromkeys(NAMES, 40)
        self.saved: list[tuple[int, ...]] = []
        self.choice = OwnItemsChoice(3, None, self.saved.append)
        self.sites, self.noise, self.grid = sites, noise, connect(self.folders)
        self.config = RunConfig(
            privacy=PrivacyConfig(epsilon=8.0, delta=1e-3),
            model=DESCRIBED,
            warm_start=WarmStartConfig(share=0.7, own_items=3),
            server=ServerConfig(quorum=0.6, retries=2, retry_seconds=0.0),
        )

    def collector(self, run: str = "r") -> StatisticsCollector:
        partners = [
            Partner(node_id=node, organisation=name, population=self.populations[name])
            for node, name in enumerate(NAMES, start=1)
        ]
        return StatisticsCollector(
            grid=self.grid,
            look_up=lambda _: partners,
            run=run,
            noise_multipliers=statistics_noise(self.noise, 0.3),
            fade=0.5,
            config=self.config,
            catalogue=self.sites.catalogue.fingerprint,
        )

    def warm(self, prior: Histories | None = None, run: str = "r") -> dict[str, np.ndarray]:
        first = compute_first_weights(
            self.collector(run), self.config, self.sites.catalogue, Prior(prior), self.choice
        )
        return {**first.weights, "own": np.array(first.own_items)}


@pytest.fixture
def coordinator(sites: Sites, connect: Connect) -> Coordinator:
    return Coordinator(sites, connect)


def same(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> bool:
    return one.keys() == other.keys() and all(np.array_equal(one[key], other[key]) for key in one)


def test_it_gives_the_weights_that_training_begins_with(coordinator: Coordinator) -> None:
    weights = coordinator.warm()
    own = tuple(int(item) for item in weights.pop("own"))
    assert len(own) == 3
    model = build(replace(DESCRIBED, own_items=own), coordinator.sites.catalogue)
    shapes = {name: tuple(p.shape) for name, p in trainable(model).items()}
    assert {name: value.shape for name, value in weights.items()} == shapes
    assert all(np.isfinite(value).all() for value in weights.values())
    assert weights["feature_out.weight"].any()


def test_own_items_are_the_most_popular_over_all_sites(coordinator: Coordinator) -> None:
    counts = sum(popularity_sum(some_histories(40, seed=len(name)), ITEMS, 0.5) for name in NAMES)
    assert list(coordinator.warm()["own"]) == sorted(np.argsort(-counts)[:3] + 1)


@pytest.mark.parametrize("rule", ["median", "trimmed-mean"])
def test_an_attacker_leads_a_sum_astray_and_a_robust_rule_hardly(
    coordinator: Coordinator, rule: str
) -> None:
    """It declares as many users as δ allows, and answers with what they may add up to at most."""
    offsets = "item_scores.offset"
    honest, answer = coordinator.warm()[offsets], coordinator.grid.nodes[2]
    item = int(honest.argmin())

    def attack(message: Message) -> Message | None:
        if (reply := answer(message)) is not None:
            total = StatisticsReply.from_content(reply.content).total
            false = np.zeros_like(total)
            false.flat[item] = coordinator.populations["beta"]
            reply.content = StatisticsReply(total=false).to_content()
        return reply

    coordinator.grid.nodes[2] = attack
    coordinator.populations["beta"] = 900

    def place(run: str) -> int:
        """Of the least popular item among all, from below."""
        return int(coordinator.warm(run=run)[offsets].ravel().argsort().argsort()[item])

    server = coordinator.config.server
    assert place("mean") == ITEMS - 1
    robust = replace(server, aggregation=Aggregation(rule), malicious=1, organisations=3)
    coordinator.config = replace(coordinator.config, server=robust)
    assert place("robust") <= 2


def test_a_robust_rule_needs_as_many_answers_as_it_is_to_withstand(
    coordinator: Coordinator,
) -> None:
    coordinator.grid.nodes[3] = lambda _: None
    assert coordinator.warm()["feature_out.weight"].any()
    server = replace(coordinator.config.server, aggregation=Aggregation.MEDIAN, malicious=1)
    coordinator.config = replace(coordinator.config, server=server)
    with pytest.raises(
        QuorumError, match=r"popularity .* 2 valid replies of 3, 3 are needed \(gamma"
    ):
        coordinator.warm()


def test_asked_again_everybody_gives_the_same_and_pays_nothing(
    sites: Sites, connect: Connect
) -> None:
    """As when the coordinator dies between the two statistics, or after both."""
    coordinator = Coordinator(sites, connect, 2.0, **{"policy.max_epsilon": 8.0})
    first = coordinator.warm()
    spent = [Site.load(folder).open_ledger().spent(1e-3) for folder in coordinator.folders]
    assert same(coordinator.warm(), first)
    assert spent == [Site.load(folder).open_ledger().spent(1e-3) for folder in coordinator.folders]
    assert all(value > 0 for value in spent)
    assert not same(coordinator.warm(run="another"), first)


def test_who_declines_is_left_out(sites: Sites, connect: Connect) -> None:
    coordinator = Coordinator(sites, connect, 0.0, **{"policy.answers": ["describe", "train"]})
    assert coordinator.warm()["feature_out.weight"].any()


@pytest.mark.parametrize(
    ("cheat", "problem"),
    [
        (None, "no reply before the deadline"),
        (lambda total: total * np.nan, "values that are not finite"),
        (lambda total: total * 0 + 1e3, "more than 40 users add up to"),
        (lambda total: total[:-1], "a statistic of shape"),
    ],
)
def test_too_few_valid_answers_end_it_and_say_why(
    coordinator: Coordinator, cheat: Callable[[np.ndarray], np.ndarray] | None, problem: str
) -> None:
    for node in (1, 2):
        honest = coordinator.grid.nodes[node]

        def answer(message: Message, honest: Node = honest) -> Message | None:
            reply = None if cheat is None else honest(message)
            if cheat is None or reply is None:
                return None
            total = cheat(StatisticsReply.from_content(reply.content).total)
            reply.content = StatisticsReply(total=total.astype(np.float32)).to_content()
            return reply

        coordinator.grid.nodes[node] = answer
    with pytest.raises(
        QuorumError, match=rf"1 valid replies of 3, .*alpha: .*{problem}.*no partner pays twice"
    ):
        coordinator.warm()


def test_a_silent_partner_is_asked_again_and_no_partner_pays_twice(
    sites: Sites, connect: Connect
) -> None:
    coordinator = Coordinator(sites, connect, 2.0, **{"policy.max_epsilon": 8.0})
    asked = {1: 0, 2: 0}
    for node in (1, 2):
        honest = coordinator.grid.nodes[node]

        def late(message: Message, honest: Node = honest, node: int = node) -> Message | None:
            asked[node] += 1
            reply = honest(message)  # paid for, and lost on its way at the first attempt
            return None if asked[node] == 1 else reply

        coordinator.grid.nodes[node] = late
    weights = coordinator.warm()
    assert asked == {1: 3, 2: 3}, "twice for the first statistic, once for the second"
    charged = [len(Site.load(folder).open_ledger().outbox()) for folder in coordinator.folders]
    assert charged == [2, 2, 2]
    coordinator.grid = connect(coordinator.folders)
    assert same(coordinator.warm(), weights), "the kept answers are the same bytes"


def test_who_has_declined_is_not_asked_again(sites: Sites, connect: Connect) -> None:
    coordinator = Coordinator(sites, connect, 0.0, **{"policy.answers": ["describe", "train"]})
    asked: list[int] = []
    declining = coordinator.grid.nodes[2]

    def declines(message: Message) -> Message | None:
        asked.append(2)
        return declining(message)

    def silent(_: Message) -> None:
        asked.append(3)

    coordinator.grid.nodes |= {2: declines, 3: silent}
    with pytest.raises(QuorumError, match="1 valid replies of 3, "):
        coordinator.warm()
    assert asked == [2, 3, 3, 3], "only who may still answer"


def test_without_statistics_public_users_determine_the_weights(coordinator: Coordinator) -> None:
    prior = Prior(some_histories(30, seed=9))
    first = compute_first_weights(
        None, coordinator.config, coordinator.sites.catalogue, prior, coordinator.choice
    )
    assert first.weights["feature_out.weight"].any()
    assert coordinator.grid.sent == []


def test_refining_asks_nobody_again(coordinator: Coordinator) -> None:
    public, asked = some_histories(60, seed=9), []
    weights = {}
    for steps in (0, 8):
        warm_start_config = replace(coordinator.config.warm_start, steps=steps)
        coordinator.config = replace(coordinator.config, warm_start=warm_start_config)
        for prior in (None, public):
            coordinator.grid.sent.clear()
            weights[steps, prior is None] = coordinator.warm(prior)
            asked.append(len(coordinator.grid.sent))
    assert asked == [2 * len(NAMES)] * 4
    assert not same(weights[0, True], weights[8, True])
    assert not same(weights[0, False], weights[8, False])
    offsets = "item_scores.offset"
    np.testing.assert_array_equal(weights[0, False][offsets], weights[8, False][offsets])


def test_an_item_must_stand_out_from_the_noise() -> None:
    popular = np.array([5.0, 100.0, 40.0, 60.0])
    assert select_own_items(popular, 0.0, 2) == (2, 4)
    assert select_own_items(popular, 12.0, 4) == (2, 4)
    assert select_own_items(popular, 50.0, 4) == ()


def test_own_items_do_not_change_after_late_answers(sites: Sites, connect: Connect) -> None:
    """Else partners that answered about these items would refuse to be asked about others."""
    coordinator = Coordinator(sites, connect, 2.0, **{"policy.max_epsilon": 20.0})
    absent = coordinator.grid.nodes[3]
    coordinator.grid.nodes[3] = lambda _: None
    first = coordinator.warm()
    assert coordinator.saved == [tuple(first["own"])]
    coordinator.grid.nodes[3] = absent
    coordinator.choice = OwnItemsChoice(3, coordinator.saved[0], coordinator.saved.append)
    again = coordinator.warm()
    assert list(again["own"]) == list(first["own"])
    assert len(coordinator.saved) == 1
    assert not same(again, first)


def test_without_public_interactions_drawn_histories_refine(coordinator: Coordinator) -> None:
    """Private users hardly notice where the states come from: their own likelihood rises."""
    users = [list(history) for name in NAMES for history in some_histories(40, seed=len(name))]

    def loss(steps: int, run: str) -> float:
        warm_start = replace(coordinator.config.warm_start, steps=steps)
        coordinator.config = replace(coordinator.config, warm_start=warm_start)
        weights = coordinator.warm(run=run)
        own = tuple(int(item) for item in weights.pop("own"))
        model = build(replace(DESCRIBED, own_items=own), coordinator.sites.catalogue).eval()
        with torch.no_grad():
            for name, p in trainable(model).items():
                p.copy_(torch.from_numpy(weights[name]))
            inputs, targets = next_item_pairs(Histories.from_lists(users).padded(np.arange(120), 6))
            return float(loss_per_user(model(inputs), targets).mean())

    assert loss(8, "refined") < loss(0, "first") - 0.01
