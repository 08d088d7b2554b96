"""The former `sotto-lab pretrain`: say what replaces it."""

from __future__ import annotations

from shared.errors import ConfigError
from shared.system.command_line import command_group

__all__ = ["pretrain"]

pretrain = command_group("Say what replaces this command.")


@pretrain.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def pretrain_command() -> None:
    """Say what replaces this command."""
    raise ConfigError(
        "`sotto-lab pretrain` is no command any more. For a simulation, give the folder of public "
        "interactions to `sotto-lab simulate --public`. For a real run: `sotto-lab items encode "
        "--words --data FOLDER --out TEXT`, then `sotto-server pretrain --catalogue TEXT "
        "--interactions FILE --out CATALOGUE`."
    )
