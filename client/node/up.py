"""Run a site's node: its SuperNode and the executor of its requests.

| process   | its user, if `executor_user` is set       | what it can reach                       |
|-----------|-------------------------------------------|-----------------------------------------|
| SuperNode | the owner of the node's key               | the coordinator, the key                |
| executor  | the `executor_user`                       | the data, the ledger, the vetted app    |

Otherwise, or if `sotto-node up` does not run as root, both run as the user that started it. They
authenticate each other with a secret that is drawn at each start and never written to disk.

Flower refuses a node until its last lease has ended, so waits of less than 10 s are useless. The
SuperNode ends with code 1 whatever the reason, and logs it (`client.node.supernode`); one reason is
a key that the coordinator has not accepted. The node keeps trying.
"""

from __future__ import annotations

import secrets

from client.logs import Event, note, set_up
from client.node.health import serve_node_health
from client.node.processes import executor, supernode
from client.site.local_port import check_port
from client.site.site import Site
from shared.system.supervise import Patience, Processes, Restart, Start, keep_running

__all__ = ["begin_log", "run_node"]

_SECRET = 32


def begin_log() -> None:
    """Write the node's log on stderr, in this process."""
    set_up()


def run_node(site: Site, lock: int, patience: Patience | None = None) -> None:
    """Run the site's node until SIGTERM or SIGINT.

    Args:
        site: whose node it is.
        lock: the descriptor that `client.site.lock.lock_node` yielded.
        patience: waits and limits.

    Raises:
        SiteError: the port of the node's own processes is in use.
        ProcessError: a process cannot be kept running.
    """
    check_port(site.coordinator.local_port)
    site.flower_home.mkdir(mode=0o755, parents=True, exist_ok=True)  # the folder around it is ours
    secret = secrets.token_bytes(_SECRET)
    programs, processes = [supernode(site, secret), executor(site, secret)], Processes()

    def notify(change: Start | Restart) -> None:
        processes.record(change)
        if isinstance(change, Restart):
            _note_restart(change)

    with serve_node_health(site, processes):
        note(Event.STARTED, organisation=site.organisation)
        keep_running(programs, patience=patience or Patience(), notify=notify, pass_fds=(lock,))
        note(Event.STOPPED, organisation=site.organisation)


def _note_restart(restart: Restart) -> None:
    note(
        Event.RESTARTING,
        program=restart.program,
        code=str(restart.code),
        seconds=restart.seconds,
    )
