"""Check which app the node would run, and as which user."""

from __future__ import annotations

import os

from client.bundle.trust import read_trusted, verify_trusted
from client.checks.base import Check, Facts, Verdict, doubtful, failed, passed
from client.site.site import Site
from shared.system.supervise import Account

__all__ = ["CHECKS"]

_TRUST = "Get the bundle from the coordinator, look at it, then: sotto-node trust FILE.fab"


def _app(facts: Facts) -> Verdict:
    if read_trusted(facts.site.flower_home) is None:
        return doubtful("no app bundle is trusted: the node would refuse every request", _TRUST)
    trusted = verify_trusted(facts.site)
    bundle = trusted.bundle
    description = f"{bundle.app} {bundle.version}, fingerprint {bundle.fingerprint}"
    if os.name == "posix" and trusted.changeable:
        return doubtful(f"{description}; {trusted.folder} is not read-only", _TRUST)
    return passed(description)


def _executor(facts: Facts) -> Verdict:
    """Whose process the app is."""
    name, root = facts.site.node.executor_user, os.geteuid() == 0
    if not name:
        owner = "the app runs as the node's own user, who can read the node's key"
        if root:
            return doubtful(
                "the app runs as root, who can read and change everything on this machine",
                "Set node.executor_user in site.toml, or start the node as a user other than root.",
            )
        return passed(f"{owner}; another one as node.executor_user could not")
    account = Account.of(name)
    if not root:
        return doubtful(
            f"the app runs as the node's own user, not as {name}, and can read the node's key",
            "Start `sotto-node up` as root: it then runs the node and the app as two other users.",
        )
    return _apart(facts.site, account)


def _apart(site: Site, account: Account) -> Verdict:
    """Check that the app's user can reach what it needs, and not the key."""
    owner = Account.of(site.key_file.stat().st_uid)
    if account.user in (0, owner.user):
        return failed(
            f"{account.name} is {'root' if account.user == 0 else 'the owner of the key'}",
            f"Name another user, or give the key to one: chown sotto {site.key_file}",
        )
    if not site.anchor:
        return failed(
            "the ledger's anchor is where root keeps it, and the app's user would look elsewhere",
            "State `anchor` in site.toml, as a file that the app's user may write.",
        )
    for file in (site.ledger_file, site.anchor_file):
        for place in (file, file.parent):
            if place.stat().st_uid != account.user:
                return failed(f"{place} is not {account.name}'s", f"chown {account.name} {place}")
    return passed(f"the app runs as {account.name}, the node as {owner.name}")


CHECKS = (
    Check("app", _app, _TRUST, ("ledger",)),
    Check("executor", _executor, "Check node.executor_user."),
)
