"""A text that is refused changes nothing, and whoever wrote it finds out: over all texts that are
written whole, and over all ways in which one is refused, emptied or given up."""

from __future__ import annotations

from typing import NamedTuple

import pytest

from llambo9p.errors import Error, NoSpace
from llambo9p.p9 import constants as c
from llambo9p.p9 import messages as m
from tests.files import LENGTH_0, Files, story

from .harness import conversing


class Case(NamedTuple):
    """Of a text: two good ones, and a bad one with what is said of it."""

    good: bytes
    other: bytes
    bad: bytes
    why: str
    is_of_queries: bool = True
    """`data` uses it, too"""

    def together(self, *texts: bytes) -> str:
        """What the file reads as when these were written, one after the other."""
        return b"".join(texts).decode() if self is CASES["history"] else texts[-1].decode()


def line(text: str) -> bytes:
    return b'{"role": "user", "content": "%s"}\n' % text.encode()


CASES = {
    "system": Case(b"be brief\n", b"be kind\n", b"be \xff\n", "not UTF-8"),
    "grammar": Case(b'root ::= "a"\n', b'root ::= "b"\n', b"root ::=\n b", "grammar line 2"),
    "schema": Case(b'{"type": "null"}', b'{"type": "integer"}', b"{", "schema line 1"),
    "regex": Case(b"a+", b"b+", b"(", "regex"),
    "history": Case(line("x"), line("y"), line("z") + b"{}\n", "history line 2", False),
    "tokens": Case(b"115 1\n", b"115 1\n105 2\n", b"115 1\nno\n", "tokens line 2", False),
}
CONSTRAINTS = "grammar", "schema", "regex"
shown = pytest.mark.parametrize("name", [name for name in CASES if name != "tokens"])
each = pytest.mark.parametrize("name", CASES)
TRUNCATE = c.OWRITE | c.OTRUNC


async def refused(files: Files, name: str) -> None:
    """As `cp bad FILE`, which does not look at what Tclunk says."""
    with pytest.raises(Error, match=CASES[name].why):
        await files.write(name, CASES[name].bad, TRUNCATE)


async def prompts_fail(files: Files, name: str) -> None:
    why = CASES[name].why
    await files.write("prompt", "a prompt")
    with pytest.raises(Error, match=f"^what was written to .*{name}.* was refused.*{why}"):
        await files.read("out")
    assert why in (await files.attrs("status"))["error"]
    data = await files.open("data", c.ORDWR)
    await data.write(b"a query")
    if CASES[name].is_of_queries:
        with pytest.raises(Error, match=why):
            await data.read(0)
    else:
        assert await data.read_all() == b"simulated: a query"
    await data.clunk()


@shown
@story
async def test_a_refused_text_leaves_the_old_one(name: str) -> None:
    case = CASES[name]
    async with conversing() as place:
        await place.files.write(name, case.good)
        await refused(place.files, name)
        assert await place.files.read(name) == case.good.decode()
        assert case.why in (await place.files.attrs("status"))["error"]
        await prompts_fail(place.files, name)
        await prompts_fail(place.files, name)
        await place.files.write(name, case.other)
        assert await place.files.read(name) == case.together(case.good, case.other)


@each
@story
async def test_prompts_fail_until_a_text_is_taken(name: str) -> None:
    case = CASES[name]
    async with conversing() as place, place.connect() as other:
        await refused(place.files, name)
        await prompts_fail(other, name)
        await place.files.write(name, case.good)
        if name in CONSTRAINTS:
            return  # which the engine of these tests cannot keep
        assert await other.ask("now?") == "simulated: now?"


BLANKED = {
    "a blank line": lambda files, name: files.write(name, b"\n"),
    "nothing, truncated": lambda files, name: files.write(name, b"", TRUNCATE),
    "a wstat": Files.truncate,
}


@pytest.mark.parametrize("how", BLANKED)
@each
@story
async def test_prompts_fail_until_the_text_is_blank(name: str, how: str) -> None:
    async with conversing() as place:
        if name not in ("history", "tokens"):
            await place.files.write(name, CASES[name].good)
        await refused(place.files, name)
        await BLANKED[how](place.files, name)
        assert await place.files.read(name) == ""
        assert await place.files.ask("now?") == "simulated: now?"


@shown
@story
async def test_a_truncation_counts_when_its_fid_is_clunked(name: str) -> None:
    case = CASES[name]
    async with conversing() as place:
        await place.files.write(name, case.good)
        async with place.connect() as other:
            await other.open(name, TRUNCATE)
            cut = await other.open(name, c.OWRITE)
            await other.client.call(m.Twstat(0, cut.fid, LENGTH_0), m.Rwstat)
            assert await other.read(name) == case.good.decode()
        # neither was clunked
        assert await place.files.read(name) == case.good.decode()
        cut = await place.files.open(name, c.OWRITE)
        await cut.write(case.bad)
        await place.files.client.call(m.Twstat(0, cut.fid, LENGTH_0), m.Rwstat)
        await cut.write(case.other)
        await cut.clunk()
        assert await place.files.read(name) == case.together(case.good, case.other)


@each
@story
async def test_a_sync_tells_what_the_clunk_would_and_changes_nothing(name: str) -> None:
    case = CASES[name]
    async with conversing() as place:
        file = await place.files.open(name, TRUNCATE)
        await file.sync()
        await file.write(case.bad)
        with pytest.raises(Error, match=case.why):
            await file.sync()
        assert await place.files.ask("still?") == "simulated: still?"
        await place.files.write("ctl", "reset")
        with pytest.raises(Error, match=case.why):
            await file.clunk()
        await prompts_fail(place.files, name)
        file = await place.files.open(name, TRUNCATE)
        half = len(case.good) // 2
        await file.write(case.good[:half])
        try:
            await file.sync()
        except Error:
            pass  # a half may be one that is refused
        await file.write(case.good[half:])
        await file.sync()
        await prompts_fail(place.files, name)
        await file.clunk()
        if name != "tokens":
            assert await place.files.read(name) == case.good.decode()


@story
async def test_a_sync_of_a_prompt_asks_nothing() -> None:
    async with conversing() as place:
        file = await place.files.open("prompt", TRUNCATE)
        await file.write(b"one ")
        await file.sync()
        await file.write(b"prompt")
        await file.sync()
        assert (await place.files.attrs("status"))["turns"] == "0"
        await file.write(b"\xff")
        with pytest.raises(Error, match="not UTF-8"):
            await file.sync()
        await place.files.client.call(m.Twstat(0, file.fid, LENGTH_0), m.Rwstat)
        await file.write(b"another")
        await file.clunk()
        assert await place.files.read("out") == "simulated: another"
        assert (await place.files.attrs("status"))["turns"] == "1"


@each
@story
async def test_a_text_without_room_is_refused_whole(name: str) -> None:
    async with conversing() as place:
        if name not in ("history", "tokens"):
            await place.files.write(name, CASES[name].good)
        before = await place.files.read(name)
        place.conversation.limits.buffer.limit = 10
        file = await place.files.open(name, TRUNCATE)
        with pytest.raises(NoSpace):
            await file.write(b"1" * 20)
        with pytest.raises(NoSpace):
            await file.sync()
        with pytest.raises(NoSpace):
            await file.clunk()
        assert await place.files.read(name) == before
        with pytest.raises(Error, match=f"{name}.* was refused"):
            await place.files.ask("x")
