"""What is measured, and that nothing made at home has seen it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from client.home.adapt import build_home, choose, last_events
from client.home.evaluate import evaluate
from client.home.friends import Friends
from shared.data.histories import Histories
from shared.evaluation.ranking import rank_users
from tests.client.home.test_adapt import ITEMS, WINDOW, chains, knows_nothing, knows_the_chain
from tests.client.home.test_friends import ITEMS as TASTES
from tests.client.home.test_friends import states, tastes


def test_figures_are_those_of_models_that_have_not_seen_the_last_events() -> None:
    histories = chains(80, seed=1, length=4)
    measured = evaluate(
        histories,
        {"federated": knows_the_chain, "before": knows_nothing},
        items=ITEMS,
        window=WINDOW,
        k=5,
    )
    assert list(measured.models) == [
        *("popularity", "counts3", "home"),
        *("federated", "federated_home", "before", "before_home"),
    ]
    assert measured.models["federated"].metrics.hr == 1
    assert measured.models["before"].metrics.hr == 0
    before, last = histories.without_last(1), np.array([history[-1] for history in histories])
    choice = choose(last_events(before), knows_the_chain, items=ITEMS, window=WINDOW)
    assert measured.chosen == choice.chosen
    home = build_home(choice.home, before, knows_the_chain, ITEMS)
    ranking = rank_users(home, before, last, items=ITEMS, window=WINDOW, k=5)
    assert measured.models["home"].metrics == ranking.metrics()
    assert measured.renewing is not None
    assert measured.renewing.mean > 0
    assert measured.joining.mean == pytest.approx(
        measured.models["federated_home"].metrics.ndcg - measured.models["home"].metrics.ndcg
    )


def test_more_users_are_sampled_evenly_and_two_events_are_needed() -> None:
    histories = chains(90, seed=2)
    measured = evaluate(
        histories, {"federated": knows_the_chain}, items=ITEMS, window=WINDOW, most=30
    )
    assert (measured.users, measured.of) == (30, 90)
    assert measured.models["counts3"].metrics.users == 30
    assert measured.renewing is None
    with pytest.raises(ValueError, match="two events"):
        evaluate(
            Histories.from_lists([[1], [2]]),
            {"federated": knows_nothing},
            items=ITEMS,
            window=WINDOW,
        )


def test_the_interval_is_that_of_the_users_parts() -> None:
    measured = evaluate(
        chains(60, seed=3), {"federated": knows_nothing}, items=ITEMS, window=WINDOW
    )
    home = measured.models["home"]
    assert 0 < home.half_width < 0.2
    assert measured.models["federated"].half_width == 0
    assert np.isfinite(measured.joining.half_width)


@pytest.mark.parametrize("alike", [True, False])
def test_friends_have_a_row_where_adapting_would_take_them(alike: bool) -> None:
    """Of one who has chosen all of a friend's items but one; nothing has seen the last events."""
    own, table = tastes(160, alike)
    measured = evaluate(
        own,
        {"federated": lambda rows: torch.zeros(len(rows), TASTES)},
        items=TASTES,
        window=50,
        k=5,
        friends=Friends(table, states, 50),
    )
    assert measured.friends is not None
    assert (measured.friends.alpha is not None) == alike
    assert ("federated_home_friends" in measured.models) == alike
    assert (measured.befriending is not None) == alike
    if measured.befriending is not None:
        with_friends = measured.models["federated_home_friends"].metrics
        assert measured.befriending.mean > 0.1
        assert with_friends.ndcg == pytest.approx(
            measured.models["federated_home"].metrics.ndcg + measured.befriending.mean
        )
        assert with_friends.users == measured.users
