"""Locate an encoder on disk or on the Hugging Face hub, check it, and fingerprint it.

| what is given                                      | what happens                              |
|----------------------------------------------------|-------------------------------------------|
| a folder                                           | used as it is, without a download         |
| a hub id, owner/name or name                       | downloaded, or taken from the hub's cache |
| a hub id that cannot be reached and is not cached  | refused, with how to get it               |
| anything else                                      | refused                                   |
| no config.json, no tokenizer (of texts) or         | refused, with what is missing             |
|   preprocessor (of pictures, of sound), no weights |                                           |
| weights only as pickle (.bin, .pt, .pth, .ckpt)    | refused: opening them can run code        |
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError

from shared.errors import DataError, FetchError

__all__ = ["EncoderFiles", "find_encoder"]

_HUB_ID = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")
_READ = ("*.json", "*.txt", "*.model", "*.safetensors")
_TOKENIZERS = ("tokenizer.json", "vocab.txt", "vocab.json", "*.model")
_PREPROCESSORS = ("preprocessor_config.json", "processor_config.json")
_PICKLES = (".bin", ".pt", ".pth", ".ckpt")


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderFiles:
    """An encoder's files on disk.

    Attributes:
        name: the hub id, or the folder's name.
        folder: where the files are.
        digest: SHA-256 in hex over the names and bytes of all files that are read.
    """

    name: str
    folder: Path
    digest: str


def find_encoder(encoder: str, *, of_text: bool = True) -> EncoderFiles:
    """Locate an encoder, and check that it is complete.

    Args:
        encoder: a folder or a hub id; a folder of this name takes precedence.
        of_text: whether it reads texts, and needs a tokenizer; else pictures or sound, and needs a
            preprocessor.

    Raises:
        DataError: the folder is not such an encoder with safetensors weights.
        FetchError: the hub cannot be reached, or has no such model.
    """
    folder = Path(encoder)
    if folder.is_dir():
        name = folder.resolve().name
    elif _HUB_ID.fullmatch(encoder) and not folder.exists():
        name, folder = encoder, _download(encoder)
    else:
        problem = "it is a file" if folder.exists() else "there is no such folder"
        remedy = "Give the folder of a Hugging Face encoder, or a hub id such as owner/name."
        raise DataError(problem, file=folder, field="encoder", remedy=remedy)
    _check(folder, of_text=of_text)
    return EncoderFiles(name=name, folder=folder, digest=_digest(folder))


def _download(encoder: str) -> Path:
    try:
        return Path(snapshot_download(encoder, allow_patterns=list(_READ), ignore_patterns="*/*"))
    except (OSError, ValueError, HfHubHTTPError) as fault:
        reason = str(fault).partition("\n")[0]
        raise FetchError(
            f"there is no folder '{encoder}', and the Hugging Face hub did not give a model of "
            f"that name ({reason}). Download it on a machine with a network (hf download {encoder} "
            "--local-dir FOLDER) and pass that folder."
        ) from fault


def _check(folder: Path, *, of_text: bool) -> None:
    needed = _TOKENIZERS if of_text else _PREPROCESSORS
    names = [path.name for path in folder.iterdir()]
    if "config.json" not in names:
        problem = "it holds no config.json, so it is no Hugging Face model"
        remedy = "Give the folder that `save_pretrained` or `hf download` wrote."
    elif not any(True for pattern in needed for _ in folder.glob(pattern)):
        part = "tokenizer" if of_text else "preprocessor"
        problem = f"it holds no {part} ({', '.join(needed)})"
        remedy = f"Save the model's {part} into the same folder."
    elif not any(name.endswith(".safetensors") for name in names):
        pickles = [name for name in names if name.endswith(_PICKLES)]
        only = f", only {pickles[0]}, a pickle: opening one can run code" if pickles else ""
        problem = f"it holds no weights in a .safetensors file{only}"
        remedy = "Save it anew with save_pretrained(..., safe_serialization=True), or give another."
    else:
        return
    raise DataError(problem, file=folder, field="encoder", remedy=remedy)


def _digest(folder: Path) -> str:
    files = sorted({path for pattern in _READ for path in folder.glob(pattern) if path.is_file()})
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            own = hashlib.file_digest(file, "sha256").hexdigest()
        digest.update(f"{path.name}\0{own}\n".encode())
    return digest.hexdigest()
