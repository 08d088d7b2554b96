"""A site's node: its SuperNode, and the executor of its requests, kept running and ended together.

| process   | whose, where an `executor_user` is named  | what it can reach                       |
|-----------|-------------------------------------------|-----------------------------------------|
| SuperNode | the owner's of the node's key             | the coordinator, the key                |
| executor  | the `executor_user`'s                     | the data, the ledger, the vetted app    |

Without one, or where `sotto-node up` is not root's, both run as the user that started it. What the
two need to know of each other, a secret drawn at each start, is on no disk.

Flower refuses a node whose last lease has not ended; 10 s is the least that makes sense. It ends
with 1 for every reason of its own, also where the key is not registered: the reason stands in what
it says. This node goes on trying.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from client.logs import Event, note
from client.node.health import serve_node_health
from client.node.processes import executor, supernode
from client.node.prometheus import Processes
from client.site.site import Site
from shared.errors import SiteError
from shared.system.files import inheritable_lock
from shared.system.supervise import Patience, Restart, Start, keep_running

__all__ = ["only_node", "run_node"]

LOCK = "node.lock"
_SECRET = 32


@contextmanager
def only_node(folder: Path) -> Iterator[int]:
    """Holds the site's lock; gives its descriptor, so that a child can hold it too.

    The lock ends with the last process that has it open, however that ends.

    Raises:
        SiteError: another node of this site has it.
    """

    def conflict(holder: str) -> SiteError:
        return SiteError(
            f"{folder}: a node of this site is running already (process {holder}). One site has "
            "one node: end that one first."
        )

    with inheritable_lock(folder / LOCK, conflict) as handle:
        yield handle


def run_node(site: Site, lock: int, patience: Patience | None = None) -> None:
    """Runs the site's node until a signal to end comes.

    Args:
        site: whose node it is.
        lock: what `only_node` gave.
        patience: waits and limits.

    Raises:
        ProcessError: it cannot go on.
    """
    site.flower_home.mkdir(mode=0o755, parents=True, exist_ok=True)  # the folder around it is ours
    secret = secrets.token_bytes(_SECRET)
    programs, processes = [supernode(site, secret), executor(site, secret)], Processes()

    def told(change: Start | Restart) -> None:
        processes.told(change)
        if isinstance(change, Restart):
            _restarting(change)

    with serve_node_health(site, processes):
        note(Event.STARTED, organisation=site.organisation)
        keep_running(programs, patience=patience or Patience(), told=told, pass_fds=(lock,))
        note(Event.STOPPED, organisation=site.organisation)


def _restarting(restart: Restart) -> None:
    note(
        Event.RESTARTING,
        program=restart.program,
        code=str(restart.code),
        seconds=restart.seconds,
    )
