"""limbot in a terminal: what is on its screen, what its keys do, and what it survives."""

from __future__ import annotations

import contextlib
import os
import signal
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from .chats import Chat, Cluster, ScriptedCluster

LONG = "count to 4000"
"""an answer of 40 s"""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    made = ScriptedCluster(tmp_path_factory.mktemp("cluster"))
    yield made
    made.close()


@pytest.fixture
def start(cluster: Cluster) -> Iterator[Callable[..., Chat]]:
    with contextlib.ExitStack() as begun:

        def start(**env: str) -> Chat:
            chat = Chat("--max-tokens", "20000", **{**cluster.env, **env})
            return begun.enter_context(chat)

        yield start


@pytest.fixture
def chat(start: Callable[..., Chat]) -> Chat:
    return start()


def test_a_session(chat):
    chat.enter("Hello?")
    chat.enter("And now?")
    chat.enter("/history")
    chat.wait_for_prompt()
    assert chat.lines[0].startswith("limbot at tcp!127.0.0.1!")
    assert chat.lines[0].endswith(": 2 workers, simulated")
    assert chat.lines[1:] == [
        "/help shows the commands, ^C stops an answer, ^D leaves.",
        "> Hello?",
        "'Hello?' after 0",
        "> And now?",
        "'And now?' after 2",
        "> /history",
        "> Hello?",
        "'Hello?' after 0",
        "> And now?",
        "'And now?' after 2",
        ">",
    ]
    chat.type("\x04")
    assert chat.finish() == 0


def test_an_interrupt_stops_the_answer_and_not_the_program(chat, cluster):
    chat.enter(LONG)
    chat.wait_for("1 2 3 4 5")
    chat.type("\x03")
    chat.wait_for("[stopped; /more goes on]")
    cluster.wait_until_idle()
    chat.enter("next")
    chat.wait_for("'next' after 2")
    chat.enter("/exit")
    assert chat.finish() == 0


def test_an_interrupt_of_nothing_says_how_to_leave(chat):
    chat.wait_for_prompt()
    chat.type("begun")
    chat.wait_for("> begun")
    chat.type("\x03")
    chat.wait_for_prompt()
    chat.type("\x03")
    chat.wait_for("[^D or /exit leaves]")
    chat.enter("next")
    chat.wait_for("'next' after 0")
    assert chat.text.count("leaves]") == 1


def test_interrupts_in_a_row_break_nothing(chat):
    """Some come between two prompts."""
    chat.wait_for_prompt()
    for _ in range(30):
        chat.type("\x03")
    chat.wait_for("[^D or /exit leaves]")
    chat.type("\x15next\r")
    chat.wait_for("'next' after 0")
    assert "Traceback" not in chat.text and "Exception" not in chat.text


@pytest.mark.parametrize(
    "typed",
    ["one\\\rtwo\r", "one\x1b\rtwo\r", "\x1b[200~one\ntwo\x1b[201~\r"],
    ids=["backslash", "alt-enter", "pasted"],
)
def test_a_prompt_of_several_lines(chat, typed):
    chat.wait_for_prompt()
    chat.type(typed)
    chat.wait_for("'two' after 1")
    assert [line for line in chat.lines if line in ("> one", "  two")] == ["> one", "  two"]


def test_what_is_typed_during_an_answer_is_asked_after_it(chat):
    chat.enter("count to 100")
    chat.wait_for("1 2 3")
    chat.type("next\r")
    chat.wait_for("'next' after 2")
    assert " 99 100 " in chat.text, "and is not shown in the middle of it"


def test_what_was_typed_is_kept_and_found_again(start, cluster):
    first = start()
    first.enter("the needle")
    first.enter("hay")
    first.wait_for("'hay' after 2")
    path = Path(cluster.env["XDG_STATE_HOME"]) / "llambo" / "limbot_history"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    second = start()
    second.wait_for_prompt()
    second.type("\x12need")
    second.wait_for("the needle")
    second.type("\r\r")
    second.wait_for("'the needle' after 0")


def test_a_history_that_is_a_link_is_not_written(start, tmp_path):
    (tmp_path / "llambo").mkdir()
    (tmp_path / "llambo" / "limbot_history").symlink_to(tmp_path / "precious")
    chat = start(XDG_STATE_HOME=str(tmp_path))
    chat.wait_for("[what is typed is not kept: ")
    chat.enter("one")
    chat.wait_for("'one' after 0")
    assert not (tmp_path / "precious").exists()


def test_completion(chat, tmp_path):
    (tmp_path / "a conversation").write_text("")
    chat.wait_for_prompt()
    chat.type("/stat\t\r")
    chat.wait_for("answered by  any worker")
    chat.enter("/model ti\t")
    chat.wait_for("[tiny workers answer]")
    chat.enter("/set tempera\t 0")
    chat.wait_for("temperature          0")
    chat.enter(f"/load {tmp_path}/a c\t")
    chat.wait_for("[0 messages loaded from ")


def test_who_waits_is_told_his_place_in_the_queue(chat, cluster):
    with cluster.busy():
        chat.enter("one")
        chat.wait_for("[place 1 in the queue]")
    chat.wait_for("'one' after 0")
    assert chat.text.count("queue") == 1


def test_save_asks_before_it_overwrites(chat, tmp_path):
    path = tmp_path / "precious"
    path.write_text("precious")
    for times, refusal in enumerate(("n\r", "\x03", "\x04"), 1):
        chat.enter(f"/save {path}")
        chat.wait_for("Overwrite it? [y/N]", times=times)
        chat.type(refusal)
        chat.wait_for("is left as it was", times=times)
    assert path.read_text() == "precious"


def test_an_answer_cannot_command_the_terminal(chat):
    chat.enter("in red")
    chat.wait_for("^[[31mred^G")


def test_a_restart_in_the_middle_of_an_answer_loses_nothing(chat, cluster):
    chat.enter("/system Count well.")
    chat.enter("Hello?")
    chat.enter("count to 200")
    chat.wait_for(" 20 21 ")
    cluster.kill()
    chat.wait_for("[the cluster is gone; waiting for it (`llamboctl init`), ^C gives up]")
    cluster.start()
    chat.wait_for("[connected again]")
    chat.wait_for_prompt()
    shown = chat.lines[chat.lines.index("> count to 200") + 1 : -1]
    answer = "".join(line for line in shown if not line.startswith("["))
    assert answer.replace(" ", "") == "".join(map(str, range(1, 201))), "all of it, and once"
    chat.enter("next")
    chat.wait_for("'next' after 5")


def test_a_restart_between_two_questions_is_not_even_waited_for(chat, cluster):
    chat.enter("Hello?")
    chat.wait_for_prompt()
    cluster.kill()
    cluster.start()
    chat.enter("next")
    chat.wait_for("[connected again]", "'next' after 2")
    assert "gone" not in chat.text


def test_an_interrupt_ends_the_waiting_and_keeps_what_there_is(chat, cluster):
    chat.enter(LONG)
    chat.wait_for("1 2 3 4 5")
    cluster.kill()
    try:
        chat.wait_for("waiting for it")
        chat.type("\x03")
        chat.wait_for("[stopped; /more goes on]")
        chat.enter("/history")
        chat.wait_for_prompt()
    finally:
        cluster.start()
    chat.enter("next")
    chat.wait_for("'next' after 2")


def test_a_second_interrupt_leaves_a_cluster_that_does_not_react(chat, cluster):
    chat.enter(LONG)
    chat.wait_for("1 2 3 4 5")
    os.kill(cluster.pid, signal.SIGSTOP)
    try:
        chat.type("\x03")
        chat.wait_for("[the cluster does not react; ^C again hangs up]")
        chat.type("\x03")
        chat.wait_for("[stopped; /more goes on]")
    finally:
        os.kill(cluster.pid, signal.SIGCONT)
    chat.enter("next")
    chat.wait_for("'next' after 2")
