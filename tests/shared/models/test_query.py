"""The kind "query": its formula, its start, what words match, and what each user adds to a sum."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.testing import assert_close

from client.compute import trainer
from client.compute.batches import Shape
from client.compute.queries import AskedBeside
from client.compute.steps import LocalPlan
from client.compute.trainer import check_model, gradient_points, train
from shared.config import ItemRepresentation, ModelConfig, ModelKind, Trained, Trust
from shared.data.catalogue import Catalogue
from shared.data.histories import Histories
from shared.data.queries import Asked, queries_of
from shared.models.attention import trainable
from shared.models.query import QUERIES, SHARES_SCALE, QueryRecommender
from shared.models.query_text import WordIndex, bag_of
from shared.models.registry import build_recommender
from shared.privacy.clipping.clipping import PerUserClipping
from shared.privacy.noise import SeededRandom
from tests.conftest import DESCRIBED, ITEMS, some_catalogue

QUERY = replace(DESCRIBED, kind=ModelKind.QUERY, query_size=3)
ALL = {"trained": Trained.ALL}
IDS: dict[str, Any] = ALL | {"items": ItemRepresentation.IDS, "hidden_size": 8}
EVENTS = torch.tensor([[3, 5, 1, 9, 2], [7, 7, 2, 0, 0], [1, 2, 0, 0, 0], [6, 0, 0, 0, 0]])
TITLES = ("Star Wars (1977)", "The Star", "Amélie", "Wars of the Roses, The")


def made(model: ModelConfig = QUERY, *, drawn: bool = True) -> QueryRecommender:
    """A model in evaluation mode whose trained weights are random, or as it starts."""
    torch.manual_seed(1)
    built = build_recommender(model, some_catalogue())
    assert isinstance(built, QueryRecommender)
    if drawn:
        for weight in trainable(built).values():
            torch.nn.init.normal_(weight, std=0.3)
    return built.eval()


def some_beside(model: QueryRecommender, users: int = 4) -> tuple[Tensor, ...]:
    """Queries of some users; the second one has fewer, the last one none."""
    beside = model.invented_beside(users, 4, seed=3)
    beside[3][1, 2:] = 0
    beside[3][-1] = 0
    return beside


def test_scores_are_those_of_the_formula() -> None:
    model = made()
    pasts, bags, matches, _ = some_beside(model)
    scores = model.query_scores(pasts, bags, matches)
    for user, place in ((0, 0), (2, QUERIES - 1)):
        towers = (model.query_in.weight @ bags[user, place]) @ (
            model.features.table @ model.query_out.weight
        ).T
        core = model.next_item_scores(pasts[user, place][None])[0]
        gain, weight = SHARES_SCALE * model.query_shares.weight[:, 0]
        expected = towers + gain * matches[user, place] + weight * core
        assert_close(scores[user, place], expected)


def test_it_begins_as_words_times_the_warm_start_and_is_the_core_without_a_query() -> None:
    model, base = made(drawn=False), build_recommender(DESCRIBED, some_catalogue()).eval()
    with torch.no_grad():
        for name, weight in trainable(base).items():
            weight.normal_(std=0.2)
            trainable(model)[name].copy_(weight)
    beside = some_beside(model)
    pasts, bags, matches, chosen = beside
    core = torch.stack([base.next_item_scores(pasts[:, place]) for place in range(QUERIES)], 1)
    assert_close(model.query_scores(pasts, bags, matches), core + matches)
    assert torch.equal(model.next_item_scores(EVENTS), base.next_item_scores(EVENTS))
    assert torch.equal(model.losses(EVENTS, EVENTS[:, :0]), base.losses(EVENTS, EVENTS[:, :0]))
    model.losses(EVENTS, EVENTS[:, :0], *beside).sum().backward()
    assert model.query_out.weight.grad is not None
    assert model.query_out.weight.grad.norm() > 0  # and it can leave the start
    alone = made(drawn=False)
    alone.load_state_dict(model.state_dict())
    alone.losses(EVENTS, EVENTS[:, :0]).sum().backward()
    of_history, whole = alone.feature_out.weight.grad, model.feature_out.weight.grad
    assert of_history is not None
    assert whole is not None
    assert torch.equal(of_history, whole)  # queries do not move the core
    assert chosen[-1].count_nonzero() == 0


@pytest.mark.parametrize("shape", [{}, ALL, IDS, IDS | {"items": ItemRepresentation.BOTH}], ids=str)
@pytest.mark.parametrize("users", [4, QUERIES])
def test_clipped_sums_are_those_of_single_users(shape: dict[str, Any], users: int) -> None:
    """Norms and sums against a loop over users by plain autograd, to 1e-5; also where B = S."""
    model = made(replace(QUERY, **shape)).double().train()
    events = EVENTS.repeat(2, 1)[:users]
    given = (events, events[:, :0], *some_beside(model, users))
    weights = list(trainable(model).values())
    own = [
        torch.cat(
            [part.flatten() for part in torch.autograd.grad(loss, weights, materialize_grads=True)]
        )
        for loss in (model.losses(*given)[row] for row in range(users))
    ]
    norms = torch.stack(own).norm(dim=1)
    clip = float(norms.median())
    expected = sum(part * min(1.0, clip / max(float(part.norm()), 1e-12)) for part in own)
    with PerUserClipping(model, clip) as clipping:
        clipping.zero_sums()
        found = clipping.backward(model.losses(*given))
        sums = torch.cat([clipping.sum_of(weight).flatten() for weight in weights])
    assert_close(found, norms, rtol=1e-5, atol=1e-9)
    assert isinstance(expected, Tensor)
    assert float((sums - expected).norm() / expected.norm()) < 1e-5


def some_asked() -> tuple[Histories, AskedBeside]:
    """Three users of twenty items; the first has more queries than a step reads."""
    histories = Histories.from_lists([[1, 2, 3], [4, 5], [6, 7, 8, 9]])
    texts = [f"i{1 + number} drama" for number in range(QUERIES + 4)]
    asked = [Asked("0", text, 1 + number) for number, text in enumerate(texts)]
    queries = queries_of(histories, [*asked, Asked("2", "i8", 8), Asked("9", "i1", 1)])
    return histories, AskedBeside(histories, queries, WordIndex(some_catalogue()))


def test_a_noised_step_moves_every_weight_and_the_same_sum_is_masked() -> None:
    histories, beside = some_asked()
    model = made(drawn=False)
    plan = LocalPlan(population=9, noise_multiplier=1.0)
    check_model(model, plan)
    change = train(model, histories, plan, SeededRandom(0), beside=beside)
    assert all(value.count_nonzero() for value in change.values())
    assert {"query_in.weight", "query_shares.weight", "feature_out.weight"} <= set(change)
    quiet = replace(plan, noise_multiplier=1e-3, trust=Trust.SECURE_AGGREGATION)
    points = [
        gradient_points(made(drawn=False), histories, quiet, SeededRandom(0), beside=one)
        for one in (beside, None)
    ]
    assert len(points[0]) == sum(value.numel() for value in change.values())
    assert (points[0] != points[1]).sum() >= 3 * 4 + 2  # B, g and w; A begins without a gradient


class EverybodyAsked(AskedBeside):
    """Users without queries are computed as those who have some."""

    def present(self, users: NDArray[np.int64]) -> NDArray[np.bool_]:
        return np.ones(len(users), np.bool_)


def test_users_without_queries_pay_nothing_and_add_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The sum is the same, to rounding, whichever batches they come in."""
    histories, beside = some_asked()
    plan = LocalPlan(population=9, noise_multiplier=1e-3, trust=Trust.SECURE_AGGREGATION)
    read: list[int] = []
    losses = trainer._batch_losses

    def noted(model: Any, batch: Any) -> Any:  # noqa: ANN401
        present = (batch.events != 0).any(1)
        read.extend(batch.events[present, 0].tolist() if batch.beside else [])
        return losses(model, batch)

    monkeypatch.setattr(trainer, "_batch_losses", noted)
    everybody = EverybodyAsked(histories, beside.queries, beside.index)
    sums, rows = [], []
    check_model(made(), plan)
    for one in (beside, everybody):
        read.clear()
        sums.append(gradient_points(made(), histories, plan, SeededRandom(0), beside=one))
        rows.append(sorted(read))
    assert rows == [[1, 6], [1, 4, 6]]  # first events: of the two who asked, and of all three
    assert np.abs(sums[0] - sums[1]).max() < 1e-6 * np.abs(sums[0]).max()


def test_what_a_step_reads_is_the_users_own() -> None:
    _, beside = some_asked()
    shape = Shape(rows=4, length=3, items=ITEMS, candidates=0, masked=0)
    pasts, bags, matches, chosen = beside.of(np.array([0, 2]), shape, b"k" * 32, 0)
    assert chosen[0].tolist() != list(range(1, QUERIES + 1))  # some are drawn
    assert (chosen != 0).sum(1).tolist() == [QUERIES, 1, 0, 0]
    assert pasts[1, 0].tolist() == [6, 7, 0]  # what came before the choice alone
    assert torch.equal(bags[1, 0], torch.from_numpy(bag_of("i8")))
    assert matches[1, 0].argmax() == 7
    again = beside.of(np.array([2, 0]), shape, b"k" * 32, 0)
    for before, after in zip((pasts, bags, matches, chosen), again, strict=True):
        assert torch.equal(before[0], after[1])  # in whichever row, and among whom
    other = beside.of(np.array([0, 2]), shape, b"k" * 32, 1)[3]
    assert not torch.equal(other[0], chosen[0])


def test_what_a_user_declared_is_read_with_a_query_and_matches_no_word() -> None:
    histories, beside = some_asked()
    asked = [Asked("2", "i8", 8, attributes=("age=25",)), Asked("2", "i8", 8)]
    asking = AskedBeside(histories, queries_of(histories, asked), beside.index)
    shape = Shape(rows=1, length=3, items=ITEMS, candidates=0, masked=0)
    _, bags, matches, _ = asking.of(np.array([2]), shape, b"k" * 32, 0)
    assert torch.equal(bags[0, 0], torch.from_numpy(bag_of("i8", ["age=25"])))
    assert torch.equal(bags[0, 1], torch.from_numpy(bag_of("i8")))
    assert (bags[0, 0] > 0).sum() == (bags[0, 1] > 0).sum() + 1
    assert torch.equal(matches[0, 0], matches[0, 1])
    assert np.linalg.norm(bag_of("i8", ["age=25", "city=rome"])) == pytest.approx(1)


def test_words_match_as_bm25_has_it() -> None:
    genres = (("Sci-Fi",), (), ("Romance",), ("Comedy",))
    catalogue = Catalogue(tuple("abcd"), TITLES, genres, (None,) * 4)
    scores = WordIndex(catalogue).scores("AMELIE")
    assert scores.argmax() == 2
    assert np.count_nonzero(scores) == 1
    lengths = np.array([5, 2, 2, 6])
    of_star = np.log1p(2.5 / 2.5) * 2.5 / (1 + 1.5 * (0.25 + 0.75 * lengths / lengths.mean()))
    expected = np.where([True, True, False, False], of_star, 0)
    np.testing.assert_allclose(WordIndex(catalogue).scores("star, nowhere"), expected, rtol=1e-6)
    assert np.linalg.norm(bag_of("twist ending")) == pytest.approx(1)
    assert not bag_of("?!").any()
    near, far = bag_of("superheroes") @ bag_of("superhero"), bag_of("superheroes") @ bag_of("noir")
    assert near > 0.3
    assert far < 0.1
