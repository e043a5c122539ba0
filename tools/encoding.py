"""Text from files and pipes, as editors of any system save it: with a byte order mark, or with
lines that end in CR LF.  What is no UTF-8 is kept, as surrogates, for whoever takes the text to
refuse."""

from __future__ import annotations

_BOM = "\N{ZERO WIDTH NO-BREAK SPACE}".encode()


def without_bom(data: bytes) -> bytes:
    return data.removeprefix(_BOM)


def script(data: bytes) -> str:
    """With lines that end in LF."""
    return without_bom(data).decode("utf-8", "surrogateescape").replace("\r\n", "\n")
