"""sotto-node recommend: items for one history, or for many users into a file."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import torch
import typer

from client.commands.options import JsonOption, SiteOption
from client.commands.own_source import (
    DataOption,
    DomainOption,
    ItemColumnOption,
    OwnSource,
    TimeColumnOption,
    UserColumnOption,
    find_source,
    read_id_rows,
    read_ids,
    site_in,
)
from client.commands.recommend_output import item_as_json, print_list, print_summary
from client.commands.rerank_options import RerankOption, RerankStrengthOption, StatedRerank
from client.home.store import HOME_FILE
from client.serving.batch import Batch, Summary, check_file, recommend_all
from client.serving.explanation import CHOSE
from client.serving.guarded import load_file_protection
from client.serving.named_items import Filters
from client.serving.published import home_in_use
from client.serving.recommender import Recommended, Recommender
from client.serving.smoothed import load_recommender
from client.site.site import Site
from client.site.wellbeing import Measure, WellbeingConfig
from shared.errors import ConfigError, DataError
from shared.rerank.settings import RerankConfig
from shared.system.command_line import messages, write_json

__all__ = ["recommend_command"]

ALL, ITEM = "all", "item_id"


def recommend_command(  # noqa: PLR0913 each is a command-line option
    *,
    model: Annotated[Path, typer.Option(help="The published folder, with model/ and catalogue/.")],
    users: Annotated[
        str | None,
        typer.Option(
            metavar="all|FILE", help="All users of your data, or those in a column of a table."
        ),
    ] = None,
    history: Annotated[
        str | None,
        typer.Option(
            metavar="ID,ID,...", help="Instead of users: items, oldest first; '' for none."
        ),
    ] = None,
    query: Annotated[
        str,
        typer.Option(
            metavar="WORDS", help="What the user looks for, for a model of the kind 'query'."
        ),
    ] = "",
    attribute: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE",
            help="With --query: what the user has declared, as in data.query_attributes; may be "
            "repeated.",
        ),
    ] = None,
    k: Annotated[int, typer.Option("--k", help="Length of a list.")] = 10,
    out: Annotated[
        Path | None,
        typer.Option(help="File for the lists of users: .parquet, .csv or .jsonl."),
    ] = None,
    rerank: RerankOption = None,
    rerank_strength: RerankStrengthOption = None,
    smooth: Annotated[
        int,
        typer.Option(
            help="Mean over so many thinned histories, against small changes of a history; 0: off."
        ),
    ] = 0,
    include_seen: Annotated[
        bool, typer.Option("--include-seen", help="Also recommend what is in the history.")
    ] = False,
    allow: Annotated[
        Path | None, typer.Option(help="Table of the only items that may be recommended.")
    ] = None,
    deny: Annotated[
        Path | None, typer.Option(help="Table of items that may not be recommended.")
    ] = None,
    category: Annotated[
        list[str] | None,
        typer.Option(help="Recommend items of this genre alone; may be repeated."),
    ] = None,
    explain: Annotated[
        bool, typer.Option("--explain", help="Say of each item which past events brought it.")
    ] = False,
    verb: Annotated[
        str, typer.Option(help="What users do with items, for --explain: watched, bought.")
    ] = CHOSE,
    home: Annotated[
        Path | None,
        typer.Option(
            help="Your adapted model.",
            show_default=f"the site's serve.home, or its {HOME_FILE} if there",
        ),
    ] = None,
    no_home: Annotated[
        bool, typer.Option("--no-home", help="Use the published model alone.")
    ] = False,
    data: DataOption = None,
    user_column: UserColumnOption = None,
    item_column: ItemColumnOption = None,
    time_column: TimeColumnOption = None,
    domain: DomainOption = None,
    site: SiteOption = Path(),
    as_json: JsonOption = False,
) -> None:
    """Recommend items for a history, or for many users of your own. Nothing leaves.

    A list for many users is written in blocks; after an interruption the same command goes on.
    """
    if (users is None) is (history is None):
        raise ConfigError("name either --users all, --users FILE or --history ID,ID,...")
    if home is not None and no_home:
        raise ConfigError("--home and --no-home contradict each other: leave one out.")
    if attribute and not query.strip():
        raise ConfigError("--attribute is read with a query: add --query WORDS, or leave it out.")
    lists = _Lists(allow, deny, tuple(category or ()), include_seen)
    stated = StatedRerank(rerank, rerank_strength)
    request = _Request(
        *(model, k, lists, verb, stated), home=home, no_home=no_home, explain=explain, smooth=smooth
    )
    if history is not None:
        if out is not None:
            raise ConfigError("--out is for --users: the list of one history is printed.")
        asked = query, _declared(attribute or [])
        listed = _for_history(request, history, asked, site, domain)
        if as_json:
            write_json([item_as_json(one) for one in listed])
        else:
            print_list(listed)
        return
    if query:
        raise ConfigError("--query is for --history: one user looks for something at a time.")
    if out is None or users is None:
        raise ConfigError("name the file for the lists: --out FILE.parquet, .csv or .jsonl.")
    check_file(out)
    columns = {"user": user_column, "item": item_column, "time": time_column}
    source = find_source(site, data, columns, domain)
    summary, used = _for_users(request, users, source, out)
    if as_json:
        write_json(asdict(summary) | {"file": str(out), "home": str(used) if used else None})
    else:
        print_summary(summary, out, used)


@dataclass(frozen=True, slots=True)
class _Lists:
    """What the options say of items that may be recommended."""

    allow: Path | None
    deny: Path | None
    categories: tuple[str, ...]
    include_seen: bool

    def filters(self, recommender: Recommender, column: str) -> Filters:
        """Read the files.

        Args:
            recommender: whose catalogue must have the items.
            column: their column of items.
        """
        allow = None if self.allow is None else _read_items(self.allow, column, recommender)
        deny = (
            frozenset[str]() if self.deny is None else _read_items(self.deny, column, recommender)
        )
        return Filters(
            exclude_seen=not self.include_seen,
            allow=allow,
            deny=deny,
            categories=frozenset(self.categories),
        )


@dataclass(frozen=True, slots=True)
class _Request:
    """What is asked for, whoever it is for."""

    model: Path
    k: int
    lists: _Lists
    verb: str
    rerank: StatedRerank
    home: Path | None
    no_home: bool
    explain: bool
    smooth: int

    def home_of(self, site: Site | None) -> Path | None:
        """Return the home model to use: the one that is named, or the site's."""
        if self.no_home:
            return None
        if self.home is not None or site is None:
            return self.home
        return home_in_use(site)

    def load(
        self,
        site: Site | None,
        domains: Sequence[str],
        device: torch.device | str = "cpu",
    ) -> Recommender:
        """Load the model, with the home model to use.

        Args:
            site: of the folder; it may show its users private home models alone.
            domains: whose items are ranked; none for the whole catalogue.
            device: where scores are computed.
        """
        return load_recommender(
            self.model,
            self.home_of(site),
            samples=self.smooth,
            device=device,
            verb=self.verb,
            private=site is not None and site.home.private,
            domains=domains,
        )

    def identity(
        self, recommender: Recommender, filters: Filters, rerank: RerankConfig
    ) -> dict[str, object]:
        """Return what tells lists of this request from those of another, but for data and home."""
        return {
            "model": _digest(self.model / "model" / "model.safetensors"),
            "catalogue": recommender.catalogue.fingerprint,
            "k": self.k,
            "filters": [
                filters.exclude_seen,
                None if filters.allow is None else sorted(filters.allow),
                sorted(filters.deny),
                sorted(filters.categories),
            ],
            "because": self.verb if self.explain else None,
            "rerank": asdict(rerank) if rerank.changes else None,
            **({"smooth": self.smooth} if self.smooth else {}),
        }


def _declared(attributes: Sequence[str]) -> dict[str, str]:
    """Read attributes as they are typed."""
    found = {}
    for text in attributes:
        name, equals, value = text.partition("=")
        if not (name.strip() and equals):
            raise ConfigError(f"--attribute {text!r}: write NAME=VALUE, as age_group=25.")
        if name.strip() in found:
            raise ConfigError(
                f"--attribute {text!r}: {name.strip()!r} is there twice, name it once."
            )
        found[name.strip()] = value
    return found


def _for_history(
    request: _Request,
    history: str,
    query: tuple[str, dict[str, str]],
    site: Path,
    domains: Sequence[str] | None,
) -> list[Recommended]:
    folder = site if site.is_dir() else site.parent
    rerank, own = request.rerank.settings(folder), site_in(folder)
    if domains and own is not None:
        raise ConfigError("--domain is for --data FILE: a site's are data.domains of site.toml.")
    recommender = request.load(own, domains or () if own is None else own.data.domains)
    return recommender.for_query(*query).recommend(
        [item.strip() for item in history.split(",") if item.strip()],
        request.k,
        filters=request.lists.filters(recommender, ITEM),
        explain=request.explain,
        rerank=rerank,
    )


def _for_users(
    request: _Request, users: str, source: OwnSource, out: Path
) -> tuple[Summary, Path | None]:
    """Write the lists, and return what was done and the home model that was used."""
    own, columns = site_in(source.folder), source.data.columns
    asked = None if users == ALL else read_ids(Path(users), "user", columns.user)
    rerank, home = request.rerank.settings(source.folder), request.home_of(own)
    recommender = request.load(own, source.data.data.domains, source.device)
    filters = request.lists.filters(recommender, columns.item)
    recommender.check(request.k, filters)
    recommender.reranker(rerank)
    policy, protection = None, None
    if source.site is not None:
        policy = source.site.wellbeing.for_files
        protection = load_file_protection(source.site, recommender.catalogue)
        _say_what_is_not_kept(source.site.wellbeing)
    messages.print("reading your data ...")
    data = repr((source.data.data, source.data.version()))
    batch = Batch(
        recommender=recommender,
        passes=source.data.passes(recommender.catalogue, asked),
        k=request.k,
        filters=filters,
        explain=request.explain,
        rerank=rerank,
        protection=protection,
        file=out,
        request={
            **request.identity(recommender, filters, rerank),
            "home": None if home is None else _digest(home),
            "data": hashlib.sha256(data.encode()).hexdigest(),
            "users": None
            if asked is None
            else hashlib.sha256("\n".join(asked).encode()).hexdigest(),
            **({"wellbeing": _guard_digest(source.folder, policy)} if policy else {}),
        },
    )
    return recommend_all(batch, lambda text: messages.print(text, soft_wrap=True)), home


def _say_what_is_not_kept(policy: WellbeingConfig) -> None:
    named = {Measure.QUIET: "quiet hours", Measure.PAUSE: "pauses"}
    left = [name for measure, name in named.items() if measure in policy.measures]
    if policy.on and left:
        messages.print(
            f"The wellbeing guard's {' and '.join(left)} are of the moment when a list is shown: "
            "keep them where you show these lists.",
            soft_wrap=True,
        )


def _guard_digest(folder: Path, policy: WellbeingConfig) -> str:
    """Return what tells one state of the guard's policy, model and tables from another."""
    files = [
        *sorted((folder / policy.model).iterdir()),
        folder / policy.users,
        folder / policy.items,
    ]
    parts = [repr(policy), *(_digest(file) for file in files if file.is_file())]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _read_items(file: Path, column: str, recommender: Recommender) -> frozenset[str]:
    rows = read_id_rows(file, "item", column)
    ids = list(rows)
    numbers = recommender.catalogue.find(ids)
    if not numbers.all():
        unknown = ids[int((numbers == 0).argmax())]
        raise DataError(
            "the catalogue has no such item",
            file=file,
            row=rows[unknown],
            field=column,
            value=unknown,
            remedy="Leave it out, or take the catalogue that has it.",
        )
    return frozenset(ids)


def _digest(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
