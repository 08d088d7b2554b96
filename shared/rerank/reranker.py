"""Choose lists from the candidates of users' scores, by the settings.

Items are chosen one by one, each time the one that the objective gains most by; where a share of
the places is for rare items, of these alone once no more places are left than they still need.
No objective looks at the order of a list, so what was chosen is shown in the order of the scores.

| case                                          | what happens                                     |
|-----------------------------------------------|--------------------------------------------------|
| strength 0, or no method                      | the order of the scores                          |
| gains are equal, up to 1e-9                   | the candidate of the higher score; then that of  |
|                                               |   the catalogue's order                          |
| fewer candidates than k                       | a shorter list                                   |
| fewer rare candidates than their places       | all of them, and others                          |
| a history is empty, or has no group           | `calibrated` keeps the order of the scores       |
| no item has what the method looks at (genres, | refused                                          |
|   features)                                   |                                                  |
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from shared.data.catalogue import Catalogue
from shared.data.histories import Histories
from shared.errors import ConfigError
from shared.evaluation.calibration import genre_groups, history_shares, popularity_groups
from shared.evaluation.diversity import unit_vectors
from shared.evaluation.ranking import Scorer
from shared.rerank.calibrated import CalibratedGain
from shared.rerank.diverse import DiverseGain
from shared.rerank.minimum_exposure import choose_protected, places_for, rare_items
from shared.rerank.settings import By, Method, RerankConfig

__all__ = ["ItemTraits", "Reranker", "check_reranking"]

_ROWS = 32
"""Users whose lists are chosen at once: what is looked up of their candidates fits the caches."""
_DIGITS = 9

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ItemTraits:
    """What is public of V items.

    Attributes:
        genres: of each.
        popularity: any number that grows with it, [V].
        features: [V, F]; None where there are none.
    """

    genres: Sequence[tuple[str, ...]]
    popularity: Floats
    features: NDArray[np.float32] | None = None

    @classmethod
    def of(cls, catalogue: Catalogue, federated: Scorer) -> ItemTraits:
        """Return what a catalogue and a model say of items, at no ε.

        Popularity is the model's probability of each item before any event, which it learned from
        noised sums.

        Args:
            catalogue: the items.
            federated: the federated model's logits.
        """
        with torch.inference_mode():
            before = federated(torch.zeros(1, 1, dtype=torch.int64))[0]
        features = catalogue.features
        return cls(
            genres=catalogue.genres,
            popularity=before.double().softmax(0).cpu().numpy(),
            features=None if features is None else features.numpy(),
        )


class _Gain(Protocol):
    def __call__(self) -> Floats: ...

    def add(self, places: Ints) -> None: ...


class Reranker:
    """Chooses lists; a `shared.evaluation.reordering.Reorder`. Several threads may use one.

    Args:
        config: the settings.
        items: their public properties.

    Raises:
        ConfigError: the items do not have what the method looks at.
    """

    def __init__(self, config: RerankConfig, items: ItemTraits) -> None:
        self.config, self.items, self.candidates = config, items, config.candidates
        self.protected: NDArray[np.bool_] | None = None
        self._table: NDArray[np.floating] | None = None
        if not config.changes:
            return
        if config.method is Method.EXPOSURE or config.rare_places:
            self.protected = rare_items(items.popularity, config.rare)
        if config.method is Method.EXPOSURE:
            return
        if config.method is Method.CALIBRATED:
            self._table = _with_padding(_groups(config, items))
        else:
            self._table = _with_padding(_vectors(config, items))

    def __call__(
        self, ids: Ints, scores: NDArray[np.floating], histories: Histories, k: int, /
    ) -> Ints:
        """Choose k candidates of each user, best first; see `Reorder`."""
        places = np.empty((len(ids), k), np.int64)
        for start in range(0, len(ids), _ROWS):
            some = slice(start, start + _ROWS)
            part = histories
            if len(ids) > _ROWS:
                part = histories.select(np.arange(start, min(start + _ROWS, len(ids))))
            places[some] = self._choose(ids[some], scores[some], part, k)
        return places

    def _choose(
        self, ids: Ints, scores: NDArray[np.floating], histories: Histories, k: int
    ) -> Ints:
        present, config = ids > 0, self.config
        rare, least = present, np.zeros(len(ids), np.int64)
        if self.protected is not None:
            share = config.weight if config.method is Method.EXPOSURE else config.rare_places
            rare, least = present & self.protected[ids - 1], places_for(histories, share, k)
        if self._table is None:
            return choose_protected(present, rare, least, k)
        relevance = np.where(present, scores, -np.inf).astype(np.float64)
        best = relevance.max(1, keepdims=True, initial=np.finfo(np.float64).min)
        relevance = np.where(present, (relevance - best).clip(min=-1e6), -np.inf)
        return _greedy(self._gain(relevance, ids, histories, k), present, k, rare, least)

    def _gain(self, relevance: Floats, ids: Ints, histories: Histories, k: int) -> _Gain:
        assert self._table is not None
        table, weight = self._table, self.config.weight
        if self.config.method is Method.CALIBRATED:
            groups: Floats = table.astype(np.float64, copy=False)
            target = history_shares(histories, groups[1:])
            return CalibratedGain(relevance, groups[ids], target, weight)
        vectors: NDArray[np.float32] = table.astype(np.float32, copy=False)
        return DiverseGain(relevance, vectors[ids], weight, min(k, ids.shape[1]))


def check_reranking(config: RerankConfig, catalogue: Catalogue) -> None:
    """Refuse settings that do not fit a catalogue, before there is a model.

    Raises:
        ConfigError: the items do not have what the method looks at.
    """
    features = catalogue.features
    Reranker(
        config,
        ItemTraits(
            genres=catalogue.genres,
            popularity=np.zeros(len(catalogue)),
            features=None if features is None else features.numpy(),
        ),
    )


def _greedy(
    gain: _Gain, present: NDArray[np.bool_], k: int, rare: NDArray[np.bool_], least: Ints
) -> Ints:
    """Choose the candidate of the highest gain k times, so many of them rare, where there are.

    Args:
        gain: of each candidate, [B, C].
        present: whether there is a candidate, [B, C].
        k: length of a list.
        rare: which candidates are rare, [B, C].
        least: how many of them are chosen at least, [B].

    Returns:
        Places [B, k], -1 where none is left.
    """
    left, rows = present.copy(), np.arange(len(present))
    lengths, due = present.sum(1).clip(max=k), np.minimum(least, rare.sum(1))
    places = np.full((len(present), k), -1, np.int64)
    for number in range(min(k, present.shape[1])):
        allowed = left & (rare | (due < lengths - number)[:, None]) if due.any() else left
        values = np.where(allowed, np.round(gain(), _DIGITS), -np.inf)
        best = values.argmax(1)
        some = left[rows, best]
        if not some.any():
            break
        places[some, number] = best[some]
        left[rows, best] = False
        due -= some & rare[rows, best] & (due > 0)
        if number + 1 < k:
            gain.add(best)
    last = present.shape[1]
    ordered: Ints = np.sort(np.where(places < 0, last, places), axis=1)
    return np.where(ordered == last, -1, ordered)


def _groups(config: RerankConfig, items: ItemTraits) -> Floats:
    if config.by is By.POPULARITY:
        return popularity_groups(items.popularity)
    groups = genre_groups(items.genres)
    if not groups.shape[1]:
        other = By.POPULARITY if config.method is Method.CALIBRATED else By.FEATURES
        raise ConfigError(
            f"rerank.method = '{config.method}' by genres, but no item of the catalogue has a "
            f"genre: set rerank.by = '{other}', or choose another method."
        )
    return groups


def _vectors(config: RerankConfig, items: ItemTraits) -> NDArray[np.float32]:
    if config.by is By.GENRES:
        return unit_vectors(_groups(config, items))
    if items.features is None or not items.features.any():
        raise ConfigError(
            "rerank.method = 'diverse' by features, but the catalogue has none: set "
            "rerank.by = 'genres', or choose another method."
        )
    return unit_vectors(items.features)


def _with_padding(table: NDArray[np.floating]) -> NDArray[np.floating]:
    """Put a row of zeros before the first: row i describes the item with internal id i."""
    return np.concatenate([np.zeros((1, table.shape[1]), table.dtype), table])
