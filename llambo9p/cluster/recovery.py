"""How a cluster outlives its orchestrator: what is saved of it, and how it comes back.

The state file is as the cluster is from `begin` to `close`: a verb that changes the cluster
is answered when that is saved, what happens by itself is saved within a moment.  An
orchestrator that ends in an orderly way stops its hosts and removes the file.  One that finds
a file takes over: hosts that still live are mounted again, as they are and under their
names; those that were started by the one before and have ended are started again.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import os
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

from ..conversation import settings
from ..conversation.conversation import Conversation
from ..conversation.files import ctl_commands
from ..errors import Error
from ..fs.ctl import Action, Command, Commands
from ..fs.user import User
from ..net.address import Address
from . import checkpoints, state_file
from .checkpoints import Checkpoints
from .events import Events
from .fleet import Fleet
from .host import Host
from .members import Members
from .registry import Registry
from .saver import Saver
from .state import SavedHost, Started, State

log = logging.getLogger(__name__)

BEGIN_S = 2.0
"""how long hosts may take to come back before those that did are served"""
_DEFAULTS = settings.show(settings.Settings())


class Recovery:
    """`use` is told the strategy that was saved; `path` is the state file's."""

    def __init__(
        self,
        path: Path,
        members: Members,
        fleet: Fleet,
        registry: Registry,
        events: Events,
        use: Callable[[str], None],
    ) -> None:
        self._path = path
        self._checkpoints = Checkpoints(path)
        self._members = members
        self._fleet = fleet
        self._registry = registry
        self._use = use
        self._address = ""
        self._strategy: str | None = None
        self._roots: dict[str, Conversation] = {}
        """of each user"""
        self._settings: dict[str, str] = {}
        """those that were saved of users who have not come yet"""
        self._coming: set[asyncio.Task[None]] = set()
        """hosts that are being taken back"""
        self._saver: Saver[State] | None = None
        events.told = self._happened

    # -- what is saved ------------------------------------------------------------

    def _happened(self, kind: str) -> None:
        if not kind.startswith("request."):
            self.changed()

    def changed(self) -> None:
        """Something of what is saved is another."""
        if self._saver is not None:
            self._saver.changed()

    def strategy(self, name: str) -> None:
        """It was chosen at run time."""
        self._strategy = name
        self.changed()

    def root(self, user: str, conversation: Conversation) -> None:
        """The root of a user, which has his saved settings from now on."""
        self._roots[user] = conversation
        if user in self._settings:
            try:
                Commands(ctl_commands(conversation)).run(self._settings.pop(user).encode())
            except Error as e:
                log.warning("settings of %s cannot be restored: %s", user, e)

    @property
    def text(self) -> str:
        """A line of the root's `status`, if the file is not as it should be."""
        trouble = "" if self._saver is None else self._saver.trouble
        return f"unsaved {trouble}\n" if trouble else ""

    def describe(self) -> State:
        shown = {user: settings.show(each.settings) for user, each in self._roots.items()}
        changed = {user: text for user, text in shown.items() if text != _DEFAULTS}
        return State(
            address=self._address,
            pid=os.getpid(),
            strategy=self._strategy,
            settings=self._settings | changed,
            hosts=[self._saved(host) for host in self._members.hosts if host.workers],
            floors=dict(self._fleet.floors),
        )

    def _saved(self, host: Host) -> SavedHost:
        process, started = host.process, None
        if process is not None:
            started = Started(process.engine, process.spec, process.handle)
        any_worker = next(iter(host.workers.values()))
        return SavedHost(
            address=str(host.address),
            epoch=host.epoch,
            types=sorted(host.types),
            model=host.model,
            slots=any_worker.capacity,
            answers=any_worker.answers,
            drained=[there for there, worker in host.workers.items() if worker.drained],
            workers={there: worker.name for there, worker in host.workers.items()},
            expected=host.expected and host.address not in self._registry.services,
            gone=host.lost and not host.expected and process is None,
            user=host.whole.user if host.whole is not None else "",
            aname=host.whole.aname if host.whole is not None else "",
            started=started,
        )

    # -- the file -----------------------------------------------------------------

    async def begin(self, where: Address, before: State | None) -> None:
        """Take over what an orchestrator before us saved, and save from now on; `where` is for
        tools of this machine."""
        self._address = str(where)
        if before is not None and (coming := self._restore(before)):
            await asyncio.wait(coming, timeout=BEGIN_S)
        self._saver = Saver(self.describe, lambda state: checkpoints.write(self._path, state))
        await self._saver.saved()

    async def close(self) -> None:
        """Save nothing, take nothing back any more; forget what was saved."""
        for task in self._coming:
            task.cancel()
        await asyncio.gather(*self._coming, return_exceptions=True)
        if self._saver is not None:
            await self._saver.close()
            state_file.remove(self._path)

    # -- coming back --------------------------------------------------------------

    def _restore(self, before: State) -> list[asyncio.Task[None]]:
        """Begin to take back what is not there; what is there stays as it is."""
        if before.strategy is not None:
            try:
                self._use(before.strategy)
            except Error as e:
                log.warning("strategy %s cannot be restored: %s", before.strategy, e)
        self._settings |= before.settings
        for user in before.settings.keys() & self._roots.keys():
            self.root(user, self._roots[user])
        returns = filter(None, map(self._take_back, before.hosts))
        coming = [asyncio.create_task(each) for each in returns]
        # they are in the table now: without them the floors would be lowered
        self._fleet.floors |= Counter(before.floors)
        for task in coming:
            self._coming.add(task)
            task.add_done_callback(self._came)
        return coming

    def _came(self, task: asyncio.Task[None]) -> None:
        self._coming.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.warning("a host is not back: %s", error)

    def _take_back(self, saved: SavedHost) -> Coroutine[Any, Any, None] | None:
        """Remember the host; what is given has it back and raises Error.  None if it is there,
        or need not come back."""
        if saved.started is not None:
            return self._fleet.take_back(saved, saved.started)
        host = self._members.remember(saved)
        return None if host is None or saved.gone else self._members.take_back(host)

    # -- verbs --------------------------------------------------------------------

    def saving(self, command: Command) -> Command:
        """The verb, which is answered when what it changed is saved; with an Error, when it
        could not be."""

        def validate(words: Sequence[str]) -> Action:
            action = command.validate(words)

            async def then_saved() -> None:
                waiting = action()
                if waiting is not None:
                    await waiting
                self.changed()
                if self._saver is not None:
                    await self._saver.saved()
                    if self._saver.trouble:
                        raise Error(
                            f"{command.name} is done and not saved, so after a crash it is "
                            f"forgotten: {self._saver.trouble}"
                        )

            return then_saved

        return command._replace(validate=validate)

    def commands(self, user: User) -> list[Command]:
        """`save` and `restore` as the user has them."""
        return [
            Command("save", "[FILE]", 0, 1, functools.partial(self._save_verb, user)),
            self.saving(
                Command("restore", "[FILE]", 0, 1, functools.partial(self._restore_verb, user))
            ),
        ]

    def _save_verb(self, user: User, words: Sequence[str]) -> Action:
        path = self._checkpoints.path(words, user, "save")

        async def save() -> None:
            await asyncio.to_thread(self._checkpoints.save, path, self.describe())

        return save

    def _restore_verb(self, user: User, words: Sequence[str]) -> Action:
        path = self._checkpoints.path(words, user, "restore")

        async def restore() -> None:
            before = await asyncio.to_thread(self._checkpoints.read, path)
            done = await asyncio.gather(*self._restore(before), return_exceptions=True)
            for error in filter(None, done):
                raise error

        return restore
