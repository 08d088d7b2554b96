"""Alike items have alike features, the same everywhere."""

from __future__ import annotations

import inspect

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from shared.data.catalogue import Catalogue
from shared.item_features.tfidf import text_features


def catalogue(*items: tuple[str, str, int | None]) -> Catalogue:
    """Items as (title, genres joined by "|", year)."""
    return Catalogue(
        tuple(f"i{number}" for number in range(len(items))),
        tuple(title for title, _, _ in items),
        tuple(tuple(genres.split("|")) if genres else () for _, genres, _ in items),
        tuple(year for _, _, year in items),
    )


FILMS = catalogue(
    ("Alien Dawn", "Horror|SciFi", 1979),
    ("Alien Dusk", "Horror|SciFi", 1986),
    ("Night of Slime", "Horror|SciFi", 1982),
    ("Happy Wedding", "Comedy|Romance", 1994),
    ("The Second Wedding", "Comedy|Romance", 1996),
    ("A Summer in Rome", "Comedy|Romance", 1999),
    ("Space Race", "Documentary", 2012),
    ("Deep Sea", "Documentary", 2015),
)

RANK = 6
"""Directions that those titles, genres and years can tell apart."""


def likeness(features: Tensor) -> Tensor:
    return torch.nn.functional.cosine_similarity(features[:, None], features[None], dim=-1)


def test_items_of_the_same_genres_are_nearer_than_others() -> None:
    alike = likeness(text_features(FILMS, 2))
    groups = torch.tensor([0, 0, 0, 1, 1, 1, 2, 2])
    same = (groups[:, None] == groups) & ~torch.eye(8, dtype=torch.bool)
    assert alike[same].min() > alike[groups[:, None] != groups].max() + 0.3


@pytest.mark.parametrize(
    "items",
    [
        [("Alien Dawn", None), ("The ALIEN", None), ("Green Slime", None), ("Slime, Red", None)],
        [("Dawn", 1971), ("Dusk", 1978), ("Slime", 2000), ("Race", 2007)],
    ],
)
def test_among_items_of_one_genre_a_shared_word_or_decade_is_nearer(
    items: list[tuple[str, int | None]],
) -> None:
    films = catalogue(*((title, "Horror", year) for title, year in items))
    alike = likeness(text_features(films, 2))
    assert min(alike[0, 1], alike[2, 3]) > alike[:2, 2:].max() + 0.5


def test_the_same_catalogue_gives_the_same_features() -> None:
    first = text_features(FILMS, 5)
    torch.manual_seed(1)
    assert_close(text_features(FILMS, 5), first, rtol=0, atol=0)


def test_signs_and_zeros_do_not_depend_on_rounding() -> None:
    """Dusk and Slime mirror each other: rounding would say which of them is positive."""
    films = catalogue(
        ("Alien Dawn", "Horror", 1984),
        ("Alien Dusk", "Drama", 1984),
        ("Slime", "Horror", 1984),
        ("Sea", "", 1984),
        ("Rome", "", 2001),
    )
    assert len({text_features(films, 3).numpy().tobytes() for _ in range(50)}) == 1


def test_case_punctuation_stop_words_and_the_year_in_a_title_do_not_matter() -> None:
    year = 1984  # a word that all would share with one another
    some = [("Alien Dawn", "Horror"), ("Alien Dusk", "Drama"), ("Slime", "Horror"), ("Sea", "")]
    plain = catalogue(*((title, genres, year) for title, genres in some), ("Rome", "", 2001))
    adorned = catalogue(
        ("The ALIEN, dawn!", "Horror", year),
        ("Alien & Dusk (1984)", "Drama", year),
        ("A Slime, 1984", "Horror", year),
        ("The Sea 1984", "", year),
        ("in ROME", "", 2001),
    )
    assert_close(text_features(adorned, 3), text_features(plain, 3))


@pytest.mark.parametrize("size", [1, 4, 7, 64])
def test_directions_are_centred_uncorrelated_and_of_variance_one_or_zero(size: int) -> None:
    features = text_features(FILMS, size)
    assert features.shape == (len(FILMS), size)
    assert features.dtype == torch.float32
    assert_close(features.mean(0), torch.zeros(size))
    covariance = features.T @ features / len(FILMS)
    rank = int((covariance.diag() > 0.5).sum())
    assert rank == min(size, RANK)
    expected = torch.diag((torch.arange(size) < rank).float())
    assert_close(covariance, expected, rtol=1e-5, atol=1e-5)
    assert "variance 1 (or 0)" in (inspect.getdoc(text_features) or "")


def test_the_strongest_direction_comes_first() -> None:
    """Each direction tells the genres apart, until one tells single films apart."""
    groups = torch.tensor([[0, 1, 2], [3, 4, 5], [6, 7, 7]])
    spread = text_features(FILMS, RANK)[groups].std(1).mean(0)  # within a genre
    assert spread[:2].max() < 0.3
    assert spread[2:].max() > 0.5


def test_items_that_share_no_token_are_all_the_same() -> None:
    bare = catalogue(
        *zip(FILMS.titles, ("|".join(g) for g in FILMS.genres), FILMS.years, strict=True),
        ("", "", None),
        ("Unheard", "", None),
    )
    for size in (2, 4, 64):
        features = text_features(bare, size)
        assert_close(features[-1], features[-2])
        assert features.isfinite().all()


@pytest.mark.parametrize(
    "items",
    [
        [("Alone", "Drama", 1990)],
        [("", "", None)],
        [("", "", None), ("", "", None)],
        [("One", "", None), ("Two", "", None), ("Three", "", None)],
        [("Same", "Drama", 1990), ("Same", "Drama", 1990)],
    ],
)
def test_a_catalogue_of_indistinguishable_items_has_zero_features(
    items: list[tuple[str, str, int | None]],
) -> None:
    assert_close(text_features(catalogue(*items), 3), torch.zeros(len(items), 3))
