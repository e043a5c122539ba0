"""What is attacked, and as whom: addresses, certificates, and connections of one user.

Owns nothing that lives; the attackers' program gets a `Target` as JSON.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from llambo9p.net.address import Address, parse
from llambo9p.net.client import Client
from llambo9p.net.security import Trust, client_tls
from llambo9p.p9 import constants as c
from tests.files import Files


@dataclass(frozen=True)
class Target:
    unix: str
    """address of the orchestrator; whoever attacks may be root there, who speaks for all"""
    tls: str
    ca: str
    """directory with the certificates of users"""
    exporter: int
    """port"""

    @classmethod
    def parse(cls, text: str) -> Self:
        return cls(**json.loads(text))

    def dump(self) -> str:
        return json.dumps(dataclasses.asdict(self))

    @property
    def tls_address(self) -> Address:
        return parse(self.tls)

    async def connect(self, user: str) -> Client:
        """Over TLS, with the user's certificate, and not attached."""
        ca = Path(self.ca)
        context = client_tls(ca / f"{user}.pem", ca / "ca.pem")
        return await Client.connect(self.tls_address, c.VERSION_9P2000, Trust(tls=context))

    @contextlib.asynccontextmanager
    async def files(self, user: str) -> AsyncIterator[Files]:
        """The user's tree, over TLS."""
        client = await self.connect(user)
        try:
            root, _ = await client.attach("")
            yield Files(client, root)
        finally:
            client.close()

    @contextlib.asynccontextmanager
    async def local(self, user: str) -> AsyncIterator[Files]:
        """The user's tree, over the unix socket, as root may."""
        client = await Client.connect(parse(self.unix))
        try:
            root, _ = await client.attach(user)
            yield Files(client, root)
        finally:
            client.close()
