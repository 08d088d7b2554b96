"""Signatures with the partners' long-term keys: ECDSA over P-384 with SHA-384, 96 bytes.

P-384 is what Flower's node authentication uses (`client.site.keys`). What is signed starts with a
label of this protocol, so that no signature made for another purpose is one of these.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import (
    decode_dss_signature,
    encode_dss_signature,
)
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_ssh_public_key,
)

from shared.errors import ConfigError, SecureAggregationError

__all__ = [
    "PUBLIC_SIZE",
    "SIGNATURE_SIZE",
    "Identity",
    "check_public",
    "fingerprint",
    "is_signature",
    "public_from_openssh",
    "public_from_text",
    "public_to_text",
]

PUBLIC_SIZE, SIGNATURE_SIZE = 49, 96
"""Bytes of a public key (a compressed point) and of a signature (r and s)."""
_HALF = SIGNATURE_SIZE // 2
_FINGERPRINT_DIGITS, _GROUP = 32, 4
_CURVE, _SCHEME = ec.SECP384R1(), ec.ECDSA(SHA384())


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """A partner's name and long-term private key.

    Attributes:
        name: what it goes by in rosters.
        key: on P-384.
    """

    name: str
    key: ec.EllipticCurvePrivateKey

    def __post_init__(self) -> None:
        """Check the curve."""
        if self.key.curve.name != _CURVE.name:
            raise ConfigError(
                f"{self.name}: the key is on {self.key.curve.name}. Give one on {_CURVE.name}."
            )

    @property
    def public(self) -> bytes:
        """The public key, 49 bytes."""
        return _compressed(self.key.public_key())

    def sign(self, content: bytes) -> bytes:
        """Return a signature of the content, 96 bytes."""
        r, s = decode_dss_signature(self.key.sign(content, _SCHEME))
        return r.to_bytes(_HALF, "big") + s.to_bytes(_HALF, "big")


def is_signature(public: bytes, content: bytes, signature: bytes) -> bool:
    """Return whether the holder of a public key signed the content."""
    r, s = int.from_bytes(signature[:_HALF], "big"), int.from_bytes(signature[_HALF:], "big")
    try:
        _loaded(public).verify(encode_dss_signature(r, s), content, _SCHEME)
    except InvalidSignature:
        return False
    return len(signature) == SIGNATURE_SIZE


def check_public(public: bytes) -> None:
    """Refuse what is not a public key on P-384 as a compressed point.

    Raises:
        SecureAggregationError: it is not.
    """
    _loaded(public)


def public_to_text(public: bytes) -> str:
    """Return a public key as 68 characters of base64."""
    return base64.b64encode(public).decode("ascii")


def public_from_text(text: str) -> bytes:
    """Return the public key that `public_to_text` wrote.

    Raises:
        SecureAggregationError: it is not a public key on P-384 as a compressed point, in base64.
    """
    try:
        public = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        public = b""
    check_public(public)
    return public


def fingerprint(public: bytes) -> str:
    """Return the first 128 bits of a public key's SHA-256, as eight groups of hex digits.

    For people who compare keys by telephone; whoever looks for a key with the fingerprint of
    another needs about 2^128 attempts.

    >>> fingerprint(b"")
    'e3b0 c442 98fc 1c14 9afb f4c8 996f b924'
    """
    digits = hashlib.sha256(public).hexdigest()[:_FINGERPRINT_DIGITS]
    return " ".join(digits[at : at + _GROUP] for at in range(0, _FINGERPRINT_DIGITS, _GROUP))


def public_from_openssh(line: str) -> bytes:
    """Return the public key of a line "ecdsa-sha2-nistp384 ...", as `sotto-node` prints it.

    Raises:
        ConfigError: it is another kind of key, or none.
    """
    try:
        key = load_ssh_public_key(line.encode())
    except (ValueError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name != _CURVE.name:
        raise ConfigError(
            f"{line!r:.60} is not a public key on P-384 in OpenSSH form. Copy the line that "
            "begins with ecdsa-sha2-nistp384."
        )
    return _compressed(key)


def _compressed(key: ec.EllipticCurvePublicKey) -> bytes:
    return key.public_bytes(Encoding.X962, PublicFormat.CompressedPoint)


def _loaded(public: bytes) -> ec.EllipticCurvePublicKey:
    try:
        if len(public) == PUBLIC_SIZE:
            return ec.EllipticCurvePublicKey.from_encoded_point(_CURVE, public)
    except ValueError:
        pass
    raise SecureAggregationError("a signing key is not a compressed point on P-384.")
