"""Events held out of histories for validation and test: leave-one-out, and by time.

| split         | training events       | test users and their targets                            |
|---------------|-----------------------|---------------------------------------------------------|
| leave-one-out | all but the last two  | each user of three events: the last                     |
| by time       | before the first cut  | each user with events on both sides of the second cut:  |
|               |                       |   the first event at or after it                        |

The two cuts are the same for all users. Validation targets are the events before the test targets
in leave-one-out, and the first events between the cuts by time. Leave-one-out trains on events that
are later than other users' test events (Ji, Sun, Zhang & Li, "A Critical Study on Data Leakage in
Recommender System Offline Evaluation", TOIS 41(3), 2023): `later_training_share` says how many.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from shared.data.histories import Histories

__all__ = ["HeldOut", "TimeCuts", "later_training_share", "leave_one_out", "split_by_time"]

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class HeldOut:
    """Training events, and the events held out for validation and test.

    Times are microseconds since 1970; None where the histories have none.

    Attributes:
        train: every user's training events; N users, in the order of the histories.
        validation_inputs: the events before the validation item; one history a validation user.
        validation_targets: int64, each validation user's item.
        test_inputs: the events before the test item, one history for each of M test users. They
            may end with events that are not in `train`.
        test_targets: int64 [M], each test user's item.
        validation_times: int64, when each validation item was chosen.
        test_times: int64 [M], when each test item was chosen.
    """

    train: Histories
    validation_inputs: Histories
    validation_targets: Ints
    test_inputs: Histories
    test_targets: Ints
    validation_times: Ints | None = None
    test_times: Ints | None = None

    def on_validation(self) -> HeldOut:
        """Return the split with the validation items as test items.

        Use it to choose parameters: the real test items must not influence any choice.
        """
        return replace(
            self,
            test_inputs=self.validation_inputs,
            test_targets=self.validation_targets,
            test_times=self.validation_times,
        )


def leave_one_out(histories: Histories) -> HeldOut:
    """Hold out each user's last event for the test and the one before it for validation.

    A user with fewer than 3 events keeps all of them in `train` and has no held-out item.
    """
    has_targets = histories.lengths >= 3
    counts = histories.lengths - 2 * has_targets
    users = np.flatnonzero(has_targets)
    validation = _cases(histories, users, counts)
    test = _cases(histories, users, counts + 1)
    return HeldOut(histories.first(counts), *validation[:2], *test[:2], validation[2], test[2])


@dataclass(frozen=True, slots=True, kw_only=True)
class TimeCuts:
    """Two moments that part all events into training, validation and test.

    Attributes:
        validation_from: first moment of the validation window, in microseconds since 1970.
        test_from: first moment of the test window; >= `validation_from`.
    """

    validation_from: int
    test_from: int

    @classmethod
    def by_shares(cls, times: Ints, *, validation: float, test: float) -> TimeCuts:
        """Put the last events of all in the windows.

        Events of one moment stay together, in the later window.

        Args:
            times: of all events, at least one; microseconds since 1970.
            validation: share of the events in the validation window, > 0.
            test: share of the events in the test window, > 0; with `validation` below 1.

        Example:
            >>> TimeCuts.by_shares(np.arange(20), validation=0.1, test=0.2)
            TimeCuts(validation_from=14, test_from=16)
        """
        ordered = np.sort(times)

        def start_of_last(share: float) -> int:
            return int(ordered[-max(1, round(share * len(ordered)))])

        return cls(validation_from=start_of_last(validation + test), test_from=start_of_last(test))


def split_by_time(histories: Histories, cuts: TimeCuts) -> HeldOut:
    """Hold out all events from `cuts.validation_from` on; a target is a user's first in a window.

    A user without an event before a window is not asked for the window's first event.

    Raises:
        ValueError: the histories have no times.
    """
    train, before_test = (histories.count_before(t) for t in (cuts.validation_from, cuts.test_from))
    validation = _cases(histories, np.flatnonzero((train > 0) & (before_test > train)), train)
    has_test = (before_test > 0) & (histories.lengths > before_test)
    test = _cases(histories, np.flatnonzero(has_test), before_test)
    return HeldOut(histories.first(train), *validation[:2], *test[:2], validation[2], test[2])


def later_training_share(split: HeldOut) -> float | None:
    """Return the mean over the test users of the share of all training events that are later.

    None where there are no times, no test users or no training events.

    Example:
        >>> histories = Histories.from_lists([[1, 2, 3]] * 2, times=[[1, 2, 3], [4, 5, 6]])
        >>> later_training_share(leave_one_out(histories))
        0.25
    """
    times, asked = split.train.times, split.test_times
    if times is None or asked is None or not len(times) or not len(asked):
        return None
    return float(1 - np.searchsorted(np.sort(times), asked, side="right").mean() / len(times))


def _cases(histories: Histories, users: Ints, counts: Ints) -> tuple[Histories, Ints, Ints | None]:
    """Return some users' first events, the item that follows each user's, and its time.

    Args:
        histories: of all N users.
        users: row numbers, [M].
        counts: how many events of each user come before the item, [N].
    """
    places = histories.offsets[:-1][users] + counts[users]
    times = None if histories.times is None else histories.times[places]
    return histories.select(users).first(counts[users]), histories.items[places], times
