"""limbot off a terminal: one question, and a chat whose lines come from a pipe."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from llambo9p_tools.failure import Failure
from llambo9p_tools.limbot.chat import DEFAULTS, Chat
from llambo9p_tools.remote import Remote

from llambo9p.net.address import parse

from .chats import Cluster, ScriptedCluster
from .cluster import COMMAND, environment, llamboctl


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    made = ScriptedCluster(tmp_path_factory.mktemp("cluster"))
    yield made
    made.close()


def said(cluster: Cluster, *args: str, stdin: str = "") -> str:
    done = cluster.limbot(*args, stdin=stdin)
    assert (done.exception, done.stderr) == (None, "")
    return done.stdout


def chat(cluster: Cluster, *lines: str) -> tuple[list[str], list[str]]:
    """What it says to these, on standard output and standard error."""
    done = cluster.limbot("-i", stdin="".join(f"{line}\n" for line in lines))
    assert done.exception is None
    return done.stdout.splitlines(), done.stderr.splitlines()


class TestOneQuestion:
    def test_the_answer_is_all_that_a_pipe_gets(self, cluster):
        assert said(cluster, "Who are you?") == "'Who are you?' after 0"
        assert said(cluster, "Who", "are", "you?") == "'Who are you?' after 0"

    def test_it_may_come_from_standard_input(self, cluster):
        assert said(cluster, "-", stdin="hello\n") == "'hello' after 0"
        assert said(cluster, stdin="one\ntwo\n") == "'two' after 1"

    def test_options_are_settings_of_the_conversation(self, cluster):
        asked = ("--system", "Be kind.", "--temperature", "0", "--seed", "7", "Hi")
        assert said(cluster, *asked) == "'Hi' after 1"
        assert said(cluster, "--max-tokens", "4", "Hi") == "'Hi'"

    def test_json(self, cluster):
        answer = json.loads(said(cluster, "--json", "Hi"))
        usage = answer.pop("usage")
        assert answer == {"text": "'Hi' after 0"}
        assert (usage["completion_tokens"], usage["finish_reason"]) == (12, "stop")
        assert isinstance(usage["total_ms"], float)

    def test_its_conversation_is_gone_afterwards(self, cluster):
        said(cluster, "Hi")
        assert not [name for name in cluster.out("ls").split() if name.isdigit()]

    def test_wrong_command_lines(self, cluster):
        for args in ((" ",), ("-",), ("-i", "--json", "Hi"), ("-i", "-"), ("--seed", "x", "Hi")):
            done = cluster.limbot(*args)
            assert isinstance(done.exception, click.UsageError) and done.stdout == ""

    def test_what_the_cluster_refuses_it_says(self, cluster):
        done = llamboctl("limbot", "--type", "nowhere", "--priority", "-1", "Hi", **cluster.env)
        assert (done.returncode, done.stdout) == (1, b"")
        assert done.stderr == b"llamboctl: no healthy worker of type nowhere; types are tiny\n"
        bad = cluster.state.with_name("bad.gbnf")
        bad.write_text("root ::=\n  b")
        for command in ("limbot", "infer", "fuse"):
            done = llamboctl(command, "--grammar", str(bad), "Hi", **cluster.env)
            assert (done.returncode, done.stdout) == (1, b"")
            why = f"{bad}: line 2: the rule `b` is used and not defined\n"
            assert done.stderr.decode() == f"llamboctl: {why}"

    def test_without_a_cluster_it_says_how_to_get_one(self, cluster, tmp_path):
        for args in (("Hi",), ("-i",)):
            done = llamboctl("limbot", *args, LLAMBO_STATE=str(tmp_path / "none"))
            assert (done.returncode, done.stdout) == (1, b"")
            assert b"Start one with `llamboctl init`" in done.stderr

    def test_an_interrupt_ends_it_and_the_answer(self, cluster):
        process = subprocess.Popen(
            ["env", "--default-signal=INT", *COMMAND, "limbot", "--max-tokens", "20000",
             "count to 4000"],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment(**cluster.env),
        )  # fmt: skip
        with process:
            assert process.stdout is not None and process.stderr is not None
            assert os.read(process.stdout.fileno(), 100).startswith(b"1")
            process.send_signal(signal.SIGINT)
            assert process.stderr.read() == b""
        assert process.returncode == 130
        cluster.wait_until_idle()

    def test_a_restart_of_the_cluster_is_not_seen_in_the_answer(self, cluster):
        process = subprocess.Popen(
            [*COMMAND, "limbot", "count to 80"],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment(**cluster.env),
        )  # fmt: skip
        with process:
            assert process.stdout is not None
            begun = os.read(process.stdout.fileno(), 10)
            cluster.kill()
            cluster.start()
            rest, notes = process.communicate()
        assert (begun + rest).split() == [str(i).encode() for i in range(1, 81)]
        assert process.returncode == 0
        assert notes.endswith(b"[connected again]\n")

    def test_a_reader_that_leaves_is_no_error(self, cluster):
        command = " ".join(COMMAND) + " limbot --max-tokens 20000 count to 4000 | head -c 5"
        done = subprocess.run(
            ["bash", "-c", f"{command}; exit ${{PIPESTATUS[0]}}"],
            capture_output=True, env=environment(**cluster.env),
        )  # fmt: skip
        assert (done.returncode, done.stdout, done.stderr) == (1, b"1 2 3", b"")
        cluster.wait_until_idle()

    def test_a_cluster_that_stays_away_is_not_waited_for_without_end(self, cluster):
        trees = [Remote(parse(cluster.address))]

        def connect() -> Remote:
            if trees:
                return trees.pop()
            raise Failure("nobody there")

        notices: list[str] = []
        chat = Chat(connect, {}, notice=notices.append, patience=0.3)
        chat.open()
        chat.hang_up()
        chat.stopping.clear()
        with pytest.raises(Failure, match="nobody there"):
            chat.ask("Hi", lambda piece: None)
        assert notices == ["nobody there; trying again, ^C gives up"]

    def test_explained(self):
        done = llamboctl("--explain", "limbot", "--seed", "7", "--system", "Be brief.", "Hi")
        assert done.stdout.decode().splitlines() == [
            "exec 3<>clone",
            "read n <&3",
            "echo 'seed 7' >&3",
            "echo 'Be brief.' >$n/system",
            "printf %s Hi >$n/prompt",
            "cat $n/out",
            "cat $n/usage",
            "exec 3>&-",
        ]
        assert llamboctl("--explain", "limbot", "-i").stdout.startswith(b"# ")

    def test_it_is_a_program_of_its_own(self, cluster):
        program = Path(sysconfig.get_path("scripts"), "limbot")
        done = subprocess.run([program, "-h"], capture_output=True, text=True)
        assert done.stdout.startswith("Usage: limbot [OPTIONS] [PROMPT]...")
        env = environment(LLAMBO_ADDR="tcp!127.0.0.1!1")
        done = subprocess.run([program, "Hi"], capture_output=True, text=True, env=env)
        assert done.returncode == 1 and done.stderr.startswith("limbot: no cluster answers at ")


class TestChat:
    def test_it_remembers(self, cluster):
        out, err = chat(cluster, "one", "", "two", "three")
        assert (out, err) == (["'one' after 0", "'two' after 2", "'three' after 4"], [])

    def test_the_first_prompt_may_be_given(self, cluster):
        assert said(cluster, "-i", "one", stdin="two\n") == "'one' after 0\n'two' after 2\n"

    def test_a_backslash_goes_on_in_the_next_line(self, cluster):
        out, _ = chat(cluster, "one\\", "two", "/history")
        assert out == ["'two' after 1", "> one", "  two", "'two' after 1"]

    def test_history_and_clear(self, cluster):
        out, err = chat(cluster, "/history", "one", "two", "/history", "/clear", "three")
        assert err == ["[nothing was said yet]", "[the conversation is forgotten; settings stay]"]
        assert out[2:] == ["> one", "'one' after 0", "> two", "'two' after 2", "'three' after 0"]

    def test_system(self, cluster):
        out, err = chat(cluster, "/system", "/system Be kind.", "one", "/clear", "two",
                        "/system -", "three")  # fmt: skip
        assert out == ["Be kind.", "'one' after 1", "'two' after 1", "'three' after 2"]
        assert err[0] == err[-1] == "[no system prompt]"

    def test_retry_asks_without_the_last_answer(self, cluster):
        out, err = chat(cluster, "/retry", "one", "two", "/retry", "/clear", "/retry")
        assert out == ["'one' after 0", "'two' after 2", "'two' after 2"]
        assert err.count("limbot: nothing was asked yet") == 2

    def test_what_fails_is_not_remembered_and_can_be_tried_again(self, cluster):
        out, err = chat(cluster, "x" * 40_000, "/retry", "one")
        assert out == ["'one' after 0"]
        assert len(err) == 2 and err[0] == err[1] and err[0].startswith("limbot: ")

    def test_usage(self, cluster):
        out, err = chat(cluster, "/usage", "one", "/usage")
        assert err == ["[nothing was answered yet]"]
        usage = dict(line.split() for line in out[1:])
        assert (usage["completion_tokens"], usage["finish_reason"]) == ("13", "stop")

    def test_status(self, cluster):
        out, _ = chat(cluster, "one", "/model tiny", "/status")
        shown = dict(line.split(maxsplit=1) for line in out[2:])
        assert shown["cluster"] == "healthy" and shown["workers"] == "2 healthy"
        assert (shown["models"], shown["turns"]) == ("simulated", "1")
        assert shown["answered"] == "by  tiny workers"

    def test_model_chooses_a_node_type_or_the_one_that_has_a_model(self, cluster):
        out, err = chat(cluster, "/model", "/model tiny", "/model -", "/model simulated", "one")
        unchosen, chosen = "  tiny  simulated (2)", "* tiny  simulated (2)"
        assert out == [unchosen, chosen, unchosen, chosen, "'one' after 0"]
        assert err[:2] == ["[any worker answers]", "[tiny workers answer]"]
        _, err = chat(cluster, "/model simulatd", "/model huge")
        assert err[0].endswith("; did you mean simulated?")
        assert err[1].endswith("; /model shows what there is")

    def test_set_changes_a_setting(self, cluster):
        out, err = chat(cluster, "/set max_tokens 5", "one", "/set stop ' after'", "/set stop",
                        "/set max_tokens -", "two", "/set")  # fmt: skip
        assert out[0].split() == ["max_tokens", "5"] and out[1] == "'one'"
        assert err == ["[cut at max_tokens 5; /more goes on]"]
        assert out[2] == out[3] and out[2].split(None, 1) == ["stop", "' after'"]
        assert out[4].split() == ["max_tokens", DEFAULTS["max_tokens"]] and out[5] == "'two'"
        assert [line.split()[0] for line in out[6:]] == list(DEFAULTS)

    def test_what_cannot_be_set_changes_nothing(self, cluster):
        out, err = chat(cluster, "/set max_tokens 5", "/set max_token 6", "/set xyzzy",
                        "/set max_tokens lots", "/set max_tokens 6\\", "reset",
                        "/set max_tokens")  # fmt: skip
        assert [line.split() for line in out] == [["max_tokens", "5"]] * 2
        assert err[:2] == ["limbot: there is no setting max_token; did you mean max_tokens?",
                           "limbot: there is no setting xyzzy; /set shows them"]  # fmt: skip
        assert "max_tokens must be a whole number 1.." in err[2] and err[2].endswith("not lots")
        assert err[3:] == ["limbot: max_tokens: a setting has one line"]

    def test_more_goes_on_with_what_was_cut(self, cluster):
        whole = " ".join(map(str, range(1, 21)))
        out, err = chat(cluster, "one", "/set max_tokens 9", "count to 20", *["/more"] * 6,
                        "/history", "/set max_tokens -", "last")  # fmt: skip
        shown = out.index("1 2 3 4 5")
        assert out[shown : shown + 6] == [whole[at : at + 9] for at in range(0, 54, 9)]
        cuts = [f"[cut at max_tokens {most}; /more goes on]" for most in range(9, 50, 9)]
        assert err == [*cuts, "limbot: there is no answer that was cut or stopped"]
        assert out[shown + 6 : -2] == ["> one", "'one' after 0", "> count to 20", whole]
        assert out[-1] == "'last' after 4", "the cluster knows the turn once, and whole"

    def test_more_keeps_to_the_newest_answer(self, cluster, tmp_path):
        none = "limbot: there is no answer that was cut or stopped"
        for between in ("/clear", f"/load {os.devnull}", "two"):
            lines = ("/set max_tokens 3", "one", "/set max_tokens -", between, "/more")
            _, err = chat(cluster, *lines)
            assert err[-1] == none
        assert chat(cluster, "/more") == ([], [none])

    def test_more_that_fails_leaves_the_turn_as_it_was(self, cluster):
        out, err = chat(cluster, "/set max_tokens 9", "count to 20", "/set type nowhere", "/more",
                        "/set type -", "/more", "/history")  # fmt: skip
        assert err == ["[cut at max_tokens 9; /more goes on]",
                       "limbot: no healthy worker of type nowhere; types are tiny",
                       "[cut at max_tokens 18; /more goes on]"]  # fmt: skip
        assert out[-2:] == ["> count to 20", "1 2 3 4 5 6 7 8 9 "]

    def test_it_fails_when_a_prompt_or_a_command_of_it_failed(self, cluster):
        for line, code in (("one", 0), ("/xyzzy", 1), ("/load /nowhere", 1), ("/set type -", 0)):
            done = llamboctl("limbot", "-i", stdin=f"{line}\ntwo\n".encode(), **cluster.env)
            assert done.returncode == code
            assert done.stdout.splitlines()[-1].startswith(b"'two' after")

    def test_save_and_load(self, cluster, tmp_path):
        path = tmp_path / "said.jsonl"
        _, err = chat(cluster, "one", "two", f"/save {path}")
        assert err == [f"[4 messages saved in {path}]"]
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        assert lines[:2] == [{"role": "user", "content": "one"},
                             {"role": "assistant", "content": "'one' after 0"}]  # fmt: skip
        out, err = chat(cluster, f"/load {path}", "three", "/retry")
        assert out == ["'three' after 4"] * 2

    def test_save_asks_before_it_overwrites(self, cluster, tmp_path):
        path = tmp_path / "precious"
        path.write_text("precious")
        path.chmod(0o644)
        _, err = chat(cluster, f"/save {path}", "n")
        assert err == [f"limbot: {path} is left as it was"]
        assert path.read_text() == "precious"
        chat(cluster, f"/save {path}", "y")
        assert path.read_text() == "" and stat.S_IMODE(path.stat().st_mode) == 0o600

    def test_what_cannot_be_loaded_changes_nothing(self, cluster, tmp_path):
        bad = tmp_path / "bad"
        bad.write_text('{"role": "user", "content": "one"}\n{"role": "king"}\n')
        out, err = chat(cluster, "one", f"/load {bad}", "/load /nowhere/at-all", "/load",
                        "/load ~no one", "two")  # fmt: skip
        assert out == ["'one' after 0", "'two' after 2"]
        assert err[0].startswith(f"limbot: {bad}: history line 2 is not ")
        assert err[1:] == ["limbot: /nowhere/at-all: No such file or directory",
                           "limbot: usage: /load FILE",
                           "limbot: ~no one: No such file or directory"]  # fmt: skip

    def test_an_unknown_command_is_not_asked(self, cluster):
        out, err = chat(cluster, "/histroy", "/xyzzy", "/clear all", "/etc/passwd is what?")
        assert out == ["'/etc/passwd is what?' after 0"]
        assert err == ["limbot: there is no command /histroy; did you mean /history?",
                       "limbot: there is no command /xyzzy; /help shows them",
                       "limbot: /clear takes nothing after it"]  # fmt: skip

    def test_a_reader_that_leaves_ends_it(self, cluster):
        command = " ".join(COMMAND) + " limbot -i | head -n 1"
        done = subprocess.run(
            ["bash", "-c", f"{command}; exit ${{PIPESTATUS[0]}}"], input=b"one\n" * 200,
            capture_output=True, env=environment(**cluster.env),
        )  # fmt: skip
        assert (done.returncode, done.stdout) == (1, b"'one' after 0\n")

    def test_exit_leaves(self, cluster):
        assert chat(cluster, "/exit", "one") == ([], [])

    def test_help_tells_of_every_command(self, cluster):
        out, _ = chat(cluster, "/help")
        told = {line.split()[0] for line in out if line.startswith("/")}
        assert told >= {"/help", "/history", "/clear", "/status", "/exit", "/system", "/model",
                        "/set", "/save", "/load", "/usage", "/retry"}  # fmt: skip
        assert max(map(len, out)) <= 60


def test_forgetting_is_told_when_it_begins(tmp_path):
    cluster = ScriptedCluster(tmp_path)
    try:
        cluster.add("small", 400)
        turn = "x" * 60
        out, err = chat(cluster, "/model small", turn, turn, turn, turn, turn, "/usage")
        hint = "/model tiny has 32768 tokens"
        assert err[1:] == [f"[the first turn is forgotten: the context is full; {hint}]"]
        assert "trimmed_turns      3" in out
        # where there is nothing larger, and once more when it was forgotten on purpose
        cluster.add("large", 32768)
        _, err = chat(cluster, "/model large", *["y" * 12000] * 3, "/clear", *["y" * 12000] * 3)
        told = [line for line in err if "context is full" in line]
        assert told == ["[the first turn is forgotten: the context is full]"] * 2
    finally:
        cluster.close()
