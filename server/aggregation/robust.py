"""Aggregation rules that withstand attackers among the organisations.

The rules are Flower's own strategies. They get the changes alone (not weights + change), in
float64: Multi-Krum computes squared distances as differences of squared lengths, and in float32 the
common part of all weights would swamp the differences between changes.

| rule         | withstands f attackers among | result (source)                                    |
|--------------|------------------------------|----------------------------------------------------|
| mean         | none                         | computed by the server's optimiser                 |
| median       | 2f + 1                       | each coordinate's median (arXiv:1803.01498)        |
| trimmed-mean | 2f + 1                       | each coordinate's mean without the f largest and   |
|              |                              | the f smallest values (arXiv:1803.01498)           |
| multi-krum   | 2f + 3                       | the mean of the n - f - 2 changes with the         |
|              |                              | smallest sum of squared distances to their         |
|              |                              | n - f - 2 nearest others (arXiv:1703.02757)        |

The mean averages the organisations' noise; the trimmed mean and the median do so nearly as well.
Measured figures are in docs/experiments/false-partner.md.

The statistics of a warm start are divided by the declared users before a rule is applied. Then all
organisations count alike, and one that declares too many users only scales its own part down.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from statistics import median_low

import numpy as np
from flwr.serverapp.strategy import FedAvg, FedMedian, FedTrimmedAvg, MultiKrum
from numpy.typing import NDArray

from server.aggregation.quorum import minimum_replies
from server.aggregation.records import aggregate
from shared.config import Aggregation, ServerConfig, Weighting
from shared.errors import ConfigError
from shared.messages import Weights

__all__ = ["check_aggregation", "credible_populations", "robust_change", "robust_mean"]

_DRAWS = 20_000
"""Gaussian samples from which a rule's residual noise is estimated, to about 0.5%."""

Floats = NDArray[np.float64]


def check_aggregation(config: ServerConfig) -> None:
    """Refuse parameters under which the aggregation rule cannot keep its guarantee.

    Raises:
        ConfigError: attackers with a mean, a robust rule without any, too few organisations for
            the rule, or a robust rule with organisations weighted by declared population.
    """
    rule, attackers = f"server.aggregation = '{config.aggregation}'", config.malicious
    if config.aggregation is Aggregation.MEAN:
        if attackers:
            raise ConfigError(
                f"server.malicious = {attackers} with {rule}: one attacker can move a mean "
                "anywhere. Choose another rule, or 0."
            )
        return
    if not attackers:
        raise ConfigError(
            f"server.malicious = 0 with {rule}: say how many attackers it is to withstand, or "
            "choose 'mean'."
        )
    if config.organisations < minimum_replies(config):
        raise ConfigError(
            f"server.organisations = {config.organisations}: {rule} with server.malicious = "
            f"{attackers} takes {minimum_replies(config)} or more."
        )
    if config.weighting is not Weighting.EQUAL:
        raise ConfigError(
            f"server.weighting = '{config.weighting}' with {rule}: an attacker may declare any "
            "population. Choose 'equal'."
        )


def robust_change(changes: Sequence[Weights], config: ServerConfig) -> Weights:
    """Combine all changes into one by the configured robust rule.

    Args:
        changes: at least `minimum_replies`, in a fixed order, of the same names and shapes.
        config: names the rule; not "mean".
    """
    wide = [{k: v.astype(np.float64) for k, v in change.items()} for change in changes]
    return aggregate(_flower_rule(config, len(changes)), wide, [1.0] * len(wide))


def robust_mean(
    sums: Sequence[Floats], users: Sequence[int], noise_multiplier: float, config: ServerConfig
) -> tuple[Floats, float]:
    """Combine sums over users by a robust rule, and estimate the noise in the result.

    The residual noise of a robust rule has no closed form: it is estimated by applying the rule to
    pure noise. The estimate is right where the noise exceeds the differences between organisations,
    which is where it matters, and too small elsewhere.

    Args:
        sums: at least `minimum_replies`, in a fixed order, of one shape.
        users: declared by each organisation, >= 1.
        noise_multiplier: standard deviation of the noise in each sum; 0 without privacy.
        config: names the rule; not "mean".

    Returns:
        The mean over a typical organisation's users, and the standard deviation of the noise in
        each of its entries.
    """

    def apply_rule(parts: Iterable[Floats]) -> Floats:
        changes = [{"mean": part.astype(np.float32)} for part in parts]
        return robust_change(changes, config)["mean"].astype(np.float64)

    mean = apply_rule(total / count for total, count in zip(sums, users, strict=True))
    if noise_multiplier == 0:
        return mean, 0.0
    # A fixed seed: this noise protects nobody, and a resumed run must get the same estimate.
    draw = np.random.default_rng(0)
    noise = apply_rule(noise_multiplier / count * draw.standard_normal(_DRAWS) for count in users)
    return mean, math.sqrt(float(np.square(noise).mean()))


def credible_populations(users: Sequence[int], config: ServerConfig) -> list[int]:
    """Return each organisation's population as far as it may be relied on.

    An attacker may declare any number: under a robust rule each counts as the median of all.

    >>> config = ServerConfig(aggregation=Aggregation.MEDIAN, malicious=1)
    >>> credible_populations([10, 20, 10**9], config)
    [20, 20, 20]
    """
    if config.aggregation is Aggregation.MEAN:
        return list(users)
    return [median_low(users)] * len(users)


def _flower_rule(config: ServerConfig, replies: int) -> FedAvg:
    attackers = config.malicious
    match config.aggregation:
        case Aggregation.MEDIAN:
            return FedMedian()
        case Aggregation.TRIMMED_MEAN:
            # Flower cuts int(beta * n) values: with 0.25 added, rounding cannot make f - 1 of f.
            return FedTrimmedAvg(beta=(attackers + 0.25) / replies)
        case Aggregation.MULTI_KRUM:
            return MultiKrum(
                num_malicious_nodes=attackers, num_nodes_to_select=replies - attackers - 2
            )
        case Aggregation.MEAN:
            raise ValueError("the mean is computed by the server's optimiser")
