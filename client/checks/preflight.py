"""Run every check of a site, before it joins a federation.

Every check gives one finding, always in the same order and under the same name. Checks are
independent: one that fails skips only those that need it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from client.checks import app, connection, data, files, groups, machine, privacy, roster
from client.checks.base import Expected, Facts, Finding, Status
from client.site.site import FILE, Site
from shared.errors import SottoError

__all__ = ["CHECKS", "SITE", "exit_code", "preflight"]

SITE = FILE
"""The first check, which all others need."""
CHECKS = (
    *files.CHECKS,
    *data.CHECKS,
    *groups.CHECKS,
    *privacy.CHECKS,
    *roster.CHECKS,
    *app.CHECKS,
    *machine.CHECKS,
    *connection.CHECKS,
)
_PASSED = (Status.OK, Status.WARNING)


def preflight(path: Path, expected: Expected) -> Iterator[Finding]:
    """Yield each check's finding as soon as it is known.

    Args:
        path: the site's folder, or its site.toml.
        expected: what the coordinator is expected to ask for.
    """
    try:
        site = Site.load(path)
    except SottoError as error:
        problem = str(error).removesuffix(".")
        remedy = "Correct that line, or create a site: sotto-node init."
        yield Finding(name=SITE, status=Status.ERROR, observation=problem, remedy=remedy)
        yield from (_skipped(check.name, SITE) for check in CHECKS)
        return
    limits = f"ε up to {site.policy.max_epsilon:g} at δ = {site.policy.delta:g}"
    yield Finding(name=SITE, status=Status.OK, observation=f"{site.organisation}, {limits}")
    yield from _run_checks(Facts(site, expected))


def _run_checks(facts: Facts) -> Iterator[Finding]:
    passed: set[str] = set()
    for check in CHECKS:
        missing = [need for need in check.needs if need not in passed]
        if missing:
            yield _skipped(check.name, missing[0])
            continue
        verdict = check.run(facts)
        if verdict.status in _PASSED:
            passed.add(check.name)
        yield Finding(
            name=check.name,
            status=verdict.status,
            observation=verdict.observation,
            remedy=verdict.remedy,
            details=verdict.details,
        )


def _skipped(name: str, need: str) -> Finding:
    return Finding(
        name=name, status=Status.SKIPPED, observation=f"not checked, because '{need}' did not pass"
    )


def exit_code(findings: Iterable[Finding]) -> int:
    """Return 0 if every check passed, 1 if there are warnings, 2 if there are errors.

    >>> exit_code([Finding(name="a", status=Status.WARNING, observation="")])
    1
    """
    statuses = {finding.status for finding in findings}
    return 2 if Status.ERROR in statuses else int(Status.WARNING in statuses)
