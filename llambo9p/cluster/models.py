"""What models there are: found below `models.path`, listed in `models/`, chosen by name.

A model's name is its file's without `.gguf`; `default` is the bundled one.  What cannot
be used is listed all the same, with the reason as its `error`: a file that is no model, a
name that several files have, a directory that cannot be read.  The directories are searched
whenever somebody looks, on a thread; a file is read again only when its time or size changes.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..engine import gguf, kinds, memory, verdicts
from ..engine.base import Exact
from ..errors import ModelError, NotDirectory, NotFound, PermissionDenied
from ..fs.file import OpenFile
from ..fs.tree import Directory, OpenSnapshot, SyntheticFile, Tree, joined, stat_now
from ..p9 import constants as c
from ..p9.node import Maybe, Walk
from ..p9.wire import Dir
from .config import SIMULATED, is_path

DEPTH = 8
"""directories below one of `models.path` that are looked into"""
ENTRIES = 100_000
"""files and directories that are looked at below each"""

_Identity = tuple[int, int, int]
"""inode, time and size of a file"""


@dataclass(frozen=True, slots=True)
class Model:
    """Something called `name`: a model, or why it is none."""

    name: str
    paths: Sequence[Path]
    header: gguf.Header | None = None
    error: str = ""
    exact: Exact = "unknown"
    """whether its answers are the same bit by bit however it is asked, on this machine"""
    exact_required: Exact = "unknown"
    """with `exact: required` in a type's resources"""

    @property
    def text(self) -> str:
        """`attr value` lines."""
        attrs: list[tuple[str, object]] = [("name", self.name)]
        attrs += [("path", _shown(str(path))) for path in self.paths]
        if header := self.header:
            attrs += [
                ("kind", kinds.kind(header)),
                ("size", header.size),
                ("title", _shown(header.title) or "-"),
                ("architecture", _shown(header.architecture)),
                ("context", header.context),
                ("quantisation", header.quantisation),
                ("chat_template", "yes" if header.has_chat_template else "no"),
                ("parameters", header.parameters),
                ("exact", self.exact),
                ("exact_required", self.exact_required),
            ]
        if self.error:
            attrs.append(("error", _shown(self.error)))
        return "".join(f"{name} {value}\n" for name, value in attrs)


_Found = dict[str, Model]


class Models:
    """See the module."""

    def __init__(self, directories: Sequence[Path] = ()) -> None:
        self._directories = directories
        self._headers: dict[Path, tuple[_Identity, gguf.Header]] = {}
        """of the files that were good when they were read last"""
        self._searching: asyncio.Task[_Found] | None = None
        self._waiting: asyncio.Task[_Found] | None = None
        """the search that begins when that one ends"""

    async def found(self) -> _Found:
        """All there are, by name, searched for after this was called; searches that begin at
        the same time are one."""
        if self._waiting is None:
            self._waiting = asyncio.create_task(self._search_after(self._searching))
        return await asyncio.shield(self._waiting)

    async def _search_after(self, before: asyncio.Task[_Found] | None) -> _Found:
        if before is not None:
            await asyncio.wait((before,))
        self._searching, self._waiting = self._waiting, None
        return await asyncio.to_thread(self._search)

    async def path(self, model: str) -> str:
        """What `llambo-worker --model` is to be given for a node type's `model`.

        Raises ModelError, naming what there is when it is a name that is not found.
        """
        if model == SIMULATED or is_path(model):
            return model
        found = await self.found()
        named = found.get(model)
        if named is None and model == "default":
            return model  # and the host says what is missing
        if named is None:
            names = [*(name for name, model in found.items() if not model.error), SIMULATED]
            raise ModelError(f"no model {model!r}; there are {' '.join(names)}, and paths")
        if named.error:
            raise ModelError(f"model {model!r}: {named.error}")
        return str(named.paths[0])

    # -- on a thread --------------------------------------------------------------

    def _search(self) -> _Found:
        seen: dict[str, list[Path]] = {}
        with contextlib.suppress(ModelError):
            seen["default"] = [gguf.default_model()]
        unread: list[Model] = []
        visited: set[tuple[int, int]] = set()
        for directory in self._directories:
            for path in _files(directory, visited, unread):
                seen.setdefault(_shown(path.stem), []).append(path)
        headers, self._headers = self._headers, {}
        models = [self._model(name, paths, headers) for name, paths in seen.items()]
        return {model.name: model for model in (*models, *unread)}

    def _model(
        self, name: str, paths: list[Path], before: dict[Path, tuple[_Identity, gguf.Header]]
    ) -> Model:
        if name == SIMULATED:
            return Model(name, paths, error="the name of the engine without a model: use the path")
        if len(paths) > 1:
            return Model(name, paths, error=f"{len(paths)} files have this name: use a path")
        (path,) = paths
        try:
            status = path.stat()
            identity = status.st_ino, status.st_mtime_ns, status.st_size
            known, header = before.get(path, (None, None))
            if header is None or known != identity:
                header = gguf.read(path)
        except (ModelError, OSError) as error:
            return Model(name, paths, error=str(error))
        self._headers[path] = identity, header
        types = memory.kv_types(header)
        usual, plain = (verdicts.known(path, types, plain) for plain in (False, True))
        ways = {usual, plain}
        required: Exact = "yes" if "yes" in ways else "no" if ways == {"no"} else "unknown"
        return Model(name, paths, header, kinds.refusal(header), usual, required)


def _files(top: Path, visited: set[tuple[int, int]], unread: list[Model]) -> Iterator[Path]:
    """The GGUF files below a directory, by name.  A directory that was `visited`, by a link or
    from another top, is not looked into again; those that cannot be go to `unread`."""
    looked = 0
    directories = [(top, 0)]
    while directories:
        directory, depth = directories.pop()
        try:
            status = directory.stat()
            if (status.st_dev, status.st_ino) in visited:
                continue
            visited.add((status.st_dev, status.st_ino))
            with os.scandir(directory) as scan:
                entries = sorted(itertools.islice(scan, ENTRIES), key=lambda entry: entry.name)
        except OSError as error:
            unread.append(_unread(directory, error.strerror or str(error)))
            continue
        looked += len(entries)
        if looked >= ENTRIES:
            unread.append(_unread(top, f"more than {ENTRIES} files below it: some were not seen"))
            return
        if depth > DEPTH:
            unread.append(_unread(directory, f"more than {DEPTH} directories below {top}"))
            continue
        below = []
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if _is_directory(entry):
                below.append((directory / entry.name, depth + 1))
            elif entry.name.lower().endswith(".gguf"):
                yield directory / entry.name
        directories += reversed(below)


def _is_directory(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that goes in a circle
        return False


def _unread(directory: Path, why: str) -> Model:
    name = str(directory).strip("/").replace("/", "-") or "root"
    return Model(_shown(name), [directory], error=why)


def _shown(text: str) -> str:
    """As one line of UTF-8, whatever an author or a file system has in a name."""
    text = text.encode(errors="surrogateescape").decode(errors="replace")
    return "".join(ch if ch.isprintable() else "\ufffd" for ch in text)


# -- as files ---------------------------------------------------------------------


class ModelsDirectory(SyntheticFile):
    """`models/` in a root: the files are those that a search finds."""

    __slots__ = ("_files", "_models", "_parent")

    def __init__(self, tree: Tree, parent: Directory, models: Models) -> None:
        super().__init__(tree, "models", c.DMDIR | 0o555, tree.qid(c.QTDIR))
        self._parent = parent
        self._models = models
        self._files: dict[str, ModelFile] = {}

    async def files(self) -> dict[str, ModelFile]:
        """Those there are now; one that was there before is the same file."""
        found = await self._models.found()
        self._files = {
            name: self._files.get(name) or ModelFile(self.tree, name, self._models)
            for name in found
        }
        return self._files

    def walk(self, names: Sequence[str]) -> Maybe[Walk]:
        if not names:
            return super().walk(names)
        if names[0] != "..":
            return self._walk(names)
        rest = self._parent.walk(names[1:])
        if isinstance(rest, Walk):
            return Walk([self._parent.qid, *rest.qids], rest.file, rest.error)
        return joined([self._parent.qid], rest)

    async def _walk(self, names: Sequence[str]) -> Walk:
        file = (await self.files()).get(names[0])
        if file is None:
            return Walk([], None, NotFound())
        if len(names) > 1:
            return Walk([file.qid], None, NotDirectory())
        return Walk([file.qid], file)

    def open(self, mode: int) -> Maybe[OpenFile]:
        if not self.allows(mode):
            raise PermissionDenied
        return OpenModels(self)


class OpenModels(OpenFile):
    __slots__ = ("_directory",)

    def __init__(self, directory: ModelsDirectory) -> None:
        self._directory = directory

    async def readdir(self) -> Sequence[Dir]:
        return [stat_now(file) for file in (await self._directory.files()).values()]


class ModelFile(SyntheticFile):
    """What is found under a name when it is opened."""

    __slots__ = ("_models",)

    def __init__(self, tree: Tree, name: str, models: Models) -> None:
        super().__init__(tree, name, 0o444)
        self._models = models

    def open(self, mode: int) -> Maybe[OpenFile]:
        if not self.allows(mode):
            raise PermissionDenied
        return self._open()

    async def _open(self) -> OpenFile:
        model = (await self._models.found()).get(self.name)
        if model is None:
            raise NotFound
        return OpenSnapshot(model.text.encode())
