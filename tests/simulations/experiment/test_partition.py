import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.data.catalogue import Catalogue
from shared.data.histories import Histories
from shared.errors import ConfigError
from simulations.datasets.load import Dataset
from simulations.experiment.partition import Scheme, dominant_genres, partition

SCHEMES = tuple(Scheme)
CATALOGUE = Catalogue(tuple("abcd"), tuple("abcd"), (("Y",), ("X",), ("X", "Z"), ()), (None,) * 4)


def dataset(lists: list[list[int]]) -> Dataset:
    return Dataset("toy", CATALOGUE, Histories.from_lists(lists))


TWO_TASTES = dataset([[1, 1]] * 300 + [[2, 2]] * 300)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.lists(st.integers(1, 4), max_size=4), min_size=1, max_size=40),
    st.sampled_from(SCHEMES),
    st.integers(0, 2**32),
    st.floats(1e-6, 1e6),
    st.data(),
)
def test_every_user_is_in_one_organisation_and_none_is_empty(
    lists: list[list[int]], scheme: Scheme, seed: int, concentration: float, data: st.DataObject
) -> None:
    organisations = data.draw(st.integers(1, len(lists)))
    toy = dataset(lists)
    parts = partition(toy, organisations, scheme, seed, concentration=concentration)
    assert len(parts) == organisations
    assert sorted(np.concatenate(parts).tolist()) == list(range(len(lists)))
    assert min(map(len, parts)) >= min(2, len(lists) // organisations)
    assert all(part.dtype == np.int64 and (np.diff(part) > 0).all() for part in parts)
    again = partition(toy, organisations, scheme, seed, concentration=concentration)
    assert all(map(np.array_equal, parts, again))


@pytest.mark.parametrize("scheme", SCHEMES)
def test_even_the_least_organisation_has_two_users(scheme: Scheme) -> None:
    parts = partition(TWO_TASTES, 10, scheme, 0, concentration=1e-3)
    assert min(map(len, parts)) >= 2


@pytest.mark.parametrize("scheme", SCHEMES)
def test_another_seed_makes_other_organisations(scheme: Scheme) -> None:
    one, other = (partition(TWO_TASTES, 4, scheme, seed) for seed in (1, 2))
    assert not all(map(np.array_equal, one, other))


def test_by_user_the_sizes_differ_by_at_most_one() -> None:
    sizes = [len(part) for part in partition(TWO_TASTES, 7, Scheme.USER, 3)]
    assert set(sizes) == {85, 86}


def test_by_user_the_tastes_are_mixed() -> None:
    for part in partition(TWO_TASTES, 4, Scheme.USER, 3):
        assert 0.3 < (part < 300).mean() < 0.7


def test_by_size_the_sizes_are_skewed_and_even_out_as_concentration_grows() -> None:
    skewed, even = (
        [
            len(part)
            for part in partition(TWO_TASTES, 6, Scheme.SIZE, 5, concentration=concentration)
        ]
        for concentration in (0.3, 1e6)
    )
    assert max(skewed) > 3 * min(skewed)
    assert max(even) - min(even) <= 2


def test_by_taste_the_organisations_differ_in_taste_as_concentration_shrinks() -> None:
    def spread(concentration: float) -> float:
        parts = partition(TWO_TASTES, 5, Scheme.TASTE, 5, concentration=concentration)
        return float(np.std([(part < 300).mean() for part in parts]))

    assert spread(0.1) > 0.3
    assert spread(1e6) < 0.1


def test_the_dominant_genre_is_the_one_most_events_carry() -> None:
    toy = dataset([[1, 1, 2], [2, 2, 1], [4], [], [2, 1], [3, 3]])
    assert dominant_genres(toy).tolist() == [1, 0, 0, 0, 0, 0]
    bare = Catalogue(("a",), ("a",), ((),), (None,))
    assert dominant_genres(Dataset("bare", bare, Histories.from_lists([[1], [1]]))).tolist() == [
        0,
        0,
    ]


@pytest.mark.parametrize("organisations", [-1, 0, 601])
def test_too_few_or_too_many_organisations_are_refused(organisations: int) -> None:
    with pytest.raises(ConfigError, match=rf"organisations is {organisations}, for 600 users\."):
        partition(TWO_TASTES, organisations, Scheme.USER, 0)


@pytest.mark.parametrize("concentration", [0.0, -1.0, float("inf"), float("nan")])
def test_a_concentration_that_is_no_positive_number_is_refused(concentration: float) -> None:
    with pytest.raises(ConfigError, match="concentration is"):
        partition(TWO_TASTES, 2, Scheme.SIZE, 0, concentration=concentration)


def test_a_seed_below_0_is_refused() -> None:
    with pytest.raises(ConfigError, match="seed is -1"):
        partition(TWO_TASTES, 2, Scheme.USER, -1)
