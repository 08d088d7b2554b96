"""sotto-lab: simulate federations, account for privacy, audit claims and report on them."""

from __future__ import annotations

import json
import logging
import os
from dataclasses import asdict
from typing import Annotated

os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")  # before Flower is imported

import typer
from rich.table import Table

from shared.system.command_line import command_group, output, run, write_json
from simulations.audit.command import audit_command
from simulations.calibrate.command import calibrate_command
from simulations.commands.accountant import accountant_command
from simulations.commands.fetch import fetch_command
from simulations.commands.items import encode_command
from simulations.commands.pretrain import pretrain_command
from simulations.commands.settings import settings
from simulations.commands.simulate import prepare_command, simulate_command
from simulations.report.command import report_command
from simulations.sweep.command import sweep_command

__all__ = ["main"]

ANYTHING = {"allow_extra_args": True, "ignore_unknown_options": True}
"""Lets a command that is gone answer whatever options it is given."""
app = command_group("Simulate federations, sweep privacy budgets, audit claims.")
data = command_group("Benchmark data.")
app.add_typer(data, name="data")
data.command("fetch")(fetch_command)
items = command_group("Public item features.")
app.add_typer(items, name="items")
items.command("encode")(encode_command)
app.command("pretrain", hidden=True, context_settings=ANYTHING)(pretrain_command)
app.command("accountant")(accountant_command)
app.command("audit")(audit_command)
app.command("report")(report_command)
app.command("sweep")(sweep_command)
app.command("calibrate")(calibrate_command)
app.command("simulate")(simulate_command)
app.command("prepare")(prepare_command)


@app.command("settings")
def settings_command(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List every setting that --config and --set take, with its default."""
    listed = settings()
    if as_json:
        write_json([asdict(setting) for setting in listed])
        return
    table = Table("setting", "default", "meaning")
    for setting in listed:
        default = "(state it)" if setting.default is None else json.dumps(setting.default)
        table.add_row(setting.key, default, setting.meaning)
    output.print(table)


def main() -> None:
    """Run the console command; see `shared.system.command_line` for its exit codes."""
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    logging.getLogger("flwr").setLevel(logging.WARNING)
    run(app, interrupted="finished rounds are saved: continue with --resume")
