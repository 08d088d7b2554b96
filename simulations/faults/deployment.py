"""A federation of real processes on this machine, to be hurt: TLS, keys, one node a partner.

Everything that can break is reached by its process, and the partners reach the coordinator through
a wire that can be cut.
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn

import torch

from client.cli import main as node_main
from client.site.site import Site
from server.cli import main as server_main
from server.state.status import RunStatus
from shared.data.catalogue import Catalogue
from shared.data.histories import Histories, write_interactions

__all__ = ["DELTA", "EPSILON", "RUN", "SOURCE", "Deployment", "Wire", "wait_for"]

SOURCE = Path(__file__).parents[2]
ITEMS, USERS = 20, 40
RUN = "faults"
DELTA, EPSILON = 1e-3, 8.0
_MAIN = {"client": node_main, "server": server_main}


def wait_for(what: str, condition: Callable[[], Any], seconds: float) -> Any:  # noqa: ANN401
    """What the condition gives once it is true.

    Raises:
        TimeoutError: it was not in so many seconds.
    """
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := condition():
            return found
        time.sleep(0.2)
    raise TimeoutError(f"{what}: not within {seconds:g} s")


def free_port() -> int:
    """A port that nobody listens at."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


class Wire:
    """Passes connections on from one port to another, until it is cut.

    Args:
        target: port on this machine.
    """

    def __init__(self, target: int) -> None:
        self._target, self._cut = target, threading.Event()
        self._open: set[socket.socket] = set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    @contextmanager
    def cut(self) -> Iterator[None]:
        """Nothing passes within: what is connected hangs up, and nobody answers."""
        self._cut.set()
        for end in [*self._open]:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        yield
        self._cut.clear()

    def _accept(self) -> None:
        while True:
            near, _ = self._listener.accept()
            if self._cut.is_set():
                near.close()
                continue
            try:
                far = socket.create_connection(("127.0.0.1", self._target), timeout=5)
            except OSError:
                near.close()
                continue
            far.settimeout(None)
            self._open |= {near, far}
            for pair in ((near, far), (far, near)):
                threading.Thread(target=self._pass, args=pair, daemon=True).start()

    def _pass(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
        for end in (source, sink):
            self._open.discard(end)
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


@dataclass
class Deployment:
    """A coordinator and its partners' nodes.

    Attributes:
        folder: everything lies in it.
        partners: names of organisations.
        log: where all processes write.
    """

    folder: Path
    partners: Sequence[str]
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.ports = {name: free_port() for name in ("partners", "administrators", "superlink")}
        self.wire = Wire(self.ports["partners"])
        names = tuple(f"i{number}" for number in range(1, ITEMS + 1))
        self.catalogue = Catalogue(names, names, ((),) * ITEMS, (None,) * ITEMS)
        self.catalogue.save(self.folder / "catalogue")

    # --- commands --------------------------------------------------------------------------------

    def command(self, side: str, *arguments: object) -> list[str]:
        """`sotto-server` or `sotto-node` with arguments."""
        start = f"from {side}.cli import main; main()"
        return [sys.executable, "-P", "-c", start, *map(str, arguments)]

    def call(self, side: str, *arguments: object) -> str:
        """What a command printed on stdout.

        It runs in a fork of this process, which has imported everything already: that is most of
        what a command costs.

        Raises:
            RuntimeError: it failed.
        """
        with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
            sys.stdout.flush()
            child = os.fork()
            if not child:
                self._become(side, [*map(str, arguments)], output.fileno(), errors.fileno())
            code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            output.seek(0)
            errors.seek(0)
            printed, said = output.read().decode(), errors.read().decode()
        if code:
            raise RuntimeError(f"{side} {arguments[0]} gave {code}: {said}")
        return printed

    def _become(self, side: str, arguments: list[str], output: int, errors: int) -> NoReturn:
        """Turns this process, a fork, into a command."""
        code: object = 1
        try:
            os.setsid()  # a share of the processor of its own
            for file, number in ((os.open(os.devnull, os.O_RDONLY), 0), (output, 1), (errors, 2)):
                os.dup2(file, number)
            os.environ.update(self.environment)
            sys.argv = [f"sotto-{side}", *arguments]
            _MAIN[side]()
            code = 0
        except SystemExit as end:
            code = end.code
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code if isinstance(code, int) else int(code is not None))

    @property
    def environment(self) -> dict[str, str]:
        """Of every process: nothing of the user's own Flower."""
        return os.environ | {
            "PYTHONPATH": str(SOURCE),
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "FLWR_TELEMETRY_ENABLED": "0",
            "FLWR_DISABLE_UPDATE_CHECK": "1",
            "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
            "FLWR_HOME": str(self.folder / "flower-home"),
            "OMP_NUM_THREADS": "1",
        }

    def keep(self, name: str, command: Sequence[str], source: Path = SOURCE) -> None:
        """Starts a process, with the packages in `source`, that is ended with the deployment."""
        with (self.folder / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                command,
                env=self.environment | {"PYTHONPATH": str(source)},
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )

    # --- the coordinator -------------------------------------------------------------------------

    @property
    def server(self) -> Path:
        """The coordinator's folder."""
        return self.folder / "server"

    @cached_property
    def out(self) -> Path:
        """The run's folder of results."""
        rows = json.loads(self.call("server", "status", "--server", self.server, "--json"))
        return Path(next(row["out"] for row in rows if row["name"] == RUN))

    def init_server(self) -> None:
        """Makes the coordinator and the app bundle."""
        ports = {name: f"127.0.0.1:{port}" for name, port in self.ports.items()}
        self.call(
            *("server", "init", self.server, "--address", f"localhost:{self.wire.port}"),
            *("--listen", ports["partners"], "--administrators", ports["administrators"]),
            *("--superlink", ports["superlink"]),
        )
        self.call("server", "bundle", "--server", self.server, "--out", self.folder)

    def up_server(self) -> None:
        """Starts the coordinator and waits until it answers."""
        self.keep("server", self.command("server", "up", "--server", self.server))
        wait_for("the coordinator", self._answers, 300)

    def _answers(self) -> bool:
        with suppress(RuntimeError):
            return self.call("server", "ready", "--server", self.server) is not None
        return False

    def run(self, rounds: int, **settings: object) -> None:
        """Starts a run of so many rounds, and returns at once."""
        values: dict[str, dict[str, object]] = {
            "privacy": {"epsilon": EPSILON, "delta": DELTA},
            "model": {"items": "ids", "trained": "all", "hidden_size": 8, "max_length": 5},
            "warm_start": {"share": 0.0},
            "training": {"rounds": rounds, "sample_rate": 0.5},
            "server": {
                "organisations": len(self.partners),
                "deadline_seconds": 180.0,
                "retry_seconds": 2.0,
                "retries": 6,
                **settings,
            },
            "paths": {"catalogue": str(self.folder / "catalogue")},
        }
        file = self.folder / f"{RUN}.toml"
        lines = []
        for section, keys in values.items():
            lines.append(f"[{section}]")
            lines += [f"{key} = {json.dumps(value)}" for key, value in keys.items()]
        file.write_text("\n".join(lines) + "\n")
        self.call("server", "run", file, "--server", self.server, "--detach")

    @property
    def status(self) -> RunStatus:
        """How the run stands."""
        return RunStatus.load(self.out)

    # --- nodes -----------------------------------------------------------------------------------

    def init_node(self, name: str) -> None:
        """Makes a partner's site and lets it in."""
        folder = self.folder / name
        draw = torch.Generator().manual_seed(len(self.processes) + len(name))
        lengths = torch.randint(2, 9, (USERS,), generator=draw).tolist()
        lists = [torch.randint(1, ITEMS + 1, (n,), generator=draw).tolist() for n in lengths]
        data = Histories.from_lists(lists, users=[f"user{number}" for number in range(USERS)])
        source = self.folder / f"{name}.parquet"
        write_interactions(data, self.catalogue, source)
        self.call(
            *("client", "init", folder, "--organisation", name, "--user-base", name),
            *("--population", USERS, "--source", source),
            *("--catalogue", self.folder / "catalogue", "--max-epsilon", EPSILON, "--delta", DELTA),
            *("--superlink", f"localhost:{self.wire.port}"),
            *("--root-certificates", self.server / "ca.crt"),
            *("--anchor", self.folder / f"{name}.anchor"),
        )
        file = folder / "site.toml"
        text = re.sub(
            r"^# local_port = .*$", f"local_port = {free_port()}", file.read_text(), flags=re.M
        )
        file.write_text(text)
        (bundle,) = self.folder.glob("*.fab")
        self.call("client", "trust", bundle, "--site", folder, "--yes")

    def join(self, name: str) -> None:
        """Lets a partner's key in."""
        self.call("server", "invite", name, "--server", self.server)
        key = self.folder / name / "node_key.pub"
        self.call("server", "accept", key, "--name", name, "--server", self.server)

    def up_node(self, name: str, source: Path = SOURCE) -> None:
        """Starts a partner's node from the packages in `source`."""
        self.keep(name, self.command("client", "up", "--site", self.folder / name), source)

    def spent(self, name: str) -> tuple[float, int]:
        """ε and steps by a partner's own ledger, whose chain is checked."""
        ledger = Site.load(self.folder / name).open_ledger()
        ledger.verify()
        return ledger.spent(DELTA), sum(release.steps for release in ledger.releases())

    # --- processes -------------------------------------------------------------------------------

    def found(self, owner: str, pattern: str) -> list[int]:
        """Processes below `owner`'s whose command line holds `pattern`.

        A ServerApp that outlives its executor is the coordinator's still.
        """
        first = self.processes[owner].pid
        watching = re.compile(rf"--parent-pid {first}\b")
        below = {pid for pid in _all() if watching.search(_command_line(pid))}
        below |= set(_descendants(first))
        return [pid for pid in sorted(below) if re.search(pattern, _command_line(pid))]

    def down(self, owner: str) -> None:
        """Ends the coordinator or a node as its operator would, if it runs."""
        process = self.processes.pop(owner, None)
        if process is not None:
            process.terminate()
            process.wait(60)

    def kill(self, owner: str, pattern: str) -> list[int]:
        """SIGKILLs them; which ones."""
        killed = self.found(owner, pattern)
        for pid in killed:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return killed

    def close(self) -> None:
        """Ends everything that was started, and nothing else."""
        for process in self.processes.values():
            if process.poll() is None:
                process.terminate()
        for process in self.processes.values():
            with suppress(subprocess.TimeoutExpired):
                process.wait(30)
            for pid in _descendants(process.pid):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            if process.poll() is None:
                process.kill()


def _all() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]


def _descendants(pid: int) -> list[int]:
    parents: dict[int, list[int]] = {}
    for child in _all():
        with suppress(OSError, ValueError, IndexError):
            parent = int(Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[1])
            parents.setdefault(parent, []).append(child)
    found, queue = [], [pid]
    while queue:
        children = parents.get(queue.pop(), [])
        found += children
        queue += children
    return found


def _command_line(pid: int) -> str:
    with suppress(OSError):
        return (
            Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        )
    return ""
