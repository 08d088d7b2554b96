"""The guard of one site: whom it protects, and what it decides for each list.

The risk is read here and nowhere else, and it does two things: it says whether a user is protected,
and it goes into `client.wellbeing.guard.decide`, which can only take away. What is handed out are
decisions, and the text that the partner's own log keeps of them.

| a user                                                     | is protected                        |
|------------------------------------------------------------|-------------------------------------|
| who = "nobody"                                             | never; no score is computed         |
| whose request says `wellbeing` true or false               | as it says, at the risk             |
| whose row in the table of users says true or false         | as it says, at the risk             |
| without either                                             | with who = "all", at the risk       |
| who has no event that the source or feedback had when it   | never, until it is read again       |
|   was read last, or is a history that a request sends      |                                     |

No score is computed of a user who opted out, nor, with who = "opted-in", of one who did not opt in.

A model from a published run is calibrated here, on the partner's own users with a label: the run's
rule or column, up to the run's `until`. With fewer than `FEWEST` users of either label, or without
the column, it stays as it came. Nothing of it leaves.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError

from client.site.over_use import examples_in, load_use
from client.site.site import Site
from client.site.wellbeing import WellbeingConfig, Who
from client.wellbeing.engagement import Engagement, estimate_engagement
from client.wellbeing.guard import Candidates, Decision, Session, decide
from client.wellbeing.tables import UserChoice, read_finite_items, read_user_choices
from shared.data.catalogue import Catalogue
from shared.data.histories import Histories
from shared.data.ids import canonical_id
from shared.errors import DataError, SiteError
from shared.over_use_task import task_of

if TYPE_CHECKING:
    from shared.over_use.model import OverUseModel

__all__ = ["FEWEST", "Protection", "RiskModel", "Shown"]

FEWEST = 10
"""Users of either label that a calibration needs."""

_MOST_EVENTS = 100_000
"""Last events of a user that are read."""
_SECONDS = 1e-6
_NOBODY = UserChoice(None)
_PUBLISHED = "model"
"""Folder of the model within that of a published run."""


class RiskModel(Protocol):
    """A model of over-use, as `shared.over_use` has it."""

    def risk(self, times: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
        """Return each user's risk in the coming weeks, [N] in [0, 1].

        Args:
            times: of each user's events, seconds since 1970, ascending.
        """
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Shown:
    """A list that the guard decided on.

    Attributes:
        ids: internal ids, int64 [n].
        places: of them among the candidates, int64 [n].
        decision: what was done.
        log: what the partner's log keeps of it: JSON with risk, measures and the list without them.
    """

    ids: NDArray[np.int64]
    places: NDArray[np.int64]
    decision: Decision
    log: str


class Protection:
    """Who is protected, and how; safe to use from several threads.

    Args:
        policy: with `who` other than "nobody".
        model: of the risk.
        histories: the partner's own, with times.
        catalogue: the items.
        choices: by canonical id, who opted in or out.
        finite: which items have an end, by internal id, bool [V + 1].
    """

    def __init__(
        self,
        policy: WellbeingConfig,
        model: RiskModel,
        histories: Histories,
        catalogue: Catalogue,
        *,
        choices: Mapping[str, UserChoice] | None = None,
        finite: NDArray[np.bool_] | None = None,
    ) -> None:
        self.policy, self._model, self._histories = policy, model, histories
        self._choices = dict(choices or {})
        items = len(catalogue)
        self._finite = np.zeros(items + 1, np.bool_) if finite is None else finite
        gap = policy.session_gap_minutes
        self._engagement: Engagement = estimate_engagement(histories, items, gap)
        self._names = catalogue.item_ids
        self._rows = {user: row for row, user in enumerate(histories.users)}
        rows = [row for user, row in self._rows.items() if self._may_be_scored(user, None)]
        self._risks = dict[int, float]()
        self._score(rows)

    @classmethod
    def load(cls, site: Site, catalogue: Catalogue) -> Protection | None:
        """Read all that the site's [wellbeing] names; None where nobody is to be protected.

        Raises:
            SiteError: the source or the store of feedback cannot be read.
            DataError: the model, a table or the source is not what it should be, or has no times.
        """
        policy, folder = site.wellbeing, Path(site.folder)
        if not policy.on:
            return None
        model, own = _load_model(folder / policy.model), site.read_feedback()
        choices = read_user_choices(folder / policy.users, site.data.user) if policy.users else None
        finite = (
            read_finite_items(folder / policy.items, site.data.item, catalogue)
            if policy.items
            else None
        )
        histories = load_use(site, catalogue, _MOST_EVENTS, feedback=own)
        _calibrate(model, histories, site)
        return cls(policy, model, histories, catalogue, choices=choices, finite=finite)

    def protects(self, user: str, wish: bool | None = None) -> bool:
        """Return whether a user's lists are decided on.

        Args:
            user: in any form.
            wish: what the user's request says of it; None for nothing.
        """
        name = canonical_id(user)
        row = self._rows.get(name)
        if row is None or not self._may_be_scored(name, wish):
            return False
        self._score([row])
        return self._risks[row] >= self.policy.least

    def decide(
        self,
        user: str,
        ids: NDArray[np.int64],
        scores: NDArray[np.floating],
        plain: NDArray[np.int64],
        session: Session,
        now: float,
    ) -> Shown:
        """Decide on a list of a user who is protected.

        Args:
            user: in any form.
            ids: internal ids of the candidates, [C].
            scores: their probabilities, [C].
            plain: places of those that would be shown, in order.
            session: the user's, so far.
            now: seconds since 1970.
        """
        name = canonical_id(user)
        risk = self._risks[self._rows[name]]
        candidates = Candidates(
            scores.astype(np.float64),
            self._engagement.values[ids],
            self._finite[ids],
            plain,
            self._engagement.mean,
        )
        zone = self._choices.get(name, _NOBODY).zone
        decision = decide(candidates, risk, session, self.policy, now, zone)
        log = {
            "risk": risk,
            "measures": {str(one.measure): one.sentence for one in decision.actions},
            "pause_seconds": decision.pause_seconds,
            "otherwise": [self._names[number - 1] for number in ids[plain].tolist()],
        }
        text = json.dumps(log, ensure_ascii=False)
        return Shown(ids[decision.places], decision.places, decision, text)

    def decide_first(
        self,
        user: str,
        ids: NDArray[np.int64],
        scores: NDArray[np.floating],
        plain: NDArray[np.int64],
        now: float,
    ) -> Shown:
        """Decide as `decide`, on the first list of a session."""
        return self.decide(user, ids, scores, plain, Session(last=now, since=now), now)

    def _may_be_scored(self, user: str, wish: bool | None) -> bool:
        if wish is not None:
            return wish
        own = self._choices.get(user, _NOBODY).wellbeing
        return self.policy.who is Who.ALL if own is None else own

    def _score(self, rows: Sequence[int]) -> None:
        """Compute the risk of users who have none yet, in hundredths: a score knows no more."""
        rows = [row for row in rows if row not in self._risks]
        if not rows:
            return
        times, offsets = self._histories.times, self._histories.offsets
        assert times is not None
        seconds = [times[offsets[row] : offsets[row + 1]].astype(np.float64) for row in rows]
        risks = self._model.risk([own * _SECONDS for own in seconds]).round(2).clip(0, 1)
        self._risks |= dict(zip(rows, risks.tolist(), strict=True))


def _load_model(folder: Path) -> OverUseModel:
    """Load a model of over-use, or that of a published run's folder."""
    from shared.over_use.model import OverUseModel  # noqa: PLC0415 with torch, for this alone

    try:
        published = folder / _PUBLISHED
        return OverUseModel.from_pretrained(published if published.is_dir() else folder)
    except (OSError, ValueError, SafetensorError) as error:
        raise DataError(
            f"the model of over-use cannot be read ({error})",
            file=folder,
            remedy="Name the folder of a published run, or the one that holds config.json and "
            "model.safetensors.",
        ) from error


def _calibrate(model: OverUseModel, histories: Histories, site: Site) -> None:
    """Fit slope and offset of a published model on the partner's own users; see the top."""
    config = model.config
    if not config.task or (config.slope, config.offset) != (1.0, 0.0):
        return
    try:
        examples = examples_in(histories, site, task_of(config.task), config.rule.sessions)
    except (DataError, SiteError):  # the column is not there
        return
    over = int(examples.labels.sum())
    if min(over, len(examples) - over) < FEWEST:
        return
    from shared.over_use.calibration import fit_platt  # noqa: PLC0415 with scipy

    slope, offset = fit_platt(model.logits(examples.sessions), examples.labels)
    model.config = replace(config, slope=slope, offset=offset)
