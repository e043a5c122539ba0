"""What commands that ask make of their options, of files and of what is piped to them.

Each of `infer`, `fuse` and `limbot` must know each setting of `ctl` and each text; `--explain`
shows what a command writes, so this needs no cluster.
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from llambo9p_tools import asking
from llambo9p_tools.llamboctl import cli

from llambo9p.conversation.settings import SETTINGS
from llambo9p.errors import InvalidArgument

from .cluster import COMMAND
from .screen import Screen

ASK = ("infer", "fuse", "limbot")

VALUES = {
    "mode": ("complete", "chatty"),
    "max_tokens": ("7", "0"),
    "temperature": ("0.5", "99"),
    "top_p": ("0.25", "1.5"),
    "top_k": ("3", "-1"),
    "min_p": ("0.125", "nan"),
    "repeat_penalty": ("1.5", "0"),
    "seed": ("42", "4294967295"),
    "stop": ("END OF IT", ""),
    "logprobs": ("4", "21"),
    "whitespace_flexible": ("on", "yes"),
    "coerce_one_of": ("on", "1"),
    "lenient": ("on", "maybe"),
    "overflow": ("error", "drop"),
    "priority": ("-3", "1"),
    "type": ("small", "a b"),
    "request_id": ("mine-1", "ä"),
    "cache_label": ("project/x", "a b"),
}
"""of each setting: one that is taken, and one that is not"""


def asked(command: str, *args: str, stdin: bytes | str = "") -> Result:
    return CliRunner().invoke(cli, ["--explain", command, *args], stdin)


def lines_of(command: str, *args: str, stdin: bytes | str = "") -> list[str]:
    done = asked(command, *args, stdin=stdin)
    assert done.exit_code == 0, done.stderr
    return done.stdout.split("\n")


def prompt_of(command: str, *args: str, stdin: bytes | str = "") -> bytes:
    """What is asked, without the newline at its end, which a conversation drops."""
    done = asked(command, *args, stdin=stdin)
    assert done.exit_code == 0, done.stderr
    _, rest = re.split(rb"^(?:printf %s|echo) ", done.stdout_bytes, maxsplit=1, flags=re.MULTILINE)
    word = shlex.split(rest.decode("utf-8", "surrogateescape"))[0]
    return word.removesuffix("\n").encode("utf-8", "surrogateescape")


def error_of(command: str, *args: str, stdin: bytes | str = "") -> str:
    done = asked(command, *args, stdin=stdin)
    assert done.exit_code == 1
    return done.stderr.strip()


def test_every_setting_is_tried() -> None:
    assert set(VALUES) == {setting.name for setting in SETTINGS}
    assert all(setting.about for setting in SETTINGS)


@pytest.mark.parametrize("name", VALUES)
@pytest.mark.parametrize("command", ASK)
def test_each_command_has_each_setting(command: str, name: str) -> None:
    option, (good, bad) = f"--{name.replace('_', '-')}", VALUES[name]
    json = ["--json"] if name == "logprobs" else []
    written = [line for line in lines_of(command, "hi", option, good, *json) if " >&3" in line]
    quoted = f"'{good}'" if " " in good else good
    assert shlex.split(written[0])[:2] == ["echo", f"{name} {quoted}"]
    refused = asked(command, "hi", option, bad, *json)
    assert refused.exit_code == 2
    setting = next(each for each in SETTINGS if each.name == name)
    with pytest.raises(InvalidArgument) as of_ctl:
        setting.read((bad,))
    said = " ".join(refused.stderr.split("Error: ")[1].split())
    assert said == f"Invalid value for '{option}': {of_ctl.value}"


@pytest.mark.parametrize("command", ASK)
def test_each_command_has_each_text(command: str, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("the text")
    texts = dict.fromkeys(("system", "regex"), "the text")
    files = dict.fromkeys(("grammar", "schema"), str(tmp_path / "text"))
    for name, value in (texts | files).items():
        lines = lines_of(command, "hi", f"--{name}", value)
        assert any("the text" in line and line.endswith(f"n/{name}") for line in lines), lines
    both = asked(command, "hi", "--regex", "a", "--schema", str(tmp_path / "text"))
    assert (both.exit_code, "give --schema and --regex apart" in both.stderr) == (2, True)
    said = error_of(command, "hi", "--grammar", str(tmp_path / "none"))
    assert said.endswith(f"{tmp_path / 'none'}: No such file or directory")


@pytest.mark.parametrize("command", ASK)
def test_several_stops(command: str) -> None:
    lines = lines_of(command, "hi", "--stop", "one", "--stop", "t wo")
    assert shlex.split(lines[2])[1] == "stop one 't wo'"


@pytest.mark.parametrize("command", ASK)
class TestTheQuestion:
    def test_what_is_piped_comes_after_the_words(self, command: str) -> None:
        piped = prompt_of(command, "Explain this:", stdin="- old\n+ new\n")
        assert piped == b"Explain this:\n\n- old\n+ new"

    def test_files_come_between(self, command: str, tmp_path: Path) -> None:
        for name in ("one", "two"):
            (tmp_path / name).write_text(f"{name}\n")
        files = ("--file", str(tmp_path / "one"), "--file", str(tmp_path / "two"))
        assert prompt_of(command, "Compare", *files) == b"Compare\n\none\n\ntwo"
        assert prompt_of(command, *files, stdin="piped") == b"one\n\ntwo\n\npiped"
        assert prompt_of(command, "Sum up", "--file", "-", stdin="all") == b"Sum up\n\nall"

    def test_words_alone_files_alone_input_alone(self, command: str, tmp_path: Path) -> None:
        (tmp_path / "one").write_text("one\n")
        assert prompt_of(command, "just this") == b"just this"
        assert prompt_of(command, "--file", str(tmp_path / "one")) == b"one"
        assert prompt_of(command, stdin="piped\n") == b"piped"
        assert prompt_of(command, "-", stdin="piped\n") == b"piped"

    def test_bytes_are_kept(self, command: str) -> None:
        assert prompt_of(command, "x", stdin=b"\xff\x00\r\n"[:1]) == b"x\n\n\xff"

    def test_nothing_is_a_wrong_command_line(self, command: str) -> None:
        for args, stdin in (((), ""), (("-",), "\n"), (("",), ""), ((" ",), " \n")):
            said = asked(command, *args, stdin=stdin)
            assert (said.exit_code, "the question is empty" in said.stderr) == (2, True)

    def test_more_than_anybody_can_ask_is_refused(
        self, command: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(asking, "_MOST", 10)
        assert prompt_of(command, stdin="x" * 10) == b"x" * 10
        assert "standard input is longer than" in error_of(command, stdin="x" * 11)

    def test_a_missing_file_is_named(self, command: str, tmp_path: Path) -> None:
        said = error_of(command, "x", "--file", str(tmp_path / "none"))
        assert said.endswith(f"{tmp_path / 'none'}: No such file or directory")


def test_the_chat_keeps_its_standard_input() -> None:
    for args in (("-i", "-"), ("-i", "x", "--file", "-")):
        said = asked("limbot", *args, stdin="hello\n")
        assert (said.exit_code, "standard input is the chat's" in said.stderr) == (2, True)


def test_logprobs_are_shown_somewhere() -> None:
    for command in ASK:
        said = asked(command, "x", "--logprobs", "3")
        assert (said.exit_code, "with --json only" in said.stderr) == (2, True)
        assert "$n/logprobs" in " ".join(lines_of(command, "x", "--logprobs", "3", "--json"))


def test_input_that_does_not_come_is_told_of() -> None:
    command = " ".join(map(shlex.quote, COMMAND))
    nowhere = "tcp!127.0.0.1!1"
    with Screen(["bash", "-c", f"sleep 2 | {command} --addr '{nowhere}' infer hi"]) as screen:
        screen.wait_for("[reading standard input to its end; </dev/null for none]")
        screen.wait_for(f"no cluster answers at {nowhere}")


def test_a_terminal_is_not_waited_for() -> None:
    with Screen([*COMMAND, "--explain", "infer", "hi"]) as screen:
        screen.until(lambda text: "printf %s hi" in text)
        assert "reading" not in screen.text
