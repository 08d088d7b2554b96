"""The command line `sotto-server`, for the coordinator."""

from __future__ import annotations

import os

from shared.system.command_line import command_table, run

__all__ = ["main"]

os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")  # before a command imports Flower

app = command_table(
    "Invite partners, start and resume runs, publish the model.",
    {  # In the order in which a coordinator needs them.
        "init": "server.commands.service:init_command",
        "pretrain": "server.commands.pretrain:pretrain_command",
        "up": "server.commands.service:up_command",
        "bundle": "server.commands.runs:bundle_command",
        "invite": "server.commands.partners:invite_command",
        "accept": "server.commands.partners:accept_command",
        "revoke": "server.commands.partners:revoke_command",
        "list": "server.commands.partners:list_command",
        "run": "server.commands.runs:run_command",
        "status": "server.commands.runs:status_command",
        "stop": "server.commands.runs:stop_command",
        "resume": "server.commands.runs:resume_command",
        "discard": "server.commands.runs:discard_command",
        "publish": "server.commands.publish:publish_command",
        "renew": "server.commands.service:renew_command",
        "audit": "server.commands.service:audit_command",
        "ready": "server.commands.service:ready_command",
        # Parts of `up`, for machines where systemd or Kubernetes keeps them running.
        "proxy": "server.commands.service:proxy_command",
        "supervise": "server.commands.service:supervise_command",
        "keep": "server.commands.service:supervise_command",  # its name in release 0.1
    },
    hidden={"keep"},
)


def main() -> None:
    """Run the console command; see `shared.system.command_line` for its exit codes."""
    run(app, interrupted="a run that was started goes on; see sotto-server status and stop")


if __name__ == "__main__":
    main()
