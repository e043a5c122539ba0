"""One 9P connection seen from the server, without I/O: fids, tags and flush.

`ServerConn` is fed bytes and calls `Node`s and `Handle`s; replies collect in
`data_to_send`.  What a file answers at once is replied at once.  What must wait
becomes a `Request`, which the caller takes from `take_started`, awaits, and gives
back with `complete` or `fail`.

Rules kept here (manual section 5; numbers are 9p.md's list of bugs):

- One reply for each T-message, none after its Rflush (10), none after Tversion.
- A Tflush is answered when the flushed request is over.  If that request
  completed in spite of it, its reply goes out first and stands; otherwise the
  fid table is as if it had never been sent.  Tclunk and Tremove always complete.
- A fid whose walk, attach, open or create is still awaited is *busy*: messages
  for it wait their turn, so a client may send a whole transaction without waiting.
- The end of a fid interrupts the reads and writes that are pending on it (11).
- A request is cancelled once, by its Tflush or else by the end of its fid or of the connection:
  what it then does to leave things as they were is finished.
- A tag that is in use is refused and the first request is left alone (27).
- Replies that nobody takes stop the handling of further messages (30): see `stalled`.
- `resume` stops at the time that the caller names, and goes on where it stopped.  Messages are
  handled in the order in which they came; those that waited for a busy fid come first.
- What waits is paid for: requests without a reply, and the data of their messages, take room in the
  fid table, which is the user's.
- A connection that is lost or begins anew frees all its fids at once.  `resume` then ends their
  files one after the other, before it handles another message.
- An exception that is not an `errors.Error` is a bug of ours: it is logged, and
  answered as an error.
"""

from __future__ import annotations

import logging
import math
import time
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from .. import errors
from . import constants as c
from . import dotl, on_fid
from . import messages as m
from .dialects import P9_2000, negotiated
from .fid import FID_BYTES, FREE_REQUESTS, REQUEST_BYTES, REQUESTS_AT_ONCE, Fid, FidTable, Request
from .framing import Framer, ProtocolError
from .node import Handle, Maybe, Node
from .relay import Relayed, Relays
from .wire import BadMessage, Qid

log = logging.getLogger(__name__)

Attach = Callable[[str, str], Maybe[Node]]
"""uname (or, where only that was sent, n_uname in digits), aname -> the root that this
client sees, given as a walk gives a file; raises errors.Error"""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one connection may hold."""

    msize: int = c.DEFAULT_MSIZE
    """the largest; whoever asks for more gets this"""
    min_msize: int = c.MIN_MSIZE
    """whoever asks for less is refused"""
    fids: int = 65_536
    """Linux keeps a fid for each directory entry it has cached; what open files hold counts, too"""
    requests: int = 1_024
    """T-messages without a reply yet; beyond it only Tflush, Tclunk, Tremove and
    Tversion are taken, which make room"""
    unsent: int = 1 << 20
    """bytes of replies not taken with `data_to_send`; beyond it messages wait"""


_TREAD = m.Tread.number
_ON_FID: dict[int, on_fid.Handler] = {**on_fid.ON_FID, **dotl.ON_FID}
"""by number: a message has the same one in every dialect that has it"""


class ServerConn:
    """See the module.  `attach` gives the tree; `trace` sees every message; `ready` is
    called when there is something in `data_to_send`, and `more` when there is something to
    `resume`, that no call of the caller's brought; `clock` gives seconds."""

    def __init__(
        self,
        attach: Attach,
        *,
        limits: Limits | None = None,
        trace: Callable[[str, m.Message], None] | None = None,
        ready: Callable[[], None] = lambda: None,
        more: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.limits = limits or Limits()
        self.dialect = P9_2000
        self.msize = self.limits.msize
        self.fids = FidTable(self.limits.fids)
        self.requests: dict[int, Request] = {}
        """by tag"""
        self.room_for = min(FREE_REQUESTS, self.limits.requests)
        """as many requests as there is room for; what the fid table gave for them, they keep"""
        self.refusal: errors.Error | None = None
        """why this connection is not served: the answer to every Tversion"""
        self._attach = attach
        self._trace = trace
        self._framer = Framer(self.limits.msize)
        self._clock = clock
        self._frames: deque[bytes] = deque()
        self._broken: ProtocolError | None = None
        """what is wrong with the stream behind `_frames`"""
        self._due: deque[Fid] = deque()
        """fids that come before further frames: those that are not busy any more and for which
        messages wait, and those that were freed all at once, whose files are to be ended"""
        self._out: list[bytes] = []
        self._unsent = 0
        self._started: list[Request] = []
        self.ready = ready
        self.more = more
        self.relays = Relays(self)
        self.negotiated = False

    # -- the caller's side ----------------------------------------------------

    def receive(self, data: bytes) -> None:
        """Handle the messages that `data` completes, as far as `resume` does.

        Raises `ProtocolError` as `resume` does.
        """
        self.feed(data)
        self.resume()

    def feed(self, data: bytes) -> None:
        """Take the messages that `data` completes; `resume` handles them."""
        try:
            self._frames.extend(self._framer.feed(data))
        except ProtocolError as e:
            self._frames.extend(e.frames)  # these were sound
            self._broken = e

    @property
    def stalled(self) -> bool:
        """There is more to handle.  Take the replies with `data_to_send`, and when they have
        left, `resume`; receive no more before."""
        return bool(self._frames or self._due)

    def resume(self, until: float = math.inf) -> None:
        """Handle messages that were received, until the replies are `unsent` bytes or the clock
        shows `until`; one at least.

        So a client that asks and asks but does not read its replies holds that
        much memory, not what all its questions would be answered with.

        Raises `ProtocolError` when everything was handled that came before something which
        cannot be understood: send what there is to send, close the connection, call `lost`.
        """
        frames, due, relays, clock = self._frames, self._due, self.relays, self._clock
        most, trace = self.limits.unsent, self._trace
        while True:
            if due and not self._catch_up(until):
                return
            if not frames or self._unsent >= most:
                break
            frame = frames.popleft()
            if trace is None and relays.ways and relays.take(frame):
                continue  # quick, and the limit on requests is one on them
            if trace is not None or frame[4] != _TREAD or not on_fid.read_at_once(self, frame):
                try:
                    msg = self.dialect.unpack(frame)
                except BadMessage as e:
                    self._send(self._rerror(e.tag, errors.InvalidArgument(e.reason)))
                    continue
                if trace is not None:
                    trace("->", msg)
                if self.requests and (refusal := self._refusal(msg)) is not None:
                    self._send(self._rerror(msg.tag, refusal))
                else:
                    self._handle(msg)
            if frames and clock() >= until:
                return
        if self._broken is not None and not frames:
            broken, self._broken = self._broken, None
            raise broken

    def _catch_up(self, until: float) -> bool:
        """End the files, and handle the messages, of the fids that are due; whether all is done."""
        due = self._due
        while due:
            fid = due[0]
            if fid.ended:
                due.popleft()
                if fid.handle is not None:
                    fid.handle.drop()
                if fid.node is not None:
                    fid.node.release(was_open=fid.handle is not None)
            elif not fid.waiting or fid.busy is not None:
                due.popleft()
                continue
            elif self._unsent >= self.limits.unsent:
                return False
            else:
                request = fid.waiting.popleft()
                request.over = True
                del self.requests[request.tag]
                self.fids.let_go(request.weight)
                self._handle(request.msg)
            if self._clock() >= until:
                return not due
        return True

    def data_to_send(self) -> list[bytes]:
        """The replies since the last call, in order."""
        out = self._out
        if out:
            self._out = []
            self._unsent = 0
        return out

    def take_started(self) -> list[Request]:
        """Requests whose `awaitable` must now be awaited; set their `cancel`."""
        started = self._started
        if started:
            self._started = []
        return started

    def complete(self, request: Request, result: Any) -> None:
        """`request.awaitable` gave `result`."""
        if request.over:
            if request.undo is not None:
                request.undo(result)
            if request.abandon is not None:
                request.abandon()
            return
        assert request.commit is not None
        try:
            reply = request.commit(result)
        except Exception as e:
            self._abandon_new_fid(request)
            reply = self._error(request.tag, request, e)
        self._finish(request, reply)

    def fail(self, request: Request, error: BaseException) -> None:
        """`request.awaitable` raised `error`; a cancellation means Interrupted."""
        if request.over:
            if request.abandon is not None:
                request.abandon()
            return
        self._abandon_new_fid(request)
        # a clunk or remove has freed its fid, so the client must see it answered
        unseen = request.flushed and request.cancellable
        self._finish(request, None if unseen else self._error(request.tag, request, error))

    def lost(self, until: float = math.inf) -> None:
        """The connection is gone: end every request, and every fid.  `resume` goes on with the
        files that are not ended when the clock shows `until`."""
        self._frames.clear()
        self._broken = None
        self._begin_anew()
        self._catch_up(until)

    def _begin_anew(self) -> None:
        """End every request now, and free every fid."""
        requests, fids = list(self.requests.values()), list(self.fids.values())
        # what was freed before is still to be ended; of the others that are due, messages wait
        freed = [fid for fid in self._due if fid.ended]
        self.requests.clear()
        self.fids.clear()
        self.room_for = min(FREE_REQUESTS, self.limits.requests)
        self.relays.clear()
        for request in requests:
            request.over = True
            if request.abandon is not None and request.fid is not None:
                request.fid.node = None
            if not request.flushed:
                self._cancel(request)
        for fid in fids:
            fid.ended = True
        self._due.clear()
        self._due.extend((*freed, *fids))

    # -- requests -------------------------------------------------------------

    def _send(self, reply: m.Message) -> None:
        if self._trace is not None:
            self._trace("<-", reply)
        try:
            frame = reply.pack()
        except Exception as e:  # a file gave a number or a name that no field can hold
            frame = self._error(reply.tag, reply, e).pack()
        if len(frame) > self.msize:
            frame = self.too_long(reply.tag, frame)
        self.put(frame)

    def put(self, frame: bytes) -> None:
        """Send the frame of a reply, which is not too long."""
        self._out.append(frame)
        self._unsent += len(frame)

    def too_long(self, tag: int, frame: bytes) -> bytes:
        """What is sent instead."""
        why = f"a reply of {len(frame)} bytes does not fit msize {self.msize}"
        return self._rerror(tag, errors.Error(why)).pack()

    def refuse(self, tag: int, what: object, error: Exception) -> None:
        """Answer the message `what` with an error."""
        self._send(self._error(tag, what, error))

    def _rerror(self, tag: int, error: errors.Error) -> m.Message:
        return self.dialect.error(tag, error, self.msize)

    def _error(self, tag: int, what: object, error: BaseException) -> m.Message:
        """The Rerror for what went wrong with the message `what`.  Whoever raised the error may
        keep it; it holds nothing of the calls that it came through."""
        if not isinstance(error, errors.Error):
            if isinstance(error, Exception):
                log.error("bug: %r failed", what, exc_info=error)
                error = errors.Error(f"internal error: {type(error).__name__}: {error}")
            else:
                error = errors.Interrupted()
        return self._rerror(tag, errors.without_frames(error))

    def _refusal(self, msg: m.Message) -> errors.Error | None:
        """Why `msg` must not even begin while other requests are outstanding."""
        if isinstance(msg, m.Tversion):
            return None
        if msg.tag in self.requests:
            return errors.InUse("duplicate tag")
        if len(self.requests) >= self.room_for and not isinstance(
            msg, (m.Tflush, m.Tclunk, m.Tremove)
        ):
            return self._make_room()
        return None

    def _make_room(self) -> errors.Error | None:
        """For more requests; why there is none."""
        limit = self.limits.requests
        if self.room_for >= limit:
            return errors.Busy(f"more than {limit} requests on one connection")
        more = min(REQUESTS_AT_ONCE, limit - self.room_for)
        try:
            self.fids.hold(more * REQUEST_BYTES)
        except errors.Busy as e:
            return errors.Busy(f"{e}, with requests that wait for their replies")
        self.room_for += more
        return None

    def _handle(self, msg: Any) -> None:
        try:
            handler = _ON_FID.get(msg.number)
            reply: m.Message | None
            if handler is not None:
                fid = self.fids.get(msg.fid)
                if fid is None:
                    raise errors.UnknownFid
                if fid.busy is None:
                    reply = handler(self, msg, fid)
                else:
                    reply = None
                    self._wait(msg, fid)
            else:
                reply = self._CONNECTION.get(msg.number, ServerConn._unexpected)(self, msg)
        except Exception as e:
            reply = self._error(msg.tag, msg, e)
        if reply is not None:
            self._send(reply)

    def _register(self, msg: m.Message, fid: Fid | None) -> Request:
        request = Request(msg, fid)
        self.requests[msg.tag] = request
        return request

    def _wait(self, msg: m.Message, fid: Fid) -> None:
        """`msg` is handled when `fid` is no longer busy.  Raises Busy, when there is no room for
        its data."""
        weight = self._weigh(msg)
        request = self._register(msg, fid)
        request.weight = weight
        if fid.waiting is None:
            fid.waiting = deque()
        fid.waiting.append(request)

    def _weigh(self, msg: m.Message) -> int:
        """The weight of a message that is kept, until it is let go.  Raises Busy."""
        return self.fids.hold(len(msg.data)) if isinstance(msg, m.Twrite) else 0

    def hold(self, msg: m.Message, fid: Fid) -> Request:
        """`msg` is handled again after a `release` of `fid`, which is busy until then."""
        request = self._register(msg, fid)
        if fid.waiting is None:
            fid.waiting = deque()
        fid.waiting.appendleft(request)
        fid.busy = request
        return request

    def release(self, request: Request) -> None:
        """The end of `hold`."""
        if not request.over and request.fid is not None:
            self._settle(request.fid)

    def later(
        self,
        msg: m.Message,
        fid: Fid | None,
        awaitable: Awaitable[Any],
        commit: Callable[[Any], m.Message],
        undo: Callable[[Any], None] | None = None,
        abandon: Callable[[], None] | None = None,
        cancellable: bool = True,
        busy: bool = False,
    ) -> Request:
        """The reply to `msg` waits; with `busy`, so does everything else on `fid`.  Raises Busy,
        and what would be awaited is not, when there is no room for its data."""
        try:
            weight = self._weigh(msg)
        except errors.Busy:
            _discard(awaitable)
            raise
        request = self._register(msg, fid)
        request.weight = weight
        request.begun = True
        request.awaitable = awaitable
        request.commit = commit
        request.undo = undo
        request.abandon = abandon
        request.cancellable = cancellable
        if fid is not None:
            fid.pending += 1
            if busy:
                fid.busy = request
        self._started.append(request)
        return request

    def answer(
        self,
        msg: m.Message,
        fid: Fid,
        result: Maybe[Any],
        commit: Callable[[Any], m.Message],
        **later: Any,
    ) -> m.Message | None:
        """The reply that `commit` makes of `result`, now or, as `later`, later."""
        if not isinstance(result, Awaitable):
            return commit(result)
        self.later(msg, fid, result, commit, **later)
        return None

    def _settle(self, fid: Fid) -> None:
        """`fid` is not busy any more: what waited for it is handled next, in order."""
        fid.busy = None
        if fid.waiting:
            self._due.append(fid)

    def _finish(self, request: Request, reply: m.Message | None) -> None:
        """Answer `request` (unless it was flushed and undone), then its Tflushes."""
        if reply is not None:
            self._send(reply)
        self._over(request)

    def answer_relayed(self, request: Relayed, frame: bytes) -> None:
        """Answer `request` with a frame that another server sent, but for its tag."""
        if request.flushes or len(frame) > self.msize:
            if len(frame) > self.msize:
                frame = self.too_long(request.tag, frame)
            self.put(b"".join((frame[:5], request.wire_tag, frame[7:])))
            self._over(request)
            return
        self._out.append(b"".join((frame[:5], request.wire_tag, frame[7:])))
        self._unsent += len(frame)
        # as `_over` does, of which little is left here
        request.over = True
        del self.requests[request.tag]
        request.fid.pending -= 1  # type: ignore[union-attr]
        if request.promised:
            relays = self.relays
            relays.promised -= request.promised
            if relays.held:
                relays.let_go()

    def _over(self, request: Request) -> None:
        """`request` was answered: its tag is free, and its Tflushes are answered."""
        request.over = True
        del self.requests[request.tag]
        for flush in request.flushes:
            flush.over = True
            del self.requests[flush.tag]
            self._send(m.Rflush(flush.tag))
            request.flushes += flush.flushes  # it was flushed itself; this loop goes on
        if request.promised:
            relays = self.relays
            relays.promised -= request.promised
            if relays.held:
                relays.let_go()
        if request.weight:
            self.fids.let_go(request.weight)
        fid = request.fid
        if fid is not None:
            if request.begun:
                fid.pending -= 1
            if fid.busy is request:
                self._settle(fid)

    def _cancel(self, request: Request) -> None:
        """Make the wait end soon; one that nobody awaits yet ends now."""
        if not request.cancellable or not request.begun:
            return
        if request.cancel is not None:
            request.cancel()
        elif request in self._started:
            self._started.remove(request)
            assert request.awaitable is not None
            _discard(request.awaitable)
            self.fail(request, errors.Interrupted())

    def _abandon_new_fid(self, request: Request) -> None:
        """The walk or attach that was to make this fid failed: there is no such fid."""
        fid = request.fid
        if fid is not None and fid.node is None:
            self.fids.pop(fid.fid, None)

    def opened(self, fid: Fid, handle: Handle, mode: int) -> tuple[Qid, int]:
        """`fid` is open now: its qid, and the iounit.  Raises Busy, when it is not: there is no
        room for what it would hold."""
        assert fid.node is not None
        if handle.held >= FID_BYTES:
            try:
                self.fids.load(fid, handle.held)
            except errors.Busy:
                handle.drop()
                raise
        fid.node.opened()
        fid.handle = handle
        fid.mode = mode & 3
        way = getattr(handle, "way", None)
        if not fid.node.qid.type & c.QTDIR:
            if way is not None:
                self.relays.add(fid, way)
                fid.far = True
            fid.near = way is None and fid.mode != c.OWRITE
        return fid.node.qid, self.msize - c.IOHDRSZ

    def end_fid(self, fid: Fid) -> None:
        """Free the fid and interrupt what is pending on it."""
        del self.fids[fid.fid]
        if fid.weight:
            self.fids.unload(fid)
        self.relays.ways.pop(fid.fid, None)
        if not fid.pending:
            return
        for request in [r for r in self.requests.values() if r.fid is fid]:
            if request.begun and request.cancellable:
                if not request.flushed:
                    self._cancel(request)
                self.fail(request, errors.Interrupted())

    # -- messages of the connection ---------------------------------------------

    def _unexpected(self, msg: m.Message) -> None:
        raise errors.InvalidArgument(f"a server does not take {type(msg).__name__}")

    def _version(self, msg: m.Tversion) -> m.Message:
        if self.refusal is not None:
            raise self.refusal
        if msg.msize < self.limits.min_msize:
            raise errors.InvalidArgument(f"msize {msg.msize} is below {self.limits.min_msize}")
        self._begin_anew()
        self.negotiated = False
        msize = min(msg.msize, self.limits.msize)
        dialect = negotiated(msg.version)
        if dialect is None:
            return m.Rversion(msg.tag, msize, c.VERSION_UNKNOWN)
        self.dialect = dialect
        self.msize = self._framer.msize = msize
        self.negotiated = True
        return m.Rversion(msg.tag, msize, dialect.version)

    def _auth(self, msg: m.Tauth) -> m.Message:
        # diod's tools go on without only when this is ENOENT
        raise errors.NotFound("authentication not required")

    def _attach_root(self, msg: m.Tattach) -> m.Message | None:
        if not self.negotiated:
            raise errors.InvalidArgument("Tversion must come before Tattach")
        if msg.afid != c.NOFID:
            raise errors.InvalidArgument("authentication not required: afid must be NOFID")
        fid = self.fids.make(msg.fid)

        def commit(node: Node) -> m.Message:
            fid.root = node.qid
            fid.node = node
            return m.Rattach(msg.tag, fid.root)

        try:
            result = self._attach(_uname(msg), msg.aname)
            return self.answer(msg, fid, result, commit, undo=_release, busy=True)
        except Exception:
            del self.fids[msg.fid]
            raise

    def _flush(self, msg: m.Tflush) -> m.Message | None:
        old = self.requests.get(msg.oldtag)
        if old is None:
            return m.Rflush(msg.tag)
        flush = self._register(msg, None)
        old.flushes.append(flush)
        if not old.flushed:
            old.flushed = True
            if old.fid is not None and old.fid.waiting and old in old.fid.waiting:
                old.fid.waiting.remove(old)
                self._finish(old, None)
            else:
                self._cancel(old)
        return None

    _CONNECTION: ClassVar[dict[int, Callable[[ServerConn, Any], m.Message | None]]] = {
        m.Tversion.number: _version,
        m.Tauth.number: _auth,
        m.Tattach.number: _attach_root,
        m.Tflush.number: _flush,
    }


def _uname(msg: m.Tattach) -> str:
    """Who attaches.  Linux names its users by number only (9P2000.u and .L)."""
    n_uname = getattr(msg, "n_uname", c.NONUNAME)
    return msg.uname or (str(n_uname) if n_uname != c.NONUNAME else "")


def _release(node: Node) -> None:
    node.release(was_open=False)


def _discard(awaitable: Awaitable[Any]) -> None:
    """Get rid of an awaitable that nobody will await."""
    close = getattr(awaitable, "close", None) or getattr(awaitable, "cancel", None)
    if close is not None:
        close()
