"""sotto-lab report: read a folder, and write the page and its figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from shared.errors import ReportError
from shared.system.command_line import messages, write_json
from shared.system.files import atomic_replacement
from simulations.report.figures.canvas import write_files
from simulations.report.page import render
from simulations.report.pages import page_of

__all__ = ["ReportFiles", "report", "report_command"]


@dataclass(frozen=True, slots=True)
class ReportFiles:
    """The files of a report.

    Attributes:
        page: the HTML file.
        figures: SVG and PNG files.
    """

    page: Path
    figures: tuple[Path, ...]


def report_command(  # noqa: PLR0913 each is an option
    path: Annotated[Path, typer.Argument(help="Folder of a run, an audit or a sweep.")],
    *,
    out: Annotated[Path, typer.Option(help="HTML file to write.")],
    audit: Annotated[
        list[Path] | None, typer.Option(help="Folder of an audit to add. Repeatable.")
    ] = None,
    attack: Annotated[
        list[Path] | None,
        typer.Option(help="Folder of an attack by crafted histories to add. Repeatable."),
    ] = None,
    curves: Annotated[
        list[Path] | None,
        typer.Option(help="Folder that fairness or rerank wrote, to add. Repeatable."),
    ] = None,
    figures: Annotated[
        Path | None, typer.Option(help="Folder for each figure as SVG and PNG.")
    ] = None,
    detail: Annotated[
        str | None,
        typer.Option(
            help="Run of a sweep to show in detail; default: at the audited or a middle ε."
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the names of the files as JSON.")
    ] = False,
) -> None:
    """Write one HTML page: the privacy claim, its evidence, and how good the recommendations are.

    PATH is a folder that simulate, audit or sweep wrote. The page needs no network. For example:

    sotto-lab report runs/demo --out demo.html --figures figures
    """
    written = report(
        *(path, out),
        audits=audit or [],
        attacks=attack or [],
        curves=curves or [],
        figures=figures,
        detail=detail,
    )
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
    attacks: Sequence[Path] = (),
    curves: Sequence[Path] = (),
    figures: Path | None = None,
    detail: str | None = None,
) -> ReportFiles:
    """Write the page, and the figures if a folder for them is given.

    Args:
        path: folder of a run, an audit or a sweep.
        out: the page; an older one is replaced.
        audits: folders of further audits.
        attacks: folders of attacks by crafted histories.
        curves: folders with a curves.json.
        figures: folder for SVG and PNG files; created if absent.
        detail: name of the sweep's run to show in detail.

    Raises:
        ReportError: a file cannot be read or written.
    """
    page = page_of(path, audits, detail, attacks=attacks, curves=curves)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with atomic_replacement(out) as temporary:
            temporary.write_text(render(page), encoding="utf-8")
        if figures is None:
            return ReportFiles(out, ())
        figures.mkdir(parents=True, exist_ok=True)
        return ReportFiles(out, tuple(f for p in page.pictures for f in write_files(p, figures)))
    except OSError as error:
        name = error.filename or out
        raise ReportError(f"{name} cannot be written ({error.strerror}): check --out.") from error
