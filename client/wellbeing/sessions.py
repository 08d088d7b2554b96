"""The sessions of protected users, in memory.

| what happens                                            | the session                           |
|---------------------------------------------------------|---------------------------------------|
| a list with an item, or feedback                        | goes on                               |
| a request that gets no item (pause, cap, quiet hours)   | does not go on for it                 |
| neither for longer than the gap                         | has ended; the next request begins    |
|                                                         |   another, but a pause goes on        |
| the service starts again                                | counts the lists that were logged     |
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

from client.wellbeing.guard import Session

__all__ = ["Sessions"]

T = TypeVar("T")
_MANY = 10_000
"""Sessions at which those that have ended are forgotten."""


class Sessions:
    """Safe to use from several threads.

    Args:
        gap_seconds: a session ends after so long without use.
    """

    def __init__(self, gap_seconds: float) -> None:
        self._gap, self._lock = gap_seconds, threading.Lock()
        self._sessions: dict[str, Session] = {}
        self._clean_at = _MANY

    def update(self, user: str, now: float, use: Callable[[Session], tuple[Session, T]]) -> T:
        """Change a user's session, while no other thread does.

        Args:
            user: in canonical form.
            now: seconds since 1970.
            use: takes the session and returns what it becomes, and a result.
        """
        with self._lock:
            session, result = use(self._of(user, now))
            self._sessions[user] = session
            if len(self._sessions) > self._clean_at:
                self._forget(now)
            return result

    def touch(self, user: str, time: float) -> None:
        """Let a session go on with feedback of a time; nobody's session begins with it."""
        with self._lock:
            session = self._sessions.get(user)
            if session is not None and session.last < time <= session.last + self._gap:
                self._sessions[user] = replace(session, last=time)

    def replay(self, user: str, time: float, items: int) -> None:
        """Count a list that was recommended before the service started, in order of time."""
        if items:
            with self._lock:
                session = self._of(user, time)
                self._sessions[user] = replace(session, last=time, items=session.items + items)

    def __len__(self) -> int:
        return len(self._sessions)

    def _of(self, user: str, now: float) -> Session:
        session = self._sessions.get(user)
        if session is None:
            return Session(last=now, since=now)
        if now - session.last <= self._gap:
            return session
        until = session.pause_until
        return Session(last=now, since=max(now, until), pause_until=until)

    def _forget(self, now: float) -> None:
        """Forget sessions that have ended, and look again when there are twice as many."""
        for user, session in list(self._sessions.items()):
            if now - session.last > self._gap and now >= session.pause_until:
                del self._sessions[user]
        self._clean_at = max(_MANY, 2 * len(self._sessions))
