"""Nothing leaks over padding, companions or time; what is saved is what is loaded."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.testing import assert_close

from shared.config import ItemRepresentation, ModelConfig, Trained
from shared.data.catalogue import Catalogue
from shared.data.histories import Histories
from shared.errors import ConfigError, DataError
from shared.models.attention import AttentionRecommender, build, trainable
from shared.models.attention_config import AttentionConfig
from shared.models.blocks import QUERY_SCALE, Attention
from shared.models.item_scores import ItemScores
from shared.models.losses import loss_per_user, next_item_pairs

V, F, D, T = 11, 5, 8, 6
few = settings(max_examples=25, deadline=None)
lists = st.lists(st.lists(st.integers(1, V), max_size=T), min_size=1, max_size=5)
kinds = pytest.mark.parametrize(
    ("items", "tied"),
    [("ids", True), ("ids", False), ("features", False), ("both", True), ("both", False)],
)


def features() -> Tensor:
    return torch.randn(V, F, generator=torch.Generator().manual_seed(1))


def recommender(
    items: str = "both", *, tied: bool = False, **shape: object
) -> AttentionRecommender:
    """A model in evaluation mode with large weights everywhere."""
    fields: dict[str, Any] = {"layers": 2, "heads": 2, "max_length": T, "dropout": 0.0}
    config = AttentionConfig(
        items=V,
        item_representation=items,
        tied=tied,
        feature_size=F,
        hidden_size=D,
        **fields | shape,
    )
    model = AttentionRecommender(config, features())
    model.train(False)
    draw = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(0.5 * torch.randn(p.shape, generator=draw))
    return model


def padded(histories: list[list[int]], length: int = T) -> Tensor:
    return Histories.from_lists(histories).padded(range(len(histories)), length)


# --- padding, companions, time -----------------------------------------------------------------


@kinds
@torch.no_grad()
def test_a_score_depends_only_on_its_own_past(items: str, tied: bool) -> None:
    """Each state in a padded batch is that of the bare prefix alone: causality and padding."""
    model = recommender(items, tied=tied)
    histories = [[3, 1, 3, 3, 9, 2], [], [4], [11, 10, 9, 8], [3, 1, 3]]
    scores = model(padded(histories))
    assert scores.shape == (len(histories), T, V)
    for row, history in enumerate(histories):
        for end in range(1, len(history) + 1):
            alone = model(torch.tensor([history[:end]]))[0, -1]
            assert_close(scores[row, end - 1], alone, rtol=1e-4, atol=1e-5)


@few
@given(lists, st.integers(0, T))
@torch.no_grad()
def test_padding_and_other_users_change_no_score(histories: list[list[int]], more: int) -> None:
    model = recommender(max_length=2 * T)
    narrow, wide = model(padded(histories)), model(padded(histories, T + more))
    for row, history in enumerate(histories):
        known = len(history)
        assert_close(wide[row, :known], narrow[row, :known], rtol=1e-4, atol=1e-5)
        alone = model(padded([history]))
        assert_close(narrow[row, :known], alone[0, :known], rtol=1e-4, atol=1e-5)


@few
@given(st.lists(st.integers(1, V), min_size=T, max_size=T), st.integers(1, T - 1), st.data())
@torch.no_grad()
def test_the_future_changes_no_past_state(past: list[int], cut: int, data: st.DataObject) -> None:
    model = recommender()
    future = data.draw(st.lists(st.integers(1, V), min_size=T - cut, max_size=T - cut))
    before, after = model.states(torch.tensor([past, past[:cut] + future]))
    assert_close(before[:cut], after[:cut], rtol=1e-5, atol=1e-6)
    if future[0] != past[cut]:
        assert (before[cut] - after[cut]).abs().max() > 1e-3


@torch.no_grad()
def test_order_and_repetition_matter() -> None:
    model = recommender()
    scores = model.next_item_scores(padded([[1, 2, 3], [2, 1, 3], [1, 2, 2, 3]]))
    assert (scores[0] - scores[1]).abs().max() > 1e-3
    assert (scores[0] - scores[2]).abs().max() > 1e-3


@pytest.mark.parametrize("layers", [1, 2])
@kinds
@torch.no_grad()
def test_next_item_scores_are_those_after_the_last_event(
    items: str, tied: bool, layers: int
) -> None:
    model = recommender(items, tied=tied, layers=layers, recency=0.7)
    histories = [[3, 1, 3, 3, 9, 2], [4], [11, 10, 9, 8]]
    everywhere, last = model(padded(histories)), model.next_item_scores(padded(histories))
    assert last.shape == (3, V)
    for row, history in enumerate(histories):
        assert_close(last[row], everywhere[row, len(history) - 1])


@torch.no_grad()
def test_a_short_history_in_a_long_batch_is_read_whole() -> None:
    model = recommender()
    long, short = list(range(1, T + 4)), [5, 2]
    together = model.next_item_scores(padded([long, short]))
    assert_close(together[1:], model.next_item_scores(padded([short])))
    assert_close(together[:1], model.next_item_scores(padded([long[-T:]])))


def test_an_empty_history_is_scored_from_the_first_state() -> None:
    model = recommender()
    scores = model.next_item_scores(padded([[], [5, 2]]))
    assert_close(scores[0], model(padded([[]]))[0, 0])
    assert scores.isfinite().all()


@torch.no_grad()
def test_the_last_events_of_a_long_history_are_read() -> None:
    model = recommender()
    long = torch.randint(1, V + 1, (3, 2 * T), generator=torch.Generator().manual_seed(3))
    assert_close(model.next_item_scores(long), model.next_item_scores(long[:, -T:]))


@pytest.mark.parametrize(("users", "length"), [(0, T), (3, 1), (0, 1), (1, 1), (T, T)])
@torch.no_grad()
def test_shapes_at_the_edge(users: int, length: int) -> None:
    model = recommender()
    histories = torch.ones(users, length, dtype=torch.int64)
    assert model(histories).shape == (users, length, V)
    assert model.states(histories).shape == (users, length, D)
    assert model.next_item_scores(histories).shape == (users, V)
    loss = loss_per_user(model(histories), histories)
    assert loss.shape == (users,)
    assert loss.isfinite().all()


# --- parts -------------------------------------------------------------------------------------


def test_dropout_acts_in_training_only() -> None:
    model = recommender(dropout=0.5)
    histories = padded([[1, 2, 3], [4, 5, 6]])
    assert_close(model(histories), model(histories), rtol=0, atol=0)
    model.train()
    torch.manual_seed(0)
    assert (model(histories) - model(histories)).abs().max() > 1e-2


def test_dropout_reaches_the_attention_weights() -> None:
    attention = recommender(dropout=0.5).blocks[0].get_submodule("attention")
    x = torch.randn(1, T, D, generator=torch.Generator().manual_seed(4))
    assert_close(attention(x), attention(x), rtol=0, atol=0)
    attention.train()
    assert (attention(x) - attention(x)).abs().max() > 1e-3


@torch.no_grad()
def test_features_are_read_by_item_and_are_not_trained() -> None:
    model = recommender("features")
    assert not any("table" in name for name in trainable(model))
    scores = model.next_item_scores(padded([[3, 1]]))
    model.features.table[6] += 1.0  # row i describes item i + 1
    moved = (model.next_item_scores(padded([[3, 1]])) - scores)[0].abs()
    assert moved[6] > 1e-3
    assert_close(moved[torch.arange(V) != 6], torch.zeros(V - 1))


@pytest.mark.parametrize("bias", [True, False])
@torch.no_grad()
def test_the_offset_of_an_item_changes_only_its_own_score(bias: bool) -> None:
    model = recommender(item_bias=bias)
    assert ("item_scores.offset" in trainable(model)) is bias
    if bias:
        scores = model(padded([[3, 1]]))
        trainable(model)["item_scores.offset"][4] += 1.0
        moved = model(padded([[3, 1]])) - scores
        assert (moved[..., 4] > 0.5).all()
        assert_close(moved[..., torch.arange(V) != 4], torch.zeros(1, T, V - 1))


@torch.no_grad()
def test_tied_ids_score_an_item_by_its_own_vector() -> None:
    model = recommender("ids", tied=True, item_bias=False)
    states = torch.randn(2, D, generator=torch.Generator().manual_seed(6))
    for item in range(1, V + 1):
        assert_close(model.score(states)[:, item - 1], states @ model.item.weight[item - 1])


def test_tied_ids_have_one_table_and_untied_two() -> None:
    assert "item_out.weight" not in trainable(recommender("ids", tied=True))
    assert "item_out.weight" in trainable(recommender("ids", tied=False))


@few
@given(lists)
def test_the_loss_depends_on_neither_other_users_nor_padding(histories: list[list[int]]) -> None:
    model = recommender(max_length=2 * T)

    @torch.no_grad()
    def losses(users: list[list[int]], length: int) -> Tensor:
        inputs, targets = next_item_pairs(padded(users, length))
        return loss_per_user(model(inputs), targets)

    together = losses(histories, T + 1)
    for row, history in enumerate(histories):
        assert_close(losses([history], 2 * T)[0], together[row], rtol=1e-4, atol=1e-5)


@kinds
@torch.no_grad()
def test_candidates_are_scored_as_in_the_whole_catalogue(items: str, tied: bool) -> None:
    model = recommender(items, tied=tied)
    states = torch.randn(3, T, D, generator=torch.Generator().manual_seed(6))
    candidates = torch.tensor([[1, 4, 4, V], [2, 3, 9, 1], [V, V, 5, 6]])
    scores = model.score(states)
    expected = torch.stack([scores[b][:, ids - 1] for b, ids in enumerate(candidates)])
    assert_close(model.score(states, candidates), expected)


def test_an_offset_is_multiplied_by_its_scale() -> None:
    layer = ItemScores(V, offset=True)
    with torch.no_grad():
        next(layer.parameters())[2] = 0.5
        scores = layer(torch.zeros(1, 1, D), torch.ones(V, D))[0, 0]
    assert scores[2] == 0.5 * ItemScores.OFFSET_SCALE
    assert scores.count_nonzero() == 1


@pytest.mark.parametrize("heads", [1, 2, 4])
@pytest.mark.parametrize("users", [3, T])
@torch.no_grad()
def test_attention_equals_torchs_also_with_as_many_users_as_events(heads: int, users: int) -> None:
    """Another library's is wrong for more than one head, and sees the future where B = T."""
    config = AttentionConfig(hidden_size=D, heads=heads, dropout=0.0)
    ours = Attention(config)
    theirs = torch.nn.MultiheadAttention(D, heads, batch_first=True)
    parts = (ours.query, ours.key, ours.value)
    theirs.in_proj_weight.copy_(torch.cat([part.weight for part in parts]))
    theirs.in_proj_bias.copy_(torch.cat([part.bias for part in parts]))
    theirs.out_proj.load_state_dict(ours.out.state_dict())
    x = torch.randn(users, T, D, generator=torch.Generator().manual_seed(3))
    future = torch.ones(T, T, dtype=torch.bool).triu(1)
    expected, _ = theirs(x, x, x, attn_mask=future, need_weights=False)
    assert_close(ours(x), expected)


# --- on disk -----------------------------------------------------------------------------------


@kinds
@torch.no_grad()
def test_a_saved_model_loads_unchanged(tmp_path: Path, items: str, tied: bool) -> None:
    model = recommender(items, tied=tied, item_bias=items != "ids")
    model.save_pretrained(tmp_path)
    assert {p.name for p in tmp_path.iterdir()} >= {"config.json", "model.safetensors"}
    assert not [p.name for p in tmp_path.iterdir() if p.suffix in (".bin", ".pt", ".pkl")]
    generator = torch.random.get_rng_state()
    loaded = AttentionRecommender.from_pretrained(tmp_path)
    assert torch.equal(torch.random.get_rng_state(), generator)
    assert not loaded.training
    histories = padded([[3, 1, 3, 3, 9, 2], [], [4]])
    assert_close(loaded(histories), model(histories), rtol=0, atol=0)
    assert set(loaded.state_dict()) == set(model.state_dict())
    assert loaded.config == model.config
    if items != "ids":
        assert_close(loaded.features.table, features(), rtol=0, atol=0)


def test_a_folder_that_transformers_wrote_loads(tmp_path: Path) -> None:
    """Models were saved by that library until its import was too slow."""
    model = recommender("both", tied=True, item_bias=True)
    model.save_pretrained(tmp_path)
    more = {"architectures": ["AttentionRecommender"], "dtype": "float32"}
    own = vars(model.config)
    file = tmp_path / "config.json"
    file.write_text(json.dumps(own | more | {"transformers_version": "5.23.0"}))
    assert AttentionRecommender.from_pretrained(tmp_path).config == model.config
    file.write_text(json.dumps(own | {"heads": "2"}))
    with pytest.raises(ValueError, match="heads"):
        AttentionRecommender.from_pretrained(tmp_path)


def without(tensors: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    return {key: value for key, value in tensors.items() if key != name}


@pytest.mark.parametrize("items", ["ids", "features", "both"])
def test_a_file_without_one_tensor_is_refused_by_its_name(tmp_path: Path, items: str) -> None:
    """Every tensor: one that is missing would stay as its memory was."""
    model = recommender(items, tied=True, item_bias=True)
    model.save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    tensors = load_file(file)
    assert set(tensors) == set(model.state_dict())
    for name in tensors:
        save_file(without(tensors, name), file, {"format": "pt"})
        with pytest.raises(DataError, match=f"lacks '{re.escape(name)}'"):
            AttentionRecommender.from_pretrained(tmp_path)


def test_other_tensors_and_shapes_are_refused_by_name(tmp_path: Path) -> None:
    recommender("features", tied=True, item_bias=True).save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    tensors = load_file(file)
    save_file(tensors | {"item_scores.offset2": torch.ones(3)}, file, {"format": "pt"})
    with pytest.raises(DataError, match=r"beside the model's tensors, 'item_scores\.offset2'"):
        AttentionRecommender.from_pretrained(tmp_path)
    save_file(tensors | {"norm.weight": torch.ones(D + 1)}, file, {"format": "pt"})
    with pytest.raises(DataError, match=rf"'norm\.weight' \(\[{D + 1}\], not \[{D}\]\)"):
        AttentionRecommender.from_pretrained(tmp_path)
    two = without(without(tensors, "norm.weight"), "norm.bias")
    save_file(two, file, {"format": "pt"})
    with pytest.raises(DataError, match=r"lacks 'norm\.bias' and 1 more\. Copy"):
        AttentionRecommender.from_pretrained(tmp_path)


def catalogue(feature_size: int | None) -> Catalogue:
    names = tuple(str(i) for i in range(V))
    bare = Catalogue(names, names, ((),) * V, (None,) * V)
    return bare if feature_size is None else bare.with_features(torch.ones(V, feature_size))


def test_build_follows_the_configuration_and_the_catalogue() -> None:
    shape = ModelConfig(
        feature_size=F, hidden_size=D, heads=4, layers=3, max_length=T, trained=Trained.SCORES
    )
    model = build(shape, catalogue(F))
    assert model(padded([[1, V]])).shape == (1, T, V)
    assert (len(model.blocks), model.config.heads) == (3, 4)
    assert_close(model.features.table, torch.ones(V, F))
    ids = ModelConfig(
        items=ItemRepresentation.IDS, hidden_size=D, max_length=T, trained=Trained.ALL
    )
    assert build(ids, catalogue(F)).config.feature_size == 0


@pytest.mark.parametrize("found", [None, F - 1, F + 1])
def test_build_refuses_features_of_another_size(found: int | None) -> None:
    shape = ModelConfig(feature_size=F, hidden_size=D, max_length=T)
    with pytest.raises(ConfigError, match=rf"feature_size = {F}.*has {found or 0} features"):
        build(shape, catalogue(found))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@kinds
@torch.no_grad()
def test_a_gpu_gives_the_same_scores(items: str, tied: bool) -> None:
    model = recommender(items, tied=tied)
    histories = padded([[3, 1, 3, 3, 9, 2], [], [4], [11, 10, 9, 8]])
    expected = model(histories), model.next_item_scores(histories)
    model.to("cuda")
    on_gpu = histories.to("cuda")
    got = model(on_gpu), model.next_item_scores(on_gpu)
    for scores, other in zip(got, expected, strict=True):
        assert_close(scores.cpu(), other, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("length", [1, 3, T, T + 4])
def test_the_last_event_attends_to_what_it_reads(length: int) -> None:
    """The weights are those that the output is made of."""
    model = recommender()
    row = torch.randint(1, V + 1, (1, length), generator=torch.Generator().manual_seed(3))
    padded = torch.nn.functional.pad(row, (0, 2))
    weights = model.last_attention(padded)
    assert_close(weights.sum(1), torch.ones(1))
    assert_close(weights[:, : min(length, T)], model.last_attention(row)[:, : min(length, T)])
    x = torch.randn(2, T, D, generator=torch.Generator().manual_seed(4))
    attention = next(module for module in model.modules() if isinstance(module, Attention))
    attended = attention.weights(x)  # (B, H, T, T)
    assert torch.equal(attended, attended.tril())
    values = attention.value(x).unflatten(2, (2, -1)).transpose(1, 2)
    by_hand = attention.out((attended @ values).transpose(1, 2).flatten(2))
    assert_close(by_hand, attention(x))


def test_equal_contents_are_attended_to_by_recency() -> None:
    model = recommender("features", layers=1, recency=0.5)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, Attention):
                module.query.weight.zero_()
                module.query.bias.zero_()
    weights = model.last_attention(torch.tensor([[4, 2, 7]]))
    assert_close(weights, torch.tensor([[1.0, 2.0, 4.0]]) / 7)


def test_frozen_layers_that_scale_cost_no_product_and_change_nothing() -> None:
    """The same scores from every layer computed in full, as a model trains that trains them all."""
    config = AttentionConfig(
        items=V,
        item_representation="features",
        feature_size=F,
        own_items=(2, 7),
        hidden_size=F + 2,
        trained="scores",
        layers=2,
        heads=1,
        max_length=T,
        dropout=0.0,
    )
    draw = torch.Generator().manual_seed(3)
    model = AttentionRecommender(config, features())
    with torch.no_grad():
        model.feature_out.weight.normal_(generator=draw)
    histories = torch.randint(1, V + 1, (3, T), generator=draw)
    quick, called = model(histories), list[str]()
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear):
            module.register_forward_hook(lambda *_, name=name: called.append(name))
    model(histories)
    assert called == ["feature_out"]
    dense = model.feature_out(model.states(histories)) @ model.features.table.T
    assert_close(quick, dense)
    model.requires_grad_(requires_grad=True)
    called.clear()
    assert_close(model(histories), quick)
    assert len(called) == 2 * 6 + 2
    model.requires_grad_(requires_grad=False)
    attention = next(part for part in model.modules() if isinstance(part, Attention))
    with torch.no_grad():
        attention.query.weight[0, 0] = math.nan
    assert bool(model(histories).isnan().any())


def test_narrow_attention_is_a_wide_one_that_looks_at_few_features() -> None:
    narrow = recommender("features", compared=3, layers=1, recency=0.75, trained="attention")
    wide = recommender("features", layers=1, recency=0.75, heads=2)
    wide.load_state_dict(
        {n: value for n, value in narrow.state_dict().items() if ".query." not in n}, strict=False
    )
    scale = QUERY_SCALE / 3**0.5 * (D / 2) ** 0.5
    with torch.no_grad():
        query, key = wide.attention.query, wide.attention.key
        for part in (query.weight, query.bias, key.weight, key.bias):
            part.zero_()
        for head in (0, D // 2):  # each head has the same query
            query.weight[head : head + 3, :3] = narrow.attention.query.weight * scale
            query.bias[head : head + 3] = narrow.attention.query.bias * scale
            key.weight[range(head, head + 3), range(3)] = 1
    histories = torch.tensor([[3, 1, 4, 1, 5, 9], [2, 6, 0, 0, 0, 0]])
    assert_close(narrow(histories), wide(histories))
    assert_close(narrow.next_item_scores(histories), wide.next_item_scores(histories))
    names = {"blocks.0.attention.query.weight", "blocks.0.attention.query.bias"}
    assert names == set(trainable(narrow)) - {"feature_out.weight", "item_scores.offset"}
    before = narrow(histories)
    with torch.no_grad():
        narrow.attention.query.weight.zero_()
        narrow.attention.query.bias.zero_()
    assert not torch.allclose(narrow(histories), before)
