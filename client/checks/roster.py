"""Check the aggregation key and the roster: can answers be masked, and what does ε then count?"""

from __future__ import annotations

import math
import os
from dataclasses import replace

from client.checks.base import Check, Facts, Verdict, doubtful, failed, passed
from client.site.aggregation_key import key_file, load_identity, protocol_roster, public_line_of
from client.site.keys import others_may, public_file
from client.site.site import Site
from shared.privacy.accounting.accountant import epsilon
from shared.privacy.release import Release, ReleaseKind
from shared.system.supervise import Account

__all__ = ["CHECKS"]

_REMEDY = "Look at the roster: sotto-node peers list"


def _roster(facts: Facts) -> Verdict:
    site, roster = facts.site, facts.site.roster
    if roster.organisations == 1:
        return passed("[roster] names nobody: every answer carries the whole noise of its own")
    if verdict := _key_fault(site):
        return verdict
    if not roster.peers:
        return doubtful(
            f"[roster] counts {roster.organisations} organisations and names none: no answer can "
            "be masked",
            "Add them by their keys (sotto-node peers add), and take out roster.organisations.",
        )
    if roster.problem:
        return doubtful(f"no answer can be masked: {roster.problem}", _REMEDY)
    protocol_roster(site)
    verdict = passed(f"{_counts(site)}; {_tiers(facts)}")
    return replace(verdict, details=_details(site))


def _key_fault(site: Site) -> Verdict | None:
    """Return what is wrong with the aggregation key, if anything is."""
    file, line = key_file(site), public_line_of(load_identity(site))
    if mode := others_may(file):
        return failed(
            f"{file}: its permissions are {mode}: others may read the aggregation key",
            f"chmod 600 {file}; if others could have read it, delete it, make a new one "
            "(sotto-node peers key), and tell the other organisations.",
        )
    user = site.node.executor_user
    if user and os.geteuid() == 0 and file.stat().st_uid != Account.of(user).user:
        return failed(
            f"{file} is not {user}'s, whose process signs with it", f"chown {user} {file}"
        )
    public = public_file(file)
    if not public.exists() or public.read_text(encoding="utf-8").strip() != line:
        return doubtful(
            f"{public}: not the public half of {file}", "Write it anew: sotto-node peers key"
        )
    return None


def _counts(site: Site) -> str:
    roster = site.roster
    return (
        f"{roster.organisations} organisations, {roster.colluding} may collude, {roster.fewest} in "
        "every sum: answers can be masked"
    )


def _tiers(facts: Facts) -> str:
    """Say which ε follow from the roster: of a round, where the round's form is stated."""
    policy, shares = facts.site.policy, facts.site.roster.honest_shares
    alone = policy.max_epsilon_if_all_collude
    limit = "without a limit" if alone == math.inf else f"limit {alone:g}"
    noise, rate = facts.expected.noise_multiplier, facts.expected.sample_rate
    if noise is None or rate is None:
        return (
            f"ε (limit {policy.max_epsilon:g}) counts the noise of {shares}, the ε if all others "
            f"collude ({limit}) this site's alone"
        )
    steps = facts.expected.local_steps or 1
    own = Release(kind=ReleaseKind.TRAIN, noise_multiplier=noise, sample_rate=rate, steps=steps)
    together, apart = (epsilon([one], policy.delta) for one in (own.with_shares(shares), own))
    return (
        f"a round at noise multiplier {noise:g} a share and sample rate {rate:g} costs ε = "
        f"{together:.3g} (limit {policy.max_epsilon:g}), and ε = {apart:.3g} "
        f"if all others collude ({limit})"
    )


def _details(site: Site) -> dict[str, float]:
    roster, policy = site.roster, site.policy
    return {
        "organisations": roster.organisations,
        "colluding": roster.colluding,
        "fewest": roster.fewest,
        "honest_shares": roster.honest_shares,
        "max_epsilon": policy.max_epsilon,
        "max_epsilon_if_all_collude": policy.max_epsilon_if_all_collude,
    }


CHECKS = (Check("roster", _roster, _REMEDY),)
