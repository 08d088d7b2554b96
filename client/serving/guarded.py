"""Lists of users whom the wellbeing guard protects: what each is chosen from, and those of a file.

One function decides for both: `client.wellbeing.protection`. A service asks for one list after
the other, each with the user's session (`client.serving.service.guarding`). A list in a file is
shown at another time than it is made, so it is decided on as the first of a session, by the
measures that do not depend on the time (`WellbeingConfig.for_files`).

| a list                                     | is guarded                                          |
|--------------------------------------------|-----------------------------------------------------|
| of a user, in a service or in a file       | where the user is protected                         |
| of a history that a request sends, without | never: it belongs to nobody whose use is known      |
|   a user; of items similar to others       |                                                     |
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from client.serving.named_items import Filters
from client.serving.recommender import Lists, Recommender
from client.site.site import Site
from client.site.wellbeing import Measure
from shared.data.catalogue import Catalogue
from shared.data.histories import Histories

if TYPE_CHECKING:
    from client.wellbeing.protection import Protection

__all__ = ["Pool", "guard_file", "load_file_protection", "pools"]

_CHOOSING = {Measure.DAMPING, Measure.FINITE}
"""Measures that choose among more candidates than the list has."""


@dataclass(frozen=True, slots=True, eq=False)
class Pool:
    """What one protected user's list is chosen from.

    Attributes:
        ids: internal ids of the candidates, int64 [C].
        scores: their probabilities, float32 [C].
        ranks: by score alone, int64 [C]; 0 behind all candidates.
        plain: places of what would be shown, in order, int64 [k].
    """

    ids: NDArray[np.int64]
    scores: NDArray[np.float32]
    ranks: NDArray[np.int64]
    plain: NDArray[np.int64]


def pools(
    protection: Protection,
    recommender: Recommender,
    histories: Histories,
    lists: Lists,
    rows: Sequence[int],
    filters: Filters,
) -> dict[int, Pool]:
    """Return, by row, what the lists of protected users are chosen from.

    Args:
        protection: whose policy holds.
        recommender: ranks.
        histories: of all N users.
        lists: what they would be shown.
        rows: users who are protected.
        filters: which items may be recommended.
    """
    if not rows:
        return {}
    policy = protection.policy
    more: Lists | None = None
    if _CHOOSING & set(policy.measures):
        number = min(len(recommender.catalogue), max(lists.ids.shape[1], policy.candidates))
        more = recommender.rank_many(histories.select(rows), number, filters=filters)
    return {row: _pool(lists, row, more, place) for place, row in enumerate(rows)}


def load_file_protection(site: Site, catalogue: Catalogue) -> Protection | None:
    """Return what decides on lists of a file; None where nobody is protected in one.

    Raises:
        SottoError: as `Protection.load`.
    """
    policy = site.wellbeing.for_files
    if policy is None:
        return None
    # With its model comes torch, and the lists of most sites do without.
    from client.wellbeing.protection import Protection  # noqa: PLC0415

    return Protection.load(replace(site, wellbeing=policy), catalogue)


def guard_file(
    protection: Protection,
    recommender: Recommender,
    histories: Histories,
    lists: Lists,
    filters: Filters,
) -> tuple[Lists, list[str]]:
    """Return lists of a file as they are to be shown, and what was done to each, in plain words.

    Args:
        protection: with a policy for files.
        recommender: ranks.
        histories: of all N users, with their names.
        lists: what they would be shown.
        filters: which items may be recommended.

    Returns:
        The lists, 0 behind the end of a shorter one, and a text for each user, "" for most.
    """
    rows = [row for row, user in enumerate(histories.users) if protection.protects(user)]
    ids, scores = lists.ids.copy(), lists.scores.copy()
    said, now = [""] * len(histories), time.time()
    for row, pool in pools(protection, recommender, histories, lists, rows, filters).items():
        user = histories.users[row]
        shown = protection.decide_first(user, pool.ids, pool.scores, pool.plain, now)
        length = len(shown.ids)
        ids[row], scores[row] = 0, 0
        ids[row, :length], scores[row, :length] = shown.ids, pool.scores[shown.places]
        said[row] = " ".join(action.sentence for action in shown.decision.actions)
    return replace(lists, ids=ids, scores=scores, before=None), said


def _pool(lists: Lists, row: int, more: Lists | None, place: int) -> Pool:
    own, scores = lists.ids[row], lists.scores[row]
    length = int((own > 0).sum())
    own, scores = own[:length], scores[:length]
    ranks = np.arange(1, length + 1) if lists.before is None else lists.before[row][:length]
    if more is None:
        return Pool(own, scores, ranks, np.arange(length))
    found = more.ids[place]
    found = found[found > 0]
    number = {item: at for at, item in enumerate(found.tolist())}
    others = np.array([item not in number for item in own.tolist()], np.bool_)
    at = iter(range(len(found), len(found) + length))
    plain = [
        next(at) if other else number[item]
        for item, other in zip(own.tolist(), others, strict=True)
    ]
    return Pool(
        np.concatenate([found, own[others]]),
        np.concatenate([more.scores[place][: len(found)], scores[others]]),
        np.concatenate([np.arange(1, len(found) + 1), ranks[others]]),
        np.array(plain, np.int64),
    )
