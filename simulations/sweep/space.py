"""The search space of one setting: a range or choices."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from shared.errors import ConfigError
from shared.sections import Value
from simulations.experiment.config import plain_value

if TYPE_CHECKING:
    from optuna.trial import Trial

__all__ = ["Space"]

_RANGE = re.compile(r"^(.+?)\.\.(.+?)(:log)?$")


@dataclass(frozen=True, slots=True)
class Space:
    """The values of one setting that a search may choose.

    Attributes:
        key: `section.name`.
        low: of a range, else None.
        high: of a range, else None.
        log: whether the range is searched by its logarithm.
        choices: the values, if there is no range.
    """

    key: str
    low: int | float | None = None
    high: int | float | None = None
    log: bool = False
    choices: tuple[Value, ...] = ()

    @classmethod
    def parse(cls, text: str, base: Mapping[str, Value]) -> Space:
        """Read `section.key=low..high[:log]` or `=a|b|c`.

        Args:
            text: as typed.
            base: all settings; the range of a whole number is of whole numbers.

        Raises:
            ConfigError: the text has another form.
        """
        key, equals, rest = (part.strip() for part in text.partition("="))
        if not equals or not rest:
            raise ConfigError(
                f"--space {text!r} does not fit: write section.key=low..high, "
                "section.key=low..high:log, or section.key=a|b|c."
            )
        range_match = _RANGE.match(rest)
        if range_match is None or "|" in rest:
            choices = tuple(plain_value(part.strip()) for part in rest.split("|"))
            if len(set(choices)) < 2:
                raise ConfigError(f"--space {text}: give two or more different values.")
            return cls(key, choices=choices)
        low, high = (_number(text, end, base.get(key)) for end in range_match.group(1, 2))
        log = range_match.group(3) is not None
        if not low < high or (log and low <= 0):
            raise ConfigError(
                f"--space {text}: the first number must be below the second"
                + (", and above 0 for :log." if log else ".")
            )
        return cls(key, low, high, log)

    @property
    def ends(self) -> tuple[Value, ...]:
        """Return the choices, or both ends of the range, to check against the settings."""
        return self.choices or (self.low or 0, self.high or 0)

    @property
    def all(self) -> tuple[Value, ...] | None:
        """Return every value; None for a range of real numbers."""
        if self.choices:
            return self.choices
        if isinstance(self.low, int) and isinstance(self.high, int):
            return tuple(range(self.low, self.high + 1))
        return None

    def suggest(self, trial: Trial) -> Value:
        """Return the value that Optuna suggests."""
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
        expected = "whole numbers" if kind is int else "numbers"
        raise ConfigError(
            f"--space {shown}: '{text.strip()}' does not fit a range of this setting; give "
            f"{expected}, or choices as a|b|c."
        )
    return value
