"""sotto-node evaluate: how good the published model is on one's own held-out events."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from client.commands.choices_table import print_choices
from client.commands.evaluate_plot import draw_evaluation
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
from client.commands.rerank_options import RerankOption, RerankStrengthOption, StatedRerank
from client.home.adapt import FEWEST
from client.home.evaluate import NAMES, Evaluation
from client.serving.choices import ChoicesEvaluation, evaluate_choices
from client.serving.quality import evaluate_published, load_compared
from shared.errors import ConfigError
from shared.rerank.settings import RerankConfig
from shared.system.command_line import messages, output, table_of, write_json
from shared.system.pictures import check_picture

__all__ = ["evaluate_command"]

_READING, _RANKING = "reading your data", "ranking the last events of your users"


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
    attention: Annotated[
        bool,
        typer.Option(
            "--attention",
            help="Also train an attention model on your own data, about a minute of one core: "
            "'own data alone' may then be that.",
        ),
    ] = False,
    eta: Annotated[
        float,
        typer.Option(min=0, help="With --feedback: position p is looked at with chance p^-eta."),
    ] = 1.0,
    rerank: RerankOption = None,
    rerank_strength: RerankStrengthOption = None,
    data: DataOption = None,
    user_column: UserColumnOption = None,
    item_column: ItemColumnOption = None,
    time_column: TimeColumnOption = None,
    domain: DomainOption = None,
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
    if feedback and (plot is not None or data is not None or attention):
        raise ConfigError(
            "--feedback is a site's, and a table: leave out --data, --plot and --attention."
        )
    if feedback and (rerank is not None or rerank_strength is not None):
        raise ConfigError("--feedback ranks what was shown: leave out --rerank.")
    columns = {"user": user_column, "item": item_column, "time": time_column}
    source = find_source(site, data, columns, domain)
    settings = StatedRerank(rerank, rerank_strength).settings(source.folder)
    if feedback:
        found = _rank_choices(source, model, before, eta=eta, k=k, most=users)
        if as_json:
            write_json(asdict(found))
        else:
            print_choices(found, k)
        return
    measured = evaluate_published(
        model,
        before,
        source.data,
        device=source.device,
        k=k,
        most=users,
        attention=attention,
        say=_progress(),
        rerank=settings,
    )
    if plot is not None:
        draw_evaluation(measured, plot)
    if as_json:
        write_json(_as_json(measured, settings))
    else:
        _print(measured, k)
        if measured.reranked:
            _print_reranked(measured, settings)


def _rank_choices(
    source: OwnSource, model: Path, before: Path | None, *, eta: float, k: int, most: int
) -> ChoicesEvaluation:
    """Rank what was chosen of what the site's service showed."""
    assert source.site is not None  # without --data, it is a site's
    catalogue, federated, window, _ = load_compared(
        model, before, device=source.device, k=k, domains=source.data.data.domains
    )
    messages.print(f"{_READING} ...")
    return evaluate_choices(
        source.site, catalogue, federated, window=window, eta=eta, k=k, most=most
    )


def _progress() -> Callable[[str, float], None]:
    """Return what prints each of the two long stages once."""
    said = set[str]()

    def say(what: str, _: float) -> None:
        stage = _READING if what.startswith("reading") else _RANKING
        if stage not in said:
            said.add(stage)
            messages.print(f"{stage} ...")

    return say


def _as_json(measured: Evaluation, rerank: RerankConfig) -> dict[str, object]:
    reranked = {
        name: {"before": before.as_dict(), "after": after.as_dict()}
        for name, (before, after) in measured.reranked.items()
    }
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
        **({} if measured.friends is None else {"friends": asdict(measured.friends)}),
        **({} if measured.befriending is None else {"befriending": asdict(measured.befriending)}),
        **({"rerank": {"how": str(rerank), "models": reranked}} if reranked else {}),
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
    output.print(measured.joining.sentence("Joining", "your own data alone"), soft_wrap=True)
    if measured.friends is not None:
        output.print(Text(f"Friends: {measured.friends.describe()}."), soft_wrap=True)
    if measured.befriending is not None:
        words = measured.befriending.sentence("What friends chose", "the adapted model without")
        output.print(words, soft_wrap=True)
    if measured.renewing is not None:
        words = measured.renewing.sentence("The new model", "the model before")
        output.print(words, soft_wrap=True)
    if measured.users < FEWEST:
        output.print(f"Fewer than {FEWEST} users: the figures say little.")


def _print_reranked(measured: Evaluation, rerank: RerankConfig) -> None:
    """Print what another order of lists costs, beside the lists of the highest scores."""
    table = table_of("list", "NDCG", "coverage", "rarer half", "calibration", "distance")
    for name, (before, after) in measured.reranked.items():
        for price, words in ((before, NAMES[name]), (after, "  reranked")):
            optional = (price.calibration_error, price.distance)
            table.add_row(
                words,
                f"{price.ndcg:.4f}",
                f"{price.coverage:.4f}",
                f"{price.exposure_rare:.4f}",
                *("-" if value is None else f"{value:.4f}" for value in optional),
            )
    output.print(Text(f"Reranked: {rerank}."))
    output.print(table)
    output.print(
        "rarer half: share of all places that goes to the items in the last five popularity "
        "deciles of your own data. Calibration: the error of the lists' genres, in nats. Distance: "
        "between the genres of two items of a list, 0 alike, 1 without a genre in common.",
        soft_wrap=True,
    )
