"""The section `[rerank]`: whether lists are put into another order, how, and how strongly."""

from __future__ import annotations

from dataclasses import replace
from enum import StrEnum
from typing import Annotated

from shared.errors import ConfigError
from shared.evaluation.exposure import DECILES
from shared.sections import Choice, Fraction, OptionalOf, PositiveInt, Require, section

__all__ = ["COMBINED", "By", "Method", "RerankConfig", "changed"]


class Method(StrEnum):
    """What a list is to have.

    NONE: the items of the highest scores. CALIBRATED: the groups that the user chose, in their
    proportions. DIVERSE: items unlike each other. EXPOSURE: a share of its places for rare items.
    """

    NONE = "none"
    CALIBRATED = "calibrated"
    DIVERSE = "diverse"
    EXPOSURE = "exposure"


class By(StrEnum):
    """What is looked at of items: `calibrated` takes one of the first two, `diverse` the others."""

    POPULARITY = "popularity"
    GENRES = "genres"
    FEATURES = "features"


_CHOICES = {
    Method.CALIBRATED: (By.GENRES, By.POPULARITY),
    Method.DIVERSE: (By.GENRES, By.FEATURES),
}
COMBINED = tuple(_CHOICES)
"""Methods that go together with a share of places for rare items."""
_STRENGTHS = {Method.NONE: 0.0, Method.CALIBRATED: 0.5, Method.DIVERSE: 0.2, Method.EXPOSURE: 0.1}
"""Where none is stated."""
_MOST = 1000


@section("rerank")
class RerankConfig:
    """How lists are chosen from the candidates of a user's scores.

    Attributes:
        method: "none", "calibrated", "diverse" or "exposure".
        strength: in [0, 1]; "none" takes the method's own. With `calibrated` and `diverse` the
            objective's weight against the scores, with `exposure` the share of each list's places;
            0 changes nothing.
        by: what is looked at: with `calibrated` "genres" or "popularity", with `diverse` "genres"
            or "features"; `exposure` looks at popularity always.
        rare_places: with `calibrated` or `diverse`, a share of each list's places that rare items
            get in any case, in [0, 1]: both at once. `exposure` has it as its strength.
        rare: how many of the ten popularity deciles, from the least popular, are rare.
        candidates: of the highest scores that a list is chosen from; k where that is more.
    """

    method: Choice[Method] = Method.NONE
    strength: OptionalOf[Fraction] = None
    by: Choice[By] = By.GENRES
    rare_places: Fraction = 0.0
    rare: Annotated[
        int, Require(lambda n: 1 <= n < DECILES, f"choose a whole number from 1 to {DECILES - 1}")
    ] = 5
    candidates: Annotated[
        PositiveInt, Require(lambda n: n <= _MOST, f"choose a whole number from 1 to {_MOST}")
    ] = 200

    def __post_init__(self) -> None:
        choices = _CHOICES.get(self.method, tuple(By))
        if self.by not in choices:
            raise ConfigError(
                f"rerank.by = '{self.by}' does not fit rerank.method = '{self.method}': it takes "
                f"{' or '.join(map(repr, map(str, choices)))}."
            )

        if self.rare_places and self.method not in _CHOICES:
            raise ConfigError(
                f"rerank.rare_places = {self.rare_places:g} does not fit rerank.method = "
                f"'{self.method}': it goes with {' or '.join(map(repr, map(str, _CHOICES)))}, and "
                "'exposure' has rerank.strength for it."
            )

    @property
    def weight(self) -> float:
        """The strength that holds."""
        return _STRENGTHS[self.method] if self.strength is None else self.strength

    @property
    def changes(self) -> bool:
        """Whether lists differ from those of the highest scores."""
        return self.method is not Method.NONE and self.weight > 0

    def __str__(self) -> str:
        if self.method is Method.NONE:
            return "none"
        by = f" by {self.by}" if self.method in _CHOICES else ""
        also = f", {self.rare_places:.3g} of places rare" if self.rare_places else ""
        return f"{self.method}{by}{also}, strength {self.weight:g}"


def changed(
    settings: RerankConfig, method: str | None = None, strength: float | None = None
) -> RerankConfig:
    """Return settings with what is stated on a command line.

    Another method than that of the settings has its own strength, and looks at genres.

    Raises:
        ConfigError: there is no such method, the strength is out of range, or no method has it.
    """
    if method is not None:
        other = RerankConfig(
            method=method,  # type: ignore[arg-type]  # it is checked
            rare=settings.rare,
            candidates=settings.candidates,
        )
        settings = settings if other.method is settings.method else other
    if strength is None:
        return settings
    if settings.method is Method.NONE:
        raise ConfigError(
            f"rerank.strength = {strength}: no method has it. Choose one with it: "
            f"{', '.join(one for one in Method if one is not Method.NONE)}."
        )
    return replace(settings, strength=strength)
