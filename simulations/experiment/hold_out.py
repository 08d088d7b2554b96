"""Hold events out, by leave-one-out or by one cut in time for all, and say what either lets leak.

| `lab.split`                 | training events           | events that are asked for             |
|-----------------------------|---------------------------|---------------------------------------|
| test                        | all but a user's last two | each user's last                      |
| validation                  | the same                  | each user's second to last            |
| temporal                    | before the first cut      | each user's first from the second cut |
| temporal-validation         | the same                  | each user's first between the cuts    |

A temporal split refuses interactions without times: `position` orders the events of one user, not
those of several. Of public interactions, it leaves those before the first cut.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from server.warm_start.public import PUBLIC
from shared.data.histories import Histories
from shared.data.splits import (
    HeldOut,
    TimeCuts,
    later_training_share,
    leave_one_out,
    split_by_time,
)
from shared.errors import ConfigError, DataError
from simulations.datasets.load import Dataset
from simulations.experiment.config import LabConfig, Split
from simulations.experiment.result_json import TimeCut, Timing

__all__ = [
    "check_public_folder",
    "describe_timing",
    "hold_out",
    "public_before",
    "time_cuts",
    "timing",
]

FEW_USERS = 100
"""With fewer test users, a figure says little."""
_DEFAULT = LabConfig()


def time_cuts(lab: LabConfig, dataset: Dataset) -> TimeCuts | None:
    """Return the cuts that the settings ask for; None for leave-one-out.

    Raises:
        ConfigError: the shares leave nothing to train on, or belong to another split.
        DataError: the interactions have no times.
    """
    shares = {"validation_share": lab.validation_share, "test_share": lab.test_share}
    if not lab.split.temporal:
        for name, share in shares.items():
            if share != getattr(_DEFAULT, name):
                raise ConfigError(
                    f"lab.{name} = {share}, but lab.split = '{lab.split}' is leave-one-out, which "
                    "has no shares: leave it out, or set lab.split to temporal."
                )
        return None
    if sum(shares.values()) >= 1:
        raise ConfigError(
            f"lab.validation_share + lab.test_share = {sum(shares.values()):g}: nothing is left "
            "to train on. Choose shares whose sum is below 1, such as .1 and .1."
        )
    if dataset.histories.times is None:
        raise DataError(
            "these interactions have no times: a position orders the events of one user, not those "
            "of several",
            file=lab.data or dataset.name,
            field="lab.split",
            value=str(lab.split),
            remedy="Export a column of times (--set lab.time=... names it), or choose "
            "leave-one-out: --set lab.split=test.",
        )
    return TimeCuts.by_shares(
        dataset.histories.times, validation=lab.validation_share, test=lab.test_share
    )


def hold_out(histories: Histories, cuts: TimeCuts | None) -> HeldOut:
    """Hold events out: by time where there are cuts, else each user's last two."""
    return leave_one_out(histories) if cuts is None else split_by_time(histories, cuts)


def public_before(public: Histories, cuts: TimeCuts | None, folder: str) -> Histories:
    """Return the public interactions that may be known: all, or those before the first cut.

    Raises:
        ConfigError: there is a cut, and they have no times or none is before it.
    """
    if cuts is None:
        return public
    remedy = "Leave lab.public out, bring other interactions, or choose lab.split = 'test'."
    if public.times is None:
        raise ConfigError(
            f"lab.public = '{folder}' has no times, so nothing says which of its events are before "
            f"the cut that lab.split asks for. {remedy}"
        )
    earlier = public.first(public.count_before(cuts.validation_from))
    earlier = earlier.select(np.flatnonzero(earlier.lengths >= 2))
    if not len(earlier):
        raise ConfigError(
            f"lab.public = '{folder}': no user has two events before the cut at "
            f"{_moment(cuts.validation_from)}. {remedy}"
        )
    return earlier


def check_public_folder(folder: str, cuts: TimeCuts | None) -> None:
    """Refuse a catalogue with public interactions, which are stored without times, if time counts.

    Raises:
        ConfigError: see above.
    """
    if cuts is not None and folder and (Path(folder) / PUBLIC).is_file():
        raise ConfigError(
            f"lab.catalogue = '{folder}' was made of public interactions, whose times it does not "
            "keep, so it may know events after the cut. Give these interactions as lab.public, or "
            "choose lab.split = 'test'."
        )


# --- what either split lets leak -----------------------------------------------------------------


def timing(
    histories: Histories, split: HeldOut, asked: HeldOut, cuts: TimeCuts | None, which: Split
) -> Timing:
    """Return how the asked-for events lie in time, for result.json.

    Args:
        histories: all events.
        split: its training events are those of the run.
        asked: the same split, whose test events are those that are asked for.
        cuts: in time; None for leave-one-out.
        which: `lab.split`.
    """
    trained = np.zeros(histories.items.max(initial=0) + 1, np.bool_)
    trained[split.train.items] = True
    later = later_training_share(asked)
    unseen = int((~trained[asked.test_targets]).sum())
    if cuts is None or histories.times is None:
        return Timing(later_training_share=later, unseen_targets=unseen)
    start = cuts.validation_from if which.validation else cuts.test_from
    window = histories.times >= start
    if which.validation:
        window &= histories.times < cuts.test_from
    in_window, before = histories.keep(window).lengths, histories.count_before(start)
    evaluated = (in_window > 0) & (before > 0)
    chosen = np.unique(histories.items[window])
    return Timing(
        later_training_share=later,
        unseen_targets=unseen,
        cut=TimeCut(
            validation_from=_moment(cuts.validation_from),
            test_from=_moment(cuts.test_from),
            new_users=int(((in_window > 0) & (before == 0)).sum()),
            untrained_users=int((evaluated & (split.train.lengths == 0)).sum()),
            new_items=int((~trained[chosen]).sum()),
        ),
    )


def describe_timing(found: Timing, users: int) -> list[str]:
    """Return sentences, without a full stop, on what a split does with time.

    Args:
        found: of the run.
        users: number of test users.
    """
    texts = []
    if (cut := found.cut) is not None:
        texts += [
            f"one cut in time for all: training before {cut.validation_from}, validation before "
            f"{cut.test_from}, test from then on",
            f"{cut.new_users:,} users are new after the cut and are not evaluated; "
            f"{cut.untrained_users:,} of the evaluated {users:,} have no training event; "
            f"{cut.new_items:,} items of the window have none",
        ]
    if found.later_training_share is None:
        texts.append(
            "the data have no times: how many training events are later than a test event is not "
            "known"
        )
    else:
        texts.append(
            f"{found.later_training_share:.1%} of the training events are later than a user's test "
            "event, on average over the users"
        )
    if 0 < users < FEW_USERS:
        texts.append(f"only {users:,} users are evaluated: one of them is {1 / users:.1%} of HR")
    texts.append(
        f"{found.unseen_targets:,} of {users:,} test events are of items without a training event: "
        "they count, and are a miss for every model that only counts"
    )
    return texts


def _moment(microseconds: int) -> str:
    """Return a time as ISO 8601 text in UTC.

    >>> _moment(1_500_000), _moment(0)
    ('1970-01-01T00:00:01.500000Z', '1970-01-01T00:00:00Z')
    """
    unit = "us" if microseconds % 10**6 else "s"
    return f"{np.datetime64(microseconds, 'us').astype(f'datetime64[{unit}]')}Z"
