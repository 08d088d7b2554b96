"""Item features for a catalogue, computed once and handed to everybody with it.

`sotto-lab items encode` writes them, and a simulation reads them (`lab.catalogue`).

| what --out holds                                           | what happens                      |
|------------------------------------------------------------|-----------------------------------|
| nothing, or it does not exist                              | encoded, and written there        |
| features of these items, made in the same way              | nothing to do                     |
| anything else                                              | refused: a federation may use it  |
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import torch
import transformers
import typer
from rich.progress import MofNCompleteColumn, Progress, TimeRemainingColumn

from shared.data.catalogue import Catalogue, ItemColumns
from shared.data.feature_source import FeatureSource
from shared.errors import ConfigError, DataError
from shared.item_features.encoder import TEMPLATE, Pooling, TextEncoder, encoded_features
from shared.item_features.encoder_source import EncoderFiles, find_encoder
from shared.item_features.tfidf import text_features
from shared.system.command_line import messages, output, write_json
from simulations.datasets.datasets import EMBEDDED, load_items

__all__ = ["Encoding", "encode", "encode_command"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoding:
    """How features are to be made.

    Attributes:
        encoder: folder or hub id of a text encoder; "" for none.
        words: whether to use tf-idf of words, genres and decades, alone or besides the encoder.
        pooling: how the encoder's tokens become one vector.
        size: directions F, >= 1.
        batch_size: items encoded at a time, >= 1.
        device: "auto", "cpu", "cuda" or "cuda:N".

    Raises:
        ConfigError: a field is out of range, or there is nothing to make features of.
    """

    encoder: str = ""
    words: bool = False
    pooling: Pooling = Pooling.MEAN
    size: int = 256
    batch_size: int = 64
    device: str = "auto"

    def __post_init__(self) -> None:
        for option, value in (("--size", self.size), ("--batch-size", self.batch_size)):
            if value < 1:
                raise ConfigError(f"{option} {value}: choose a whole number >= 1.")
        if not (self.encoder or self.words):
            raise ConfigError("nothing to make features of: give --encoder, --words, or both.")

    def torch_device(self) -> torch.device:
        """Where to encode; "auto" takes a GPU where there is one.

        Raises:
            ConfigError: there is no such device.
        """
        name = self.device
        if name == "auto":
            name = "cuda" if torch.cuda.is_available() else "cpu"
        try:
            return torch.zeros(1, device=name).device
        except (AssertionError, RuntimeError) as fault:
            raise ConfigError(f"--device {name} is not there: choose auto or cpu.") from fault


def encode(
    items: Catalogue,
    wanted: Encoding,
    out: Path,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Catalogue, bool]:
    """Write the items with their features into `out`; see the table on top of this module.

    Args:
        items: what to describe; their features, if any, are left out.
        wanted: how.
        out: the folder.
        progress: called with the texts encoded and in all.

    Returns:
        The catalogue, and whether anything had to be done.

    Raises:
        DataError: the encoder is not one.
        FetchError: the encoder is neither a folder nor to be had from the hub.
        ConfigError: there is no such device, or `out` holds something else.
    """
    files = find_encoder(wanted.encoder) if wanted.encoder else None
    source = _source(wanted, files)
    if (stored := _stored(out)) is not None:
        _check_same(stored, items, source, out)
        return stored, False
    if files is None:
        features = text_features(items, wanted.size)
    else:
        features = encoded_features(
            items,
            TextEncoder(files, pooling=wanted.pooling, device=wanted.torch_device()),
            wanted.size,
            words=wanted.words,
            batch_size=wanted.batch_size,
            progress=progress,
        )
    catalogue = items.with_features(features, source)
    catalogue.save(out)
    return catalogue, True


def _source(wanted: Encoding, files: EncoderFiles | None) -> FeatureSource:
    return FeatureSource(
        encoder="" if files is None else files.name,
        digest="" if files is None else files.digest,
        pooling="" if files is None else str(wanted.pooling),
        words=wanted.words,
        size=wanted.size,
        template=TEMPLATE,
        transformers=transformers.__version__,
    )


def _stored(out: Path) -> Catalogue | None:
    """What is there already; None for an empty folder."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return None
    try:
        return Catalogue.load(out)
    except DataError as error:
        raise ConfigError(
            f"{out} is neither empty nor a catalogue ({error.problem}): name another with --out, "
            "or remove it."
        ) from error


def _check_same(stored: Catalogue, items: Catalogue, source: FeatureSource, out: Path) -> None:
    if stored.without_features().fingerprint != items.without_features().fingerprint:
        other = "other items"
    elif stored.source is None:
        other = "a catalogue that was not made by this command"
    else:
        was, now = asdict(stored.source), asdict(source)
        # The same files under another name are the same encoder.
        other = ", ".join(
            f"{key} {was[key]}" for key in now if was[key] != now[key] and key != "encoder"
        )
        other = other and f"features made with {other}"
    if other:
        raise ConfigError(
            f"{out} holds {other}: name another folder with --out, or remove it if no federation "
            "uses it."
        )


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
        bool, typer.Option("--words", help="Use tf-idf of words, genres and decades too, or alone.")
    ] = False,
    pooling: Annotated[Pooling, typer.Option(help="Of a text's tokens.")] = Pooling.MEAN,
    size: Annotated[int, typer.Option(help="Features an item.")] = 256,
    batch_size: Annotated[int, typer.Option(help="Texts encoded at a time.")] = 64,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    item_column: Annotated[str, typer.Option(help="Column of the items' ids.")] = "",
    title_column: Annotated[str, typer.Option(help="Column of the items' titles.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print what was made as data.")] = False,
) -> None:
    """Turn item text into features, once, with a frozen encoder.

    For example: sotto-lab items encode --encoder models/minilm --data my-data --out catalogue
    """
    wanted = Encoding(
        encoder=encoder,
        words=words,
        pooling=pooling,
        size=size,
        batch_size=batch_size,
        device=device,
    )
    default = ItemColumns()
    columns = ItemColumns(item=item_column or default.item, title=title_column or default.title)
    named = item_column or title_column
    items = load_items(data or EMBEDDED, columns if named else None)
    catalogue, made = _encode_visibly(items, wanted, out)
    if as_json:
        record = {
            "folder": str(out),
            "made": made,
            "items": len(catalogue),
            "fingerprint": catalogue.fingerprint,
            "source": catalogue.source and asdict(catalogue.source),
        }
        write_json(record)
        return
    told = "written to" if made else "already in"
    output.print(
        f"{len(catalogue):,} items with {catalogue.feature_size} features, {told} {out}\n"
        f"fingerprint {catalogue.fingerprint}",
        soft_wrap=True,
    )


def _encode_visibly(items: Catalogue, wanted: Encoding, out: Path) -> tuple[Catalogue, bool]:
    """A bar on a terminal, lines in a log."""
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    columns = (*Progress.get_default_columns()[:2], MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=messages, disable=not messages.is_terminal) as bars:
        task = bars.add_task("encoding", total=None)
        told = 0

        def progress(done: int, of: int) -> None:
            nonlocal told
            bars.update(task, completed=done, total=of)
            if not messages.is_terminal and done * 5 // of > told:
                told = done * 5 // of
                messages.print(f"encoded {done:,} of {of:,} texts")

        return encode(items, wanted, out, progress)
