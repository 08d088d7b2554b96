"""Looks for planted texts in everything a federation sends, writes and prints."""

from __future__ import annotations

import base64
import struct
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from flwr.app import Context, Message, RecordDict

import client.app
from tests.flower_internals import (
    get_all_nested_objects,
    message_to_proto,
    remove_content_from_message,
)


def encodings(canary: str | int) -> dict[str, bytes]:
    """How a text or a number may look in a file."""
    texts = {"utf-8": str(canary).encode()}
    texts |= {name: str(canary).encode(name) for name in ("utf-16-le", "utf-16-be")}
    if isinstance(canary, int):
        texts |= {"int64": struct.pack("<q", canary), "float64": struct.pack("<d", canary)}
        texts |= {"int64, big": struct.pack(">q", canary)}
    found = dict(texts)
    for name, raw in texts.items():
        found |= {f"hex of {name}": raw.hex().encode()}
        found |= {f"HEX of {name}": raw.hex().upper().encode()}
        found |= {f"base64 of {name}, shifted by {n}": base64_at(raw, n) for n in range(3)}
    return found


def base64_at(raw: bytes, before: int) -> bytes:
    """The characters of base64 that stand for `raw` alone, `before` bytes after a multiple of 3."""
    whole = base64.b64encode(bytes(before) + raw)
    return whole[(before * 8 + 5) // 6 : (before + len(raw)) * 8 // 6]


def leaks(places: Mapping[str, bytes], canaries: Iterable[str | int]) -> set[tuple[str, str]]:
    """Each place that holds a canary, and the encoding that it has there."""
    return {
        (place, encoding)
        for canary in canaries
        for encoding, needle in encodings(canary).items()
        for place, content in places.items()
        if needle in content
    }


def files_below(folder: Path, *, without: Iterable[str]) -> dict[str, bytes]:
    """Every file and its own name's bytes, but those with a name in `without`."""
    return {
        str(file): str(file).encode() + b"\0" + file.read_bytes()
        for file in folder.rglob("*")
        if file.is_file() and file.name not in without
    }


@dataclass(frozen=True)
class Parcel:
    """One message, as the bytes that Flower puts on the wire.

    Attributes:
        direction: "to" or "from", a node.
        message: as it was sent.
        head: the message without its content, serialised.
        objects: the content: records, arrays and pieces of arrays, each once.
    """

    direction: str
    message: Message
    head: bytes
    objects: tuple[bytes, ...]

    @classmethod
    def of(cls, direction: str, message: Message) -> Parcel:
        """Takes the bytes; ids of messages are left out: Flower's are hashes, a test's are not."""
        head = message_to_proto(remove_content_from_message(message))
        head.metadata.message_id = head.metadata.reply_to_message_id = ""
        objects = get_all_nested_objects(message.content) if message.has_content() else {}
        deflated = tuple(found.deflate() for found in objects.values())
        return cls(direction, message, head.SerializeToString(), deflated)

    @property
    def raw(self) -> bytes:
        """All of it."""
        return b"\0".join((self.head, *self.objects))

    @property
    def sizes(self) -> tuple[int, list[int]]:
        """Length of the head, and of each object."""
        return len(self.head), sorted(map(len, self.objects))

    @property
    def keys(self) -> dict[str, list[str]]:
        """What stands in each record; of an error, its code."""
        if self.message.has_error():
            return {"error": [str(self.message.error.code)]}
        return {name: sorted(record) for name, record in self.message.content.items()}


def recorded(site: Path, parcels: list[Parcel]) -> Callable[[Message], Message]:
    """A real partner's node at `site`, overheard."""

    def answer(message: Message) -> Message:
        parcels.append(Parcel.of("to", message))
        reply = client.app.app(message, context(site))
        parcels.append(Parcel.of("from", reply))
        return reply

    return answer


def context(site: Path) -> Context:
    """What Flower hands to a real node: no word of a simulation."""
    return Context(
        run_id=1, node_id=1, node_config={"site": str(site)}, state=RecordDict(), run_config={}
    )
