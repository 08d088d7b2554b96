"""sotto-server bundle, run, status, stop and resume."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text

from server.aggregation.quorum import minimum_organisations
from server.commands.options import JsonOption, ServerOption
from server.runs.bundle import BuiltBundle, build_bundle, source_folder
from server.runs.discard import discard
from server.runs.flower import Flower
from server.runs.follow import describe_changes
from server.runs.run import Run, all_runs, create_run, find_run, read_config
from server.runs.supervisor import STOPPED_BY_OPERATOR, start
from server.settings import Settings
from server.state.audit_log import AuditEvent
from server.state.status import RunState
from shared.errors import ServerError
from shared.system.command_line import confirm, failed, messages, output, table_of, write_json

__all__ = [
    "bundle_command",
    "discard_command",
    "resume_command",
    "run_command",
    "status_command",
    "stop_command",
]

_POLL = 0.5
RunArgument = Annotated[str, typer.Argument(metavar="RUN", help="The run's name.")]
DetachOption = Annotated[
    bool, typer.Option("--detach", help="Return at once; `status` shows how the run goes.")
]


def bundle_command(
    server: ServerOption = Path(),
    *,
    out: Annotated[Path, typer.Option(help="Folder to put it in.")] = Path(),
) -> None:
    """Build the app bundle that partners vet."""
    bundle = build_bundle(source_folder(Settings.load(server)))
    _print_bundle(bundle)
    file = out / bundle.file_name
    try:
        out.mkdir(parents=True, exist_ok=True)
        file.write_bytes(bundle.content)
    except OSError as error:
        raise ServerError(
            f"{file} cannot be written ({error.strerror}): name another folder with --out."
        ) from error
    output.print(f"{file}", soft_wrap=True, markup=False)


def run_command(
    config: Annotated[Path, typer.Argument(help="TOML file of the run's parameters.")],
    server: ServerOption = Path(),
    *,
    name: Annotated[str, typer.Option(help="Name of the run. [default: the file's name]")] = "",
    detach: DetachOption = False,
) -> None:
    """Start a run, and print what happens until it ends.

    Exit code 0: it finished. 1: it failed, paused or was stopped.
    """
    settings = Settings.load(server)
    flat = read_config(config)
    bundle = build_bundle(source_folder(settings))
    flower = Flower(settings)
    flower.nodes()  # before the folder is made: fails where no coordinator is up
    run = create_run(settings, name or config.stem, flat, bundle)
    _print_bundle(bundle)
    for about in filter(None, (run.about_rounds, run.about_groups)):
        messages.print(about, markup=False, soft_wrap=True)
    with run.exclusive():
        run = start(settings, flower, run, AuditEvent.RUN_STARTED)
    _follow(settings, run, detach=detach)


def resume_command(
    name: RunArgument,
    server: ServerOption = Path(),
    *,
    quorum: Annotated[
        float | None,
        typer.Option(
            help="Share of the organisations whose valid replies make a round from now on."
        ),
    ] = None,
    detach: DetachOption = False,
) -> None:
    """Continue a run that failed, paused or was stopped, from its last finished round."""
    settings = Settings.load(server)
    with find_run(settings, name).exclusive() as run:
        if run.state in (RunState.RUNNING, RunState.FINISHED):
            raise ServerError(f"run '{name}' is {run.state}: there is nothing to resume.")
        event = AuditEvent.RUN_RESUMED if run.starts else AuditEvent.RUN_STARTED
        started = start(settings, Flower(settings), run, event, quorum)
    _follow(settings, started, detach=detach)


def discard_command(
    name: RunArgument,
    server: ServerOption = Path(),
    *,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Delete a run that is given up; its record and audit log are kept.

    What partners were charged stays charged.
    """
    settings = Settings.load(server)
    run = find_run(settings, name)
    if not yes and not confirm(f"Delete checkpoint and model of run '{name}'{_after(run)}?"):
        failed()
    kept = discard(settings, run)
    messages.print(f"{name} is discarded. Its record is in {kept}", soft_wrap=True)


def stop_command(name: RunArgument, server: ServerOption = Path()) -> None:
    """Stop a run; finished rounds are saved, and `resume` continues from there."""
    settings = Settings.load(server)
    with find_run(settings, name).exclusive() as run:
        if run.state is not RunState.RUNNING:
            raise ServerError(f"run '{name}' is {run.state}: there is nothing to stop.")
        flower = Flower(settings)
        if not flower.run(run.starts[-1]).state.finished:
            flower.stop(run.starts[-1])
        run.save_state(RunState.STOPPED, STOPPED_BY_OPERATOR)
    messages.print(f"{name} is stopped{_after(run)}.", markup=False)


def status_command(server: ServerOption = Path(), *, as_json: JsonOption = False) -> None:
    """Show every run: its state, its rounds, and why it is not running."""
    rows = [_row(run) for run in all_runs(Settings.load(server))]
    if as_json:
        write_json(rows)
        return
    table = table_of("run", "state", "rounds", "starts", "created (UTC)", "reason")
    for row in rows:
        rounds = f"{row['round']} of {row['rounds']}"
        created = row["created"][:16].replace("T", " ")
        cells = (row["name"], row["state"], rounds, row["starts"], created, row["reason"])
        table.add_row(*(Text(str(cell)) for cell in cells))
    output.print(table)


def _row(run: Run) -> Mapping[str, Any]:
    status = run.status
    return {
        "name": run.name,
        "state": str(status.state),
        "reason": status.reason,
        "round": status.round,
        "rounds": run.config.training.number_of_rounds,
        "starts": len(run.starts),
        "flower": run.starts[-1] if run.starts else None,
        "created": run.created,
        "bundle": run.bundle,
        "out": str(run.out),
    }


def _follow(settings: Settings, run: Run, *, detach: bool) -> None:
    """Print what happens in the run until it ends; exit with 1 unless it is finished."""
    messages.print(f"{run.name} is started (Flower's run {run.starts[-1]}).", markup=False)
    if detach:
        return
    before = run.reported
    while True:
        run = find_run(settings, run.name)
        if status := run.reported:
            needed = minimum_organisations(run.config.server, resumed=status.round > 0)
            for line in describe_changes(before, status, needed):
                messages.print(line, soft_wrap=True, markup=False)
            before = status
        if run.state is not RunState.RUNNING:
            break
        time.sleep(_POLL)
    if run.state is RunState.FINISHED:
        messages.print(f"{run.name} is finished.", markup=False)
        output.print(f"{run.out / 'model'}", soft_wrap=True, markup=False)
        return
    messages.print(f"{run.name} is {run.state}{_after(run)}: {run.reason}", soft_wrap=True)
    messages.print(f"To continue: sotto-server resume {run.name}")
    if run.status.round:
        messages.print(f"To publish round {run.status.round}: sotto-server publish {run.name}")
    messages.print(f"To give it up: sotto-server discard {run.name}")
    failed()


def _after(run: Run) -> str:
    return f" after round {run.status.round}" if run.status.round else ""


def _print_bundle(bundle: BuiltBundle) -> None:
    messages.print(f"App bundle of {len(bundle.files)} files, {len(bundle.content):,} bytes:")
    for name in bundle.files:
        messages.print(f"  {name}", markup=False)
    messages.print(f"SHA-256 {bundle.fingerprint}", soft_wrap=True)
