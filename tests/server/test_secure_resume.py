"""A masked run that is resumed asks for nothing again that was released, and nobody pays twice."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import client.ledger.limits
import server.rounds.groups
from client.site.site import Site
from server.app import coordinate
from server.rounds.statistics import StatisticsCollector, StatisticTotal
from server.rounds.strategy import FederatedStrategy
from server.state.attempts import Attempts
from server.state.checkpoint import Checkpoint
from server.state.status import RunStatus
from shared.config import (
    PathsConfig,
    PrivacyConfig,
    RunConfig,
    ServerConfig,
    TrainingConfig,
    Trust,
    WarmStartConfig,
    Weighting,
)
from shared.groups import GroupsConfig
from shared.messages import AGGREGATE, Statistic
from tests.client.secure_aggregation.peers import Peers
from tests.conftest import DESCRIBED

if TYPE_CHECKING:
    from tests.conftest import FakeGrid, Sites

    Connect = Callable[[Iterable[Path]], FakeGrid]

DELTA = 1e-3


class Killed(BaseException):
    """What a kill looks like from inside."""


@pytest.fixture
def config(sites: Sites) -> RunConfig:
    changes: Mapping[str, object] = {
        "policy.delta": DELTA,
        "policy.answers": ["describe", "statistics", "train", "evaluate"],
        "policy.group_columns": ["gender"],
        "data.users": "users.csv",
        "lab.simulated": True,
    }
    peers = Peers.make(sites, changes)
    for name in peers.names:
        rows = "".join(f"user{user},{'FM'[user % 2]}\n" for user in range(12))
        (peers.folder(name) / "users.csv").write_text("user_id,gender\n" + rows)
    return RunConfig(
        privacy=PrivacyConfig(
            epsilon=4.0, delta=DELTA, trust=Trust.SECURE_AGGREGATION, colluding=1, dropouts=1
        ),
        model=DESCRIBED,
        warm_start=WarmStartConfig(),
        training=TrainingConfig(rounds=1, sample_rate=0.5),
        server=ServerConfig(organisations=4, weighting=Weighting.POPULATION, evaluate_every=1),
        groups=GroupsConfig(tables="gender=F|M", share=0.01),
        paths=PathsConfig(catalogue=str(sites.catalogue_folder), out=str(sites.folder / "run")),
        seed=1,
    )


def test_nothing_is_asked_again_and_nobody_pays_twice(
    sites: Sites, config: RunConfig, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed between two statistics, after a round's metrics, and after the end."""
    # Another test's concern, and most of a request's time.
    monkeypatch.setattr(client.ledger.limits, "epsilon", lambda *_: 1.0)
    # As where noise hides all users, which it does by chance.
    monkeypatch.setattr(server.rounds.groups, "measured_groups", lambda *_: {})
    folders = [sites.folder / name for name in ("alpha", "beta", "gamma", "delta")]
    out = sites.folder / "run"

    def start(*, resume: bool = True) -> FakeGrid:
        grid = connect(folders)
        coordinate(
            grid, replace(config, paths=replace(config.paths, resume=resume)), lambda _: None
        )
        return grid

    def charged() -> list[list[tuple[str, int]]]:
        ledgers = [Site.load(folder).open_ledger() for folder in folders]
        return [[(str(r.kind), r.steps) for r in ledger.releases()] for ledger in ledgers]

    total = StatisticsCollector.total

    def killed(
        self: StatisticsCollector,
        statistic: Statistic,
        own_items: tuple[int, ...],
        shape: tuple[int, ...],
    ) -> StatisticTotal:
        if statistic is Statistic.MOMENT:
            raise Killed
        return total(self, statistic, own_items, shape)

    with monkeypatch.context() as patch:
        patch.setattr(StatisticsCollector, "total", killed)
        with pytest.raises(Killed):
            start(resume=False)
    assert charged() == [[("statistics", 1)]] * 4
    evaluate = FederatedStrategy.aggregate_evaluate

    def killed_after(self: FederatedStrategy, *arguments: object) -> None:
        evaluate(self, *arguments)  # type: ignore[arg-type]
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(FederatedStrategy, "aggregate_evaluate", killed_after)
        with pytest.raises(Killed):
            start()
    before = [("statistics", 1), ("statistics", 1), ("train", 1), ("evaluate", 1)]
    assert charged() == [before] * 4
    start()
    released = [*before, ("evaluate", 1)]
    assert charged() == [released] * 4
    assert Checkpoint.load(out).groups == {}
    assert RunStatus.load(out).groups == {}
    # What it does not ask again for does not depend on what else is on disk.
    for kept in (out / "progress.json", *(out / "sums").iterdir()):
        kept.unlink()
    asked = start()
    assert not [one for one in asked.sent if one.metadata.message_type == AGGREGATE]
    assert charged() == [released] * 4
    assert Attempts(out, Checkpoint.load(out).run).last == len(released)
