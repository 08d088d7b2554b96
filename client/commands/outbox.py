"""sotto-node outbox: everything that ever left this site."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray
from rich.text import Text
from safetensors.numpy import load

from client.commands.options import JsonOption, SiteOption, no_options_before, opened
from client.ledger.outbox import BODIES_KEPT, ArrayForm, SentAnswer
from client.site.site import Site
from shared.errors import ConfigError
from shared.system.command_line import command_group, failed, messages, output, table_of, write_json

__all__ = ["outbox"]

outbox = command_group("Everything that ever left this site.", alone=True)


@outbox.callback()
def outbox_command(
    context: typer.Context, *, site: SiteOption = Path(), as_json: JsonOption = False
) -> None:
    """Everything that ever left this site: each answer, its arrays and its SHA-256."""
    if no_options_before(context):
        return
    sent = opened(Site.load(site)).outbox()
    if as_json:
        write_json([asdict(answer) for answer in sent])
    elif sent:
        _tell(sent)
    else:
        output.print("Nothing ever left.")


@outbox.command("show")
def show_command(
    number: Annotated[int, typer.Argument(help="Of the answer, as the list has it.")],
    *,
    out: Annotated[
        Path | None, typer.Option(help="Write the bytes that left, a safetensors file.")
    ] = None,
    site: SiteOption = Path(),
    as_json: JsonOption = False,
) -> None:
    """What is in one answer; exit 1 where its body is no longer kept."""
    ledger = opened(Site.load(site))
    sent = {answer.number: answer for answer in ledger.outbox()}
    if number not in sent:
        raise ConfigError(f"no answer has the number {number}: sotto-node outbox lists them.")
    body = ledger.sent_body(number)
    if body is not None and out is not None:
        _write(out, body)
    arrays = {} if body is None else load(body)
    figures = {name: _figures(arrays[name]) for name in sorted(arrays)}
    if as_json:
        write_json(asdict(sent[number]) | {"figures": figures})
    else:
        _tell_one(sent[number], figures)
    if body is None:
        messages.print(
            f"The body of answer {number} is no longer kept: only those of the last {BODIES_KEPT} "
            "rounds of each run are. What it was can be proven by its SHA-256.",
            soft_wrap=True,
        )
        failed()


def _write(file: Path, body: bytes) -> None:
    try:
        file.write_bytes(body)
    except OSError as error:
        raise ConfigError(f"--out {file}: cannot be written ({error.strerror}).") from error
    messages.print(f"{len(body):,} bytes written: {file}", soft_wrap=True)


def _figures(array: NDArray[Any]) -> dict[str, float]:
    """Of what has left already, noise included."""
    if not array.size:
        return {}
    values = array.astype(np.float64)
    return {
        "least": float(values.min()),
        "mean": float(values.mean()),
        "most": float(values.max()),
        "deviation": float(values.std()),
    }


def _tell(sent: Sequence[SentAnswer]) -> None:
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
        arrays = ", ".join(f"{array.name} {_shape(array)}" for array in form)
        output.print(Text(f"{name} {arrays}"), soft_wrap=True)
    output.print(
        f"{len(sent)} answers, {sum(answer.bytes for answer in sent):,} bytes. The last may have "
        "been stored without leaving, if the node was stopped in between."
    )


def _tell_one(answer: SentAnswer, figures: dict[str, dict[str, float]]) -> None:
    output.print(
        Text(
            f"Answer {answer.number}, {answer.kind} of round {answer.round}, run {answer.run}, "
            f"stored {answer.at}\n{answer.bytes:,} bytes, SHA-256 {answer.sha256}"
        ),
        soft_wrap=True,
    )
    table = table_of("array", "type", "shape", "least", "mean", "most", "deviation")
    for array in answer.arrays:
        cells = [f"{value:.4g}" for value in figures.get(array.name, {}).values()]
        table.add_row(Text(array.name), array.dtype, _shape(array), *cells)
    output.print(table)


def _shape(array: ArrayForm) -> str:
    return "×".join(map(str, array.shape)) or "scalar"
