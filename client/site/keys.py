"""The node's key pair: what Flower's SuperNode signs with, and what the coordinator registers.

NIST P-384 in OpenSSH form, without a passphrase: the one kind that Flower 1.41 reads for a
SuperNode (`flower-supernode --auth-supernode-private-key`) and registers (`flwr supernode
register`).
"""

from __future__ import annotations

import os
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_ssh_private_key,
)

from shared.errors import SiteError
from shared.system.files import UMASK, create_atomically, write_atomically

__all__ = ["make_key", "others_may", "public_file", "public_key"]


def make_key(file: Path) -> None:
    """Write a new private key, readable by its owner alone, and the public one beside it.

    Raises:
        SiteError: there is a file already, or it cannot be written.
    """
    key = ec.generate_private_key(ec.SECP384R1())
    text = key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
    try:
        create_atomically(file, text)
        write_atomically(public_file(file), f"{_line(key)}\n".encode(), mode=UMASK)
    except OSError as error:
        raise SiteError(f"{file}: the key cannot be written ({error.strerror}).") from error


def public_file(file: Path) -> Path:
    """Return the file of the public key that belongs to the private key in `file`."""
    return file.with_name(file.name + ".pub")


def public_key(file: Path) -> str:
    """Return the public key that belongs to a private key, as one line.

    Raises:
        SiteError: the private key is missing, unreadable or of another kind.
    """
    try:
        key = load_ssh_private_key(file.read_bytes(), None)
    except OSError as error:
        raise SiteError(
            f"{file}: the node's key is not readable ({error.strerror}). Check coordinator.key, "
            "or put the key back."
        ) from None
    except (ValueError, TypeError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.curve.name != "secp384r1":
        # The parser's own words could repeat a piece of the key.
        raise SiteError(
            f"{file}: not a P-384 key in OpenSSH form without a passphrase. Put the node's key "
            f"back, or make one: ssh-keygen -t ecdsa -b 384 -N '' -f {file}"
        )
    return _line(key)


def others_may(file: Path) -> str:
    """Return the permissions of a file that others can open, such as "640"; else "".

    Raises:
        OSError: there is no such file.
    """
    mode = file.stat().st_mode & 0o777
    return f"{mode:o}" if os.name == "posix" and mode & 0o077 else ""


def _line(key: ec.EllipticCurvePrivateKey) -> str:
    return key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
