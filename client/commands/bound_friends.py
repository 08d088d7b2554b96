"""sotto-node bound-friends: a table in which nobody is the friend of more than K others."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from client.commands.options import SiteOption
from client.site.site import Site
from shared.data.catalogue import Catalogue
from shared.data.friends import bounded, read_friends, write_friends
from shared.errors import ConfigError
from shared.system.command_line import output

__all__ = ["bound_friends_command"]


def bound_friends_command(
    most: Annotated[
        int, typer.Option(metavar="K", help="Whose friend a user may be: of K others at most.")
    ],
    *,
    out: Annotated[Path, typer.Option(metavar="FILE", help="The CSV to write.")],
    friends: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="All friends.", show_default="data.friends"),
    ] = None,
    site: SiteOption = Path(),
) -> None:
    """Write friends within the bound that runs of the kind "social" need. Nothing leaves."""
    if most < 1:
        raise ConfigError(f"--most {most}: choose a whole number >= 1.")
    loaded = Site.load(site)
    if friends is None and not loaded.data.friends:
        raise ConfigError("data.friends names no table: name yours with --friends.")
    source = Path(loaded.folder, loaded.data.friends) if friends is None else friends
    folder, policy = Path(loaded.folder), loaded.policy
    catalogue = Catalogue.load(folder / loaded.catalogue)
    users = frozenset(loaded.load_histories(catalogue, policy.max_events, strict=False).users)
    table = read_friends(source, users, strict=False)
    kept = bounded(table, most)
    try:
        write_friends(out, kept)
    except OSError as error:
        raise ConfigError(f"{out} cannot be written ({error.strerror}): choose another.") from error
    befriended = int((kept.degrees > 0).sum())
    output.print(
        f"Written to {out}: {len(kept.friends):,} of {len(table.friends):,} friends of users with "
        f"a history; {befriended:,} users have one. In site.toml, under [data]:",
        soft_wrap=True,
    )
    # A relative path in site.toml begins at its folder.
    named = out if out.is_absolute() else os.path.relpath(out, folder)
    output.print(f'  bounded_friends = "{named}"\n  friends_most = {most}', markup=False)
    output.print(
        "What a run claims is about this table: a user who is removed goes with all rows here that "
        "name the user. Which other rows would be here without that user is no part of the claim.",
        soft_wrap=True,
    )
