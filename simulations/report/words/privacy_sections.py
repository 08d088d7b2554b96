"""What a page shows of the claim: the budget, and what attacks made of it."""

from __future__ import annotations

import math
from collections.abc import Sequence

from simulations.report.figures.canvas import Picture
from simulations.report.figures.curves import budget_picture, roc_picture
from simulations.report.figures.rows import audit_picture
from simulations.report.numbers.privacy import spending
from simulations.report.reading.audits import Audit
from simulations.report.reading.runs import Run
from simulations.report.sections import Section, Table, missing, table
from simulations.report.words import texts, words

__all__ = ["audit_sections", "budget_section"]


def budget_section(run: Run) -> Section:
    """What each organisation spent."""
    title = "How much of the budget is spent?"
    found = spending(run)
    if not found:
        return missing("budget", title, texts.NO_BUDGET)
    if not all(math.isfinite(epsilon) for line in found for epsilon in line.epsilon):
        return missing("budget", title, texts.INFINITE)
    releases = [
        (
            one.name,
            f"{one.population:,}",
            str(release.kind),
            f"{release.steps:,}",
            f"{release.noise_multiplier:.4g}",
            f"{release.sample_rate:.4g}",
            words.number(one.epsilon),
        )
        for one in run.organisations
        for release in one.releases
    ]
    head = "organisation|users|kind|noised sums|noise multiplier|sample rate|ε of all"
    return Section(
        key="budget",
        title=title,
        takeaway=words.budget(run),
        about=texts.BUDGET,
        picture=budget_picture(found, run.cap),
        table=table(head.split("|"), releases),
    )


def audit_sections(audits: Sequence[Audit]) -> list[Section]:
    """What attacks could show, or a sentence that nobody tried."""
    if not audits:
        return [missing("audit", "Does the claim hold under attack?", texts.NO_AUDIT)]
    several = len(audits) > 1
    found = [
        Section(
            key="audit",
            title="Does the claim hold under attack?",
            takeaway=words.audits(audits),
            about=texts.AUDIT,
            picture=audit_picture(audits) if any(audit.observers for audit in audits) else None,
            table=_observers(audits),
            notes=words.audit_notes(audits),
        )
    ]
    for number, audit in enumerate(audits, start=1):
        suffix = f" ({audit.name})" if several else ""
        found.append(_membership(audit, f"membership-{number}", suffix))
    return found


def _observers(audits: Sequence[Audit]) -> Table:
    rows = []
    for audit in audits:
        for one in audit.observers:
            estimate = one.estimate
            rows.append(
                (
                    audit.name,
                    one.name,
                    one.sees,
                    f"{one.canaries:,}",
                    f"{one.correct:,} of {one.guesses:,}",
                    f"{one.lower_bound:.3f}",
                    f"{one.largest_provable:.3f}",
                    words.number(audit.epsilon),
                    f"{estimate.epsilon:.2f} ({estimate.low:.2f} to {estimate.high:.2f})"
                    if estimate
                    else "none",
                    "violated" if one.violated else "consistent",
                )
            )
    head = "audit|observer|sees|canaries|right guesses|proven ε|most provable|claimed ε"
    return table((*head.split("|"), "estimate", "verdict"), rows)


def _membership(audit: Audit, key: str, suffix: str) -> Section:
    title = f"Can one tell who was in the training data?{suffix}"
    found = audit.membership
    if found is None:
        return missing(key, title, texts.NO_MEMBERSHIP)
    picture = roc_picture(found, audit.epsilon, audit.delta)
    return Section(
        key=key,
        title=title,
        takeaway=words.membership(found),
        about=texts.MEMBERSHIP,
        picture=Picture(key, picture.draw, picture.height, picture.narrow_height),
        table=table(
            ("false positives", "true positives", "95% interval"),
            [
                (f"{one.fpr:.2%}", f"{one.tpr:.3%}", f"{one.low:.3%} to {one.high:.3%}")
                for one in found.rates
            ],
        ),
        notes=(words.area(found),),
    )
