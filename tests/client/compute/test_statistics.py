"""The noise of a statistic, and what it costs."""

import numpy as np
import pytest
import torch

import client.app
from client.compute.statistics import noised_statistic
from client.ledger.ledger import Ledger
from client.site.site import Site
from shared.config import ModelConfig
from shared.messages import STATISTICS, Statistic, StatisticsReply, StatisticsRequest, refusal_in
from shared.models.attention import item_descriptors
from shared.models.moments import moment_sum, popularity_sum
from shared.privacy.accounting.accountant import epsilon
from shared.privacy.noise import SystemRandom
from shared.privacy.release import Release, ReleaseKind
from tests.conftest import DESCRIBED, ITEMS, Sites, ask, node, some_catalogue, some_histories


def request(**changes: object) -> StatisticsRequest:
    fields: dict[str, object] = {
        "run": "r",
        "round": 1,
        "catalogue": some_catalogue().fingerprint,
        "model": DESCRIBED,
        "noise_multiplier": 2.0,
        "statistic": Statistic.MOMENT,
        "fade": 0.5,
    }
    return StatisticsRequest(**fields | changes)  # type: ignore[arg-type]


def exactly(kind: Statistic, model: ModelConfig = DESCRIBED) -> np.ndarray:
    histories = some_histories(40)
    if kind is Statistic.POPULARITY:
        return popularity_sum(histories, ITEMS, 0.5)
    return moment_sum(histories, item_descriptors(model, some_catalogue()).numpy(), model.recency)


@pytest.mark.parametrize("kind", Statistic)
def test_without_noise_it_is_the_sum(kind: Statistic) -> None:
    table = item_descriptors(DESCRIBED, some_catalogue()).numpy()
    asked = request(statistic=kind, noise_multiplier=0.0)
    found = noised_statistic(some_histories(40), table, asked, SystemRandom())
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found.numpy(), exactly(kind), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("kind", Statistic)
def test_the_noise_has_the_stated_scale(kind: Statistic) -> None:
    """Mean and standard deviation over 4,000 draws of 16 or more numbers; 5 deviations off fail."""
    table = item_descriptors(DESCRIBED, some_catalogue()).numpy()
    asked, random = request(statistic=kind, noise_multiplier=3.0), SystemRandom()
    histories, sums = some_histories(40), exactly(kind)
    noise = (
        np.stack(
            [noised_statistic(histories, table, asked, random).numpy() - sums for _ in range(1000)]
        )
        / 3.0
    )
    assert abs(noise.mean()) < 5 / np.sqrt(noise.size)
    assert abs(noise.std() - 1) < 5 / np.sqrt(2 * noise.size)


def test_a_site_answers_once_and_is_charged_for_a_sum_of_all_users(sites: Sites) -> None:
    site = sites.make(changes={"policy.max_epsilon": 8.0})
    serve = node(client.app.app, site)
    asked = ask(request().to_content(), STATISTICS)
    first, again = serve(asked), serve(asked)
    assert first is not None
    assert again is not None
    one, other = (StatisticsReply.from_content(reply.content).total for reply in (first, again))
    assert one.shape == (4, 4)
    np.testing.assert_array_equal(one, other)
    ledger: Ledger = Site.load(site).open_ledger()
    release = Release(kind=ReleaseKind.STATISTICS, noise_multiplier=2.0, sample_rate=1.0, steps=1)
    assert ledger.releases() == [release]
    assert ledger.spent(1e-3) == pytest.approx(epsilon([release], 1e-3))


def test_a_partner_may_decline(sites: Sites) -> None:
    site = sites.make(changes={"policy.answers": ["describe", "train"]})
    reply = node(client.app.app, site)(ask(request().to_content(), STATISTICS))
    assert reply is not None
    assert str(refusal_in(reply)) == "policy"
    assert Site.load(site).open_ledger().releases() == []


def test_directions_that_the_catalogue_lacks_are_refused_and_cost_nothing(sites: Sites) -> None:
    site = sites.make()
    for model in (ModelConfig(feature_size=5), ModelConfig(feature_size=4, own_items=(ITEMS + 1,))):
        asked = ask(request(model=model).to_content(), STATISTICS)
        reply = node(client.app.app, site)(asked)
        assert reply is not None
        assert refusal_in(reply) is not None
    assert Site.load(site).open_ledger().releases() == []
