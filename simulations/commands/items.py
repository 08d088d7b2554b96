"""sotto-lab items encode: turn the items' text into features."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import MofNCompleteColumn, Progress, TimeRemainingColumn

from shared.data.catalogue import Catalogue
from shared.data.columns import ItemColumns
from shared.item_features.encoder import Pooling
from shared.system.command_line import messages, output, write_json
from simulations.datasets.encode import Encoding, encode
from simulations.datasets.load import EMBEDDED, load_items

__all__ = ["encode_command"]


def encode_command(  # noqa: PLR0913 each is a command-line option
    *,
    out: Annotated[Path, typer.Option(help="Folder for the catalogue with its features.")],
    data: Annotated[
        Path | None,
        typer.Option(
            help="Folder with items.* (CSV or Parquet), or MovieLens's movies.*; interactions are "
            "not needed. Without it: the embedded MovieLens latest-small.",
        ),
    ] = None,
    encoder: Annotated[
        str,
        typer.Option(
            metavar="FOLDER | HUB-ID",
            help="Text encoder: a folder with config, tokenizer and safetensors weights, or a "
            "Hugging Face hub id.",
        ),
    ] = "",
    words: Annotated[
        bool,
        typer.Option(
            "--words", help="Use tf-idf of words, genres and decades, with or without --encoder."
        ),
    ] = False,
    pooling: Annotated[
        Pooling, typer.Option(help="How token vectors become one vector.")
    ] = Pooling.MEAN,
    size: Annotated[int, typer.Option(help="Features of an item.")] = 256,
    adaptable: Annotated[
        int,
        typer.Option(
            metavar="BLOCKS",
            help='How many of the encoder\'s last blocks the kind "text" may adapt; their weights '
            "and the texts' states before them are written, too.",
        ),
    ] = 0,
    batch_size: Annotated[int, typer.Option(help="Texts encoded at a time.")] = 64,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    item_column: Annotated[str, typer.Option(help="Column of the items' ids.")] = "",
    title_column: Annotated[str, typer.Option(help="Column of the items' titles.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print the outcome as JSON.")] = False,
) -> None:
    """Compute item features from text, once, with a frozen encoder or tf-idf.

    For example: sotto-lab items encode --encoder models/minilm --data my-data --out catalogue
    """
    encoding = Encoding(
        encoder=encoder,
        words=words,
        pooling=pooling,
        size=size,
        adaptable=adaptable,
        batch_size=batch_size,
        device=device,
    )
    default = ItemColumns()
    columns = ItemColumns(item=item_column or default.item, title=title_column or default.title)
    named = item_column or title_column
    items = load_items(data or EMBEDDED, columns if named else None)
    catalogue, computed = _encode_with_progress(items, encoding, out)
    if as_json:
        record = {
            "folder": str(out),
            "made": computed,
            "items": len(catalogue),
            "fingerprint": catalogue.fingerprint,
            "source": catalogue.source and asdict(catalogue.source),
        }
        write_json(record)
        return
    state = "written to" if computed else "already in"
    output.print(
        f"{len(catalogue):,} items with {catalogue.feature_size} features, {state} {out}\n"
        f"fingerprint {catalogue.fingerprint}",
        soft_wrap=True,
    )


def _encode_with_progress(
    items: Catalogue, encoding: Encoding, out: Path
) -> tuple[Catalogue, bool]:
    """Encode with a progress bar on a terminal, or a line for each fifth in a log."""
    import transformers  # noqa: PLC0415 takes seconds

    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    columns = (*Progress.get_default_columns()[:2], MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=messages, disable=not messages.is_terminal) as bars:
        task = bars.add_task("encoding", total=None)
        reported = 0

        def progress(done: int, of: int) -> None:
            nonlocal reported
            bars.update(task, completed=done, total=of)
            if not messages.is_terminal and done * 5 // of > reported:
                reported = done * 5 // of
                messages.print(f"encoded {done:,} of {of:,} texts")

        return encode(items, encoding, out, progress)
