"""A search over settings, scored on validation items only."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from shared.errors import ConfigError
from shared.privacy.accounting.selection import TrialLaw, draw_trials
from shared.sections import Value
from simulations.experiment.config import Split
from simulations.sweep.plan import Plan
from simulations.sweep.space import Space

__all__ = ["OBJECTIVE", "Sampler", "SearchPlan", "plan_search", "search_options", "trial_name"]

OBJECTIVE = "ndcg@10"
_SPACE = "space."


class Sampler(StrEnum):
    """How the settings of a trial are drawn."""

    TPE = "tpe"
    RANDOM = "random"


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchPlan:
    """The search space, and how to search it.

    Attributes:
        trials: their number, or its mean.
        law: distribution of their number; None if it is fixed.
        sampler: how their settings are drawn.
        spaces: of the searched settings.
    """

    trials: int
    law: TrialLaw | None
    sampler: Sampler
    spaces: tuple[Space, ...]

    def count(self, seed: int) -> int:
        """Return the number of trials."""
        if self.law is None:
            return self.trials
        return draw_trials(self.law, self.trials, np.random.default_rng([seed, self.trials]))


def search_options(
    trials: int, law: TrialLaw | None, sampler: Sampler | None, texts: Iterable[str]
) -> dict[str, Value]:
    """Return the options of a search, flat, as a plan stores them.

    Raises:
        ConfigError: a setting is searched twice, or none is.
    """
    options: dict[str, Value] = {"trials": trials}
    options |= {"law": str(law)} if law else {}
    options |= {"sampler": str(sampler)} if sampler else {}
    for text in texts:
        key, _, rest = text.partition("=")
        if _SPACE + key.strip() in options:
            raise ConfigError(f"--space {key.strip()} is repeated; leave one out.")
        options[_SPACE + key.strip()] = rest.strip()
    if not any(key.startswith(_SPACE) for key in options):
        raise ConfigError("--search without --space: name the settings and their values.")
    return options


def plan_search(plan: Plan) -> SearchPlan:
    """Return the search of a plan, after checking it.

    Raises:
        ConfigError: the options do not fit together.
    """
    options = plan.search
    trials = int(options["trials"])
    law = TrialLaw(str(options["law"])) if "law" in options else None
    sampler = Sampler(str(options["sampler"])) if "sampler" in options else None
    if trials < 1:
        raise ConfigError(f"--search {trials}: give a number of 1 or more.")
    if len(plan.recipes) > 1 or plan.axes:
        raise ConfigError(
            "--search varies only the settings of --space: give one recipe, one ε and one "
            "seed (--set privacy.epsilon=..., --set seed=...), and no --grid."
        )
    if law is not None and sampler is Sampler.TPE:
        raise ConfigError(
            f"--trials {law} with --sampler tpe: its bound holds only for settings that are drawn "
            "independently of earlier scores. Leave --sampler out, or --trials."
        )
    [base] = plan.recipes.values()
    split = Split(str(base["lab.split"]))
    if not split.validation:
        raise ConfigError(
            f"lab.split = '{split}': a search must not use test items. Set it to "
            f"'{split.on_validation}'."
        )
    texts = [
        f"{key.removeprefix(_SPACE)}={text}" for key, text in options.items() if key[:6] == _SPACE
    ]
    spaces = tuple(Space.parse(text, base) for text in texts)
    for space in spaces:
        for value in space.ends:
            plan.run({space.key: value}, "trial")
    default = Sampler.TPE if law is None else Sampler.RANDOM
    return SearchPlan(trials=trials, law=law, sampler=sampler or default, spaces=spaces)


def trial_name(number: int) -> str:
    """Return the name of a trial's run."""
    return f"trial-{number:04}"
