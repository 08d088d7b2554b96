"""What a release may hold, and how equal ones add up."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.privacy.release import Release, ReleaseKind, merge

GOOD: dict[str, Any] = {
    "kind": ReleaseKind.TRAIN,
    "noise_multiplier": 1.5,
    "sample_rate": 0.1,
    "steps": 3,
}

releases = st.lists(
    st.builds(
        Release,
        kind=st.sampled_from(ReleaseKind),
        noise_multiplier=st.sampled_from([0.0, 1.0, 1.0000001, 2.0]),
        sample_rate=st.sampled_from([0.1, 0.2, 1.0]),
        steps=st.integers(1, 9),
    ),
    max_size=12,
)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("noise_multiplier", -1e-9),
        ("noise_multiplier", math.nan),
        ("noise_multiplier", math.inf),
        ("sample_rate", 0.0),
        ("sample_rate", -0.1),
        ("sample_rate", 1.0000001),
        ("sample_rate", math.nan),
        ("steps", 0),
        ("steps", -1),
        ("steps", math.nan),
        ("steps", math.inf),
    ],
)
def test_a_value_out_of_range_is_refused(field: str, value: float) -> None:
    with pytest.raises(ValueError, match=rf"^{field} must be .*{field}={value}"):
        Release(**GOOD | {field: value})


@pytest.mark.parametrize(
    ("field", "value"),
    [("noise_multiplier", 0.0), ("noise_multiplier", 1e300), ("sample_rate", 1.0), ("steps", 1)],
)
def test_the_limits_of_each_range_are_accepted(field: str, value: float) -> None:
    assert getattr(Release(**GOOD | {field: value}), field) == value


def test_only_noise_makes_it_private() -> None:
    assert Release(**GOOD).private
    assert Release(**GOOD | {"noise_multiplier": 1e-300}).private
    assert not Release(**GOOD | {"noise_multiplier": 0.0}).private


def test_a_release_is_immutable() -> None:
    release = Release(**GOOD)
    with pytest.raises(dataclasses.FrozenInstanceError):
        release.steps = 1  # type: ignore[misc]


def form(release: Release) -> tuple[ReleaseKind, float, float]:
    return release.kind, release.noise_multiplier, release.sample_rate


@given(releases)
def test_merging_adds_up_the_steps_of_each_form(some: list[Release]) -> None:
    steps: Counter[tuple[ReleaseKind, float, float]] = Counter()
    for release in some:
        steps[form(release)] += release.steps
    merged = merge(some)
    assert {form(release): release.steps for release in merged} == steps
    assert len(merged) == len(steps)
    assert [form(release) for release in merged] == list(dict.fromkeys(map(form, some)))
    assert merge(tuple(merged)) == merged
