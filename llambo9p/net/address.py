"""Addresses as Plan 9 writes them: `tcp!host!port`, `tls!host!port` and `unix!path`.

The one place that parses or prints an address.  Nothing is resolved here.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

from ..errors import InvalidArgument
from ..p9.words import shown, whole_number


@dataclass(frozen=True, slots=True)
class Address:
    """Where a server listens.  `str()` gives the form it was parsed from."""

    net: str
    """`tcp`, `tls` or `unix`"""
    host: str = ""
    port: int = 0
    """0 lets the kernel choose when listening"""
    path: str = ""

    def __str__(self) -> str:
        if self.net == "unix":
            return f"unix!{self.path}"
        return f"{self.net}!{self.host}!{self.port}"

    @property
    def is_loopback(self) -> bool:
        if self.net == "unix" or self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False  # a name, which may lead anywhere


def parse(text: str) -> Address:
    """The address in `text`.  Raises InvalidArgument saying what is wrong."""
    net, _, path = text.strip().partition("!")
    if net == "unix" and path:
        return Address("unix", path=path)
    rest = path.split("!")
    if net in ("tcp", "tls") and len(rest) == 2 and rest[0]:
        host, port = rest
        number = whole_number(port, 0, 65535)
        if number is not None:
            return Address(net, _host(host, text), number)
        raise InvalidArgument(
            f"bad address {shown(text)!r}: port {shown(port)!r} is not a number 0..65535"
        )
    raise InvalidArgument(
        f"bad address {shown(text)!r}: use tcp!HOST!PORT, tls!HOST!PORT or unix!PATH"
    )


def _host(host: str, text: str) -> str:
    """Without the brackets of an IPv6 address, as others write it.  Raises InvalidArgument."""
    if not host.startswith("["):
        return host
    try:
        return str(ipaddress.IPv6Address(host.removesuffix("]")[host.endswith("]") :]))
    except ValueError:
        raise InvalidArgument(
            f"bad address {shown(text)!r}: {shown(host)!r} is no IPv6 address in brackets"
        ) from None
