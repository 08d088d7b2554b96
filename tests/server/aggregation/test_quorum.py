from __future__ import annotations

import pytest

from server.aggregation.quorum import (
    minimum_organisations,
    minimum_replies,
    quorum_size,
    with_secure_quorum,
)
from shared.config import Aggregation, PrivacyConfig, RunConfig, ServerConfig, Trust


@pytest.mark.parametrize(
    ("rule", "needed"),
    [
        (Aggregation.MEAN, [1, 1]),
        (Aggregation.MEDIAN, [3, 5]),
        (Aggregation.TRIMMED_MEAN, [3, 5]),
        (Aggregation.MULTI_KRUM, [5, 7]),
    ],
)
def test_a_rule_needs_replies_by_its_attackers(rule: Aggregation, needed: list[int]) -> None:
    counts = [minimum_replies(ServerConfig(aggregation=rule, malicious=f)) for f in (1, 2)]
    assert counts == needed


def test_a_quorum_is_the_share_or_what_the_rule_needs() -> None:
    assert quorum_size(ServerConfig(quorum=0.5), 5) == 3
    median = ServerConfig(quorum=0.5, aggregation=Aggregation.MEDIAN, malicious=2)
    assert quorum_size(median, 5) == 5


def test_a_new_run_waits_for_all_and_a_resumed_one_for_a_quorum() -> None:
    config = ServerConfig(organisations=8, quorum=0.5)
    assert minimum_organisations(config, resumed=False) == 8
    assert minimum_organisations(config, resumed=True) == 4


@pytest.mark.parametrize("dropouts", [0, 1, 2])
def test_a_sum_of_shares_needs_all_but_the_dropouts(dropouts: int) -> None:
    privacy = PrivacyConfig(
        epsilon=1.0, delta=1e-5, trust=Trust.SECURE_AGGREGATION, dropouts=dropouts
    )
    config = RunConfig(privacy=privacy, server=ServerConfig(organisations=8, quorum=0.1))
    assert quorum_size(with_secure_quorum(config).server, 8) == 8 - dropouts
    local = RunConfig(privacy=PrivacyConfig(epsilon=1.0, delta=1e-5), server=config.server)
    assert with_secure_quorum(local) is local
