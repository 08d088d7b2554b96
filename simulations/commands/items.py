"""sotto-lab items encode: features from items' texts, pictures, sounds, videos or relations."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import MofNCompleteColumn, Progress, TimeRemainingColumn

from shared.data.adaptable_text import MOST_TOKENS
from shared.data.catalogue import Catalogue
from shared.data.columns import ItemColumns
from shared.errors import ConfigError
from shared.item_features.encoder import Pooling
from shared.item_features.media_encoder import Modality
from shared.system.command_line import messages, output, write_json
from simulations.datasets.blocks import encode_media, encode_relations
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
            help="Encoder: a folder with config, tokenizer (of texts) or preprocessor, and "
            "safetensors weights, or a Hugging Face hub id.",
        ),
    ] = "",
    words: Annotated[
        bool,
        typer.Option(
            "--words", help="Use tf-idf of words, genres and decades, with or without --encoder."
        ),
    ] = False,
    modality: Annotated[
        Modality,
        typer.Option(help="What the encoder reads: texts, or the files that --column names."),
    ] = Modality.TEXT,
    column: Annotated[
        str,
        typer.Option(
            help="Column of items.* with the path of each item's picture, sound or video."
        ),
    ] = "",
    relations: Annotated[
        Path | None,
        typer.Option(help="Table of what is known of items: head, relation, tail. No encoder."),
    ] = None,
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
    tokens: Annotated[
        int,
        typer.Option(
            help="Tokens of a text that these blocks read at most, 8 to 32; fewer cost less time."
        ),
    ] = MOST_TOKENS,
    batch_size: Annotated[int, typer.Option(help="Texts encoded at a time.")] = 64,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    item_column: Annotated[str, typer.Option(help="Column of the items' ids.")] = "",
    title_column: Annotated[str, typer.Option(help="Column of the items' titles.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print the outcome as JSON.")] = False,
) -> None:
    """Compute item features, once, with a frozen encoder, tf-idf or a table of relations.

    Each call makes one block: of text, of one other modality, or of relations. A folder that
    holds other blocks of these items gets one more.

    For example: sotto-lab items encode --encoder models/minilm --data my-data --out catalogue
    """
    _check_one_way(relations, modality, column, encoder, words=words, pooling=pooling)
    encoding = Encoding(
        encoder=encoder,
        words=words or relations is not None,
        pooling=pooling,
        size=size,
        adaptable=adaptable,
        tokens=tokens,
        batch_size=batch_size,
        device=device,
    )
    default = ItemColumns()
    columns = ItemColumns(item=item_column or default.item, title=title_column or default.title)
    named = item_column or title_column
    items = load_items(data or EMBEDDED, columns if named else None)
    folder = data or EMBEDDED

    def run(progress: Callable[[int, int], None]) -> tuple[Catalogue, bool]:
        if relations is not None:
            return encode_relations(items, relations, size, out, progress)
        if modality is Modality.TEXT:
            return encode(items, encoding, out, progress)
        return encode_media(items, folder, encoding, modality, column, out, progress)

    catalogue, computed = _with_progress(run, "encoded" if relations is None else "pass")
    if as_json:
        record = {
            "folder": str(out),
            "made": computed,
            "items": len(catalogue),
            "fingerprint": catalogue.fingerprint,
            "source": catalogue.source and asdict(catalogue.source),
            "blocks": [asdict(block) for block in catalogue.blocks],
        }
        write_json(record)
        return
    state = "written to" if computed else "already in"
    about = "".join(f"{text}\n" for text in _about_blocks(catalogue))
    output.print(
        f"{len(catalogue):,} items with {catalogue.feature_size} features, {state} {out}\n{about}"
        f"fingerprint {catalogue.fingerprint}",
        soft_wrap=True,
    )
    output.print(f"Next: {_next(catalogue, data, out)}", soft_wrap=True, markup=False)


def _next(catalogue: Catalogue, data: Path | None, out: Path) -> str:
    """Return the command that trains over the catalogue, with the kind that it was made for."""
    parts = ["sotto-lab simulate", f"--catalogue {out}", "--epsilon 8 --delta 1e-5"]
    if data is not None:
        parts.insert(1, f"--data {data}")
    if (text := catalogue.text) is not None:
        parts.append(f"--set model.kind=text --set model.text_width={text.width}")
        parts.append(f"--set model.text_blocks={len(text.weights)}")
    return " ".join([*parts, "--out RUN"])


def _check_one_way(
    relations: Path | None,
    modality: Modality,
    column: str,
    encoder: str,
    *,
    words: bool,
    pooling: Pooling,
) -> None:
    """Refuse options that do not go together."""
    files = modality is not Modality.TEXT
    if relations is not None and (files or column or encoder or words):
        raise ConfigError(
            "--relations is a way of its own: give no encoder, words, column or modality with it."
        )
    if files and not (encoder and column):
        raise ConfigError(
            f"--modality {modality} needs --encoder, and --column of items.* with the files' paths."
        )
    if files and (words or pooling is not Pooling.MEAN):
        raise ConfigError(f"--words and --pooling are of texts, not of --modality {modality}.")
    if column and not files:
        raise ConfigError(f"--column {column}: say with --modality what its files are.")


def _about_blocks(catalogue: Catalogue) -> Iterator[str]:
    """Yield how many features of how many items each block has, if there are several."""
    if catalogue.blocks and catalogue.features is not None:
        parts = catalogue.features.split(catalogue.block_sizes, dim=1)
        for block, part in zip(catalogue.blocks, parts, strict=True):
            described = int(part.any(dim=1).sum())
            yield f"  {block.name}: {block.size} features of {described:,} items"


def _with_progress(
    run: Callable[[Callable[[int, int], None]], tuple[Catalogue, bool]], work: str
) -> tuple[Catalogue, bool]:
    """Encode with a progress bar on a terminal, or a line for each fifth in a log.

    Args:
        run: the work, which is given what reports its progress.
        work: its name in a log, before a number.
    """
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
                messages.print(f"{work} {done:,} of {of:,}")

        return run(progress)
