"""What the recorder keeps: each answer once, and of training only the rounds that are studied."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from client.app import app
from shared.messages import DESCRIBE, DescribeRequest, TrainRequest
from shared.privacy.release import ReleaseKind
from simulations.audit.recorder import Recorder
from tests.conftest import Sites, ask, context


def test_answers_are_kept_once_and_pass_unchanged(
    sites: Sites, make_sites: Callable[[Path], Sites], tmp_path: Path
) -> None:
    site = sites.make("acme", users=12)
    recorder, where = Recorder([1]), context({"site": str(site), "simulated": True})
    first = recorder(sites.message(), where)
    again = recorder(sites.message(), where)
    assert first.content == again.content == app(sites.message(), where).content
    assert [type(seen.request) for seen in recorder.seen[site.name]] == [TrainRequest]
    [release] = recorder.releases[site.name]
    request = sites.request()
    assert (release.kind, release.steps) == (ReleaseKind.TRAIN, request.local_steps)
    assert release.noise_multiplier == request.noise_multiplier
    assert release.sample_rate == request.sample_rate


def test_rounds_that_are_not_studied_are_counted_only(sites: Sites) -> None:
    site = sites.make("acme", users=12)
    recorder, where = Recorder([2]), context({"site": str(site), "simulated": True})
    recorder(sites.message(round=1), where)
    assert recorder.seen[site.name] == []
    assert len(recorder.releases[site.name]) == 1


def test_refusals_and_public_answers_cost_nothing(sites: Sites) -> None:
    site = sites.make("acme", users=12)
    recorder, where = Recorder([1]), context({"site": str(site), "simulated": True})
    recorder(ask(DescribeRequest().to_content(), DESCRIBE), where)
    refused = recorder(sites.message(catalogue="another"), where)
    assert refused.has_error()
    assert recorder.releases == {}
