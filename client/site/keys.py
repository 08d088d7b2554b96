"""Key pairs as files: the node's key, and the form that the aggregation key shares with it.

NIST P-384 in OpenSSH form, without a passphrase: the one kind that Flower 1.41 reads for a
SuperNode (`flower-supernode --auth-supernode-private-key`) and registers (`flwr supernode
register`). The node's key is what the SuperNode signs with; the aggregation key is
`client.site.aggregation_key`.
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

__all__ = ["load_key", "make_key", "others_may", "public_file", "public_key", "public_line"]

_NODE, _NODE_REMEDY = "the node's key", "Check coordinator.key, or put the key back"


def make_key(file: Path, comment: str = "") -> None:
    """Write a new private key, readable by its owner alone, and the public one beside it.

    Args:
        file: of the private key.
        comment: at the end of the public key's line.

    Raises:
        SiteError: there is a file already, or it cannot be written.
    """
    key = ec.generate_private_key(ec.SECP384R1())
    text = key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
    try:
        create_atomically(file, text)
        line = f"{public_line(key)} {comment}".strip()
        write_atomically(public_file(file), f"{line}\n".encode(), mode=UMASK)
    except OSError as error:
        raise SiteError(f"{file}: the key cannot be written ({error.strerror}).") from error


def public_file(file: Path) -> Path:
    """Return the file of the public key that belongs to the private key in `file`."""
    return file.with_name(file.name + ".pub")


def public_key(file: Path) -> str:
    """Return the public key that belongs to the node's private key, as one line.

    Raises:
        SiteError: the private key is missing, unreadable or of another kind.
    """
    return public_line(load_key(file))


def load_key(
    file: Path, what: str = _NODE, remedy: str = _NODE_REMEDY
) -> ec.EllipticCurvePrivateKey:
    """Read a private key.

    Args:
        file: of the key.
        what: the key is, for messages.
        remedy: where it cannot be read, as a clause without a full stop.

    Raises:
        SiteError: the key is missing, unreadable or of another kind.
    """
    try:
        key = load_ssh_private_key(file.read_bytes(), None)
    except OSError as error:
        raise SiteError(f"{file}: {what} is not readable ({error.strerror}). {remedy}.") from None
    except (ValueError, TypeError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.curve.name != "secp384r1":
        # The parser's own words could repeat a piece of the key.
        raise SiteError(
            f"{file}: not a P-384 key in OpenSSH form without a passphrase. Put {what} "
            f"back, or make one: ssh-keygen -t ecdsa -b 384 -N '' -f {file}"
        )
    return key


def others_may(file: Path) -> str:
    """Return the permissions of a file that others can open, such as "640"; else "".

    Raises:
        OSError: there is no such file.
    """
    mode = file.stat().st_mode & 0o777
    return f"{mode:o}" if os.name == "posix" and mode & 0o077 else ""


def public_line(key: ec.EllipticCurvePrivateKey) -> str:
    """Return the public key in OpenSSH's form, without a comment."""
    return key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
