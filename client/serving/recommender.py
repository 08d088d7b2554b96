"""Recommendations from the published model, blended with the home model where there is one.

A score is a probability: how likely the item is the user's next one, among all items of the
catalogue. Without a home model it is the softmax of the federated model's scores, and with one the
blend of `client.home.home_model`, divided by its sum over the items.

| the history                         | what is scored                                           |
|-------------------------------------|----------------------------------------------------------|
| is empty                            | the model's state before any event: close to popularity  |
| is longer than the model reads      | its last events; all of it is taken for seen             |
| names an item twice                 | both events                                              |
| names an item of no catalogue       | refused, or left out with `skip_unknown`                 |
| items without features              | as the model has them: by offset and own counts          |

A list may be chosen from the first candidates by another order (`shared.rerank`); each item keeps
its score.

Equal scores are in the order of the catalogue. Where filters leave fewer items than were asked for,
the list is shorter.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from client.home.home_model import FixedPrior, HomeModel, SoftmaxPrior, TransitionCounts
from client.home.store import load_home
from client.serving.block_scores import BlockScores, block_scores_of
from client.serving.candidates import ExactScores, Scores, Search, best_items, search_with
from client.serving.explaining import Explainer, ItemAttention
from client.serving.explanation import CHOSE, Explanation
from client.serving.named_items import Filters, Mask, NamedItems
from client.serving.probabilities import MOST_ROWS, Probabilities, batches
from client.serving.published import domains_of_home, load_published, scorer_of
from client.serving.query_words import QueryWords
from client.serving.quick_scores import ModelSearch
from shared.data.catalogue import Catalogue
from shared.data.histories import Histories
from shared.data.ids import canonical_id
from shared.data.queries import declared
from shared.errors import RequestError
from shared.evaluation.ranking import Scorer, top_items
from shared.evaluation.reordering import join_candidates
from shared.rerank.reranker import ItemTraits, Reranker
from shared.rerank.settings import RerankConfig, changed

__all__ = ["Lists", "Recommended", "Recommender", "Rerank"]

_LEAST = float(np.finfo(np.float32).tiny)
_KEPT_RERANKERS = 8


@dataclass(frozen=True, slots=True)
class Recommended:
    """An item at its place in a list.

    Attributes:
        rank: from 1.
        item: public id.
        title: may be empty.
        score: see the top of `client.serving.recommender`; for similar items, see `similar`.
        explanation: why, where it was asked for.
        before: its rank by score alone, where lists are reranked; 0 behind all candidates. None
            where they are not.
    """

    rank: int
    item: str
    title: str
    score: float
    explanation: Explanation | None = None
    before: int | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Lists:
    """Lists of N users, best first; all 0 where a user has fewer than k items left.

    Attributes:
        ids: internal ids, int64 [N, k].
        scores: float32 [N, k].
        before: ranks by score alone, int64 [N, k], 0 behind all candidates; None where lists are
            not reranked.
    """

    ids: npt.NDArray[np.int64]
    scores: npt.NDArray[np.float32]
    before: npt.NDArray[np.int64] | None = None


Rerank = RerankConfig | str | None
"""How lists are chosen: settings, or the name of a method with its own strength."""
_NO_FILTERS = Filters()


class Recommender:
    """Ranks the catalogue for histories. It reads no file and changes nothing once it is made.

    Several threads may use one.

    Args:
        catalogue: the items.
        federated: the federated model's scores.
        window: events that the federated model reads, T >= 1.
        home: the site's own model, whose prior is the federated model, own popularity, or an
            attention model of the own data.
        verb: what users do with items, in the past tense; for explanations.
        search: finds the highest scores of `federated`; None scores the whole catalogue with it.
        attention: how much each of the events that the federated model reads counts for each of K
            items, [B, T], [K] -> [B, K, min(T, window)]; None where it cannot be said.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        federated: Scorer,
        window: int,
        home: HomeModel | None = None,
        *,
        verb: str = CHOSE,
        search: Search | None = None,
        attention: ItemAttention | None = None,
    ) -> None:
        self._search_federated = search_with(federated) if search is None else search
        self.catalogue, self.verb = catalogue, verb
        self._words: QueryWords | None = None
        self._block_scores: BlockScores | None = None
        self._query = ""
        self._federated, self._attention, self._reads = federated, attention, window
        self._take_home(home)
        self._items = NamedItems(catalogue)
        self._rerankers = lru_cache(maxsize=_KEPT_RERANKERS)(self._make_reranker)

    @classmethod
    def load(
        cls,
        folder: Path | str,
        home: Path | str | None = None,
        *,
        device: torch.device | str = "cpu",
        verb: str = CHOSE,
        private: bool = False,
        domains: Sequence[str] = (),
    ) -> Recommender:
        """Load a published folder, and a home model that `sotto-node adapt` wrote.

        Args:
            folder: holds `catalogue/` and `model/`.
            home: the home model's file; None takes the federated model alone.
            device: where scores are computed.
            verb: what users do with items, in the past tense; for explanations.
            private: refuse a home model that is not private, as `home.private` of a site demands.
            domains: of the organisation (`shared.data.domains`), whose items are ranked; none takes
                those of the home model, and without one the whole catalogue.

        Raises:
            ConfigError: the catalogue has no such domain.
            DataError: see `load_published` and `load_home`.
        """
        domains = domains or domains_of_home(home)
        catalogue, model = load_published(Path(folder), device, domains)
        federated = scorer_of(model)
        adapted = (
            None
            if home is None
            else load_home(Path(home), federated, catalogue.fingerprint, private=private)
        )

        def attention(rows: Tensor, items: Tensor, /) -> Tensor:
            return model.item_attention(rows.to(device), items)

        made = cls(
            catalogue,
            federated,
            model.config.max_length,
            adapted,
            verb=verb,
            search=ModelSearch(model) if ModelSearch.fits(model) else None,
            attention=attention,
        )
        made._block_scores = block_scores_of(model, catalogue)
        return made.reading(QueryWords.of(model, catalogue))

    def reading(self, words: QueryWords | None) -> Recommender:
        """Return a recommender of the same model that reads queries; None reads none."""
        other = copy(self)
        other._words = words
        return other

    def for_query(self, text: str, attributes: Mapping[str, str] | None = None) -> Recommender:
        """Return a recommender that ranks for what a user looks for, in words, as well.

        The score of item j is proportional to p(j)^w times the exponential of what the words say of
        it, with p the probability without a query and w the model's weight of the user.

        Args:
            text: the query; one that is empty or blank changes nothing.
            attributes: what the user has declared, by name, as in the partner's table of queries.

        Raises:
            RequestError: the model reads no queries, or this query has no word or is too long.
        """
        if not text.strip():
            return self
        if self._words is None:
            raise RequestError(
                "this model reads no queries: leave the query out, or take one of the kind 'query'."
            )
        evidence, weight = self._words(text, declared(attributes or {}))
        probabilities = Probabilities(self._federated, self.home)

        @torch.no_grad()
        def asked(rows: Tensor, /) -> Tensor:
            raw = probabilities.raw(rows).cpu()
            if probabilities.home is not None:
                raw = (raw / raw.sum(1, keepdim=True)).clamp(min=_LEAST).log()
            return weight * raw + evidence

        other = copy(self)
        other._federated, other._search_federated = asked, search_with(asked)
        other._reads, other._words, other._query = self._window, None, text.strip()
        if self.home is not None:
            other._attention = None
        other._take_home(None)
        return other

    def build_index(self) -> bool:
        """Search an approximate index of the items from now on (`client.serving.item_index`).

        Returns:
            False where exact search stays: the index would not find enough, the model is not on
            the CPU, or the prior is the same for all.

        Raises:
            ConfigError: what it needs is not installed.
        """
        return isinstance(self._search, ModelSearch) and self._search.build_index()

    @property
    def window(self) -> int:
        """How many last events of a history decide the scores."""
        return self._window

    def with_home(self, home: HomeModel | None) -> Recommender:
        """Return a recommender of the same federated model with another home model, or without."""
        other = copy(self)
        other._take_home(home)
        return other

    def _take_home(self, home: HomeModel | None) -> None:
        self.home, self._search, self._window = home, self._search_federated, self._reads
        if home is not None:
            self._window = max(self._reads, home.transitions.memory.events)
            if isinstance(home.prior, FixedPrior):
                self._search = _search_fixed(home.prior)
            elif isinstance(home.prior, SoftmaxPrior):
                self._window = max(self._window, home.prior.window)
                # Others are the federated model's own distribution, which has a faster search.
                if home.prior.window or home.prior.shift is not None:
                    self._search = search_with(home.prior.logits)

    def with_counts(self, transitions: TransitionCounts, strength: float) -> Recommender:
        """Return a recommender whose home model is these counts, with the federated model's prior.

        Args:
            transitions: own counts, of the same catalogue.
            strength: what the prior is worth, in counted transitions; > 0.
        """
        return self.with_home(HomeModel(transitions, SoftmaxPrior(self._federated), strength))

    def recommend(
        self,
        history: Sequence[str],
        k: int = 10,
        *,
        filters: Filters = _NO_FILTERS,
        explain: bool = False,
        skip_unknown: bool = False,
        rerank: Rerank = None,
        user: str = "",
    ) -> list[Recommended]:
        """Return the k items that are most likely next, best first.

        Args:
            history: public ids of what the user chose, oldest first; may be empty.
            k: length of the list, in 1..V.
            filters: which items may be recommended.
            explain: add the reasons to each item, which takes about one more scoring an event.
            skip_unknown: leave out items of the history that the catalogue does not have.
            rerank: another order of what is shown, as "calibrated" or its settings.
            user: whose history it is, for the friends that the home model knows; "" for nobody's.

        Raises:
            UnknownItemError: the history or the filters name an item that is not there.
            RequestError: k is out of range, or a category is not there.
            ConfigError: `rerank` does not fit the catalogue.
        """
        places, numbers = self._items.find(history, "the history", skip_unknown=skip_unknown)
        given = Histories.from_lists([numbers], [canonical_id(user)])
        lists = self.rank_many(given, k, filters=filters, rerank=rerank)
        items = lists.ids[0][lists.ids[0] > 0]
        reasons: Sequence[Explanation | None] = [None] * len(items)
        if explain and len(items):
            reasons = self.explain(numbers, items, places, canonical_id(user))
        before = None if lists.before is None else lists.before[0]
        return self._listed(items, lists.scores[0], reasons, before)

    def recommend_each(
        self,
        histories: Iterable[Sequence[str]],
        k: int = 10,
        *,
        filters: Filters = _NO_FILTERS,
        skip_unknown: bool = False,
        rerank: Rerank = None,
    ) -> Iterator[list[Recommended]]:
        """Yield what `recommend` returns for each history, computed in batches.

        Args:
            histories: public ids of what each user chose, oldest first.
            k: length of a list, in 1..V.
            filters: which items may be recommended.
            skip_unknown: leave out items of a history that the catalogue does not have.
            rerank: another order of what is shown, as "calibrated" or its settings.

        Raises:
            UnknownItemError: a history or the filters name an item that is not there.
            RequestError: k is out of range, or a category is not there.
            ConfigError: `rerank` does not fit the catalogue.
        """
        self.check(k, filters)
        rest = iter(histories)
        while part := list(islice(rest, MOST_ROWS)):
            found = [
                self._items.find(one, "the history", skip_unknown=skip_unknown)[1] for one in part
            ]
            given = Histories.from_lists(found, [""] * len(found))
            lists = self.rank_many(given, k, filters=filters, rerank=rerank)
            for row, ids in enumerate(lists.ids):
                before = None if lists.before is None else lists.before[row]
                yield self._listed(ids[ids > 0], lists.scores[row], [None] * k, before)

    def rank_many(
        self,
        histories: Histories,
        k: int = 10,
        *,
        filters: Filters = _NO_FILTERS,
        rerank: Rerank = None,
    ) -> Lists:
        """Return the k items that are most likely next for each user, best first.

        Memory beyond the result does not depend on the number of users.

        Args:
            histories: internal ids of N users; all events of a user are seen, and its last ones
                are read. Friends of the users that it names count, where the home model has them.
            k: length of a list, in 1..V.
            filters: which items may be recommended.
            rerank: another order of what is shown.

        Raises:
            UnknownItemError: the filters name an item that is not there.
            RequestError: k is out of range, or a category is not there.
            ConfigError: `rerank` does not fit the catalogue.
        """
        hidden, reranker = self.check(k, filters), self.reranker(rerank)
        ids = np.zeros((len(histories), k), np.int64)
        scores = np.zeros((len(histories), k), np.float32)
        before = None if reranker is None else np.zeros((len(histories), k), np.int64)
        for rows in batches(len(histories), len(self.catalogue)):
            part = histories if len(rows) == len(histories) else histories.select(rows)
            seen = part if filters.exclude_seen else None
            if reranker is None or before is None:
                ids[rows], scores[rows] = self._top(part, k, hidden, seen)
            else:
                found = self._reranked(reranker, part, k, hidden, seen)
                ids[rows], scores[rows], before[rows] = found
        return Lists(ids, scores, before)

    def reranker(self, rerank: Rerank) -> Reranker | None:
        """Return what chooses lists; None where those of the highest scores stay.

        Raises:
            ConfigError: there is no such method, or it does not fit the catalogue.
        """
        if isinstance(rerank, str):
            rerank = changed(RerankConfig(), rerank)
        return None if rerank is None or not rerank.changes else self._rerankers(rerank)

    def _make_reranker(self, config: RerankConfig) -> Reranker:
        return Reranker(config, ItemTraits.of(self.catalogue, self._federated))

    def _reranked(
        self,
        reranker: Reranker,
        part: Histories,
        k: int,
        hidden: Mask | None,
        seen: Histories | None,
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32], npt.NDArray[np.int64]]:
        """Return ids, scores and ranks by score alone of lists that a reranker chooses."""
        number = min(len(self.catalogue), max(k, reranker.candidates))
        ids, scores = self._top(part, number, hidden, seen)
        if reranker.protected is not None:
            others = ~reranker.protected if hidden is None else hidden | ~reranker.protected
            more, of_more = self._top(part, k, others, seen)
            ids = join_candidates(ids, more)
            scores = np.concatenate([scores, of_more], 1)
        logs = np.log(scores.astype(np.float64).clip(min=np.finfo(np.float32).tiny))
        places = reranker(ids, logs, part, k)
        at, left_out = places.clip(min=0), places < 0
        chosen = np.where(left_out, 0, np.take_along_axis(ids, at, 1))
        ranks = np.where((places < number) & ~left_out, places + 1, 0)
        values = np.where(left_out, 0, np.take_along_axis(scores, at, 1)).astype(np.float32)
        return chosen, values, ranks

    def similar(
        self, items: Sequence[str], k: int = 10, *, filters: Filters = _NO_FILTERS
    ) -> list[Recommended]:
        """Return items like these, whoever asks, most alike first.

        The score of item j is the mean over the given items x of log p(j | x) - log p(j): by how
        much x as the only event makes j more likely than no event does, by the federated model. So
        popularity has no part in it, nor have a site's own counts.

        Args:
            items: public ids, at least one; they are never in the list.
            k: length of the list, in 1..V.
            filters: which items may be listed; `exclude_seen` has no effect.

        Raises:
            UnknownItemError: an item is not there.
            RequestError: there is no item, k is out of range, or a category is not there.
        """
        hidden = self.check(k, filters)
        _, numbers = self._items.find(items, "the request")
        if not numbers:
            raise RequestError("no item is named: name at least one that others are to be like.")
        given = np.unique(np.array(numbers, np.int64))
        lift = torch.zeros(1, len(self.catalogue), dtype=torch.float64)
        with torch.inference_mode():
            for rows in batches(len(given), len(self.catalogue)):
                after = self._federated(torch.from_numpy(given[rows, None]))
                lift += after.double().log_softmax(1).sum(0, keepdim=True).cpu()
            alone = self._federated(torch.zeros(1, 1, dtype=torch.int64))
            lift = lift / len(given) - alone.double().log_softmax(1).cpu()
        if hidden is not None:
            lift = lift.masked_fill(torch.from_numpy(hidden), -torch.inf)
        ids = top_items(lift, torch.from_numpy(given[None]), k)[0]
        ids = ids[ids > 0]
        return self._listed(ids.numpy(), lift[0, ids - 1].numpy(), [None] * len(ids))

    def explain(
        self,
        history: Sequence[int],
        items: npt.ArrayLike,
        places: Sequence[int] | None = None,
        user: str = "",
    ) -> list[Explanation]:
        """Return why items have their scores after a history.

        Args:
            history: internal ids, oldest first.
            items: internal ids of K items.
            places: each event's position in the history that was given; counted from 0 by default.
            user: whose friends count, in canonical form; "" for nobody's.
        """
        explainer = Explainer(
            catalogue=self.catalogue,
            probabilities=Probabilities(self._federated, self.home),
            window=self._window,
            reads=self._reads,
            attention=self._attention,
            block_scores=self._block_scores,
            verb=self.verb,
            query=self._query,
        )
        return explainer.explain(history, np.asarray(items, np.int64), places, user)

    def check(self, k: int, filters: Filters = _NO_FILTERS) -> Mask | None:
        """Refuse a length or filters that cannot be; return which items the filters leave out.

        Args:
            k: length of a list.
            filters: which items may be recommended; what users have seen is not looked at.

        Returns:
            bool [V], True for an item that is left out; None where there is none.

        Raises:
            UnknownItemError: the filters name an item that is not there.
            RequestError: k is out of range, or a category is not there.
        """
        if not 1 <= k <= len(self.catalogue):
            raise RequestError(
                f"k = {k}: ask for 1 to {len(self.catalogue)} items, as many as the catalogue has."
            )
        return self._items.hidden(filters)

    def _top(
        self, part: Histories, k: int, hidden: Mask | None, seen: Histories | None
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
        longest = max(1, min(self._window, int(part.lengths.max(initial=0))))
        rows = part.padded(np.arange(len(part)), longest)
        ids = np.zeros((len(part), k), np.int64)
        chances = np.zeros((len(part), k), np.float32)
        nothing = np.zeros(0, np.int64)
        for place, (user, history, scores) in enumerate(
            zip(part.users, part, self._search(rows), strict=True)
        ):
            columns, best = best_items(
                scores,
                k,
                mask=hidden,
                seen=nothing if seen is None else history - 1,
                counts=None if self.home is None else self.home.after(history, user),
            )
            ids[place, : len(columns)], chances[place, : len(best)] = columns + 1, best
        return ids, chances

    def _listed(
        self,
        ids: npt.NDArray[np.int64],
        scores: npt.NDArray[np.floating],
        reasons: Sequence[Explanation | None],
        before: npt.NDArray[np.int64] | None = None,
    ) -> list[Recommended]:
        titles, names = self.catalogue.titles, self.catalogue.item_ids
        ranks = [None] * len(ids) if before is None else before.tolist()
        return [
            Recommended(rank, names[item - 1], titles[item - 1], float(score), reason, was)
            for rank, (item, score, reason, was) in enumerate(
                zip(ids.tolist(), scores.tolist(), reasons, ranks, strict=False), start=1
            )
        ]


def _search_fixed(prior: FixedPrior) -> Search:
    """Return the search whose scores are the same after every history."""
    logs = prior.shares.double().log().float().numpy()

    def search(rows: Tensor) -> Iterator[Scores]:
        yield from (ExactScores(logs.copy(), 0.0) for _ in range(len(rows)))

    return search
