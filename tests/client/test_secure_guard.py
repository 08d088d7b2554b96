"""Requests under secure aggregation: what the guard counts, and what it refuses."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from cryptography.hazmat.primitives.asymmetric import ec
from dp_accounting import GaussianDpEvent, PoissonSampledDpEvent, SelfComposedDpEvent
from dp_accounting.pld import PLDAccountant
from torch import Tensor

from client.guard import Computation, Guard
from client.ledger.anchor import Anchor
from client.ledger.balance import EntryType
from client.ledger.ledger import Ledger
from client.site.site import Site
from shared.config import Optimiser, Trust
from shared.errors import BudgetExceeded, Refused
from shared.messages import PlanRequest, TrainRequest
from shared.outcomes import Refusal
from shared.privacy.release import Release, ReleaseKind
from shared.secure_aggregation.signing import Identity, public_to_text

if TYPE_CHECKING:
    from tests.conftest import Sites

DELTA = 1e-3
ROSTER = {"roster.organisations": 8, "roster.colluding": 2, "roster.fewest": 7}
HONEST = 5
ANSWER = {"w": torch.zeros(2), "b": torch.zeros(1)}


def ready() -> Computation:
    def compute() -> dict[str, Tensor]:
        return dict(ANSWER)

    return compute


class House:
    """A site with a roster, its ledger, and the guard that the lab gives it."""

    def __init__(
        self, sites: Sites, changes: Mapping[str, Any] | None = None, *, lab: bool = True
    ) -> None:
        self.folder = sites.make("alpha", {"policy.delta": DELTA} | ROSTER | dict(changes or {}))
        self.site = Site.load(self.folder)
        self.ledger = self.site.open_ledger()
        self.guard = Guard(self.site, self.ledger, sites.catalogue, unmasked_shares=lab)


def request(sites: Sites, **changes: Any) -> TrainRequest:  # noqa: ANN401
    settings = {"noise_multiplier": 0.8, "sample_rate": 0.5, "local_steps": 1} | changes
    return replace(sites.request(**settings), trust=Trust.SECURE_AGGREGATION)


def by_another_accountant(noise: float, rate: float, steps: int) -> float:
    accountant = PLDAccountant(value_discretization_interval=1e-3)
    sums = PoissonSampledDpEvent(rate, GaussianDpEvent(noise))
    accountant.compose(SelfComposedDpEvent(sums, steps))
    return float(accountant.get_epsilon(DELTA))


def test_the_guard_counts_the_honest_shares_of_its_own_roster(sites: Sites) -> None:
    house = House(sites)
    for number in (1, 2, 3):
        house.guard.answer(request(sites, round=number), ready)
    (charged,) = house.ledger.releases()
    assert (charged.shares, charged.steps) == (HONEST, 3)
    assert charged.noise_multiplier == pytest.approx(0.8 * math.sqrt(HONEST), rel=1e-4)
    together, alone = house.ledger.spent(DELTA), house.ledger.spent_if_all_collude(DELTA)
    assert together == pytest.approx(by_another_accountant(0.8 * HONEST**0.5, 0.5, 3), rel=0.01)
    assert alone == pytest.approx(by_another_accountant(0.8, 0.5, 3), rel=0.01)


def test_what_was_charged_is_the_same_when_the_ledger_opens_again(sites: Sites) -> None:
    house = House(sites)
    house.guard.answer(request(sites), ready)
    house.guard.answer(sites.request(round=2), ready)  # with local trust
    again = Ledger(house.site.ledger_file, house.site.user_base, house.site.anchor_file)
    assert again.releases() == house.ledger.releases()
    assert [release.shares for release in again.releases()] == [HONEST, 1]
    assert again.spent_if_all_collude(DELTA) == house.ledger.spent_if_all_collude(DELTA)
    # From the anchor alone, as after a lost ledger.
    assert Anchor.load(house.site.anchor_file).releases == house.ledger.releases()


def refused(house: House, asked: TrainRequest, match: str) -> None:
    with pytest.raises(Refused, match=match) as error:
        house.guard.answer(asked, ready)
    assert error.value.code is Refusal.POLICY
    assert house.ledger.releases() == []
    assert house.ledger.history(1)[0].type is EntryType.REFUSAL


def test_a_real_node_refuses_to_let_a_share_leave_unmasked(sites: Sites) -> None:
    refused(House(sites, lab=False), request(sites), "no mask")


def test_without_peers_it_is_refused(sites: Sites) -> None:
    changes = {"roster.organisations": 1, "roster.colluding": 0, "roster.fewest": 1}
    refused(House(sites, changes), request(sites), "names no other organisation")


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"local_steps": 2}, "no function of the sum"),
        ({"optimiser": Optimiser.ADAM}, "no function of the sum"),
        ({"noise_multiplier": 0.0}, "share of the noise"),
        ({"noise_multiplier": 2.0**21}, "share of the noise"),
    ],
)
def test_what_is_no_sum_with_a_share_of_noise_is_refused(
    sites: Sites, changes: dict[str, Any], match: str
) -> None:
    refused(House(sites), request(sites, **changes), match)


def test_both_tiers_have_a_limit(sites: Sites) -> None:
    together = by_another_accountant(0.8 * HONEST**0.5, 0.5, 1)
    alone = by_another_accountant(0.8, 0.5, 1)
    both = {
        "policy.max_epsilon": 1.02 * together,
        "policy.max_epsilon_if_all_collude": 1.02 * alone,
    }
    House(sites, both).guard.answer(request(sites), ready)
    for key, value in both.items():
        (sites.folder / "alpha").rename(sites.folder / f"before {key}")
        (sites.folder / "anchors" / "alpha").unlink()
        house = House(sites, both | {key: 0.9 * value})
        with pytest.raises(BudgetExceeded, match=key):
            house.guard.answer(request(sites), ready)
        assert house.ledger.releases() == []


def test_a_whole_run_is_judged_in_both_tiers(sites: Sites) -> None:
    alone = by_another_accountant(0.8, 0.5, 10)
    house = House(sites, {"policy.max_epsilon_if_all_collude": 0.98 * alone})
    plan = training_plan(sites, rounds=9)
    house.guard.check_plan(plan)
    with pytest.raises(BudgetExceeded, match="if all others collude"):
        house.guard.check_plan(replace(plan, rounds=10))


@pytest.mark.parametrize("trust", Trust)
def test_a_real_site_that_knows_its_peers_admits_plans_of_either_trust(
    sites: Sites, trust: Trust
) -> None:
    keys = [Identity(name="", key=ec.generate_private_key(ec.SECP384R1())).public for _ in "bcd"]
    peers = {
        f"roster.peers.{name}": public_to_text(key) for name, key in zip("bcd", keys, strict=True)
    }
    changes: dict[str, Any] = {"policy.delta": DELTA, "policy.max_epsilon": 50.0, **peers}
    folder = sites.make("real", changes)
    site = Site.load(folder)
    Guard(site, site.open_ledger(), sites.catalogue).check_plan(
        replace(training_plan(sites, rounds=1), trust=trust)
    )


def training_plan(sites: Sites, *, rounds: int) -> PlanRequest:
    """A plan of so many rounds of training."""
    return PlanRequest(
        run="r",
        catalogue=sites.catalogue.fingerprint,
        model=request(sites).model,
        largest_weight=0.0,
        statistics=0,
        popularity_noise=0.0,
        moment_noise=0.0,
        training_noise=0.8,
        sample_rate=0.5,
        clip_norm=1.0,
        local_steps=1,
        rounds=rounds,
        evaluations=0,
        trust=Trust.SECURE_AGGREGATION,
    )


def test_shares_of_an_entry_are_checked() -> None:
    with pytest.raises(ValueError, match="shares"):
        Release(kind=ReleaseKind.TRAIN, noise_multiplier=1.0, sample_rate=1.0, steps=1, shares=0)
