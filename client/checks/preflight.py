"""Looks at a site from every side before it joins: what is fine, doubtful or wrong.

Every check gives one finding, always in the same order and under the same name. A check goes on
when another one fails, unless it needs what that one looked at.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from client.checks import app, connection, data, files, machine, privacy
from client.checks.base import Expected, Facts, Finding, Status
from client.site.site import FILE, Site
from shared.errors import SottoError

__all__ = ["CHECKS", "SITE", "exit_code", "preflight"]

SITE = FILE
"""The first check, which all others need."""
CHECKS = (
    *files.CHECKS,
    *data.CHECKS,
    *privacy.CHECKS,
    *app.CHECKS,
    *machine.CHECKS,
    *connection.CHECKS,
)
_PASSED = (Status.OK, Status.WARNING)


def preflight(path: Path, expected: Expected) -> Iterator[Finding]:
    """Each check's finding, as soon as it is there.

    Args:
        path: the site's folder, or its site.toml.
        expected: what the coordinator is expected to ask for.
    """
    try:
        site = Site.load(path)
    except SottoError as error:
        found = str(error).removesuffix(".")
        remedy = "Mend that line, or make a site: sotto-node init."
        yield Finding(name=SITE, status=Status.ERROR, found=found, remedy=remedy)
        yield from (_passed_over(check.name, SITE) for check in CHECKS)
        return
    limits = f"ε up to {site.policy.max_epsilon:g} at δ = {site.policy.delta:g}"
    yield Finding(name=SITE, status=Status.OK, found=f"{site.organisation}, {limits}")
    yield from _look(Facts(site, expected))


def _look(facts: Facts) -> Iterator[Finding]:
    passed: set[str] = set()
    for check in CHECKS:
        missing = [need for need in check.needs if need not in passed]
        if missing:
            yield _passed_over(check.name, missing[0])
            continue
        verdict = check.run(facts)
        if verdict.status in _PASSED:
            passed.add(check.name)
        yield Finding(
            name=check.name, status=verdict.status, found=verdict.found, remedy=verdict.remedy
        )


def _passed_over(name: str, need: str) -> Finding:
    return Finding(name=name, status=Status.SKIPPED, found=f"needs '{need}'")


def exit_code(findings: Iterable[Finding]) -> int:
    """0 where all is fine, 1 with something doubtful, 2 with something wrong.

    >>> exit_code([Finding(name="a", status=Status.WARNING, found="")])
    1
    """
    found = {finding.status for finding in findings}
    return 2 if Status.ERROR in found else int(Status.WARNING in found)
