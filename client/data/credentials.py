"""Secrets: where they may stand, and where they may not.

They come from a file of the partner's own or from environment variables. site.toml is copied,
mailed and versioned, so it is refused if it holds one; no message repeats one.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from urllib.parse import quote

from shared.errors import ConfigError, SiteError

__all__ = ["read_credentials", "redacted", "refuse_secrets"]

_REMEDY = (
    "Take it out, name a file that only you can read with data.credentials, or set an environment "
    "variable (docs/data.md), and change the secret: it may have been copied"
)
_SECRET_KEY = re.compile(
    r"pass(word|wd|phrase)?$|pwd$|secret|token|(access|api|private)_?key", re.I
)
_SECRET_TEXT = re.compile(r"(pass(word|wd|phrase)?|pwd|secret\w*|token|\w+_key\w*)\s*=", re.I)


def refuse_secrets(table: Mapping[str, object], prefix: str = "") -> None:
    """Refuse a TOML table in which a secret stands, without repeating it.

    That is: a key such as `password`, or a URL with a password before its `@` or among its
    parameters.

    Raises:
        ConfigError: names the key alone.
    """
    for key, value in table.items():
        name = prefix + key
        if isinstance(value, Mapping):
            refuse_secrets(value, f"{name}.")
        elif _SECRET_KEY.search(key):
            raise ConfigError(f"{name} (not shown): a secret must not stand here. {_REMEDY}.")
        elif isinstance(value, str) and key != "query" and _holds_secret(value):
            raise ConfigError(f"{name} (not shown): it holds a password. {_REMEDY}.")


def _holds_secret(text: str) -> bool:
    _, is_url, rest = text.partition("://")
    user, signed, _ = rest.partition("@")
    return bool(is_url and signed and ":" in user) or bool(_SECRET_TEXT.search(text))


def read_credentials(file: Path | None, variables: Mapping[str, str]) -> dict[str, str]:
    """What a credentials file says, or else the environment.

    Args:
        file: TOML that its owner alone can read; None looks at the environment.
        variables: the keys that there may be -> the environment variable of the same meaning.

    Returns:
        The keys that are set; none need be.

    Raises:
        SiteError: the file is missing, open to others, not TOML, or holds something else.
    """
    if file is None:
        found = {key: os.environ.get(variable, "") for key, variable in variables.items()}
        return {key: value for key, value in found.items() if value}
    where = f"data.credentials = '{file}'"
    try:
        if os.name == "posix" and (mode := file.stat().st_mode & 0o077):
            raise SiteError(
                f"{where}: others may open it (its mode ends in {mode:03o}): chmod 600 it."
            )
        given = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise SiteError(f"{where}: not readable ({error.strerror}). Check the path.") from None
    except ValueError:
        # The parser's own words could repeat a piece of a secret.
        raise SiteError(f'{where}: not valid TOML: write lines such as key = "value".') from None
    known = ", ".join(variables)
    for key, value in given.items():
        if key not in variables:
            raise SiteError(f"{where}: unknown key '{key}': known keys are {known}.")
        if not isinstance(value, str):
            raise SiteError(f"{where}: {key} is not a text: put it in quotes.")
    return {key: str(value) for key, value in given.items()}


def redacted(text: str, secrets: Iterable[str]) -> str:
    """`text` on one line, with every secret replaced, however it is written."""
    for secret in filter(None, secrets):
        for form in (secret, quote(secret, safe=""), quote(secret), repr(secret)[1:-1]):
            text = text.replace(form, "***")
    return " ".join(text.split())
