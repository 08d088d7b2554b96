"""Lists are those of the greedy objective, of k distinct candidates, and the same every time."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from shared.data.histories import Histories
from shared.errors import ConfigError
from shared.evaluation.calibration import (
    SMOOTHING,
    calibration_error,
    genre_groups,
    popularity_groups,
)
from shared.evaluation.diversity import intra_list_distance, unit_vectors
from shared.rerank.diverse import OWN_PART
from shared.rerank.minimum_exposure import places_for, rare_items
from shared.rerank.reranker import ItemTraits, Reranker
from shared.rerank.settings import By, Method, RerankConfig, changed

NAMES = ("Action", "Comedy", "Crime", "Drama")
ACTING = (Method.CALIBRATED, Method.DIVERSE, Method.EXPOSURE)

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


def traits(items: int, seed: int = 0) -> ItemTraits:
    random = np.random.default_rng(seed)
    genres = [
        tuple(sorted(random.choice(NAMES, random.integers(0, 3), replace=False)))
        for _ in range(items)
    ]
    genres[0] = ("Drama",)  # there is one
    features = random.normal(size=(items, 6)).astype(np.float32)
    return ItemTraits(genres=genres, popularity=random.random(items), features=features)


def case(items: int, users: int, seed: int) -> tuple[Ints, Floats, Histories]:
    """Candidates with falling scores, some of them equal, and histories."""
    random = np.random.default_rng(seed)
    ids = np.stack([random.permutation(items) + 1 for _ in range(users)])
    scores = -np.sort(random.integers(0, 6, (users, items)) / 2.0, 1)
    lists = [random.integers(1, items + 1, random.integers(0, 5)).tolist() for _ in range(users)]
    return ids, scores, Histories.from_lists(lists)


def calibrated_value(own: ItemTraits, config: RerankConfig, history: Ints) -> object:
    """The objective of Steck 2018 for a list of ids, written out in loops."""
    groups = genre_groups(own.genres)
    if config.by is By.POPULARITY:
        groups = popularity_groups(own.popularity)
    target = sum((groups[item - 1] for item in history), np.zeros(groups.shape[1]))
    target = target / target.sum() if target.sum() else target

    def value(chosen: list[int], relevance: float) -> float:
        shown = sum((groups[item - 1] for item in chosen), np.zeros(groups.shape[1]))
        shown = shown / shown.sum() if shown.sum() else shown
        loss = sum(
            p * np.log(p / ((1 - SMOOTHING) * q + SMOOTHING * p))
            for p, q in zip(target, shown, strict=True)
            if p > 0
        )
        return float((1 - config.weight) * relevance - config.weight * loss)

    return value


def diverse_value(own: ItemTraits, config: RerankConfig, history: Ints) -> object:
    """(1 - λ) Σ r + λ log det S by numpy's determinant."""
    del history
    features = genre_groups(own.genres) if config.by is By.GENRES else own.features
    assert features is not None
    vectors = unit_vectors(features).astype(np.float64)

    def value(chosen: list[int], relevance: float) -> float:
        rows = vectors[np.array(chosen) - 1]
        kernel = (1 - OWN_PART) * rows @ rows.T
        np.fill_diagonal(kernel, 1.0)
        return float((1 - config.weight) * relevance + config.weight * np.linalg.slogdet(kernel)[1])

    return value


@pytest.mark.parametrize(
    ("config", "objective"),
    [
        (RerankConfig(method=Method.CALIBRATED, strength=0.6), calibrated_value),
        (
            RerankConfig(method=Method.CALIBRATED, strength=0.8, by=By.POPULARITY),
            calibrated_value,
        ),
        (RerankConfig(method=Method.DIVERSE, strength=0.5), diverse_value),
        (RerankConfig(method=Method.DIVERSE, strength=0.9, by=By.FEATURES), diverse_value),
    ],
)
@pytest.mark.parametrize("seed", range(4))
def test_each_item_is_the_one_that_the_objective_gains_most_by(
    config: RerankConfig, objective: object, seed: int
) -> None:
    own, (ids, scores, histories) = traits(9, seed), case(9, 5, seed)
    found = Reranker(config, own)(ids, scores, histories, 4)
    for row in range(len(ids)):
        value = objective(own, config, histories[row])  # type: ignore[operator]
        relevance = scores[row] - scores[row].max()
        chosen: list[int] = []
        for _ in range(4):
            values = [
                -np.inf
                if column in chosen
                else value(ids[row, [*chosen, column]].tolist(), relevance[[*chosen, column]].sum())
                for column in range(9)
            ]
            chosen.append(int(np.argmax(np.round(values, 8))))  # the first of equal ones
        assert found[row].tolist() == sorted(chosen)


@pytest.mark.parametrize("seed", range(6))
def test_minimum_exposure_keeps_the_most_relevant_of_all_lists_that_hold_it(seed: int) -> None:
    config = RerankConfig(method=Method.EXPOSURE, strength=0.4, rare=4)
    own, (ids, scores, histories) = traits(10, seed), case(10, 6, seed)
    scores = scores - np.arange(10) / 100  # no two are equal
    rare = rare_items(own.popularity, 4)
    least = places_for(histories, 0.4, 3)
    found = Reranker(config, own)(ids, scores, histories, 3)
    for row in range(len(ids)):
        lists = [
            columns
            for columns in itertools.combinations(range(10), 3)
            if rare[ids[row, list(columns)] - 1].sum() >= least[row]
        ]
        best = max(lists, key=lambda columns: scores[row, list(columns)].sum())
        assert tuple(found[row]) == best


@pytest.mark.parametrize("method", ACTING)
def test_strength_0_changes_nothing(method: Method) -> None:
    own, (ids, scores, histories) = traits(12), case(12, 4, 1)
    config = RerankConfig(method=method, strength=0.0)
    found = Reranker(config, own)(ids, scores, histories, 5)
    assert (found == np.arange(5)).all()
    assert not config.changes


@given(
    st.sampled_from(ACTING), st.integers(0, 10**6), st.integers(1, 14), st.floats(0, 1), st.data()
)
@settings(max_examples=60, deadline=None)
def test_lists_are_of_distinct_candidates_in_the_order_of_the_scores(
    method: Method, seed: int, k: int, strength: float, data: st.DataObject
) -> None:
    own, (ids, scores, histories) = traits(12, seed), case(12, 3, seed)
    empty = data.draw(st.lists(st.integers(0, 11), unique=True))
    ids[:, empty] = 0
    reranker = Reranker(RerankConfig(method=method, strength=strength), own)
    found = reranker(ids, scores, histories, k)
    left = 12 - len(empty)
    for row, places in enumerate(found):
        filled = places[: min(k, left)]
        assert (places[min(k, left) :] == -1).all()
        assert (ids[row, filled] > 0).all()
        assert (np.diff(filled) > 0).all()


def test_a_user_has_the_same_list_alone_and_among_others() -> None:
    own, (ids, scores, histories) = traits(60), case(60, 70, 3)
    for method in ACTING:
        reranker = Reranker(RerankConfig(method=method, strength=0.45), own)
        together = reranker(ids, scores, histories, 7)
        for row in range(0, 70, 9):
            part = slice(row, row + 1)
            alone = reranker(ids[part], scores[part], histories.select([row]), 7)
            np.testing.assert_array_equal(alone[0], together[row])


def test_methods_do_what_they_are_for() -> None:
    own, (ids, scores, histories) = traits(60), case(60, 40, 5)
    groups, rare = genre_groups(own.genres), rare_items(own.popularity, 5)

    def lists(method: Method, strength: float) -> Ints:
        config = RerankConfig(method=method, strength=strength)
        return np.take_along_axis(ids, Reranker(config, own)(ids, scores, histories, 6), 1)

    plain = lists(Method.EXPOSURE, 0.0)
    calibrated = lists(Method.CALIBRATED, 0.9)
    before, after = (calibration_error(top, histories, groups) for top in (plain, calibrated))
    assert after < before / 2
    vectors = unit_vectors(groups)
    diverse = lists(Method.DIVERSE, 0.9)
    assert intra_list_distance(diverse, vectors) > intra_list_distance(plain, vectors) + 0.1
    exposed = rare[lists(Method.EXPOSURE, 1.0) - 1]
    assert exposed.all()


def test_shares_of_places_are_met_in_the_mean() -> None:
    histories = Histories.from_lists([[n, n + 3] for n in range(1, 4001)])
    assert places_for(histories, 0.25, 10).mean() == pytest.approx(2.5, abs=0.01)
    assert set(places_for(histories, 0.3, 10)) == {3}


@pytest.mark.parametrize("method", [Method.CALIBRATED, Method.DIVERSE])
def test_calibrated_or_diverse_lists_have_their_rare_places(method: Method) -> None:
    """By the greedy objective under that constraint, written out in loops."""
    own, (ids, scores, histories) = traits(12, 3), case(12, 40, 3)
    config = RerankConfig(method=method, strength=0.6, rare_places=0.5, rare=3)
    objective = calibrated_value if method is Method.CALIBRATED else diverse_value
    found = Reranker(config, own)(ids, scores, histories, 4)
    rare = rare_items(own.popularity, 3)[ids - 1]
    assert rare.sum(1).min() == 3
    shown = np.take_along_axis(rare, found, 1).sum(1)
    assert (shown >= 2).all()
    free = Reranker(RerankConfig(method=method, strength=0.6), own)(ids, scores, histories, 4)
    enough = np.take_along_axis(rare, free, 1).sum(1) >= 2
    assert 0 < enough.sum() < len(ids)
    for row in range(len(ids)):
        value: Any = objective(own, config, histories[row])
        relevance = scores[row] - scores[row].max()
        chosen: list[int] = []
        for number in range(4):
            only_rare = 2 - rare[row, chosen].sum() >= 4 - number
            values = [
                -np.inf
                if column in chosen or (only_rare and not rare[row, column])
                else value(ids[row, [*chosen, column]].tolist(), relevance[[*chosen, column]].sum())
                for column in range(12)
            ]
            chosen.append(int(np.argmax(np.round(values, 8))))
        assert sorted(chosen) == found[row].tolist()


def test_without_history_calibration_keeps_the_order() -> None:
    own, (ids, scores, _) = traits(12), case(12, 1, 0)
    config = RerankConfig(method=Method.CALIBRATED, strength=0.9)
    found = Reranker(config, own)(ids, scores, Histories.from_lists([[]]), 4)
    assert found.tolist() == [[0, 1, 2, 3]]


# --- what is refused ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"strength": 1.5}, "rerank.strength = 1.5"),
        ({"strength": float("nan")}, "rerank.strength = nan"),
        ({"method": "fair"}, "rerank.method = 'fair'"),
        ({"rare": 10}, "rerank.rare = 10"),
        ({"candidates": 0}, "rerank.candidates = 0"),
        ({"method": "calibrated", "by": "features"}, "rerank.by = 'features'"),
        ({"method": "diverse", "by": "popularity"}, "rerank.by = 'popularity'"),
    ],
)
def test_settings_that_cannot_be_are_refused(values: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        RerankConfig(**values)  # type: ignore[arg-type]


@pytest.mark.parametrize("method", [Method.CALIBRATED, Method.DIVERSE])
def test_items_must_have_what_is_looked_at(method: Method) -> None:
    bare = ItemTraits(genres=[()] * 5, popularity=np.arange(5.0))
    with pytest.raises(ConfigError, match=r"no item of the catalogue has a\s+genre"):
        Reranker(RerankConfig(method=method), bare)
    with pytest.raises(ConfigError, match="the catalogue has none"):
        Reranker(RerankConfig(method=Method.DIVERSE, by=By.FEATURES), bare)


def test_what_is_stated_on_a_command_line_comes_first() -> None:
    stated = RerankConfig(method=Method.CALIBRATED, strength=0.7, by=By.POPULARITY, rare=3)
    assert changed(stated) == stated
    assert changed(stated, "calibrated").strength == 0.7
    assert changed(stated, "diverse") == RerankConfig(method=Method.DIVERSE, rare=3)
    assert changed(stated, None, 0.2).weight == 0.2
    assert not changed(stated, "none").changes
    with pytest.raises(ConfigError, match=r"rerank\.strength = 0\.2: no method has it"):
        changed(RerankConfig(), None, 0.2)
