"""Send the figures of a run to an MLflow server, where `server.mlflow` names one.

MLflow is sent the run's parameters and the figures of its status: public constants, counts,
durations and what partners released with noise. A server that fails or is slow never stops a run:
the figures of that round are not sent, and none are for the next `PAUSE` seconds.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from server.state.status import RunState, RunStatus
from shared.config import RunConfig
from shared.errors import ConfigError

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

__all__ = ["EXPERIMENT", "RunTracker", "run_tracker"]

log = logging.getLogger("sotto.server")
EXPERIMENT = "sotto"
"""The MLflow experiment that runs belong to."""
_TAG = "sotto.run"
PAUSE = 300.0
"""Seconds without another attempt after MLflow failed."""
_ENDS = {RunState.FINISHED: "FINISHED", RunState.FAILED: "FAILED", RunState.PAUSED: "KILLED"}
_LIMITS = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "5", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1"}


class RunTracker(Protocol):
    """Follows one run."""

    def log_round(self, status: RunStatus) -> None:
        """Log the figures of the round that has just finished."""

    def log_end(self, status: RunStatus) -> None:
        """Log that the run has ended, for now."""


def run_tracker(config: RunConfig, run: str) -> RunTracker:
    """Return what logs the run named `run`; it does nothing where `server.mlflow` is "".

    Raises:
        ConfigError: `server.mlflow` is set, and mlflow is not installed.
    """
    if not config.server.mlflow:
        return _NoTracker()
    for name, value in _LIMITS.items():
        os.environ.setdefault(name, value)  # read by mlflow; it would try for minutes
    try:
        from mlflow.tracking import MlflowClient  # noqa: PLC0415 optional, and slow
    except ImportError as error:
        raise ConfigError(
            f"server.mlflow = '{config.server.mlflow}', but mlflow is not installed: "
            "pip install 'sotto[mlflow]', or set it to \"\"."
        ) from error
    return _MLflow(lambda: MlflowClient(tracking_uri=config.server.mlflow), config, run)


class _NoTracker:
    def log_round(self, status: RunStatus) -> None:
        """Log nothing."""

    def log_end(self, status: RunStatus) -> None:
        """Log nothing."""


class _MLflow:
    """One MLflow run for a run, over all its starts; found again by its tag."""

    def __init__(self, client: Callable[[], MlflowClient], config: RunConfig, run: str) -> None:
        self._client, self._config, self._run = client, config, run
        self._id, self._paused_until = "", 0.0

    def log_round(self, status: RunStatus) -> None:
        """Send the round's figures."""
        self._try(lambda client: self._send(client, status))

    def log_end(self, status: RunStatus) -> None:
        """Send how the run ended."""
        state = _ENDS[status.state]
        self._try(lambda client: client.set_terminated(self._mlflow_run(client), status=state))

    def _send(self, client: MlflowClient, status: RunStatus) -> None:
        outcomes = [organisation.outcome for organisation in status.organisations.values()]
        figures = {
            "round_seconds": status.round_seconds,
            "bytes_up": float(status.bytes_up),
            "bytes_down": float(status.bytes_down),
            "missed_attempts": float(status.missed),
        } | {f"replies.{outcome}": float(outcomes.count(outcome)) for outcome in set(outcomes)}
        if status.metrics_round == status.round:
            figures |= {name.replace("@", "_at_"): v for name, v in status.metrics.items()}
        run = self._mlflow_run(client)
        for name, value in figures.items():
            client.log_metric(run, name, value, step=status.round)

    def _mlflow_run(self, client: MlflowClient) -> str:
        if not self._id:
            experiment = client.get_experiment_by_name(EXPERIMENT)
            number = (
                experiment.experiment_id if experiment else client.create_experiment(EXPERIMENT)
            )
            tagged = client.search_runs([number], f"tags.`{_TAG}` = '{self._run}'", max_results=1)
            self._id = tagged[0].info.run_id if tagged else self._create(client, number)
            client.update_run(self._id, status="RUNNING")
        return self._id

    def _create(self, client: MlflowClient, experiment: str) -> str:
        run = client.create_run(experiment, tags={_TAG: self._run}, run_name=self._run)
        number = str(run.info.run_id)
        for key, value in self._config.identity.items():
            client.log_param(number, key, value)
        return number

    def _try(self, send: Callable[[MlflowClient], object]) -> None:
        if time.monotonic() < self._paused_until:
            return
        try:
            send(self._client())
        except Exception as error:  # whatever it is: tracking is a convenience
            self._paused_until = time.monotonic() + PAUSE
            log.warning(
                "%s does not accept figures (%s): the run goes on; next attempt in %g s",
                *(self._config.server.mlflow, type(error).__name__, PAUSE),
            )
