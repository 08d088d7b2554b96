"""Workers of a sweep: processes on this machine, or tasks of a Ray cluster.

Each run is one process with its own log. The process ends when the sweep ends, even if killed.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

from shared.errors import ConfigError
from shared.system.supervise import TIED

__all__ = ["Job", "LocalWorkers", "RayWorkers", "Workers", "cores", "devices"]

_PATIENCE = 10.0
"""Seconds between SIGTERM and SIGKILL."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A process to run.

    Attributes:
        name: unique.
        command: the program and its arguments.
        log: file for its output; overwritten.
    """

    name: str
    command: Sequence[str]
    log: Path


class Workers(Protocol):
    """Runs jobs."""

    @property
    def free(self) -> bool:
        """Return whether another job may start now."""

    @property
    def busy(self) -> int:
        """Return the number of jobs that run or wait."""

    def start(self, job: Job) -> None:
        """Start a job."""

    def ended(self) -> list[tuple[str, int]]:
        """Return names and exit codes of jobs that ended since the last call; -N for signal N."""

    def stop(self) -> None:
        """End all running jobs."""


def cores() -> int:
    """Return the number of cores that this process may use."""
    if sys.platform.startswith("linux"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def devices() -> list[str]:
    """Return the GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [name for name in named.split(",") if name.strip()]
    if version("torch").endswith("+cpu"):
        return []  # a build that can use none
    import torch  # noqa: PLC0415 it takes seconds to import, on every machine of a cluster

    return [str(number) for number in range(torch.cuda.device_count())]


def _variables(threads: int) -> dict[str, str]:
    return {name: str(threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}


class LocalWorkers:
    """Processes of this machine; where there are GPUs, each process gets one of them in turn.

    Args:
        jobs: at a time, >= 1.
        threads: of each job, >= 1.
    """

    def __init__(self, jobs: int, threads: int) -> None:
        self._jobs, self._threads, self._gpus = jobs, threads, devices()
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._place: dict[str, int] = {}

    @property
    def free(self) -> bool:
        """Return whether fewer than `jobs` run."""
        return len(self._running) < self._jobs

    @property
    def busy(self) -> int:
        """Return the number of running jobs."""
        return len(self._running)

    def start(self, job: Job) -> None:
        """Start a job in its own session, so that Ctrl-C reaches only the sweep."""
        place = min(set(range(self._jobs)) - set(self._place.values()))
        variables = os.environ | _variables(self._threads)
        if self._gpus:
            variables["CUDA_VISIBLE_DEVICES"] = self._gpus[place % len(self._gpus)]
        with job.log.open("wb") as log:
            self._running[job.name] = subprocess.Popen(
                [*TIED, *job.command],
                env=variables,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._place[job.name] = place

    def ended(self) -> list[tuple[str, int]]:
        """Return the jobs that have ended, after killing their remaining child processes."""
        codes = []
        for name, process in list(self._running.items()):
            if (code := process.poll()) is not None:
                _kill(process.pid)
                del self._running[name], self._place[name]
                codes.append((name, code))
        return codes

    def stop(self) -> None:
        """Send SIGTERM to all jobs, and SIGKILL after a while."""
        for process in self._running.values():
            process.terminate()
        for process in self._running.values():
            with suppress(subprocess.TimeoutExpired):
                process.wait(_PATIENCE)
            _kill(process.pid)
            process.wait()
        self._running.clear()
        self._place.clear()


def _kill(group: int) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGKILL)


class RayWorkers:
    """Tasks of a Ray cluster whose machines have the sweep's folder, data and code at one path.

    Args:
        address: of the cluster, "auto" for the one that this machine belongs to, or "local" to
            start one here.
        threads: of each task, >= 1.

    Raises:
        ConfigError: Ray is not installed, or there is no cluster.
    """

    def __init__(self, address: str, threads: int) -> None:
        # Keep CUDA_VISIBLE_DEVICES of a task without a GPU, as future versions of Ray do.
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        try:
            import ray  # noqa: PLC0415 it takes seconds to import
        except ImportError as error:
            raise ConfigError("--ray needs Ray: pip install 'flwr[simulation]'.") from error
        self._ray: Any = ray
        try:
            _check_reachable(address)
            ray.init(
                address=address,
                ignore_reinit_error=True,
                include_dashboard=False if address == "local" else None,
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
        except (OSError, ValueError, RuntimeError) as error:
            reason = str(error).partition("\n")[0]
            raise ConfigError(
                f"--ray {address}: there is no such cluster ({reason}). Start one with `ray start "
                "--head`, or give 'local'."
            ) from error
        resources = self._ray.cluster_resources()
        gpus = 1 if resources.get("GPU") else 0
        task = ray.remote(num_cpus=threads, num_gpus=gpus, max_retries=0)
        self._execute: Any = task(_execute)
        self._slots = max(1, int(resources.get("CPU", 1) // threads))
        self._threads = threads
        self._running: dict[Any, str] = {}

    @property
    def free(self) -> bool:
        """Return whether the cluster has free cores."""
        return len(self._running) < self._slots

    @property
    def busy(self) -> int:
        """Return the number of jobs that run or wait for the cluster."""
        return len(self._running)

    def start(self, job: Job) -> None:
        """Submit a job to the cluster."""
        arguments = [*job.command], str(job.log.resolve()), _variables(self._threads)
        self._running[self._execute.remote(*arguments)] = job.name

    def ended(self) -> list[tuple[str, int]]:
        """Return the jobs that have ended; code -1 if their machine was lost."""
        waiting = list(self._running)
        done, _ = (
            self._ray.wait(waiting, num_returns=len(waiting), timeout=0) if waiting else ([], 0)
        )
        codes = []
        for reference in done:
            try:
                code = int(self._ray.get(reference))
            except self._ray.exceptions.RayError:
                code = -1
            codes.append((self._running.pop(reference), code))
        return codes

    def stop(self) -> None:
        """Cancel all tasks with their processes, and disconnect from the cluster."""
        for reference in self._running:
            self._ray.cancel(reference, force=True)
        self._running.clear()
        self._ray.shutdown()


def _check_reachable(address: str) -> None:
    """Check that HOST:PORT accepts connections; Ray itself takes minutes to notice.

    Raises:
        OSError: it does not.
    """
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if colon and port.isdecimal():
        socket.create_connection((host, int(port)), _PATIENCE).close()


def _execute(command: list[str], log: str, variables: dict[str, str]) -> int:
    """Run a job on a machine of the cluster, in a process that ends with the task."""
    with Path(log).open("wb") as file:
        tied = [*TIED, *command]
        return subprocess.call(tied, env=os.environ | variables, stdout=file, stderr=file)
