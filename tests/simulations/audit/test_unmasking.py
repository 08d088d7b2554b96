"""What an adversary unmasks of one round: all that it can; without a fault, one sum alone."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from shared.secure_aggregation.parameters import Parameters
from simulations.audit.masking_faults import MASKING_FAULTS
from simulations.audit.transcripts import Transcript, transcripts_of
from simulations.audit.unmasking import is_uniform, p_uniform, take_off
from tests.shared.secure_aggregation.federation import Federation, Values

FIVE = Parameters.choose(5, 1, 1)
LENGTH = 400
TARGET, COLLUDING, LOST = 0, 4, 3
HONEST = frozenset({0, 1, 2})
SMALL: list[Values] = [
    np.random.default_rng(index).integers(-(2**40), 2**40, LENGTH) for index in range(5)
]


def heard(*, late: bool, fault: AbstractContextManager[None] | None = None) -> Transcript:
    """A round in which one drops out, whose masked input the coordinator has if it is late."""
    with fault or nullcontext(), transcripts_of() as rounds:
        federation = Federation(FIVE, length=LENGTH)
        federation.vectors = dict(zip(federation.names, SMALL, strict=True))
        lost = federation.names[LOST]
        federation.advertise().share()
        if late:
            partner = federation.partners[lost]
            partner.mask(federation.coordinator.delivery(lost), federation.vectors[lost])
        federation.mask([name for name in federation.names if name != lost]).sign().unmask()
    [transcript] = rounds
    return transcript


def total(members: Collection[int]) -> NDArray[np.int64]:
    return np.sum([SMALL[one] for one in members], axis=0)


@pytest.mark.parametrize("late", [False, True])
def test_without_a_fault_the_sum_of_the_honest_comes_out_and_nothing_less(late: bool) -> None:
    opened = take_off(heard(late=late), [COLLUDING])
    assert opened.smallest_sum(TARGET) == HONEST
    np.testing.assert_array_equal(opened.total(HONEST), total(HONEST))
    # The colluding partner's own vector is known; so it is taken off the sum.
    assert opened.smallest_sum(COLLUDING) == frozenset({COLLUDING})
    np.testing.assert_array_equal(opened.total([COLLUDING]), SMALL[COLLUDING])
    for hidden in ([0], [1], [0, 1], [1, 2], [LOST][: int(late)]):
        assert is_uniform(opened.total(hidden).view(np.uint64)) or not hidden
    # One that is late is still under its own mask, whose seed nobody gave away.
    assert opened.smallest_sum(LOST) is None


def test_a_coordinator_alone_gets_the_sum_of_all_that_stayed() -> None:
    opened = take_off(heard(late=False), [])
    assert opened.smallest_sum(TARGET) == frozenset({*HONEST, COLLUDING})


def test_everybody_else_together_has_the_target_s_own_vector() -> None:
    opened = take_off(heard(late=False), [1, 2, LOST, COLLUDING])
    assert opened.smallest_sum(TARGET) == frozenset({TARGET})
    np.testing.assert_array_equal(opened.total([TARGET]), SMALL[TARGET])


def test_too_many_that_collude_are_too_many() -> None:
    """With a threshold of shares from colluding partners the attack needs no fault."""
    opened = take_off(heard(late=True), [*HONEST, COLLUDING])
    assert opened.smallest_sum(LOST) == frozenset({LOST})
    np.testing.assert_array_equal(opened.total([LOST]), SMALL[LOST])


def test_leaked_shares_give_single_vectors() -> None:
    opened = take_off(heard(late=False, fault=MASKING_FAULTS["shares leaked"]()), [COLLUDING])
    for one in HONEST:
        assert opened.smallest_sum(one) == frozenset({one})
        np.testing.assert_array_equal(opened.total([one]), SMALL[one])


def test_without_masks_an_input_is_not_uniform() -> None:
    sent = heard(late=False, fault=MASKING_FAULTS["no masks"]()).inputs
    np.testing.assert_array_equal(sent[TARGET].view(np.int64), SMALL[TARGET])
    assert p_uniform(sent[TARGET]) < 1e-50


def test_masks_used_twice_leave_the_difference_of_two_vectors() -> None:
    with MASKING_FAULTS["masks used twice"](), transcripts_of() as rounds:
        for factor, more in ((2, 0), (1, 7)):  # another length is another session
            federation = Federation(FIVE, length=LENGTH + more)
            federation.vectors = {
                name: np.append(factor * vector, np.zeros(more, np.int64))
                for name, vector in zip(federation.names, SMALL, strict=True)
            }
            federation.advertise().share().mask()
    sent = [each.inputs[TARGET][:LENGTH] for each in rounds]
    assert is_uniform(sent[0])
    np.testing.assert_array_equal((sent[0] - sent[1]).view(np.int64), SMALL[TARGET])
    assert not is_uniform(sent[0] - sent[1])


@pytest.mark.parametrize(
    "vector",
    [
        np.zeros(LENGTH, np.int64),
        np.full(LENGTH, -1),
        SMALL[0],
        np.arange(LENGTH) * 2**54,
        np.random.default_rng(9).integers(-(2**63), 2**63, LENGTH),
    ],
    ids=["zeros", "ones", "small", "steps", "any"],
)
def test_a_masked_input_is_uniform_whatever_the_vector(vector: Values) -> None:
    p_values = []
    for seed in range(20):
        with transcripts_of() as rounds:
            federation = Federation(FIVE, length=LENGTH, seed=seed)
            federation.vectors["p000"] = vector
            federation.advertise().share().mask(["p000"])
        opened = take_off(rounds[0], [COLLUDING])
        p_values += [p_uniform(rounds[0].inputs[0]), p_uniform(opened.left[0])]
    assert min(p_values) > 1e-4
    # Small p-values are as rare as they should be: the test is no rubber stamp.
    assert np.mean(np.array(p_values) < 0.5) < 0.75


@pytest.mark.parametrize("place", range(0, 64, 8))
def test_any_byte_that_is_not_uniform_is_seen(place: int) -> None:
    words = np.random.default_rng(3).integers(0, 2**64, LENGTH, np.uint64)
    assert is_uniform(words)
    assert not is_uniform(words & ~np.uint64(0xFF << place))


def test_a_round_that_ended_early_gives_nothing() -> None:
    with transcripts_of() as rounds:
        federation = Federation(FIVE, length=LENGTH)
        federation.advertise(["p000"])
    opened = take_off(replace(rounds[0]), [COLLUDING])
    assert opened.smallest_sum(TARGET) is None
