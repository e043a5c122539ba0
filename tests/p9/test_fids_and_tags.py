"""A model of fids and tags, and hypothesis looking for a way to break ServerConn.

Invariants, in each dialect, after every step and at the end:
- each T-message has one reply, of its own kind or an error, under its tag;
- every reply fits msize, and its data the count that was asked for;
- after its Rflush a request is never answered; after Rversion nothing old is;
- the fid table is the model's, which knows only what the replies say;
- each file that was given to a fid is released once, after its open ended in one
  clunk or one drop.

Hypothesis chooses the dialect, the messages, the manners of the files (see `manners`),
and which waiting call returns next.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from llambo9p import errors
from llambo9p.p9 import constants as c
from llambo9p.p9 import dialects as d
from llambo9p.p9 import messages as m
from llambo9p.p9.node import Maybe
from llambo9p.p9.server import Limits, ServerConn
from llambo9p.p9.wire import Dir

from .manners import DIRECTORY, FILE, Books, Node, Running

manners = st.sampled_from(["at once"] * 4 + ["late", "deaf"] * 2 + ["refused at once"])
versions = st.sampled_from([*d.DIALECTS, "9P2000.x"])
msizes = st.sampled_from([c.MIN_MSIZE, 8192])
LIMITS = Limits(fids=3, requests=5)

FIDS = range(4)
TAGS = range(20)
COUNT = 1000
"""of Treads: more than fits the smaller msize"""

Make = Callable[[int, int], m.Message]
"""tag, fid -> a message on the fid"""
ALIKE: list[Make] = [
    lambda tag, fid: m.Tread(tag, fid, 0, COUNT),
    lambda tag, fid: m.Twrite(tag, fid, 0, b"abc"),
    lambda tag, fid: m.Tclunk(tag, fid),
    lambda tag, fid: m.Tremove(tag, fid),
]
OLD: list[Make] = [
    *ALIKE,
    lambda tag, fid: m.Topen(tag, fid, c.OREAD),
    lambda tag, fid: m.Topen(tag, fid, c.ORDWR),
    lambda tag, fid: m.Tcreate(tag, fid, "new", 0o644, c.ORDWR),
    lambda tag, fid: m.Tstat(tag, fid),
    lambda tag, fid: m.Twstat(tag, fid, Dir("", FILE, 0)),
]
LINUX: list[Make] = [
    *ALIKE,
    lambda tag, fid: d.Tlopen(tag, fid, 0),
    lambda tag, fid: d.Tlopen(tag, fid, 0o2),
    lambda tag, fid: d.Tlcreate(tag, fid, "new", 0o2, 0o644, 0),
    lambda tag, fid: d.Tgetattr(tag, fid, 0x7FF),
    lambda tag, fid: d.Tsetattr(tag, fid, 0x68, 0, 0, 0, 0, 0, 0, 0, 0),
    lambda tag, fid: d.Treaddir(tag, fid, 0, COUNT),
    lambda tag, fid: d.Treaddir(tag, fid, 3, COUNT),
    lambda tag, fid: d.Tstatfs(tag, fid),
    lambda tag, fid: d.Tfsync(tag, fid, 0),
    lambda tag, fid: d.Tmkdir(tag, fid, "new", 0o755, 0),
    lambda tag, fid: d.Tunlinkat(tag, fid, "file", 0),
    lambda tag, fid: d.Txattrwalk(tag, fid, 3, "security.capability"),
]
ON_FID = {c.VERSION_9P2000: OLD, c.VERSION_9P2000_U: OLD, c.VERSION_9P2000_L: LINUX}


class FidsAndTags(RuleBasedStateMachine):
    first = c.VERSION_9P2000
    """the dialect it begins with; a later Tversion may choose any"""

    def __init__(self) -> None:
        super().__init__()
        self.books = Books()
        self.conn = ServerConn(self._attach, limits=LIMITS)
        self.history: list[m.Message] = []
        self.running: list[Running] = []
        """in the order in which they were started"""
        self.owed: dict[int, list[m.Message]] = defaultdict(list)
        """by tag, what must still be answered or flushed; a second one in a tag's list
        is a duplicate"""
        self.sent: dict[int, int] = {}
        """id of a message -> its place in the order of sending"""
        self.walked: set[int] = set()
        self.opened: set[int] = set()
        self.made: dict[int, int] = {}
        """fid -> the place of the message that made it"""

    def _attach(self, uname: str, aname: str) -> Maybe[Any]:
        return self.books.does(lambda: self.books.give(Node(self.books, DIRECTORY)))

    # -- the client ---------------------------------------------------------------

    def _send(self, *msgs: m.Message) -> None:
        """They arrive together: what they start is awaited after the last."""
        for msg in msgs:
            self.owed[msg.tag].append(msg)
            self.sent[id(msg)] = len(self.history)
            self.history.append(msg)
            self.conn.receive(self.conn.dialect.of(msg).pack())
            self._take_replies()
        self._pump()

    @initialize(msize=msizes)
    def begin(self, msize: int) -> None:
        self._version(self.first, msize)

    def _version(self, version: str, msize: int) -> None:
        # all that is owed is void from here on; what was answered before it came before
        self.owed.clear()
        self.walked.clear()
        self.opened.clear()
        self._send(m.Tversion(c.NOTAG, msize, version))
        assert self.conn.msize == msize
        assert self.conn.dialect == d.DIALECTS.get(version, d.P9_2000)

    @rule(really=st.integers(0, 9), version=versions, msize=msizes)
    def version(self, really: int, version: str, msize: int) -> None:
        if really == 9:
            self._version(version, msize)
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

    def _a_message(self, data: st.DataObject, fid: int) -> m.Message:
        make = data.draw(st.sampled_from(ON_FID[self.conn.dialect.version]))
        return make(self._a_tag(data), fid)

    @precondition(lambda self: self.conn.fids)
    @rule(data=st.data(), manner=manners)
    def on_fid(self, data: st.DataObject, manner: str) -> None:
        msg = self._a_message(data, self._a_fid(data))
        self.books.manner = manner
        self._send(msg)

    @precondition(lambda self: self.conn.fids)
    @rule(data=st.data(), count=st.integers(2, 4), flushed=st.booleans(), manner=manners)
    def pipelined(self, data: st.DataObject, count: int, flushed: bool, manner: str) -> None:
        fid = self._a_fid(data)
        msgs = [self._a_message(data, fid) for _ in range(count)]
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

    @precondition(lambda self: self.running)
    @rule(data=st.data(), well=st.booleans(), manner=manners)
    def a_call_returns(self, data: st.DataObject, well: bool, manner: str) -> None:
        running = data.draw(st.sampled_from(self.running))
        self.books.manner = manner  # of what waited for it
        self._advance(running, lambda: running.go_on(well))
        self._pump()

    def _pump(self) -> None:
        while True:
            for request in self.conn.take_started():
                running = Running(request)
                self.running.append(running)
                self._advance(running, running.begin)
            self._take_replies()
            if not self.conn.stalled:
                return
            self.conn.resume()

    def _advance(self, running: Running, step: Callable[[], None]) -> None:
        try:
            step()
        except StopIteration as e:
            self.running.remove(running)
            self.conn.complete(running.request, e.value)
        except (errors.Error, asyncio.CancelledError) as e:
            self.running.remove(running)
            self.conn.fail(running.request, e)

    # -- what the client sees ----------------------------------------------------------

    def _take_replies(self) -> None:
        for frame in self.conn.data_to_send():
            assert len(frame) <= self.conn.msize
            self._reply(self.conn.dialect.unpack(frame))

    def _reply(self, reply: m.Message) -> None:
        failed = isinstance(reply, m.Rerror | d.Rlerror)
        owed = self.owed[reply.tag]
        assert owed, f"{reply} answers nothing"
        if len(owed) > 1:
            assert failed, "a duplicate is refused when it comes"
            owed.pop()
            return
        msg = owed.pop(0)
        sent = self.sent[id(msg)]
        if isinstance(msg, m.Tclunk | m.Tremove):
            unknown = reply == self.conn.dialect.error(
                reply.tag, errors.UnknownFid(), self.conn.msize
            )
            if not unknown and self.made[msg.fid] < sent:  # else it was made anew since
                self.walked.discard(msg.fid)
                self.opened.discard(msg.fid)
        if failed:
            assert not isinstance(msg, m.Tflush), "Tflush is never refused"
            return
        assert reply.number == msg.number + 1
        match msg, reply:
            case m.Tattach(), _:
                self._make(msg.fid, sent)
            case m.Twalk(), m.Rwalk() if len(reply.wqid) == len(msg.wname):
                self._make(msg.newfid, sent)
            case (m.Topen() | m.Tcreate() | d.Tlopen() | d.Tlcreate()), _:
                self.opened.add(msg.fid)
            case (m.Tread() | d.Treaddir()), (m.Rread() | d.Rreaddir()):
                assert len(reply.data) <= msg.count
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
        while self.running:
            running = self.running[0]
            self._advance(running, lambda running=running: running.go_on(True))  # type: ignore[misc]
            self._pump()
        assert not self._owed_tags(), "when all calls have returned, all is answered"
        if not abruptly:
            self.conn.lost()
        assert not self.conn.fids and not self.conn.requests
        assert [opened.ends for opened in self.books.opens] == [1] * len(self.books.opens)
        assert self.books.released == self.books.given


class UnixFidsAndTags(FidsAndTags):
    first = c.VERSION_9P2000_U


class LinuxFidsAndTags(FidsAndTags):
    first = c.VERSION_9P2000_L


TestFidsAndTags = FidsAndTags.TestCase
TestUnixFidsAndTags = UnixFidsAndTags.TestCase
TestLinuxFidsAndTags = LinuxFidsAndTags.TestCase
TestFidsAndTags.settings = TestUnixFidsAndTags.settings = TestLinuxFidsAndTags.settings = settings(
    max_examples=120, stateful_step_count=40, deadline=None
)
