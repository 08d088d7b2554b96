"""Whatever depends on the request alone is checked before the charge, and holds in odd shapes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from flwr.app import Message
from torch import Tensor, nn

from client.compute import evaluation, trainer
from client.site.site import Site
from shared.errors import ClippingError
from shared.messages import refusal_in
from shared.models.losses import loss_per_user
from shared.outcomes import Refusal
from shared.privacy.clipping.probe import probe
from tests.hostile.test_bounds import ask, evaluate_request
from tests.shared.privacy.clipping.test_probe import USERS, D, V

if TYPE_CHECKING:
    from tests.conftest import Sites

PRIVATE = {"policy.max_epsilon": 100.0, "policy.answers": ["train", "evaluate"]}


def refuse(*_: object) -> Any:  # noqa: ANN401
    raise ClippingError("no bound on a user's share can be proven")


@pytest.mark.parametrize("kind", ["train", "evaluate"])
def test_a_model_whose_clipping_is_not_proven_is_refused_before_the_charge(
    sites: Sites, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (trainer, evaluation):
        monkeypatch.setattr(module, "_checked", {})  # whatever was checked in this process before
    monkeypatch.setattr(trainer, "_probe", refuse)
    monkeypatch.setattr(evaluation, "independent_rows", refuse)
    monkeypatch.setattr(Site, "load_histories", lambda *_: pytest.fail("the data were read"))
    request = sites.request(noise_multiplier=2.0)
    content = request if kind == "train" else evaluate_request(sites)
    folder = sites.make("alpha", PRIVATE)
    reply = ask(folder, Message(content.to_content(), 1, kind))
    assert refusal_in(reply) is Refusal.POLICY
    assert Site.load(folder).open_ledger().releases() == []


@pytest.mark.parametrize("kind", ["train", "evaluate"])
def test_what_would_overspend_is_refused_before_the_data_are_read(
    sites: Sites, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It costs nothing: its time would tell how many users there are, as often as it is asked."""
    monkeypatch.setattr(Site, "load_histories", lambda *_, **__: pytest.fail("the data were read"))
    content = sites.request() if kind == "train" else evaluate_request(sites)
    folder = sites.make("alpha", PRIVATE | {"policy.max_epsilon": 0.01})
    reply = ask(folder, Message(content.to_content(), 1, kind))
    assert refusal_in(reply) is Refusal.BUDGET


def test_a_sound_model_passes_whatever_float32_makes_of_a_vanishing_gradient() -> None:
    """A norm over one number lets no gradient through but its rounding, many times enlarged."""
    model = Narrow()
    probe(model, model, USERS)


class Narrow(nn.Module):
    """A table whose vectors a norm of width 1 makes alike."""

    def __init__(self) -> None:
        super().__init__()
        self.item, self.down = nn.Embedding(V, D), nn.Linear(D, 1)
        self.norm, self.scores = nn.LayerNorm(1), nn.Linear(1, V)

    def forward(self, users: Tensor) -> Tensor:  # (B, T + 1) -> (B)
        states = self.norm(100 + self.down(self.item(users[:, :-1] - 1)))
        return loss_per_user(self.scores(states), users[:, 1:])
