"""Items that nobody chose while training: held out in full, and still recommended by their text."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from shared.config import ModelConfig
from shared.data.catalogue import Catalogue
from shared.data.histories import Histories
from shared.data.reading import read_histories
from shared.data.splits import leave_one_out
from shared.errors import ConfigError
from shared.evaluation.ranking import Ranking
from shared.item_features.encoder import TextEncoder, encoded_features
from shared.item_features.encoder_source import find_encoder
from shared.models.attention import AttentionRecommender, build
from simulations.experiment.cold import cold_items, cold_section, treat_as_new, without_items
from simulations.experiment.prepare import prepare
from simulations.experiment.simulate import simulate
from tests.simulations.experiment.test_simulate import Silent, settings
from tests.tiny_encoder import WORDS, save_encoder

GROUPS = ("alien night slime horror", "happy wedding rome comedy", "space race deep sea")
EACH = 12
"""Items of a group that training knows."""
KNOWN = EACH * (len(GROUPS) + 1)


# --- which ones --------------------------------------------------------------------------------


def test_cold_items_are_drawn_by_seed_and_share() -> None:
    drawn = cold_items(50, 0.1, seed=3)
    np.testing.assert_array_equal(drawn, cold_items(50, 0.1, seed=3))
    assert len(drawn) == len(set(drawn.tolist())) == 5
    assert drawn.min() >= 1
    assert drawn.max() <= 50
    assert drawn.tolist() == sorted(drawn.tolist())
    assert drawn.tolist() != cold_items(50, 0.1, seed=4).tolist()
    assert len(cold_items(50, 0.001, seed=0)) == 1
    assert len(cold_items(50, 0.0, seed=0)) == 0


@pytest.mark.parametrize("share", [-0.1, 1.0, 2.0, float("nan")])
def test_a_share_out_of_range_is_refused(share: float) -> None:
    with pytest.raises(ConfigError, match=r"lab\.cold = "):
        cold_items(10, share, seed=0)


def test_only_what_is_trained_on_changes() -> None:
    split = leave_one_out(Histories.from_lists([[1, 2, 3, 2, 5], [2, 2, 1], [4, 5, 4, 1, 2]]))
    without = without_items(split, np.array([2, 5]))
    assert [list(items) for items in split.train] == [[1, 2, 3], [2], [4, 5, 4]]
    assert [list(items) for items in without.train] == [[1, 3], [], [4, 4]]
    assert without.train.users == split.train.users
    assert without.test_inputs is split.test_inputs
    assert without.test_targets is split.test_targets


def test_figures_are_of_the_users_who_are_asked_for_a_cold_item() -> None:
    split = leave_one_out(Histories.from_lists([[1, 2, 3], [1, 2, 4], [2, 1, 3], [2, 4, 1]]))
    ranking = Ranking(
        ranks=torch.tensor([1, 1, 11, 1]),
        top=torch.tensor([[3], [4], [2], [1]]),
        items=4,
        k=10,
    )
    section = cold_section(split, np.array([3]), {"federated": ranking})
    assert (section.items, section.users) == (1, 2)
    assert section.models["federated"]["hr@10"] == 0.5  # users 0 and 2
    assert section.models["federated"]["coverage@10"] == 0.5  # items 3 and 2 of four
    assert cold_section(split, np.array([2]), {"federated": ranking}).models == {}


@pytest.mark.parametrize("bias", [True, False])
def test_new_items_have_the_offset_that_features_say_and_the_model_is_kept(bias: bool) -> None:
    ids = tuple("abcd")
    items = Catalogue(ids, ids, ((),) * 4, (None,) * 4).with_features(torch.eye(4))
    model = build(ModelConfig(feature_size=4, hidden_size=4, item_bias=bias), items)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    if model.item_scores.offset is not None:
        with torch.no_grad():
            model.item_scores.offset.copy_(torch.tensor([[1.0], [-9.0], [3.0], [-8.0]]))
        before["item_scores.offset"] = torch.tensor([[1.0], [2.0], [3.0], [2.0]])
    new = treat_as_new(model, np.array([2, 4]))
    for name, value in new.named_parameters():
        torch.testing.assert_close(value, before[name])  # both new items are between the others
    if bias:
        assert model.item_scores.offset is not None
        assert model.item_scores.offset[1] == -9


# --- in a simulation ---------------------------------------------------------------------------


def test_a_simulation_trains_without_them_and_asks_for_them(
    tiny_data: Path, tmp_path: Path
) -> None:
    config = settings(tiny_data, "lab.cold=0.2")
    simulation = prepare(config, tmp_path / "run")
    assert len(simulation.cold) == 4  # of 18
    catalogue = simulation.dataset.catalogue
    for site in sorted((tmp_path / "run" / "sites").iterdir()):
        events = read_histories(site / "interactions.parquet", catalogue, min_events=1)
        assert events.events
        assert not np.isin(events.items, simulation.cold).any()
    asked = int(np.isin(simulation.split.test_targets, simulation.cold).sum())
    cold = simulate(simulation, Silent())["evaluation"]["cold"]
    assert (cold["items"], cold["users"]) == (4, asked)
    assert asked > 0
    assert set(cold["models"]) == {
        *("popularity", "popularity_private", "markov", "counts3", "counts3_local", "item_knn"),
        *("ease", "federated", "federated_new", "home", "federated_home"),
    }


def test_without_cold_items_nothing_is_said_of_them(tiny_data: Path, tmp_path: Path) -> None:
    simulation = prepare(settings(tiny_data), tmp_path / "run")
    assert len(simulation.cold) == 0
    assert "cold" not in simulate(simulation, Silent())["evaluation"]


# --- an item that did not exist yet ------------------------------------------------------------


def films() -> Catalogue:
    """Groups of alike texts, the last at random; then an item like each of them."""
    draw = np.random.default_rng(0)
    mixed = [" ".join(draw.choice(WORDS[:19], size=5)) for _ in range(EACH + 1)]
    titles = [[f"{words} story {n}" for n in range(EACH + 1)] for words in GROUPS] + [mixed]
    old, new = [t for group in titles for t in group[:-1]], [group[-1] for group in titles]
    blank = ((),) * len(old + new)
    ids = tuple(f"i{number}" for number in range(len(old + new)))
    return Catalogue(ids, (*old, *new), blank, (None,) * len(ids))


def trained(items: Catalogue, histories: torch.Tensor) -> AttentionRecommender:
    """A model that was shown the items of `GROUPS` alone: the others did not exist yet."""
    torch.manual_seed(0)
    shape = ModelConfig(
        feature_size=4, hidden_size=8, layers=1, heads=2, max_length=EACH, item_bias=False
    )
    model = build(shape, items).train()
    optimiser = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(60):
        scores = model(histories[:, :-1])[..., :KNOWN]
        loss = F.cross_entropy(scores.flatten(0, 1), histories[:, 1:].flatten() - 1)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return model.eval()


@pytest.mark.parametrize("seed", [0, 1])
def test_an_item_that_was_never_seen_is_recommended_by_its_text(tmp_path: Path, seed: int) -> None:
    encoder = TextEncoder(find_encoder(str(save_encoder(tmp_path / "tiny", seed))))
    items = films()
    items = items.with_features(encoded_features(items, encoder, 4))
    draw = torch.Generator().manual_seed(0)
    group = torch.arange(80) % (len(GROUPS) + 1)  # each user stays in one
    histories = 1 + torch.randint(EACH, (80, 8), generator=draw) + EACH * group[:, None]
    assert int(histories.max()) == KNOWN

    model = trained(items, histories)
    with torch.no_grad():
        scores = model.next_item_scores(histories)  # (B, V)
    ranks = scores.argsort(1, descending=True).argsort(1) + 1
    fond = group < len(GROUPS)  # of a group whose texts are alike
    first = ranks[fond, KNOWN:] <= EACH + 1  # [users, 4]: as high as that group is large
    own = torch.arange(len(GROUPS) + 1) == group[fond, None]
    assert first[own].float().mean() > 0.8
    assert first[~own].float().mean() < 0.2  # by chance, a quarter
    assert first[:, -1].float().mean() < 0.2  # the random text
