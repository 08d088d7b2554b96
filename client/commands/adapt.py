"""sotto-node adapt: the published model, adapted to this site's own users."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from client.commands.options import JsonOption, SiteOption
from client.commands.own_source import (
    DataOption,
    ItemColumnOption,
    TimeColumnOption,
    UserColumnOption,
    find_source,
)
from client.home.adapt import FEWEST, Choice, choose, last_events
from client.home.home_model import TransitionCounts, popularity_shares
from client.home.store import HOME_FILE, save_home
from client.serving.published import load_published, scorer_of
from shared.errors import ConfigError
from shared.system.command_line import messages, output, table_of, write_json

__all__ = ["adapt_command"]


def adapt_command(  # noqa: PLR0913 each is a command-line option
    model: Annotated[
        Path, typer.Argument(help="The published folder, with model/ and catalogue/.")
    ],
    *,
    out: Annotated[
        Path | None,
        typer.Option(
            help="File for the adapted model.",
            show_default=f"the site's serve.home or {HOME_FILE}; with --data, in this folder",
        ),
    ] = None,
    data: DataOption = None,
    user_column: UserColumnOption = None,
    item_column: ItemColumnOption = None,
    time_column: TimeColumnOption = None,
    site: SiteOption = Path(),
    as_json: JsonOption = False,
) -> None:
    """Adapt the published model to your own users, and say what it gains. Nothing leaves."""
    source = find_source(site, data, user_column, item_column, time_column)
    catalogue, recommender = load_published(model, source.device)
    messages.print("reading your data ...")
    # At home, what users chose of what was recommended counts at once.
    histories = source.data.histories(catalogue)
    federated = scorer_of(recommender)
    messages.print("comparing on the last event of your users ...")
    items = len(catalogue)
    choice = choose(
        last_events(histories), federated, items=items, window=recommender.config.max_length
    )
    chosen = choice.chosen
    file = source.home if out is None else out
    try:
        save_home(
            file,
            TransitionCounts.of(histories, items, chosen.memory),
            chosen.strength,
            None if chosen.federated else popularity_shares(histories, items),
            catalogue.fingerprint,
        )
    except OSError as error:
        raise ConfigError(
            f"{file} cannot be written ({error.strerror or error}): name another with --out."
        ) from error
    if as_json:
        write_json(asdict(choice) | {"file": str(file)})
    else:
        _print(choice, file)


def _print(choice: Choice, file: Path) -> None:
    if choice.ndcg is None:
        output.print(
            f"{choice.users} of your users have two events or more; from {FEWEST} on, numbers are "
            f"chosen by their last events. Taken as it is: {choice.chosen.describe()}."
        )
    else:
        rows: list[tuple[str, float | None]] = [
            ("federated model alone", choice.ndcg_federated),
            ("your own data alone", choice.ndcg_home),
            ("adapted", choice.ndcg),
        ]
        table = table_of("model", "NDCG@10")
        for name, value in rows:
            table.add_row(name, f"{value:.4f}")
        output.print(table)
        output.print(f"On the last events of {choice.users:,} users, which also chose the numbers.")
        output.print(Text(f"Chosen: {choice.chosen.describe()}."), soft_wrap=True)
    output.print(
        f"Written to {file}: exact counts of your data. Nothing was sent, and nothing was charged. "
        "It protects your users from nobody who reads it: keep it as you keep the data.",
        soft_wrap=True,
    )
