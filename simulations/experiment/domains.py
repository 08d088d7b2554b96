"""Organisations with catalogues of their own: each has the events on the items of its domain alone.

| `lab.domains` | the items' file has         | domains                                           |
|---------------|-----------------------------|---------------------------------------------------|
| 1             | any columns                 | the whole catalogue at every organisation         |
| G > 1         | no column `domain`          | G parts: the item's id decides, by a hash         |
| G > 1         | a column of G domains       | those                                             |
| G > 1         | a column of another number  | refused                                           |

Organisation i of the run, counted from 0, has domain i modulo G, in the order of the names. Of a
user's events those of other domains are dropped, and so is a user who has fewer than two left.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from shared.data.catalogue import Catalogue
from shared.data.domains import codes_of
from shared.errors import ConfigError
from simulations.datasets.load import Dataset

__all__ = ["domain_of", "keep_own_events", "with_domains"]

MIN_EVENTS = 2
Ints = NDArray[np.int64]


def with_domains(catalogue: Catalogue, number: int) -> Catalogue:
    """Return the catalogue with so many domains.

    Args:
        catalogue: the items.
        number: `lab.domains`; 1 leaves domains out.

    Raises:
        ConfigError: the items name another number of domains, or there are fewer items.
    """
    if number == 1:
        return replace(catalogue, domains=())
    named = sorted(set(catalogue.domains))
    if named and len(named) != number:
        raise ConfigError(
            f"lab.domains = {number}, and the items' column `domain` names {len(named)}: "
            f"{', '.join(named[:5])}. Set lab.domains = {len(named)}, or leave the column out."
        )
    if named:
        return catalogue
    width = len(str(number))
    domains = tuple(f"domain-{_part(item, number) + 1:0{width}}" for item in catalogue.item_ids)
    if (found := len(set(domains))) < number:
        raise ConfigError(
            f"lab.domains = {number}, but {len(catalogue)} items fill {found}: choose fewer."
        )
    return replace(catalogue, domains=domains)


def _part(item: str, parts: int) -> int:
    digest = hashlib.sha256(f"domain {item}".encode()).digest()
    return int.from_bytes(digest[:8], "big") % parts


def domain_of(catalogue: Catalogue, organisation: int) -> str:
    """Return the domain of an organisation, counted from 0; "" where there are none."""
    names = sorted(set(catalogue.domains))
    return names[organisation % len(names)] if names else ""


def keep_own_events(dataset: Dataset, parts: Sequence[Ints]) -> tuple[Dataset, list[Ints]]:
    """Drop the events of other domains, and users who have fewer than two events left.

    Args:
        dataset: with domains.
        parts: user rows of each organisation.

    Returns:
        The data set, and the rows of each organisation's users in it.

    Raises:
        ConfigError: an organisation has no user left.
    """
    histories, codes = dataset.histories, codes_of(dataset.catalogue)
    own = np.zeros(len(histories), np.int64)
    for number, rows in enumerate(parts):
        own[rows] = number % (codes.max() + 1)
    kept = histories.keep(codes[histories.items - 1] == np.repeat(own, histories.lengths))
    left = np.flatnonzero(kept.lengths >= MIN_EVENTS)
    place = np.full(len(histories), -1)
    place[left] = np.arange(len(left))
    remaining = [place[rows][place[rows] >= 0] for rows in parts]
    for number, rows in enumerate(remaining):
        if not len(rows):
            raise ConfigError(
                f"organisation {number + 1} has no user with two events on its own domain: choose "
                "fewer lab.organisations or lab.domains."
            )
    chosen = replace(kept.select(left), summary=histories.summary)
    groups = {name: tuple(of[row] for row in left) for name, of in dataset.groups.items()}
    named = tuple(dataset.organisations[row] for row in left) if dataset.organisations else ()
    return replace(dataset, histories=chosen, groups=groups, organisations=named), remaining
