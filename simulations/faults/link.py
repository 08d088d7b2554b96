"""A network link between the partners and the coordinator that can be cut."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

__all__ = ["Link"]


class Link:
    """Forward connections from one local port to another, until the link is cut.

    Args:
        target: port on this machine.

    Attributes:
        port: where connections are accepted.
    """

    def __init__(self, target: int) -> None:
        self._target, self._cut = target, threading.Event()
        self._open: set[socket.socket] = set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._threads = list[threading.Thread]()
        self._listening = self._start(self._accept)

    @contextmanager
    def cut(self) -> Iterator[None]:
        """Drop every connection, and refuse new ones until the block ends."""
        self._cut.set()
        self._drop_all()
        yield
        self._cut.clear()

    def close(self) -> None:
        """Drop every connection, and accept no more."""
        self._cut.set()
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # ends the waiting for a connection
        self._listening.join()
        self._listener.close()
        self._drop_all()
        for thread in [*self._threads]:
            thread.join()

    def _drop_all(self) -> None:
        for end in [*self._open]:
            _shut_down(end)

    def _start(self, target: Callable[..., None], *arguments: socket.socket) -> threading.Thread:
        thread = threading.Thread(target=target, args=arguments, daemon=True)
        thread.start()
        return thread

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:  # closed
                return
            self._threads = [thread for thread in self._threads if thread.is_alive()]
            self._threads.append(self._start(self._connect, near))
            del near

    def _connect(self, near: socket.socket) -> None:
        """Forward one connection in both directions until either end closes it."""
        with near, suppress(OSError):
            if self._cut.is_set():
                return
            with socket.create_connection(("127.0.0.1", self._target), timeout=5) as far:
                far.settimeout(None)
                self._open |= {near, far}
                back = self._start(_forward, far, near)
                _forward(near, far)
                back.join()
                self._open -= {near, far}


def _forward(source: socket.socket, sink: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
    for end in (source, sink):
        _shut_down(end)


def _shut_down(end: socket.socket) -> None:
    with suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)
