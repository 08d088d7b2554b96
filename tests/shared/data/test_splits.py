"""What is held out, against loops over single users, and what a split by time does not let leak."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.data.histories import Histories
from shared.data.splits import TimeCuts, later_training_share, leave_one_out, split_by_time

few = settings(max_examples=50, deadline=None)
lists = st.lists(st.lists(st.integers(1, 9), max_size=8), min_size=1, max_size=6)
timed = st.lists(
    st.lists(st.tuples(st.integers(-3, 12), st.integers(1, 9)), max_size=8), min_size=1, max_size=6
)
Timed = list[list[tuple[int, int]]]


@few
@given(lists)
def test_leave_one_out_holds_out_the_last_two(histories: list[list[int]]) -> None:
    split = leave_one_out(Histories.from_lists(histories))
    asked = [h for h in histories if len(h) >= 3]
    assert [h.tolist() for h in split.train] == [h[:-2] if len(h) >= 3 else h for h in histories]
    assert [h.tolist() for h in split.validation_inputs] == [h[:-2] for h in asked]
    assert split.validation_targets.tolist() == [h[-2] for h in asked]
    assert [h.tolist() for h in split.test_inputs] == [h[:-1] for h in asked]
    assert split.test_targets.tolist() == [h[-1] for h in asked]
    names = tuple(str(row) for row, h in enumerate(histories) if len(h) >= 3)
    assert split.validation_inputs.users == split.test_inputs.users == names


def histories_of(users: Timed) -> Histories:
    """Histories of (time, item) pairs, sorted by time."""
    users = [sorted(user, key=lambda event: event[0]) for user in users]
    return Histories.from_lists(
        [[item for _, item in user] for user in users],
        times=[[time for time, _ in user] for user in users],
    )


@few
@given(timed, st.integers(-3, 12), st.integers(0, 6))
def test_a_split_by_time_asks_for_each_users_first_event_in_a_window(
    users: Timed, start: int, length: int
) -> None:
    cuts = TimeCuts(validation_from=start, test_from=start + length)
    split = split_by_time(histories_of(users), cuts)
    ordered = [sorted(user, key=lambda event: event[0]) for user in users]
    assert [h.tolist() for h in split.train] == [[i for t, i in u if t < start] for u in ordered]
    for inputs, targets, times, (low, high) in (
        (
            split.validation_inputs,
            split.validation_targets,
            split.validation_times,
            (start, start + length),
        ),
        (split.test_inputs, split.test_targets, split.test_times, (start + length, 99)),
    ):
        asked = []
        for row, user in enumerate(ordered):
            before = [item for time, item in user if time < low]
            window = [(time, item) for time, item in user if low <= time < high]
            if before and window:
                asked.append((str(row), before, *window[0]))
        assert times is not None
        assert asked == [
            (name, items.tolist(), time, target)
            for name, items, time, target in zip(inputs.users, inputs, times, targets, strict=True)
        ]
    assert later_training_share(split) in (0, None)
    assert later_training_share(split.on_validation()) in (0, None)


@few
@given(timed)
def test_the_share_of_later_training_events_is_a_mean_over_users(users: Timed) -> None:
    split = leave_one_out(histories_of(users))
    ordered = [sorted(user, key=lambda event: event[0]) for user in users]
    train = [t for u in ordered for t, _ in (u[:-2] if len(u) >= 3 else u)]
    asked = [u[-1][0] for u in ordered if len(u) >= 3]
    shares = [sum(time > moment for time in train) / len(train) for moment in asked]
    expected = pytest.approx(sum(shares) / len(shares)) if shares else None
    assert later_training_share(split) == expected


def test_without_times_nothing_is_said_and_nothing_is_cut() -> None:
    histories = Histories.from_lists([[1, 2, 3]])
    assert later_training_share(leave_one_out(histories)) is None
    with pytest.raises(ValueError, match="no times"):
        split_by_time(histories, TimeCuts(validation_from=0, test_from=1))


@few
@given(
    st.lists(st.integers(0, 20), min_size=1, max_size=60),
    st.floats(0.01, 0.49),
    st.floats(0.01, 0.5),
)
def test_windows_hold_their_share_and_all_events_of_one_moment(
    times: list[int], validation: float, test: float
) -> None:
    array = np.array(times, np.int64)
    cuts = TimeCuts.by_shares(array, validation=validation, test=test)
    assert cuts.validation_from <= cuts.test_from
    for cut, share in ((cuts.test_from, test), (cuts.validation_from, validation + test)):
        least = max(1, round(share * len(times)))
        # With one moment less, the window would be too small.
        assert (array >= cut).sum() >= least > (array > cut).sum()
