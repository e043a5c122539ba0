"""One line of text for each message, and back: what `--trace` prints and
transcript tests are written in.

    Tread tag 3 fid 1 offset 0 count 512
    Twalk tag 1 fid 0 newfid 2 wname ["worker-0000" "out"]
    Rread tag 3 data "half a caf\\xc3"
    Ropen tag 4 qid (d 0 17) iounit 8168

Integers are decimal, modes octal, NOTAG, NOFID and NONUNAME by name; strings are JSON's,
with \\u escapes for what is not printable; data is a string with \\x escapes for what is
not ASCII; a Qid is (type vers path), its type `-` or the letters of `_QID_LETTERS`; a
stat is its fields in braces, those left at their defaults left out.  `parse(format(m))
== m` for every message.

Bytes that no message says are a line too, with a reason behind them:

    hex 0700000063ffff # unknown message type 99
"""

from __future__ import annotations

import ast
import dataclasses
import json
import re
from typing import Any

from . import constants as c
from .dialects import P9_2000, Dialect, name_of
from .messages import Message
from .wire import Dir, Qid

_QID_LETTERS = {
    "d": c.QTDIR,
    "a": c.QTAPPEND,
    "l": c.QTEXCL,
    "A": c.QTAUTH,
    "t": c.QTTMP,
    "m": 0x10,
    "2": 0x02,
    "1": 0x01,
}
_NAMED = {"NOTAG": c.NOTAG, "NOFID": c.NOFID, "NONUNAME": c.NONUNAME}
_OCTAL = {"mode", "perm"}
_DIR_KINDS = {
    "name": "Str",
    "qid": "QidField",
    "uid": "Str",
    "gid": "Str",
    "muid": "Str",
}
_TOKEN = re.compile(r'\s*(?:([][(){}])|("(?:[^"\\]|\\.)*")|([^\s][^][\s(){}"]*))')


def format(msg: Message, max_data: int | None = None) -> str:
    """The message as one line.  With `max_data`, data is shown to so many bytes, and
    a line that was cut cannot be parsed."""
    words = [name_of(type(msg)), "tag", _integer("tag", msg.tag)]
    for name, kind in msg.kinds.items():
        value = getattr(msg, name)
        if kind == "Data" and max_data is not None and len(value) > max_data:
            cut = _format_field(name, kind, value[:max_data])
            words += [name, f"{cut}... of {len(value)} bytes"]
        else:
            words += [name, _format_field(name, kind, value)]
    return " ".join(words)


def format_bytes(data: bytes, reason: str, max_data: int | None = None) -> str:
    """Bytes as one line, with the reason why they are no message; `max_data` as above."""
    if max_data is not None and len(data) > max_data:
        return f"hex {data[:max_data].hex()}... of {len(data)} bytes # {reason}"
    return f"hex {data.hex()} # {reason}"


def parse_bytes(line: str, dialect: Dialect = P9_2000) -> bytes:
    """The bytes that a line of either function stands for.  Raises ValueError."""
    word, _, rest = line.partition(" ")
    if word == "hex":
        return bytes.fromhex(rest.partition("#")[0])
    return parse(line, dialect).pack()


def _integer(name: str, value: int) -> str:
    if name in _OCTAL:
        return f"0o{value:o}"
    if name.endswith("tag") and value == c.NOTAG:
        return "NOTAG"
    if name.endswith("fid") and value == c.NOFID:
        return "NOFID"
    if name.startswith("n_") and value == c.NONUNAME:
        return "NONUNAME"
    return str(value)


def _format_str(value: str) -> str:
    """As JSON, with what would end the line or steer a terminal escaped too."""
    quoted = json.dumps(value, ensure_ascii=False)
    if quoted.isprintable():
        return quoted
    return "".join(ch if ch.isprintable() else _escape(ch) for ch in quoted)


def _escape(ch: str) -> str:
    return f"\\u{ord(ch):04x}" if ord(ch) < 0x10000 else json.dumps(ch)[1:-1]


def _format_field(name: str, kind: str, value: Any) -> str:
    match kind:
        case "Str":
            return _format_str(value)
        case "Data":
            body: str = value.decode("latin-1").encode("unicode_escape").decode()
            return '"' + body.replace('"', '\\"') + '"'
        case "QidField":
            letters = "".join(k for k, bit in _QID_LETTERS.items() if value.type & bit)
            return f"({letters or '-'} {value.vers} {value.path})"
        case "Names":
            return "[" + " ".join(_format_field(name, "Str", v) for v in value) + "]"
        case "Qids":
            return "[" + " ".join(_format_field(name, "QidField", v) for v in value) + "]"
        case "Stat" | "StatU":
            words = []
            for f in dataclasses.fields(value):
                v = getattr(value, f.name)
                if f.default is dataclasses.MISSING or v != f.default:
                    words += [f.name, _format_field(f.name, _DIR_KINDS.get(f.name, "U32"), v)]
            return "{" + " ".join(words) + "}"
        case _:
            return _integer(name, value)


class _Words:
    """The tokens of a line, consumed from the left."""

    def __init__(self, line: str) -> None:
        self.tokens: list[str] = []
        at = 0
        line = line.rstrip()
        while at < len(line):
            m = _TOKEN.match(line, at)
            if m is None:
                raise ValueError(f"cannot read {line[at:]!r}")
            self.tokens.append(m[1] or m[2] or m[3])
            at = m.end()

    def next(self, expect: str = "") -> str:
        token = self.tokens.pop(0) if self.tokens else "end of line"
        if expect and token != expect:
            raise ValueError(f"expected {expect}, found {token}")
        return token

    def many(self, end: str, kind: str) -> list[Any]:
        values = []
        while self.tokens and self.tokens[0] != end:
            values.append(_parse_field(self, kind))
        self.next(end)
        return values


def parse(line: str, dialect: Dialect = P9_2000) -> Message:
    """The message that a line stands for.  Raises ValueError."""
    try:
        return _parse(_Words(line), dialect)
    except (KeyError, TypeError, SyntaxError) as e:
        raise ValueError(f"cannot read {line!r}: {e}") from e


def _parse(words: _Words, dialect: Dialect) -> Message:
    name = words.next()
    cls = dialect.by_name.get(name)
    if cls is None:
        raise ValueError(f"no message {name} in {dialect.version}")
    words.next("tag")
    values = {"tag": _parse_field(words, "U16")}
    for field, kind in cls.kinds.items():
        words.next(field)
        values[field] = _parse_field(words, kind)
    if words.tokens:
        raise ValueError(f"{words.tokens[0]!r} after the fields of {name}")
    return cls(**values)


def _parse_field(words: _Words, kind: str) -> Any:
    match kind:
        case "Str":
            return json.loads(words.next())
        case "Data":
            return ast.literal_eval("b" + words.next())
        case "QidField":
            words.next("(")
            letters = words.next()
            qtype = sum(_QID_LETTERS[k] for k in letters if k != "-")
            qid = Qid(qtype, _parse_field(words, "U32"), _parse_field(words, "U64"))
            words.next(")")
            return qid
        case "Names":
            words.next("[")
            return tuple(words.many("]", "Str"))
        case "Qids":
            words.next("[")
            return tuple(words.many("]", "QidField"))
        case "Stat" | "StatU":
            words.next("{")
            fields = {}
            while (name := words.next()) != "}":
                fields[name] = _parse_field(words, _DIR_KINDS.get(name, "U32"))
            return Dir(**fields)
        case _:
            word = words.next()
            return _NAMED[word] if word in _NAMED else int(word, 0)
