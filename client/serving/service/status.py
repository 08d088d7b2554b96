"""How a request can end: codes with a sentence, in terms of gRPC and of HTTP.

| code                 | HTTP | when                                                              |
|----------------------|------|-------------------------------------------------------------------|
| INVALID_ARGUMENT     | 400  | the request asks for what cannot be: the sentence says what       |
| UNAUTHENTICATED      | 401  | no token, or one that is not known                                |
| NOT_FOUND            | 404  | a user without a history                                          |
| ALREADY_EXISTS       | 409  | an event has the id of another event                              |
| RESOURCE_EXHAUSTED   | 429  | the queue is full: ask again later                                |
| INTERNAL             | 500  | a fault of this service; the log names the place                  |
| UNAVAILABLE          | 503  | the service stops, or feedback cannot be stored now               |
| DEADLINE_EXCEEDED    | 504  | no answer in time                                                 |
"""

from __future__ import annotations

from enum import Enum

__all__ = ["Code", "ServiceError"]


class Code(Enum):
    """Names of gRPC's statuses, with the HTTP status of each."""

    INVALID_ARGUMENT = 400
    UNAUTHENTICATED = 401
    NOT_FOUND = 404
    ALREADY_EXISTS = 409
    RESOURCE_EXHAUSTED = 429
    INTERNAL = 500
    UNAVAILABLE = 503
    DEADLINE_EXCEEDED = 504


class ServiceError(Exception):
    """A request that is not answered.

    Args:
        code: why, for programs.
        sentence: why, for people; it tells nothing that the client did not send.
    """

    def __init__(self, code: Code, sentence: str) -> None:
        self.code, self.sentence = code, sentence
        super().__init__(sentence)
