"""The checks of `sotto-node check` that a page starts. They connect to the coordinator."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from client.console.jobs import Job
from client.site.site import Site

if TYPE_CHECKING:
    from client.checks.base import Finding

__all__ = ["check_job"]


def check_job(site: Site) -> Job[list[Finding]]:
    """Return the job that looks at everything, which has not begun."""

    def work(say: Callable[[str, float], None]) -> list[Finding]:
        from client.checks.base import Expected  # noqa: PLC0415 with torch
        from client.checks.preflight import CHECKS, preflight  # noqa: PLC0415

        found: list[Finding] = []
        say("site.toml", 0.0)
        for finding in preflight(Path(site.folder), Expected()):
            found.append(finding)
            following = CHECKS[min(len(found), len(CHECKS)) - 1].name
            say(following, len(found) / (len(CHECKS) + 1))
        return found

    return Job("check", work)
