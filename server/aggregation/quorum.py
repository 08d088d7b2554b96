"""How many valid replies a round needs, and how many organisations a start waits for."""

from __future__ import annotations

from dataclasses import replace

from shared.config import Aggregation, RunConfig, ServerConfig

__all__ = ["minimum_organisations", "minimum_replies", "quorum_size", "with_secure_quorum"]


def minimum_replies(config: ServerConfig) -> int:
    """Return the fewest replies with which the rule withstands `config.malicious` attackers.

    The bounds are those of the rules' papers, see `server.aggregation.robust`.

    >>> minimum_replies(ServerConfig(aggregation=Aggregation.MULTI_KRUM, malicious=2))
    7
    """
    attackers = config.malicious
    match config.aggregation:
        case Aggregation.MEAN:
            return 1
        case Aggregation.MEDIAN | Aggregation.TRIMMED_MEAN:
            return 2 * attackers + 1
        case Aggregation.MULTI_KRUM:
            return 2 * attackers + 3


def quorum_size(config: ServerConfig, organisations: int) -> int:
    """Return how many valid replies make a round of `organisations` organisations.

    That is the share `config.quorum` of them, rounded up, and at least `minimum_replies`.

    >>> quorum_size(ServerConfig(quorum=0.28), 25)
    7
    """
    # Not math.ceil: 0.28 * 25 is slightly more than 7 in floating point.
    share = next(n for n in range(1, organisations + 1) if n / organisations >= config.quorum)
    return max(share, minimum_replies(config))


def minimum_organisations(config: ServerConfig, *, resumed: bool) -> int:
    """Return how many organisations a start waits for: all, or a quorum if the run is resumed."""
    return quorum_size(config, config.organisations) if resumed else config.organisations


def with_secure_quorum(config: RunConfig) -> RunConfig:
    """Return the parameters with a quorum of all but the dropouts, under secure aggregation.

    A sum of fewer would have less noise than was promised.
    """
    if not config.privacy.secure:
        return config
    organisations = config.server.organisations
    share = (organisations - config.privacy.dropouts) / organisations
    server = replace(config.server, quorum=max(config.server.quorum, share))
    return replace(config, server=server)
