"""What a script does.

Every command of a pipeline and every branch of an `each` runs on a thread of its own, with
copies of the variables and the directory.  The first command that fails ends the script; with
`||` behind it, it is only told to what follows.  A file that is written gets its clunk, by
which a prompt is submitted, when all that wrote to it succeeded; otherwise its connection is
dropped, and nothing is submitted.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from py9p.constants import DMDIR, OTRUNC, OWRITE

from ..failure import Failure
from ..remote import Unreachable
from ..tree import lines
from . import host
from .connections import Calls, Job
from .namespace import Namespace, View, clean, glob, is_pattern
from .streams import (
    Collected,
    Descriptor,
    Nothing,
    Output,
    Read,
    Sink,
    Source,
    Turns,
    Written,
)
from .syntax import (
    Assignment,
    At,
    Block,
    Command,
    Each,
    Either,
    Pipeline,
    Redirect,
    Script,
    Simple,
    Text,
    Variable,
    Word,
)

_BRANCHES = 32
"""of one `each` that run at the same time"""
_TOLD = 3
"""failures of its branches that an `each` tells"""


class Failed(Failure):
    """A command failed, and where it stands."""

    def __init__(self, why: str, at: At) -> None:
        super().__init__(why)
        self.at = at


class Exit(Exception):
    """`exit`"""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


@dataclass(slots=True)
class Context:
    """What a command has to do with."""

    namespace: Namespace
    view: View
    job: Job
    source: Source
    sink: Sink
    held: contextlib.ExitStack
    """what is open as long as the shell is"""
    variables: dict[str, str]
    directory: str = "/"
    finish: Callable[[], None] = lambda: None
    """waits until all that feeds the source is over, and raises what failed there"""

    def path(self, name: str) -> str:
        return clean(name, self.directory)


@contextlib.contextmanager
def fork(
    context: Context,
    source: Source | None = None,
    sink: Sink | None = None,
    job: Job | None = None,
) -> Iterator[Context]:
    """For what runs on another thread, or leaves no trace."""
    job = job or context.job
    with Calls(job) as calls:
        yield replace(
            context,
            view=View(context.namespace, calls),
            job=job,
            source=source or context.source,
            sink=sink or context.sink,
            variables=dict(context.variables),
            finish=lambda: None,
        )


@dataclass(frozen=True, slots=True)
class Builtin:
    run: Callable[[Context, Sequence[str]], None]
    usage: str
    """its words"""
    what: str
    """it does, in a line"""
    is_verbatim: bool = False
    """patterns in its words stand for themselves"""


class Interpreter:
    def __init__(self, commands: dict[str, Builtin]) -> None:
        self._commands = commands

    def run(self, script: Script, context: Context) -> None:
        """Raises Failed, Exit, Interrupted, BrokenPipeError."""
        for item in script.items:
            self._either(item, context)

    def _either(self, either: Either, context: Context) -> None:
        *others, last = either.pipelines
        for pipeline in others:
            try:
                self._pipeline(pipeline, context)
            except Failed as e:
                context.job.check()
                context.variables["status"] = e.message
            else:
                context.variables["status"] = ""
                return
        try:
            self._pipeline(last, context)
        except Failed as e:
            context.variables["status"] = e.message
            raise
        context.variables["status"] = ""

    def _pipeline(self, pipeline: Pipeline, context: Context) -> None:
        *feeding, last = pipeline.commands
        if not feeding:
            self._command(last, context)
            return
        stage: _Stage | None = None
        for command in feeding:
            stage = _Stage(self._command, command, context, stage)
            stage.start()
        assert stage is not None
        source = Descriptor(stage.readable, context.job)
        own = replace(
            context, source=source, variables=dict(context.variables), finish=stage.finish
        )
        try:
            self._command(last, own)
        finally:
            stage.abandon()
        stage.finish()

    def _command(self, command: Command, context: Context) -> None:
        context.job.check()
        try:
            match command:
                case Assignment(name, word):
                    context.variables[name] = self._one(word, context)
                case Simple(words, redirects):
                    with self._redirected(redirects, context) as own:
                        self._simple(words, own)
                case Block(script, redirects):
                    with self._redirected(redirects, context) as own:
                        self.run(script, own)
                case Each(words, script, redirects):
                    with self._redirected(redirects, context) as own:
                        self._each(words, script, own)
        except Failed:
            context.job.check()
            raise
        except Failure as e:
            context.job.check()
            raise Failed(e.message, command.at) from None
        except BrokenPipeError:
            raise
        except OSError as e:
            raise Failed(e.strerror or str(e), command.at) from None

    def _simple(self, words: Sequence[Word], context: Context) -> None:
        [name] = self._expand(words[:1], context, verbatim=True)
        if name == "!":
            program = self._expand(words[1:], context)
            if not program:
                raise Failure("after ! comes a program of this machine")
            host.run(program, context.job, context.source, context.sink)
            return
        command = self._commands.get(name)
        if command is None:
            raise Failure(
                f"no command {name!r}; help lists them, and `! {name}` is a program of this machine"
            )
        command.run(context, self._expand(words[1:], context, command.is_verbatim))

    def _each(self, words: Sequence[Word], script: Script, context: Context) -> None:
        if words:
            items = self._expand(words, context, strict=True)
        else:
            given = (line.rstrip(b"\n") for line in lines(context.source.chunks()))
            items = [line.decode("utf-8", "surrogateescape") for line in given if line]
        turns = Turns(context.sink, items)
        failures: list[str | None] = [None] * len(items)

        def branch(number: int) -> None:
            item = items[number]
            try:
                with fork(context, Nothing(), turns.sink(number)) as own:
                    own.variables["it"] = item
                    if _is_directory(own, item):
                        own.directory = own.path(item)
                    self.run(script, own)
            except Failed as e:
                failures[number] = f"{item}: {e.message}"
            finally:
                turns.done(number)

        with ThreadPoolExecutor(_BRANCHES) as threads:
            for future in [threads.submit(branch, number) for number in range(len(items))]:
                future.result()
        told = [failure for failure in failures if failure is not None]
        if told:
            more = ["…"] if len(told) > _TOLD else []
            raise Failure(f"{len(told)} of {len(items)} failed: {'; '.join(told[:_TOLD] + more)}")

    # -- words --------------------------------------------------------------------

    def _expand(
        self,
        words: Sequence[Word],
        context: Context,
        verbatim: bool = False,
        strict: bool = False,
    ) -> list[str]:
        """A pattern becomes what it matches; if that is nothing, it stands for itself, or
        with `strict` is a Failure."""
        found = []
        for word in words:
            pieces = self._pieces(word, context)
            text = "".join(piece for piece, _ in pieces)
            if verbatim or not is_pattern(pieces):
                found.append(text)
                continue
            matching = glob(context.view, context.directory, pieces)
            if strict and not matching:
                raise Failure(f"{text} matches nothing")
            found += matching or [text]
        return found

    def _one(self, word: Word, context: Context) -> str:
        return "".join(text for text, _ in self._pieces(word, context))

    def _pieces(self, word: Word, context: Context) -> list[tuple[str, bool]]:
        """Texts side by side, with whether they may be a pattern."""
        pieces = []
        for part in word.parts:
            match part:
                case Text(text, quoted):
                    pieces.append((text, not quoted))
                case Variable(name):
                    if name not in context.variables:
                        raise Failure(f"there is no variable {name}; quote a $ to have one")
                    pieces.append((context.variables[name], False))
                case _:
                    collected = Collected()
                    with fork(context, sink=collected) as own:
                        self.run(part.script, own)
                    pieces.append((collected.text(), False))
        return pieces

    # -- redirections -------------------------------------------------------------

    @contextlib.contextmanager
    def _redirected(self, redirects: Sequence[Redirect], context: Context) -> Iterator[Context]:
        if not redirects:
            yield context
            return
        own = replace(context)
        with contextlib.ExitStack() as stack:
            files = []
            for redirect in redirects:
                path = context.path(self._one(redirect.word, context))
                job = stack.enter_context(context.job.part())
                calls = stack.enter_context(Calls(job))
                view = View(context.namespace, calls)
                if redirect.kind == "<":
                    own.source = Read(view.open(path), job)
                    continue
                offset = view.stat(path).length if redirect.kind == ">>" else 0
                file = view.open(path, OWRITE | (OTRUNC if redirect.kind == ">" else 0))
                own.sink = Written(file, offset)
                files.append(file)
            yield own
            context.finish()
            for file in files:
                file.__exit__(None, None, None)
        context.directory = own.directory


class _Stage(threading.Thread):
    """A command of a pipeline that is not its last, and what feeds it."""

    def __init__(
        self,
        run: Callable[[Command, Context], None],
        command: Command,
        context: Context,
        previous: _Stage | None,
    ) -> None:
        super().__init__(daemon=True)
        self._run = run
        self._command = command
        self._context = context
        self._previous = previous
        self._job = context.job.part()
        self._failure: Exception | None = None
        self.readable, self._writable = os.pipe()
        self._abandoned = False

    def run(self) -> None:
        try:
            with self._job:
                source = None
                if self._previous is not None:
                    source = Descriptor(self._previous.readable, self._job)
                with fork(self._context, source, Output(self._writable), self._job) as own:
                    if self._previous is not None:
                        own.finish = self._previous.finish
                    self._run(self._command, own)
        except BrokenPipeError:
            pass
        except Exception as e:
            if not self._job.cancelled:
                self._failure = e
        finally:
            os.close(self._writable)
            if self._previous is not None:
                self._previous.abandon()

    def abandon(self) -> None:
        """Nobody reads what it writes: it ends now, and how does not matter."""
        if not self._abandoned:
            self._abandoned = True
            self._job.cancel()  # before it sees that its pipe is broken
            os.close(self.readable)

    def finish(self) -> None:
        self.abandon()
        self.join()
        if self._previous is not None:
            self._previous.finish()
        if self._failure is not None:
            raise self._failure


def _is_directory(context: Context, name: str) -> bool:
    try:
        return bool(context.view.stat(context.path(name)).mode & DMDIR)
    except Unreachable:
        raise
    except Failure:
        return False
