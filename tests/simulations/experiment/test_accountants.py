"""The accountants agree, and each of noise, steps and ε follows from the other two."""

from __future__ import annotations

import pytest

from shared.errors import AccountingError, ConfigError
from shared.privacy.accounting.accountant import epsilon
from shared.privacy.release import Release, ReleaseKind
from simulations.experiment.accountants import Answer, Question, answer


def release(noise: float, rate: float, steps: int) -> Release:
    return Release(kind=ReleaseKind.TRAIN, noise_multiplier=noise, sample_rate=rate, steps=steps)


def agreed(found: Answer) -> float:
    """ε, when all accountants name about the same."""
    values = found.epsilon
    assert set(values) == {"sotto", "rdp", "prv", "pld"}
    ours, rdp, prv, pld = (values[name] for name in ("sotto", "rdp", "prv", "pld"))
    assert ours is not None
    assert rdp is not None
    assert ours <= rdp <= 1.3 * ours
    assert ours == pytest.approx(prv, rel=5e-3)
    assert ours == pytest.approx(pld, rel=5e-3)
    return ours


def test_epsilon_of_given_noise() -> None:
    found = answer(Question(delta=1e-5, noise_multiplier=1.0, sample_rate=0.05, steps=1000))
    assert found.release == release(1.0, 0.05, 1000)
    assert agreed(found) == pytest.approx(10.987, abs=0.01)


def test_noise_for_a_target_after_what_is_spent() -> None:
    spent = (release(3.0, 0.1, 20), release(3.0, 0.1, 20))
    found = answer(Question(delta=1e-5, target=4.0, sample_rate=0.1, steps=60, spent=spent))
    assert found.release is not None
    assert found.release.steps == 60
    assert 3.99 < agreed(found) <= 4.0
    assert found.epsilon["sotto"] == epsilon([*spent, found.release], 1e-5)


def test_steps_that_fit() -> None:
    spent = (release(3.0, 0.1, 40),)
    asked = Question(delta=1e-5, target=4.0, sample_rate=0.1, noise_multiplier=1.5, spent=spent)
    found = answer(asked)
    assert found.release is not None
    assert agreed(found) <= 4.0
    assert epsilon([*spent, release(1.5, 0.1, found.release.steps + 1)], 1e-5) > 4.0


def test_what_is_spent_alone() -> None:
    found = answer(Question(delta=1e-5, spent=(release(3.0, 0.1, 60),)))
    assert found.release is None
    assert agreed(found) == pytest.approx(epsilon([release(3.0, 0.1, 60)], 1e-5))


def test_no_step_fits() -> None:
    asked = Question(delta=1e-5, target=0.1, sample_rate=1.0, noise_multiplier=1.0)
    assert answer(asked) == Answer(
        release=None, epsilon={"sotto": 0.0, "rdp": 0.0, "prv": None, "pld": None}
    )


@pytest.mark.parametrize(
    "form", [(100.0, 0.001, 1_000_000), (1.0, 1.0, 10_000), (50.0, 1e-4, 10_000)], ids=str
)
def test_where_others_would_take_minutes_they_are_left_out(form: tuple[float, float, int]) -> None:
    """Or take a coarser grid: never all memory."""
    noise, rate, steps = form
    asked = Question(delta=1e-5, noise_multiplier=noise, sample_rate=rate, steps=steps)
    found = answer(asked).epsilon
    assert found["sotto"] is not None
    assert found["rdp"] is not None
    assert 0 < found["sotto"] <= found["rdp"]
    if steps > 100_000 or noise == 1.0:
        assert (found["prv"], found["pld"]) == (None, None)


def test_gdp_is_no_accountant() -> None:
    """It understates."""
    found = answer(Question(delta=1e-5, noise_multiplier=1.0, sample_rate=0.05, steps=1000))
    assert "gdp" not in found.epsilon
    assert min(value for value in found.epsilon.values() if value is not None) > 10.9


@pytest.mark.parametrize("steps", [None, 5])
@pytest.mark.parametrize("noise", [None, 1.0])
@pytest.mark.parametrize("target", [None, 2.0])
def test_two_of_three_must_be_given(
    steps: int | None, noise: float | None, target: float | None
) -> None:
    given = [value is not None for value in (steps, noise, target)]
    if sum(given) == 2:
        Question(delta=1e-5, sample_rate=0.1, steps=steps, noise_multiplier=noise, target=target)
        with pytest.raises(ConfigError, match="--sample-rate is not set"):
            Question(delta=1e-5, steps=steps, noise_multiplier=noise, target=target)
        return
    with pytest.raises(ConfigError, match="give two of"):
        Question(delta=1e-5, sample_rate=0.1, steps=steps, noise_multiplier=noise, target=target)


@pytest.mark.parametrize("delta", [0.0, 1.0, float("nan")])
def test_delta_must_be_in_range(delta: float) -> None:
    with pytest.raises(AccountingError, match="delta must be in"):
        answer(Question(delta=delta, noise_multiplier=1.0, sample_rate=0.1, steps=1))
