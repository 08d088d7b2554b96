"""The sections about privacy: the spent budget, the audits, membership inference."""

from __future__ import annotations

import math
from collections.abc import Sequence

from simulations.report.figures.canvas import Picture
from simulations.report.figures.curves import budget_picture, roc_picture
from simulations.report.figures.rows import audit_picture
from simulations.report.numbers.privacy import spending
from simulations.report.reading.audits import Audit
from simulations.report.reading.runs import Run
from simulations.report.sections.section import Section, Table, missing, table
from simulations.report.text import explanations, takeaways

__all__ = ["audit_sections", "budget_section"]


def budget_section(run: Run) -> Section:
    """Return the section on what each organisation spent."""
    title = "How much of the budget is spent?"
    curves = spending(run)
    if not curves:
        return missing("budget", title, explanations.NO_BUDGET)
    if not all(math.isfinite(epsilon) for line in curves for epsilon in line.epsilon):
        return missing("budget", title, explanations.INFINITE)
    secure = run.colluding is not None
    releases = [
        (
            one.name,
            f"{one.population:,}",
            str(release.kind),
            f"{release.steps:,}",
            f"{release.noise_multiplier:.4g}",
            f"{release.sample_rate:.4g}",
            takeaways.number(one.epsilon),
            *([takeaways.number(one.epsilon_if_all_collude)] * secure),
        )
        for one in run.organisations
        for release in one.releases
    ]
    head = "organisation|users|kind|noised sums|noise multiplier|sample rate|ε of all"
    head += "|ε if all others collude" * secure
    return Section(
        key="budget",
        title=title,
        takeaway=takeaways.budget(run),
        about=explanations.BUDGET,
        picture=budget_picture(curves, run.cap),
        table=table(head.split("|"), releases),
    )


def audit_sections(audits: Sequence[Audit]) -> list[Section]:
    """Return the sections on audits, or one that says that there was none."""
    if not audits:
        return [missing("audit", "Does the claim hold under attack?", explanations.NO_AUDIT)]
    several = len(audits) > 1
    sections = [
        Section(
            key="audit",
            title="Does the claim hold under attack?",
            takeaway=takeaways.audits(audits),
            about=explanations.AUDIT,
            picture=audit_picture(audits) if any(audit.observers for audit in audits) else None,
            table=_observers(audits),
            notes=takeaways.audit_notes(audits),
        )
    ]
    for number, audit in enumerate(audits, start=1):
        suffix = f" ({audit.name})" if several else ""
        sections.append(_membership(audit, f"membership-{number}", suffix))
    return sections


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
                    takeaways.number(audit.claimed(one)),
                    f"{estimate.epsilon:.2f} ({estimate.low:.2f} to {estimate.high:.2f})"
                    if estimate
                    else "none",
                    "violated" if one.violated else "consistent",
                )
            )
    head = "audit|observer|sees|canaries|right guesses|proved ε|largest provable ε|claimed ε"
    return table((*head.split("|"), "estimate", "verdict"), rows)


def _membership(audit: Audit, key: str, suffix: str) -> Section:
    title = f"Does the model reveal who was in the training data?{suffix}"
    attack = audit.membership
    if attack is None:
        return missing(key, title, explanations.NO_MEMBERSHIP)
    picture = roc_picture(attack, audit.epsilon, audit.delta)
    return Section(
        key=key,
        title=title,
        takeaway=takeaways.membership(attack),
        about=explanations.MEMBERSHIP,
        picture=Picture(key, picture.draw, picture.height, picture.narrow_height),
        table=table(
            ("false positives", "true positives", "95% interval"),
            [
                (f"{one.fpr:.2%}", f"{one.tpr:.3%}", f"{one.low:.3%} to {one.high:.3%}")
                for one in attack.rates
            ],
        ),
        notes=(takeaways.area(attack),),
    )
