"""dish on a terminal."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from llambo9p_tools.dish.completion import at_cursor

from ..screen import Screen
from .harness import DISH, Workers


@pytest.fixture
def workers() -> Iterator[Workers]:
    made = Workers(3)
    yield made
    made.close()


@pytest.fixture
def screen(workers: Workers, tmp_path: Path) -> Iterator[Screen]:
    with Screen(DISH, LLAMBO_ADDR=workers.address, XDG_STATE_HOME=str(tmp_path)) as made:
        made.wait_for("llambo>")
        yield made


def test_a_session(workers, screen, tmp_path):
    screen.enter("status")
    screen.wait_for("workers 3\nllambo>")
    screen.enter("cd worker-0001")
    screen.wait_for("llambo/worker-0001>")
    screen.enter("cat nowhere; pwd")
    screen.wait_for("/worker-0001/nowhere: file does not exist\nllambo/worker-0001>")
    screen.enter("infer 'that")
    screen.enter("is one'")
    screen.wait_for("                  > is one'\n/data: file does not exist")
    screen.enter("ls | | cat")
    screen.wait_for("column 6: a command is missing before '|'")
    screen.enter("! sh -c 'exit 3'")
    screen.wait_for("! sh: exit status 3\n")
    screen.enter("x='a b'; echo -n $x")
    screen.wait_for("a b\nllambo/worker-0001>")  # not on one line
    screen.enter("cd; echo $x$status")
    screen.wait_for("a b\nllambo>")
    screen.enter("exit 3")
    assert screen.finish() == 3
    history = tmp_path / "llambo" / "dish_history"
    assert history.stat().st_mode & 0o777 == 0o600
    assert "+cd worker-0001\n" in history.read_text()


def test_what_was_typed_before_comes_back(workers, screen, tmp_path):
    screen.enter("echo first line")
    screen.wait_for("\nfirst line\nllambo>")
    screen.type("\x04")
    assert screen.finish() == 0
    with Screen(DISH, LLAMBO_ADDR=workers.address, XDG_STATE_HOME=str(tmp_path)) as again:
        again.wait_for("llambo>")
        again.type("\x1b[A")
        again.wait_for("llambo> echo first line")


def test_an_interrupt_ends_the_command_only(workers, screen):
    """`out` waits for an answer that nobody gives."""
    for number, blocked in enumerate(("cat worker-0000/out", "cat worker-0000/out | ! cat")):
        screen.enter(f"echo begun {number}; {blocked}")
        screen.wait_for(f"\nbegun {number}\n")
        screen.type("\x03")
        screen.wait_for(f"\nbegun {number}\n^C\nllambo>")
    screen.enter("! sh -c 'echo sleeping; exec sleep 1000'")
    screen.wait_for("\nsleeping\n")
    screen.type("\x03")
    screen.wait_for("\nsleeping\n^C\nllambo>")
    screen.enter("each worker-* { echo hi > prompt; cat out }")
    screen.wait_for("worker-0002: of two lines\nllambo>")
    assert all(len(prompt.submitted) == 1 for prompt in workers.prompts)
    screen.type("half a line\x03")
    screen.enter("pwd")
    screen.wait_for("llambo> pwd\n/\n")


def test_an_interrupt_submits_nothing(workers, screen):
    screen.enter(
        "{ echo half; ! sh -c 'echo begun >&2'; cat worker-0000/out } > worker-0001/prompt"
    )
    screen.wait_for("\nbegun\n")
    screen.type("\x03")
    screen.wait_for("\nbegun\n^C\nllambo>")
    screen.enter("pwd")
    screen.wait_for("\n/\nllambo>")
    assert workers.prompts[1].submitted == []


def test_completion(screen):
    screen.type("sta\t")
    screen.wait_for("llambo> status")
    screen.type("\x15cat wo\t")
    screen.wait_for("cat worker-000")
    screen.type("\t\t")
    screen.wait_for("worker-0000/ worker-0001/ worker-0002/")
    screen.type("1/o\t")
    screen.wait_for("cat worker-0001/out")
    screen.type("\x15echo hi > worker-0002/p\t")
    screen.wait_for("> worker-0002/prompt")
    screen.type("\x15x=1\r")
    screen.type("echo $st\t")
    screen.wait_for("echo $status")


def test_no_cluster(workers, screen):
    workers.call(workers.server.close())
    screen.enter("status")
    screen.wait_for("no cluster answers at tcp!")
    screen.type("cat wor\t")
    screen.enter("")
    screen.wait_for("llambo> cat wor\nno cluster answers")
    screen.enter("exit")
    assert screen.finish() == 0


def test_a_cluster_that_goes_away_meanwhile(workers, screen):
    screen.enter("cat worker-0000/out")
    workers.do(workers.streams[0].append, b"half an answer")
    screen.wait_for("half an answer")
    workers.call(workers.server.close())
    screen.wait_for("closed the connection")
    screen.wait_for("still there\nllambo>")


def test_a_history_that_cannot_be_kept(workers):
    with Screen(DISH, LLAMBO_ADDR=workers.address, XDG_STATE_HOME="/dev/null") as screen:
        screen.wait_for("what is typed is not kept: /dev/null/llambo/dish_history: Not a dir")
        screen.wait_for("llambo>")


@pytest.mark.parametrize(
    ("text", "words", "word"),
    [
        ("", [], ""),
        ("ca", [], "ca"),
        ("cat ", ["cat"], ""),
        ("cat a b", ["cat", "a"], "b"),
        ("ls; cat a", ["cat"], "a"),
        ("ls | ca", [], "ca"),
        ("each w* { ca", [], "ca"),
        ("x=`{ca", [], "ca"),
        ("echo hi > wo", ["echo", "hi"], "wo"),
        ("echo hi > f wo", ["echo", "hi"], "wo"),
        ("< wo", ["<"], "wo"),
        ("cat 'two wo", ["cat"], "'two wo"),
        ("cat 'two words' b", ["cat", "two words"], "b"),
        ("echo What's u", ["echo", "What's"], "u"),
    ],
)
def test_where_the_cursor_is(text, words, word):
    assert at_cursor(text) == (words, word)
