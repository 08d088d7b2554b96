"""The former `sotto-lab pretrain`: say what replaces it."""

from __future__ import annotations

from shared.errors import ConfigError

__all__ = ["pretrain_command"]


def pretrain_command() -> None:
    """Moved to `sotto-server pretrain`; a simulation takes public interactions with `--public`."""
    raise ConfigError(
        "`sotto-lab pretrain` is no command any more. For a simulation, give the folder of public "
        "interactions to `sotto-lab simulate --public`. For a real run: `sotto-lab items encode "
        "--words --data FOLDER --out TEXT`, then `sotto-server pretrain --catalogue TEXT "
        "--interactions FILE --out CATALOGUE`."
    )
