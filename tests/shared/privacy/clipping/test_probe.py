"""The probe passes what is sound, catches what is not, and leaves no trace."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from shared.errors import ClippingError
from shared.models.losses import loss_per_user
from shared.privacy.clipping import clipping as book
from shared.privacy.clipping import factors as bookkeeping
from shared.privacy.clipping.layers import RULES
from shared.privacy.clipping.probe import probe

V, D = 17, 8
USERS = 1 + torch.arange(3 * 6).view(3, 6) * 5 % V


class Tied(nn.Module):
    """A table that is read and scored by; each user's loss is its own."""

    def __init__(self) -> None:
        super().__init__()
        self.item, self.norm, self.dropout = nn.Embedding(V, D), nn.LayerNorm(D), nn.Dropout(0.3)
        self.scores = nn.Linear(D, V)
        self.scores.weight = self.item.weight
        with torch.no_grad():
            self.item.weight.zero_()  # a start at which most gradients are 0

    def forward(self, users: Tensor) -> Tensor:  # (B, T + 1) -> (B)
        states = self.norm(self.dropout(self.item(users[:, :-1] - 1)))
        return loss_per_user(self.scores(states), users[:, 1:])


def test_the_probe_passes_what_is_sound_and_leaves_no_trace() -> None:
    model = Tied()
    before = [p.detach().clone() for p in model.parameters()]
    state = torch.get_rng_state()
    probe(model, model, USERS)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(module.training for module in model.modules())
    assert all(p.grad is None for p in model.parameters())
    for p, value in zip(model.parameters(), before, strict=True):
        assert torch.equal(p, value)


def test_a_missed_side_of_a_tied_table_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """The side that is read; norm and sum are of the same numbers."""
    model = Tied()
    model.item.weight.data.normal_()
    monkeypatch.setattr(bookkeeping.Rows, "add_to", lambda *_: None)
    with pytest.raises(ClippingError, match="should be"):
        probe(model, model, USERS)


def test_a_wrong_norm_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = bookkeeping.squared_norms
    monkeypatch.setattr(book, "squared_norms", lambda values: whole(values) * 0.99)
    model = Tied()
    with pytest.raises(ClippingError, match="the norms of users' gradients"):
        probe(model, model, USERS)


@pytest.mark.parametrize("kind", [nn.Linear, nn.Embedding, nn.LayerNorm])
def test_a_layer_whose_rule_says_nothing_is_caught(
    kind: type[nn.Module], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = Tied()
    monkeypatch.setattr(RULES[kind], "uses", lambda *_: [], raising=False)
    with pytest.raises(ClippingError, match="should be"):
        probe(model, model, USERS)
