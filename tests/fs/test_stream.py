"""Stream: one writer that never waits, any number of readers that share nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llambo9p.errors import ModelError
from llambo9p.fs.stream import Stream
from llambo9p.p9.node import Maybe


async def value_of(result: Maybe[bytes]) -> bytes:
    return await result if isinstance(result, Awaitable) else result


async def read_all(stream: Stream, count: int) -> bytes:
    read = bytearray()
    while data := await value_of(stream.read(len(read), count)):
        assert len(data) <= count
        read += data
    return bytes(read)


def parked(stream: Stream, offset: int, count: int = 100) -> asyncio.Task[bytes]:
    result = stream.read(offset, count)
    assert isinstance(result, Awaitable), "the read must wait"
    return asyncio.ensure_future(value_of(result))


async def turns() -> None:
    """Let every task run until it waits again (none needs more turns than this)."""
    for _ in range(5):
        await asyncio.sleep(0)


def test_what_is_there_is_returned_at_once() -> None:
    stream = Stream()
    stream.append(b"abcdef")
    assert stream.read(0, 4) == b"abcd"
    assert stream.read(4, 4) == b"ef"
    assert (len(stream), stream.data) == (6, b"abcdef")


@given(
    chunks=st.lists(st.binary(min_size=1, max_size=20), max_size=8),
    counts=st.lists(st.integers(1, 25), min_size=1, max_size=4),
)
def test_5_every_reader_gets_every_byte_whatever_its_count(
    chunks: list[bytes], counts: list[int]
) -> None:
    async def main() -> None:
        stream = Stream()
        readers = [asyncio.create_task(read_all(stream, count)) for count in counts]
        for chunk in chunks:
            await turns()
            stream.append(chunk)
        stream.finish()
        assert await asyncio.gather(*readers) == [b"".join(chunks)] * len(counts)

    asyncio.run(main())


def test_6_all_blocked_readers_are_woken_in_the_order_in_which_they_came() -> None:
    async def main() -> None:
        stream = Stream()
        woken: list[int] = []
        readers = [parked(stream, 0) for _ in range(5)]
        for i, reader in enumerate(readers):
            reader.add_done_callback(lambda _, i=i: woken.append(i))  # type: ignore[misc]
        await turns()
        stream.append(b"x")
        assert await asyncio.gather(*readers) == [b"x"] * 5
        await turns()
        assert woken == [0, 1, 2, 3, 4]

    asyncio.run(main())


def test_a_reader_further_on_sleeps_until_the_stream_reaches_it() -> None:
    async def main() -> None:
        stream = Stream()
        reader = parked(stream, 4)
        for chunk in (b"ab", b"cd"):
            await turns()
            stream.append(chunk)
        await turns()
        assert not reader.done()
        stream.append(b"ef")
        assert await reader == b"ef"

    asyncio.run(main())


def test_7_the_end_wakes_readers_and_stays_the_end() -> None:
    async def main() -> None:
        stream = Stream()
        stream.append(b"all")
        reader = parked(stream, 3)
        await turns()
        stream.finish()
        assert await reader == b""
        assert stream.read(3, 9) == b""
        assert stream.read(99, 9) == b""
        assert stream.read(0, 9) == b"all"
        assert await read_all(stream, 2) == b"all"

    asyncio.run(main())


def test_8_nobody_needs_to_read() -> None:
    stream = Stream()
    for _ in range(10_000):
        stream.append(b"token ")
    stream.finish()
    assert len(stream) == 60_000


def test_an_error_comes_after_the_bytes_and_to_everyone() -> None:
    async def main() -> None:
        stream = Stream()
        stream.append(b"half")
        readers = [parked(stream, 4), parked(stream, 4)]
        await turns()
        stream.fail(ModelError("it broke"))
        for reader in readers:
            with pytest.raises(ModelError, match="it broke"):
                await reader
        assert stream.read(0, 9) == b"half"
        with pytest.raises(ModelError, match="it broke"):
            stream.read(4, 9)
        assert stream.error is not None and stream.error.ename == "it broke"  # type: ignore[attr-defined]

    asyncio.run(main())


def test_reading_a_failure_again_and_again_holds_no_more_each_time() -> None:
    stream = Stream()
    stream.fail(ModelError("it broke"))
    for _ in range(100):
        with pytest.raises(ModelError):
            stream.read(0, 9)
    depth, traceback = 0, stream.error.__traceback__ if stream.error else None
    while traceback is not None:
        depth, traceback = depth + 1, traceback.tb_next
    assert depth <= 2


def test_a_cancelled_reader_leaves_the_others_and_nothing_behind() -> None:
    async def main() -> None:
        stream = Stream()
        stays = parked(stream, 0)
        for _ in range(100):
            goes = parked(stream, 0)
            await turns()
            goes.cancel()
            await turns()
            assert goes.cancelled()
        assert len(stream._waiters) == 1
        stream.append(b"x")
        assert await stays == b"x"
        assert not stream._waiters

    asyncio.run(main())
