import pytest

from shared.errors import SecureAggregationError
from shared.secure_aggregation.agreement import (
    agree,
    derive,
    is_canonical,
    public_of,
    seal,
    unseal,
)

LOW_ORDER = [
    number.to_bytes(32, "little")
    for number in (
        0,
        1,
        325606250916557431795983626356110631294008115727848805560023387167927233504,
        39382357235489614581723060781553021112529911719440698176882885853963445705823,
        2**255 - 20,
    )
]
"""Every canonical point of order 1, 2, 4 or 8 on the curve or its twist (cr.yp.to/ecdh.html)."""


def test_both_sides_agree() -> None:
    one, other = b"1" * 32, b"2" * 32
    assert agree(one, public_of(other)) == agree(other, public_of(one))


@pytest.mark.parametrize("public", LOW_ORDER)
def test_a_point_of_low_order_is_refused(public: bytes) -> None:
    assert is_canonical(public)
    for private in (bytes(32), b"1" * 32):
        with pytest.raises(SecureAggregationError, match="low order"):
            agree(private, public)


@pytest.mark.parametrize("alias", [2**255 - 19 + 9, 2**255 + 9])
def test_a_second_form_of_a_key_is_not_canonical(alias: int) -> None:
    assert is_canonical((9).to_bytes(32, "little"))
    assert not is_canonical(alias.to_bytes(32, "little"))
    assert not is_canonical(bytes(31))


def test_what_was_sealed_opens_under_the_same_key_and_context_alone() -> None:
    key = derive(b"secret", b"salt", b"one use")
    assert derive(b"secret", b"salt", b"other use") != key != derive(b"secret", b"", b"one use")
    sealed = seal(key, b"shares", b"context")
    assert unseal(key, sealed, b"context") == b"shares"
    for wrong in (
        (bytes(32), sealed, b"context"),
        (key, sealed, b"contexT"),
        (key, bytes([sealed[0] ^ 1]) + sealed[1:], b"context"),
        (key, sealed[:-1], b"context"),
    ):
        with pytest.raises(SecureAggregationError, match="not authentic"):
            unseal(*wrong)
