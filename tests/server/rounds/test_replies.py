from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict
from hypothesis import given, settings
from hypothesis import strategies as st

from server.rounds.replies import checked_change
from shared.errors import ReplyError
from shared.messages import TRAIN, TrainReply, Weights, refusal_reply
from shared.outcomes import Outcome, Refusal

LIKE: Weights = {"a": np.zeros((2, 3), np.float32), "b": np.zeros(4, np.float32)}
GOOD: Weights = {
    "a": np.arange(6, dtype=np.float32).reshape(2, 3),
    "b": np.array([1.0, -2.0, 0.5, 0.0], np.float32),
}
LENGTH = float(np.sqrt(sum((value.astype(np.float64) ** 2).sum() for value in GOOD.values())))
HOSTILE = "user7 likes item 13\x1b[2J"


def request() -> Message:
    return Message(RecordDict(), 1, TRAIN)


def reply(change: Weights) -> Message:
    return Message(TrainReply(change=change).to_content(), reply_to=request())


def check(message: Message, max_norm: float = 100.0) -> Weights:
    return checked_change(message, like=LIKE, max_norm=max_norm)


def test_a_good_change_is_let_through_as_it_is() -> None:
    change = check(reply(GOOD))
    assert set(change) == set(GOOD)
    for name, value in GOOD.items():
        assert change[name].dtype == np.float32
        np.testing.assert_array_equal(change[name], value)


def test_no_change_at_all_is_a_change() -> None:
    assert not any(value.any() for value in check(reply(LIKE)).values())


# --- values ------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["a", "b"])
def test_a_value_that_is_not_finite_is_refused(name: str, value: float) -> None:
    change = {key: array.copy() for key, array in GOOD.items()}
    change[name].flat[-1] = value
    with pytest.raises(ReplyError, match=f"'{name}' holds values that are not finite"):
        check(reply(change))


def test_the_length_over_all_weights_counts() -> None:
    assert check(reply(GOOD), max_norm=LENGTH + 1e-6)
    with pytest.raises(ReplyError, match=r"has norm 7\.76; server\.max_update_norm is 7$"):
        check(reply(GOOD), max_norm=7)


def test_a_length_beyond_float32_is_still_a_length() -> None:
    change = GOOD | {"b": np.full(4, 3e38, np.float32)}
    with pytest.raises(ReplyError, match=r"has norm 6e\+38"):
        check(reply(change), max_norm=1e4)


@settings(max_examples=50, deadline=None)
@given(st.floats(0, 1e6, width=32), st.floats(1e-6, 1e6))
def test_nothing_longer_than_the_limit_passes(size: float, limit: float) -> None:
    change = LIKE | {"b": np.array([size, 0, 0, 0], np.float32)}
    if size <= limit:
        assert check(reply(change), max_norm=limit)
    else:
        with pytest.raises(ReplyError, match="norm"):
            check(reply(change), max_norm=limit)


# --- names, shapes and types -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "odd"),
    [
        ({"a": GOOD["a"]}, "'b'"),
        (GOOD | {"c": GOOD["b"]}, "'c'"),
        ({"a": GOOD["a"], "B": GOOD["b"]}, "'B', 'b'"),
        ({}, "'a', 'b'"),
    ],
    ids=["missing", "more", "renamed", "none"],
)
def test_other_names_are_refused(change: Weights, odd: str) -> None:
    with pytest.raises(ReplyError, match=rf"differ from the model's in \[{odd}\]"):
        check(reply(change))


@pytest.mark.parametrize(
    "value",
    [
        np.ones(1, np.float32),  # NumPy would add it to every weight
        np.ones((), np.float32),
        np.ones((1, 4), np.float32),
        np.ones(5, np.float32),
        np.ones(0, np.float32),
    ],
    ids=["one value", "a scalar", "another rank", "one too many", "empty"],
)
def test_another_shape_is_refused(value: np.ndarray[Any, np.dtype[np.float32]]) -> None:
    with pytest.raises(ReplyError, match=r"'b' has shape \(.*\), not \(4,\)"):
        check(reply(GOOD | {"b": value}))


def test_a_turned_matrix_is_refused() -> None:
    with pytest.raises(ReplyError, match=r"'a' has shape \(3, 2\), not \(2, 3\)"):
        check(reply(GOOD | {"a": np.ascontiguousarray(GOOD["a"].T)}))


@pytest.mark.parametrize("kind", [np.float64, np.float16, np.int32, np.bool_])
def test_another_type_is_refused(kind: type[np.generic]) -> None:
    content = TrainReply(change=GOOD).to_content()
    (record,) = content.array_records.values()
    record["b"] = Array(GOOD["b"].astype(kind))
    with pytest.raises(ReplyError, match=f"array 'b' is {np.dtype(kind).name}, not float32"):
        check(Message(content, reply_to=request()))


@pytest.mark.parametrize("data", [b"", b"garbage", b"PK\x03\x04", b"PK\x05\x06" + bytes(18)])
def test_bytes_that_are_no_array_are_refused(data: bytes) -> None:
    content = TrainReply(change=GOOD).to_content()
    (record,) = content.array_records.values()
    record["b"] = Array("float32", (4,), "numpy.ndarray", data)
    with pytest.raises(ReplyError, match="array 'b'"):
        check(Message(content, reply_to=request()))


@pytest.mark.parametrize(
    "extra",
    [
        MetricRecord({"num-examples": 1e300}),
        ConfigRecord({"loss": 0.5}),
        ArrayRecord({"c": Array(np.ones(1, np.float32))}),
    ],
    ids=["metrics", "fields", "arrays"],
)
def test_an_additional_record_is_refused(extra: Any) -> None:  # noqa: ANN401
    message = reply(GOOD)
    message.content["more"] = extra
    with pytest.raises(ReplyError, match="'more'"):
        check(message)


def test_a_reply_without_records_is_refused() -> None:
    with pytest.raises(ReplyError):
        check(Message(RecordDict(), reply_to=request()))


# --- errors ------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", Refusal)
def test_a_refusal_is_reported_in_its_fixed_sentence(code: Refusal) -> None:
    message = refusal_reply(code, request())
    message.error.__dict__["_reason"] = HOSTILE
    with pytest.raises(ReplyError) as caught:
        check(message)
    assert str(caught.value) == code.sentence
    assert caught.value.outcome is Outcome.of(code)
    assert str(caught.value.outcome) == f"refused-{code}"


@pytest.mark.parametrize("code", [0, 1, 3, 999, 5000])
def test_the_text_of_a_foreign_error_is_never_shown(code: int) -> None:
    message = Message(Error(code, HOSTILE), reply_to=request())
    with pytest.raises(ReplyError, match=rf"^the node failed \(code {code}\)$"):
        check(message)


def test_a_message_without_anything_is_refused() -> None:
    message = reply(GOOD)
    message.__dict__["_content"] = None
    with pytest.raises(ReplyError, match="the reply is empty"):
        check(message)
