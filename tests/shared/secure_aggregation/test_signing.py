import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from shared.errors import ConfigError, SecureAggregationError
from shared.secure_aggregation.signing import (
    SIGNATURE_SIZE,
    Identity,
    check_public,
    is_signature,
    public_from_openssh,
)
from tests.shared.secure_aggregation.federation import identity


def test_a_signature_holds_for_its_content_and_signer_alone() -> None:
    signer = identity("signer")
    signature = signer.sign(b"content")
    assert len(signature) == SIGNATURE_SIZE
    assert is_signature(signer.public, b"content", signature)
    assert not is_signature(signer.public, b"other", signature)
    assert not is_signature(identity("other").public, b"content", signature)
    for wrong in (signature + b"\0", signature[:-1], b"", bytes(SIGNATURE_SIZE)):
        assert not is_signature(signer.public, b"content", wrong)


def test_a_key_as_it_is_registered_is_read() -> None:
    signer = identity("signer")
    line = signer.key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
    assert public_from_openssh(line) == public_from_openssh(f"{line} a comment") == signer.public


def test_other_keys_are_refused() -> None:
    small = ec.generate_private_key(ec.SECP256R1())
    edwards = ed25519.Ed25519PrivateKey.generate()
    for key in (small.public_key(), edwards.public_key()):
        line = key.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
        with pytest.raises(ConfigError, match="Copy the line"):
            public_from_openssh(line)
    with pytest.raises(ConfigError, match="Copy the line"):
        public_from_openssh("nonsense")
    with pytest.raises(ConfigError, match="a: the key is on secp256r1"):
        Identity(name="a", key=small)


@pytest.mark.parametrize("public", [b"", bytes(49), b"\x02" + b"\xff" * 48, b"\x04" + bytes(48)])
def test_what_is_no_point_is_refused(public: bytes) -> None:
    with pytest.raises(SecureAggregationError, match="compressed point"):
        check_public(public)
