"""pyroute2's 9P client: it starts a session and walks.

More it cannot do here.  It never sends a Topen, which a server of its own does not need
and 9P does, so what it reads and writes is refused; and it takes the string of an Rerror
for JSON.  Each refusal is an answer all the same, and the session goes on.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from json import JSONDecodeError

import pytest
from pyroute2 import Plan9ClientSocket

from llambo9p.net.address import Address
from llambo9p.p9 import constants as c
from tests.cluster.harness import cluster, simulated_host
from tests.files import story


@contextlib.asynccontextmanager
async def session(address: Address) -> AsyncIterator[Plan9ClientSocket]:
    client = Plan9ClientSocket(address=(address.host, address.port))
    try:
        await client.start_session()
        yield client
    finally:
        client.close()


@story
async def test_it_walks_and_what_it_may_not_do_is_answered() -> None:
    async with cluster() as running, simulated_host(1) as host:
        await running.files.write("ctl", f"mount {host.address}")
        async with session(running.address) as client:
            found = await client.walk("worker-0000/status")
            assert [qid["type"] for qid in found["wqid"]] == [c.QTDIR, c.QTFILE]
            with pytest.raises(JSONDecodeError):
                await client.walk("nope")
            fid = await client.fid("status")
            for request in (client.read(fid), client.write(fid, b"x")):
                with pytest.raises(JSONDecodeError):
                    await request
            assert len((await client.walk("worker-0000"))["wqid"]) == 1


@story
async def test_a_walk_that_ends_half_way_has_the_qids_so_far() -> None:
    """walk(5), also where the walk goes on at another server."""
    async with cluster() as running, simulated_host(1) as host:
        await running.files.write("ctl", f"mount {host.address}")
        async with session(running.address) as client:
            for path, count in [("nodes/nope", 1), ("worker-0000/nope", 1), ("ctl/nope", 1)]:
                assert len((await client.walk(path))["wqid"]) == count
