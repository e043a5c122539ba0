"""Reading an answer's files while they grow: what the other tests do not come to."""

from __future__ import annotations

import pytest

from llambo9p.cluster.following import Following
from llambo9p.cluster.splice import Splice
from llambo9p.errors import Busy
from llambo9p.fs.pending import Pending
from llambo9p.net.client import RemoteOpen
from tests.files import files_of, story

from .harness import simulated_host


@story
async def test_a_read_that_is_refused_at_once_ends_the_answer_and_not_the_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The last file's, when the others have ended: the client has no tags left, say."""
    ask = RemoteOpen.ask

    def ask_or_refuse(file: RemoteOpen, offset: int) -> Pending[bytes]:
        if offset < 8:
            return ask(file, offset)
        refused: Pending[bytes] = Pending(lambda: None)
        refused.fail(Busy("no tags"))
        return refused

    async with simulated_host() as host, files_of(host.address) as files:
        await files.ask("0123456789", "worker-0000")
        out = await files.open("worker-0000/out")
        out.iounit = 4
        nothing = await files.open("worker-0000/grammar")
        monkeypatch.setattr(RemoteOpen, "ask", ask_or_refuse)
        following = Following(Splice((), False, 1000), lambda: None, out, nothing)
        with pytest.raises(Busy, match="no tags"):
            await following.ended
        following.stop()
        assert not files.client.lost.done()
        assert await files.read("worker-0000/out") == "simulated: 0123456789"
