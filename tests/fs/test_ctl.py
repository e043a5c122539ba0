"""ctl files: words and quotes, verbs and their errors, and that a write with a bad
line does nothing.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llambo9p.errors import InvalidArgument, PermissionDenied
from llambo9p.fs.ctl import (
    Command,
    Commands,
    CtlFile,
    quote,
    split_lines,
    split_words,
)
from llambo9p.fs.file import OpenFile
from llambo9p.fs.tree import Tree
from llambo9p.p9 import constants as c

words = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
awkward = st.text("a' \n\t''", max_size=8)


class Settings:
    """Two verbs over two values; `note` keeps what was committed, in order."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.commands = Commands(
            [
                Command("temperature", "NUMBER", 1, 1, self._temperature),
                Command("stop", "WORD...", 1, 9, self._stop),
                Command("load", "MODEL", 1, 1, self._load),
                Command("reset", "", 0, 0, lambda words: self._note("reset")),
            ]
        )

    def _note(self, what: str) -> Callable[[], None]:
        return lambda: self.done.append(what)

    def _temperature(self, words: Sequence[str]) -> Callable[[], None]:
        try:
            value = float(words[0])
        except ValueError:
            raise InvalidArgument(f"temperature {words[0]!r} is not a number") from None
        return self._note(f"temperature {value}")

    def _stop(self, words: Sequence[str]) -> Callable[[], None]:
        return self._note("stop " + "|".join(words))

    def _load(self, words: Sequence[str]) -> Callable[[], Awaitable[None]]:
        async def load() -> None:
            await asyncio.sleep(0)
            self.done.append(f"load {words[0]}")

        return load

    def write(self, text: str) -> int:
        result = self.commands.run(text.encode())
        assert isinstance(result, int)
        return result


@given(st.lists(words | awkward))
def test_quoted_words_are_read_back_as_they_were(many: list[str]) -> None:
    line = " ".join(map(quote, many))
    assert split_words(line) == many
    assert "\n".join(split_lines(line)) == line


@given(st.lists(st.lists(words | awkward, min_size=1, max_size=4), max_size=4))
def test_lines_of_quoted_words_are_read_back_as_they_were(lines: list[list[str]]) -> None:
    text = "".join(" ".join(map(quote, line)) + "\n" for line in lines)
    assert [w for w in map(split_words, split_lines(text)) if w] == lines


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("", []),
        (" \t ", []),
        ("a  b\tc\r", ["a", "b", "c"]),
        ("'a b' c", ["a b", "c"]),
        ("'it''s' ''", ["it's", ""]),
        ("a'b c'd", ["ab cd"]),
    ],
)
def test_words(line: str, expected: list[str]) -> None:
    assert split_words(line) == expected


def test_an_open_quote_is_named() -> None:
    with pytest.raises(InvalidArgument, match="quote is not closed: stop 'abc"):
        Settings().write("reset\nstop 'abc\n")


def test_lines_are_done_in_order() -> None:
    settings = Settings()
    text = "reset\n\ntemperature 0.5\nstop a 'b c'"
    assert settings.write(text) == len(text)
    assert settings.done == ["reset", "temperature 0.5", "stop a|b c"]


def test_a_newline_in_quotes_is_part_of_its_word() -> None:
    settings = Settings()
    settings.write(f"stop {quote(chr(10))} {quote('###')}\nreset\n")
    assert settings.done == ["stop \n|###", "reset"]


def test_only_newlines_end_lines() -> None:
    settings = Settings()
    settings.write("stop 'a\u2028b' 'c\x0bd' e\x1df\n")
    assert settings.done == ["stop a\u2028b|c\x0bd|e|f"]


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        ("tempreature 1", "unknown verb tempreature; verbs are temperature stop load reset"),
        ("'two words'", "unknown verb 'two words'; verbs are"),
        ("temperature", "usage: temperature NUMBER"),
        ("temperature 1 2", "usage: temperature NUMBER"),
        ("reset now", "usage: reset"),
        ("temperature warm", "temperature 'warm' is not a number"),
    ],
)
@pytest.mark.parametrize("before", ["", "reset\nstop x\n"])
@pytest.mark.parametrize("after", ["", "\nreset\n"])
def test_18_a_bad_line_is_explained_and_nothing_is_done(
    before: str, bad: str, after: str, why: str
) -> None:
    settings = Settings()
    with pytest.raises(InvalidArgument) as error:
        settings.write(before + bad + after)
    assert error.value.ename.startswith(why)
    assert settings.done == []


@pytest.mark.parametrize(
    ("raw", "where"), [(b"stop caf\xc3", "0xc3 at 8"), (b"\xffreset", "0xff at 0")]
)
def test_what_is_not_utf8_is_pointed_at(raw: bytes, where: str) -> None:
    settings = Settings()
    with pytest.raises(InvalidArgument, match=f"not UTF-8: byte {where}"):
        settings.commands.run(raw)
    assert settings.done == []


def test_verbs_that_wait_keep_the_order() -> None:
    async def main() -> None:
        settings = Settings()
        data = b"reset\nload a\nstop x\nload b\nreset\n"
        result = settings.commands.run(data)
        assert isinstance(result, Awaitable)
        assert await result == len(data)
        assert settings.done == ["reset", "load a", "stop x", "load b", "reset"]

    asyncio.run(main())


def test_a_long_word_is_read_in_linear_time() -> None:
    """A 128 KB word once took as many steps as its length squared: minutes."""
    word = "x" * 131_000
    began = time.process_time()
    assert split_words(f"stop {word}") == ["stop", word]
    assert time.process_time() - began < 2


def test_a_ctl_file_reads_its_text_as_it_was_at_open_and_ignores_offsets() -> None:
    settings = Settings()
    file = CtlFile(Tree("me"), "ctl", lambda: f"{len(settings.done)} done\n", settings.commands)
    opened = file.open(c.ORDWR | c.OTRUNC)
    assert isinstance(opened, OpenFile)
    assert opened.write(12345, b"reset\n") == 6
    assert opened.write(0, b"reset\n") == 6
    assert opened.read(0, 99) == b"0 done\n"
    again = file.open(c.OREAD)
    assert isinstance(again, OpenFile)
    assert (again.read(0, 1), again.read(2, 99)) == (b"2", b"done\n")


def test_a_ctl_file_checks_permission_at_open() -> None:
    file = CtlFile(Tree("me"), "ctl", str, Settings().commands, perm=0o222)
    assert isinstance(file.open(c.OWRITE), OpenFile)
    for mode in (c.OREAD, c.ORDWR, c.OREAD | c.OTRUNC):
        with pytest.raises(PermissionDenied):
            file.open(mode)
