"""What it costs to learn the weights of friends under user-level privacy, where users are linked.

    python -m simulations.benchmarks.linked_users DATA RUN [--most 4 8 16] [--epsilon 8]

DATA and RUN are those of `simulations.benchmarks.friends`. Two numbers are learned, α as a logit
and β, by steps along each user's loss

    -log(α s_i(t) + (1 - α) Σ over k in N(i) of b_ik a_kt),

with t the user's last counted item and s the published model's probability. States are taken
relative to the one of an empty history: the mean of all users would link everybody with everybody.

**Sensitivity.** Let nobody be a friend of more than K others (`refuse_above`). Remove user v with
all edges: v's own clipped gradient goes, of norm c at most, and K others change, by 2 c each at
most. The sum moves by (2 K + 1) c at most, and (K + 1) c is not enough. So with gradients clipped
to c = C / (2 K + 1), the sum has the sensitivity C of any other release, and noise σ C is accounted
as such. All users are in every step: at sample rate 1 no amplification is claimed, which would not
be that of unlinked users.

The data must have the bound: no rule that picks K of somebody's friends by looking at all of them
gives it (`picked`). If a hub that everybody befriended is removed, everybody's next friend moves
up. `kept_within` makes bounded data for this experiment; what it does is not covered by the claim.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from client.serving.published import load_published, scorer_of
from shared.data.friends import FriendTable, read_friends
from shared.data.histories import Histories
from shared.privacy.accounting.accountant import noise_multiplier_for
from simulations.datasets.load import load

__all__ = [
    "LinkedSamples",
    "clipped_sum",
    "kept_within",
    "learn",
    "picked",
    "refuse_above",
    "restricted",
]

CLIP, STEPS, RATE, DELTA = 0.5, 20, 4.0, 1e-5
BETA_UNIT = 8.0
"""β is learned in these units, so that both numbers have gradients of one size."""
_ROWS = 64

Floats = NDArray[np.float64]
Edges = dict[tuple[str, str], float]


@dataclass(frozen=True, slots=True, eq=False)
class LinkedSamples:
    """What users' losses depend on; user i's edges are those of the table.

    Attributes:
        table: the friends.
        own: s_i(t), float64 [U].
        shares: a_kt of each edge, float64 [E].
        cosines: of the states of each edge, float64 [E].
    """

    table: FriendTable
    own: Floats
    shares: Floats
    cosines: Floats

    def gradients(self, logit: float, beta: float) -> Floats:
        """Return each user's gradient in (logit of α, β / `BETA_UNIT`), float64 [U, 2]."""
        alpha, users = 1 / (1 + np.exp(-logit)), len(self.table.users)
        rows = np.repeat(np.arange(users), self.table.degrees)
        scaled = self.table.weights * np.exp(beta * self.cosines)
        attention = scaled / np.bincount(rows, scaled, users)[rows]

        def over_friends(values: Floats) -> Floats:
            return np.asarray(np.bincount(rows, attention * values, users), np.float64)

        chosen, mean = over_friends(self.shares), over_friends(self.cosines)
        slope = over_friends(self.shares * (self.cosines - mean[rows]))
        chance = alpha * self.own + (1 - alpha) * chosen
        of_logit = -alpha * (1 - alpha) * (self.own - chosen) / chance
        of_beta = -(1 - alpha) * slope / chance * BETA_UNIT
        linked = self.table.degrees > 0
        return np.where(linked[:, None], np.stack([of_logit, of_beta], 1), 0.0)


def clipped_sum(gradients: Floats, norm: float) -> Floats:
    """Return the sum of gradients, each scaled to a norm of at most `norm`, float64 [2]."""
    lengths = np.linalg.norm(gradients, axis=1, keepdims=True)
    total: Floats = (gradients / np.maximum(1, lengths / norm)).sum(0)
    return total


def refuse_above(table: FriendTable, most: int) -> None:
    """Refuse a table in which somebody is a friend of more than K others.

    Raises:
        ValueError: names nobody.
    """
    entered = np.bincount(table.friends, minlength=len(table.users))
    if (entered > most).any():
        raise ValueError(f"somebody is a friend of more than {most} others: give fewer friends")


def picked(edges: Edges, most: int) -> Edges:
    """Keep each user's K friends of the lowest hash: a choice that looks at all friends."""
    by_friend: dict[str, list[tuple[str, str]]] = {}
    for user, friend in edges:
        by_friend.setdefault(friend, []).append((_hash(user, friend), user))
    kept = {(user, one) for one, own in by_friend.items() for _, user in sorted(own)[:most]}
    return {edge: weight for edge, weight in edges.items() if edge in kept}


def kept_within(edges: Edges, most: int) -> Edges:
    """Keep mutual pairs in the order of a hash, while both have fewer than K friends."""
    degrees, kept = Counter[str](), set[tuple[str, str]]()
    for one, other in sorted(edges, key=lambda pair: _hash(*sorted(pair))):
        if (one, other) in kept or (other, one) not in edges:
            continue
        if max(degrees[one], degrees[other]) < most:
            degrees.update([one, other])
            kept |= {(one, other), (other, one)}
    return {edge: weight for edge, weight in edges.items() if edge in kept}


def restricted(edges: Edges, removed: str) -> Edges:
    """Remove a user with all edges."""
    return {edge: weight for edge, weight in edges.items() if removed not in edge}


def learn(
    samples: LinkedSamples, most: int, epsilon: float | None, seed: int
) -> tuple[float, float]:
    """Return α and β after `STEPS` steps over all users.

    Args:
        samples: within the bound.
        most: K.
        epsilon: of all steps together at `DELTA`; None for no noise.
        seed: of the noise, which is the lab's.
    """
    refuse_above(samples.table, most)
    sigma = 0.0
    if epsilon is not None:
        sigma = noise_multiplier_for(epsilon, DELTA, sample_rate=1.0, steps=STEPS)
    draw, point = np.random.default_rng(seed), np.array([2.0, 0.5])
    for _ in range(STEPS):
        total = clipped_sum(samples.gradients(point[0], point[1] * BETA_UNIT), CLIP)
        total += draw.normal(0, sigma * (2 * most + 1) * CLIP, 2)
        point -= RATE * total / (CLIP * len(samples.table.users))
        point = point.clip([-4, 0], [4, 4])
    return float(1 / (1 + np.exp(-point[0]))), float(point[1] * BETA_UNIT)


def _hash(one: str, other: str) -> str:
    return hashlib.sha256(f"{one} {other}".encode()).hexdigest()


def _edges(table: FriendTable) -> Edges:
    rows = np.repeat(np.arange(len(table.users)), table.degrees)
    pairs = zip(rows, table.friends, table.weights, strict=True)
    return {(table.users[row], table.users[friend]): float(one) for row, friend, one in pairs}


def _samples(table: FriendTable, histories: Histories, run: Path) -> LinkedSamples:
    """Score each user's last item by the published model and by friends' earlier items."""
    _, model = load_published(run)
    score, window = scorer_of(model), model.config.max_length
    place = {user: row for row, user in enumerate(histories.users)}
    own = histories.select([place[user] for user in table.users])
    before, targets = own.without_last(1), own.items[own.offsets[1:] - 1]
    chances, states = [], []
    with torch.no_grad():
        for rows in np.split(np.arange(len(own)), range(_ROWS, len(own), _ROWS)):
            padded = before.padded(rows, window)
            chances.append(score(padded).double().softmax(1)[range(len(rows)), targets[rows] - 1])
            states.append(model.last_states(padded).double())
        nobody = model.last_states(torch.zeros(1, 1, dtype=torch.int64)).double()
    unit = torch.nn.functional.normalize(torch.cat(states) - nobody, dim=1).numpy()
    users = np.repeat(np.arange(len(own)), table.degrees)
    sets = [set(history.tolist()) for history in before]
    shares = [
        (int(targets[user]) in sets[friend]) / max(1, len(sets[friend]))
        for user, friend in zip(users, table.friends, strict=True)
    ]
    cosines = (unit[users] * unit[table.friends]).sum(1)
    return LinkedSamples(table, torch.cat(chances).numpy(), np.array(shares), cosines)


def main() -> None:
    """Learn α and β for each bound, with and without noise."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("run", type=Path)
    parser.add_argument("--most", type=int, nargs="+", default=[4, 8, 16])
    parser.add_argument("--epsilon", type=float, nargs="+", default=[1.0, 8.0])
    options = parser.parse_args()
    histories = load(options.data).histories.without_last(1)
    edges = _edges(read_friends(options.data / "friends.csv", frozenset(histories.users)))
    for most in options.most:
        kept = kept_within(edges, most)
        samples = _samples(FriendTable.from_edges(kept), histories, options.run)
        _say(f"K = {most}: {len(kept)} of {len(edges)} edges, noise {2 * most + 1} times as large")
        for epsilon in (None, *options.epsilon):
            found = [learn(samples, most, epsilon, seed) for seed in range(3)]
            words = ", ".join(f"α {alpha:.3f} β {beta:.1f}" for alpha, beta in found)
            _say(f"  ε = {epsilon}: {words}")


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
