"""The commands.  Each reads its words and its source, and writes to its sink; what goes wrong
is a Failure.  Whatever they do is done to files of the shell's name space.
"""

from __future__ import annotations

import itertools
import queue
import shutil
import textwrap
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence

import click
from py9p.constants import DMDIR, ORDWR, OTRUNC, OWRITE
from py9p.messages import Dir

from .. import show, workers
from ..failure import Failure
from ..prose import Prose
from ..tree import lines
from ..which_cluster import parse_address
from .connections import Calls
from .interpreter import Builtin, Context, Exit
from .namespace import Place
from .streams import Sink
from .syntax import quote

_QUIET_S = 0.2
"""without anything new, and `tail -f` has seen what was there"""
_SHOWN = ("id", "type", "state", "health", "load", "queued", "requests", "tokens", "model")
"""attributes of a worker that `nodes` has room for"""
_INFO = frozenset(("hosts", "types", "models", "context", "slots", "strategy"))
"""attributes of the cluster that its health does not have"""


# -- the cluster ----------------------------------------------------------------------


def _help(context: Context, words: Sequence[str]) -> None:
    for name in words or COMMANDS:
        command = COMMANDS.get(name)
        if command is None:
            raise Failure(f"no command {name!r}; help lists them")
        _explain(context.sink, f"{name} {command.usage}", command.what)
    if not words:
        _line(context.sink, "")
        for form, what in _LANGUAGE.items():
            _explain(context.sink, form, what)
        _line(context.sink, "")
        for line in textwrap.wrap(_ABOUT, _width(context.sink)):
            _line(context.sink, line)


def _explain(sink: Sink, form: str, what: str) -> None:
    begin = f"{form:<25} - "
    for line in textwrap.wrap(
        what, _width(sink), initial_indent=begin, subsequent_indent=" " * len(begin)
    ):
        _line(sink, line)


def _width(sink: Sink) -> int:
    return shutil.get_terminal_size().columns if sink.is_terminal else 80


_LANGUAGE = {
    "! program word …": "Run a program of this machine",
    "each word … { a }": "Run a for all words at once; $it is the word, and where that is a "
    "directory, a runs in there",
    "a ; b": "First a, then b if a did not fail",
    "a || b": "If a fails, b; $status says why it did",
    "a | b": "What a shows is the input of b",
    "a > file, a >> file": "What a shows goes to the file; >> does not truncate it first",
    "a < file": "The file is the input of a",
    "name=word, $name": "Set a variable; what it holds",
    "`{a}": "What a shows, as a word",
    "'it''s a word'": "A word as it is",
    "*, ?, [a-z]": "The names that match",
    "# word …": "A comment",
}
_ABOUT = (
    "The files are the cluster's; who writes /worker-0000/prompt, finds the answer in "
    "/worker-0000/out. What bind and mount do is seen in this shell only; to mount "
    "workers in the cluster, write /ctl mount ADDRESS."
)


def _status(context: Context, words: Sequence[str]) -> None:
    _none(words)
    _copy(context, "/status")


def _nodes(context: Context, words: Sequence[str]) -> None:
    _none(words)
    rows = []
    for worker in workers.parse(context.view.text("/workers")):
        model = worker.model.rpartition("/")[2]
        numbers = (worker.load, worker.queued, worker.requests, worker.tokens)
        words = (worker.name, worker.type, worker.state, worker.health, *map(str, numbers), model)
        rows.append(words)
    if not rows:
        if context.sink.is_terminal:
            _line(context.sink, "no workers; start some with `write /ctl spawn --count 4`")
        return
    room = _width(context.sink) if context.sink.is_terminal else None
    for i, line in enumerate(show.columns(_SHOWN, rows, room)):
        _line(context.sink, _styled(context.sink, line, bold=i == 0))


def _cluster(context: Context, words: Sequence[str]) -> None:
    if list(words) != ["info"]:
        raise Failure("usage: cluster info")
    _line(context.sink, f"address {context.namespace.find('/').address}")
    for line in context.view.text("/status").splitlines():
        if line.partition(" ")[0] in _INFO:
            _line(context.sink, line)
    _copy(context, "/health")


def _infer(context: Context, words: Sequence[str]) -> None:
    _ask(context, "/data", " ".join(words))


def _query(context: Context, words: Sequence[str]) -> None:
    if not words:
        raise Failure("usage: query FILE TEXT")
    _ask(context, context.path(words[0]), " ".join(words[1:]))


def _ask(context: Context, path: str, text: str) -> None:
    """Without a text it is the input."""
    with context.view.open(path, ORDWR) as file:
        offset = 0
        for piece in [_encode(text)] if text else context.source.chunks():
            file.write(piece, offset)
            offset += len(piece)
        if not offset:
            raise Failure("the question is empty")
        if not context.sink.is_terminal:
            for piece in file.chunks():
                context.sink.write(piece)
            return
        prose = Prose(lambda: _width(context.sink))
        last = b""
        try:
            for last in file.chunks():
                context.sink.write(prose.add(last))
        finally:
            context.sink.write(prose.rest())
        if not last.endswith(b"\n"):
            context.sink.write(b"\n")


def _clone(context: Context, words: Sequence[str]) -> None:
    place = context.path(_at_most_one(words, "clone [DIRECTORY]") or ".")
    # a connection that ends with the shell and not with this command
    with Calls(context.job) as calls:
        there = context.namespace.find(place + "/clone")
        remote = calls.to(there.address)
        file = remote.open(there.path, ORDWR)
        number = b"".join(file.chunks()).decode().strip()
        calls.keep(there.address)
    context.held.callback(remote.close)
    _line(context.sink, f"{place.rstrip('/')}/{number}")


def _exit(context: Context, words: Sequence[str]) -> None:
    code = _at_most_one(words, "exit [STATUS]") or "0"
    if not code.isdecimal() or int(code) > 255:
        raise Failure("usage: exit [STATUS], 0 to 255")
    raise Exit(int(code))


# -- files ----------------------------------------------------------------------------


def _cd(context: Context, words: Sequence[str]) -> None:
    name = _at_most_one(words, "cd [DIRECTORY]") or "/"
    path = context.path(name)
    if not context.view.stat(path).mode & DMDIR:
        raise Failure(f"{name}: is not a directory")
    context.directory = path


def _pwd(context: Context, words: Sequence[str]) -> None:
    _none(words)
    _line(context.sink, context.directory)


def _ls(context: Context, words: Sequence[str]) -> None:
    long, names = _flag("-l", words)
    entries: list[tuple[str, Dir]] = []
    for name in names or ["."]:
        path = context.path(name)
        if context.view.stat(path).mode & DMDIR:
            inside = name.rstrip("/") + "/" if len(names) > 1 else ""
            entries += [(inside + entry.name, entry) for entry in context.view.entries(path)]
        else:
            entries.append((name, context.view.stat(path)))
    if long:
        for name, entry in entries:
            _line(context.sink, show.details(entry) + _name(context.sink, name, entry))
    elif context.sink.is_terminal:
        _columns(context.sink, entries)
    else:
        for name, entry in entries:
            _line(context.sink, _name(context.sink, name, entry))


def _name(sink: Sink, name: str, entry: Dir) -> str:
    return _styled(sink, name, fg="blue", bold=True) if entry.mode & DMDIR else name


def _columns(sink: Sink, entries: Sequence[tuple[str, Dir]]) -> None:
    """Down, then across, as far as the terminal is wide."""
    width = max((len(name) for name, _ in entries), default=0) + 2
    across = max(_width(sink) // width, 1)
    down = -(-len(entries) // across)
    for row in range(down):
        line = [
            _name(sink, name, entry) + " " * (width - len(name))
            for name, entry in entries[row::down]
        ]
        _line(sink, "".join(line).rstrip())


def _cat(context: Context, words: Sequence[str]) -> None:
    if not words:
        for piece in context.source.chunks():
            context.sink.write(piece)
    for name in words:
        _copy(context, context.path(name))


def _copy(context: Context, path: str) -> None:
    with context.view.open(path) as file:
        if file.is_directory:
            raise Failure(f"{path}: is a directory; ls lists it")
        for piece in file.chunks():
            context.sink.write(piece)


def _echo(context: Context, words: Sequence[str]) -> None:
    bare, words = _flag("-n", words)
    context.sink.write(_encode(" ".join(words) + ("" if bare else "\n")))


def _write(context: Context, words: Sequence[str]) -> None:
    if len(words) < 2:
        raise Failure("usage: write FILE TEXT")
    with context.view.open(context.path(words[0]), OWRITE | OTRUNC) as file:
        file.write(_encode(" ".join(words[1:])))


def _head(context: Context, words: Sequence[str]) -> None:
    count, names = _count(words)
    for found in _inputs(context, names):
        for line in itertools.islice(found, count):
            context.sink.write(line)


def _tail(context: Context, words: Sequence[str]) -> None:
    follow, words = _flag("-f", words)
    count, names = _count(words)
    if follow and len(names) > 1:
        raise Failure("usage: tail -f [-n N] FILE")
    for found in _inputs(context, names):
        if follow:
            _follow(found, count, context.sink.write)
            continue
        for line in deque(found, maxlen=count):
            context.sink.write(line)


def _follow(found: Iterator[bytes], count: int, write: Callable[[bytes], None]) -> None:
    """The last lines of what is there, and all that comes then."""
    coming: queue.SimpleQueue[bytes | Exception | None] = queue.SimpleQueue()

    def read() -> None:
        try:
            for line in found:
                coming.put(line)
            coming.put(None)
        except Exception as e:
            coming.put(e)

    threading.Thread(target=read, daemon=True).start()
    kept: deque[bytes] | None = deque(maxlen=count)
    while True:
        try:
            line = coming.get(timeout=_QUIET_S if kept is not None else None)
        except queue.Empty:
            line = b""
        if kept is not None and isinstance(line, bytes) and line:
            kept.append(line)
            continue
        for old in kept or ():
            write(old)
        kept = None
        if isinstance(line, Exception):
            raise line
        if line is None:
            return
        write(line)


def _inputs(context: Context, names: Sequence[str]) -> Iterator[Iterator[bytes]]:
    """The lines of each file, or of the input."""
    if not names:
        yield lines(context.source.chunks())
    for name in names:
        with context.view.open(context.path(name)) as file:
            yield lines(file.chunks())


# -- the name space -------------------------------------------------------------------


def _bind(context: Context, words: Sequence[str]) -> None:
    if len(words) != 2:
        raise Failure("usage: bind OLD NEW")
    old, new = map(context.path, words)
    context.view.stat(old)
    context.namespace.add(new, context.namespace.find(old), f"bind {quote(old)} {quote(new)}")


def _mount(context: Context, words: Sequence[str]) -> None:
    if len(words) != 2:
        raise Failure("usage: mount ADDRESS NAME")
    address, name = parse_address(words[0], "mount"), context.path(words[1])
    with Calls(context.job) as calls:
        calls.to(address)
    context.namespace.add(name, Place(address, "/"), f"mount {quote(str(address))} {quote(name)}")


def _unmount(context: Context, words: Sequence[str]) -> None:
    if len(words) != 1:
        raise Failure("usage: unmount NAME")
    context.namespace.remove(context.path(words[0]))


def _ns(context: Context, words: Sequence[str]) -> None:
    _none(words)
    for line in context.namespace.lines:
        _line(context.sink, line)


# -- words and lines ------------------------------------------------------------------


def _none(words: Sequence[str]) -> None:
    if words:
        raise Failure(f"nothing is expected after it, but there is {words[0]!r}")


def _at_most_one(words: Sequence[str], usage: str) -> str | None:
    if len(words) > 1:
        raise Failure(f"usage: {usage}")
    return words[0] if words else None


def _flag(flag: str, words: Sequence[str]) -> tuple[bool, Sequence[str]]:
    """Whether it is the first word, and the others."""
    return (True, words[1:]) if words[:1] == [flag] else (False, words)


def _count(words: Sequence[str]) -> tuple[int, Sequence[str]]:
    if not words or not words[0].startswith("-"):
        return 10, words
    number, rest = words[0][1:], words[1:]
    if number == "n" and rest:
        number, rest = rest[0], rest[1:]
    if not number.isdecimal():
        raise Failure("usage: [-n N] [FILE …]")
    return int(number), rest


def _encode(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _line(sink: Sink, text: str) -> None:
    sink.write(_encode(text) + b"\n")


def _styled(sink: Sink, text: str, fg: str | None = None, bold: bool = False) -> str:
    return click.style(text, fg=fg, bold=bold) if sink.has_colours else text


COMMANDS = {
    "help": Builtin(_help, "", "Show available commands"),
    "status": Builtin(_status, "", "Show cluster status"),
    "nodes": Builtin(_nodes, "", "List cluster nodes"),
    "infer": Builtin(_infer, "<text>", "Run inference", is_verbatim=True),
    "ask": Builtin(_infer, "<text>", "Same as infer", is_verbatim=True),
    "cluster": Builtin(_cluster, "info", "Cluster information"),
    "exit": Builtin(_exit, "[status]", "Exit shell"),
    "cd": Builtin(_cd, "[dir]", "Go to a directory, to / without one"),
    "pwd": Builtin(_pwd, "", "Show which directory this is"),
    "ls": Builtin(_ls, "[-l] [path …]", "List directories"),
    "cat": Builtin(_cat, "[file …]", "Show files as they come, or what is input"),
    "head": Builtin(_head, "[-n N] [file …]", "Show the first lines"),
    "tail": Builtin(_tail, "[-f] [-n N] [file …]", "Show the last lines; with -f also what comes"),
    "echo": Builtin(_echo, "[-n] word …", "Show words; with -n the line goes on"),
    "write": Builtin(_write, "file text", "Write a text, exactly", is_verbatim=True),
    "query": Builtin(_query, "file text", "Write to data or embed and show its answer",
                     is_verbatim=True),
    "clone": Builtin(_clone, "[dir]", "Make a conversation, there until the shell ends"),
    "bind": Builtin(_bind, "old new", "Give a file a second name, for this shell"),
    "mount": Builtin(_mount, "address name", "Another 9P server's tree, for this shell"),
    "unmount": Builtin(_unmount, "name", "End a bind or a mount"),
    "ns": Builtin(_ns, "", "Show binds and mounts"),
}  # fmt: skip
