from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import client.ledger.store
from client.commands.budget_plot import draw
from client.ledger import recovery
from client.site.statement import epsilon_over_time, read_statement
from shared.errors import BudgetExceeded, ConfigError
from shared.outcomes import Refusal
from shared.privacy.accounting.accountant import epsilon
from shared.privacy.release import Release, ReleaseKind
from tests.client.ledger.spending import FIRST, SECOND, Spending

if TYPE_CHECKING:
    from tests.conftest import Sites

LIMIT, DELTA = 2.0, 1e-3


@pytest.fixture
def spending(sites: Sites) -> Spending:
    return Spending(sites.make("alpha", {"policy.max_epsilon": LIMIT}))


@pytest.fixture
def lived(spending: Spending) -> Spending:
    spending.live()
    return spending


def cost(*forms: tuple[float, int]) -> float:
    return epsilon(
        [
            Release(kind=ReleaseKind.TRAIN, noise_multiplier=noise, sample_rate=0.1, steps=steps)
            for noise, steps in forms
        ],
        DELTA,
    )


def test_each_run_has_its_own_cost_and_the_total_so_far(lived: Spending) -> None:
    found = read_statement(lived.site, lived.ledger)
    first, second = found.runs
    assert (first.run, first.rounds) == (FIRST, 5)
    assert [(r.kind, r.noise_multiplier, r.sample_rate, r.steps) for r in first.releases] == [
        ("train", 2.0, 0.1, 5),
        ("evaluate", 2.0, 0.1, 2),
    ]
    assert first.epsilon == first.cumulative == cost((2.0, 7))
    assert (second.run, second.rounds, second.epsilon) == (SECOND, 2, cost((1.5, 4)))
    assert second.cumulative == found.spent == cost((2.0, 7), (1.5, 4)) < first.epsilon * 3
    assert found.spent < first.epsilon + second.epsilon, "what runs cost does not add up"
    assert found.left == LIMIT - found.spent
    assert found.refusals == {Refusal.BUDGET: 2, Refusal.POLICY: 1}
    assert first.first < first.last < second.first < second.last
    assert found.entries == len(lived.ledger.history())


def test_alternating_runs_are_separated(spending: Spending) -> None:
    for number in (1, 2):
        spending.round(FIRST, number)
        spending.round(SECOND, number, 1.5)
    first, second = read_statement(spending.site, spending.ledger).runs
    assert (first.run, first.cumulative) == (FIRST, cost((2.0, 2), (1.5, 1)))
    assert (second.run, second.cumulative) == (SECOND, cost((2.0, 2), (1.5, 2)))


def test_as_many_rounds_fit_as_the_ledger_admits(lived: Spending) -> None:
    following = read_statement(lived.site, lived.ledger).following
    assert following is not None
    assert (following.like.noise_multiplier, following.like.steps) == (1.5, 2)
    assert following.rounds is not None
    assert following.rounds > 3
    for number in range(3, 3 + following.rounds):
        lived.round(SECOND, number, 1.5, steps=2)
    with pytest.raises(BudgetExceeded):
        lived.round(SECOND, 3 + following.rounds, 1.5, steps=2)
    after = read_statement(lived.site, lived.ledger)
    assert after.following is not None
    assert after.following.rounds == 0
    assert 0 < after.left < 0.1 * LIMIT


def test_before_the_first_round_nothing_is_spent(spending: Spending) -> None:
    found = read_statement(spending.site, spending.ledger)
    assert (found.spent, found.left, found.runs, found.following) == (0.0, LIMIT, (), None)
    assert epsilon_over_time(spending.ledger, DELTA) == []


def test_without_a_limit_any_number_of_rounds_fits(sites: Sites) -> None:
    spending = Spending(sites.make("alpha"))
    spending.round(FIRST, 1, 0.0)
    found = read_statement(spending.site, spending.ledger)
    assert (found.limit, found.spent, found.left) == (math.inf, math.inf, math.inf)
    assert found.following is not None
    assert found.following.rounds is None


def test_the_charges_carried_over_by_a_restore_are_counted(lived: Spending) -> None:
    before, site = read_statement(lived.site, lived.ledger), lived.site
    site.ledger_file.unlink()
    recovery.restore(site.ledger_file, site.user_base, site.anchor_file)
    found = read_statement(site, lived.ledger)
    assert found.spent == before.spent
    [carried] = found.runs
    assert (carried.run, carried.rounds) == (None, 0)
    assert sum(release.steps for release in carried.releases) == 11


def test_a_budget_that_was_written_off_leaves_nothing(lived: Spending) -> None:
    site = lived.site
    recovery.write_off(site.ledger_file, site.user_base, site.anchor_file, "lost")
    found = read_statement(site, lived.ledger)
    assert (found.spent, found.left) == (math.inf, 0.0)


# --- over time ---------------------------------------------------------------------------------


def test_a_thinned_curve_is_exact_at_its_points(lived: Spending) -> None:
    whole, thinned = (
        epsilon_over_time(lived.ledger, DELTA),
        epsilon_over_time(lived.ledger, DELTA, max_points=4),
    )
    assert len(whole) == 9
    costs = [point.epsilon for point in whole]
    assert costs == sorted(costs)
    assert costs[0] == cost((2.0, 1))
    assert costs[-1] == cost((2.0, 7), (1.5, 4))
    assert len(thinned) == 4
    assert set(thinned) < set(whole)
    assert thinned[-1] == whole[-1]


def test_the_curve_never_goes_back_in_time(
    spending: Spending, monkeypatch: pytest.MonkeyPatch
) -> None:
    spending.round(FIRST, 1)

    class Earlier(datetime):
        @classmethod
        def now(cls, tz: object = None) -> datetime:  # type: ignore[override]
            return datetime.now(UTC) - timedelta(days=9)

    monkeypatch.setattr(client.ledger.store, "datetime", Earlier)
    spending.round(FIRST, 2)
    first, second = epsilon_over_time(spending.ledger, DELTA)
    assert first.at == second.at
    assert first.epsilon < second.epsilon


@pytest.mark.parametrize(
    ("suffix", "start"), [("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF")]
)
def test_the_budget_is_drawn(lived: Spending, tmp_path: Path, suffix: str, start: bytes) -> None:
    file = tmp_path / f"budget.{suffix}"
    draw(read_statement(lived.site, lived.ledger), epsilon_over_time(lived.ledger, DELTA), file)
    assert file.read_bytes().startswith(start)


def test_the_picture_has_the_line_the_limit_and_the_runs(lived: Spending, tmp_path: Path) -> None:
    file = tmp_path / "budget.svg"
    found = read_statement(lived.site, lived.ledger)
    draw(found, epsilon_over_time(lived.ledger, DELTA), file)
    text = file.read_text(encoding="utf-8")  # each text stands in a comment beside its outlines
    for expected in ("limit 2", f"spent {found.spent:.3g}", "run 3f2a9c01", "#0072b2", "#d55e00"):
        assert expected in text


def test_a_name_is_drawn_literally(sites: Sites, tmp_path: Path) -> None:
    spending = Spending(sites.make("a", {"organisation": "A $x_y$ 書店", "user_base": "a's users"}))
    spending.round(FIRST, 1)
    draw(
        read_statement(spending.site, spending.ledger),
        epsilon_over_time(spending.ledger, DELTA),
        tmp_path / "x.svg",
    )
    assert "A $x_y$ 書店" in (tmp_path / "x.svg").read_text(encoding="utf-8")


def test_the_plot_marks_a_release_without_noise(sites: Sites, tmp_path: Path) -> None:
    spending = Spending(sites.make("alpha"))
    spending.round(FIRST, 1)
    spending.round(FIRST, 2, 0.0)
    draw(
        read_statement(spending.site, spending.ledger),
        epsilon_over_time(spending.ledger, DELTA),
        tmp_path / "x.svg",
    )
    assert "infinite from here" in (tmp_path / "x.svg").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("name", "message"),
    [("budget.gif", "choose a name that ends in"), ("no/such/budget.png", "cannot be written")],
)
def test_a_plot_that_cannot_be_written_is_an_error(
    lived: Spending, tmp_path: Path, name: str, message: str
) -> None:
    found, points = read_statement(lived.site, lived.ledger), epsilon_over_time(lived.ledger, DELTA)
    with pytest.raises(ConfigError, match=message):
        draw(found, points, tmp_path / name)


def test_an_empty_budget_is_not_drawn(spending: Spending, tmp_path: Path) -> None:
    found = read_statement(spending.site, spending.ledger)
    with pytest.raises(ConfigError, match="nothing is spent yet"):
        draw(found, [], tmp_path / "budget.png")
