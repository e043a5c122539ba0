"""What is asked from a command line: one table of options for all commands that ask.

Owns `question_options`, an option for each setting of `ctl` (by `conversation.settings`, so that
a new setting is an option at once), for each text of a conversation, and for files whose text is
part of the question; and `question`, which joins that text with what is piped.

Rules kept here:
- What `ctl` would refuse is a wrong command line, in the same words.
- What is piped counts beside a question: first the words, then each file, then standard input,
  with an empty line between any two.  A terminal is not waited for when there are words.
- Standard input that neither ends nor says anything is told of, once.
"""

from __future__ import annotations

import functools
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click

from llambo9p.conversation.settings import SETTINGS, Setting
from llambo9p.engine.structured.constraint import KINDS
from llambo9p.errors import InvalidArgument

from .encoding import without_bom
from .failure import Failure, NoCluster
from .tree import Tree

_Command = Callable[..., Any]

_MOST = 64 << 20
"""bytes of a question: more than any server takes, and less than a machine has"""
_SILENT_S = 1.0
"""that standard input may say nothing before we do"""


@dataclass(frozen=True, slots=True)
class Given:
    """What the options of a command line gave."""

    settings: Mapping[str, str] = field(default_factory=dict)
    """by name, in the words that `ctl` takes"""
    texts: Mapping[str, bytes] = field(default_factory=dict)
    """by the conversation's file that each is written to"""
    sources: Mapping[str, str] = field(default_factory=dict)
    """of these texts, by the same: what errors about it call it"""
    files: Sequence[str] = ()
    """whose texts are part of the question; "-" is standard input"""

    @property
    def is_plain(self) -> bool:
        """No conversation of its own is needed for it."""
        return not self.settings and not self.texts

    def check_shown(self, as_json: bool) -> None:
        """Raises UsageError for an option of which nothing would be seen."""
        if "logprobs" in self.settings and not as_json:
            raise click.UsageError("--logprobs are shown with --json only")


def question_options(command: _Command) -> _Command:
    """The options, which the command is given as `given`."""

    @functools.wraps(command)
    def collected(*args: Any, **kwargs: Any) -> Any:
        settings = {}
        for setting in SETTINGS:
            value = kwargs.pop(f"set_{setting.name}")
            if value not in (None, ()):
                settings[setting.name] = setting.show(_checked(setting, value))
        sources, texts = {}, {}
        for option in _TEXTS:
            value = kwargs.pop(option.file)
            if value is not None:
                sources[option.file], texts[option.file] = option.read(value)
        if len(several := [kind for kind in KINDS if kind in texts]) > 1:
            both = " and ".join(f"--{kind}" for kind in several)
            raise click.UsageError(f"an answer is held to one text: give {both} apart")
        given = Given(settings, texts, sources, kwargs.pop("files"))
        return command(*args, given=given, **kwargs)

    options: list[Callable[[_Command], _Command]] = [
        *(_setting_option(setting) for setting in SETTINGS),
        *(option.option() for option in _TEXTS),
        click.option("--file", "files", multiple=True, metavar="FILE",
                     help="Ask about its text, too; `-` is standard input."),
    ]  # fmt: skip
    made: _Command = collected
    for option in reversed(options):
        made = option(made)
    return made


def _setting_option(setting: Setting) -> Callable[[_Command], _Command]:
    usage = setting.usage.replace("[", "").replace("]...", "").replace("]", "")
    return click.option(
        f"--{setting.name.replace('_', '-')}",
        f"set_{setting.name}",
        metavar=usage,
        multiple=setting.n_max > 1,
        help=setting.about,
    )


def _checked(setting: Setting, value: str | tuple[str, ...]) -> Any:
    """The value as `ctl` would have it."""
    words = (value,) if isinstance(value, str) else value
    try:
        if len(words) > setting.n_max:
            raise InvalidArgument(f"{setting.name} takes at most {setting.n_max} texts")
        return setting.read(words)
    except InvalidArgument as e:
        hint = f"--{setting.name.replace('_', '-')}"
        raise click.BadParameter(str(e), param_hint=f"'{hint}'") from None


@dataclass(frozen=True, slots=True)
class _TextOption:
    """A text of a conversation, given as it is or by the name of a file."""

    file: str
    is_file: bool
    about: str

    def option(self) -> Callable[[_Command], _Command]:
        metavar = "FILE" if self.is_file else "TEXT"
        return click.option(f"--{self.file}", self.file, metavar=metavar, help=self.about)

    def read(self, value: str) -> tuple[str, bytes]:
        """What errors call it, and the text."""
        if self.is_file:
            return value, _file(value)
        return f"--{self.file}", value.encode("utf-8", "surrogateescape")


_TEXTS = (
    _TextOption("system", False, "The system prompt."),
    _TextOption("grammar", True, "Hold the answer to this grammar, GBNF or Lark."),
    _TextOption("schema", True, "Hold the answer to this JSON schema."),
    _TextOption("regex", False, "Hold the answer to this regular expression."),
)


def question(words: str | None, files: Sequence[str], pipe: bool = True) -> bytes:
    """The words, where they are not `-`, the files, and what is piped; `pipe` is whether
    standard input may be looked at.  Raises Failure for a file that cannot be read, and
    UsageError when all of it is blank."""
    pieces = [*_pieces(words, files, pipe)]
    text = b"\n\n".join([*(piece.rstrip(b"\n") for piece in pieces[:-1]), *pieces[-1:]])
    if not text.strip():
        raise click.UsageError("the question is empty")
    return text


def _pieces(words: str | None, files: Sequence[str], pipe: bool) -> Iterator[bytes]:
    said = words is not None and words != "-"
    if said and words:
        yield words.encode("utf-8", "surrogateescape")
    for name in files:
        if name != "-":
            yield _file(name)
    asked_for = words == "-" or "-" in files or not (said or files)
    if asked_for and not pipe:
        raise click.UsageError("standard input is the chat's; it cannot be the question, too")
    if asked_for or (pipe and not sys.stdin.isatty()):
        if piped := _piped():
            yield piped


def put_text(tree: Tree, directory: str, name: str, text: bytes, source: str) -> None:
    """Write a text of the conversation in `directory`, one that is not blank; what is refused of
    it is said of its `source`.  Raises Failure."""
    path = f"{directory}/{name}"
    try:
        tree.write(path, text)
    except NoCluster:
        raise
    except Failure as e:
        if not e.message.startswith(f"{path}: "):
            raise
        said = e.message.removeprefix(f"{path}: ").removeprefix(f"{name} ")
        raise Failure(f"{source}: {said}") from None


def _file(name: str) -> bytes:
    try:
        with Path(name).open("rb") as f:
            return _bounded(f.read(_MOST + 1), name)
    except OSError as e:
        raise Failure(f"{name}: {e.strerror}") from None


def _piped() -> bytes:
    """Standard input to its end."""
    timer = threading.Timer(
        _SILENT_S,
        lambda: click.echo("[reading standard input to its end; </dev/null for none]", err=True),
    )
    timer.daemon = True
    if sys.stderr.isatty():
        timer.start()
    try:
        return _bounded(sys.stdin.buffer.read(_MOST + 1), "standard input")
    finally:
        timer.cancel()


def _bounded(data: bytes, name: str) -> bytes:
    """The text, if it is not too long."""
    if len(data) > _MOST:
        raise Failure(f"{name} is longer than {_MOST >> 20} MiB, too much for a question")
    return without_bom(data)
