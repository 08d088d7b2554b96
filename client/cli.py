"""sotto-node: what a partner organisation types."""

from __future__ import annotations

import os

os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")  # before Flower is imported

from client.commands.budget import budget
from client.commands.node import check_command, init_command, up_command
from client.commands.outbox import outbox
from client.commands.trust import trust_command
from shared.system.command_line import command_group, run

__all__ = ["main"]

app = command_group("Connect your data, join a federation, watch what leaves and what it cost.")
# In the order in which a partner needs them.
app.command("init")(init_command)
app.command("trust")(trust_command)
app.command("check")(check_command)
app.command("up")(up_command)
app.add_typer(budget, name="budget")
app.add_typer(outbox, name="outbox")


def main() -> None:
    """Run the console command; see `shared.system.command_line` for its exit codes."""
    run(app)
