"""The trials of a search, by Optuna."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from shared.errors import SottoError
from shared.sections import Value
from simulations.sweep.folder import SweepFolder
from simulations.sweep.plan import Plan, PlannedRun
from simulations.sweep.search import OBJECTIVE, Sampler, SearchPlan, trial_name
from simulations.sweep.table import Outcome
from simulations.sweep.work import outcome_of

__all__ = ["Trials"]

STORAGE, STUDY = "search.sqlite", "sweep"


class Trials:
    """Trials in Optuna's order; its storage is in the sweep's folder.

    Args:
        search: the search space, and how to search it.
        plan: all other settings.
        folder: of the sweep.
    """

    def __init__(self, search: SearchPlan, plan: Plan, folder: SweepFolder) -> None:
        import optuna  # noqa: PLC0415 it takes a second to import

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        [base] = plan.recipes.values()
        seed = int(base["seed"])
        self._search, self._plan, self._folder, self._optuna = search, plan, folder, optuna
        self._study = optuna.create_study(
            storage=f"sqlite:///{(folder.path / STORAGE).resolve()}",
            study_name=STUDY,
            direction="maximize",
            load_if_exists=True,
        )
        earlier = self._study.get_trials(deepcopy=False)
        self._study.sampler = self._sampler(seed + len(earlier))
        self.total = search.count(seed)
        self._left = [trial for trial in earlier if not trial.state.is_finished()]
        outcomes = [self._earlier_outcome(trial) for trial in earlier]
        self._outcomes = {outcome.run.name: outcome for outcome in outcomes if outcome}

    @property
    def outcomes(self) -> Sequence[Outcome]:
        """Return all trials so far."""
        return list(self._outcomes.values())

    def next(self) -> PlannedRun | None:
        """Return an unfinished trial of an earlier start, or a new one; None if none is left."""
        while True:
            if self._left:
                trial = self._left.pop(0)
                number, values = trial.number, dict(trial.params)
            elif len(self._study.get_trials(deepcopy=False)) < self.total:
                new = self._study.ask()
                values = {space.key: space.suggest(new) for space in self._search.spaces}
                number = new.number
            else:
                return None
            if len(values) < len(self._search.spaces):  # the process ended while it drew them
                self._report(number, None)
                continue
            try:
                return self._plan.run(values, trial_name(number))
            except SottoError as error:
                self._record_misfit(number, values, str(error))

    def record(self, outcome: Outcome) -> None:
        """Report an outcome to Optuna."""
        self._outcomes[outcome.run.name] = outcome
        self._report(int(outcome.run.name.rpartition("-")[2]), outcome.federated.get(OBJECTIVE))

    @property
    def best(self) -> Outcome | None:
        """Return the finished trial with the best score."""
        finished = [outcome for outcome in self.outcomes if outcome.federated]
        return max(finished, key=lambda outcome: outcome.federated[OBJECTIVE], default=None)

    def _sampler(self, seed: int) -> Any:  # noqa: ANN401 one of Optuna's
        samplers = self._optuna.samplers
        if self._search.sampler is Sampler.RANDOM:
            return samplers.RandomSampler(seed=seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about an option that Optuna marks experimental
            return samplers.TPESampler(seed=seed, constant_liar=True)

    def _earlier_outcome(self, trial: Any) -> Outcome | None:  # noqa: ANN401 one of Optuna's
        if len(trial.params) < len(self._search.spaces):
            return None
        try:
            run = self._plan.run(dict(trial.params), trial_name(trial.number))
        except SottoError:
            return None
        outcome = outcome_of(self._folder, run)
        if trial.state.is_finished() and outcome.result is None:
            return Outcome(run=run, status="failed", reason="it failed before: see its log")
        return outcome

    def _report(self, number: int, score: float | None) -> None:
        state = self._optuna.trial.TrialState
        if score is None:
            self._study.tell(number, state=state.FAIL)
        else:
            self._study.tell(number, score)

    def _record_misfit(self, number: int, values: Mapping[str, Value], reason: str) -> None:
        """Record settings that do not fit together as a failed trial, without a process."""
        [base] = self._plan.recipes
        start = self._plan.run({}, trial_name(number))
        run = PlannedRun(name=start.name, values=values, config=start.config)
        self._outcomes[run.name] = Outcome(run=run, status="failed", reason=f"{base}: {reason}")
        self._report(number, None)
