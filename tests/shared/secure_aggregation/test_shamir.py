import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import SecureAggregationError
from shared.secure_aggregation import shamir
from shared.secure_aggregation.shamir import PRIME, SHARE_SIZE, interpolate, recover, split
from tests.shared.secure_aggregation.federation import seeded

secrets = st.one_of(st.binary(min_size=32, max_size=32), st.sampled_from([bytes(32), b"\xff" * 32]))


@given(secrets, st.integers(1, 6), st.sets(st.integers(0, 999), min_size=6, max_size=9), st.data())
def test_any_threshold_of_shares_recovers_the_secret(
    secret: bytes, threshold: int, holders: set[int], data: st.DataObject
) -> None:
    shares = split(secret, threshold, holders, seeded(1))
    assert set(shares) == holders
    size = st.integers(threshold, len(holders))
    chosen = data.draw(st.permutations(sorted(holders)))[: data.draw(size)]
    assert recover({holder: shares[holder] for holder in chosen}, threshold) == secret


@given(secrets, secrets, st.integers(2, 6))
def test_fewer_shares_fit_every_secret(secret: bytes, candidate: bytes, threshold: int) -> None:
    """Through t - 1 shares and any secret there is one polynomial: that secret's own sharing."""
    shares = split(secret, threshold, range(threshold - 1), seeded(2))
    points = shares | {-1: int.from_bytes(candidate, "big")}
    others = {i: interpolate(points, i) for i in range(threshold - 1, 2 * threshold)}
    assert recover(others, threshold) == candidate
    assert {i: interpolate(others, i) for i in shares} == shares
    with pytest.raises(SecureAggregationError, match=f"{threshold - 1} shares cannot replace"):
        recover(shares, threshold)


def test_fewer_shares_are_distributed_alike_for_every_secret(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """All sharings of all secrets modulo 7, with a threshold of 3 of 4."""
    monkeypatch.setattr(shamir, "PRIME", 7)
    seen: dict[int, dict[tuple[int, int], list[tuple[int, ...]]]] = {}
    for secret, drawn in itertools.product(range(7), itertools.product(range(7), repeat=2)):
        coefficients = iter(drawn)
        shares = split(
            bytes(31) + bytes([secret]),
            3,
            range(4),
            lambda size, left=coefficients: next(left).to_bytes(size, "big"),  # type: ignore[misc]
        )
        for pair in itertools.combinations(range(4), 2):
            seen.setdefault(secret, {}).setdefault(pair, []).append(tuple(shares[i] for i in pair))
    everything = sorted(itertools.product(range(7), repeat=2))
    assert len(seen) == 7
    for pairs in seen.values():
        assert all(sorted(values) == everything for values in pairs.values())


def test_a_share_of_another_secret_shows() -> None:
    """A share that is moved on purpose need not: what the owner advertised shows it, then."""
    shares = split(b"s" * 32, 3, range(3), seeded(3))
    with pytest.raises(SecureAggregationError, match="not shares of one secret"):
        recover(shares | {1: split(b"s" * 32, 3, range(3), seeded(4))[1]}, 3)


def test_a_coefficient_is_below_the_prime() -> None:
    drawn = iter([b"\xff" * SHARE_SIZE, b"\xff" * (SHARE_SIZE - 1) + b"\x07"])
    shares = split(bytes(32), 2, [0], lambda size: next(drawn))
    assert shares[0] == (PRIME - 0xFF + 0x07) % PRIME, "the prime itself is drawn again"


def test_a_secret_of_another_size_is_refused() -> None:
    with pytest.raises(SecureAggregationError, match="32 bytes, not 31"):
        split(bytes(31), 2, range(3), seeded(0))
