"""A text that is made as it is read: every read gives what the whole text has there."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator

from hypothesis import given
from hypothesis import strategies as st

from llambo9p.fs import pieces
from llambo9p.fs.pieces import Pieces
from tests.files import story


@given(
    st.lists(st.binary(max_size=9), max_size=30),
    st.lists(st.tuples(st.integers(0, 150), st.integers(0, 40)), max_size=30),
)
def test_reads_at_any_offset_give_what_the_whole_has(
    parts: list[bytes], reads: list[tuple[int, int]]
) -> None:
    text, whole = Pieces(lambda: iter(parts)), b"".join(parts)
    for offset, count in reads:
        assert text.read(offset, count) == whole[offset : offset + count]


def test_nothing_is_made_until_it_is_read_and_then_little_more() -> None:
    made: list[int] = []

    def parts() -> Iterator[bytes]:
        for number in range(1000):
            made.append(number)
            yield b"x" * 100

    text = Pieces(parts)
    assert not made
    assert text.read(0, 250) == b"x" * 250
    assert len(made) == 3
    assert text.read(250, 250) == b"x" * 250
    assert len(made) == 5


@story
async def test_what_is_far_ahead_is_made_in_parts_and_reads_may_overlap() -> None:
    whole = random.Random(1).randbytes(3 * pieces.MOST)
    parts = [whole[at : at + 1000] for at in range(0, len(whole), 1000)]
    text = Pieces(lambda: iter(parts))
    assert text.read(0, 10) == whole[:10]
    turns = 0

    async def count_turns() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    counting = asyncio.ensure_future(count_turns())
    far = [text.read(at, 10) for at in (len(whole) - 5, len(whole) - 2000, 2 * pieces.MOST)]
    assert not any(isinstance(read, bytes) for read in far)
    begin = text.read(5, 10)
    assert begin == whole[5:15]
    got = await asyncio.gather(*far)  # type: ignore[arg-type]
    counting.cancel()
    assert got == [whole[-5:], whole[-2000:-1990], whole[2 * pieces.MOST :][:10]]
    assert turns > 2
