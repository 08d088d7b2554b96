"""Recommendations that one event of a history moves little: the mean over random deletions.

From a history, `samples` thinned ones are made, in each of which an event stays with probability
1 - `deleted`. The score of an item is the mean over them of its probability, so an event has a part
only in the samples that it stays in. This is randomised smoothing by deletion, as Levine & Feizi
have it for images (arXiv:1911.09272), for the scores of a ranking; no certificate is given.

Whether an event stays in a sample is decided by a hash of its item and of the sample's number. So
the same history has the same list, always; and where one event is replaced, inserted or removed,
the samples that do not hold it are as they were.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from client.home.store import load_home
from client.serving.explanation import CHOSE
from client.serving.published import domains_of_home, load_published, scorer_of
from client.serving.query_words import QueryWords
from client.serving.recommender import Recommender
from shared.errors import ConfigError
from shared.evaluation.ranking import Scorer

__all__ = ["DELETED", "MOST_SAMPLES", "Smoothed", "load_recommender", "thinned"]

DELETED = 0.3
"""Chance of an event to be left out of a sample, where no other is stated."""
MOST_SAMPLES = 1000
_ROWS = 64
"""Thinned histories that are scored at once."""
_STEPS = (np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBF58476D1CE4E5B9))
_LAST = np.uint64(0x94D049BB133111EB)


@dataclass(frozen=True, slots=True, eq=False)
class Smoothed:
    """The log of a scorer's mean probabilities over thinned histories.

    Attributes:
        scorer: scores int64 [B, T] as [B, V].
        logits: whether the scores are logits; otherwise they are probabilities up to a factor.
        samples: thinned histories of each, >= 1.
        deleted: chance of an event to be left out, in [0, 1).
    """

    scorer: Scorer
    logits: bool
    samples: int
    deleted: float = DELETED

    def __post_init__(self) -> None:
        if not 1 <= self.samples <= MOST_SAMPLES:
            raise ConfigError(
                f"--smooth {self.samples}: choose 1 to {MOST_SAMPLES} thinned histories."
            )
        if not 0 <= self.deleted < 1:
            raise ConfigError(f"deleted = {self.deleted}: choose a number in [0, 1).")

    @torch.no_grad()
    def __call__(self, histories: Tensor, /) -> Tensor:
        """Score int64 [B, T], right-padded with 0, as float32 [B, V]."""
        return torch.cat([self._of_one(row) for row in histories])

    def _of_one(self, history: Tensor) -> Tensor:
        rows = thinned(history.cpu().numpy(), self.samples, self.deleted)
        # Short histories have few samples that differ: each is scored once.
        rows, times = np.unique(rows, axis=0, return_counts=True)
        total = torch.zeros(1, 1, dtype=torch.float64)
        for start in range(0, len(rows), _ROWS):
            some = slice(start, start + _ROWS)
            scores = self.scorer(torch.from_numpy(rows[some])).double().cpu()
            chances = scores.softmax(1) if self.logits else scores / scores.sum(1, keepdim=True)
            total = total + torch.from_numpy(times[some]).double() @ chances
        return (total / self.samples).log().float()


def thinned(history: NDArray[np.int64], samples: int, deleted: float) -> NDArray[np.int64]:
    """Return thinned histories, int64 [samples, T], right-padded with 0.

    Args:
        history: internal ids, oldest first, [T], right-padded with 0.
        samples: how many.
        deleted: chance of an event to be left out.
    """
    number = np.arange(1, samples + 1, dtype=np.uint64)[:, None]
    kept = (history > 0) & (_uniform(history.astype(np.uint64)[None], number) >= deleted)
    order = np.argsort(~kept, axis=1, kind="stable")  # those that stay come first, in their order
    return np.take_along_axis(np.where(kept, history, 0), order, 1)


def load_recommender(  # noqa: PLR0913 what is loaded, and how
    folder: Path | str,
    home: Path | str | None = None,
    *,
    samples: int,
    deleted: float = DELETED,
    device: torch.device | str = "cpu",
    verb: str = CHOSE,
    private: bool = False,
    domains: Sequence[str] = (),
) -> Recommender:
    """Load a recommender whose scores are smoothed; arguments are those of `Recommender.load`.

    Own counts are within the smoothed score: explanations name no part of their own for them.

    Args:
        folder: holds `catalogue/` and `model/`.
        home: the home model's file; None takes the federated model alone.
        samples: thinned histories of each; 0 for scores that are not smoothed.
        deleted: chance of an event to be left out.
        device: where scores are computed.
        verb: what users do with items, in the past tense; for explanations.
        private: refuse a home model that is not private.
        domains: of the organisation.

    Raises:
        DataError: see `load_published` and `load_home`.
        ConfigError: `samples` or `deleted` is out of range.
    """
    if not samples:
        return Recommender.load(
            folder, home, device=device, verb=verb, private=private, domains=domains
        )
    catalogue, model = load_published(Path(folder), device, domains or domains_of_home(home))
    scorer, fingerprint, adapted = scorer_of(model), catalogue.fingerprint, None
    if home is not None:
        adapted = load_home(Path(home), scorer, fingerprint, private=private)
    window = Recommender(catalogue, scorer, model.config.max_length, adapted).window
    smoothed = Smoothed(adapted or scorer, adapted is None, samples, deleted)
    made = Recommender(catalogue, smoothed, window, verb=verb)
    return made.reading(QueryWords.of(model, catalogue))


def _uniform(item: NDArray[np.uint64], number: NDArray[np.uint64]) -> NDArray[np.float64]:
    """Return numbers in [0, 1) from a hash of item and sample (SplitMix64's finaliser)."""
    with np.errstate(over="ignore"):
        mixed = item * _STEPS[0] + number * _STEPS[1]
        mixed = (mixed ^ (mixed >> np.uint64(30))) * _STEPS[1]
        mixed = (mixed ^ (mixed >> np.uint64(27))) * _LAST
        mixed ^= mixed >> np.uint64(31)
    return np.asarray((mixed >> np.uint64(11)).astype(np.float64) / 2.0**53)
