"""sotto-lab over-use: how well over-use can be foreseen at each ε, beside counts without noise."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Column, Table

from shared.config import PrivacyConfig, Trust
from shared.errors import ConfigError
from shared.over_use_task import OverUseTask
from shared.system.command_line import messages, output, write_json
from shared.system.pictures import check_picture
from simulations.experiment.config import Engine
from simulations.over_use.federation import Plan
from simulations.over_use.plot import draw
from simulations.over_use.run import FILE, Experiment, run_experiment
from simulations.over_use.task import COHORT, COHORT_TASK, DATA_TASK, read_task

__all__ = ["over_use_command", "print_result"]

_COLUMNS = {
    "auroc": "AUROC",
    "f1": "F1",
    "precision": "precision",
    "recall": "recall",
    "calibration_error": "calibration error",
}


def over_use_command(  # noqa: PLR0913 each is a command-line option
    *,
    data: Annotated[
        str,
        typer.Option(
            help="'cohort': invented users with a known risk. 'movielens': the embedded data. "
            "Or a folder, as for `simulate`; a column over_use of its users.* is the label."
        ),
    ] = COHORT,
    epsilons: Annotated[
        str, typer.Option(help="Budgets; 'none' trains together without privacy.")
    ] = "1,2,4,8,none",
    delta: Annotated[float, typer.Option(help="δ of the claim.")] = 1e-5,
    trust: Annotated[
        Trust, typer.Option(help="Whose noise protects an organisation's users.")
    ] = Trust.SECURE_AGGREGATION,
    organisations: Annotated[int, typer.Option(min=1, help="Number of organisations.")] = 4,
    users: Annotated[int, typer.Option(min=50, help="Users of the cohort.")] = 4000,
    rounds: Annotated[
        int | None, typer.Option(min=1, help="Rounds.", show_default="60 with noise, 80 without")
    ] = None,
    engine: Annotated[
        Engine, typer.Option(help="Runs the apps in this process or on Ray.")
    ] = Engine.INPROCESS,
    splits: Annotated[int, typer.Option(min=1, help="Divisions of the users to measure on.")] = 3,
    seed: Annotated[int, typer.Option(min=0, help="Of users, weights, samples and noise.")] = 0,
    after_sessions: Annotated[
        int | None,
        typer.Option(min=0, help="A user's present is after so many sessions; 0: one for all."),
    ] = None,
    hours: Annotated[
        float | None, typer.Option(help="Label: more than so many hours a day ...")
    ] = None,
    events: Annotated[
        int | None, typer.Option(help="... or at least so many events a day ...")
    ] = None,
    days: Annotated[int | None, typer.Option(help="... on at least so many days ...")] = None,
    weeks: Annotated[float | None, typer.Option(help="... within the next weeks.")] = None,
    out: Annotated[Path, typer.Option(help="New folder for result, models and ledgers.")] = Path(
        "runs/over-use"
    ),
    plot: Annotated[
        Path | None, typer.Option(help="File for a picture: calibration and AUROC.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Train the model of over-use risk together, and measure it on held-out users.

    One model for each ε, beside logistic regressions without noise, each organisation alone without
    noise and, where users are invented, the truth. For example:

    sotto-lab over-use --epsilons 1,8 --plot over-use.png
    """
    if plot is not None:
        check_picture(plot)
    if out.exists() and any(out.iterdir()):
        raise ConfigError(f"--out {out}: the folder is not empty. Choose a new one.")
    stated = {"hours": hours, "events": events, "days": days, "weeks": weeks}
    settings = _settings(
        COHORT_TASK if data == COHORT else DATA_TASK, stated | {"after_sessions": after_sessions}
    )
    claims = [
        PrivacyConfig(
            epsilon=epsilon, delta=delta, trust=trust if organisations > 1 else Trust.LOCAL
        )
        for epsilon in _budgets(epsilons)
    ]
    experiment = Experiment(
        plans=[Plan(privacy=claim, rounds=rounds, engine=engine) for claim in claims],
        organisations=organisations,
        splits=splits,
        seed=seed,
    )
    task = read_task(data, users, seed, settings)
    result = run_experiment(task, experiment, out, messages.print)
    if plot is not None:
        draw(result, plot)
    if as_json:
        write_json(result)
    else:
        print_result(result, out)


def _settings(default: OverUseTask, stated: Mapping[str, Any]) -> OverUseTask:
    """Return the default with what was stated; stated hours or events replace both."""
    values: dict[str, Any] = {}
    if stated["hours"] is not None or stated["events"] is not None:
        values = {"hours": None, "events": None}
    return replace(default, **values | {k: v for k, v in stated.items() if v is not None})


def _budgets(text: str) -> list[float | None]:
    try:
        return [None if part == "none" else float(part) for part in text.split(",")]
    except ValueError as error:
        raise ConfigError(f"--epsilons {text}: give numbers or 'none', as in 1,8,none.") from error


def print_result(result: Mapping[str, Any], folder: Path) -> None:
    """Print who over-used, each model's figures, and those of groups."""
    data = result["data"]
    share = data["positives"] / data["users"]
    output.print(
        f"{data['name']}: {data['users']:,} users, {data['positives']:,} of whom ({share:.0%}) "
        f"over-used: {data['label']}."
    )
    for reason, count in data["left_out"].items():
        output.print(f"left out: {count:,} ({reason})")
    table = Table("model", *(_right(title) for title in _COLUMNS.values()))
    for name, row in result["models"].items():
        table.add_row(name, *(_text(row[figure]) for figure in _COLUMNS))
    output.print(table)
    groups = Table("model", "group", *map(_right, ("over-used", "risk", "recall", "false alarms")))
    for name in result["privacy"]:
        for grouping, rows in result["models"][name]["groups"].items():
            for group, row in rows.items():
                shown = ("share", "mean_risk", "recall", "false_positive_rate")
                figures = ("-" if row[one] is None else f"{row[one]:.3f}" for one in shown)
                groups.add_row(name, f"{grouping}: {group}", *figures)
    output.print(groups)
    output.print(f"{folder / FILE}; models and ledgers in the same folder.")


def _right(title: str) -> Column:
    return Column(title, justify="right")


def _text(value: Mapping[str, float | None]) -> str:
    if value["mean"] is None:
        return "-"
    error = "" if value["error"] is None else f" ±{value['error']:.3f}"
    return f"{value['mean']:.3f}{error}"
