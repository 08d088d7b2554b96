"""The kind "social": what a user's friends chose, weighed by two numbers that organisations learn.

The model is the core of the kind "attention", which is trained as there, and two numbers: the
weight α of the core against friends, and the attention β between users. With p(t) the core's
probability of a next item t, h the states before it and after the friends' histories, less the
state of an empty history, w the weights of the friendships and A(k) the distinct items of friend k,

    b_ik = w_ik exp(β cos(h_i, h_k)) / Σ over l of w_il exp(β cos(h_i, h_l)),
    a_k(t) = 1 / |A(k)| where t is in A(k), else 0,
    loss of friends = - mean over next items t of log(α p(t) + (1 - α) Σ over k of b_ik a_k(t)).

It is the attention over friends of "Session-based Social Recommendation via Dynamic Graph Attention
Networks" (Song et al., WSDM 2019, arXiv:1902.09362), with cosines in place of a learned map, and
with a bounded number of neighbours, K. States are taken relative to an empty history, where
`client.home.friends` takes them relative to all users' mean: a mean would link everybody.

**Users are linked.** A user's history is in its own loss and in the loss of friends of at most K
others. So whatever comes from friends' histories moves only the two numbers, `linked_weights`,
which are clipped for it (`shared.privacy.clipping`): p and h take no gradient, and the core's
weights get that of the user's own history. A loss of friends that is not finite counts as 0. And
`beside_is_optional` stays false: a user's batch, whose shape rounds, does not tell who has friends.

Scores are the core's. What friends add is added where friends are known, at a partner's home.

Letters: B users, T positions, K friends, V items, D hidden size.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from shared.config import ModelConfig
from shared.data.catalogue import Catalogue
from shared.models.attention import AttentionRecommender, public_features
from shared.models.attention_config import LAYERS_ALIVE, AttentionConfig, extended
from shared.models.frozen import draw_frozen
from shared.models.losses import next_item_pairs
from shared.models.products import product_by_user

__all__ = [
    "SocialConfig",
    "SocialRecommender",
    "bare",
    "build",
    "from_pretrained",
    "shape_of_model",
]

UNITS = (64.0, 512.0)
"""Constant factors of the logit of α and of β: steps of the trained numbers are short, and cosines
spread over about an eighth of what chances do."""
FIRST = (2.0, 4.0)
"""The logit of α, so that α = .88, and β, before training; as of `client.home.friends`."""
_PASSES = 3
"""Passes beside that of the core's loss and the friends': the core's once more, of an empty
history, and one to spare."""
_STATES_KEPT = 4
"""How many numbers of a position's state are kept of each of these passes."""


@dataclass(frozen=True, kw_only=True)
class SocialConfig(AttentionConfig):
    """Shape of a `SocialRecommender`; saved beside its weights.

    Attributes:
        friends: K, friends of a user that are read, and others at most whose friend a user is.
    """

    friends: int = 4

    def pass_numbers(self, candidates: int, length: int | None = None) -> int:
        """Return about how many numbers one user's training pass keeps; as of the base.

        The core scores the whole catalogue once more, whatever the candidates.
        """
        places = self.max_length if length is None else length
        core = places * (LAYERS_ALIVE * self.hidden_size + 4 * self.layers * self.heads * places)
        kept = _STATES_KEPT * places * self.hidden_size * (self.friends + _PASSES)
        scored = 2 * places * self.items + 4 * places * self.friends
        return super().pass_numbers(candidates, length) + core + kept + scored

    def mask_numbers(self) -> int:
        """Return how many random numbers a user's passes take: its own, and its friends'."""
        return (self.friends + _PASSES) * super().mask_numbers()

    def weight_numbers(self) -> int:
        """Return about how many numbers the weights and the items' tables have."""
        return super().weight_numbers() + len(UNITS)


class SocialRecommender(AttentionRecommender):
    """Next-item scores of the core, and how much friends count beside it.

    Args:
        config: the model's shape.
        features: as of an `AttentionRecommender`.
    """

    config: SocialConfig
    model_type = "sotto-social"
    shape = SocialConfig
    linked_weights = frozenset({"friend_shares.weight"})

    def __init__(self, config: SocialConfig, features: Tensor | None = None) -> None:
        super().__init__(config, features)
        self.friend_shares = nn.Linear(1, len(UNITS), bias=False)  # given a 1, a copy for each user
        with torch.no_grad():
            self.friend_shares.weight.copy_(torch.tensor(FIRST)[:, None] / torch.tensor([UNITS]).T)

    @property
    def alpha(self) -> float:
        """Weight of the score without friends, in (0, 1)."""
        return float((UNITS[0] * self.friend_shares.weight[0, 0].detach().double()).sigmoid())

    @property
    def beta(self) -> float:
        """How much more friends with like states count."""
        return float(UNITS[1] * self.friend_shares.weight[1, 0].detach().double())

    def losses(self, events: Tensor, candidates: Tensor, *beside: Tensor) -> Tensor:
        """Return each user's loss: that of its history, and that of its friends.

        Args:
            events: as of an `AttentionRecommender`; so are the candidates.
            candidates: for what follows each event; with friends, it is ranked among all items.
            *beside: of `friend_losses`. Without them the loss is that of the history.

        Returns:
            [B].
        """
        of_history = super().losses(events, candidates)
        return of_history + self.friend_losses(events, *beside) if beside else of_history

    def friend_losses(
        self, events: Tensor, histories: Tensor, weights: Tensor, chosen: Tensor
    ) -> Tensor:
        """Return the loss of each user's friends, which moves only `linked_weights`.

        Args:
            events: item ids in 1..V, right-padded with 0, int64 [B, T + 1].
            histories: the friends', right-padded with 0, int64 [B, K, S].
            weights: of the friendships, 0 where there is no friend, [B, K].
            chosen: a_k of each next item, [B, T, K].

        Returns:
            [B], finite; 0 for a user without friends or without a next item.
        """
        inputs, targets = next_item_pairs(events)
        states, chances = self._of_core(inputs, targets)
        weights, chosen = weights.to(chances), chosen.to(chances)
        cosines = self._cosines(states, histories).to(chances)
        shares = self.friend_shares(chances.new_ones(len(chances), 1, 1)).to(chances)
        logit, beta = (shares * torch.tensor(UNITS).to(chances)).split(1, dim=2)  # (B, 1, 1) each
        logits = weights.clamp(min=torch.finfo(weights.dtype).tiny).log()[:, None] + beta * cosines
        absent = (weights == 0)[:, None]
        attention = logits.masked_fill(absent, torch.finfo(logits.dtype).min).softmax(2)
        of_friends = (attention * chosen).sum(2)  # (B, T)
        mixed = logit[..., 0].sigmoid() * chances + (-logit[..., 0]).sigmoid() * of_friends
        real = (targets != 0) & (weights > 0).any(1, keepdim=True)
        part = real.to(mixed) / real.sum(1, keepdim=True).clamp(min=1)
        losses: Tensor = -(mixed.clamp(min=torch.finfo(mixed.dtype).tiny).log() * part).sum(1)
        return losses.where(losses.isfinite() & real.any(1), 0)

    def _of_core(self, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Return the states before each target, [B, T, D], and the core's chance of it, [B, T]."""
        # Computed as in the core's training, by the same kernels, and detached.
        states = self.states(inputs)
        scores = self.among_selected(self.score(states)).detach()
        exact = torch.promote_types(scores.dtype, torch.float32)
        columns = (targets - 1).clamp(min=0)[..., None]
        chances = scores.softmax(2, dtype=exact).gather(2, columns)[..., 0]
        return states.detach(), chances

    def _cosines(self, states: Tensor, histories: Tensor) -> Tensor:
        """Return the cosines of a user's states with those of friends, [B, T, K]."""
        users = torch.arange(len(histories), device=histories.device)
        nobody = self.states(histories.new_zeros(len(histories), 1)).detach()  # (B, 1, D)
        # One friend after the other: the core's layers see users on their first axis.
        friends = [
            self.states(own)[users, (own != 0).sum(1).clamp(min=1) - 1].detach()
            for own in (histories[:, place].contiguous() for place in range(histories.shape[1]))
        ]
        one = F.normalize(states - nobody, dim=2)
        other = F.normalize(torch.stack(friends, 1) - nobody, dim=2)
        return product_by_user(one, other.mT)

    def invented_beside(self, rows: int, length: int, seed: int) -> tuple[Tensor, ...]:
        """Return friends of so many invented users, the same in every call."""
        draw, most = torch.Generator().manual_seed(seed), self.config.friends
        items = torch.randint(1, self.config.items + 1, (rows, most, length), generator=draw)
        weights = 0.5 + torch.rand(rows, most, generator=draw)
        chosen = torch.rand(rows, length, most, generator=draw) / length
        return tuple(part.to(self.device) for part in (items, weights, chosen))


def shape_of_model(model: ModelConfig, items: int) -> SocialConfig:
    """Return the shape that the settings give over a catalogue of so many items."""
    return extended(SocialConfig, model, items, friends=model.friends)


def build(model: ModelConfig, catalogue: Catalogue) -> SocialRecommender:
    """Build a recommender over a catalogue; as `shared.models.attention.build`.

    Raises:
        ConfigError: the catalogue does not have the features that the model reads.
    """
    features = public_features(model, catalogue) if model.items.uses_features else None
    recommender = SocialRecommender(shape_of_model(model, len(catalogue)), features)
    draw_frozen(recommender)
    return recommender


def bare(model: ModelConfig, items: int) -> SocialRecommender:
    """Return a recommender of this shape, untrained and without public features."""
    return SocialRecommender(shape_of_model(model, items))


def from_pretrained(folder: str | os.PathLike[str]) -> SocialRecommender:
    """Load a saved recommender; see `AttentionRecommender.from_pretrained`."""
    return SocialRecommender.from_pretrained(folder)
