"""A site folder that release 0.1 wrote: its settings, ledger and answers are still read.

`stored/` holds a site.toml with every table, and a ledger with two runs of training, two requests
for metrics, one for a statistic, and three refusals; the anchor is in a folder of its own.
"""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import pytest

from client.data.config import DataConfig
from client.ledger.ledger import Entry
from client.ledger.limits import Limits
from client.site.coordinator import CoordinatorConfig
from client.site.node import NodeConfig
from client.site.policy import Ask, Policy
from client.site.simulated import LabSeed
from client.site.site import Site
from shared.privacy.release import Release, ReleaseKind

SPENT = 0.8515572529062393
"""ε at δ = 1e-4, as release 0.1 stated it."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    copy = tmp_path / "site"
    shutil.copytree(Path(__file__).with_name("stored"), copy)
    for file in (copy / "ledger.sqlite", copy / "elsewhere" / "anchor"):
        file.chmod(0o600)
    return copy


def test_every_table_is_read(folder: Path) -> None:
    assert Site.load(folder) == Site(
        organisation="Bücher & Co",
        user_base="readers",
        population=1000,
        catalogue="catalogue",
        device="cpu",
        ledger="ledger.sqlite",
        anchor="elsewhere/anchor",
        data=DataConfig(source="events.parquet", user="who", item="what", time="when"),
        policy=Policy(
            max_epsilon=8.0,
            delta=1e-4,
            answers=(Ask.DESCRIBE, Ask.STATISTICS, Ask.TRAIN, Ask.EVALUATE),
            min_noise_multiplier=0.7,
            max_sample_rate=0.25,
            max_clip_norm=3.0,
            max_steps=40,
        ),
        coordinator=CoordinatorConfig(
            superlink="sotto.example:9092", root_certificates="ca.crt", local_port=9095
        ),
        node=NodeConfig(executor_user="sotto-app", metrics="127.0.0.1:9464"),
        lab=LabSeed(seed=-1, stream=2),
        folder=str(folder),
    )


def test_the_ledger_opens_and_states_the_same_budget(folder: Path) -> None:
    site = Site.load(folder)
    ledger = site.open_ledger()
    assert ledger.verify() == 24
    assert ledger.spent(site.policy.delta) == SPENT
    assert {(r.kind, r.noise_multiplier, r.steps) for r in ledger.releases()} == {
        (ReleaseKind.TRAIN, 2.0, 5),
        (ReleaseKind.EVALUATE, 2.0, 2),
        (ReleaseKind.TRAIN, 1.5, 4),
        (ReleaseKind.STATISTICS, 3.0, 1),
    }


def test_a_kept_answer_goes_out_again_and_the_ledger_goes_on(folder: Path) -> None:
    site = Site.load(folder)
    ledger = site.open_ledger()
    release = Release(kind=ReleaseKind.TRAIN, noise_multiplier=1.5, sample_rate=0.1, steps=2)
    kept = ledger.answer(Entry(run="b81e0f6677aa2310", round=2, release=release))
    assert kept is not None
    assert (
        hashlib.sha256(kept).hexdigest()
        == "b186fb38f0946d71a46db93babb887002722e99c04f053defe50993b752a4277"
    )
    ledger.charge(
        Entry(run="later", round=1, release=release),
        Limits(max_epsilon=site.policy.max_epsilon, delta=site.policy.delta),
    )
    assert site.open_ledger().spent(site.policy.delta) > SPENT
