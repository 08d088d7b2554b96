"""sotto-node evaluate: how good the published model is on one's own held-out events."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from client.commands.choices_table import print_choices
from client.commands.evaluate_plot import NAMES, check_picture, draw_evaluation
from client.commands.options import JsonOption, SiteOption
from client.commands.own_source import (
    DataOption,
    ItemColumnOption,
    TimeColumnOption,
    UserColumnOption,
    find_source,
)
from client.home.adapt import FEWEST
from client.home.evaluate import Difference, Evaluation, evaluate
from client.serving.choices import evaluate_choices
from client.serving.published import load_published, scorer_of
from client.site.site import Site
from shared.data.catalogue import Catalogue
from shared.errors import ConfigError, DataError
from shared.system.command_line import messages, output, table_of, write_json

__all__ = ["evaluate_command"]


def evaluate_command(  # noqa: PLR0913 each is a command-line option
    model: Annotated[
        Path, typer.Argument(help="The published folder, with model/ and catalogue/.")
    ],
    *,
    before: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="An earlier published folder, to compare with."),
    ] = None,
    k: Annotated[int, typer.Option("--k", min=1, help="Length of the lists.")] = 10,
    users: Annotated[
        int, typer.Option(min=1, help="Most users whose last event is ranked.")
    ] = 10_000,
    plot: Annotated[
        Path | None, typer.Option(help="File for a picture: .png, .svg or .pdf.")
    ] = None,
    feedback: Annotated[
        bool,
        typer.Option(
            "--feedback", help="Rank what was chosen in the service, corrected for positions."
        ),
    ] = False,
    eta: Annotated[
        float,
        typer.Option(min=0, help="With --feedback: position p is looked at with chance p^-eta."),
    ] = 1.0,
    data: DataOption = None,
    user_column: UserColumnOption = None,
    item_column: ItemColumnOption = None,
    time_column: TimeColumnOption = None,
    site: SiteOption = Path(),
    as_json: JsonOption = False,
) -> None:
    """Rank the last events of your own users, beside what you have without the model.

    With --feedback, what was chosen of what was shown is asked for in their place.
    Nothing leaves. What you make at home (counts, the adapted model) is made from the events before
    the last ones. The figures are exact: they protect your users from nobody who reads them.
    """
    if plot is not None:
        check_picture(plot)
    if feedback and (plot is not None or data is not None):
        raise ConfigError("--feedback is a site's, and a table: leave out --data and --plot.")
    source = find_source(site, data, user_column, item_column, time_column)
    catalogue, recommender = load_published(model, source.device)
    if k > len(catalogue):
        raise ConfigError(f"--k {k}: from 1 to {len(catalogue)}, the size of the catalogue.")
    federated, window = {"federated": scorer_of(recommender)}, recommender.config.max_length
    if before is not None:
        earlier_catalogue, earlier = load_published(before, source.device)
        _check_items(earlier_catalogue, catalogue, before)
        federated["before"] = scorer_of(earlier)
        window = max(window, earlier.config.max_length)
    messages.print("reading your data ...")
    if feedback:
        found = evaluate_choices(
            Site.load(site), catalogue, federated, window=window, eta=eta, k=k, most=users
        )
        if as_json:
            write_json(asdict(found))
        else:
            print_choices(found, k)
        return
    histories = source.data.histories(catalogue)
    if not (histories.lengths >= 2).any():
        raise DataError(
            "no user has two events with items of the catalogue",
            file=source.data.data.source,
            remedy="Bring more data: the last event of a user is asked for after the others.",
        )
    messages.print("ranking the last events of your users ...")
    measured = evaluate(histories, federated, items=len(catalogue), window=window, k=k, most=users)
    if plot is not None:
        draw_evaluation(measured, plot)
    if as_json:
        write_json(_as_json(measured))
    else:
        _print(measured, k)


def _check_items(earlier: Catalogue, catalogue: Catalogue, folder: Path) -> None:
    if earlier.item_ids != catalogue.item_ids:
        raise DataError(
            f"its catalogue has other items ({len(earlier):,}, not {len(catalogue):,}, or in "
            "another order)",
            file=folder,
            remedy="Compare models of the same catalogue, or evaluate each alone.",
        )


def _as_json(measured: Evaluation) -> dict[str, object]:
    return {
        "protocol": "last event of each user, all items",
        "users": measured.users,
        "of": measured.of,
        "models": {
            name: one.metrics.as_dict() | {"ndcg_half_width": one.half_width}
            for name, one in measured.models.items()
        },
        "chosen": measured.chosen.describe(),
        "joining": asdict(measured.joining),
        "renewing": None if measured.renewing is None else asdict(measured.renewing),
    }


def _print(measured: Evaluation, k: int) -> None:
    table = table_of("model", f"HR@{k}", f"NDCG@{k}", f"MRR@{k}", f"coverage@{k}")
    for name, one in measured.models.items():
        figures = one.metrics
        values = (figures.hr, figures.ndcg, figures.mrr, figures.coverage)
        table.add_row(NAMES[name], *(f"{value:.4f}" for value in values))
    output.print(table)
    sampled = "" if measured.users == measured.of else f", taken evenly from {measured.of:,}"
    output.print(
        f"Last events of {measured.users:,} users{sampled}, each among all items that the user has "
        "not seen.",
        soft_wrap=True,
    )
    output.print(Text(f"Adapted: {measured.chosen.describe()}."), soft_wrap=True)
    output.print(_sentence("Joining", measured.joining, "your own data alone"), soft_wrap=True)
    if measured.renewing is not None:
        words = _sentence("The new model", measured.renewing, "the model before")
        output.print(words, soft_wrap=True)
    if measured.users < FEWEST:
        output.print(f"Fewer than {FEWEST} users: the figures say little.")


def _sentence(what: str, difference: Difference, other: str) -> str:
    if difference.p is None:
        return f"{what} changes nothing: adapted, it ranks as {other} does."
    sure = "" if difference.p < 0.05 else ", which may be chance"
    verb = "brings" if difference.mean > 0 else "costs"
    return (
        f"{what} {verb} {abs(difference.mean):.4f} NDCG over {other} "
        f"(± {difference.half_width:.4f}, p = {difference.p:.2g}{sure})."
    )
