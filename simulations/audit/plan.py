"""The size of an audit, and which runs can be audited."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from shared.config import Masking
from shared.errors import ConfigError
from simulations.experiment.config import Engine, SimulationConfig

__all__ = ["CANARIES", "Adversary", "AuditPlan", "check_auditable"]


class Adversary(StrEnum):
    """Who asks the sites."""

    HONEST = "honest"
    """The coordinator of an ordinary run; observers look on."""
    HOSTILE = "hostile"
    """A coordinator whose weights amplify the canaries; see `simulations.audit.hostile`."""


CANARIES = {Adversary.HONEST: 2000, Adversary.HOSTILE: 1_000_000}
"""Canaries of an audit, unless its plan says otherwise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditPlan:
    """The size of an audit.

    Attributes:
        adversary: who asks the sites.
        canaries: synthetic users at all organisations together; about half are in; >= 20.
        held_out: share of the real users that is left out, in [0, .5]; without effect against a
            hostile coordinator, who publishes no model.
        confidence: that an honest pipeline passes, in (0, 1).
        seed: of coins and canaries; the run's noise has the run's own seed.
    """

    adversary: Adversary = Adversary.HONEST
    canaries: int = CANARIES[Adversary.HONEST]
    held_out: float = 0.15
    confidence: float = 0.95
    seed: int = 0

    def __post_init__(self) -> None:
        checks = (
            ("canaries", self.canaries, self.canaries >= 20, "20 or more"),
            ("held-out", self.held_out, 0 <= self.held_out <= 0.5, "a share from 0 to .5"),
            ("confidence", self.confidence, 0 < self.confidence < 1, "a probability, such as .95"),
            ("audit-seed", self.seed, self.seed >= 0, "0 or more"),
        )
        for name, value, holds, expected in checks:
            if not holds:
                raise ConfigError(f"--{name} {value}: give {expected}.")


_AUDITABLE = {
    "lab.engine": "inprocess",
    "lab.alone": "false",
    "lab.split": "test",
    "privacy.trust": "local",
    "privacy.masking": "on",
}
"""Values of settings with which a run can be audited; 0 of all others."""


def check_auditable(config: SimulationConfig, adversary: Adversary) -> None:
    """Refuse a run that an audit cannot follow.

    Args:
        config: of the run.
        adversary: of the audit; a hostile one asks sites alone, and so sees no sum.

    Raises:
        ConfigError: a setting excludes an audit.
    """
    if not config.privacy.private:
        raise ConfigError("privacy.epsilon = 'none' claims nothing to audit: state an ε.")
    refused = {
        f"lab.engine = '{config.lab.engine}'": config.lab.engine is not Engine.INPROCESS,
        f"server.evaluate_every = {config.server.evaluate_every}": config.server.evaluate_every > 0,
        "lab.alone = true": config.lab.alone,
        f"lab.split = '{config.lab.split}'": config.lab.split.temporal,
        f"privacy.trust = '{config.privacy.trust}'": (
            config.privacy.secure and adversary is Adversary.HOSTILE
        ),
        f"privacy.masking = '{config.privacy.masking}'": (
            config.privacy.secure and config.privacy.masking is Masking.OFF
        ),
    }
    for setting, given in refused.items():
        if given:
            key = setting.split(" ")[0]
            value = _AUDITABLE.get(key, "0")
            raise ConfigError(
                f"{setting}, which an audit cannot follow: leave it out, or --set {key}={value}."
            )
