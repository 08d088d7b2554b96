"""What is recommended, against scores that are computed item by item."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from client.home.friends_part import FriendsPart
from client.home.home_model import (
    FixedPrior,
    HomeModel,
    Memory,
    SoftmaxPrior,
    TransitionCounts,
    popularity_shares,
)
from client.serving import probabilities
from client.serving.named_items import Filters
from client.serving.recommender import Recommender
from shared.data.catalogue import Catalogue
from shared.data.friends import FriendTable
from shared.data.histories import Histories
from shared.errors import DataError, RequestError, UnknownItemError
from shared.evaluation.ranking import Scorer
from shared.models.attention import AttentionRecommender, build
from tests.client.home.stored import save_counts
from tests.conftest import DESCRIBED, MODEL, some_catalogue, some_histories

ITEMS, WINDOW = 20, 5


def federated(rows: Tensor, /) -> Tensor:
    """Scores that depend on every one of the last events, and on their order."""
    scores = []
    for row in rows:
        events = row[row > 0][-WINDOW:].double()
        weights = 0.8 ** torch.arange(len(events), 0, -1).double()
        phase = torch.outer(torch.arange(ITEMS).double() + 1, events)
        scores.append((weights * torch.sin(phase)).sum(1) + torch.cos(torch.arange(ITEMS)))
    return torch.stack(scores).float()


def titled_catalogue() -> Catalogue:
    plain = some_catalogue()
    genres = tuple(("even",) if number % 2 == 0 else ("odd", "rare") for number in range(ITEMS))
    return replace(plain, titles=tuple(f"Title {n}" for n in range(1, ITEMS + 1)), genres=genres)


def home_model(kind: str) -> HomeModel | None:
    """No home model, or one with each prior that there is."""
    own = some_histories(40, seed=5)
    transitions = TransitionCounts.of(own, ITEMS, Memory(6, 0.7))
    prior: dict[str, tuple[Scorer, float]] = {
        "counts": (SoftmaxPrior(federated), 8.0),
        "popularity": (FixedPrior(popularity_shares(own, ITEMS)), 8.0),
        "prior alone": (SoftmaxPrior(federated), math.inf),
        "shifted": (SoftmaxPrior(federated, shift=torch.linspace(-0.5, 0.5, ITEMS)), 8.0),
        "own scorer": (SoftmaxPrior(lambda rows: federated(rows).flip(1), window=2 * WINDOW), 8.0),
    }
    return HomeModel(transitions, *prior[kind]) if kind in prior else None


KINDS = ["none", "counts", "popularity", "prior alone", "shifted", "own scorer"]


def made(kind: str = "none") -> Recommender:
    return Recommender(titled_catalogue(), federated, WINDOW, home_model(kind), verb="watched")


def ids(*numbers: int) -> list[str]:
    return [f"i{number}" for number in numbers]


def distribution(recommender: Recommender, history: list[int]) -> Tensor:
    """The probabilities of all items, straight from the scores."""
    row = torch.tensor([history or [0]])
    if recommender.home is None:
        return federated(row)[0].double().softmax(0)
    blend = recommender.home(row)[0].double()
    return blend / blend.sum()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("history", [[], [3], [4, 4, 9], list(range(1, 13))])
def test_the_list_is_the_order_of_the_probabilities(kind: str, history: list[int]) -> None:
    recommender = made(kind)
    chances = distribution(recommender, history)
    for seen in (True, False):
        order = [int(j) + 1 for j in chances.argsort(descending=True, stable=True)]
        expected = [j for j in order if not (seen and j in history)][:7]
        listed = recommender.recommend(ids(*history), 7, filters=Filters(exclude_seen=seen))
        assert [one.item for one in listed] == ids(*expected)
        assert [one.rank for one in listed] == list(range(1, 8))
        assert [one.title for one in listed] == [f"Title {j}" for j in expected]
        assert [one.score for one in listed] == pytest.approx(
            [float(chances[j - 1]) for j in expected], rel=1e-5
        )


@pytest.mark.parametrize("kind", ["none", "counts"])
def test_many_users_are_answered_as_one_by_one(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probabilities, "MOST_ROWS", 7)
    recommender, histories = made(kind), some_histories(30)
    lists = recommender.rank_many(histories, 6)
    assert lists.ids.dtype == np.int64
    assert lists.scores.dtype == np.float32
    for row, history in enumerate(histories):
        listed = recommender.recommend(ids(*history.tolist()), 6)
        assert [one.item for one in listed] == ids(*lists.ids[row].tolist())
        assert [one.score for one in listed] == pytest.approx(lists.scores[row].tolist(), rel=1e-5)


def test_filters_leave_out_items_and_change_no_score() -> None:
    recommender = made()
    free = {one.item: one.score for one in recommender.recommend(ids(3), 19)}
    few = recommender.recommend(ids(3), 10, filters=Filters(allow=frozenset(ids(1, 2, 3))))
    assert {one.item for one in few} == set(ids(1, 2)), "what is seen stays out"
    assert all(one.score == pytest.approx(free[one.item]) for one in few)
    even = recommender.recommend(ids(3), 20, filters=Filters(categories=frozenset({"odd"})))
    assert {one.item for one in even} == set(ids(*range(2, 21, 2)))
    best = recommender.recommend(ids(3), 1)[0].item
    assert recommender.recommend(ids(3), 1, filters=Filters(deny=frozenset({best})))[0].item != best
    nothing = Filters(allow=frozenset(ids(3)))
    assert recommender.recommend(ids(3), 5, filters=nothing) == []
    lists = recommender.rank_many(Histories.from_lists([[3], [1]]), 2, filters=nothing)
    assert lists.ids.tolist() == [[0, 0], [3, 0]], "a short list ends with 0"
    assert (lists.scores > 0).tolist() == [[False, False], [True, False]]


def test_ids_are_found_in_other_spellings() -> None:
    plain = Catalogue(("7", "8", "9"), ("", "", ""), ((),) * 3, (None,) * 3)
    recommender = Recommender(plain, lambda rows: rows.new_zeros(len(rows), 3).float(), 5)
    assert [one.item for one in recommender.recommend(["7.0", " 8"], 3)] == ["9"]


def test_what_cannot_be_is_refused_with_a_sentence() -> None:
    recommender = made()
    with pytest.raises(UnknownItemError, match=r"the history names item 'x' \(and 1 more\)"):
        recommender.recommend(["i1", "x", "y"])
    assert recommender.recommend(["i1", "x"], skip_unknown=True) == recommender.recommend(["i1"])
    for k in (0, -1, ITEMS + 1):
        with pytest.raises(RequestError, match="1 to 20"):
            recommender.recommend(["i1"], k)
    with pytest.raises(UnknownItemError, match="deny list"):
        recommender.recommend([], filters=Filters(deny=frozenset({"x"})))
    with pytest.raises(RequestError, match=r"'comedy'.*even, odd, rare"):
        recommender.recommend([], filters=Filters(categories=frozenset({"comedy"})))
    with pytest.raises(RequestError, match="list of item ids"):
        recommender.recommend("i1")
    with pytest.raises(RequestError, match="at least one"):
        recommender.similar([])
    broken = Recommender(some_catalogue(), lambda rows: torch.full((len(rows), ITEMS), math.nan), 5)
    with pytest.raises(DataError, match="not finite"):
        broken.recommend(["i1"])


def test_similar_items_are_those_that_an_item_makes_likelier() -> None:
    recommender = made("counts")
    alone = federated(torch.tensor([[0]]))[0].double().log_softmax(0)
    lifts = [federated(torch.tensor([[x]]))[0].double().log_softmax(0) - alone for x in (4, 9)]
    lift = (lifts[0] + lifts[1]) / 2
    order = [int(j) + 1 for j in lift.argsort(descending=True) if int(j) + 1 not in (4, 9)]
    listed = recommender.similar(ids(4, 9, 4), 6)
    assert [one.item for one in listed] == ids(*order[:6])
    assert listed[0].score == pytest.approx(float(lift[order[0] - 1]), rel=1e-5)
    even = recommender.similar(ids(4), 20, filters=Filters(categories=frozenset({"even"})))
    assert {one.item for one in even} == set(ids(*range(1, 20, 2)))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("history", [[], [3], [4, 4, 9], [6, 2, 8, 2, 11, 7, 5, 12, 3]])
def test_removing_an_event_lowers_the_score_by_what_was_said(kind: str, history: list[int]) -> None:
    recommender = made(kind)
    filters = Filters(exclude_seen=False)
    for one in recommender.recommend(ids(*history), 5, filters=filters, explain=True):
        reason = one.explanation
        assert reason is not None
        assert reason.score == pytest.approx(one.score, rel=1e-5)
        assert len(reason.events) == min(len(history), recommender.window)
        for event in reason.events:
            assert event.item == f"i{history[event.place]}"
            rest = [item for place, item in enumerate(history) if place != event.place]
            after = {
                other.item: other.score
                for other in recommender.recommend(ids(*rest), ITEMS, filters=filters)
            }
            assert one.score - after[one.item] == pytest.approx(event.difference, abs=2e-7)


def test_the_parts_are_popularity_home_and_what_the_history_changes() -> None:
    history = [4, 9]
    alone = made().recommend(ids(*history), 3, explain=True)
    empty = distribution(made(), [])
    for one in alone:
        reason = one.explanation
        assert reason is not None
        assert reason.home == 0
        assert reason.popularity == pytest.approx(float(empty[int(one.item[1:]) - 1]), rel=1e-5)
    recommender = made("popularity")
    assert recommender.home is not None
    for one in recommender.recommend(ids(*history), 3, explain=True):
        reason = one.explanation
        assert reason is not None
        assert reason.federated == pytest.approx(0, abs=1e-7), "it has no part in this blend"
        assert reason.home + reason.popularity == pytest.approx(one.score, rel=1e-5)
    home = home_model("counts")
    assert home is not None
    transitions, column = home.transitions, 6
    expected = total = 0.0
    for back, item in enumerate(reversed(history)):
        weight = transitions.memory.weights[back]
        count = transitions.counts.toarray()[item, column]
        expected += weight * count / (transitions.totals[item] + home.strength)
        total += weight
    [reason] = made("counts").explain(history, [column + 1])
    assert reason.home == pytest.approx(expected / total, rel=1e-5)


def test_attention_is_said_of_the_events_that_the_federated_model_reads(tmp_path: Path) -> None:
    catalogue = titled_catalogue()
    build(MODEL, catalogue).save_pretrained(tmp_path / "model")
    catalogue.save(tmp_path / "catalogue")
    home = tmp_path / "home.safetensors"
    transitions = TransitionCounts.of(some_histories(40), ITEMS, Memory(10, 0.8))
    save_counts(home, transitions, 16.0, catalogue.fingerprint)
    history = list(range(1, 9))  # of which the federated model reads 5, and counts all
    [one] = Recommender.load(tmp_path, home).recommend(ids(*history), 1, explain=True)
    assert one.explanation is not None
    attention = [event.attention for event in one.explanation.events]
    assert attention[:3] == [None] * 3
    assert sum(filter(None, attention)) == pytest.approx(1, rel=1e-5)
    model = AttentionRecommender.from_pretrained(tmp_path / "model")
    model.train(mode=False)
    weights = model.last_attention(torch.tensor([history]))[0].tolist()
    assert attention[3:] == pytest.approx(weights, rel=1e-5)


def test_an_item_without_features_is_ranked_by_its_offset(tmp_path: Path) -> None:
    plain = titled_catalogue()
    assert plain.features is not None
    features = plain.features.clone()
    features[6] = 0
    catalogue = plain.with_features(features)
    model = build(DESCRIBED, catalogue)
    assert model.item_scores.offset is not None
    with torch.no_grad():
        model.item_scores.offset[6] = 1.0
    model.save_pretrained(tmp_path / "model")
    catalogue.save(tmp_path / "catalogue")
    recommender = Recommender.load(tmp_path)
    for history in (ids(1, 2), []):
        assert recommender.recommend(history, 1)[0].item == "i7"
    assert len(recommender.recommend(ids(7), 19)) == 19


def test_places_are_those_of_the_history_that_was_given() -> None:
    [one] = made().recommend(["x", "i4", "y", "i9"], 1, explain=True, skip_unknown=True)
    assert one.explanation is not None
    assert [(event.place, event.item) for event in one.explanation.events] == [(1, "i4"), (3, "i9")]


def test_a_published_folder_is_loaded_with_the_home_model(tmp_path: Path) -> None:
    catalogue, own = titled_catalogue(), some_histories(40)
    model = build(DESCRIBED, catalogue)
    model.train(mode=False)
    model.save_pretrained(tmp_path / "model")
    catalogue.save(tmp_path / "catalogue")
    home = tmp_path / "home.safetensors"
    transitions = TransitionCounts.of(own, ITEMS, Memory(3, 0.5))
    save_counts(home, transitions, 16.0, catalogue.fingerprint)
    loaded = Recommender.load(tmp_path, home)
    scores = model.next_item_scores
    same = Recommender(catalogue, scores, 5, HomeModel(transitions, SoftmaxPrior(scores), 16.0))
    with torch.no_grad():
        assert loaded.recommend(ids(1, 2)) == same.recommend(ids(1, 2))
    assert loaded.recommend(ids(1, 2)) != Recommender.load(str(tmp_path)).recommend(ids(1, 2))
    with ThreadPoolExecutor(4) as pool:
        lists = list(pool.map(lambda n: loaded.recommend(ids(n % 20 + 1)), range(40)))
    assert lists[0] == lists[20] == loaded.recommend(ids(1))


def test_a_damaged_folder_is_refused(tmp_path: Path) -> None:
    catalogue = some_catalogue()
    build(MODEL, catalogue).save_pretrained(tmp_path / "model")
    with pytest.raises(DataError, match="there is no catalogue/ in it"):
        Recommender.load(tmp_path)
    catalogue.save(tmp_path / "catalogue")
    file = tmp_path / "model" / "model.safetensors"
    whole = file.read_bytes()
    for size in (0, 5, len(whole) // 2):
        file.write_bytes(whole[:size])
        with pytest.raises(DataError, match="copied whole"):
            Recommender.load(tmp_path)
    file.unlink()
    with pytest.raises(DataError, match="copied whole"):
        Recommender.load(tmp_path)
    file.write_bytes(whole)
    for text in ("{", "[]", '{"hidden_size": "x"}'):
        (tmp_path / "model" / "config.json").write_text(text)
        with pytest.raises(DataError):
            Recommender.load(tmp_path)


def test_friends_of_the_user_that_is_named_count() -> None:
    """The score of each item is α of the one without friends, and what friends chose."""
    own = Histories.from_lists([[1, 2], [7, 8], [8, 9, 10]], ["u", "v", "w"])
    table = FriendTable.from_edges({("u", "v"): 1.0, ("u", "w"): 3.0})
    friends = FriendsPart(table, np.array([0.25, 0.75], np.float32), own, 0.6, 0.0)
    plain = made("counts")
    assert plain.home is not None
    social = plain.with_home(replace(plain.home, friends=friends))
    chances = 0.6 * distribution(plain, [1, 2])
    chances[[6, 7]] += 0.4 * 0.25 / 2
    chances[[7, 8, 9]] += 0.4 * 0.75 / 3
    order = [int(j) + 1 for j in chances.argsort(descending=True, stable=True) if j not in (0, 1)]
    listed = social.recommend(ids(1, 2), 8, explain=True, user=" u")
    assert [one.item for one in listed] == ids(*order[:8])
    for one in listed:
        assert one.score == pytest.approx(float(chances[int(one.item[1:]) - 1]), rel=1e-5)
        assert one.explanation is not None
        assert one.explanation.score == pytest.approx(one.score, rel=1e-5)
    best = listed[0].explanation
    assert best is not None
    assert best.friends > best.score / 2
    assert best.sentence == "because your friends watched it"
    given = Histories.from_lists([[1, 2], [1, 2]], ["u", "v"])
    lists = social.rank_many(given, 8)
    assert lists.ids[0].tolist() == order[:8]
    alone = [one.item for one in plain.recommend(ids(1, 2), 8)]
    assert ids(*lists.ids[1].tolist()) == alone
    assert [one.item for one in social.recommend(ids(1, 2), 8)] == alone
    assert [one.item for one in next(iter(social.recommend_each([ids(1, 2)], 8)))] == alone
