"""What `adapt --private` does: terms, charge, noised counts."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from pathlib import Path

from client.commands.options import open_ledger
from client.home.home_model import HomeModel
from client.home.private import Guarantee, build_private_home, measure_own_sums, release_for
from client.ledger.ledger import Ledger
from client.serving.published import scorer_of
from client.site.site import Site
from shared.data.histories import Histories
from shared.errors import ConfigError
from shared.models.attention import AttentionRecommender
from shared.privacy.accounting.accountant import epsilon as epsilon_of
from shared.privacy.noise import RandomSource, SystemRandom
from shared.privacy.release import Release
from shared.system.command_line import messages, output

__all__ = ["PrivateTerms", "adapt_privately", "print_private", "private_terms"]


@dataclass(frozen=True, slots=True)
class PrivateTerms:
    """Under which a private home model is made, and who remembers that it was.

    Attributes:
        guarantee: of this model.
        max_epsilon: limit on all of them; without a site, there is none.
        ledger: of the site; None without one.
        random: where the noise comes from.
    """

    guarantee: Guarantee
    max_epsilon: float | None
    ledger: Ledger | None
    random: RandomSource

    def charge(self) -> Release:
        """Charge one private home model, and return its release."""
        release = release_for(self.guarantee)
        if self.ledger is not None and self.max_epsilon is not None:
            limit, delta = self.max_epsilon, self.guarantee.delta
            self.ledger.charge_home(release, max_epsilon=limit, delta=delta)
        return release

    def report(self) -> dict[str, float | None]:
        """Return what it costs: this one, and all so far."""
        delta = self.guarantee.delta
        spent = None if self.ledger is None else epsilon_of(self.ledger.home_releases(), delta)
        return asdict(self.guarantee) | {"spent": spent, "max_epsilon": self.max_epsilon}


def private_terms(site: Site | None, epsilon: float | None, delta: float | None) -> PrivateTerms:
    """Return the terms of a site, or of options where there is none.

    Args:
        site: whose budget it is.
        epsilon: of one home model; None takes the site's.
        delta: where there is no site.

    Raises:
        ConfigError: a number is missing, or is not for the options to say.
    """
    if site is None:
        if epsilon is None or delta is None:
            raise ConfigError(
                "--private with --data needs --epsilon and --delta, which have no default: 8 is a "
                "loose ε and 1 a strict one; δ must be far below 1 / users."
            )
        return PrivateTerms(Guarantee(epsilon, delta), None, None, SystemRandom())
    if delta is not None:
        raise ConfigError("--delta is for --data: a site's δ is policy.delta.")
    one, limit = site.home.epsilon if epsilon is None else epsilon, site.home.max_epsilon
    if one is None or limit is None:
        raise ConfigError(
            "a private home model needs home.epsilon (or --epsilon) and home.max_epsilon in "
            "site.toml, which have no default: the ε of one, and the limit of all together."
        )
    guarantee = Guarantee(one, site.policy.delta)
    return PrivateTerms(guarantee, limit, open_ledger(site), site.random(1))


def adapt_privately(
    histories: Histories, recommender: AttentionRecommender, terms: PrivateTerms, file: Path
) -> HomeModel:
    """Count with noise, after it is charged, and return the home model.

    Args:
        histories: of the own users.
        recommender: the published model.
        terms: under which it is charged.
        file: where it will be written.

    Raises:
        ConfigError: it cannot be written there; nothing was charged.
        BudgetExceeded: the charge would exceed the limit.
    """
    _check_place(file)
    messages.print("counting, with noise ...")
    sums = measure_own_sums(histories, recommender.config.items, terms.charge(), terms.random)
    return build_private_home(sums, scorer_of(recommender))


def _check_place(file: Path) -> None:
    """Refuse a file that cannot be written, before anything is charged."""
    if not os.access(file.absolute().parent, os.W_OK | os.X_OK):
        raise ConfigError(
            f"{file} cannot be written (its folder is not there, or not yours to write to): name "
            "another with --out."
        )


def print_private(terms: PrivateTerms, file: Path) -> None:
    """Print what it costs."""
    report = terms.report()
    output.print(
        f"What one of your users is shown by it depends on another one within ε = "
        f"{terms.guarantee.epsilon:g} (δ = {terms.guarantee.delta:g}), beside what the published "
        "model spent of your policy's budget.",
        soft_wrap=True,
    )
    if terms.ledger is None:
        output.print("There is no site, so no ledger remembers it: each further one adds to it.")
    else:
        output.print(
            f"Charged: ε = {report['spent']:.4g} of home.max_epsilon = {terms.max_epsilon:g} is "
            "spent by all private home models so far.",
            soft_wrap=True,
        )
    output.print(f"Written to {file}: noised counts alone. Nothing was sent.", soft_wrap=True)
