"""One change out of a round's, by a rule that withstands attackers among the organisations.

The rules are Flower's own strategies, given the changes alone (not weights + change) and in
float64: Krum and Bulyan compare squared distances that are differences of squared lengths, and
what all weights have in common would drown what tells the changes apart.

| rule         | withstands f attackers among | what it makes of the changes (source)              |
|--------------|------------------------------|----------------------------------------------------|
| mean         | none                         | left to the server's optimiser                     |
| median       | 2f + 1                       | each coordinate's median (arXiv:1803.01498)        |
| trimmed-mean | 2f + 1                       | each coordinate's mean without the f largest and   |
|              |                              | the f smallest values (arXiv:1803.01498)           |
| krum         | 2f + 3                       | the one change whose n - f - 2 nearest others are  |
|              |                              | nearest (arXiv:1703.02757)                         |
| multi-krum   | 2f + 3                       | the mean of the n - f - 2 best by the same measure |
| bulyan       | 4f + 3                       | of the n - 2f best by Krum's measure, each         |
|              |                              | coordinate's mean of the n - 4f nearest its median |
|              |                              | (arXiv:1802.07927; all chosen at once, as Flower   |
|              |                              | does, where the paper chooses one after another)   |

What every organisation adds in noise is averaged by the mean, and nearly as well by the trimmed
mean and the median. Krum keeps one organisation's noise whole. Figures: docs/utility.md.

A warm start's sums are made means first, by declared users: all organisations then count alike, and
who declares more users than it has only speaks more softly.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from statistics import median_low

import numpy as np
from flwr.serverapp.strategy import (
    Bulyan,
    FedAvg,
    FedMedian,
    FedTrimmedAvg,
    Krum,
    MultiKrum,
)
from numpy.typing import NDArray

from server.aggregation.records import aggregated
from shared.config import Aggregation, ServerConfig, Weighting
from shared.errors import ConfigError
from shared.messages import Weights

__all__ = [
    "believed",
    "check_aggregation",
    "least_partners",
    "least_replies",
    "quorum_of",
    "robust_change",
    "robust_mean",
]

_DRAWS = 20_000
"""Numbers from which the noise that a rule leaves is measured: to half a percent."""

Floats = NDArray[np.float64]


def least_replies(config: ServerConfig) -> int:
    """Replies without which the rule does not withstand as many attackers as it is to.

    >>> least_replies(ServerConfig(aggregation=Aggregation.KRUM, malicious=2))
    7
    """
    attackers = config.malicious
    match config.aggregation:
        case Aggregation.MEAN:
            return 1
        case Aggregation.MEDIAN | Aggregation.TRIMMED_MEAN:
            return 2 * attackers + 1
        case Aggregation.KRUM | Aggregation.MULTI_KRUM:
            return 2 * attackers + 3
        case Aggregation.BULYAN:
            return 4 * attackers + 3


def quorum_of(config: ServerConfig, organisations: int) -> int:
    """Valid replies that make a round of so many organisations.

    >>> quorum_of(ServerConfig(quorum=0.28), 25)
    7
    """
    # Not a ceiling: 0.28 * 25 is a little above 7.
    share = next(n for n in range(1, organisations + 1) if n / organisations >= config.quorum)
    return max(share, least_replies(config))


def least_partners(config: ServerConfig, *, resumed: bool) -> int:
    """Organisations that a start waits for: all that are wanted, or a quorum where it goes on."""
    wanted = config.organisations
    return quorum_of(config, wanted) if resumed else wanted


def check_aggregation(config: ServerConfig) -> None:
    """Refuses what no rule can keep.

    Raises:
        ConfigError: attackers in a mean, a robust rule against none, too few organisations for
            it, or organisations that weigh as much as they declare.
    """
    rule, attackers = f"server.aggregation = '{config.aggregation}'", config.malicious
    if config.aggregation is Aggregation.MEAN:
        if attackers:
            raise ConfigError(
                f"server.malicious = {attackers} with {rule}: one attacker moves a mean wherever "
                "it likes. Choose another rule, or 0."
            )
        return
    if not attackers:
        raise ConfigError(
            f"server.malicious = 0 with {rule}: say how many attackers it is to withstand, or "
            "choose 'mean'."
        )
    if config.organisations < least_replies(config):
        raise ConfigError(
            f"server.organisations = {config.organisations}: {rule} with server.malicious = "
            f"{attackers} takes {least_replies(config)} or more."
        )
    if config.weighting is not Weighting.EQUAL:
        raise ConfigError(
            f"server.weighting = '{config.weighting}' with {rule}: an attacker may declare any "
            "population. Choose 'equal'."
        )


def robust_change(changes: Sequence[Weights], config: ServerConfig) -> Weights:
    """The one change that a robust rule makes of all.

    Args:
        changes: at least `least_replies`, in a fixed order, of the same names and shapes.
        config: names the rule; not "mean".
    """
    wide = [{k: v.astype(np.float64) for k, v in change.items()} for change in changes]
    return aggregated(_rule(config, len(changes)), wide, [1.0] * len(wide))


def robust_mean(
    sums: Sequence[Floats], users: Sequence[int], noise_multiplier: float, config: ServerConfig
) -> tuple[Floats, float]:
    """What a robust rule makes of sums over users, and how much noise is left in it.

    The noise has no closed form: it is what the rule leaves of noise alone. That is right where
    noise is louder than what organisations differ by, which is where it matters, and too little
    where it is not.

    Args:
        sums: at least `least_replies`, in a fixed order, of one shape.
        users: that each organisation declares, >= 1.
        noise_multiplier: standard deviation of the noise in each sum; 0 without privacy.
        config: names the rule; not "mean".

    Returns:
        The mean over a typical organisation's users, and the standard deviation of the noise in
        each of its numbers.
    """

    def ruled(parts: Iterable[Floats]) -> Floats:
        changes = [{"mean": part.astype(np.float32)} for part in parts]
        return robust_change(changes, config)["mean"].astype(np.float64)

    found = ruled(total / count for total, count in zip(sums, users, strict=True))
    if noise_multiplier == 0:
        return found, 0.0
    draw = np.random.default_rng(0)
    noise = ruled(noise_multiplier / count * draw.standard_normal(_DRAWS) for count in users)
    return found, math.sqrt(float(np.square(noise).mean()))


def believed(users: Sequence[int], config: ServerConfig) -> list[int]:
    """Declared users as far as the rule believes them: under a robust one, the median of all.

    >>> believed([10, 20, 10**9], ServerConfig(aggregation=Aggregation.MEDIAN, malicious=1))
    [20, 20, 20]
    """
    if config.aggregation is Aggregation.MEAN:
        return list(users)
    return [median_low(users)] * len(users)


def _rule(config: ServerConfig, replies: int) -> FedAvg:
    attackers = config.malicious
    match config.aggregation:
        case Aggregation.MEDIAN:
            return FedMedian()
        case Aggregation.TRIMMED_MEAN:
            # Flower cuts int(beta * n) values: a little more than f / n is f, whatever is rounded.
            return FedTrimmedAvg(beta=(attackers + 0.25) / replies)
        case Aggregation.KRUM:
            return Krum(num_malicious_nodes=attackers)
        case Aggregation.MULTI_KRUM:
            return MultiKrum(
                num_malicious_nodes=attackers, num_nodes_to_select=replies - attackers - 2
            )
        case Aggregation.BULYAN:
            return Bulyan(num_malicious_nodes=attackers)
        case Aggregation.MEAN:
            raise ValueError("the mean is the server optimiser's own")
