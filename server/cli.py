"""The command line `sotto-server`, for the coordinator."""

from __future__ import annotations

import os

os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")  # before Flower is imported

from server.commands.partners import (
    accept_command,
    invite_command,
    list_command,
    revoke_command,
)
from server.commands.pretrain import pretrain_command
from server.commands.publish import publish_command
from server.commands.runs import (
    bundle_command,
    discard_command,
    resume_command,
    run_command,
    status_command,
    stop_command,
)
from server.commands.service import (
    audit_command,
    init_command,
    proxy_command,
    ready_command,
    renew_command,
    supervise_command,
    up_command,
)
from shared.system.command_line import command_group, run

__all__ = ["main"]

app = command_group("Invite partners, start and resume runs, publish the model.")
# In the order in which a coordinator needs them.
app.command("init")(init_command)
app.command("pretrain")(pretrain_command)
app.command("up")(up_command)
app.command("bundle")(bundle_command)
app.command("invite")(invite_command)
app.command("accept")(accept_command)
app.command("revoke")(revoke_command)
app.command("list")(list_command)
app.command("run")(run_command)
app.command("status")(status_command)
app.command("stop")(stop_command)
app.command("resume")(resume_command)
app.command("discard")(discard_command)
app.command("publish")(publish_command)
app.command("renew")(renew_command)
app.command("audit")(audit_command)
app.command("ready")(ready_command)
# Parts of `up`, for machines where systemd or Kubernetes keeps them running.
app.command("proxy")(proxy_command)
app.command("supervise")(supervise_command)
app.command("keep", hidden=True)(supervise_command)  # its name in release 0.1


def main() -> None:
    """Run the console command; see `shared.system.command_line` for its exit codes."""
    run(app, interrupted="a run that was started goes on; see sotto-server status and stop")


if __name__ == "__main__":
    main()
