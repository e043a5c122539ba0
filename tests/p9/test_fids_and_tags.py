"""A model of fids and tags, and hypothesis looking for a way to break ServerConn.

Invariants, after every step and at the end:
- each T-message has one reply, of its own kind or Rerror, under its tag;
- after its Rflush a request is never answered; after Rversion nothing old is;
- the fid table is the model's, which knows only what the replies say;
- each file that was given to a fid is released once, after its open ended in one
  clunk or one drop.

The files answer at once, late, or (deaf) late in spite of a cancellation, well or
badly, as hypothesis likes; it also chooses which waiting call returns next.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Generator, Sequence
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from llambo9p import errors
from llambo9p.p9 import constants as c
from llambo9p.p9 import messages as m
from llambo9p.p9.dialects import P9_2000
from llambo9p.p9.fid import Request
from llambo9p.p9.node import Maybe, Walk
from llambo9p.p9.server import Limits, ServerConn
from llambo9p.p9.wire import Dir, Qid

manners = st.sampled_from(["at once"] * 4 + ["late"] * 2 + ["deaf", "refused at once"])
LIMITS = Limits(fids=3, requests=5)
DIRECTORY, FILE = Qid(c.QTDIR, 0, 1), Qid(c.QTFILE, 0, 2)

FIDS = range(4)
TAGS = range(20)
things = st.sampled_from(
    ["open", "open for both", "create", "read", "write", "stat", "wstat", "clunk", "remove"]
)


class Call:
    """A call of a file that has not returned: what is sent into it is its result."""

    def __init__(self, result: Callable[[], Any], deaf: bool) -> None:
        self.result = result
        self.deaf = deaf
        self.cancelled = False

    def __await__(self) -> Generator[Call, Any, Any]:
        return (yield self)

    def close(self) -> None:
        """Discarded before anyone awaited it."""


class Books:
    """What became of every file given and every open."""

    def __init__(self) -> None:
        self.manner = "at once"
        self.given = 0
        self.released = 0
        self.opens: list[Open] = []

    def does(self, result: Callable[[], Any]) -> Any:
        if self.manner == "at once":
            return result()
        if self.manner == "refused at once":
            raise errors.Error("it refuses")
        return Call(result, self.manner == "deaf")

    def give(self, node: Node) -> Node:
        self.given += 1
        return node


class Open:
    def __init__(self, books: Books) -> None:
        self.books = books
        self.ends = 0
        books.opens.append(self)

    def read(self, offset: int, count: int) -> Maybe[bytes]:
        return self.books.does(lambda: b"x" * min(count, 3))

    def readdir(self) -> Maybe[Sequence[Dir]]:
        return self.books.does(lambda: [])

    def write(self, offset: int, data: bytes) -> Maybe[int]:
        return self.books.does(lambda: len(data))

    def clunk(self) -> Maybe[None]:
        self.ends += 1
        return self.books.does(lambda: None)

    def drop(self) -> None:
        self.ends += 1


class Node:
    """A directory that holds files of every name but `nope`."""

    def __init__(self, books: Books, qid: Qid) -> None:
        self.books = books
        self.qid = qid

    def walk(self, names: Sequence[str]) -> Maybe[Walk]:
        def result() -> Walk:
            qids: list[Qid] = []
            for name in names:
                if name == "nope":
                    return Walk(qids, None, errors.NotFound())
                qids.append(FILE if name == "file" else DIRECTORY)
            return Walk(qids, self.books.give(Node(self.books, [self.qid, *qids][-1])))

        return self.books.does(result)

    def open(self, mode: int) -> Maybe[Open]:
        return self.books.does(lambda: Open(self.books))

    def create(self, name: str, perm: int, mode: int) -> Maybe[tuple[Node, Open]]:
        return self.books.does(
            lambda: (self.books.give(Node(self.books, FILE)), Open(self.books))
        )

    def remove(self) -> Maybe[None]:
        return self.books.does(lambda: None)

    def stat(self) -> Maybe[Dir]:
        return self.books.does(lambda: Dir("name", self.qid, 0))

    def wstat(self, stat: Dir) -> Maybe[None]:
        return self.books.does(lambda: None)

    def release(self) -> None:
        self.books.released += 1


class FidsAndTags(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.books = Books()
        self.conn = ServerConn(self._attach, limits=LIMITS)
        self.history: list[m.Message] = []
        self.calls: list[Request] = []
        """awaited, in the order in which they were started"""
        self.owed: dict[int, list[m.Message]] = defaultdict(list)
        """by tag, what must still be answered or flushed; more than one in a tag's
        list is a duplicate, unless the first is over when the server sees it"""
        self.sent: dict[int, int] = {}
        """id of a message -> its place in the order of sending"""
        self.walked: set[int] = set()
        self.opened: set[int] = set()
        self.made: dict[int, int] = {}
        """fid -> the place of the message that made it"""
        self._version()

    def _attach(self, uname: str, aname: str) -> Maybe[Any]:
        return self.books.does(lambda: self.books.give(Node(self.books, DIRECTORY)))

    # -- the client ---------------------------------------------------------------

    def _send(self, *msgs: m.Message) -> None:
        for msg in msgs:
            self.owed[msg.tag].append(msg)
            self.sent[id(msg)] = len(self.history)
            self.history.append(msg)
        self.conn.receive(b"".join(msg.pack() for msg in msgs))
        self._pump()

    def _version(self) -> None:
        # all that is owed is void from here on; what was answered before it came before
        self.owed.clear()
        self.walked.clear()
        self.opened.clear()
        self._send(m.Tversion(c.NOTAG, 8192, "9P2000"))

    @rule(really=st.integers(0, 9))
    def version(self, really: int) -> None:
        if really == 9:
            self._version()
            assert not self.conn.fids and not self.conn.requests
            assert not self._owed_tags()

    @precondition(lambda self: not self.conn.fids)
    @rule()
    def attach_at_once(self) -> None:
        self.books.manner = "at once"
        self._send(m.Tattach(self._free_tags()[0], 0, c.NOFID, "glenda", ""))

    def _free_tags(self) -> list[int]:
        return [tag for tag in TAGS if tag not in self._owed_tags()]

    def _a_tag(self, data: st.DataObject) -> int:
        """Mostly one that is free."""
        return data.draw(st.sampled_from(self._free_tags() * 3 + list(TAGS)))

    def _a_fid(self, data: st.DataObject) -> int:
        """Mostly one that exists."""
        return data.draw(st.sampled_from(sorted(self.conn.fids) * 6 + list(FIDS)))

    @rule(data=st.data(), manner=manners)
    def attach(self, data: st.DataObject, manner: str) -> None:
        tag, fid = self._a_tag(data), data.draw(st.sampled_from(FIDS))
        self.books.manner = manner
        self._send(m.Tattach(tag, fid, c.NOFID, "glenda", ""))

    @precondition(lambda self: self.conn.fids)
    @rule(
        data=st.data(),
        newfid=st.sampled_from(FIDS),
        names=st.lists(st.sampled_from(["dir", "file", "nope", ".."]), max_size=3),
        manner=manners,
    )
    def walk(self, data: st.DataObject, newfid: int, names: list[str], manner: str) -> None:
        tag, fid = self._a_tag(data), self._a_fid(data)
        self.books.manner = manner
        self._send(m.Twalk(tag, fid, newfid, tuple(names)))

    def _on_fid(self, tag: int, fid: int, what: str) -> m.Message:
        match what:
            case "open":
                return m.Topen(tag, fid, c.OREAD)
            case "open for both":
                return m.Topen(tag, fid, c.ORDWR)
            case "create":
                return m.Tcreate(tag, fid, "new", 0o644, c.ORDWR)
            case "read":
                return m.Tread(tag, fid, 0, 10)
            case "write":
                return m.Twrite(tag, fid, 0, b"abc")
            case "stat":
                return m.Tstat(tag, fid)
            case "wstat":
                return m.Twstat(tag, fid, Dir("", FILE, 0))
            case "clunk":
                return m.Tclunk(tag, fid)
        assert what == "remove"
        return m.Tremove(tag, fid)

    @precondition(lambda self: self.conn.fids)
    @rule(data=st.data(), what=things, manner=manners)
    def on_fid(self, data: st.DataObject, what: str, manner: str) -> None:
        tag, fid = self._a_tag(data), self._a_fid(data)
        self.books.manner = manner
        self._send(self._on_fid(tag, fid, what))

    @precondition(lambda self: self.conn.fids)
    @rule(
        data=st.data(),
        whats=st.lists(things, min_size=2, max_size=4),
        flushed=st.booleans(),
        manner=manners,
    )
    def pipelined(
        self, data: st.DataObject, whats: list[str], flushed: bool, manner: str
    ) -> None:
        fid = self._a_fid(data)
        msgs = [self._on_fid(self._a_tag(data), fid, what) for what in whats]
        if flushed:
            msgs.append(m.Tflush(50, data.draw(st.sampled_from(msgs)).tag))
        self.books.manner = manner
        self._send(*msgs)

    @rule(data=st.data(), oldtag=st.sampled_from(TAGS))
    def flush(self, data: st.DataObject, oldtag: int) -> None:
        self._send(m.Tflush(self._a_tag(data), oldtag))

    @precondition(lambda self: self._owed_tags())
    @rule(data=st.data())
    def flush_what_is_owed(self, data: st.DataObject) -> None:
        oldtag = data.draw(st.sampled_from(sorted(self._owed_tags())))
        self._send(m.Tflush(self._a_tag(data), oldtag))

    # -- the server's files ----------------------------------------------------------

    @precondition(lambda self: self.calls)
    @rule(data=st.data(), well=st.booleans(), manner=manners)
    def a_call_returns(self, data: st.DataObject, well: bool, manner: str) -> None:
        request = data.draw(st.sampled_from(self.calls))
        self.books.manner = manner  # of what waited for it
        self.calls.remove(request)
        self._return(request, well)

    def _return(self, request: Request, well: bool) -> None:
        assert request.awaitable is not None
        waiting = request.awaitable.__await__()
        call: Any = next(waiting)  # type: ignore[call-overload]
        try:
            if call.cancelled:
                waiting.throw(asyncio.CancelledError())
            elif well:
                waiting.send(call.result())
            else:
                waiting.throw(errors.Error("it failed"))
        except StopIteration as e:
            self.conn.complete(request, e.value)
        except (errors.Error, asyncio.CancelledError) as e:
            self.conn.fail(request, e)
        else:
            raise AssertionError("it waits for something else")
        self._pump()

    def _pump(self) -> None:
        for request in self.conn.take_started():
            self.calls.append(request)
            request.cancel = lambda request=request: self._cancel(request)  # type: ignore[misc]
        for frame in self.conn.data_to_send():
            self._reply(P9_2000.unpack(frame))

    def _cancel(self, request: Request) -> None:
        """As asyncio does it: soon, not now; a deaf call goes on."""
        assert isinstance(request.awaitable, Call), "the end of a clunk is never cancelled"
        request.awaitable.cancelled = not request.awaitable.deaf

    # -- what the client sees ----------------------------------------------------------

    def _reply(self, reply: m.Message) -> None:
        owed = self.owed[reply.tag]
        assert owed, f"{reply} answers nothing"
        if reply == m.Rerror(reply.tag, "duplicate tag"):
            assert len(owed) > 1
            owed.pop()
            return
        msg = owed.pop(0)
        sent = self.sent[id(msg)]
        if isinstance(msg, m.Tclunk | m.Tremove):
            unknown = isinstance(reply, m.Rerror) and reply.ename == errors.UnknownFid.ename
            if not unknown and self.made[msg.fid] < sent:  # else it was made anew since
                self.walked.discard(msg.fid)
                self.opened.discard(msg.fid)
        if isinstance(reply, m.Rerror):
            assert not isinstance(msg, m.Tflush), "Tflush is never refused"
            return
        assert reply.number == msg.number + 1
        match msg, reply:
            case m.Tattach(), _:
                self._make(msg.fid, sent)
            case m.Twalk(), m.Rwalk() if len(reply.wqid) == len(msg.wname):
                self._make(msg.newfid, sent)
            case (m.Topen() | m.Tcreate()), _:
                self.opened.add(msg.fid)
            case m.Tflush(), _:
                # the old request, if it is still owed, was not done and is forgotten;
                # a flush that was flushed is still answered, after this one
                old = self.owed[msg.oldtag]
                if old and not isinstance(old[0], m.Tflush):
                    old.pop(0)

    def _make(self, fid: int, sent: int) -> None:
        self.walked.add(fid)
        self.opened.discard(fid)  # of the fid that this number was before
        self.made[fid] = sent

    def _owed_tags(self) -> set[int]:
        return {tag for tag, owed in self.owed.items() if owed}

    @invariant()
    def the_fid_table_is_the_models(self) -> None:
        settled = {n for n, fid in self.conn.fids.items() if fid.node is not None}
        pending = {
            msg.fid
            for owed in self.owed.values()
            for msg in owed
            if isinstance(msg, m.Tclunk | m.Tremove)
        }
        assert settled - pending == self.walked - pending
        opened = {n for n, fid in self.conn.fids.items() if fid.handle is not None}
        assert opened - pending == self.opened - pending

    @invariant()
    def every_request_is_in_the_table_until_it_is_answered(self) -> None:
        assert set(self.conn.requests) == self._owed_tags()
        assert all(len(owed) <= 1 for owed in self.owed.values())

    @invariant()
    def nothing_ends_twice(self) -> None:
        assert all(opened.ends <= 1 for opened in self.books.opens)
        assert self.books.released <= self.books.given

    def teardown(self) -> None:
        self.books.manner = "at once"
        abruptly = len(self.history) % 2
        if abruptly:
            self.owed.clear()
            self.conn.lost()
        while self.calls:
            self._return(self.calls.pop(0), well=True)
        assert not self._owed_tags(), "when all calls have returned, all is answered"
        if not abruptly:
            self.conn.lost()
        assert not self.conn.fids and not self.conn.requests
        assert [opened.ends for opened in self.books.opens] == [1] * len(self.books.opens)
        assert self.books.released == self.books.given


TestFidsAndTags = FidsAndTags.TestCase
TestFidsAndTags.settings = settings(max_examples=300, stateful_step_count=40, deadline=None)
