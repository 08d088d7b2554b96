"""Domains: named parts of a catalogue of which an organisation has some alone.

Organisations with different catalogues train one model over the union of these: `join` makes it,
and the column `domain` of the public catalogue says whose each item is. An organisation states its
domains in site.toml (`data.domains`). From then on

| at this organisation            | is over                                                        |
|---------------------------------|----------------------------------------------------------------|
| histories                       | its own items; events of others count as `unknown_item`        |
| the softmax of a training step  | its own items (`AttentionRecommender.restrict`)                |
| sampled candidates              | its own items                                                  |
| statistics                      | the union, with 0 for the others: nobody there chose them      |
| noised metrics                  | its own items                                                  |
| the home model, recommendations | a catalogue and a model that hold its own items alone          |

Shapes of what leaves are those of the union, and equal for all. What is left out follows from the
public catalogue and from a constant that the organisation states, never from data.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from shared.data.catalogue import Catalogue
from shared.data.histories import Histories
from shared.errors import ConfigError, DataError

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["ItemSet", "codes_of", "join", "only", "own_items", "split_histories", "within"]

Ints = npt.NDArray[np.int64]
Scorer = Callable[["Tensor"], "Tensor"]


def own_items(catalogue: Catalogue, domains: Sequence[str]) -> npt.NDArray[np.bool_]:
    """Return which items are of these domains, bool [V].

    Raises:
        ConfigError: the catalogue has no domains, or none of such a name.
    """
    known = dict.fromkeys(catalogue.domains)
    for name in domains:
        if name not in known:
            has = f"has {', '.join(map(repr, known))}" if known else "names no domain"
            raise ConfigError(
                f"the domain {name!r} is named, and the catalogue {has}: name the domains of your "
                "items (data.domains, --domain) as the catalogue does, or none."
            )
    return np.isin(np.array(catalogue.domains, object), list(domains))


def within(catalogue: Catalogue, domains: Sequence[str]) -> Catalogue:
    """Return the whole catalogue, in which only items of these domains are found and ranked.

    Args:
        catalogue: the union.
        domains: of the organisation; none takes all items.

    Raises:
        ConfigError: as `own_items`.
    """
    return replace(catalogue, selected=own_items(catalogue, domains)) if domains else catalogue


def only(catalogue: Catalogue, own: npt.NDArray[np.bool_]) -> Catalogue:
    """Return a catalogue of some items alone, in their order.

    Args:
        catalogue: the union.
        own: bool [V], the items that stay; at least one.
    """
    rows = np.flatnonzero(own)
    names = rows.tolist()
    features = catalogue.features
    return replace(
        catalogue,
        item_ids=tuple(catalogue.item_ids[row] for row in names),
        titles=tuple(catalogue.titles[row] for row in names),
        genres=tuple(catalogue.genres[row] for row in names),
        years=tuple(catalogue.years[row] for row in names),
        domains=tuple(catalogue.domains[row] for row in names) if catalogue.domains else (),
        features=None if features is None else features[rows],
        text=None,
        selected=None,
    )


def join(catalogues: Mapping[str, Catalogue], files: Mapping[str, Path] | None = None) -> Catalogue:
    """Return the union of catalogues, without features: they are made of the union's texts.

    Args:
        catalogues: by domain, in the order of the union. One that names domains itself keeps them.
        files: where each was read, for errors; None names the domains.

    Raises:
        ConfigError: there are fewer than two, or two have a domain of one name.
        DataError: an item is in two of them.
    """
    if len(catalogues) < 2:
        raise ConfigError("one catalogue alone is no union: name two folders or more.")
    domains = [part.domains or (name,) * len(part) for name, part in catalogues.items()]
    owner: dict[str, str] = {}
    for name, of_part in zip(catalogues, domains, strict=True):
        for domain in dict.fromkeys(of_part):
            if owner.setdefault(domain, name) != name:
                raise ConfigError(
                    f"{owner[domain]} and {name} both have a domain {domain!r}: name each "
                    "otherwise, with --domain."
                )
    _check_distinct(catalogues, files or {})
    parts = list(catalogues.values())
    return Catalogue(
        tuple(chain.from_iterable(part.item_ids for part in parts)),
        tuple(chain.from_iterable(part.titles for part in parts)),
        tuple(chain.from_iterable(part.genres for part in parts)),
        tuple(chain.from_iterable(part.years for part in parts)),
        domains=tuple(chain.from_iterable(domains)),
    )


def _check_distinct(catalogues: Mapping[str, Catalogue], files: Mapping[str, Path]) -> None:
    first: dict[str, str] = {}
    for name, part in catalogues.items():
        for row, item in enumerate(part.item_ids, start=1):
            if first.setdefault(item, name) != name:
                raise DataError(
                    f"{files.get(first[item], first[item])} has an item of the same id",
                    file=files.get(name, name),
                    row=row,
                    field="item_id",
                    value=item,
                    remedy="Give items of different catalogues different ids, such as "
                    f"'{name}-{item}'; an item that both have belongs into one of them, or into "
                    "a domain of its own that both state.",
                )


def codes_of(catalogue: Catalogue) -> Ints:
    """Return the number of each item's domain, from 0, in the order of the names: int64 [V]."""
    if not catalogue.domains:
        return np.zeros(len(catalogue), np.int64)
    return np.unique(np.array(catalogue.domains), return_inverse=True)[1].astype(np.int64)


def split_histories(histories: Histories, codes: Ints) -> Histories:
    """Return each user's events as one history a domain.

    Args:
        histories: over the union.
        codes: of `codes_of`, [V].
    """
    if not codes.any():
        return histories
    parts = [histories.keep(codes[histories.items - 1] == code) for code in np.unique(codes)]
    kept = [part.select(np.flatnonzero(part.lengths)) for part in parts]
    return Histories.joined(kept)


@dataclass(frozen=True, slots=True, eq=False)
class ItemSet:
    """Some items of a catalogue, which are numbered by themselves.

    Attributes:
        own: bool [V], which these are.
    """

    own: npt.NDArray[np.bool_]

    @property
    def rows(self) -> Ints:
        """The rows of the K items, int64 [K]."""
        return np.flatnonzero(self.own)

    @property
    def numbers(self) -> Ints:
        """The own internal ids by those of the catalogue, int64 [V + 1]; 0 for others."""
        numbers = np.zeros(len(self.own) + 1, np.int64)
        numbers[1 + self.rows] = np.arange(1, len(self.rows) + 1)
        return numbers

    def narrow(self, histories: Histories) -> Histories:
        """Return histories of these items alone, by their own ids."""
        numbers = self.numbers[histories.items]
        kept = histories.keep(numbers > 0)
        return replace(kept, items=numbers[numbers > 0])

    def widen(self, scorer: Scorer) -> Scorer:
        """Return a scorer of the catalogue by one of these items: all others score -inf.

        Args:
            scorer: maps own ids [B, T] to scores [B, K]; histories have no other items.
        """
        import torch  # noqa: PLC0415 takes seconds

        numbers, rows = torch.from_numpy(self.numbers), torch.from_numpy(self.rows)

        def widened(histories: Tensor, /) -> Tensor:
            scores = scorer(numbers[histories.cpu()])
            shape = len(scores), len(self.own)
            return scores.new_full(shape, -torch.inf).index_copy_(1, rows.to(scores.device), scores)

        return widened

    def shrink(self, scorer: Scorer) -> Scorer:
        """Return a scorer of these items, own ids [B, T] -> [B, K], by one of the catalogue."""
        import torch  # noqa: PLC0415 takes seconds

        rows = torch.from_numpy(self.rows)
        places = torch.cat([rows.new_zeros(1), rows + 1])

        def shrunk(histories: Tensor, /) -> Tensor:
            scores = scorer(places[histories.cpu()])
            return scores[:, rows.to(scores.device)]

        return shrunk

    def mask(self, scorer: Scorer) -> Scorer:
        """Return a scorer of the catalogue for which all other items score -inf."""
        import torch  # noqa: PLC0415 takes seconds

        others = torch.from_numpy(~self.own)

        def masked(histories: Tensor, /) -> Tensor:
            scores = scorer(histories)
            return scores.masked_fill(others.to(scores.device), -torch.inf)

        return masked
