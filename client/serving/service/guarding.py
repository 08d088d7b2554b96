"""The wellbeing guard between ranking and answer, with the users' sessions.

Lists of users whom `client.wellbeing.protection` protects are decided on one after the other, each
with the session as the list before it has left it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from client.data.feedback import FeedbackEvent, FeedbackStore
from client.serving.guarded import Pool
from client.serving.recommender import Lists
from client.serving.service import recommender_pb2 as pb
from client.wellbeing.sessions import Sessions

if TYPE_CHECKING:
    from client.wellbeing.guard import Session
    from client.wellbeing.protection import Protection, Shown

__all__ = ["GuardedList", "ListGuard", "plain_list"]

_REPLAYED = 24 * 3600
"""Seconds of logged lists that are read when the service starts: no session is longer."""


@dataclass(frozen=True, slots=True, eq=False)
class GuardedList:
    """A list as it is shown.

    Attributes:
        ids: internal ids, int64 [n].
        scores: float32 [n].
        ranks: by score alone, int64 [n]; None where the list is in the order of the scores.
        message: for the response; None where the guard did nothing.
        log: for the partner's log; "" where the guard does not protect the user.
    """

    ids: NDArray[np.int64]
    scores: NDArray[np.float32]
    ranks: NDArray[np.int64] | None
    message: pb.Wellbeing | None = None
    log: str = ""


class ListGuard:
    """Decides on lists, and keeps the sessions.

    Args:
        gap_seconds: a session ends after so long without use.
    """

    def __init__(self, gap_seconds: float) -> None:
        self._sessions = Sessions(gap_seconds)

    def replay(self, store: FeedbackStore, protects: Callable[[str], bool]) -> None:
        """Count the lists of the last day that protected users were shown before a restart.

        Raises:
            SiteError: the store cannot be read.
        """
        since = int((time.time() - _REPLAYED) * 1e6)
        for one in store.exposures(since):
            if protects(one.user):
                self._sessions.replay(one.user, one.time / 1e6, len(one.items))

    def use(self, events: Sequence[FeedbackEvent]) -> None:
        """Let sessions go on with feedback."""
        for event in events:
            self._sessions.touch(event.user, event.time / 1e6)

    def decide(self, protection: Protection, user: str, pool: Pool) -> GuardedList:
        """Decide on a list of a user who is protected.

        Args:
            protection: protects this user.
            user: in canonical form.
            pool: what it is chosen from.
        """
        now = time.time()

        def use(session: Session) -> tuple[Session, Shown]:
            found = protection.decide(user, pool.ids, pool.scores, pool.plain, session, now)
            return found.decision.session, found

        shown = self._sessions.update(user, now, use)
        actions = shown.decision.actions
        message = pb.Wellbeing(pause_seconds=shown.decision.pause_seconds)
        for action in actions:
            message.measures.add(name=action.measure, sentence=action.sentence)
        return GuardedList(
            shown.ids,
            pool.scores[shown.places],
            pool.ranks[shown.places],
            message if actions else None,
            shown.log,
        )


def plain_list(lists: Lists, row: int) -> GuardedList:
    """Return the list of a user whom the guard does not protect."""
    length = int((lists.ids[row] > 0).sum())
    ranks = None if lists.before is None else lists.before[row][:length]
    return GuardedList(lists.ids[row][:length], lists.scores[row][:length], ranks)
