"""Secrets of a data source: read from a private file or from environment variables.

site.toml is copied, mailed and versioned, so it is refused if it holds a secret. No message repeats
a secret.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from urllib.parse import quote

from shared.errors import ConfigError, SiteError

__all__ = ["read_credentials", "redact", "refuse_secrets"]

_REMEDY = (
    "Take it out, name a file that only you can read with data.credentials, or set an environment "
    "variable (docs/data.md), and change the secret: it may have been copied"
)
_SECRET_KEY = re.compile(
    r"pass(word|wd|phrase)?$|pwd$|secret|token|(access|api|private)_?key", re.I
)
_SECRET_TEXT = re.compile(r"(pass(word|wd|phrase)?|pwd|secret\w*|token|\w+_key\w*)\s*=", re.I)


def refuse_secrets(table: Mapping[str, object], prefix: str = "") -> None:
    """Refuse a TOML table that holds a secret.

    A secret is a key such as `password`, or a URL with a password before its `@` or among its
    parameters.

    Raises:
        ConfigError: it holds one; the message names the key and not the value.
    """
    for key, value in table.items():
        name = prefix + key
        if isinstance(value, Mapping):
            refuse_secrets(value, f"{name}.")
        elif _SECRET_KEY.search(key):
            raise ConfigError(f"{name} (not shown): a secret must not be written here. {_REMEDY}.")
        elif isinstance(value, str) and key != "query" and _holds_secret(value):
            raise ConfigError(f"{name} (not shown): it holds a password. {_REMEDY}.")


def _holds_secret(text: str) -> bool:
    _, is_url, rest = text.partition("://")
    user, signed, _ = rest.partition("@")
    return bool(is_url and signed and ":" in user) or bool(_SECRET_TEXT.search(text))


def read_credentials(file: Path | None, variables: Mapping[str, str]) -> dict[str, str]:
    """Read credentials from a file, or from the environment if there is no file.

    Args:
        file: a TOML file that only its owner can read; None reads the environment.
        variables: allowed key -> environment variable of the same meaning.

    Returns:
        The keys that are set; may be empty.

    Raises:
        SiteError: the file is missing, accessible to others, not TOML, or has other keys or types.
    """
    if file is None:
        values = {key: os.environ.get(variable, "") for key, variable in variables.items()}
        return {key: value for key, value in values.items() if value}
    where = f"data.credentials = '{file}'"
    try:
        if os.name == "posix" and (mode := file.stat().st_mode & 0o077):
            raise SiteError(
                f"{where}: others may open it (its mode ends in {mode:03o}): chmod 600 it."
            )
        entries = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise SiteError(f"{where}: not readable ({error.strerror}). Check the path.") from None
    except ValueError:
        # The parser's message could repeat a part of a secret.
        raise SiteError(f'{where}: not valid TOML: write lines such as key = "value".') from None
    allowed = ", ".join(variables)
    for key, value in entries.items():
        if key not in variables:
            raise SiteError(f"{where}: unknown key '{key}': known keys are {allowed}.")
        if not isinstance(value, str):
            raise SiteError(f"{where}: {key} is not a text: put it in quotes.")
    return {key: str(value) for key, value in entries.items()}


def redact(text: str, secrets: Iterable[str]) -> str:
    """Return `text` on one line, with every secret replaced in all its usual encodings."""
    for secret in filter(None, secrets):
        for form in (secret, quote(secret, safe=""), quote(secret), repr(secret)[1:-1]):
            text = text.replace(form, "***")
    return " ".join(text.split())
