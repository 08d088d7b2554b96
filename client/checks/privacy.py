"""Check the ledger and its anchor, and estimate what the rest of the budget buys."""

from __future__ import annotations

import math

from client.checks.base import Check, Expected, Facts, Verdict, doubtful, passed
from client.ledger.anchor import Anchor
from client.ledger.balance import EntryType
from client.ledger.ledger import Ledger
from shared.privacy.accounting.accountant import epsilon, rounds_for
from shared.privacy.release import Release, ReleaseKind

__all__ = ["CHECKS"]

_RECOVER = "See 'Recovery' in docs/ledger.md; sotto-node budget puts a ledger right."


def _anchor(facts: Facts) -> Verdict:
    site = facts.site
    anchor = Anchor.load(site.anchor_file)
    if site.anchor_file.parent.resolve() == site.ledger_file.parent.resolve():
        return doubtful(
            f"{site.anchor_file}: in one folder with the ledger",
            "Move it to another disk, and name it with `anchor` in site.toml: an old backup of the "
            "folder would bring both back, and nobody would notice.",
        )
    return passed(f"{site.anchor_file}: it knows the ledger up to entry {anchor.entries}")


def _ledger(facts: Facts) -> Verdict:
    entries = facts.ledger.verify()
    return passed(f"{facts.site.ledger_file}: {entries:,} entries, none changed")


def _budget(facts: Facts) -> Verdict:
    policy, spent = facts.site.policy, facts.ledger.releases()
    used = epsilon(spent, policy.delta)
    if policy.max_epsilon == math.inf:
        return doubtful(
            "policy.max_epsilon = inf: training without noise is allowed",
            "State a number, unless all the data is public.",
        )
    spending = f"ε = {used:.3g} of {policy.max_epsilon:g} is spent at δ = {policy.delta:g}"
    nothing = "Nothing is left for these users: the node refuses what costs anything."
    if used >= policy.max_epsilon:
        return doubtful(spending, nothing)
    form = _form(facts.ledger, facts.expected)
    if form is None:
        return passed(
            f"{spending}; with --noise-multiplier and --sample-rate, `check` says how many rounds "
            "the rest is enough for"
        )
    rounds, at_least = rounds_for(policy.max_epsilon, policy.delta, form, spent)
    more = "or more " if at_least else ""
    spending += (
        f"; the rest is enough for {rounds:,} {more}rounds of {form.steps} noised sums each, at "
        f"noise multiplier {form.noise_multiplier:g} and sample rate {form.sample_rate:g}"
    )
    return passed(spending) if rounds else doubtful(spending, nothing)


def _form(ledger: Ledger, expected: Expected) -> Release | None:
    """Return the form of a round: the expected one, with gaps filled from the last charged one."""
    charges = (
        record.fields for record in reversed(ledger.history()) if record.type is EntryType.CHARGE
    )
    last = next(charges, {})
    noise = _either(expected.noise_multiplier, last.get("noise_multiplier"))
    rate = _either(expected.sample_rate, last.get("sample_rate"))
    if noise is None or rate is None:
        return None
    steps = expected.local_steps or last.get("steps", 1)
    return Release(
        kind=ReleaseKind.TRAIN, noise_multiplier=noise, sample_rate=rate, steps=int(steps)
    )


def _either(stated: float | None, last: float | None) -> float | None:
    return last if stated is None else stated


CHECKS = (
    Check("anchor", _anchor, _RECOVER),
    Check("ledger", _ledger, _RECOVER, ("anchor",)),
    Check("budget", _budget, _RECOVER, ("ledger",)),
)
