"""The form of a message: fields and arrays in Flower's records.

The only file that names a record. What a message says is in `shared.messages`.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any, get_type_hints

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict
from numpy.typing import NDArray

from shared.errors import WireError

__all__ = [
    "ARRAYS",
    "FIELDS",
    "MESSAGE",
    "STEP",
    "Arrays",
    "array_bytes",
    "field_types",
    "has_field",
    "only_records",
    "pack",
    "pack_step",
    "read_bytes",
    "read_fields",
    "read_weights",
    "step_asked",
    "without_step",
]

Arrays = dict[str, NDArray[np.float32]]
"""Float32 arrays by name."""
ARRAYS, FIELDS = "weights", "fields"
STEP, MESSAGE = "step", "message"
"""Records of a step of secure aggregation, beside those of the request whose answers are summed."""
_HEADER = 1000
"""Most bytes beside an array's own in the form that it is sent in."""


def pack(fields: Mapping[str, Any] | None, weights: Arrays | None = None) -> RecordDict:
    """Return fields and arrays as Flower's records; None leaves that record out."""
    content = RecordDict()
    if weights is not None:
        content[ARRAYS] = ArrayRecord({name: Array(value) for name, value in weights.items()})
    if fields is not None:
        content[FIELDS] = ConfigRecord(dict(fields))
    return content


def pack_step(
    fields: Mapping[str, Any] | None, message: bytes, request: RecordDict | None = None
) -> RecordDict:
    """Return a step of secure aggregation as Flower's records.

    Args:
        fields: of the step; None leaves that record out.
        message: travels as an array of bytes, which Flower sends in parts.
        request: whose answers are summed; None leaves its records out.
    """
    content = RecordDict()
    if fields is not None:
        content[STEP] = ConfigRecord(dict(fields))
    content[MESSAGE] = ArrayRecord({MESSAGE: Array(np.frombuffer(message, np.uint8))})
    for name, record in (request or {}).items():
        content[name] = record
    return content


def step_asked(content: RecordDict) -> int:
    """Return the step that a message asks for, before it is checked; 0 where it names none."""
    record = content.config_records.get(STEP)
    step = None if record is None else record.get("step")
    return step if isinstance(step, int) else 0


def without_step(content: RecordDict) -> RecordDict:
    """Return the records of the request that came with a step; none where none came."""
    request = RecordDict()
    for name, record in content.items():
        if name not in (STEP, MESSAGE):
            request[name] = record
    return request


def only_records(content: RecordDict, *names: str) -> RecordDict:
    """Return the content; raises WireError unless it has these records and no others."""
    if sorted(content) != sorted(names):
        raise WireError(f"the message holds {sorted(content)}, not {sorted(names)} alone.")
    return content


def has_field(content: RecordDict, name: str) -> bool:
    """Return whether the fields hold one of this name."""
    return name in content.config_records.get(FIELDS, {})


def read_fields(
    content: RecordDict, kinds: Mapping[str, type], name: str = FIELDS
) -> dict[str, Any]:
    """Return a record's fields; raises WireError unless they have these names and types."""
    record = content.config_records.get(name)
    if record is None:
        raise WireError(f"the message has no '{name}'.")
    if set(record) != set(kinds):
        odd = sorted(set(record) ^ set(kinds))
        raise WireError(f"the message's fields differ from the protocol's in {odd}.")
    for field, kind in kinds.items():
        if type(record[field]) is not kind:
            kind_sent = type(record[field]).__name__
            raise WireError(f"field '{field}' is {kind_sent}, not {kind.__name__}.")
    return dict(record)


def read_weights(content: RecordDict) -> Arrays:
    """Return the arrays by name; raises WireError for one that is not a float32 array."""
    record = content.array_records.get(ARRAYS)
    if record is None:
        raise WireError(f"the message has no '{ARRAYS}'.")
    weights: Arrays = {}
    for name, array in record.items():
        value = _read_array(name, array)
        if value.dtype != np.float32:
            raise WireError(f"array {name!r} is {value.dtype}, not float32.")
        weights[name] = value
    return weights


def read_bytes(content: RecordDict, most: int) -> bytes:
    """Return the message of a step; raises WireError unless it is at most `most` bytes, alone."""
    record = content.array_records.get(MESSAGE)
    if record is None:
        raise WireError(f"the message has no '{MESSAGE}'.")
    if set(record) != {MESSAGE}:
        raise WireError(f"a step holds {sorted(record)[:3]}, not one '{MESSAGE}' alone.")
    array = record[MESSAGE]
    if len(array.data) > most + _HEADER:
        raise WireError(f"a step's message has {len(array.data)} bytes; {most} are the most.")
    value = _read_array(MESSAGE, array)
    if value.dtype != np.uint8 or value.ndim != 1 or value.size > most:
        raise WireError(
            f"a step's message is {value.dtype} {value.shape}, not at most {most} bytes."
        )
    return value.tobytes()


def _read_array(name: str, array: Array) -> NDArray[Any]:
    try:
        value = array.numpy()
    except Exception as error:  # the bytes are the other side's: anything may be in them
        raise WireError(f"array {name!r} cannot be read.") from error
    if not isinstance(value, np.ndarray):  # a zip archive is read as a mapping
        raise WireError(f"array {name!r} is not an array.")
    return value


def array_bytes(content: RecordDict) -> int:
    """Return the bytes of all arrays."""
    records = content.array_records.values()
    return sum(len(array.data) for record in records for array in record.values())


def field_types(cls: type) -> dict[str, type]:
    """Return the type of each plain field on the wire, in the order of the wire.

    A message's own fields come before those of the class that it extends. A StrEnum is a text.
    """
    types: dict[str, type] = {}
    hints = get_type_hints(cls)
    for name in (name for part in cls.__mro__ for name in vars(part).get("__annotations__", ())):
        kind = str if _is_choice(hints[name]) else hints[name]
        if kind in (int, float, str):
            types[name] = kind
    return types


def _is_choice(kind: object) -> bool:
    return isinstance(kind, type) and issubclass(kind, StrEnum)
