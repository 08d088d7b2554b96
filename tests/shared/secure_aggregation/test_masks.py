import hashlib

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from scipy import stats

from shared.secure_aggregation.masks import add_mask, subtract_mask


@pytest.mark.parametrize("length", [1, 2**14, 2**14 + 1, 50_000])
def test_a_mask_is_aes_256_in_counter_mode(length: int) -> None:
    values = np.zeros(length, np.uint64)
    add_mask(values, b"k" * 32)
    stream = Cipher(algorithms.AES(b"k" * 32), modes.CTR(bytes(16))).encryptor()
    assert values.tobytes() == stream.update(bytes(8 * length))


def test_the_numbers_never_change() -> None:
    """Partners of different versions must agree."""
    values = np.arange(20_000, dtype=np.uint64)
    add_mask(values, bytes(range(32)))
    assert hashlib.sha256(values.astype("<u8").tobytes()).hexdigest()[:16] == "8a810b8d740822bd"


def test_what_is_added_can_be_subtracted_modulo_2_64() -> None:
    start = np.array([0, 2**64 - 1, 5] * 9000, np.uint64)
    values = start.copy()
    add_mask(values, b"a" * 32)
    assert not np.array_equal(values, start)
    subtract_mask(values, b"a" * 32)
    np.testing.assert_array_equal(values, start)


def test_masks_are_uniform_and_independent_of_each_other() -> None:
    one, other = np.zeros((2, 200_000), np.uint64)
    add_mask(one, b"1" * 32)
    add_mask(other, b"2" * 32)
    for values in (one, other, one - other, one[1:] - one[:-1]):
        counts = np.bincount(values.view(np.uint8), minlength=256)
        assert stats.chisquare(counts).pvalue > 1e-4
