"""Weights of a coordinator's choice: what one user adds to a training step, and to nobody else's.

Each attack was found by hand and broke an earlier version; the search looks for others.
"""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from client.compute import trainer
from client.compute.batches import Batch
from client.compute.friends import FriendsBeside
from client.compute.queries import AskedBeside
from client.compute.steps import LocalPlan
from client.compute.trainer import check_model, train
from shared.data.friends import FriendTable
from shared.data.histories import Histories
from shared.data.queries import Asked, queries_of
from shared.models.attention import AttentionRecommender, trainable
from shared.models.attention_config import AttentionConfig
from shared.models.lstm import LstmRecommender
from shared.models.modalities import ModalitiesRecommender
from shared.models.query import QueryRecommender
from shared.models.query_text import WordIndex
from shared.models.social import SocialRecommender
from shared.models.text import TextRecommender
from shared.privacy.clipping import clipping, factors
from shared.privacy.clipping.clipping import PerUserClipping
from shared.privacy.noise import SystemRandom, noised
from simulations.benchmarks.hostile_search import (
    ATTACKS,
    ITEMS,
    LARGEST,
    LENGTH,
    PLAN,
    Excess,
    attack,
    climb,
    clipped_sums,
    excess,
    hostile_model,
)
from tests.conftest import some_catalogue
from tests.tiny_encoder import WIDTH as TEXT_WIDTH
from tests.tiny_encoder import text_catalogue

search = settings(max_examples=40, deadline=None)
threads = pytest.mark.parametrize("threads", [1, 2])
OWN_ITEMS = torch.arange(ITEMS) % 3 != 1
OTHERS_OF_OWN_ITEMS = [[1, 3, 4, 6], [6, 6, 6], [7, 9, 10, 12, 1], [3], []]
OTHERS = [[1, 2, 4, 5], [6, 6, 6], [7, 8, 9, 10, 11, 12, 1], [2], [], [5, 4, 2, 1, 12, 11, 10]]


@pytest.fixture
def set_threads() -> Iterator[Callable[[int], None]]:
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@contextmanager
def no_matrix_formed() -> Iterator[None]:
    """Sum every matrix's gradients in factors, as large ones are."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(factors, "FORMED", 0)
        patch.setattr(clipping, "pays", lambda *_: True)
        yield


def assert_bounded(found: Excess) -> None:
    assert found.finite
    assert found.others == 0
    assert found.moved <= 1


# --- attacks that were found by hand -------------------------------------------------------------


@threads
@pytest.mark.parametrize("name", list(ATTACKS))
@pytest.mark.parametrize("user", [[3, 3], [3, 4, 5], [3] * LENGTH, [3] * (LENGTH + 1), [1, 3] * 20])
def test_an_attack_moves_a_sum_by_one_users_share_alone(
    name: str, user: list[int], threads: int, set_threads: Callable[[int], None]
) -> None:
    set_threads(threads)
    assert_bounded(excess(attack(name), OTHERS, user))


@pytest.mark.parametrize("name", list(ATTACKS))
@pytest.mark.parametrize("user", [[3] * (LENGTH + 1), [1, 3] * 20])
def test_nor_does_it_where_gradients_are_summed_in_factors(name: str, user: list[int]) -> None:
    with no_matrix_formed():
        assert_bounded(excess(attack(name), OTHERS, user))


def test_queries_over_a_few_features_are_bounded_as_well() -> None:
    shape = {"item_representation": "features", "layers": 1, "heads": 1, "recency": 0.75}
    narrow: dict[str, object] = shape | {"compared": 3, "trained": "attention"}
    for seed in range(12):
        model = hostile_model(np.random.default_rng(seed), AttentionRecommender, **narrow)
        for user in ([3, 4, 5], [3] * (LENGTH + 1)):
            assert_bounded(excess(model, OTHERS, user))


@pytest.mark.parametrize("items", ["features", "ids"])
def test_a_recurrence_with_candidate_wise_attention_is_bounded_as_well(items: str) -> None:
    shape = {"item_representation": items, "tied": True, "item_bias": True, "recency": 0.75}
    shape |= {"layers": 1, "heads": 1, "trained": "all"}
    for seed in range(12):
        model = hostile_model(np.random.default_rng(seed), LstmRecommender, **shape)
        for user in ([3, 4, 5], [3] * (LENGTH + 1)):
            assert_bounded(excess(model, OTHERS, user))


def asked_beside(histories: Histories) -> AskedBeside:
    """A query for every event of every user: the longest histories have more than a step reads."""
    asked = [
        Asked(name, f"i{item} of {place}", int(item))
        for name, history in zip(histories.users, histories, strict=True)
        for place, item in enumerate(history)
    ]
    return AskedBeside(histories, queries_of(histories, asked), WordIndex(some_catalogue(ITEMS)))


@pytest.mark.parametrize("items", ["features", "ids"])
def test_towers_over_queries_are_bounded_as_well(items: str) -> None:
    shape = {"item_representation": items, "tied": True, "layers": 1, "heads": 1, "query_size": 2}
    shape |= {"trained": "all" if items == "ids" else "scores", "recency": 0.75}
    for seed in range(4):
        model = hostile_model(np.random.default_rng(seed), QueryRecommender, **shape)
        for user in ([3, 4, 5], [3] * (LENGTH + 1)):
            assert_bounded(excess(model, OTHERS, user, beside=asked_beside))


def befriended(histories: Histories) -> FriendsBeside:
    """All are friends of the last of seven, who is there or not, and of the one before them."""
    pairs = [(user, 6) for user in range(6)] + [(user, (user + 1) % 6) for user in range(6)]
    names = histories.users
    edges = {
        (names[one], names[other]): 1.0
        for pair in pairs
        for one, other in (pair, pair[::-1])
        if max(pair) < len(names)
    }
    return FriendsBeside.of_table(histories, FriendTable.from_edges(edges), 6)


@pytest.mark.parametrize("items", ["features", "ids"])
def test_friends_are_bounded_as_well(items: str) -> None:
    """The user goes with all edges, and others' samples change: their sum still moves by C."""
    shape = {"item_representation": items, "tied": True, "layers": 1, "heads": 1, "friends": 6}
    shape |= {"trained": "all" if items == "ids" else "scores", "recency": 0.75}
    for seed in range(6):
        model = hostile_model(np.random.default_rng(seed), SocialRecommender, **shape)
        for user in ([3, 4, 5], [3] * (LENGTH + 1)):
            found = excess(model, OTHERS, user, beside=befriended)
            assert found.finite
            assert found.moved <= 1


@pytest.mark.parametrize("shape", [{"trained": "scores"}, {"trained": "all", "dropout": 0.2}])
def test_gates_of_modalities_are_bounded_as_well(shape: dict[str, object]) -> None:
    fixed = {"item_representation": "features", "layers": 1, "heads": 1, "recency": 0.75}
    for seed in range(6):
        model = hostile_model(np.random.default_rng(seed), ModalitiesRecommender, **fixed | shape)
        assert isinstance(model, ModalitiesRecommender)
        model.present[1], model.columns[0, 3:], model.columns[1, 3:] = 1, 0, 1
        model.present[0, 2::3] = 0
        for user in ([3, 4, 5], [3] * (LENGTH + 1)):
            assert_bounded(excess(model, OTHERS, user))


@pytest.mark.parametrize("own_items", [False, True])
@pytest.mark.parametrize("drawn", [0, 3])
def test_adapters_of_an_encoder_are_bounded_as_well(drawn: int, own_items: bool) -> None:
    """Also of an organisation that ranks its own items alone."""
    catalogue = text_catalogue(ITEMS, 5)
    shape = {"item_representation": "features", "layers": 1, "heads": 1, "trained": "scores"}
    shape |= {"text_width": TEXT_WIDTH, "text_blocks": 2, "lora_rank": 2, "recency": 0.75}
    for seed in range(6):
        model = hostile_model(np.random.default_rng(seed), TextRecommender, **shape)
        assert isinstance(model, TextRecommender)
        assert catalogue.text is not None
        model.features.attach(catalogue.text)
        if own_items:
            model.restrict(OWN_ITEMS)
        others = OTHERS_OF_OWN_ITEMS if own_items else OTHERS
        for user in ([3, 4, 6], [3] * (LENGTH + 1)):
            assert_bounded(excess(model, others, user, replace(PLAN, candidates=drawn)))


@pytest.mark.parametrize(
    ("kind", "items"),
    [
        *product([AttentionRecommender, LstmRecommender, QueryRecommender], ["features", "ids"]),
        (ModalitiesRecommender, "features"),
    ],
)
@pytest.mark.parametrize("candidates", [0, 3])
def test_so_is_a_model_that_ranks_an_organisations_own_items_alone(
    kind: type[AttentionRecommender], items: str, candidates: int
) -> None:
    """Whoever is there: what is left out is a public constant, and -inf reaches no sum."""
    shape = {"item_representation": items, "tied": True, "item_bias": True, "recency": 0.75}
    shape |= {"layers": 1, "heads": 1, "trained": "all"}
    beside = asked_beside if kind is QueryRecommender else None
    plan = replace(PLAN, candidates=candidates)
    for seed in range(2):
        model = hostile_model(np.random.default_rng(seed), kind, **shape)
        model.restrict(OWN_ITEMS)
        for user in ([3, 4, 6], [3] * (LENGTH + 1)):
            assert_bounded(excess(model, OTHERS_OF_OWN_ITEMS, user, plan, beside=beside))


def test_a_user_with_non_finite_arithmetic_adds_nothing_and_changes_no_other_user() -> None:
    """Does anybody hold item 3? The norm became NaN, and NaN shows through any noise."""
    model = hostile_model(np.random.default_rng(0), item_representation="ids", tied=False)
    with torch.no_grad():
        for weight in trainable(model).values():
            weight.copy_(torch.linspace(-1, 1, weight.numel()).view(weight.shape))
        model.item.weight[2] = LARGEST
    assert clipped_sums(model, [[3, 4, 5]]).count_nonzero() == 0
    assert clipped_sums(model, [[4, 5, 6]]).count_nonzero() > 0
    assert excess(model, OTHERS, [3, 4, 5]) == Excess(moved=0.0, others=0.0, finite=True)
    plan = replace(PLAN, noise_multiplier=1e6)
    change = train(model, Histories.from_lists([*OTHERS, [3, 4, 5]]), plan, SystemRandom())
    assert all(value.isfinite().all() for value in change.values())


def test_adapters_that_diverge_between_steps_do_not_fail_one() -> None:
    """By learning rate and decay. A failure after the charge would be an answer that costs less."""
    catalogue = text_catalogue(ITEMS, 5)
    shape = {"item_representation": "features", "layers": 1, "heads": 1, "trained": "scores"}
    shape |= {"text_width": TEXT_WIDTH, "text_blocks": 2, "lora_rank": 2, "own_items": (1, 2)}
    model = hostile_model(np.random.default_rng(0), TextRecommender, **shape)
    assert isinstance(model, TextRecommender)
    assert catalogue.text is not None
    model.features.attach(catalogue.text)
    plan = replace(PLAN, local_steps=12, learning_rate=1e4, weight_decay=1e4)
    change = train(model, Histories.from_lists(OTHERS), plan, SystemRandom())
    assert all(value.isfinite().all() for value in change.values())


def test_a_longer_history_changes_nobodys_rounding() -> None:
    """Attention over a batch padded to 20 events rounds otherwise than over one padded to 13."""
    model = attack("amplified rounding", length=20)
    random = np.random.default_rng(0)
    others = [list(random.integers(2, ITEMS + 1, random.integers(3, 14))) for _ in range(40)]
    assert_bounded(excess(model, others, list(random.integers(2, ITEMS + 1, 20))))


@pytest.mark.parametrize("length", [200, 1000])
def test_places_that_cancel_do_not_let_a_user_pass_the_bound(length: int) -> None:
    """What is measured is what is released, however little of its places is left."""
    model = attack("cancellation", length=length, recency=1.0)
    for others in ([], [[3, 1, 2]]):
        assert_bounded(excess(model, others, [7] * (length + 1)))


def test_cancelling_factors_do_not_either() -> None:
    """Through one layer: places of opposite, huge gradients, in an order that rounds worst."""
    layer = torch.nn.Linear(32, 2000, bias=False)
    draw = torch.Generator().manual_seed(2)
    half = torch.randn(1, 500, 32, generator=draw)
    states = torch.cat([half, half * (1 + 1e-6 * torch.randn(half.shape, generator=draw))], dim=1)
    signs = torch.cat([torch.ones(500), -torch.ones(500)])[:, None] * 1e6
    with PerUserClipping(layer, 1.0) as book:
        book.backward((layer(states) * signs).sum((1, 2)))
        assert 0.999 <= float(book.sum_of(layer.weight).norm()) <= 1


# --- shapes --------------------------------------------------------------------------------------


def shapes_seen(lists: list[list[int]], monkeypatch: pytest.MonkeyPatch) -> set[tuple[int, ...]]:
    seen: set[tuple[int, ...]] = set()
    losses = AttentionRecommender.losses

    def recorded(model: AttentionRecommender, events: Tensor, candidates: Tensor) -> Tensor:
        seen.add(tuple(events.shape))
        return losses(model, events, candidates)

    attack_model = attack("cancellation")
    clipped_sums(attack_model, [[1, 2]])  # what is checked once in a process
    with monkeypatch.context() as patch:
        patch.setattr(AttentionRecommender, "losses", recorded)
        clipped_sums(attack_model, lists)
    return seen


def test_shapes_are_public_constants(monkeypatch: pytest.MonkeyPatch) -> None:
    """Long, short, none: memory follows from shapes, and so does whether a node runs out of it."""
    cases: list[list[list[int]]] = [[], [[1, 2]], [[1, 2] * 50], OTHERS, OTHERS * 9]
    seen = [shapes_seen(lists, monkeypatch) for lists in cases]
    assert all(shapes == seen[0] for shapes in seen)
    assert len(seen[0]) == 1
    assert next(iter(seen[0]))[1] == LENGTH + 1


def test_the_longest_batch_is_computed_whatever_the_histories(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Before any of them is read: a node that runs out of memory does so for everybody."""
    model = AttentionRecommender(AttentionConfig(items=9, hidden_size=4, max_length=40))
    seen = list[int]()
    losses = trainer._batch_losses

    def recorded(model: AttentionRecommender, batch: Batch) -> Tensor:
        seen.append(batch.events.shape[1])
        return losses(model, batch)

    monkeypatch.setattr(trainer, "_batch_losses", recorded)
    monkeypatch.setattr(trainer, "_checked", {})
    check_model(model, PLAN)
    assert set(seen) == {11, 21, 41}
    seen.clear()
    clipped_sums(model, [[1, 2, 3]])
    assert set(seen) == {11}


MEMORY = """
import os, resource, sys, torch, numpy as np
torch.set_num_threads(1)
from shared.data.histories import Histories
from shared.models.attention import AttentionRecommender
from shared.models.attention_config import AttentionConfig
from shared.privacy.noise import SystemRandom
from client.compute.trainer import train
from simulations.benchmarks.hostile_search import PLAN
config = AttentionConfig(items=50, hidden_size=16, layers=1, heads=16, dropout=0.1, max_length=600)
model, random = AttentionRecommender(config), np.random.default_rng(0)
lists = [[int(i) for i in random.integers(1, 51, 8)] for _ in range(16)]  # two batches
for times in (1, 75):  # in a process each: the imports are the dear part
    if os.fork() == 0:
        lists[0] = lists[0] * times
        train(model, Histories.from_lists(lists), PLAN, SystemRandom())
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, flush=True)
        os._exit(0)
    assert os.wait()[1] == 0
"""


def test_memory_does_not_tell_whether_a_history_is_long() -> None:
    """The peak of a process with and without a user of 600 events, at 16 heads."""
    # Without a fixed threshold the C library keeps freed blocks by chance: a tenth of the peak.
    malloc = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_ARENA_MAX": "1"}
    done = subprocess.run(
        [sys.executable, "-c", MEMORY],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | malloc,
    )
    peaks = [int(line) for line in done.stdout.splitlines()]
    assert len(peaks) == 2
    assert abs(peaks[1] - peaks[0]) < 0.01 * max(peaks)


# --- search --------------------------------------------------------------------------------------


history = st.one_of(
    st.lists(st.integers(1, ITEMS), max_size=LENGTH + 3),
    st.builds(lambda item, n: [item] * n, st.integers(1, ITEMS), st.integers(0, 3 * LENGTH)),
    st.builds(lambda n: [1, 2] * n, st.integers(0, LENGTH)),
)


@search
@given(
    st.integers(0, 2**32),
    st.lists(history, max_size=13),
    history,
    st.sampled_from([0.0, 0.3]),
    st.sampled_from([0, 3]),
    st.integers(-30, 30),
    st.data(),
)
def test_a_user_moves_a_sum_by_its_own_share_and_no_more(
    seed: int,
    others: list[list[int]],
    user: list[int],
    dropout: float,
    candidates: int,
    clip: int,
    data: st.DataObject,
) -> None:
    """Wherever the user stands, bit for bit, and every share is one alone."""
    model = hostile_model(np.random.default_rng(seed), dropout=dropout)
    plan = replace(PLAN, clip_norm=2.0**clip, candidates=candidates)
    place, unformed = data.draw(st.integers(0, len(others))), data.draw(st.booleans())
    lists = [*others[:place], user, *others[place:]]
    names = [f"user {number}" for number in range(len(lists))]

    def total(rows: list[int]) -> Tensor:
        histories = Histories.from_lists([lists[r] for r in rows], [names[r] for r in rows])
        with no_matrix_formed() if unformed else nullcontext():
            return sums_of(model, histories, plan)

    everybody = list(range(len(lists)))
    shares = [total([row]) for row in everybody]
    assert all(float(share.norm()) <= plan.clip_norm for share in shares)
    assert torch.equal(total(everybody), torch.stack(shares).sum(0))
    assert torch.equal(
        total([r for r in everybody if r != place]) + shares[place], total(everybody)
    )


def sums_of(model: AttentionRecommender, histories: Histories, plan: LocalPlan) -> Tensor:
    """As `clipped_sums`, of users with names."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Histories, "from_lists", classmethod(lambda *_: histories))
        return clipped_sums(model, [], plan)


@threads
@pytest.mark.parametrize("seed", range(3))
def test_a_climb_of_seconds_finds_nothing(
    seed: int, threads: int, set_threads: Callable[[int], None]
) -> None:
    set_threads(threads)
    random = np.random.default_rng(seed)
    for model in (hostile_model(random), attack(list(ATTACKS)[seed])):
        found, _ = climb(model, random, seconds=1.0)
        assert_bounded(found)


@pytest.mark.parametrize("items", ["ids", "features", "both"])
@pytest.mark.parametrize("steps", [1, 40])
def test_gradient_ascent_on_one_users_norm_does_not_pass_the_bound(items: str, steps: int) -> None:
    """The norm before clipping grows by orders of magnitude; what is released does not."""
    model = hostile_model(np.random.default_rng(5), item_representation=items)
    weights, user = list(trainable(model).values()), [3, 3, 5, 3, 5, 3, 3]
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in weights:
            p.copy_(torch.randn(p.shape, generator=draw))

    def norm() -> Tensor:
        events = torch.tensor([user])
        losses = torch.nn.functional.cross_entropy(model(events[:, :-1])[0], events[0, 1:] - 1)
        grads = torch.autograd.grad(losses, weights, create_graph=True, materialize_grads=True)
        return torch.stack([g.square().sum() for g in grads]).sum().sqrt()

    first = float(norm().detach())
    for _ in range(steps):
        ascent = torch.autograd.grad(norm().log(), weights, materialize_grads=True)
        with torch.no_grad():
            for p, direction in zip(weights, ascent, strict=True):
                p.add_(direction / direction.norm().clamp(min=1e-12))
    assert steps == 1 or float(norm().detach()) > 3 * first
    assert_bounded(excess(model, OTHERS, user))


# --- the last wall -------------------------------------------------------------------------------


@pytest.mark.parametrize("broken", [math.nan, math.inf, -math.inf])
def test_a_sum_that_is_not_finite_leaves_as_noise_alone(broken: float) -> None:
    total = torch.tensor([1e3, broken, -5e3])
    out = noised(total, 1.0, SystemRandom())
    assert out.isfinite().all()
    assert float(out.abs().max()) < 10


@pytest.mark.parametrize("scale", [1e-20, 1.0, 1e38])
def test_a_noised_sum_is_finite_at_the_edge_of_float32(scale: float) -> None:
    total = torch.tensor([LARGEST, -LARGEST, 0.0, 1e-45])
    assert noised(total, scale, SystemRandom()).isfinite().all()


# --- on a GPU ------------------------------------------------------------------------------------


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("items", ["ids", "features", "both"])
@pytest.mark.parametrize("candidates", [0, 3])
def test_on_a_gpu_a_users_share_is_the_same_bits(items: str, candidates: int) -> None:
    """Under bfloat16 autocast, where the rows were checked and stayed more than one."""
    random = np.random.default_rng(7)
    for _ in range(20):
        model = hostile_model(random, item_representation=items)
        model.to("cuda")
        for user in ([3] * (LENGTH + 1), [1, 2, 3], []):
            found = excess(model, OTHERS, user, replace(PLAN, candidates=candidates))
            assert_bounded(found)
    rows = [s.rows for key, shapes in trainer._checked.items() if "cuda" in key for s in shapes]
    assert rows
    assert min(rows) > 1


def test_a_model_of_the_usual_size_has_more_than_one_row() -> None:
    """The check of rows passes with this machine's kernels; else training is slow."""
    config = AttentionConfig(items=100, hidden_size=16, layers=1, max_length=20, dropout=0.0)
    plan = replace(PLAN, population=100)
    shapes = trainer._checked_shapes(AttentionRecommender(config), plan)
    assert [shape.length for shape in shapes] == [10, 20]
    assert min(shape.rows for shape in shapes) > 1
