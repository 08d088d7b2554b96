"""Secrets that two partners share: X25519 (RFC 7748), HKDF-SHA256 (RFC 5869), ChaCha20-Poly1305.

Keys are fresh for each round. A sealing key encrypts one message only, so its nonce is constant.
"""

from __future__ import annotations

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from shared.errors import SecureAggregationError

__all__ = ["KEY_SIZE", "TAG_SIZE", "agree", "derive", "is_canonical", "public_of", "seal", "unseal"]

KEY_SIZE, TAG_SIZE = 32, 16
"""Bytes of any key, private or public, and of a cipher's tag."""
_NONCE = bytes(12)
_FIELD = 2**255 - 19


def public_of(private: bytes) -> bytes:
    """Return the public key of a private one."""
    return X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()


def is_canonical(public: bytes) -> bool:
    """Return whether a public key is written in its only short form, below 2^255 - 19.

    Otherwise one key could be shown as two.
    """
    return len(public) == KEY_SIZE and int.from_bytes(public, "little") < _FIELD


def agree(private: bytes, public: bytes) -> bytes:
    """Return the secret of two key pairs, 32 bytes, from one's private and the other's public key.

    Raises:
        SecureAggregationError: the public key is of low order: anybody knows the secret.
    """
    try:
        return X25519PrivateKey.from_private_bytes(private).exchange(
            X25519PublicKey.from_public_bytes(public)
        )
    except ValueError:
        raise SecureAggregationError("the X25519 public key is of low order.") from None


def derive(secret: bytes, salt: bytes, info: bytes) -> bytes:
    """Return a key of 32 bytes for the one use that `info` names."""
    return HKDF(SHA256(), KEY_SIZE, salt, info).derive(secret)


def seal(key: bytes, plaintext: bytes, context: bytes) -> bytes:
    """Return a message encrypted under a key that is used once, bound to `context`."""
    return ChaCha20Poly1305(key).encrypt(_NONCE, plaintext, context)


def unseal(key: bytes, ciphertext: bytes, context: bytes) -> bytes:
    """Return the message that `seal` encrypted under this key and context.

    Raises:
        SecureAggregationError: it was changed, or sealed under another key or context.
    """
    try:
        return ChaCha20Poly1305(key).decrypt(_NONCE, ciphertext, context)
    except InvalidTag:
        raise SecureAggregationError("the ciphertext is not authentic.") from None
