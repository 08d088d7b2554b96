"""sotto-lab compare: kinds of model at several ε, and which of them to take."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from shared.config import ModelKind, Trained
from shared.errors import ConfigError
from shared.models.registry import Examples, examples_of
from shared.sections import Value
from shared.system.command_line import failed, messages, output, table_of, write_json
from simulations.commands.options import (
    DataOption,
    DeltaOption,
    OrganisationsOption,
    PublicOption,
    RoundsOption,
    SetOption,
    settings_from,
)
from simulations.experiment.kinds import FILE, Compared, Kinds, check_files
from simulations.experiment.prepare import load_data
from simulations.experiment.result_json import write
from simulations.sweep.axes import parse_axes
from simulations.sweep.comparison import advice, compare
from simulations.sweep.folder import SweepFolder, resolve_plan
from simulations.sweep.options import EpsilonsOption, JobsOption, SeedsOption
from simulations.sweep.plan import Plan, SweepOptions
from simulations.sweep.progress import sweep_progress
from simulations.sweep.table import Outcome
from simulations.sweep.work import Grid, work
from simulations.sweep.workers import LocalWorkers, cores

__all__ = ["compare_command"]


def compare_command(  # noqa: PLR0913 each is a command-line option
    *,
    out: Annotated[Path, typer.Option(help="Folder for the runs and their table.")],
    kinds: Annotated[
        str, typer.Option(metavar="KIND,...", help="Kinds of model, as model.kind has them.")
    ] = "attention,lstm",
    config: Annotated[Path | None, typer.Option(help="TOML file of settings.")] = None,
    epsilons: EpsilonsOption = "1,4,8,none",
    seeds: SeedsOption = None,
    data_folder: DataOption = None,
    public: PublicOption = None,
    organisations: OrganisationsOption = None,
    rounds: RoundsOption = None,
    delta: DeltaOption = None,
    assignments: SetOption = None,
    jobs: JobsOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the outcome as JSON.")] = False,
) -> None:
    """Train several kinds of model on the same data at each ε, and say which to take.

    Each run is a `sotto-lab simulate` of its own, and --out is a sweep's folder: the same command
    continues it, and `sotto-lab report` makes its page. `--set KIND:KEY=VALUE` sets a value for one
    kind alone. For example:

    sotto-lab compare --kinds attention,lstm,query --set query:lab.queries=searches.csv
    --epsilons 8,none --delta 1e-5 --out runs/kinds

    Exit code 1: a run failed. The others still ran; the same command tries it again.
    """
    if jobs is not None and jobs < 1:
        raise ConfigError(f"--jobs {jobs}: choose a whole number >= 1.")
    variants = _variants(kinds)
    shared, own = _by_kind(assignments or [], variants)
    options = SweepOptions(
        recipes=[] if config is None else [config],
        options=settings_from(
            data=data_folder,
            public=public,
            organisations=organisations,
            rounds=rounds,
            delta=delta,
        ),
        assignments=shared,
        axes=parse_axes(epsilons, seeds, []),
        variants=variants,
        variant_assignments=own,
    )
    folder = SweepFolder(out)
    plan = resolve_plan(folder, options, {}, resume=False)
    check_files(plan.recipes)
    _check_rows(plan)
    with folder.locked():
        folder.write_plan(plan)
        source = Grid(plan.runs(), folder)
        with sweep_progress(source.total, source.outcomes, messages) as progress:
            work(source, LocalWorkers(jobs or cores(), 1), folder, plan.keep, progress)
    rows, sentences = compare(source.outcomes), advice(source.outcomes, folder)
    found = Kinds(kinds=tuple(rows), advice=tuple(sentences))
    write(folder.path, found.model_dump(mode="json", by_alias=True), FILE)
    if as_json:
        write_json(_data(folder, source.outcomes, rows, sentences))
    else:
        _print(folder, source.outcomes, rows, sentences)
    if any(outcome.status == "failed" for outcome in source.outcomes):
        failed()


def _variants(text: str) -> dict[str, dict[str, Value]]:
    """Return the settings of each kind, by its name."""
    ranking = [kind for kind in ModelKind if examples_of(kind) is Examples.HISTORIES]
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if name not in ranking:
            known = ", ".join(ranking)
            raise ConfigError(f"--kinds {text}: '{name}' is no kind that ranks items: {known}.")
    if len(set(names)) < max(2, len(names)):
        raise ConfigError(f"--kinds {text}: name two kinds or more, each once.")
    variants: dict[str, dict[str, Value]] = {}
    for name in names:
        variants[name] = {"model.kind": name}
        if name == ModelKind.LSTM:  # whose own weights would stay as they are
            variants[name]["model.trained"] = str(Trained.ALL)
    return variants


def _check_rows(plan: Plan) -> None:
    """Refuse tables of queries or friends that a run would refuse, perhaps after hours of others.

    Args:
        plan: of all runs.

    Raises:
        SottoError: a row of them, or of the data that they name users and items of, is wrong.
    """
    for lab in dict.fromkeys(run.config.lab for run in plan.runs()):
        if lab.queries or lab.friends:
            load_data(lab)


def _by_kind(
    assignments: Sequence[str], kinds: Collection[str]
) -> tuple[list[str], dict[str, list[str]]]:
    """Return the assignments for all kinds, and those of one kind alone, by its name."""
    shared: list[str] = []
    own: dict[str, list[str]] = {}
    for text in assignments:
        kind, colon, rest = text.partition(":")
        if not colon or "." in kind or "=" in kind:
            shared.append(text)
        elif kind not in kinds:
            raise ConfigError(f"--set {text}: '{kind}' is not among --kinds {','.join(kinds)}.")
        else:
            own.setdefault(kind, []).append(rest)
    return shared, own


def _data(
    folder: SweepFolder,
    outcomes: Sequence[Outcome],
    rows: Sequence[Compared],
    sentences: Sequence[str],
) -> dict[str, Any]:
    return {
        "folder": str(folder.path),
        "kinds": [row.model_dump() for row in rows],
        "advice": list(sentences),
        "failed": {one.run.name: one.reason for one in outcomes if one.status == "failed"},
    }


def _print(
    folder: SweepFolder,
    outcomes: Sequence[Outcome],
    rows: Sequence[Compared],
    sentences: Sequence[str],
) -> None:
    head = "ε|kind|NDCG@10|home|F1@10|coverage|ε spent|train s|MB"
    table = table_of(*head.split("|"))
    for column in table.columns[2:]:
        column.justify = "right"
    for row in rows:
        table.add_row(
            *("none" if row.epsilon is None else f"{row.epsilon:g}", row.kind),
            *(f"{row.ndcg:.4f}", "-" if row.home is None else f"{row.home:.4f}"),
            *(f"{row.f1:.4f}", f"{row.coverage:.3f}"),
            *("-" if row.spent is None else f"{row.spent:.2f}", f"{row.seconds:,.0f}"),
            "-" if row.megabytes is None else f"{row.megabytes:,.1f}",
        )
    output.print("Means over seeds; MB: sent and received by all organisations in a round.")
    output.print(table)
    for sentence in sentences:
        output.print(sentence, soft_wrap=True)
    for one in outcomes:
        if one.status == "failed":
            messages.print(f"failed: {one.run.name}: {one.reason}", markup=False, soft_wrap=True)
    path = folder.path
    output.print(f"Next: sotto-lab report {path} --out {path / 'report.html'}", soft_wrap=True)
