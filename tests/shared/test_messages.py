from __future__ import annotations

import base64
import io
import json
import math
import pickle
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.config import ItemRepresentation, ModelConfig, ModelKind, Optimiser, Trained
from shared.errors import WireError
from shared.messages import (
    AGGREGATE,
    DESCRIBE,
    EVALUATE,
    LARGEST_STEP,
    PROTOCOL,
    STEPS,
    SUMS,
    TRAIN,
    AggregateReply,
    AggregateRequest,
    DescribeReply,
    DescribeRequest,
    EvaluateReply,
    EvaluateRequest,
    PlanReply,
    PlanRequest,
    Statistic,
    StatisticsReply,
    StatisticsRequest,
    Summed,
    TrainReply,
    TrainRequest,
    Weights,
    refusal_in,
    refusal_reply,
    request_digest,
    summed_kind,
    traffic,
)
from shared.outcomes import Refusal
from shared.secure_aggregation.signing import Identity, public_to_text
from tests.flower_internals import (
    ProtoMessage,
    ProtoRecordDict,
    message_from_proto,
    message_to_proto,
    recorddict_from_proto,
    recorddict_to_proto,
)

if TYPE_CHECKING:
    from tests.conftest import Sites

DESCRIPTION = DescribeReply(organisation="Alpha & Söhne", population=6040, catalogue="c" * 64)
KEY = public_to_text(Identity(name="", key=ec.generate_private_key(ec.SECP384R1())).public)
WEIGHTS: Weights = {"a": np.ones((2, 3), np.float32), "b": np.zeros(4, np.float32)}

texts = st.text(st.characters(codec="utf-8"))
rates = st.floats(0, 1, exclude_min=True)
positive = st.floats(min_value=0, exclude_min=True, allow_nan=False, allow_infinity=False)
weights = st.dictionaries(
    texts,
    hnp.arrays(np.float32, hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3)),
    max_size=3,
)
requests = st.builds(
    TrainRequest,
    run=texts,
    round=st.integers(1, 2**63 - 1),
    catalogue=texts,
    model=st.builds(
        ModelConfig,
        items=st.sampled_from(ItemRepresentation),
        tied=st.booleans(),
        hidden_size=st.just(12),
        heads=st.sampled_from([1, 2, 3, 4]),
        recency=rates,
        own_items=st.sets(st.integers(1, 10**9)).map(sorted).map(tuple),
        max_length=st.integers(1, 2**31),
        dropout=st.floats(0, 1, exclude_max=True),
        trained=st.just(Trained.ALL),
    ),
    weights=weights,
    noise_multiplier=st.floats(0, allow_infinity=False),
    sample_rate=rates,
    clip_norm=positive,
    local_steps=st.integers(1, 2**31),
    optimiser=st.sampled_from(Optimiser),
    learning_rate=positive,
    weight_decay=st.floats(0, 1e9),
    candidates=st.integers(0, 10**9),
)


def request() -> TrainRequest:
    return TrainRequest(
        run="r",
        round=1,
        catalogue="c",
        model=ModelConfig(),
        weights=WEIGHTS,
        noise_multiplier=1.0,
        sample_rate=0.5,
        clip_norm=1.0,
        local_steps=2,
        optimiser=Optimiser.ADAM,
        learning_rate=0.1,
        weight_decay=0.0,
        candidates=0,
    )


def evaluation() -> EvaluateRequest:
    return EvaluateRequest(
        run="r",
        round=1,
        catalogue="c",
        model=ModelConfig(),
        weights=WEIGHTS,
        noise_multiplier=1.0,
        sample_rate=0.5,
        k=20,
    )


def statistic() -> StatisticsRequest:
    return StatisticsRequest(
        run="spring",
        round=2,
        catalogue="c" * 64,
        model=ModelConfig(),
        noise_multiplier=1.5,
        statistic=Statistic.MOMENT,
        fade=0.5,
    )


def arrived(content: RecordDict) -> RecordDict:
    """Through Flower's own serialisation."""
    raw = recorddict_to_proto(content).SerializeToString()
    return recorddict_from_proto(ProtoRecordDict.FromString(raw))


def fields_of(content: RecordDict) -> ConfigRecord:
    (record,) = content.config_records.values()
    return record


def arrays_of(content: RecordDict) -> ArrayRecord:
    (record,) = content.array_records.values()
    return record


def same(left: Weights, right: Weights) -> bool:
    """Names, types, shapes and bits."""
    return set(left) == set(right) and all(
        (left[name].dtype, left[name].shape, left[name].tobytes())
        == (right[name].dtype, right[name].shape, right[name].tobytes())
        for name in left
    )


# --- there and back ----------------------------------------------------------------------------


@settings(max_examples=80, deadline=None)
@given(requests)
def test_a_request_arrives_as_it_was_sent(sent: TrainRequest) -> None:
    read = TrainRequest.from_content(arrived(sent.to_content()))
    for field in fields(TrainRequest):
        if field.name != "weights":
            found = getattr(read, field.name)
            assert found == getattr(sent, field.name)
            assert type(found) is type(getattr(sent, field.name))
    assert same(read.weights, sent.weights)


@settings(max_examples=40, deadline=None)
@given(weights)
def test_a_reply_arrives_as_it_was_sent(change: Weights) -> None:
    content = arrived(TrainReply(change=change).to_content())
    assert same(TrainReply.from_content(content).change, change)
    assert len(content) == 1


def test_a_description_arrives_as_it_was_sent() -> None:
    assert DescribeReply.from_content(arrived(DESCRIPTION.to_content())) == DESCRIPTION
    asked = DescribeRequest()
    assert DescribeRequest.from_content(arrived(asked.to_content())) == asked


def test_message_types_are_those_of_flower() -> None:
    assert (TRAIN, EVALUATE, DESCRIBE) == ("train", "evaluate", "query.describe")


def test_an_evaluation_arrives_as_it_was_sent() -> None:
    sent = evaluation()
    read = EvaluateRequest.from_content(arrived(sent.to_content()))
    assert same(read.weights, sent.weights)
    assert replace(read, weights={}) == replace(sent, weights={})
    sums = np.array([1.5, -2.0, 3.0], np.float32)
    reply = EvaluateReply.from_content(arrived(EvaluateReply(sums=sums).to_content()))
    assert reply.sums.tobytes() == sums.tobytes()


def test_one_users_part_of_an_evaluation_is_no_longer_than_the_bound() -> None:
    assert evaluation().clip_norm == np.linalg.norm(np.ones(len(SUMS)))


@pytest.mark.parametrize(
    "arrays",
    [
        {},
        {"sums": np.ones(2, np.float32)},
        {"sums": np.ones((3, 1), np.float32)},
        {"means": np.ones(3, np.float32)},
        {"sums": np.ones(3, np.float32), "loss": np.ones(1, np.float32)},
    ],
)
def test_an_evaluation_holds_three_sums_and_nothing_else(arrays: Weights) -> None:
    with pytest.raises(WireError, match="not 3 sums alone"):
        EvaluateReply.from_content(arrived(TrainReply(change=arrays).to_content()))


@pytest.mark.parametrize(
    ("key", "values"),
    [
        ("round", [0]),
        ("noise_multiplier", [0.0, -1.0, math.nan, math.inf]),
        ("sample_rate", [0.0, 1.1, math.nan]),
        ("k", [0, -1]),
        ("model.heads", [5]),
    ],
)
def test_an_evaluation_out_of_range_is_refused(key: str, values: list[Any]) -> None:
    for value in values:
        content = arrived(evaluation().to_content())
        fields_of(content)[key] = value
        with pytest.raises(WireError, match=key):
            EvaluateRequest.from_content(arrived(content))


@pytest.mark.parametrize("kind", Statistic)
def test_a_request_for_a_statistic_arrives_as_it_was_sent(kind: Statistic) -> None:
    sent = replace(statistic(), statistic=kind, fade=0.0)
    assert StatisticsRequest.from_content(arrived(sent.to_content())) == sent


@pytest.mark.parametrize(
    ("key", "values"),
    [
        ("round", [0]),
        ("noise_multiplier", [-1.0, math.nan, math.inf]),
        ("fade", [-0.1, 1.1, math.nan]),
        ("statistic", ["", "users"]),
    ],
)
def test_a_request_for_a_statistic_out_of_range_is_refused(key: str, values: list[Any]) -> None:
    for value in values:
        content = arrived(statistic().to_content())
        fields_of(content)[key] = value
        with pytest.raises(WireError, match=f"{key}|'{value}'"):
            StatisticsRequest.from_content(arrived(content))


STORED = json.loads(Path(__file__).with_name("stored").joinpath("messages.json").read_text())
"""Each message below as the first release of this protocol wrote it."""


@pytest.mark.parametrize("name", STORED)
def test_the_bytes_of_a_message_are_those_of_the_protocol(name: str) -> None:
    model = ModelConfig(own_items=(3, 17), feature_size=8, trained=Trained.SCORES)
    arrays = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.zeros(4, np.float32)}
    common: dict[str, Any] = {"run": "spring", "catalogue": "c" * 64, "model": model}
    weighted = common | {
        "round": 3,
        "weights": arrays,
        "noise_multiplier": 1.25,
        "sample_rate": 0.5,
    }
    messages = {
        "DescribeRequest": DescribeRequest(),
        "DescribeReply": DESCRIPTION,
        "TrainRequest": TrainRequest(
            **weighted,
            clip_norm=0.7,
            local_steps=2,
            optimiser=Optimiser.ADAM,
            learning_rate=0.1,
            weight_decay=0.01,
            candidates=9,
        ),
        "TrainReply": TrainReply(change=arrays),
        "EvaluateRequest": EvaluateRequest(**weighted, k=20),
        "EvaluateReply": EvaluateReply(sums=np.array([1.5, -2, 3], np.float32)),
        "StatisticsRequest": statistic(),
        "StatisticsReply": StatisticsReply(total=np.ones((2, 2), np.float32)),
    }
    message: Any = messages[name]
    if name == "StatisticsRequest":
        message = replace(message, model=model)
    content = recorddict_to_proto(message.to_content())
    stored = base64.b64decode(STORED[name])
    assert content.SerializeToString(deterministic=True) == stored
    read = type(message).from_content(recorddict_from_proto(ProtoRecordDict.FromString(stored)))
    assert recorddict_to_proto(read.to_content()) == content


# --- steps of secure aggregation ---------------------------------------------------------------


@pytest.mark.parametrize("number", STEPS)
def test_a_step_arrives_as_it_was_sent(number: int) -> None:
    sent = step(number)
    read = AggregateRequest.from_content(arrived(sent.to_content()))
    assert replace(read, step=1, request=None) == replace(sent, step=1, request=None)
    assert read.step == number
    assert (read.request is None) == (number != 3)
    if isinstance(read.request, TrainRequest):
        assert same(read.request.weights, WEIGHTS)
    reply = AggregateReply(message=b"of the protocol")
    assert AggregateReply.from_content(arrived(reply.to_content()), 15) == reply
    assert AGGREGATE == "query.aggregate"


@pytest.mark.parametrize("asked", [request(), evaluation(), statistic()], ids=type)
def test_both_sides_compute_one_digest_of_a_request(asked: Any) -> None:  # noqa: ANN401
    sent = AggregateRequest(
        run=asked.run, attempt=1, kind=summed_kind(asked), step=3, message=b"m", request=asked
    )
    read = AggregateRequest.from_content(arrived(sent.to_content())).request
    assert read is not None
    assert request_digest(read) == request_digest(asked)
    assert request_digest(replace(read, noise_multiplier=3.0)) != request_digest(asked)
    if not isinstance(asked, StatisticsRequest):
        for weights in (
            {"a": WEIGHTS["a"].reshape(3, 2), "b": WEIGHTS["b"]},
            {"a": WEIGHTS["a"] + np.float32(1e-7), "b": WEIGHTS["b"]},
            {"b": WEIGHTS["a"], "a": WEIGHTS["b"]},
        ):
            assert request_digest(replace(asked, weights=weights)) != request_digest(asked)


def test_a_step_with_another_request_or_none_is_refused() -> None:
    whole = step(3)
    for change, match in (
        ({"request": None}, "step 3 lacks a request"),
        ({"step": 4}, "step 4 comes with a request"),
        ({"kind": Summed.EVALUATE}, "not of kind 'evaluate'"),
        ({"run": "autumn"}, "of this run"),
        ({"step": 6}, "from 1 to 5"),
        ({"attempt": 0}, "attempt = 0"),
    ):
        with pytest.raises(WireError, match=match):
            replace(whole, **change)
    content = step(1).to_content()
    for name, record in request().to_content().items():
        content[name] = record
    with pytest.raises(WireError, match="alone"):
        AggregateRequest.from_content(arrived(content))


def test_a_step_of_another_kind_is_refused() -> None:
    content = arrived(step().to_content())
    fields_of(content)["kind"] = "describe"
    with pytest.raises(WireError, match="nothing that is summed"):
        AggregateRequest.from_content(content)


def test_a_steps_message_is_one_row_of_bytes_of_a_bounded_size() -> None:
    for value, match in (
        (np.zeros(LARGEST_STEP + 1, np.uint8), f"not at most {LARGEST_STEP} bytes"),
        (np.zeros(LARGEST_STEP + 10_000, np.uint8), "are the most"),
        (np.zeros((2, 2), np.uint8), "not at most"),
        (np.zeros(2, np.float32), "float32"),
    ):
        content = arrived(step().to_content())
        content["message"] = ArrayRecord({"message": Array(value)})
        with pytest.raises(WireError, match=match):
            AggregateRequest.from_content(arrived(content))
        with pytest.raises(WireError):
            AggregateReply.from_content(arrived(content), LARGEST_STEP)
    two = arrived(AggregateReply(message=b"m").to_content())
    arrays_of(two)["other"] = Array(np.zeros(1, np.uint8))
    with pytest.raises(WireError, match="alone"):
        AggregateReply.from_content(two, 10)
    with pytest.raises(WireError, match="alone"):
        AggregateReply.from_content(arrived(TrainReply(change=WEIGHTS).to_content()), 10)


# --- fields ------------------------------------------------------------------------------------


def plan() -> PlanRequest:
    """Of a run with every kind of request."""
    return PlanRequest(
        run="spring",
        catalogue="c" * 64,
        model=request().model,
        largest_weight=1.0,
        statistics=1,
        popularity_noise=2.0,
        moment_noise=3.0,
        training_noise=1.5,
        sample_rate=0.5,
        clip_norm=0.7,
        local_steps=2,
        rounds=3,
        evaluations=1,
    )


def step(number: int = 1) -> AggregateRequest:
    return AggregateRequest(
        run="spring",
        attempt=7,
        kind=Summed.TRAIN,
        step=number,
        message=b"of the protocol",
        request=replace(request(), run="spring") if number == 3 else None,
    )


MESSAGES: dict[str, tuple[type[Any], RecordDict]] = {
    "describe request": (DescribeRequest, DescribeRequest().to_content()),
    "describe reply": (DescribeReply, DESCRIPTION.to_content()),
    "plan request": (PlanRequest, plan().to_content()),
    "plan reply": (PlanReply, PlanReply().to_content()),
    "train request": (TrainRequest, request().to_content()),
    "evaluate request": (EvaluateRequest, evaluation().to_content()),
    "statistics request": (StatisticsRequest, statistic().to_content()),
    "aggregate request": (AggregateRequest, step().to_content()),
}
FIELDS = [(message, key) for message, (_, c) in MESSAGES.items() for key in fields_of(c)]


def copied(message: str) -> tuple[type[Any], RecordDict]:
    kind, content = MESSAGES[message]
    return kind, arrived(content)


@pytest.mark.parametrize(("message", "key"), FIELDS)
def test_a_missing_field_is_refused(message: str, key: str) -> None:
    kind, content = copied(message)
    del fields_of(content)[key]
    with pytest.raises(WireError, match=rf"fields differ .*'{key}'"):
        kind.from_content(content)


def test_the_usual_kind_of_model_is_left_out_and_an_unknown_one_is_refused() -> None:
    """Versions that knew one kind read such a message, and theirs are read here."""
    kind, content = copied("train request")
    assert "model.kind" not in fields_of(content)
    assert kind.from_content(content).model.kind is ModelKind.ATTENTION
    fields_of(content)["model.kind"] = "attention"
    assert kind.from_content(content).model == request().model
    fields_of(content)["model.kind"] = "oracle"
    with pytest.raises(
        WireError, match=r"model\.kind = 'oracle', and this release knows attention"
    ):
        kind.from_content(content)


@pytest.mark.parametrize("message", MESSAGES)
def test_an_additional_field_is_refused(message: str) -> None:
    kind, content = copied(message)
    fields_of(content)["loss"] = 0.25
    with pytest.raises(WireError, match=r"fields differ .*'loss'"):
        kind.from_content(content)


@pytest.mark.parametrize(("message", "key"), FIELDS)
def test_a_field_of_another_type_is_refused(message: str, key: str) -> None:
    kind, content = copied(message)
    record = fields_of(content)
    wrong: dict[type, list[Any]] = {
        int: [True, 1.0, "1", b"1", [1]],
        float: [True, 1, "1.0", [1.0]],
        str: [1, b"x", ["x"]],
        bool: [1, 0.0, "true"],
    }
    for value in wrong[type(record[key])]:
        record[key] = value
        with pytest.raises(WireError, match=f"'{key}' is {type(value).__name__}, not "):
            kind.from_content(arrived(content))


@pytest.mark.parametrize(
    ("key", "values"),
    [
        ("round", [0, -1]),
        ("noise_multiplier", [-1e-9, math.nan, math.inf]),
        ("sample_rate", [0.0, -0.1, 1.0001, math.nan, math.inf]),
        ("clip_norm", [0.0, -1.0, math.nan, math.inf]),
        ("local_steps", [0, -1]),
        ("learning_rate", [0.0, -1.0, math.nan, math.inf]),
        ("weight_decay", [-1e-9, math.nan, math.inf]),
        ("candidates", [-1]),
        ("optimiser", ["", "SGD", "lamb"]),
        ("model.items", ["", "all"]),
        ("model.heads", [0, 5]),
        ("model.dropout", [1.0, math.nan]),
    ],
)
def test_a_value_out_of_range_is_refused(key: str, values: list[Any]) -> None:
    for value in values:
        _, content = copied("train request")
        fields_of(content)[key] = value
        with pytest.raises(WireError, match=f"{key}|'{value}'"):
            TrainRequest.from_content(arrived(content))


def test_a_request_out_of_range_cannot_even_be_built(sites: Sites) -> None:
    with pytest.raises(WireError, match="noise_multiplier = nan: choose a finite number >= 0"):
        sites.request(noise_multiplier=math.nan)


@pytest.mark.parametrize(
    "message", ["describe request", "train request", "evaluate request", "aggregate request"]
)
def test_another_protocol_is_refused(message: str) -> None:
    kind, content = copied(message)
    fields_of(content)["protocol"] = PROTOCOL + 1
    with pytest.raises(
        WireError, match=f"protocol {PROTOCOL + 1}, this side {PROTOCOL}: both sides must"
    ):
        kind.from_content(content)


@pytest.mark.parametrize("name", ["", "  ", "two\nlines", "\x1b[2J", "x" * 101])
def test_a_name_that_cannot_be_shown_is_refused(name: str) -> None:
    _, content = copied("describe reply")
    fields_of(content)["organisation"] = name
    with pytest.raises(WireError, match="organisation = ") as caught:
        DescribeReply.from_content(content)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("population", [0, -1])
def test_a_partner_has_users(population: int) -> None:
    _, content = copied("describe reply")
    fields_of(content)["population"] = population
    with pytest.raises(WireError, match=f"population = {population}"):
        DescribeReply.from_content(content)


def test_a_site_with_an_aggregation_key_states_it_and_one_without_is_understood() -> None:
    stated = replace(DESCRIPTION, aggregation_key=KEY)
    assert DescribeReply.from_content(arrived(stated.to_content())) == stated
    without = arrived(DESCRIPTION.to_content())
    assert "aggregation_key" not in fields_of(without)
    assert DescribeReply.from_content(without).aggregation_key == ""


@pytest.mark.parametrize(
    "key",
    ["AAAA", KEY[:-4], "no base64", KEY + KEY, "/" * 68],
    ids=["short", "cut", "no base64", "twice", "off the curve"],
)
def test_what_is_no_aggregation_key_is_refused(key: str) -> None:
    _, content = copied("describe reply")
    fields_of(content)["aggregation_key"] = key
    with pytest.raises(WireError, match="aggregation_key = "):
        DescribeReply.from_content(content)


# --- records -----------------------------------------------------------------------------------


@pytest.mark.parametrize("message", [*MESSAGES, "train reply"])
@pytest.mark.parametrize(
    "extra",
    [
        ConfigRecord({"users": 3}),
        MetricRecord({"loss": 0.25}),
        ArrayRecord({"gradient": Array(np.ones(2, np.float32))}),
        ArrayRecord(),
    ],
    ids=["fields", "metrics", "arrays", "nothing"],
)
def test_an_additional_record_is_refused(message: str, extra: Any) -> None:  # noqa: ANN401
    contents = MESSAGES | {"train reply": (TrainReply, TrainReply(change=WEIGHTS).to_content())}
    kind, content = contents[message][0], arrived(contents[message][1])
    content["more"] = extra
    with pytest.raises(WireError, match="'more'"):
        kind.from_content(content)


@pytest.mark.parametrize("message", [*MESSAGES, "train reply"])
def test_an_empty_message_is_refused(message: str) -> None:
    kind = MESSAGES[message][0] if message in MESSAGES else TrainReply
    with pytest.raises(WireError, match="holds"):
        kind.from_content(RecordDict())


@pytest.mark.parametrize("message", [*MESSAGES, "train reply"])
def test_a_record_of_another_kind_is_refused(message: str) -> None:
    contents = MESSAGES | {"train reply": (TrainReply, TrainReply(change=WEIGHTS).to_content())}
    kind, content = contents[message]
    for name in content:
        other = arrived(content)
        other[name] = MetricRecord({"loss": 0.25})
        with pytest.raises(WireError, match=f"no '{name}'"):
            kind.from_content(other)


# --- arrays ------------------------------------------------------------------------------------


class Bomb:
    """Does something when it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.file,)


def saved(array: Any, *, pickled: bool = False) -> bytes:  # noqa: ANN401
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=pickled)
    return buffer.getvalue()


def zipped() -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, a=np.ones((2, 3), np.float32))
    return buffer.getvalue()


def giant() -> bytes:
    """The header of an array of 4 TiB."""
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        buffer, {"descr": "<f4", "fortran_order": False, "shape": (2**40,)}
    )
    return buffer.getvalue()


def with_data(data: bytes, stype: str = "numpy.ndarray") -> RecordDict:
    content = arrived(TrainReply(change=WEIGHTS).to_content())
    arrays_of(content)["a"] = Array("float32", (2, 3), stype, data)
    return arrived(content)


FLOAT32 = saved(np.ones((2, 3), np.float32))


@pytest.mark.parametrize(
    "data",
    [
        saved(np.ones((2, 3))),
        saved(np.ones((2, 3), np.float16)),
        saved(np.ones((2, 3), np.int32)),
        saved(np.ones((2, 3), ">f4")),
        saved(np.ones((2, 3), np.complex64)),
        saved(np.array(["x"])),
        saved(np.ones(2, [("x", "<f4")])),
        saved(np.array([None, {}]), pickled=True),
        pickle.dumps(np.ones((2, 3), np.float32)),
        FLOAT32[:-1],
        FLOAT32[:20],
        b"",
        b"\x93NUMPY",
        b"garbage",
        zipped(),
        giant(),
    ],
    ids=[
        "float64",
        "float16",
        "int32",
        "big endian",
        "complex",
        "text",
        "structure",
        "objects",
        "pickle",
        "one byte short",
        "cut in the header",
        "no bytes",
        "magic alone",
        "garbage",
        "zip archive",
        "giant",
    ],
)
def test_only_float32_arrays_are_read(data: bytes) -> None:
    with pytest.raises(WireError, match=r"array 'a' (is|cannot be read)"):
        TrainReply.from_content(with_data(data))


@pytest.mark.parametrize("form", ["array", "bare"])
def test_nothing_is_ever_unpickled(tmp_path: Path, form: str) -> None:
    file = tmp_path / "touched"
    bomb = Bomb(file)
    data = pickle.dumps(bomb)
    if form == "array":
        objects = np.empty(1, object)
        objects[0] = bomb
        data = saved(objects, pickled=True)
        np.load(io.BytesIO(data), allow_pickle=True)
    else:
        pickle.loads(data)
    assert file.exists(), "the bomb is a dud"
    file.unlink()
    with pytest.raises(WireError, match="cannot be read"):
        TrainReply.from_content(with_data(data))
    assert not file.exists()


def test_another_serialisation_is_refused() -> None:
    with pytest.raises(WireError, match="cannot be read"):
        TrainReply.from_content(with_data(FLOAT32, stype="pickle"))


def test_what_an_array_says_of_itself_does_not_count() -> None:
    content = TrainReply(change=WEIGHTS).to_content()
    arrays_of(content)["a"] = Array("int8", (1,), "numpy.ndarray", FLOAT32)
    assert same(TrainReply.from_content(content).change, WEIGHTS)


def test_a_hostile_array_name_is_not_printed_raw() -> None:
    content = TrainReply(change=WEIGHTS).to_content()
    arrays_of(content)["\x1b[2J\n"] = Array("float32", (1,), "numpy.ndarray", b"")
    with pytest.raises(WireError) as caught:
        TrainReply.from_content(content)
    assert str(caught.value).isprintable()


# --- refusals ----------------------------------------------------------------------------------


def asked() -> Message:
    return Message(DescribeRequest().to_content(), 5, DESCRIBE)


@pytest.mark.parametrize("code", Refusal)
def test_a_refusal_is_understood_on_the_other_side(code: Refusal) -> None:
    raw = message_to_proto(refusal_reply(code, asked())).SerializeToString()
    reply = message_from_proto(ProtoMessage.FromString(raw))
    assert refusal_in(reply) is code
    assert not reply.has_content()
    assert reply.error.reason == f"{code}: {code.sentence}"


def test_the_codes_are_part_of_the_protocol() -> None:
    """A new refusal goes to the end; a change of order raises PROTOCOL."""
    numbers = {code: refusal_reply(code, asked()).error.code for code in Refusal}
    assert PROTOCOL == 2
    assert numbers == {
        Refusal.BUDGET: 1000,
        Refusal.POLICY: 1001,
        Refusal.CATALOGUE: 1002,
        Refusal.CLOSED: 1003,
        Refusal.MALFORMED: 1004,
        Refusal.FAILED: 1005,
        Refusal.BUNDLE: 1006,
        Refusal.DROPPED: 1007,
    }


@pytest.mark.parametrize("code", [-1, 0, 1, 3, 999, 1000 + len(Refusal), 10**6])
def test_an_error_that_is_not_ours_is_no_refusal(code: int) -> None:
    assert refusal_in(Message(Error(code, "budget"), reply_to=asked())) is None


def test_a_reply_with_content_is_no_refusal() -> None:
    assert refusal_in(Message(DESCRIPTION.to_content(), reply_to=asked())) is None


# --- traffic -----------------------------------------------------------------------------------


def test_traffic_counts_array_bytes() -> None:
    reply = Message(TrainReply(change=WEIGHTS).to_content(), reply_to=asked())
    assert traffic(reply) == len(saved(WEIGHTS["a"])) + len(saved(WEIGHTS["b"]))
    assert traffic(asked()) == 0
    assert traffic(refusal_reply(Refusal.BUDGET, asked())) == 0


def test_a_message_without_anything_counts_nothing() -> None:
    empty = asked()
    empty.__dict__["_content"] = None
    assert traffic(empty) == 0
