"""Assign a data set's users to organisations that simulate partners.

Every user belongs to exactly one organisation. No organisation has fewer than two users if there
are enough users.

The skewed schemes draw shares from a symmetric Dirichlet distribution, as in T.-M. H. Hsu, H. Qi
and M. Brown, "Measuring the Effects of Non-Identical Data Distribution for Federated Visual
Classification" (arXiv:1909.06335): the smaller the concentration, the more unequal the shares.
"""

from __future__ import annotations

import math
from enum import StrEnum

import numpy as np
import numpy.typing as npt

from shared.errors import ConfigError
from simulations.datasets.load import Dataset

__all__ = ["Scheme", "natural_partition", "partition"]

Ints = npt.NDArray[np.int64]

MIN_USERS = 2


class Scheme(StrEnum):
    """How users are assigned.

    USER: equal sizes at random. SIZE: random sizes. TASTE: random shares of the users of each
    dominant genre.
    """

    USER = "user"
    SIZE = "size"
    TASTE = "taste"


def partition(
    dataset: Dataset,
    organisations: int,
    scheme: Scheme,
    seed: int,
    *,
    concentration: float = 0.5,
) -> list[Ints]:
    """Return the users of each organisation.

    Args:
        dataset: whose users are assigned.
        organisations: number of organisations, in 1..N.
        scheme: how users are assigned.
        seed: determines the assignment; >= 0.
        concentration: of the Dirichlet distribution behind "size" and "taste"; > 0.

    Returns:
        One ascending int64 array of row numbers into `dataset.histories` per organisation.

    Raises:
        ConfigError: an argument is out of range.
    """
    users = len(dataset.histories)
    _check(organisations, users, seed, concentration)
    rng = np.random.default_rng(seed)
    if scheme is Scheme.TASTE:
        owners = _by_taste(dominant_genres(dataset), organisations, rng, concentration)
        owners = _fill_up(owners, organisations, rng)
    else:
        even = np.full(organisations, 1 / organisations)
        shares = (
            even if scheme is Scheme.USER else rng.dirichlet(np.full(organisations, concentration))
        )
        owners = rng.permutation(np.repeat(np.arange(organisations), _sizes(shares, users)))
    return [np.flatnonzero(owners == number) for number in range(organisations)]


def natural_partition(dataset: Dataset) -> list[Ints]:
    """Return the users of each organisation that the data name, in the order of the names.

    Returns:
        One ascending int64 array of row numbers into `dataset.histories` per organisation.
    """
    owners = np.array(dataset.organisations)
    return [np.flatnonzero(owners == name) for name in sorted(set(dataset.organisations))]


def dominant_genres(dataset: Dataset) -> Ints:
    """Return the number of the genre that most of each user's events have, [N].

    Genres are numbered in alphabetical order, and the first wins a tie; a user none of whose
    items has a genre gets 0 as well.
    """
    catalogue, histories = dataset.catalogue, dataset.histories
    names = sorted({genre for genres in catalogue.genres for genre in genres})
    users = histories.rows  # (events,)
    counts = np.zeros((max(len(names), 1), len(histories)))  # (G, N)
    for number, name in enumerate(names):
        carries = np.array([False, *(name in genres for genres in catalogue.genres)])  # (V + 1,)
        counts[number] = np.bincount(users[carries[histories.items]], minlength=len(histories))
    return np.asarray(counts.argmax(axis=0), np.int64)


def _check(organisations: int, users: int, seed: int, concentration: float) -> None:
    if not 1 <= organisations <= users:
        raise ConfigError(
            f"organisations is {organisations}, for {users} users. "
            "There must be at least 1, and a user for each."
        )
    if seed < 0:
        raise ConfigError(f"seed is {seed}. It must be 0 or more.")
    if not (concentration > 0 and math.isfinite(concentration)):
        raise ConfigError(f"concentration is {concentration}. It must be a number above 0.")


def _sizes(shares: npt.NDArray[np.float64], users: int) -> Ints:
    """Return sizes that sum to `users`: a minimum for each, the rest by largest remainder."""
    floor = min(MIN_USERS, users // len(shares))
    exact = shares * (users - floor * len(shares))
    sizes = np.floor(exact).astype(np.int64)
    missing = users - floor * len(shares) - int(sizes.sum())
    sizes[np.argsort(sizes - exact, kind="stable")[:missing]] += 1
    return sizes + floor


def _by_taste(
    genres: Ints, organisations: int, rng: np.random.Generator, concentration: float
) -> Ints:
    owners = np.empty(len(genres), np.int64)
    for genre in np.unique(genres):
        users = np.flatnonzero(genres == genre)
        shares = rng.dirichlet(np.full(organisations, concentration))
        owners[users] = rng.choice(organisations, size=len(users), p=shares)
    return owners


def _fill_up(owners: Ints, organisations: int, rng: np.random.Generator) -> Ints:
    """Move random users of the largest organisation to those with too few."""
    owners = owners.copy()
    floor = min(MIN_USERS, len(owners) // organisations)
    sizes = np.bincount(owners, minlength=organisations)
    while sizes.min() < floor:
        smallest, largest = int(sizes.argmin()), int(sizes.argmax())
        owners[rng.choice(np.flatnonzero(owners == largest))] = smallest
        sizes[smallest] += 1
        sizes[largest] -= 1
    return owners
