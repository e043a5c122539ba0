"""`registry/`: hosts that come by themselves, after Inferno's registry(4).

A service is a host: its name is the address at which it can be reached, and it is mounted
when it registers and lost when its lease ends.

- `new`: open it and write `ADDR attr value ...`.  The write returns when the host's workers
  are mounted, or fails with the reason; the open file is the lease.  Reading it gives the
  service's line, with the number of its first worker here as `first`; more attributes can be
  written.  `epoch` and `first` mean something to us: see `Members.join`.
- a file for each service: its line.  Who registered it may write attributes, and remove it.
- `index`: the lines of all services.
- `find`: what one open writes, `attr value ...`, selects the lines that it reads next: those
  with all of these attributes and values, where `*` is any value.
- The directory's qid.vers counts the changes.
- `event`: a read waits until the registry is another than at the open, or at the read before,
  and gives the number of its changes.

Who registers gets the prompts of all users, so it is for administrators; a unix socket only the
owner registers.  There is no
`persist`: what holds no lease is mounted, or is in the configuration's `discovery`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from ..conversation import said
from ..conversation.worker_names import MAX_WORKERS, number_of
from ..errors import Exists, InvalidArgument, NotFound, PermissionDenied
from ..fs.ctl import decode, quote, split_words
from ..fs.file import OpenFile
from ..fs.sleepers import Sleepers
from ..fs.tree import Directory, OpenSnapshot, SyntheticFile, TextFile, Tree
from ..fs.user import User
from ..net import address
from ..net.address import Address
from ..p9.node import Maybe
from .members import Members

UNIX_REFUSED = "administrators use tcp! and tls! addresses"
"""a socket of this machine would take us for the owner, and might be another program's"""
_ATTRIBUTES = 64
"""that a service may have"""
_OURS = ("first",)
"""attributes that only we change once a service is there"""


@dataclass(slots=True, eq=False)
class Service:
    address: Address
    owner: str
    attrs: dict[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Of its file, which can have no slash."""
        return str(self.address).replace("/", "%2F")

    @property
    def line(self) -> str:
        words = [str(self.address), *(word for pair in self.attrs.items() for word in pair)]
        return " ".join(map(quote, words)) + "\n"

    def matches(self, wanted: dict[str, str]) -> bool:
        return all(
            name in self.attrs and value in ("*", self.attrs[name])
            for name, value in wanted.items()
        )


class Registry:
    """The services of one orchestrator, whose hosts `members` mounts."""

    def __init__(self, tree: Tree, members: Members) -> None:
        self.services: dict[Address, Service] = {}
        self.changes = 0
        self._tree = tree
        self._members = members
        self._directories: list[tuple[User, Directory]] = []
        self._sleepers = Sleepers()
        """who waits for the next change"""

    def show_to(self, user: User, root: Directory) -> None:
        """Make the user's `registry/`."""
        directory = root.add(Directory(self._tree, "registry"))
        directory.set_version(self.changes)
        directory.add(NewFile(self._tree, self, user))
        directory.add(TextFile(self._tree, "index", self.index))
        directory.add(FindFile(self._tree, self))
        directory.add(EventFile(self._tree, self))
        self._directories.append((user, directory))
        for service in self.services.values():
            directory.add(ServiceFile(self._tree, self, service, user))

    def index(self, wanted: dict[str, str] | None = None) -> str:
        """The lines of the services with these attributes, or of all."""
        services = self.services.values()
        return "".join(s.line for s in services if wanted is None or s.matches(wanted))

    async def register(self, where: Address, attrs: dict[str, str], user: User) -> Service:
        """Mount the host and make its service.  A host of a later epoch takes the place of
        one whose lease has not ended yet.  Raises Error."""
        epoch = _number(attrs, "epoch", said.EPOCHS - 1)
        wish = _number(attrs, "first", MAX_WORKERS)
        if where.net == "unix":
            user.check_owner("registering a unix socket", UNIX_REFUSED)
        before = self.services.get(where)
        if before is not None and epoch is None:
            raise Exists(f"{where} is registered already")
        host = await self._members.join(where, epoch, wish)
        if (before := self.services.get(where)) is not None:
            self._remove(before)
        ours = (number_of(worker.name) for worker in host.workers.values())
        first = min((number for number in ours if number is not None), default=0)
        service = Service(where, user.name, attrs | {"first": str(first)})
        self.services[where] = service
        for each, directory in self._directories:
            directory.add(ServiceFile(self._tree, self, service, each))
        self.changed()
        return service

    def update(self, service: Service, attrs: dict[str, str]) -> None:
        """Raises NotFound when its lease is over."""
        if self.services.get(service.address) is not service:
            raise NotFound(f"{service.address} is not registered any more")
        for name in _OURS:
            if name in attrs:
                raise InvalidArgument(f"registry: {name} is only said when a host registers")
        if len(service.attrs | attrs) > _ATTRIBUTES:
            raise InvalidArgument(f"registry: more than {_ATTRIBUTES} attributes")
        service.attrs.update(attrs)
        self.changed()

    def end(self, service: Service) -> None:
        """The lease is over: the host is lost."""
        if self.services.get(service.address) is service:
            self._remove(service)
            self.changed()
            self._members.leave(service.address)

    def _remove(self, service: Service) -> None:
        del self.services[service.address]
        for _, directory in self._directories:
            directory.discard(service.name)

    def changed(self) -> None:
        self.changes += 1
        for _, directory in self._directories:
            directory.set_version(self.changes)
        self._sleepers.wake()

    async def wait(self, seen: int) -> int:
        """The number of changes, when there are more than `seen`."""
        while self.changes <= seen:
            await self._sleepers.sleep()
        return self.changes


def _number(attrs: dict[str, str], name: str, most: int) -> int | None:
    """The number that an attribute is, if it is there.  Raises InvalidArgument."""
    word = attrs.get(name)
    try:
        return None if word is None else said.whole(word, most)
    except ValueError:
        raise InvalidArgument(
            f"registry: {name} must be a whole number 0..{most}, not {(word or '')[:40]!r}"
        ) from None


def _pairs(words: Sequence[str]) -> dict[str, str]:
    """`attr value ...` as a dict.  Raises InvalidArgument."""
    if len(words) % 2:
        raise InvalidArgument(f"registry: {words[-1][:40]!r} has no value: write attr value ...")
    if len(words) > 2 * _ATTRIBUTES:
        raise InvalidArgument(f"registry: more than {_ATTRIBUTES} attributes")
    return dict(zip(words[::2], words[1::2], strict=True))


class NewFile(SyntheticFile):
    def __init__(self, tree: Tree, registry: Registry, user: User) -> None:
        super().__init__(tree, "new", 0o666 if user.admin else 0o444)
        self._registry = registry
        self._user = user

    def open(self, mode: int) -> Maybe[OpenFile]:
        self._user.check_admin("registry/new")
        return OpenNew(self._registry, self._user)


class OpenText(OpenFile):
    """What was found by the last write.  Reads go by a cursor and ignore the offset, as
    those of `data` do: who has written n bytes may read on from there, or from 0."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text.encode()

    @property
    def held(self) -> int:
        return len(self._text)

    def read(self, offset: int, count: int) -> Maybe[bytes]:
        piece, self._text = self._text[:count], self._text[count:]
        return piece


class OpenNew(OpenText):
    """A lease, from its first write on; every write gives the service's line to read."""

    __slots__ = ("_registering", "_registry", "_service", "_user")

    def __init__(self, registry: Registry, user: User) -> None:
        super().__init__("")
        self._registry = registry
        self._user = user
        self._service: Service | None = None
        self._registering = False

    def write(self, offset: int, data: bytes) -> Maybe[int]:
        words = split_words(decode(data))
        if self._service is not None:
            self._registry.update(self._service, _pairs(words))
            self._text = self._service.line.encode()
            return len(data)
        if self._registering:
            raise InvalidArgument("registry: the host is being mounted")
        if not words:
            raise InvalidArgument("registry: write ADDR attr value ...")
        where, attrs = address.parse(words[0]), _pairs(words[1:])
        if "persist" in attrs:
            raise InvalidArgument("registry: no persist: mount the host, or hold the lease")
        return self._register(where, attrs, len(data))

    async def _register(self, where: Address, attrs: dict[str, str], count: int) -> int:
        self._registering = True
        try:
            service = await self._registry.register(where, attrs, self._user)
        finally:
            self._registering = False
        self._service = service
        self._text = service.line.encode()
        return count

    def drop(self) -> None:
        if self._service is not None:
            self._registry.end(self._service)


class ServiceFile(SyntheticFile):
    """A service as `user` sees it: whoever registered it, and administrators, may write."""

    def __init__(self, tree: Tree, registry: Registry, service: Service, user: User) -> None:
        self._may_write = user.admin or user.name == service.owner
        perm = 0o644 if self._may_write else 0o444
        super().__init__(tree.owned_by(service.owner), service.name, perm)
        self._registry = registry
        self._service = service

    def open(self, mode: int) -> Maybe[OpenFile]:
        if not self.allows(mode):
            raise PermissionDenied
        return OpenService(self._registry, self._service)

    def remove(self) -> Maybe[None]:
        if not self._may_write:
            raise PermissionDenied
        self._registry.end(self._service)
        return None


class OpenService(OpenSnapshot):
    __slots__ = ("_registry", "_service")

    def __init__(self, registry: Registry, service: Service) -> None:
        super().__init__(service.line.encode())
        self._registry = registry
        self._service = service

    def write(self, offset: int, data: bytes) -> Maybe[int]:
        self._registry.update(self._service, _pairs(split_words(decode(data))))
        return len(data)


class FindFile(SyntheticFile):
    def __init__(self, tree: Tree, registry: Registry) -> None:
        super().__init__(tree, "find", 0o666)
        self._registry = registry

    def open(self, mode: int) -> Maybe[OpenFile]:
        return OpenFind(self._registry)


class OpenFind(OpenText):
    __slots__ = ("_registry",)

    def __init__(self, registry: Registry) -> None:
        super().__init__(registry.index())
        self._registry = registry

    def write(self, offset: int, data: bytes) -> Maybe[int]:
        self._text = self._registry.index(_pairs(split_words(decode(data)))).encode()
        return len(data)


class EventFile(SyntheticFile):
    def __init__(self, tree: Tree, registry: Registry) -> None:
        super().__init__(tree, "event", 0o444)
        self._registry = registry

    def open(self, mode: int) -> Maybe[OpenFile]:
        if not self.allows(mode):
            raise PermissionDenied
        return OpenEvent(self._registry)


class OpenEvent(OpenFile):
    __slots__ = ("_registry", "_seen")

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._seen = registry.changes

    async def read(self, offset: int, count: int) -> bytes:
        self._seen = await self._registry.wait(self._seen)
        return f"{self._seen}\n".encode()[:count]
