"""sotto-lab: simulate federations, account for privacy, audit claims and report on them."""

from __future__ import annotations

import logging
import os

from shared.system.command_line import command_table, run

__all__ = ["main"]

os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")  # before a command imports Flower
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # torch: large pages for large tensors

app = command_table(
    "Simulate federations, sweep privacy budgets, audit claims.",
    {
        "pretrain": "simulations.commands.pretrain:pretrain",
        "accountant": "simulations.commands.accountant:accountant_command",
        "attack": "simulations.attack.command:attack_command",
        "audit": "simulations.audit.command:audit_command",
        "report": "simulations.report.command:report_command",
        "sweep": "simulations.sweep.command:sweep_command",
        "compare": "simulations.sweep.compare:compare_command",
        "calibrate": "simulations.calibrate.command:calibrate_command",
        "simulate": "simulations.commands.simulate:simulate_command",
        "over-use": "simulations.over_use.command:over_use_command",
        "rerank": "simulations.commands.rerank:rerank_command",
        "fairness": "simulations.commands.fairness:fairness_command",
        "prepare": "simulations.commands.simulate:prepare_command",
        "settings": "simulations.commands.settings:settings_command",
        "data": command_table(
            "Benchmark data.", {"fetch": "simulations.commands.fetch:fetch_command"}
        ),
        "items": command_table(
            "Public items: features, and unions of catalogues.",
            {
                "encode": "simulations.commands.items:encode_command",
                "join": "simulations.commands.join_items:join_command",
            },
        ),
    },
    hidden={"pretrain"},
)


def main() -> None:
    """Run the console command; see `shared.system.command_line` for its exit codes."""
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    # A filter, because Flower sets its level when a command imports it.
    logging.getLogger("flwr").addFilter(lambda record: record.levelno >= logging.WARNING)
    run(app, interrupted="finished rounds are saved: continue with --resume")
