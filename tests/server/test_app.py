from __future__ import annotations

import errno
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from flwr.app import Context, Message, RecordDict

import server.app
import server.rounds.groups
from client.ledger.ledger import Ledger
from client.site.site import Site
from server.app import MODEL, Observer, coordinate, make_app
from server.noise_plan import plan_noise, popularity_share
from server.rounds.group_weights import reweighed
from server.rounds.groups import GroupMeasurement
from server.runs.recommender import build_recommender
from server.state.audit_log import FILE, AuditLog
from server.state.checkpoint import Checkpoint
from server.state.status import RunState, RunStatus
from shared.config import (
    ItemRepresentation,
    ModelConfig,
    PathsConfig,
    PrivacyConfig,
    RunConfig,
    ServerConfig,
    StrategyName,
    TrainingConfig,
    WarmStartConfig,
)
from shared.errors import CheckpointError, ConfigError, QuorumError
from shared.groups import GroupsConfig
from shared.messages import (
    DESCRIBE,
    EVALUATE,
    PLAN,
    STATISTICS,
    TRAIN,
    DescribeReply,
    EvaluateRequest,
    TrainRequest,
    Weights,
    refusal_reply,
)
from shared.models.attention import AttentionRecommender
from shared.outcomes import Refusal
from shared.system.files import write_atomically
from tests.conftest import DESCRIBED, ITEMS

if TYPE_CHECKING:
    from tests.conftest import FakeGrid, Node, Sites

    Connect = Callable[[Iterable[Path]], FakeGrid]

DELTA = 1e-3
ROUNDS = 3
STORED = Path(__file__).parent / "state" / "stored"
"""A run that release 0.1 began, and that was killed after its first round."""
NOT_PRIVATE = PrivacyConfig(epsilon=None, delta=DELTA)
PRIVATE = PrivacyConfig(epsilon=4.0, delta=DELTA)


class Killed(BaseException):
    """What a kill looks like from inside."""


class Federation:
    """Two seeded sites, a coordinator's folder, and the grid between them."""

    def __init__(self, sites: Sites, connect: Connect, config: RunConfig) -> None:
        limit = {"policy.delta": DELTA}
        if config.privacy.epsilon is not None:
            limit["policy.max_epsilon"] = config.privacy.epsilon
        self.sites = [
            sites.make(name, limit, seed=3, stream=stream)
            for stream, name in enumerate(("alpha", "beta"))
        ]
        self.out = sites.folder / "run"
        paths = PathsConfig(catalogue=str(sites.catalogue_folder), out=str(self.out))
        self.config = replace(config, paths=paths)
        self.connect = connect

    def run(
        self, *, resume: bool = False, observer: Observer = lambda _: None, **nodes: Node
    ) -> FakeGrid:
        """Starts the coordinator; `nodes` stand in for those of sites with that name."""
        grid = self.connect(self.sites)
        for number, site in enumerate(self.sites, start=1):
            if site.name in nodes:
                grid.nodes[number] = nodes[site.name]
        paths = replace(self.config.paths, resume=resume)
        coordinate(grid, replace(self.config, paths=paths), observer)
        return grid

    @property
    def checkpoint(self) -> Checkpoint:
        return Checkpoint.load(self.out)

    def releases(self) -> list[int]:
        """Steps charged at each site."""
        return [sum(r.steps for r in ledger.releases()) for ledger in self.ledgers]

    @property
    def ledgers(self) -> list[Ledger]:
        return [Site.load(site).open_ledger() for site in self.sites]


def bits(checkpoint: Checkpoint) -> dict[str, bytes]:
    parts = {"weights": checkpoint.weights, "state": checkpoint.optimiser}
    return {f"{k}/{n}": value.tobytes() for k, part in parts.items() for n, value in part.items()}


def rounds_asked(grid: FakeGrid) -> list[int]:
    """The round of every request for training."""
    return [number for message in grid.sent if (number := round_of(message))]


def killed_after(rounds: int) -> Observer:
    def observe(checkpoint: Checkpoint) -> None:
        if checkpoint.round == rounds:
            raise Killed

    return observe


def silent_about(kind: str, federation: Federation, number: int) -> Node:
    """The node of site `number`, counted from 1, that leaves one kind of request unanswered."""
    node = federation.connect(federation.sites).nodes[number]
    return lambda message: None if message.metadata.message_type == kind else node(message)


def change_limit(site: Path, before: float, after: float) -> None:
    """Change the ε that a site allows."""
    file = site / "site.toml"
    text = file.read_text()
    assert f"max_epsilon = {before}" in text
    file.write_text(text.replace(f"max_epsilon = {before}", f"max_epsilon = {after}"))


Make = Callable[[RunConfig], Federation]


def round_of(message: Message) -> int:
    """Which round's training a request asks for; 0 if for none."""
    if message.metadata.message_type != TRAIN:
        return 0
    return TrainRequest.from_content(message.content).round


@pytest.fixture(scope="module")
def config(model: ModelConfig) -> RunConfig:
    return RunConfig(
        privacy=NOT_PRIVATE,
        model=model,
        warm_start=WarmStartConfig(share=0.0),
        training=TrainingConfig(rounds=ROUNDS, sample_rate=0.5, learning_rate=0.5),
        server=ServerConfig(
            organisations=2, deadline_seconds=0.3, learning_rate=0.05, retries=0, retry_seconds=0.0
        ),
        seed=1,
    )


@pytest.fixture(scope="module")
def two(
    tmp_path_factory: pytest.TempPathFactory,
    make_sites: Callable[[Path], Sites],
    connect: Connect,
) -> Make:
    """Makes federations that differ in nothing but their folder."""
    return lambda config: Federation(make_sites(tmp_path_factory.mktemp("two")), connect, config)


@pytest.fixture(scope="module")
def through(two: Make, config: RunConfig) -> Federation:
    """A run that was never interrupted."""
    federation = two(config)
    federation.run()
    return federation


@pytest.fixture(scope="module")
def private(two: Make, config: RunConfig) -> Federation:
    """The same with privacy."""
    federation = two(replace(config, privacy=PRIVATE))
    federation.run()
    return federation


# --- a whole run -------------------------------------------------------------------------------


def test_a_run_ends_with_a_model_that_loads(two: Make, config: RunConfig) -> None:
    federation, seen = two(config), list[int]()

    def observe(checkpoint: Checkpoint) -> None:
        assert bits(checkpoint) == bits(federation.checkpoint), "saved before it is shown"
        seen.append(checkpoint.round)

    grid = federation.run(observer=observe)
    assert seen == [0, 1, 2, 3]
    assert rounds_asked(grid) == [1, 1, 2, 2, 3, 3]
    kinds = [message.metadata.message_type for message in grid.sent]
    assert kinds == [DESCRIBE] * 2 + [PLAN] * 2 + [TRAIN] * 6
    checkpoint = federation.checkpoint
    assert (checkpoint.round, checkpoint.config) == (ROUNDS, config.fingerprint)
    status = RunStatus.load(federation.out)
    assert (status.state, status.round) == (RunState.FINISHED, ROUNDS)
    assert status.bytes_up == ROUNDS * status.round_bytes_up > 0
    assert status.bytes_down == ROUNDS * status.round_bytes_down > 0
    assert status.seconds >= status.round_seconds > 0

    loaded = AttentionRecommender.from_pretrained(federation.out / MODEL)
    catalogue = server.app._load_catalogue(federation.config)
    expected = build_recommender(federation.checkpoint, config, catalogue)
    histories = torch.tensor([[1, 2, 3, 0, 0], [4, 5, 6, 7, 8]])
    torch.testing.assert_close(
        loaded.next_item_scores(histories), expected.next_item_scores(histories)
    )
    assert not expected.training


def test_the_apps_own_entry_reads_the_run_config(two: Make, config: RunConfig) -> None:
    federation = two(replace(config, training=replace(config.training, rounds=1)))
    context = Context(
        run_id=1,
        node_id=0,
        node_config={},
        state=RecordDict(),
        run_config=federation.config.to_flat(),
    )
    make_app()(federation.connect(federation.sites), context)
    assert federation.checkpoint.round == 1


def test_the_seed_sets_the_first_weights(two: Make, config: RunConfig) -> None:
    first: list[Weights] = []
    for seed in (1, 1, 2):
        federation = two(replace(config, seed=seed))
        with pytest.raises(Killed):
            federation.run(observer=killed_after(0))
        first.append(federation.checkpoint.weights)
    a, b, c = (weights["item.weight"] for weights in first)
    assert (a == b).all()
    assert (a != c).any()


# --- resuming ----------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", StrategyName)
def test_a_resumed_run_ends_where_an_uninterrupted_one_does(
    two: Make, config: RunConfig, strategy: StrategyName, through: Federation
) -> None:
    config = replace(config, server=replace(config.server, strategy=strategy))
    if strategy is not through.config.server.strategy:
        through = two(config)
        through.run()
    broken = two(config)
    with pytest.raises(Killed):
        broken.run(observer=killed_after(2))
    assert broken.checkpoint.round == 2
    grid = broken.run(resume=True)
    assert rounds_asked(grid) == [3, 3]
    assert bits(broken.checkpoint) == bits(through.checkpoint)
    assert broken.releases() == through.releases() == [ROUNDS, ROUNDS]


def test_a_run_of_release_0_1_is_resumed(two: Make, config: RunConfig) -> None:
    server = replace(config.server, strategy=StrategyName.FEDAVGM)
    resumed = two(replace(config, privacy=PRIVATE, server=server))
    shutil.copytree(STORED, resumed.out)
    stored = resumed.checkpoint
    grid = resumed.run(resume=True)
    assert rounds_asked(grid) == [2, 2, 3, 3]
    status = RunStatus.load(resumed.out)
    assert (status.state, status.round, status.starts) == (RunState.FINISHED, ROUNDS, 2)
    assert status.organisations["alpha"].replies == {"valid": ROUNDS}
    # A newer release draws other dropout masks: what must be the same is where it goes on from.
    first = next(message for message in grid.sent if round_of(message) == 2)
    sent = TrainRequest.from_content(first.content).weights
    assert {n: w.tobytes() for n, w in sent.items()} == {
        n: w.tobytes() for n, w in stored.weights.items()
    }
    assert stored.optimiser


def test_a_kill_within_a_round_costs_nobody_anything(
    two: Make, config: RunConfig, private: Federation
) -> None:
    """Whoever had answered gives the same answer again; nobody is charged twice."""
    broken = two(replace(config, privacy=PRIVATE))
    beta = broken.connect(broken.sites).nodes[2]

    def killed(message: Message) -> Message | None:
        if round_of(message) == 2:
            raise Killed
        return beta(message)

    with pytest.raises(Killed):
        broken.run(beta=killed)
    assert broken.checkpoint.round == 1
    assert broken.releases() == [2, 1], "alpha had answered"
    run = broken.checkpoint.run
    broken.run(resume=True)
    assert broken.checkpoint.run == run
    assert bits(broken.checkpoint) == bits(private.checkpoint)
    assert broken.releases() == private.releases() == [ROUNDS, ROUNDS]
    for ours, theirs in zip(broken.ledgers, private.ledgers, strict=True):
        assert ours.spent(DELTA) == theirs.spent(DELTA)


def test_a_kill_before_the_first_round_starts_the_same_run(
    two: Make, config: RunConfig, through: Federation
) -> None:
    broken = two(config)
    with pytest.raises(Killed):
        broken.run(observer=killed_after(0))
    broken.run(resume=True)
    assert bits(broken.checkpoint) == bits(through.checkpoint)


def test_the_statistics_stay_one_request_though_a_population_changes(
    two: Make, config: RunConfig
) -> None:
    """How their budget is divided depends on the populations, and is decided once."""
    config = replace(config, model=DESCRIBED, warm_start=WarmStartConfig(), privacy=PRIVATE)
    federation = two(replace(config, server=replace(config.server, quorum=1.0)))
    with pytest.raises(QuorumError, match="the popularity statistic has 1 valid replies of 2, 2"):
        federation.run(beta=silent_about(STATISTICS, federation, 2))
    part = federation.checkpoint.popularity_share
    file = federation.sites[1] / "site.toml"
    before = Site.load(federation.sites[1]).population
    file.write_text(file.read_text().replace(f"population = {before}", "population = 900"))
    federation.run(resume=True)
    assert federation.checkpoint.popularity_share == part
    assert part != popularity_share(plan_noise(federation.config).statistics, [before, 900], ITEMS)
    kinds = [[entry.kind for entry in ledger.outbox()] for ledger in federation.ledgers]
    assert [own.count("statistics") for own in kinds] == [2, 2]


def test_a_site_that_misses_a_statistic_is_reported_as_in_a_round(
    two: Make, config: RunConfig
) -> None:
    config = replace(config, model=DESCRIBED, warm_start=WarmStartConfig(), privacy=PRIVATE)
    server_config = replace(config.server, quorum=1.0, retries=1)
    federation = two(replace(config, server=server_config))
    node, held = federation.connect(federation.sites).nodes[2], list[Message]()

    def slow(message: Message) -> Message | None:
        """Answers each statistic when it is asked for again."""
        if message.metadata.message_type != STATISTICS:
            return node(message)
        held.append(message)
        return node(message) if len(held) % 2 == 0 else None

    federation.run(beta=slow)
    assert len(held) == 4
    status = RunStatus.load(federation.out)
    assert status.missed == 2
    assert status.organisations["beta"].replies == {"missing": 2, "valid": 2 + ROUNDS}
    events = [entry["event"] for entry in AuditLog(federation.out / FILE).entries()]
    assert [event for event in events if event.startswith("statistic")] == [
        "statistic-missed",
        "statistic-collected",
    ] * 2


def test_a_late_statistic_is_reported_with_the_first_round(two: Make, config: RunConfig) -> None:
    config = replace(config, model=DESCRIBED, warm_start=WarmStartConfig(), privacy=PRIVATE)
    federation = two(config)
    grid = federation.connect(federation.sites)
    node, held = grid.nodes[2], list[Message]()

    def slow(message: Message) -> Message | None:
        if message.metadata.message_type != STATISTICS:
            return node(message)
        held.append(message)
        return node(message) if len(held) == 1 else None

    def deliver(checkpoint: Checkpoint) -> None:
        reply = node(held[1]) if checkpoint.round == 0 else None
        if reply is not None:
            grid._replies[held[1].metadata.message_id] = reply

    grid.nodes[2] = slow
    coordinate(grid, federation.config, deliver)
    replies = RunStatus.load(federation.out).organisations["beta"].replies
    assert replies == {"missing": 1, "late": 1, "valid": 1 + ROUNDS}


def test_a_finished_run_may_be_resumed_to_write_its_model(two: Make, config: RunConfig) -> None:
    federation = two(config)
    with pytest.raises(Killed):
        federation.run(observer=killed_after(ROUNDS))
    assert not (federation.out / MODEL).exists()
    before = bits(federation.checkpoint)
    assert rounds_asked(federation.run(resume=True)) == []
    assert bits(federation.checkpoint) == before
    assert AttentionRecommender.from_pretrained(federation.out / MODEL)


def test_a_partner_that_is_lost_is_left_out_and_comes_back(two: Make, config: RunConfig) -> None:
    federation = two(config)
    beta = federation.connect(federation.sites).nodes[2]
    federation.run(beta=lambda message: None if round_of(message) == 2 else beta(message))
    assert federation.checkpoint.round == ROUNDS
    assert federation.releases() == [ROUNDS, ROUNDS - 1]


def test_a_lost_quorum_ends_the_run_and_keeps_what_is_finished(
    two: Make, config: RunConfig
) -> None:
    federation = two(replace(config, server=replace(config.server, quorum=1.0)))
    beta = federation.connect(federation.sites).nodes[2]

    def refusing(message: Message) -> Message | None:
        return refusal_reply(Refusal.BUDGET, message) if round_of(message) == 2 else beta(message)

    with pytest.raises(QuorumError, match=rf"round 2 .*beta: {Refusal.BUDGET.sentence}"):
        federation.run(beta=refusing)
    assert federation.checkpoint.round == 1
    federation.run(resume=True)
    assert federation.checkpoint.round == ROUNDS


def test_a_full_disk_loses_no_round_and_costs_nobody_anything(
    two: Make, config: RunConfig, through: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second round's checkpoint does not fit."""
    federation, saved = two(config), 0

    def full(file: Path, content: bytes, *, mode: int) -> None:
        nonlocal saved
        saved += 1
        if saved == 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write_atomically(file, content, mode=mode)

    with monkeypatch.context() as patch:
        patch.setattr("server.state.checkpoint.write_atomically", full)
        with pytest.raises(
            CheckpointError, match=r"round 2 cannot be written .*No space left .* one before is wh"
        ):
            federation.run()
    assert federation.checkpoint.round == 1
    status = RunStatus.load(federation.out)
    assert (status.state, status.round) == (RunState.FAILED, 1)
    assert "Make room" in status.reason
    federation.run(resume=True)
    assert bits(federation.checkpoint) == bits(through.checkpoint)
    assert federation.releases() == [ROUNDS, ROUNDS]


def test_a_partner_that_joins_and_one_that_leaves(two: Make, config: RunConfig) -> None:
    """Beta is there from the second round on, and alpha until the second one."""
    server_config = replace(config.server, organisations=1)
    federation = two(replace(config, server=server_config))
    grid = federation.connect(federation.sites)
    alpha, beta = grid.nodes[1], grid.nodes.pop(2)

    def turn(checkpoint: Checkpoint) -> None:
        if checkpoint.round == 1:
            grid.nodes[2] = beta
        if checkpoint.round == 2:
            del grid.nodes[1]

    coordinate(grid, federation.config, turn)
    assert federation.releases() == [2, 2]
    organisations = RunStatus.load(federation.out).organisations
    assert organisations["alpha"].replies == {"valid": 2, "absent": 1}
    assert organisations["beta"].replies == {"valid": 2}
    assert alpha is not beta


def test_a_resumed_run_continues_with_a_quorum(two: Make, config: RunConfig) -> None:
    """A new one waits for all."""
    federation = two(config)
    with pytest.raises(Killed):
        federation.run(observer=killed_after(1))
    grid = federation.connect(federation.sites)
    del grid.nodes[2]
    paths = replace(federation.config.paths, resume=True)
    coordinate(grid, replace(federation.config, paths=paths), lambda _: None)
    assert federation.releases() == [ROUNDS, 1]


def test_one_coordinator_a_folder(two: Make, config: RunConfig) -> None:
    federation = two(config)

    def second(checkpoint: Checkpoint) -> None:
        with pytest.raises(CheckpointError, match=r"another coordinator .* is at work in"):
            federation.run(resume=True)

    federation.run(observer=second)
    assert federation.releases() == [ROUNDS, ROUNDS]


# --- privacy -----------------------------------------------------------------------------------


def test_the_claim_is_what_the_partners_count(private: Federation) -> None:
    """Each site allows exactly the run's ε: no round is refused, and nearly all is spent."""
    assert private.releases() == [ROUNDS, ROUNDS]
    for ledger in private.ledgers:
        assert 0.98 * 4 < ledger.spent(DELTA) <= 4


def test_groups_are_measured_once_and_charged(
    two: Make, config: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The published weights are asked about; a run that is resumed does not ask again, though
    noise hides the answer.
    """
    groups = GroupsConfig(tables="gender=F|M; events=4|5", share=0.2)
    federation = two(replace(config, privacy=PRIVATE, groups=groups))
    for site, answers in zip(federation.sites, (["evaluate"], []), strict=True):
        lines = f"policy.answers = {['describe', 'train', *answers]}\n"
        lines += 'policy.group_columns = ["gender"]\ndata.users = "users.csv"\n'
        (site / "site.toml").write_text(lines + (site / "site.toml").read_text())
        rows = "".join(f"{user},{'FM'[user % 2]}\n" for user in range(12))
        (site / "users.csv").write_text("user_id,gender\n" + rows)
    monkeypatch.setattr(server.rounds.groups, "measured_groups", lambda *_: {})
    federation.run()
    status = RunStatus.load(federation.out)
    released = [ledger.releases() for ledger in federation.ledgers]
    assert [r.kind for r in released[0]] == ["train", "evaluate"]
    assert [r.kind for r in released[1]] == ["train"]  # its policy declines metrics
    assert 0.98 * 4 < federation.ledgers[0].spent(DELTA) <= 4
    events = [entry["event"] for entry in AuditLog(federation.out / FILE).entries()]
    assert events.count("groups-measured") == 1
    assert status.groups == {}
    (federation.out / "progress.json").unlink()
    asked = federation.run(resume=True).sent
    assert not [message for message in asked if message.metadata.message_type == EVALUATE]
    assert federation.releases() == [ROUNDS + 1, ROUNDS]


def test_groups_weigh_in_the_next_rounds_by_what_was_released(
    two: Make, config: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights follow from the noised figures, are the same after a kill, and cost what was said."""
    groups = GroupsConfig(tables="gender=F|M", share=0.2, robust=5.0)
    federation = two(replace(config, privacy=PRIVATE, groups=groups))
    for site in federation.sites:
        lines = 'policy.answers = ["describe", "train", "evaluate"]\n'
        (site / "site.toml").write_text(lines + (site / "site.toml").read_text())
    released, ask = dict[int, dict[str, Any]](), GroupMeasurement.ask

    def said(self: GroupMeasurement, request: EvaluateRequest, before: int = 0) -> dict[str, Any]:
        ask(self, request, before)
        figures = [{"ndcg": ndcg} for ndcg in (0.1 * before, 0.2, None)]
        released[before] = {"all": {"ndcg": 0.2}, "tables": [{"groups": figures}]}
        return released[before]

    monkeypatch.setattr(GroupMeasurement, "ask", said)
    with pytest.raises(Killed):
        federation.run(observer=killed_after(2))
    asked = federation.run(resume=True).sent
    assert list(released) == [1, 2, 3, 0]
    weights, expected = groups.first_weights, dict[int, str]()
    for number in (1, 2, 3):
        weights = expected[number] = reweighed(groups, weights, released[number])
    assert len({*expected.values()}) == 2  # in round 2 all figures are alike
    requests = [TrainRequest.from_content(one.content) for one in asked if round_of(one)]
    assert {one.round: one.weights_of_groups for one in requests} == {3: expected[3]}
    assert federation.checkpoint.group_weights == expected[3]
    for ledger in federation.ledgers:
        steps = {str(release.kind): release.steps for release in ledger.releases()}
        assert steps == {"train": ROUNDS, "evaluate": ROUNDS + 1}
        assert 0.98 * 4 < ledger.spent(DELTA) <= 4


def test_a_new_run_does_not_get_the_budget_back(
    private: Federation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = replace(private.config.paths, out=str(tmp_path / "another"))
    monkeypatch.setattr(private, "config", replace(private.config, paths=paths))
    with pytest.raises(QuorumError, match=Refusal.BUDGET.sentence):
        private.run()
    assert private.releases() == [ROUNDS, ROUNDS]


def test_nobody_is_charged_for_a_run_that_one_cannot_pay_to_its_end(
    two: Make, config: RunConfig
) -> None:
    config = replace(config, privacy=PRIVATE, model=DESCRIBED, warm_start=WarmStartConfig())
    federation = two(replace(config, server=replace(config.server, quorum=1.0)))
    change_limit(federation.sites[1], 4.0, 3.9)
    with pytest.raises(
        QuorumError,
        match=rf"1 of 2 organisations can pay for the whole run, 2 are needed \(beta: "
        rf"{Refusal.BUDGET.sentence}\)\. Nothing was charged",
    ):
        federation.run()
    assert federation.releases() == [0, 0]
    assert not Checkpoint.exists(federation.out)
    assert RunStatus.load(federation.out).state is RunState.PAUSED
    events = [entry["event"] for entry in AuditLog(federation.out / FILE).entries()]
    assert events[-1] == "run-paused"
    change_limit(federation.sites[1], 3.9, 4.0)
    federation.run()
    assert RunStatus.load(federation.out).state is RunState.FINISHED


def test_with_a_quorum_of_payers_the_run_begins_and_says_who_cannot_pay(
    two: Make, config: RunConfig, caplog: pytest.LogCaptureFixture
) -> None:
    federation = two(replace(config, privacy=PRIVATE))
    change_limit(federation.sites[1], 4.0, 3.0)
    with caplog.at_level(logging.WARNING, "sotto.server"):
        federation.run()
    assert f"not all can pay for the whole run: beta: {Refusal.BUDGET.sentence}" in caplog.text
    entry = next(
        e for e in AuditLog(federation.out / FILE).entries() if e["event"] == "plan-admitted"
    )
    assert entry["outcomes"] == {"alpha": "valid", "beta": "refused-budget"}


def test_a_node_that_does_not_know_the_question_takes_part(two: Make, config: RunConfig) -> None:
    """One of an earlier release."""
    federation = two(replace(config, server=replace(config.server, quorum=1.0)))
    node = federation.connect(federation.sites).nodes[2]

    def older(message: Message) -> Message | None:
        if message.metadata.message_type == PLAN:
            return refusal_reply(Refusal.MALFORMED, message)
        return node(message)

    federation.run(beta=older)
    assert federation.releases() == [ROUNDS, ROUNDS]


def test_a_resumed_run_is_not_asked_again_whether_it_can_be_paid(
    two: Make, config: RunConfig
) -> None:
    broken = two(replace(config, privacy=PRIVATE))
    with pytest.raises(Killed):
        broken.run(observer=killed_after(2))
    grid = broken.run(resume=True)
    assert PLAN not in {message.metadata.message_type for message in grid.sent}
    assert broken.releases() == [ROUNDS, ROUNDS]


@pytest.mark.parametrize("delta", [1 / 12, 0.5])
def test_a_delta_that_would_publish_a_user_is_refused(
    two: Make, config: RunConfig, delta: float
) -> None:
    federation = two(replace(config, privacy=PrivacyConfig(epsilon=4.0, delta=delta)))
    with pytest.raises(
        QuorumError, match=r"privacy\.delta = .* 1 / 12, the population of (alpha|beta): .* below"
    ):
        federation.run()
    assert federation.releases() == [0, 0]


# --- before the first round --------------------------------------------------------------------


def test_a_folder_with_a_run_is_not_overwritten(through: Federation) -> None:
    before = bits(through.checkpoint)
    with pytest.raises(CheckpointError, match=r"holds a run already: resume it .* another folder"):
        through.run()
    assert bits(through.checkpoint) == before


def test_there_must_be_something_to_resume(two: Make, config: RunConfig) -> None:
    with pytest.raises(CheckpointError, match="holds no checkpoint"):
        two(config).run(resume=True)


def test_another_configuration_is_not_resumed(two: Make, config: RunConfig) -> None:
    federation = two(config)
    with pytest.raises(Killed):
        federation.run(observer=killed_after(0))
    federation.config = replace(federation.config, seed=9)
    with pytest.raises(CheckpointError, match="belongs to another configuration"):
        federation.run(resume=True)
    federation.config = replace(
        federation.config, seed=1, server=replace(config.server, quorum=1.0, deadline_seconds=0.4)
    )
    with pytest.raises(Killed):
        federation.run(resume=True, observer=killed_after(1))


def test_another_catalogue_is_not_resumed(two: Make, config: RunConfig, sites: Sites) -> None:
    federation = two(config)
    with pytest.raises(Killed):
        federation.run(observer=killed_after(0))
    other = replace(sites.catalogue, titles=tuple("x" * len(sites.catalogue)))
    other.save(Path(federation.config.paths.catalogue))
    with pytest.raises(CheckpointError, match="belongs to another catalogue"):
        federation.run(resume=True)


@pytest.mark.parametrize("key", ["out", "catalogue"])
def test_a_path_must_be_set(two: Make, config: RunConfig, key: str) -> None:
    federation = two(config)
    paths: Any = {key: ""}
    federation.config = replace(federation.config, paths=replace(federation.config.paths, **paths))
    with pytest.raises(ConfigError, match=rf"paths\.{key} is not set: name"):
        federation.run()


def test_features_that_the_catalogue_lacks_are_refused(two: Make, config: RunConfig) -> None:
    model = replace(config.model, items=ItemRepresentation.FEATURES, feature_size=64)
    with pytest.raises(ConfigError, match=r"model\.feature_size = 64, but the catalogue has 4"):
        two(replace(config, model=model)).run()


# --- meeting the organisations -----------------------------------------------------------------


def test_too_few_organisations_before_the_deadline(two: Make, config: RunConfig) -> None:
    federation = two(replace(config, server=replace(config.server, organisations=3)))
    started = time.monotonic()
    with pytest.raises(
        QuorumError,
        match=r"2 of 3 organisations can take part after 0\.3 s \(2 nodes are connected\): start",
    ):
        federation.run()
    assert 0.3 < time.monotonic() - started < 5
    assert not Checkpoint.exists(federation.out)


def test_organisations_may_come_late(
    two: Make, config: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    federation = two(replace(config, training=replace(config.training, rounds=1)))
    grid = federation.connect(federation.sites)
    late = dict(grid.nodes)
    grid.nodes.clear()
    monkeypatch.setattr(time, "sleep", lambda _: grid.nodes.update(late))
    coordinate(grid, federation.config, lambda _: None)
    assert federation.checkpoint.round == 1


def test_two_nodes_of_one_name_are_refused(two: Make, config: RunConfig) -> None:
    federation = two(config)
    federation.sites = [federation.sites[0], federation.sites[0]]
    with pytest.raises(QuorumError, match=r"1 of 2 .*two nodes call themselves 'alpha': the first"):
        federation.run()


def test_another_catalogue_at_a_partner_is_refused(two: Make, config: RunConfig) -> None:
    federation = two(config)

    def other(message: Message) -> Message:
        reply = DescribeReply(organisation="beta", population=9, catalogue="c" * 64)
        return Message(reply.to_content(), reply_to=message)

    with pytest.raises(
        QuorumError, match=r"1 of 2 organisations .*beta holds another version of the catalogue"
    ):
        federation.run(beta=other)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (lambda message: None, "1 did not say who they are"),
        (lambda message: refusal_reply(Refusal.FAILED, message), Refusal.FAILED.sentence),
        (lambda message: Message(RecordDict(), reply_to=message), "the message holds"),
    ],
    ids=["silent", "refusing", "malformed"],
)
def test_a_partner_that_does_not_describe_itself_is_missing(
    two: Make, config: RunConfig, answer: Node, reason: str
) -> None:
    missing = rf"1 of 2 organisations can take part after .*\(.*{reason}"
    with pytest.raises(QuorumError, match=missing):
        two(config).run(beta=answer)


def test_with_a_quorum_the_run_continues_and_names_the_missing(
    two: Make, config: RunConfig, caplog: pytest.LogCaptureFixture
) -> None:
    server = replace(config.server, organisations=1)
    training = replace(config.training, rounds=1)
    federation = two(replace(config, server=server, training=training))
    with caplog.at_level(logging.WARNING, "sotto.server"):
        grid = federation.run(beta=lambda message: refusal_reply(Refusal.FAILED, message))
    assert Refusal.FAILED.sentence in caplog.text
    assert rounds_asked(grid) == [1]
