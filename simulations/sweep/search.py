"""A search over settings by Optuna, scored on validation items alone."""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

import numpy as np

from shared.errors import ConfigError, SottoError
from shared.privacy.accounting.selection import TrialLaw, draw_trials
from shared.sections import Value
from simulations.experiment.config import Split, plain_value
from simulations.sweep.folder import SweepFolder
from simulations.sweep.plan import Plan, PlannedRun
from simulations.sweep.table import Outcome
from simulations.sweep.work import outcome_of

if TYPE_CHECKING:
    from optuna.trial import Trial

__all__ = ["OBJECTIVE", "Draws", "SearchPlan", "Space", "Trials", "asked_search", "search_plan"]

OBJECTIVE = "ndcg@10"
STORAGE, STUDY = "search.sqlite", "sweep"
_SPACE = "space."
_RANGE = re.compile(r"^(.+?)\.\.(.+?)(:log)?$")


class Draws(StrEnum):
    """How a trial's settings are drawn."""

    TPE = "tpe"
    RANDOM = "random"


@dataclass(frozen=True, slots=True)
class Space:
    """Where one setting is searched.

    Attributes:
        key: `section.name`.
        low: of a range, else None.
        high: of a range, else None.
        log: whether the range is searched by its logarithm.
        choices: without a range.
    """

    key: str
    low: int | float | None = None
    high: int | float | None = None
    log: bool = False
    choices: tuple[Value, ...] = ()

    @classmethod
    def parse(cls, text: str, base: Mapping[str, Value]) -> Space:
        """Reads `section.key=low..high[:log]` or `=a|b|c`.

        Args:
            text: as typed.
            base: every setting; a range is of whole numbers where its setting is one.

        Raises:
            ConfigError: the text is not of that form.
        """
        key, equals, rest = (part.strip() for part in text.partition("="))
        if not equals or not rest:
            raise ConfigError(
                f"--space {text!r} does not fit: write section.key=low..high, "
                "section.key=low..high:log, or section.key=a|b|c."
            )
        found = _RANGE.match(rest)
        if found is None or "|" in rest:
            choices = tuple(plain_value(part.strip()) for part in rest.split("|"))
            if len(set(choices)) < 2:
                raise ConfigError(f"--space {text}: give two or more different values.")
            return cls(key, choices=choices)
        low, high = (_number(text, end, base.get(key)) for end in found.group(1, 2))
        log = found.group(3) is not None
        if not low < high or (log and low <= 0):
            raise ConfigError(
                f"--space {text}: the first number must be below the second"
                + (", and above 0 for :log." if log else ".")
            )
        return cls(key, low, high, log)

    @property
    def ends(self) -> tuple[Value, ...]:
        """Values that show whether the whole fits: choices, or both ends."""
        return self.choices or (self.low or 0, self.high or 0)

    @property
    def all(self) -> tuple[Value, ...] | None:
        """Every value; None for a range of numbers that are not whole."""
        if self.choices:
            return self.choices
        if isinstance(self.low, int) and isinstance(self.high, int):
            return tuple(range(self.low, self.high + 1))
        return None

    def suggest(self, trial: Trial) -> Value:
        """One value, as Optuna wishes."""
        if self.low is None or self.high is None:
            return trial.suggest_categorical(self.key, self.choices)  # type: ignore[return-value]
        if isinstance(self.low, int) and isinstance(self.high, int):
            return trial.suggest_int(self.key, self.low, self.high, log=self.log)
        return trial.suggest_float(self.key, self.low, self.high, log=self.log)


def _number(shown: str, text: str, like: Value | None) -> int | float:
    kind = int if type(like) is int else float
    value = math.nan
    if not isinstance(like, bool | str) or like == "none":
        with suppress(ValueError):
            value = kind(text)
    if not math.isfinite(value):
        wanted = "whole numbers" if kind is int else "numbers"
        raise ConfigError(
            f"--space {shown}: '{text.strip()}' is no end of a range of this setting; give "
            f"{wanted}, or choices as a|b|c."
        )
    return value


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchPlan:
    """What to search, and how.

    Attributes:
        trials: how many, or how many on average.
        law: how their number is drawn; None: it is fixed.
        draws: how their settings are drawn.
        spaces: where.
    """

    trials: int
    law: TrialLaw | None
    draws: Draws
    spaces: tuple[Space, ...]

    def count(self, seed: int) -> int:
        """How many trials there are."""
        if self.law is None:
            return self.trials
        return draw_trials(self.law, self.trials, np.random.default_rng([seed, self.trials]))


def asked_search(
    trials: int, law: TrialLaw | None, draws: Draws | None, texts: Iterable[str]
) -> dict[str, Value]:
    """What was typed, flat, as a plan writes it down.

    Raises:
        ConfigError: a setting is searched twice, or none is.
    """
    asked: dict[str, Value] = {"trials": trials}
    asked |= {"law": str(law)} if law else {}
    asked |= {"sampler": str(draws)} if draws else {}
    for text in texts:
        key, _, rest = text.partition("=")
        if _SPACE + key.strip() in asked:
            raise ConfigError(f"--space {key.strip()} stands there twice; leave one out.")
        asked[_SPACE + key.strip()] = rest.strip()
    if not any(key.startswith(_SPACE) for key in asked):
        raise ConfigError("--search without --space: say which settings to search, and where.")
    return asked


def search_plan(plan: Plan) -> SearchPlan:
    """The search of a plan; checks it.

    Raises:
        ConfigError: something does not fit.
    """
    asked = plan.search
    trials = int(asked["trials"])
    law = TrialLaw(str(asked["law"])) if "law" in asked else None
    draws = Draws(str(asked["sampler"])) if "sampler" in asked else None
    if trials < 1:
        raise ConfigError(f"--search {trials}: give a number of 1 or more.")
    if len(plan.recipes) > 1 or plan.axes:
        raise ConfigError(
            "--search varies what --space says, and nothing else: give one recipe, one ε and one "
            "seed (--set privacy.epsilon=..., --set seed=...), and no --grid."
        )
    if law is not None and draws is Draws.TPE:
        raise ConfigError(
            f"--trials {law} with --sampler tpe: its bound holds for settings drawn without a look "
            "at earlier scores alone. Leave --sampler out, or --trials."
        )
    [base] = plan.recipes.values()
    if base["lab.split"] != Split.VALIDATION:
        raise ConfigError("lab.split = 'test': a search that looks at test items proves nothing.")
    texts = [
        f"{key.removeprefix(_SPACE)}={text}" for key, text in asked.items() if key[:6] == _SPACE
    ]
    spaces = tuple(Space.parse(text, base) for text in texts)
    for space in spaces:
        for value in space.ends:
            plan.run({space.key: value}, "trial")
    free = Draws.TPE if law is None else Draws.RANDOM
    return SearchPlan(trials=trials, law=law, draws=draws or free, spaces=spaces)


class Trials:
    """Trials in the order in which Optuna asks for them; its memory lies in the sweep's folder.

    Args:
        search: what to search.
        plan: all other settings.
        folder: the sweep's.
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
        before = self._study.get_trials(deepcopy=False)
        self._study.sampler = self._sampler(seed + len(before))
        self.total = search.count(seed)
        self._left = [trial for trial in before if not trial.state.is_finished()]
        self._known = {
            outcome.run.name: outcome for trial in before if (outcome := self._before(trial))
        }

    @property
    def known(self) -> Sequence[Outcome]:
        """All trials so far."""
        return list(self._known.values())

    def next(self) -> PlannedRun | None:
        """One that was begun before, or a new one; None when all were."""
        while True:
            if self._left:
                trial = self._left.pop(0)
                number, values = trial.number, dict(trial.params)
            elif len(self._study.get_trials(deepcopy=False)) < self.total:
                asked = self._study.ask()
                values = {space.key: space.suggest(asked) for space in self._search.spaces}
                number = asked.number
            else:
                return None
            if len(values) < len(self._search.spaces):  # ended while it was being asked for
                self._tell(number, None)
                continue
            try:
                return self._plan.run(values, _name(number))
            except SottoError as error:
                self._unfit(number, values, str(error))

    def done(self, outcome: Outcome) -> None:
        """Tells Optuna what came out."""
        self._known[outcome.run.name] = outcome
        self._tell(int(outcome.run.name.rpartition("-")[2]), outcome.federated.get(OBJECTIVE))

    @property
    def best(self) -> Outcome | None:
        """The finished trial with the best score."""
        finished = [outcome for outcome in self.known if outcome.federated]
        return max(finished, key=lambda outcome: outcome.federated[OBJECTIVE], default=None)

    def _sampler(self, seed: int) -> Any:  # noqa: ANN401 one of Optuna's
        samplers = self._optuna.samplers
        if self._search.draws is Draws.RANDOM:
            return samplers.RandomSampler(seed=seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of an option that Optuna calls experimental
            return samplers.TPESampler(seed=seed, constant_liar=True)

    def _before(self, trial: Any) -> Outcome | None:  # noqa: ANN401 one of Optuna's
        if len(trial.params) < len(self._search.spaces):
            return None
        try:
            run = self._plan.run(dict(trial.params), _name(trial.number))
        except SottoError:
            return None
        outcome = outcome_of(self._folder, run)
        if trial.state.is_finished() and outcome.result is None:
            return Outcome(run=run, status="failed", reason="it failed before: see its log")
        return outcome

    def _tell(self, number: int, score: float | None) -> None:
        state = self._optuna.trial.TrialState
        if score is None:
            self._study.tell(number, state=state.FAIL)
        else:
            self._study.tell(number, score)

    def _unfit(self, number: int, values: Mapping[str, Value], reason: str) -> None:
        """Settings that do not fit together: a failed trial, and no process."""
        [base] = self._plan.recipes
        start = self._plan.run({}, _name(number))
        run = PlannedRun(name=start.name, values=values, config=start.config)
        self._known[run.name] = Outcome(run=run, status="failed", reason=f"{base}: {reason}")
        self._tell(number, None)


def _name(number: int) -> str:
    return f"trial-{number:04}"
