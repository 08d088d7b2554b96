"""The server answers known paths alone, one request at a time, and ends with its block."""

from __future__ import annotations

import socket
import threading
import time

import httpx
import pytest

from shared.system.health_server import Answer, json_answer, serve_health

HOSTS = ["127.0.0.1", "::1"]


def get(address: tuple[str, int], path: str, method: str = "GET") -> httpx.Response:
    host = f"[{address[0]}]" if ":" in address[0] else address[0]
    return httpx.request(method, f"http://{host}:{address[1]}{path}", trust_env=False)


def echo(accept: str) -> Answer:
    return json_answer({"accept": accept}, ok=True)


@pytest.mark.parametrize("host", HOSTS)
def test_known_paths_are_answered_and_no_others(host: str) -> None:
    if host == "::1" and not socket.has_ipv6:
        pytest.skip("this machine has no IPv6")
    routes = {"/a": echo, "/b": lambda _: json_answer([], ok=False)}
    with serve_health((host, 0), routes) as address:
        answer = get(address, "/a?x=1")
        assert (answer.status_code, answer.json()) == (200, {"accept": "*/*"})
        assert (get(address, "/b").status_code, get(address, "/b").text) == (503, "[]\n")
        assert (get(address, "/c").status_code, get(address, "/c").text) == (404, "/a, /b\n")
        assert get(address, "/a", "POST").status_code == 405
        head = get(address, "/a", "HEAD")
        assert (head.status_code, head.text) == (200, "")
    with pytest.raises(httpx.ConnectError):
        get(address, "/a")


def test_an_address_in_use_is_an_error_of_the_system() -> None:
    with (
        serve_health(("127.0.0.1", 0), {}) as address,
        pytest.raises(OSError, match="in use"),
        serve_health(address, {}),
    ):
        pytest.fail("two at once")


def test_requests_are_answered_one_at_a_time() -> None:
    inside, most = 0, 0

    def slow(_: str) -> Answer:
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        time.sleep(0.05)
        inside -= 1
        return json_answer({}, ok=True)

    with serve_health(("127.0.0.1", 0), {"/": slow}) as address:
        threads = [threading.Thread(target=get, args=(address, "/")) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert most == 1
