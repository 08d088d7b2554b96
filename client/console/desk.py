"""The model, the home model and the data that the console tries, loaded in the background.

They are replaced when files change, as in `sotto-node serve` (`client.serving.service.current`).
Nothing is written, and no recommendation is logged. Libraries that take seconds to import are
imported in the background, too: the ledger's pages are there at once.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from client.console.jobs import Job, Progress
from client.site.site import Site

if TYPE_CHECKING:
    from client.home.home_model import HomeModel
    from client.serving.recommender import Recommender
    from client.serving.service.current import Current, Loaded
    from shared.models.influence import InfluenceCaps

__all__ = ["STRENGTHS", "Blend", "Desk", "Table"]

STRENGTHS = (2048.0, 512.0, 128.0, 32.0, 8.0, 2.0, 0.5)
"""What the prior may be worth on the slider, beside what `adapt` chose."""


@dataclass(frozen=True, slots=True)
class Blend:
    """A position of the slider between the published model and own counts.

    Attributes:
        label: in words.
        strength: of the prior, in counted transitions; None for one of the two alone.
        adapted: whether `sotto-node adapt` chose it.
    """

    label: str
    strength: float | None
    adapted: bool = False


@dataclass(frozen=True, slots=True)
class Table:
    """What lies on the desk: one state of model and data.

    Attributes:
        loaded: model, catalogue and histories.
        blends: positions of the slider, from the published model to own counts.
        start: the position to begin with.
        adapted: whether there is a home model of `sotto-node adapt`.
        recommenders: one each position.
        titles: titles and ids of the catalogue, folded for searching.
    """

    loaded: Loaded
    blends: tuple[Blend, ...]
    start: int
    adapted: bool
    recommenders: tuple[Recommender, ...]
    titles: tuple[str, ...]


class Desk:
    """Loads, and keeps what is loaded current.

    Args:
        site: whose data they are.
        folder: that the coordinator published; None for no model.
    """

    def __init__(self, site: Site, folder: Path | None) -> None:
        self.site, self.folder = site, folder
        self._job: Job[Current] = Job("load", self._load)
        self._lock = threading.Lock()
        self._table: Table | None = None

    @property
    def progress(self) -> Progress[Current]:
        """How far loading has come."""
        return self._job.progress

    @property
    def table(self) -> Table | None:
        """What is loaded now; None until it is."""
        current = self._job.progress.result
        if current is None:
            return None
        with self._lock:
            if self._table is None or self._table.loaded is not current.loaded:
                self._table = _laid_out(current.loaded, self.site)
            return self._table

    def start(self) -> None:
        """Begin to load, unless there is no model or it was begun."""
        if self.folder is not None and self._job.progress.result is None:
            self._job.start()

    def wait(self, seconds: float | None = None) -> None:
        """Wait until loading has ended."""
        self._job.join(seconds)

    def close(self) -> None:
        """End watching."""
        current = self._job.progress.result
        if current is not None:
            current.close()

    def _load(self, say: Callable[[str, float], None]) -> Current:
        from client.serving.service.current import Current  # noqa: PLC0415 with torch
        from client.serving.service.metrics import ServiceMetrics  # noqa: PLC0415

        assert self.folder is not None
        say("reading the model and your data", 0.2)
        current = Current(self.site, self.folder, self.site.open_feedback(), ServiceMetrics())
        say("counting what followed what", 0.8)
        with self._lock:
            self._table = _laid_out(current.loaded, self.site)
        current.watch()
        return current


def _laid_out(loaded: Loaded, site: Site) -> Table:
    recommender, catalogue = loaded.recommender, loaded.recommender.catalogue
    home = recommender.home
    blends = _blends(home)
    return Table(
        loaded=loaded,
        blends=blends,
        start=next((n for n, blend in enumerate(blends) if blend.adapted), 0),
        adapted=home is not None,
        recommenders=_recommenders(loaded, blends, site.data.caps),
        titles=tuple(
            f"{title}\n{item}".casefold()
            for title, item in zip(catalogue.titles, catalogue.item_ids, strict=True)
        ),
    )


def _blends(home: HomeModel | None) -> tuple[Blend, ...]:
    from client.home.home_model import FixedPrior  # noqa: PLC0415 with torch

    own = home is not None and isinstance(home.prior, FixedPrior)
    strength = None if home is None or own else home.strength
    alone = strength == math.inf
    worth = None if alone else strength
    worths = sorted({*STRENGTHS, *([] if worth is None else [worth])}, reverse=True)
    return (
        Blend("the published model alone" + _AS_ADAPTED * alone, None, alone),
        *(
            Blend(
                f"the published model counts as much as {one:g} observed transitions"
                + _AS_ADAPTED * (one == worth),
                one,
                one == worth,
            )
            for one in worths
        ),
        *(
            [Blend("your own data alone, without the published model (as adapted)", None, True)]
            if own
            else []
        ),
    )


_AS_ADAPTED = " (as adapted)"


def _recommenders(
    loaded: Loaded, blends: tuple[Blend, ...], caps: InfluenceCaps
) -> tuple[Recommender, ...]:
    from client.home.adapt import DEFAULT  # noqa: PLC0415 with torch
    from client.home.home_model import TransitionCounts  # noqa: PLC0415

    recommender, home = loaded.recommender, loaded.recommender.home
    if home is None:
        transitions = TransitionCounts.of(
            loaded.histories.of_source, len(recommender.catalogue), DEFAULT[0], caps
        )
    else:
        transitions = home.transitions
    return tuple(
        recommender
        if blend.adapted
        else recommender.with_home(None)
        if blend.strength is None
        else recommender.with_counts(transitions, blend.strength)
        for blend in blends
    )
