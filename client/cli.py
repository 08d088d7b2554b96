"""sotto-node: what a partner organisation types."""

from __future__ import annotations

import os

from shared.system.command_line import command_table, run

__all__ = ["main"]

os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")  # before a command imports Flower
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # torch: large pages for large tensors

app = command_table(
    "Connect your data, join a federation, watch what leaves and what it cost.",
    {  # In the order in which a partner needs them.
        "init": "client.commands.init:init_command",
        "trust": "client.commands.trust:trust_command",
        "check": "client.commands.node:check_command",
        "up": "client.commands.node:up_command",
        "peers": "client.commands.peers:peers",
        "adapt": "client.commands.adapt:adapt_command",
        "bound-friends": "client.commands.bound_friends:bound_friends_command",
        "evaluate": "client.commands.evaluate:evaluate_command",
        "recommend": "client.commands.recommend:recommend_command",
        "export": "client.commands.export:export_command",
        "serve": "client.commands.serve:serve_command",
        "console": "client.commands.console:console_command",
        "budget": "client.commands.budget:budget",
        "outbox": "client.commands.outbox:outbox",
    },
)


def main() -> None:
    """Run the console command; see `shared.system.command_line` for its exit codes."""
    run(app)
