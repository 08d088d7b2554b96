"""Publishing and discarding runs, finished and broken off."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from server.noise_plan import plan_noise
from server.runs.bundle import BuiltBundle, build_bundle
from server.runs.discard import discard
from server.runs.model_card import claimed_epsilon, requested_releases
from server.runs.publish import publish
from server.runs.run import Run, all_runs, create_run, find_run, read_config
from server.service.setup import NewServer, make_server
from server.settings import Settings
from server.state.audit_log import FILE, AuditEvent, AuditLog
from server.state.checkpoint import Checkpoint
from server.state.run_lock import coordinator_lock
from server.state.status import Organisation, RunState, RunStatus, now
from shared.data.catalogue import Catalogue
from shared.errors import ServerError
from shared.models.attention import AttentionRecommender, build, trainable
from shared.privacy.accounting.accountant import epsilon

ROUNDS, DONE = 5, 2
CONFIG = f"""
[privacy]
epsilon = 8.0
delta = 1e-4
[model]
feature_size = 4
[warm_start]
share = 0.0
[training]
rounds = {ROUNDS}
[paths]
catalogue = "catalogue"
"""


@pytest.fixture(scope="module")
def bundle() -> BuiltBundle:
    return build_bundle(Path(__file__).parents[3])


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    Catalogue(
        item_ids=("a", "b", "c"),
        titles=("", "", ""),
        genres=((), (), ()),
        years=(None, None, None),
        features=torch.eye(3, 4),
    ).save(tmp_path / "catalogue")
    (tmp_path / "run.toml").write_text(CONFIG)
    return make_server(tmp_path / "c", NewServer(address="127.0.0.1:9092"))


@pytest.fixture
def paused(settings: Settings, tmp_path: Path, bundle: BuiltBundle) -> Run:
    """A run that paused after `DONE` rounds."""
    run = create_run(settings, "first", read_config(tmp_path / "run.toml"), bundle)
    catalogue = Catalogue.load(tmp_path / "catalogue")
    torch.manual_seed(0)
    model = build(run.config.model, catalogue)
    Checkpoint(
        run="r",
        round=DONE,
        config=run.config.fingerprint,
        catalogue=catalogue.fingerprint,
        warm_started=True,
        weights={name: p.detach().numpy() for name, p in trainable(model).items()},
    ).save(run.out)
    RunStatus(
        run="r",
        state=RunState.PAUSED,
        round=DONE,
        rounds=ROUNDS,
        organisations={"Alpha": Organisation(connected=False, population=9, answered_rounds=2)},
        started=now(),
        updated=now(),
    ).save(run.out)
    AuditLog(run.out / FILE).record(AuditEvent.RUN_PAUSED, run="r")
    return run.save_state(RunState.PAUSED, "too few replies")


def test_a_paused_run_is_published_after_its_last_finished_round(
    settings: Settings, paused: Run, tmp_path: Path
) -> None:
    published = publish(settings, paused, tmp_path / "model")
    card = (tmp_path / "model" / "README.md").read_text()
    assert f"**Unfinished**: this is the model after round {DONE} of {ROUNDS}." in card
    loaded = trainable(AttentionRecommender.from_pretrained(tmp_path / "model" / "model"))
    for name, value in Checkpoint.load(paused.out).weights.items():
        assert (loaded[name].detach().numpy() == value).all()
    config = paused.config
    releases = requested_releases(config, DONE + 1)
    assert claimed_epsilon(published) == epsilon(releases, config.privacy.delta)
    assert plan_noise(config).training == releases[-1].noise_multiplier
    entry = list(AuditLog(settings.path(FILE)).entries())[-1]
    assert (entry["event"], entry["round"]) == ("published", DONE)


def test_without_a_finished_round_there_is_nothing_to_publish(
    settings: Settings, paused: Run, tmp_path: Path
) -> None:
    replace(Checkpoint.load(paused.out), round=0).save(paused.out)
    with pytest.raises(ServerError, match=r"has finished no round.*sotto-server discard first"):
        publish(settings, paused, tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_a_running_run_is_not_published(settings: Settings, paused: Run, tmp_path: Path) -> None:
    with pytest.raises(ServerError, match="or stop it"):
        publish(settings, paused.save_state(RunState.RUNNING), tmp_path / "model")


@pytest.mark.parametrize("place", ["file/model", "x" * 300, "file"])
def test_an_impossible_folder_is_an_error_that_says_so(
    settings: Settings, paused: Run, tmp_path: Path, place: str
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ServerError, match=r"cannot be written|exists already"):
        publish(settings, paused, tmp_path / place)


def test_a_discarded_run_leaves_its_record_and_frees_its_name(
    settings: Settings, paused: Run, tmp_path: Path, bundle: BuiltBundle
) -> None:
    head = AuditLog(paused.out / FILE).head
    kept = discard(settings, paused)
    assert all_runs(settings) == []
    assert sorted(file.name for file in kept.iterdir()) == [FILE, "config.toml", "run.json"]
    assert AuditLog(kept / FILE).verify() == 1
    entry = list(AuditLog(settings.path(FILE)).entries())[-1]
    assert (entry["event"], entry["run"], entry["round"]) == ("run-discarded", "first", DONE)
    assert entry["audit_log"] == head
    assert json.loads((kept / "run.json").read_text())["name"] == "first"
    create_run(settings, "first", read_config(tmp_path / "run.toml"), bundle)
    assert find_run(settings, "first").state is RunState.STOPPED


def test_a_run_at_work_is_not_discarded(settings: Settings, paused: Run) -> None:
    with pytest.raises(ServerError, match="sotto-server stop first"):
        discard(settings, paused.save_state(RunState.RUNNING))
    paused.save_state(RunState.PAUSED)
    with coordinator_lock(paused.out), pytest.raises(ServerError, match="sotto-server stop first"):
        discard(settings, paused)
    assert find_run(settings, "first").state is RunState.PAUSED
