"""What plan9port's `9p` and `9pfuse` and Inferno's `mount` send, message by message.

The programs themselves are not to be had on a test machine; the sequences are those that
a decoding proxy showed of them.
"""

from __future__ import annotations

import asyncio

import pytest

from llambo9p.engine.simulated import Gate
from llambo9p.errors import Error
from llambo9p.net.client import Client
from llambo9p.p9 import constants as c
from llambo9p.p9 import messages as m
from tests.files import LENGTH_0, story, until
from tests.worker.harness import Place, hosting

WORKER = ("worker-0000",)


async def version(place: Place, msize: int) -> Client:
    client = await Client.connect(place.address)
    said = await client.call(m.Tversion(c.NOTAG, msize, "9P2000"), m.Rversion)
    assert said == m.Rversion(c.NOTAG, msize, "9P2000")
    return client


async def attach(client: Client, uname: str) -> None:
    await client.call(m.Tattach(0, 0, c.NOFID, uname, ""), m.Rattach)


async def walk(client: Client, newfid: int, *names: str) -> None:
    assert len((await client.call(m.Twalk(0, 0, newfid, names), m.Rwalk)).wqid) == len(names)


@story
async def test_9p_tries_to_authenticate_first_and_goes_on_without() -> None:
    async with hosting() as place:
        client = await version(place, 8192)
        with pytest.raises(Error, match="authentication not required"):
            await client.call(m.Tauth(0, 9, "glenda", ""), m.Rauth)
        await attach(client, "glenda")
        await walk(client, 1, *WORKER, "status")
        await client.call(m.Topen(0, 1, c.OREAD), m.Ropen)
        assert b"state idle" in (await client.call(m.Tread(0, 1, 0, 8168), m.Rread)).data
        client.close()


@story
async def test_9p_rdwr_reads_at_offset_0_every_time_and_writes_at_rising_ones() -> None:
    async with hosting() as place:
        client = await version(place, 8192)
        await attach(client, "glenda")
        await walk(client, 1, *WORKER, "data")
        await client.call(m.Topen(0, 1, c.ORDWR), m.Ropen)
        offset = 0
        assert (await client.call(m.Tread(0, 1, 0, 8168), m.Rread)).data == b""
        for line in (b"first", b"second question"):
            await client.call(m.Twrite(0, 1, offset, line), m.Rwrite)
            offset += len(line)
            answer = b""
            while data := (await client.call(m.Tread(0, 1, 0, 8168), m.Rread)).data:
                answer += data
            assert answer == b"simulated: " + line
        await client.clunk(1)
        client.close()


@story
async def test_9pfuse_truncates_a_fid_that_is_not_open_and_clunks_with_a_read_pending() -> None:
    gate = Gate()
    async with hosting(gate=gate) as place:
        client = await version(place, 8192)
        await attach(client, "glenda")
        await walk(client, 1, *WORKER, "prompt")
        await walk(client, 2, *WORKER, "prompt")
        await client.call(m.Topen(0, 1, c.OWRITE), m.Ropen)
        await client.call(m.Twstat(0, 2, LENGTH_0), m.Rwstat)
        await client.call(m.Twrite(0, 1, 0, b"Hello\n"), m.Rwrite)
        await client.clunk(2)
        await client.clunk(1)
        await walk(client, 3, *WORKER, "out")
        await client.call(m.Topen(0, 3, c.OREAD), m.Ropen)
        reading = client.call(m.Tread(0, 3, 0, 8168), m.Rread)
        await client.clunk(3)  # it sends no Tflush
        with pytest.raises(Error, match="Interrupted"):
            await reading
        gate.open()
        await place.idle()
        assert await place.files.read("worker-0000/out") == "simulated: Hello"
        client.close()


@story
async def test_inferno_appends_where_stat_says_the_end_is_and_flushes_on_interrupt() -> None:
    gate = Gate()
    async with hosting(gate=gate) as place:
        client = await version(place, 8216)
        await attach(client, "inferno")
        await walk(client, 1, *WORKER, "ctl")
        await client.call(m.Topen(0, 1, c.OWRITE | c.OTRUNC), m.Ropen)  # echo … > ctl
        await client.call(m.Twrite(0, 1, 0, b"max_tokens 15\n"), m.Rwrite)
        await client.clunk(1)
        await walk(client, 1, *WORKER, "ctl")
        await client.call(m.Topen(0, 1, c.OWRITE), m.Ropen)  # echo … >> ctl
        end = (await client.call(m.Tstat(0, 1), m.Rstat)).stat.length
        await client.call(m.Twrite(0, 1, end, b"seed 7\n"), m.Rwrite)
        await client.clunk(1)
        assert {"max_tokens 15", "seed 7"} <= set(
            (await place.files.read("worker-0000/ctl")).splitlines()
        )
        await walk(client, 1, *WORKER, "data")
        await client.call(m.Topen(0, 1, c.ORDWR), m.Ropen)
        await client.call(m.Twrite(0, 1, 0, b"for ever"), m.Rwrite)
        reading = client.call(m.Tread(0, 1, 0, 8192), m.Rread)
        await until(lambda: place.engine.load.active)
        reading.cancel()
        await asyncio.wait([reading])
        gate.open()
        await place.idle()
        client.close()
