"""sotto-node adapt: the published model, adapted to this site's own users."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from client.commands.adapt_private import adapt_privately, print_private, private_terms
from client.commands.options import JsonOption, SiteOption
from client.commands.own_source import (
    DataOption,
    DomainOption,
    ItemColumnOption,
    OwnSource,
    TimeColumnOption,
    UserColumnOption,
    find_source,
)
from client.home.adapt import FEWEST, Choice, build_home, choose, last_events
from client.home.friends import Friends, FriendsChoice, fit_friends
from client.home.home_model import HomeModel
from client.home.private import Guarantee
from client.home.store import HOME_FILE, save_home
from client.serving.published import load_published, scorer_of
from shared.data.catalogue import Catalogue
from shared.data.friends import read_friends
from shared.data.histories import Histories
from shared.errors import ConfigError
from shared.models.attention import AttentionRecommender
from shared.models.influence import InfluenceCaps
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
    private: Annotated[
        bool,
        typer.Option(
            "--private",
            help="Noised counts alone: what one user is shown hides your other users. Spends "
            "home.epsilon of the site, and is what a site with home.private = true always makes.",
        ),
    ] = False,
    epsilon: Annotated[
        float | None,
        typer.Option(help="With --private: its ε.", show_default="the site's home.epsilon"),
    ] = None,
    delta: Annotated[
        float | None, typer.Option(help="With --private and --data: its δ, far below 1 / users.")
    ] = None,
    attention: Annotated[
        bool,
        typer.Option(
            "--attention",
            help="Also train an attention model on your own data, about a minute of one core, and "
            "take it where it is measurably better.",
        ),
    ] = False,
    friends: Annotated[
        Path | None,
        typer.Option(
            help="Table of who is whose friend (user, friend, kind, weight): taken where lists are "
            "measurably better with what friends chose.",
            show_default="the site's data.friends",
        ),
    ] = None,
    data: DataOption = None,
    user_column: UserColumnOption = None,
    item_column: ItemColumnOption = None,
    time_column: TimeColumnOption = None,
    domain: DomainOption = None,
    site: SiteOption = Path(),
    as_json: JsonOption = False,
) -> None:
    """Adapt the published model to your own users, and say what it gains. Nothing leaves."""
    columns = {"user": user_column, "item": item_column, "time": time_column}
    source = find_source(site, data, columns, domain)
    wanted = private or (source.site is not None and source.site.home.private)
    terms = private_terms(source.site, epsilon, delta) if wanted else None
    if attention and wanted:
        raise ConfigError(
            "--attention trains on exact data, which a private home model must not show: leave it "
            "out."
        )
    if friends is not None and wanted:
        raise ConfigError("--friends reads exact data, as --attention does: leave it out.")
    if terms is None and (epsilon is not None or delta is not None):
        raise ConfigError("--epsilon and --delta are for --private: add it, or leave them out.")
    file, place = source.home if out is None else out, _friends_file(source, friends)
    domains = source.data.data.domains
    catalogue, recommender = load_published(model, source.device, domains)
    messages.print("reading your data ...")
    # At home, what users chose of what was recommended counts at once.
    histories = source.data.histories(catalogue)
    if terms is not None:
        if place is not None:
            messages.print(
                f"{place.name} is left out: a private home model takes no friends.", markup=False
            )
        home = adapt_privately(histories, recommender, terms, file)
        _save(file, home, catalogue, terms.guarantee, domains)
        if as_json:
            write_json(terms.report() | {"file": str(file)})
        else:
            print_private(terms, file)
        return
    choice, home, of_friends = _adapt_exactly(
        histories, recommender, source.data.data.caps, place, attention=attention
    )
    _save(file, home, catalogue, None, domains)
    if as_json:
        more = {} if of_friends is None else {"friends": asdict(of_friends)}
        write_json(asdict(choice) | more | {"file": str(file)})
    else:
        _print(choice, of_friends, file)


def _adapt_exactly(
    histories: Histories,
    recommender: AttentionRecommender,
    caps: InfluenceCaps,
    friends: Path | None,
    *,
    attention: bool,
) -> tuple[Choice, HomeModel, FriendsChoice | None]:
    """Choose the home model on the users' last events, and whether friends are part of it.

    Args:
        histories: of the own users.
        recommender: the published model.
        caps: on one user's part of own counts.
        friends: table of friends; None has none.
        attention: whether an attention model is trained on own data, too.
    """
    messages.print("comparing on the last event of your users ...")
    federated, items = scorer_of(recommender), recommender.config.items
    events, own = last_events(histories), None
    if attention:
        messages.print("training an attention model on your data ...")
        own = events.train_attention(items)
    window = recommender.config.max_length
    choice = choose(events, federated, items=items, window=window, attention=own, caps=caps)
    home = build_home(choice.chosen, histories, federated, items, own, caps)
    if friends is None:
        return choice, home, None
    messages.print("reading friends ...")
    table = read_friends(friends, frozenset(histories.users))
    counted = build_home(choice.chosen, events.counted, federated, items, own, caps)
    of_friends = Friends.of(table, recommender)
    return choice, *fit_friends(events, (counted, home), histories, of_friends)


def _friends_file(source: OwnSource, named: Path | None) -> Path | None:
    """Return the table of friends: the one that is named, or that of the data."""
    if named is not None:
        return named
    return source.folder / source.data.data.friends if source.data.data.friends else None


def _save(
    file: Path,
    home: HomeModel,
    catalogue: Catalogue,
    guarantee: Guarantee | None,
    domains: Sequence[str],
) -> None:
    try:
        save_home(file, home, catalogue.fingerprint, guarantee=guarantee, domains=domains)
    except OSError as error:
        raise ConfigError(
            f"{file} cannot be written ({error.strerror or error}): name another with --out."
        ) from error


def _print(choice: Choice, friends: FriendsChoice | None, file: Path) -> None:
    if choice.ndcg is None:
        output.print(
            f"{choice.users} of your users have two events or more; from {FEWEST} on, numbers are "
            f"chosen by their last events. Taken as it is: {choice.chosen.describe()}."
        )
    else:
        rows: list[tuple[str, float | None]] = [
            ("federated model alone", choice.ndcg_federated),
            *(
                []
                if choice.ndcg_attention is None
                else [("attention on your own data", choice.ndcg_attention)]
            ),
            ("your own data alone", choice.ndcg_home),
            ("adapted", choice.ndcg),
            *([] if friends is None else [("adapted, with friends", friends.ndcg)]),
        ]
        table = table_of("model", "NDCG@10")
        for name, value in rows:
            table.add_row(name, "-" if value is None else f"{value:.4f}")
        output.print(table)
        output.print(f"On the last events of {choice.users:,} users, which also chose the numbers.")
        output.print(Text(f"Chosen: {choice.chosen.describe()}."), soft_wrap=True)
        if choice.ndcg_attention is None:
            output.print(
                "With --attention, an attention model of your own data takes part, too: a minute "
                "or two of one core.",
                soft_wrap=True,
            )
    if friends is not None:
        output.print(
            f"{friends.users:,} users have a friend; {friends.describe()}. What a user is shown "
            "may tell what a friend chose."
            if friends.alpha
            else f"{friends.users:,} users have a friend; {friends.describe()}.",
            soft_wrap=True,
        )
    output.print(
        f"Written to {file}: exact counts of your data. Nothing was sent, and nothing was charged. "
        "It protects your users from nobody who reads it: keep it as you keep the data.",
        soft_wrap=True,
    )
