"""The system call half over FUSE mounts of a static tree and an orchestrator's."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.clients.mounts import OnThread, mounted, needs_fuse

from .posix import OfTree, Place
from .subjects import SUBJECTS

pytestmark = needs_fuse


@pytest.fixture(params=["static", "orchestrator"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    thread = OnThread()
    serving = SUBJECTS[request.param]()

    def there(call: Callable[[], object]) -> Callable[[], None]:
        """The call, made on the thread's loop."""

        async def run() -> None:
            result = call()
            if inspect.isawaitable(result):
                await result

        return lambda: thread.call(run())

    subject = thread.call(serving.__aenter__())
    try:
        with mounted(tmp_path / "mount", subject.address) as mount:
            ask, feed, end = map(there, (subject.ask, subject.feed, subject.end))
            yield Place(mount.path, ask, feed, end, subject.roles)
    finally:
        thread.call(serving.__aexit__(None, None, None))
        thread.stop_thread()


class TestFuseMount(OfTree):
    """All of it."""
