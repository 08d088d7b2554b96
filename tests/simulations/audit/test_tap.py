"""What the tap keeps: each answer once, and of training only the rounds that are studied."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from client.app import app
from shared.messages import DESCRIBE, DescribeRequest, TrainRequest
from shared.privacy.release import ReleaseKind
from simulations.audit.tap import Tap
from tests.conftest import Sites, ask, context


def test_answers_are_kept_once_and_pass_unchanged(
    sites: Sites, make_sites: Callable[[Path], Sites], tmp_path: Path
) -> None:
    site = sites.make("acme", users=12)
    tap, where = Tap([1]), context({"site": str(site), "simulated": True})
    first = tap(sites.message(), where)
    again = tap(sites.message(), where)
    assert first.content == again.content == app(sites.message(), where).content
    assert [type(seen.request) for seen in tap.seen[site.name]] == [TrainRequest]
    [release] = tap.releases[site.name]
    request = sites.request()
    assert (release.kind, release.steps) == (ReleaseKind.TRAIN, request.local_steps)
    assert release.noise_multiplier == request.noise_multiplier
    assert release.sample_rate == request.sample_rate


def test_rounds_that_are_not_studied_are_counted_only(sites: Sites) -> None:
    site = sites.make("acme", users=12)
    tap, where = Tap([2]), context({"site": str(site), "simulated": True})
    tap(sites.message(round=1), where)
    assert tap.seen[site.name] == []
    assert len(tap.releases[site.name]) == 1


def test_refusals_and_public_answers_cost_nothing(sites: Sites) -> None:
    site = sites.make("acme", users=12)
    tap, where = Tap([1]), context({"site": str(site), "simulated": True})
    tap(ask(DescribeRequest().to_content(), DESCRIBE), where)
    refused = tap(sites.message(catalogue="another"), where)
    assert refused.has_error()
    assert tap.releases == {}
