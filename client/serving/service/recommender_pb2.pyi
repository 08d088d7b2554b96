from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class EventKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    EVENT_KIND_UNSPECIFIED: _ClassVar[EventKind]
    SHOWN: _ClassVar[EventKind]
    CLICKED: _ClassVar[EventKind]
    CHOSEN: _ClassVar[EventKind]
    DISMISSED: _ClassVar[EventKind]
    RATED: _ClassVar[EventKind]
EVENT_KIND_UNSPECIFIED: EventKind
SHOWN: EventKind
CLICKED: EventKind
CHOSEN: EventKind
DISMISSED: EventKind
RATED: EventKind

class Filters(_message.Message):
    __slots__ = ("include_seen", "allow", "deny", "categories")
    INCLUDE_SEEN_FIELD_NUMBER: _ClassVar[int]
    ALLOW_FIELD_NUMBER: _ClassVar[int]
    DENY_FIELD_NUMBER: _ClassVar[int]
    CATEGORIES_FIELD_NUMBER: _ClassVar[int]
    include_seen: bool
    allow: _containers.RepeatedScalarFieldContainer[str]
    deny: _containers.RepeatedScalarFieldContainer[str]
    categories: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, include_seen: _Optional[bool] = ..., allow: _Optional[_Iterable[str]] = ..., deny: _Optional[_Iterable[str]] = ..., categories: _Optional[_Iterable[str]] = ...) -> None: ...

class History(_message.Message):
    __slots__ = ("items",)
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    items: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, items: _Optional[_Iterable[str]] = ...) -> None: ...

class RecommendRequest(_message.Message):
    __slots__ = ("user", "history", "k", "filters", "explain", "skip_unknown", "allow_unknown_user", "request_id", "wellbeing", "query", "attributes")
    class AttributesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    USER_FIELD_NUMBER: _ClassVar[int]
    HISTORY_FIELD_NUMBER: _ClassVar[int]
    K_FIELD_NUMBER: _ClassVar[int]
    FILTERS_FIELD_NUMBER: _ClassVar[int]
    EXPLAIN_FIELD_NUMBER: _ClassVar[int]
    SKIP_UNKNOWN_FIELD_NUMBER: _ClassVar[int]
    ALLOW_UNKNOWN_USER_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    WELLBEING_FIELD_NUMBER: _ClassVar[int]
    QUERY_FIELD_NUMBER: _ClassVar[int]
    ATTRIBUTES_FIELD_NUMBER: _ClassVar[int]
    user: str
    history: History
    k: int
    filters: Filters
    explain: bool
    skip_unknown: bool
    allow_unknown_user: bool
    request_id: str
    wellbeing: bool
    query: str
    attributes: _containers.ScalarMap[str, str]
    def __init__(self, user: _Optional[str] = ..., history: _Optional[_Union[History, _Mapping]] = ..., k: _Optional[int] = ..., filters: _Optional[_Union[Filters, _Mapping]] = ..., explain: _Optional[bool] = ..., skip_unknown: _Optional[bool] = ..., allow_unknown_user: _Optional[bool] = ..., request_id: _Optional[str] = ..., wellbeing: _Optional[bool] = ..., query: _Optional[str] = ..., attributes: _Optional[_Mapping[str, str]] = ...) -> None: ...

class SimilarRequest(_message.Message):
    __slots__ = ("items", "k", "filters", "request_id")
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    K_FIELD_NUMBER: _ClassVar[int]
    FILTERS_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    items: _containers.RepeatedScalarFieldContainer[str]
    k: int
    filters: Filters
    request_id: str
    def __init__(self, items: _Optional[_Iterable[str]] = ..., k: _Optional[int] = ..., filters: _Optional[_Union[Filters, _Mapping]] = ..., request_id: _Optional[str] = ...) -> None: ...

class Reason(_message.Message):
    __slots__ = ("item", "title", "difference", "attention")
    ITEM_FIELD_NUMBER: _ClassVar[int]
    TITLE_FIELD_NUMBER: _ClassVar[int]
    DIFFERENCE_FIELD_NUMBER: _ClassVar[int]
    ATTENTION_FIELD_NUMBER: _ClassVar[int]
    item: str
    title: str
    difference: float
    attention: float
    def __init__(self, item: _Optional[str] = ..., title: _Optional[str] = ..., difference: _Optional[float] = ..., attention: _Optional[float] = ...) -> None: ...

class Explanation(_message.Message):
    __slots__ = ("sentence", "reasons", "popularity", "federated", "home")
    SENTENCE_FIELD_NUMBER: _ClassVar[int]
    REASONS_FIELD_NUMBER: _ClassVar[int]
    POPULARITY_FIELD_NUMBER: _ClassVar[int]
    FEDERATED_FIELD_NUMBER: _ClassVar[int]
    HOME_FIELD_NUMBER: _ClassVar[int]
    sentence: str
    reasons: _containers.RepeatedCompositeFieldContainer[Reason]
    popularity: float
    federated: float
    home: float
    def __init__(self, sentence: _Optional[str] = ..., reasons: _Optional[_Iterable[_Union[Reason, _Mapping]]] = ..., popularity: _Optional[float] = ..., federated: _Optional[float] = ..., home: _Optional[float] = ...) -> None: ...

class Recommendation(_message.Message):
    __slots__ = ("rank", "item", "title", "score", "explanation", "rank_by_score")
    RANK_FIELD_NUMBER: _ClassVar[int]
    ITEM_FIELD_NUMBER: _ClassVar[int]
    TITLE_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    EXPLANATION_FIELD_NUMBER: _ClassVar[int]
    RANK_BY_SCORE_FIELD_NUMBER: _ClassVar[int]
    rank: int
    item: str
    title: str
    score: float
    explanation: Explanation
    rank_by_score: int
    def __init__(self, rank: _Optional[int] = ..., item: _Optional[str] = ..., title: _Optional[str] = ..., score: _Optional[float] = ..., explanation: _Optional[_Union[Explanation, _Mapping]] = ..., rank_by_score: _Optional[int] = ...) -> None: ...

class Wellbeing(_message.Message):
    __slots__ = ("measures", "pause_seconds")
    MEASURES_FIELD_NUMBER: _ClassVar[int]
    PAUSE_SECONDS_FIELD_NUMBER: _ClassVar[int]
    measures: _containers.RepeatedCompositeFieldContainer[WellbeingMeasure]
    pause_seconds: int
    def __init__(self, measures: _Optional[_Iterable[_Union[WellbeingMeasure, _Mapping]]] = ..., pause_seconds: _Optional[int] = ...) -> None: ...

class WellbeingMeasure(_message.Message):
    __slots__ = ("name", "sentence")
    NAME_FIELD_NUMBER: _ClassVar[int]
    SENTENCE_FIELD_NUMBER: _ClassVar[int]
    name: str
    sentence: str
    def __init__(self, name: _Optional[str] = ..., sentence: _Optional[str] = ...) -> None: ...

class Error(_message.Message):
    __slots__ = ("code", "message")
    CODE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    code: str
    message: str
    def __init__(self, code: _Optional[str] = ..., message: _Optional[str] = ...) -> None: ...

class RecommendResponse(_message.Message):
    __slots__ = ("items", "model", "exposure", "request_id", "error", "rerank", "wellbeing")
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    EXPOSURE_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    RERANK_FIELD_NUMBER: _ClassVar[int]
    WELLBEING_FIELD_NUMBER: _ClassVar[int]
    items: _containers.RepeatedCompositeFieldContainer[Recommendation]
    model: str
    exposure: str
    request_id: str
    error: Error
    rerank: str
    wellbeing: Wellbeing
    def __init__(self, items: _Optional[_Iterable[_Union[Recommendation, _Mapping]]] = ..., model: _Optional[str] = ..., exposure: _Optional[str] = ..., request_id: _Optional[str] = ..., error: _Optional[_Union[Error, _Mapping]] = ..., rerank: _Optional[str] = ..., wellbeing: _Optional[_Union[Wellbeing, _Mapping]] = ...) -> None: ...

class Event(_message.Message):
    __slots__ = ("id", "user", "item", "kind", "rating", "time", "exposure", "position", "model")
    ID_FIELD_NUMBER: _ClassVar[int]
    USER_FIELD_NUMBER: _ClassVar[int]
    ITEM_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    RATING_FIELD_NUMBER: _ClassVar[int]
    TIME_FIELD_NUMBER: _ClassVar[int]
    EXPOSURE_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    id: str
    user: str
    item: str
    kind: EventKind
    rating: float
    time: int
    exposure: str
    position: int
    model: str
    def __init__(self, id: _Optional[str] = ..., user: _Optional[str] = ..., item: _Optional[str] = ..., kind: _Optional[_Union[EventKind, str]] = ..., rating: _Optional[float] = ..., time: _Optional[int] = ..., exposure: _Optional[str] = ..., position: _Optional[int] = ..., model: _Optional[str] = ...) -> None: ...

class FeedbackRequest(_message.Message):
    __slots__ = ("events",)
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    events: _containers.RepeatedCompositeFieldContainer[Event]
    def __init__(self, events: _Optional[_Iterable[_Union[Event, _Mapping]]] = ...) -> None: ...

class FeedbackResponse(_message.Message):
    __slots__ = ("stored", "repeated", "unknown_items")
    STORED_FIELD_NUMBER: _ClassVar[int]
    REPEATED_FIELD_NUMBER: _ClassVar[int]
    UNKNOWN_ITEMS_FIELD_NUMBER: _ClassVar[int]
    stored: int
    repeated: int
    unknown_items: int
    def __init__(self, stored: _Optional[int] = ..., repeated: _Optional[int] = ..., unknown_items: _Optional[int] = ...) -> None: ...
