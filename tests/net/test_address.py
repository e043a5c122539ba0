"""Addresses: what is one, and what an error says about what is not."""

from __future__ import annotations

import pytest

from llambo9p.errors import InvalidArgument
from llambo9p.net.address import Address, parse


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("tcp!127.0.0.1!564", Address("tcp", "127.0.0.1", 564)),
        ("tcp!localhost!0", Address("tcp", "localhost", 0)),
        ("tcp!::1!65535", Address("tcp", "::1", 65535)),
        ("unix!/tmp/llambo", Address("unix", path="/tmp/llambo")),
        ("unix!relative name", Address("unix", path="relative name")),
        ("unix!/a!/b 'c", Address("unix", path="/a!/b 'c")),
    ],
)
def test_an_address_prints_as_it_was_written(text: str, address: Address) -> None:
    assert parse(text) == parse(f"  {text}\n") == address
    assert str(address) == text


@pytest.mark.parametrize("text", ["tcp![::1]!564", "tls![0:0::1]!564"])
def test_an_ipv6_address_may_stand_in_brackets(text: str) -> None:
    address = parse(text)
    assert address == Address(text[:3], "::1", 564)
    assert address.is_loopback and parse(str(address)) == address


@pytest.mark.parametrize("host", ["[::1", "[", "[]", "[127.0.0.1]", "[::1]]", "[host]"])
def test_what_is_no_address_in_brackets_is_named(host: str) -> None:
    with pytest.raises(InvalidArgument, match="no IPv6 address in brackets"):
        parse(f"tcp!{host}!1")


@pytest.mark.parametrize(
    "text",
    ["", "tcp", "tcp!", "tcp!host", "tcp!!564", "tcp!a!b!c", "unix!", "udp!host!9", "host:564"],
)
def test_what_is_no_address_is_shown_what_one_is(text: str) -> None:
    with pytest.raises(InvalidArgument, match=r"bad address .*tcp!HOST!PORT"):
        parse(text)


@pytest.mark.parametrize("port", ["", "x", "-1", "65536", "1.5", "٣"])
def test_what_is_no_port_is_named(port: str) -> None:
    with pytest.raises(InvalidArgument, match="is not a number 0..65535"):
        parse(f"tcp!host!{port}")


@pytest.mark.parametrize(
    ("text", "loopback"),
    [
        ("tcp!127.evil.example!1", False),
        ("unix!/tmp/llambo", True),
        ("tcp!127.0.0.1!1", True),
        ("tcp!127.9.9.9!1", True),
        ("tcp!::1!1", True),
        ("tcp!localhost!1", True),
        ("tcp!0.0.0.0!1", False),
        ("tcp!10.0.0.127!1", False),
        ("tcp!localhost.example.com!1", False),
    ],
)
def test_loopback(text: str, loopback: bool) -> None:
    assert parse(text).is_loopback is loopback
