from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.site.coordinator import CoordinatorConfig
from shared.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("sotto.example:443", ("sotto.example", 443)),
        ("192.0.2.7:9092", ("192.0.2.7", 9092)),
        ("[2001:db8::1]:9092", ("2001:db8::1", 9092)),
        ("büro.example:1", ("büro.example", 1)),
        ("localhost:65535", ("localhost", 65535)),
    ],
)
def test_an_address_is_host_and_port(text: str, address: tuple[str, int]) -> None:
    assert CoordinatorConfig(superlink=text).address == address


@pytest.mark.parametrize(
    "text",
    [
        "sotto.example",
        "https://sotto.example:443",
        "sotto.example:443/",
        "user@sotto.example:443",
        ":443",
        "sotto.example:",
        "sotto.example:0",
        "sotto.example:65536",
        "sotto.example:https",
        "sotto.example:٤٤٣",
        "2001:db8::1:9092",
        "a..b:443",
        f"{'a' * 64}.example:443",
        "two words:443",
        " ",
    ],
)
def test_what_is_no_address_is_refused_with_the_form_it_should_have(text: str) -> None:
    with pytest.raises(ConfigError, match=r"give host:port, without https://") as refused:
        CoordinatorConfig(superlink=text)
    assert f"'{text}'" in str(refused.value)


@given(st.text(max_size=40))
def test_whatever_is_typed_is_an_address_or_an_error_of_ours(text: str) -> None:
    try:
        config = CoordinatorConfig(superlink=text)
    except ConfigError:
        return
    if text:
        host, port = config.address
        assert host
        assert 0 < port < 65536
        host.encode("idna")


def test_none_is_an_error_only_where_one_is_needed() -> None:
    config = CoordinatorConfig()
    with pytest.raises(ConfigError, match=r"'coordinator\.superlink' is not set"):
        _ = config.address


@pytest.mark.parametrize("port", [0, -1, 65536])
def test_a_local_port_is_a_port(port: int) -> None:
    with pytest.raises(ConfigError, match=r"coordinator\.local_port"):
        CoordinatorConfig(local_port=port)
