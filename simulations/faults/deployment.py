"""A federation of real processes on this machine: TLS, keys, one node for each partner.

Every process can be found and killed, and the partners reach the coordinator through a link that
can be cut.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import signal
import sys
import tempfile
import traceback
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from multiprocessing.context import ForkProcess
from pathlib import Path
from typing import NoReturn

import tomli_w
import torch

from client.cli import main as node_main
from client.ledger.ledger import Ledger
from client.site.site import Site
from server.cli import main as server_main
from server.runs.bundle import build_bundle
from server.state.status import RunStatus
from shared.data.catalogue import Catalogue
from shared.data.histories import Histories
from shared.data.reading import write_interactions
from simulations.faults.link import Link
from simulations.faults.processes import (
    all_processes,
    command_line,
    descendants,
    free_port,
    wait_for,
)

__all__ = ["DELTA", "EPSILON", "ITEMS", "RUN", "SOURCE", "Deployment"]

SOURCE = Path(__file__).parents[2]
ITEMS, USERS = 20, 40
"""In the catalogue; of each partner."""
RUN = "faults"
DELTA, EPSILON = 1e-3, 8.0
_MAIN = {"client": node_main, "server": server_main}


@dataclass
class Deployment:
    """A coordinator and its partners' nodes.

    Attributes:
        folder: holds all files.
        partners: names of organisations.
        processes: those that run, by name; each writes FOLDER/NAME.log.
    """

    folder: Path
    partners: Sequence[str]
    processes: dict[str, ForkProcess] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.ports = {name: free_port() for name in ("partners", "administrators", "superlink")}
        self.link = Link(self.ports["partners"])
        names = tuple(f"i{number}" for number in range(1, ITEMS + 1))
        self.catalogue = Catalogue(names, names, ((),) * ITEMS, (None,) * ITEMS)
        self.catalogue.save(self.folder / "catalogue")

    # --- commands --------------------------------------------------------------------------------

    def call(self, side: str, *arguments: object) -> str:
        """Run a command, and return what it printed on stdout.

        It runs in a fork of this process, which has imported everything already: imports take most
        of a command's time.

        Raises:
            RuntimeError: the command failed.
        """
        with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
            sys.stdout.flush()
            child = os.fork()
            if not child:
                self._exec_in_fork(side, [*map(str, arguments)], output.fileno(), errors.fileno())
            code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            output.seek(0)
            errors.seek(0)
            printed, error_text = output.read().decode(), errors.read().decode()
        if code:
            raise RuntimeError(f"{side} {arguments[0]} ended with {code}: {error_text}")
        return printed

    def _exec_in_fork(
        self, side: str, arguments: list[str], output: int, errors: int, source: Path = SOURCE
    ) -> NoReturn:
        """Run a command in this fork, and end it; what it starts has the packages in `source`."""
        code: object = 1
        try:
            os.setsid()  # its own session, so that the kernel schedules it separately
            for file, number in ((os.open(os.devnull, os.O_RDONLY), 0), (output, 1), (errors, 2)):
                os.dup2(file, number)
            # What runs this may have put others in their place.
            sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
            os.environ.update(self.environment | {"PYTHONPATH": str(source)})
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
        """Variables of every process; none refers to the user's own Flower."""
        return os.environ | {
            "PYTHONPATH": str(SOURCE),
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "FLWR_TELEMETRY_ENABLED": "0",
            "FLWR_DISABLE_UPDATE_CHECK": "1",
            "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
            "FLWR_HOME": str(self.folder / "flower-home"),
            "XDG_STATE_HOME": str(self.folder / "state"),
            "OMP_NUM_THREADS": "1",
        }

    def start_process(
        self, name: str, side: str, *arguments: object, source: Path = SOURCE
    ) -> None:
        """Start a command that stays, in a fork as `call` does; `close` ends it.

        Args:
            name: of the process.
            side: "client" or "server".
            arguments: of the command.
            source: folder of the packages that the processes which it starts run.
        """
        sys.stdout.flush()
        with (self.folder / f"{name}.log").open("ab") as log:
            number = log.fileno()
            self.processes[name] = multiprocessing.get_context("fork").Process(
                target=self._exec_in_fork,
                args=(side, [*map(str, arguments)], number, number, source),
                daemon=True,
            )
            self.processes[name].start()

    # --- the coordinator -------------------------------------------------------------------------

    @property
    def server(self) -> Path:
        """Return the coordinator's folder."""
        return self.folder / "server"

    @cached_property
    def out(self) -> Path:
        """Return the run's folder of results."""
        rows = json.loads(self.call("server", "status", "--server", self.server, "--json"))
        return Path(next(row["out"] for row in rows if row["name"] == RUN))

    def init_server(self) -> None:
        """Initialise the coordinator and build the app bundle."""
        ports = {name: f"127.0.0.1:{port}" for name, port in self.ports.items()}
        # A source of its own: an edit meanwhile would make another bundle, which partners refuse.
        app = build_bundle(SOURCE).unpack(self.folder / "source")
        self.call(
            *("server", "init", self.server, "--address", f"localhost:{self.link.port}"),
            *("--app", app),
            *("--listen", ports["partners"], "--administrators", ports["administrators"]),
            *("--superlink", ports["superlink"]),
        )
        self.call("server", "bundle", "--server", self.server, "--out", self.folder)

    def start_server(self) -> None:
        """Start the coordinator, and return at once."""
        self.start_process("server", "server", "up", "--server", self.server)

    def up_server(self) -> None:
        """Start the coordinator, and wait until it answers."""
        self.start_server()
        self.wait_for_server()

    def wait_for_server(self) -> None:
        """Wait until the coordinator answers."""
        wait_for("the coordinator", self._is_ready, 300)

    def _is_ready(self) -> bool:
        with suppress(RuntimeError):
            return self.call("server", "ready", "--server", self.server) is not None
        return False

    def run(self, rounds: int, **sections: Mapping[str, object]) -> None:
        """Start a run of so many rounds, and return at once.

        Args:
            rounds: of training.
            sections: settings of the run, by section; those that are not stated stay as here.
        """
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
            },
            "paths": {"catalogue": str(self.folder / "catalogue")},
        }
        for name, settings in sections.items():
            values[name] |= settings
        file = self.folder / f"{RUN}.toml"
        file.write_text(tomli_w.dumps(values))
        self.call("server", "run", file, "--server", self.server, "--detach")

    @property
    def status(self) -> RunStatus:
        """Return the state of the run."""
        return RunStatus.load(self.out)

    # --- nodes -----------------------------------------------------------------------------------

    def init_node(self, name: str, max_epsilon: float = EPSILON) -> None:
        """Create a partner's site, and trust the app bundle there."""
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
            *("--catalogue", self.folder / "catalogue", "--max-epsilon", max_epsilon),
            *("--delta", DELTA),
            *("--superlink", f"localhost:{self.link.port}"),
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
        """Register a partner's key with the coordinator."""
        self.call("server", "invite", name, "--server", self.server)
        key = self.folder / name / "node_key.pub"
        self.call("server", "accept", key, "--name", name, "--server", self.server)

    def exchange_keys(self, *, colluding: int, fewest: int) -> None:
        """Give each partner the others' aggregation keys, as they do it among themselves.

        Args:
            colluding: how many of them each believes to collude.
            fewest: how many each wants in every sum.
        """
        lines = {
            name: json.loads(
                self.call("client", "peers", "key", "--site", self.folder / name, "--json")
            )["public_key"]
            for name in self.partners
        }
        for name in self.partners:
            file = self.folder / name / "site.toml"
            stated = f"[roster]\ncolluding = {colluding}\nfewest = {fewest}\n"
            text = file.read_text()
            assert "[roster]\n" in text
            file.write_text(text.replace("[roster]\n", stated))
            for other in self.partners:
                if other != name:
                    site = ("--site", self.folder / name)
                    self.call("client", "peers", "add", other, lines[other], *site, "--yes")

    def up_node(self, name: str, source: Path = SOURCE) -> None:
        """Start a partner's node from the packages in `source`."""
        self.start_process(name, "client", "up", "--site", self.folder / name, source=source)

    def ledger(self, name: str) -> Ledger:
        """Open a partner's ledger, outside of the register of the state folder."""
        site = Site.load(self.folder / name)
        return Ledger(site.ledger_file, site.user_base, site.anchor_file)

    def spent(self, name: str) -> tuple[float, int]:
        """Return ε and steps from a partner's own ledger, after checking its hash chain."""
        ledger = self.ledger(name)
        ledger.verify()
        return ledger.spent(DELTA), sum(release.steps for release in ledger.releases())

    # --- processes -------------------------------------------------------------------------------

    def find(self, owner: str, pattern: str) -> list[int]:
        """Return the processes of `owner` whose command line matches `pattern`.

        A ServerApp that outlives its executor still belongs to the coordinator.
        """
        first = _pid(self.processes[owner])
        child_option = re.compile(rf"--parent-pid {first}\b")
        below = {pid for pid in all_processes() if child_option.search(command_line(pid))}
        below |= set(descendants(first))
        return [pid for pid in sorted(below) if re.search(pattern, command_line(pid))]

    def down(self, owner: str) -> None:
        """Stop the coordinator or a node as its operator would, if it runs."""
        process = self.processes.pop(owner, None)
        if process is not None:
            process.terminate()
            process.join(60)

    def kill(self, owner: str, pattern: str) -> list[int]:
        """Send SIGKILL to matching processes of `owner`, and return their ids."""
        killed = self.find(owner, pattern)
        for pid in killed:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return killed

    def kill_node(self, name: str) -> None:
        """Send SIGKILL to all processes of a node at once."""
        process = self.processes[name]
        for pid in (*descendants(_pid(process)), _pid(process)):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.join()

    def close(self) -> None:
        """End everything that was started here, and nothing else."""
        for process in self.processes.values():
            process.terminate()
        for process in self.processes.values():
            process.join(30)
            for pid in descendants(_pid(process)):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            process.kill()
            process.join()
        self.link.close()


def _pid(process: ForkProcess) -> int:
    """Return the id of a process that was started."""
    assert process.pid is not None
    return process.pid
