"""Structured answers asked for by clients that are not ours, of the real model: py9p, Linux's own
v9fs, and a shell on a FUSE mount."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import py9p
import pytest

from llambo9p.net.address import Address

from .cluster import Namespace, orchestrator
from .guest import Guest
from .mounted import DIALECTS
from .mounts import mounted, needs_fuse

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

SCHEMA = """{
  "type": "object",
  "properties": {"name": {"type": "string", "maxLength": 10}, "year": {"type": "integer"}},
  "required": ["name", "year"],
  "additionalProperties": false
}
"""
REGEX = "(red|green|blue)( [0-9]{2})?"
GBNF = 'root ::= "<" [a-z]{2,8} ">"'
LARK = 'start: "yes" | "no"'


def is_person(text: str) -> bool:
    found = json.loads(text)
    return set(found) == {"name", "year"} and len(found["name"]) <= 10


KINDS: list[tuple[str, str, Callable[[str], object]]] = [
    ("schema", SCHEMA, is_person),
    ("regex", REGEX, re.compile(REGEX).fullmatch),
    ("grammar", GBNF, re.compile("<[a-z]{2,8}>").fullmatch),
    ("grammar", LARK, ["yes", "no"].__contains__),
]
FREE = "Now write a long story about the sea."
SCRIPT = "\n".join(
    [
        "cd worker-0000",
        "echo reset >ctl",
        "echo temperature 0 >ctl",
        "echo max_tokens 60 >ctl",
        *(
            f"cat >{kind} <<'END'\n{text.strip()}\nEND\n"
            "echo Who was it? >prompt\ncat out\nprintf '\\0'"
            for kind, text, _ in KINDS
        ),
        "cat schema grammar",
        "echo >grammar",
        f"echo {FREE} >prompt",
        "cat out",
    ]
)
"""each answer, what binds the last, and a free one"""


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    with orchestrator(tmp_path_factory.mktemp("cluster")) as port:
        with Namespace(port) as ns:
            ns.write("ctl", b"spawn --count 1 --type tiny")
        yield port


@pytest.fixture(scope="module")
def told(port: int) -> str:
    """What the script would print if py9p was a shell."""
    with Namespace(port) as ns:
        ns.write("worker-0000/ctl", b"reset\ntemperature 0\nmax_tokens 60")
        told = b""
        for kind, text, _ in KINDS:
            ns.write(f"worker-0000/{kind}", text.strip().encode() + b"\n", piece=7)
            ns.write("worker-0000/prompt", b"Who was it?\n")
            told += ns.read("worker-0000/out") + b"\0"
        told += ns.read("worker-0000/schema") + ns.read("worker-0000/grammar")
        ns.write("worker-0000/grammar", b"\n")
        ns.write("worker-0000/prompt", f"{FREE}\n".encode())
        return (told + ns.read("worker-0000/out")).decode()


def test_an_answer_is_what_a_text_allows(told: str) -> None:
    *answers, rest = told.split("\0")
    for (kind, text, is_right), answer in zip(KINDS, answers, strict=True):
        assert is_right(answer), (kind, text, answer)
    assert rest.startswith(LARK + "\n"), "one of them holds at a time"
    assert len(rest) > len(LARK) + 20


@pytest.mark.parametrize("dialect", DIALECTS)
def test_the_kernel_writes_them(guest: Guest, port: int, told: str, dialect: str) -> None:
    where = f"/n/structured.{dialect}"
    options = f"trans=tcp,cache=none,port={port},version={dialect}"
    done = guest.terminals[0].run(
        f"mkdir -p {where}\nmount -t 9p -o {options} 10.0.2.2 {where}\ncd {where}\n{SCRIPT}\n"
        f"cd /\numount {where}"
    )
    assert done.status == 0
    assert done.output == told


@needs_fuse
def test_a_shell_on_a_fuse_mount_writes_them(tmp_path: Path, port: int, told: str) -> None:
    with mounted(tmp_path, Address("tcp", "127.0.0.1", port)) as mount:
        assert mount.sh(SCRIPT) == told


@pytest.mark.parametrize(
    ("kind", "text", "why"),
    [
        ("schema", '{"type": "object"', "schema line 1"),
        ("schema", '{"properties": {"a": {"uniqueItems": true, "items": {}}}}', "uniqueItems"),
        ("regex", "(a", "regex"),
        ("grammar", 'root ::= "a" b', "b"),
        ("grammar", "start: /(/", "grammar"),
    ],
)
def test_py9p_hears_why_a_text_is_refused(port: int, kind: str, text: str, why: str) -> None:
    with Namespace(port) as ns, pytest.raises(py9p.RemoteError) as refused:
        ns.write(f"worker-0000/{kind}", text.encode())
    assert why in str(refused.value)
