"""sotto-lab report: reads a folder, and writes the page and its figures."""

from __future__ import annotations

import math
import shlex
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from shared.errors import ReportError
from shared.system.command_line import messages, write_json
from shared.system.files import atomic_replacement
from simulations.experiment.results import FILE
from simulations.report.figures.canvas import write_files
from simulations.report.page import Chapter, Page, commands_of, facts_of, rendered
from simulations.report.reading.audits import AUDIT, Audit, read_audit
from simulations.report.reading.runs import CONFIG, Run, read_run
from simulations.report.reading.sweeps import SETTINGS, TABLE, Sweep, read_sweep
from simulations.report.words import claim, texts
from simulations.report.words.privacy_sections import audit_sections, budget_section
from simulations.report.words.user_sections import run_sections, sweep_sections

__all__ = ["Written", "report", "report_command"]


@dataclass(frozen=True, slots=True)
class Written:
    """What a report consists of.

    Attributes:
        page: the HTML file.
        figures: SVG and PNG files.
    """

    page: Path
    figures: tuple[Path, ...]


def report_command(
    path: Annotated[Path, typer.Argument(help="Folder of a run, an audit or a sweep.")],
    *,
    out: Annotated[Path, typer.Option(help="HTML file to write.")],
    audit: Annotated[
        list[Path] | None, typer.Option(help="Folder of an audit to add. May be repeated.")
    ] = None,
    figures: Annotated[
        Path | None, typer.Option(help="Folder for each figure as SVG and PNG.")
    ] = None,
    detail: Annotated[
        str | None, typer.Option(help="Run of a sweep to look into; by default a middle one.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was written.")] = False,
) -> None:
    """Write one page that shows what was claimed, what it gives and who gains; it needs no network.

    PATH is what simulate, audit or sweep wrote. For example:

    sotto-lab report runs/demo --out demo.html --figures figures
    """
    written = report(path, out, audits=audit or [], figures=figures, detail=detail)
    if as_json:
        write_json({"page": str(written.page), "figures": [str(file) for file in written.figures]})
        return
    some = f", and {len(written.figures)} figures to {figures}" if figures else ""
    messages.print(f"Written to {written.page}{some}. Open it in a browser.", soft_wrap=True)


def report(
    path: Path,
    out: Path,
    *,
    audits: list[Path],
    figures: Path | None = None,
    detail: str | None = None,
) -> Written:
    """Writes the page, and the figures if a folder for them is given.

    Args:
        path: folder of a run, an audit or a sweep.
        out: the page; an older one is replaced.
        audits: folders of further audits.
        figures: made if it is not there.
        detail: name of the sweep's run to look into.

    Raises:
        ReportError: something cannot be read, or not be written.
    """
    page = _page(path, audits, detail)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with atomic_replacement(out) as temporary:
            temporary.write_text(rendered(page), encoding="utf-8")
        if figures is None:
            return Written(out, ())
        figures.mkdir(parents=True, exist_ok=True)
        return Written(out, tuple(f for p in page.pictures for f in write_files(p, figures)))
    except OSError as error:
        name = error.filename or out
        raise ReportError(f"{name} cannot be written ({error.strerror}): check --out.") from error


def _page(path: Path, others: list[Path], detail: str | None) -> Page:
    audits = [read_audit(folder) for folder in others]
    if (path / TABLE).exists() or (path / SETTINGS).exists():
        return _page_of_sweep(read_sweep(path), audits, detail)
    if detail is not None:
        raise ReportError(
            f"--detail {detail}: {path} is no sweep, so there is one run: leave it out."
        )
    if (path / AUDIT).exists():
        audits = [read_audit(path), *audits]
    elif not (path / FILE).exists():
        raise ReportError(
            f"{path} holds neither {FILE} nor {AUDIT} nor {TABLE}: give the folder of a run, an "
            "audit or a sweep that has ended."
        )
    return _page_of_run(read_run(path), audits)


def _page_of_run(run: Run, audits: list[Audit]) -> Page:
    return Page(
        title=f"A federated recommender on {run.data}",
        lead=texts.lead_of_run(run),
        claim=claim.contradicted(claim.claim_of_run(run), audits),
        cards=tuple(claim.cards(run, audits)),
        cards_of="",
        chapters=(
            Chapter("Privacy", "", (budget_section(run), *audit_sections(audits))),
            Chapter("Recommendations", "", tuple(run_sections(run, compared=False))),
        ),
        protocol=texts.protocol(run),
        facts=facts_of(run),
        files=((CONFIG, run.config_text),),
        commands=(
            commands_of(["simulate", "--config", run.folder / CONFIG, "--out", "FOLDER"]),
            commands_of(["report", "FOLDER", "--out", "report.html"]),
        ),
    )


def _page_of_sweep(sweep: Sweep, audits: list[Audit], detail: str | None) -> Page:
    name = _detail(sweep, audits, detail)
    run = read_run(sweep.run_folder(name))
    return Page(
        title=f"Privacy and utility on {run.data}",
        lead=texts.lead_of_sweep(sweep, run),
        claim=claim.contradicted(claim.claim_of_sweep(sweep, run), audits),
        cards=tuple(claim.cards(run, audits)),
        cards_of=f"Of the run {name}:",
        chapters=(
            Chapter("Utility against privacy", "", tuple(sweep_sections(sweep))),
            Chapter(
                "Privacy",
                f"The budget is that of the run {name}.",
                (budget_section(run), *audit_sections(audits)),
            ),
            Chapter(
                "Who is served",
                f"From here on, one run of the sweep: {name}. Another is chosen with --detail.",
                tuple(run_sections(run, compared=True)),
            ),
        ),
        protocol=texts.protocol(run),
        facts=facts_of(run),
        files=((SETTINGS, sweep.settings), (f"{CONFIG} of {name}", run.config_text)),
        commands=(
            f"mkdir FOLDER && cp {shlex.quote(str(sweep.folder / SETTINGS))} FOLDER",
            commands_of(["sweep", "--out", "FOLDER"]),
            commands_of(["report", "FOLDER", "--out", "report.html"]),
        ),
    )


def _detail(sweep: Sweep, audits: list[Audit], wanted: str | None) -> str:
    """The run to look into: the one that was asked for, or one of the audited or a middle ε."""
    if wanted is not None:
        if wanted not in sweep.runs:
            some = ", ".join(sweep.runs[:5])
            raise ReportError(f"--detail {wanted}: no such run has ended. There are {some}.")
        return wanted
    private = sorted({row.epsilon for row in sweep.rows if math.isfinite(row.epsilon)})
    audited = [audit.epsilon for audit in audits if audit.epsilon is not None]
    wished = audited[0] if audited else statistics.median_high(private) if private else math.inf
    nearest = min(private, key=lambda one: abs(one - wished), default=math.inf)
    fitting = [row for row in sweep.rows if row.epsilon == nearest]
    return min(fitting, key=lambda row: row.seed).run
