"""The page of a run, of an audit or of a sweep."""

from __future__ import annotations

import math
import shlex
import statistics
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from shared.errors import ReportError
from simulations.experiment.kinds import FILE as KINDS
from simulations.experiment.kinds import Kinds
from simulations.experiment.result_json import FILE
from simulations.report.page import Chapter, Page, commands_of, facts_of
from simulations.report.reading.attacks import read_attacks
from simulations.report.reading.audits import AUDIT, Audit, read_audit
from simulations.report.reading.curves import read_curves
from simulations.report.reading.documents import read_document
from simulations.report.reading.runs import CONFIG, Run, read_run
from simulations.report.reading.sweeps import REMEDY, SETTINGS, TABLE, Sweep, read_sweep
from simulations.report.sections.attack import attack_sections
from simulations.report.sections.kinds import kinds_sections
from simulations.report.sections.privacy import audit_sections, budget_section
from simulations.report.sections.recommendations import run_sections, sweep_sections
from simulations.report.sections.trade_offs import trade_off_sections
from simulations.report.text import claim, explanations

__all__ = ["page_of"]


def page_of(
    path: Path,
    others: list[Path],
    detail: str | None,
    *,
    attacks: Sequence[Path] = (),
    curves: Sequence[Path] = (),
) -> Page:
    """Read a folder, and return its page.

    Args:
        path: folder of a run, an audit or a sweep.
        others: folders of further audits.
        detail: name of the sweep's run to show in detail.
        attacks: folders of attacks by crafted histories.
        curves: folders with a curves.json.

    Raises:
        ReportError: a folder cannot be read, or `detail` does not fit.
    """
    audits = [read_audit(folder) for folder in others]
    page = _page(path, audits, detail)
    further = {
        "What accuracy is given up for": trade_off_sections([read_curves(one) for one in curves]),
        "Manipulation": attack_sections([read_attacks(folder) for folder in attacks]),
    }
    added = (Chapter(title, "", tuple(of)) for title, of in further.items() if of)
    return replace(page, chapters=(*page.chapters, *added))


def _page(path: Path, audits: list[Audit], detail: str | None) -> Page:
    if (path / TABLE).exists() or (path / SETTINGS).exists():
        return _page_of_sweep(read_sweep(path), audits, detail)
    if detail is not None:
        raise ReportError(
            f"--detail {detail}: {path} holds one run and is not a sweep. Leave --detail out."
        )
    if (path / AUDIT).exists():
        audits = [read_audit(path), *audits]
    elif not (path / FILE).exists():
        raise ReportError(
            f"{path} holds neither {FILE} nor {AUDIT} nor {TABLE}: give the folder of a run, an "
            "audit or a sweep that has finished."
        )
    return _page_of_run(read_run(path), audits)


def _page_of_run(run: Run, audits: list[Audit]) -> Page:
    return Page(
        title=f"A federated recommender on {run.data}",
        lead=explanations.lead_of_run(run),
        claim=claim.apply_audits(claim.claim_of_run(run), audits),
        cards=tuple(claim.cards(run, audits)),
        cards_of="",
        chapters=(
            Chapter("Privacy", "", (budget_section(run), *audit_sections(audits))),
            Chapter("Recommendations", "", tuple(run_sections(run, compared=False))),
        ),
        protocol=explanations.protocol(run),
        facts=facts_of(run),
        files=((CONFIG, run.config_text),),
        commands=(
            commands_of(["simulate", "--config", run.folder / CONFIG, "--out", "FOLDER"]),
            commands_of(["report", "FOLDER", "--out", "report.html"]),
        ),
    )


def _page_of_sweep(sweep: Sweep, audits: list[Audit], detail: str | None) -> Page:
    name = _choose_run(sweep, audits, detail)
    run, kinds = read_run(sweep.run_folder(name)), sweep.folder / KINDS
    compared = kinds_sections(read_document(kinds, Kinds, REMEDY)) if kinds.is_file() else []
    return Page(
        title=f"Privacy and utility on {run.data}",
        lead=explanations.lead_of_sweep(sweep, run),
        claim=claim.apply_audits(claim.claim_of_sweep(sweep, run), audits),
        cards=tuple(claim.cards(run, audits)),
        cards_of=f"Figures of the run {name}:",
        chapters=(
            *([Chapter("Kinds of model", "", tuple(compared))] if compared else []),
            Chapter("Utility against privacy", "", tuple(sweep_sections(sweep))),
            Chapter(
                "Privacy",
                f"This is the budget of the run {name}.",
                (budget_section(run), *audit_sections(audits)),
            ),
            Chapter(
                "Recommendations by user group",
                f"The rest is about one run of the sweep: {name}. --detail chooses another.",
                tuple(run_sections(run, compared=True)),
            ),
        ),
        protocol=explanations.protocol(run),
        facts=facts_of(run),
        files=((SETTINGS, sweep.settings), (f"{CONFIG} of {name}", run.config_text)),
        commands=(
            f"mkdir FOLDER && cp {shlex.quote(str(sweep.folder / SETTINGS))} FOLDER",
            commands_of(["sweep", "--out", "FOLDER"]),
            commands_of(["report", "FOLDER", "--out", "report.html"]),
        ),
    )


def _choose_run(sweep: Sweep, audits: list[Audit], requested: str | None) -> str:
    """Return the run to show in detail: as requested, or one at the audited or a middle ε."""
    if requested is not None:
        if requested not in sweep.runs:
            some = ", ".join(sweep.runs[:5])
            raise ReportError(
                f"--detail {requested}: there is no such finished run. There are {some}."
            )
        return requested
    private = sorted({row.epsilon for row in sweep.rows if math.isfinite(row.epsilon)})
    audited = [audit.epsilon for audit in audits if audit.epsilon is not None]
    target = audited[0] if audited else statistics.median_high(private) if private else math.inf
    nearest = min(private, key=lambda one: abs(one - target), default=math.inf)
    nearest_rows = [row for row in sweep.rows if row.epsilon == nearest]
    return min(nearest_rows, key=lambda row: row.seed).run
