"""sotto-node outbox: every answer that ever left this site."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from client.commands.options import JsonOption, SiteOption, open_ledger, subcommand_follows
from client.ledger.outbox import BODIES_KEPT, SentAnswer, figures_of
from client.site.site import Site
from shared.errors import ConfigError
from shared.system.command_line import command_group, failed, messages, output, table_of, write_json

__all__ = ["outbox"]

_FAILED = "no arrays: the computation failed, and is not repeated"

outbox = command_group("Every answer that ever left this site.", runs_alone=True)


@outbox.callback()
def outbox_command(
    context: typer.Context, *, site: SiteOption = Path(), as_json: JsonOption = False
) -> None:
    """List every answer that ever left this site, with its arrays and its SHA-256."""
    if subcommand_follows(context):
        return
    sent = open_ledger(Site.load(site)).outbox()
    if as_json:
        write_json([asdict(answer) for answer in sent])
    elif sent:
        _print_answers(sent)
    else:
        output.print("No answer has left this site yet.")


@outbox.command("show")
def show_command(
    number: Annotated[int, typer.Argument(help="Number of the answer in the list.")],
    *,
    out: Annotated[
        Path | None, typer.Option(help="Write the bytes that left to this safetensors file.")
    ] = None,
    site: SiteOption = Path(),
    as_json: JsonOption = False,
) -> None:
    """Show the arrays of one answer; exit with 1 if its body is no longer kept."""
    ledger = open_ledger(Site.load(site))
    sent = {answer.number: answer for answer in ledger.outbox()}
    if number not in sent:
        raise ConfigError(
            f"no answer has the number {number}: sotto-node outbox lists the numbers."
        )
    body = ledger.sent_body(number)
    if body is not None and out is not None:
        _write(out, body)
    figures = {} if body is None else figures_of(body)
    if as_json:
        write_json(asdict(sent[number]) | {"figures": figures})
    else:
        _print_answer(sent[number], figures)
    if body is None:
        messages.print(
            f"The body of answer {number} is no longer kept: only the bodies of each run's last "
            f"{BODIES_KEPT} rounds are. A copy of it can be verified by its SHA-256.",
            soft_wrap=True,
        )
        failed()


def _write(file: Path, body: bytes) -> None:
    try:
        file.write_bytes(body)
    except OSError as error:
        raise ConfigError(f"--out {file}: cannot be written ({error.strerror}).") from error
    messages.print(f"{len(body):,} bytes written: {file}", soft_wrap=True)


def _print_answers(sent: Sequence[SentAnswer]) -> None:
    forms = {form: f"[{n}]" for n, form in enumerate(dict.fromkeys(s.arrays for s in sent), 1)}
    table = table_of("no.", "stored (UTC)", "run", "round", "kind", "bytes", "form", "SHA-256")
    for answer in sent:
        table.add_row(
            str(answer.number),
            answer.at[:16].replace("T", " "),
            Text(answer.run),
            str(answer.round),
            answer.kind,
            f"{answer.bytes:,}",
            Text(forms[answer.arrays]),
            answer.sha256[:8],
        )
    output.print(table)
    for form, name in forms.items():
        arrays = ", ".join(f"{array.name} {array.size_text}" for array in form) or _FAILED
        output.print(Text(f"{name} {arrays}"), soft_wrap=True)
    output.print(
        f"{len(sent)} answers, {sum(answer.bytes for answer in sent):,} bytes. If the node was "
        "stopped right after storing the last one, it may not have left.\n"
        "Next: sotto-node outbox show NUMBER shows the values of one answer.",
        soft_wrap=True,
    )


def _print_answer(answer: SentAnswer, figures: dict[str, dict[str, float]]) -> None:
    output.print(
        Text(
            f"Answer {answer.number}, {answer.kind} of round {answer.round}, run {answer.run}, "
            f"stored {answer.at}\n{answer.bytes:,} bytes, SHA-256 {answer.sha256}"
        ),
        soft_wrap=True,
    )
    if not answer.arrays:
        output.print(_FAILED)
    table = table_of("array", "type", "shape", "min", "mean", "max", "std")
    for array in answer.arrays:
        cells = [f"{value:.4g}" for value in figures.get(array.name, {}).values()]
        table.add_row(Text(array.name), array.dtype, array.size_text, *cells)
    output.print(table)
