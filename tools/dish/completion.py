"""What Tab offers: commands, variables, paths and the verbs of a `ctl`, as they are now.

The verbs of a `ctl` are the settings that reading it shows, and actions that depend on which
directory it is in.  (A write that it refuses would tell all, but also leave its error in `status`.)
"""

from __future__ import annotations

import posixpath
import threading
import time
from collections.abc import Iterable, Iterator

from prompt_toolkit.completion import CompleteEvent, Completer, Completion
from prompt_toolkit.document import Document
from py9p.constants import DMDIR

from ..failure import Failure
from ..tree import Tree
from .builtins import COMMANDS
from .connections import Calls, Interrupted, Job
from .namespace import View, clean
from .shell import Shell
from .syntax import quote

_PATIENCE_S = 2.0
"""for the server's answer"""
_FRESH_S = 1.0
"""a listing is used again when Tab is pressed again"""
ACTIONS = {
    "": ("reset", "cancel"),
    "embed": ("drain", "resume", "shutdown"),
    "registry": (
        *("spawn", "scale", "load", "mount", "unmount", "strategy", "drain", "resume", "kill"),
        *("save", "restore", "shutdown"),
    ),
}
"""what `ctl` does beside taking settings, by a file that is beside it"""


class ShellCompleter(Completer):
    """Called on a thread of its own."""

    def __init__(self, shell: Shell) -> None:
        self._shell = shell
        self._listings: dict[str, tuple[float, list[tuple[str, bool]]]] = {}

    def get_completions(
        self, document: Document, complete_event: CompleteEvent
    ) -> Iterable[Completion]:
        words, word = at_cursor(document.text_before_cursor)
        start = -len(word)
        if word.startswith("$"):
            names = [f"${name}" for name in self._shell.variables]
            yield from (Completion(name, start) for name in sorted(names) if name.startswith(word))
            return
        if not words:
            names = [*COMMANDS, "each", "!"]
            yield from (Completion(f"{n} ", start, n) for n in names if n.startswith(word))
            return
        if words[0] == "help":
            yield from (Completion(name, start) for name in COMMANDS if name.startswith(word))
            return
        job = Job(self._shell.pools)
        impatience = threading.Timer(_PATIENCE_S, job.cancel)
        impatience.start()
        try:
            with job, Calls(job) as calls:
                tree = View(self._shell.namespace, calls)
                if words[0] == "write" and posixpath.basename(words[-1]) == "ctl":
                    path = clean(words[-1], self._shell.directory)
                    found = [Completion(f"{verb} ", start, verb) for verb in verbs(tree, path)
                             if verb.startswith(word)]  # fmt: skip
                else:
                    found = list(self._paths(tree, word))
            yield from found
        except (Failure, Interrupted):
            pass
        finally:
            impatience.cancel()

    def _paths(self, tree: Tree, word: str) -> Iterator[Completion]:
        typed = word[1:].replace("''", "'") if word.startswith("'") else word
        parent, slash, beginning = typed.rpartition("/")
        for name, is_directory in self._entries(tree, parent + slash):
            if name.startswith(beginning):
                path = quote(parent + slash + name)
                end = "/" if is_directory else " "
                if path.startswith("'") and is_directory:
                    path, end = path[:-1], "/"
                yield Completion(path + end, -len(word), name + end.strip())

    def _entries(self, tree: Tree, name: str) -> list[tuple[str, bool]]:
        path = clean(name, self._shell.directory)
        when, entries = self._listings.get(path, (0.0, []))
        if time.monotonic() - when > _FRESH_S:
            entries = sorted((e.name, bool(e.mode & DMDIR)) for e in tree.entries(path))
            self._listings = {path: (time.monotonic(), entries)}
        return entries


def verbs(tree: Tree, path: str) -> list[str]:
    """Of the `ctl` at `path`.  Raises Failure."""
    settings = [line.split(" ")[0] for line in tree.text(path).splitlines()]
    beside = {entry.name for entry in tree.entries(posixpath.dirname(path))}
    actions = [verb for file, some in ACTIONS.items() if file in ("", *beside) for verb in some]
    return sorted({*settings, *actions})


def at_cursor(text: str) -> tuple[list[str], str]:
    """The words of the command that `text` ends in, without what its output goes to, and
    the word that the cursor is in, as it is typed; what is quoted there is without its quotes
    in the former."""
    words: list[str] = []
    word, typed, quoted = "", "", False
    redirecting = False
    for ch in text:
        if ch == "'" and (quoted or not word[-1:].isalnum()):
            quoted = not quoted
            typed += ch
        elif quoted or ch not in " \t\n;|<>{}`":
            word += ch
            typed += ch
        else:
            if typed and not redirecting:
                words.append(word)
            if typed:
                redirecting = False
            if ch in "<>":
                redirecting = True
            elif ch in "\n;|{}`":
                words, redirecting = [], False
            word = typed = ""
    if redirecting and not words:
        words = ["<"]  # a file, and no command
    return words, typed
