"""The engine of a host: one decode thread, and its door on the event loop.

Owns the thread, the scheduler and the runner behind it, and the threads that prepare requests.
Templates and tokenizing are theirs, decoding and sampling are the decode thread's; listeners
are called on the event loop.

Rules it keeps (besides those of `base.Engine`):
- The loop's side never waits for the thread: it puts messages into a mailbox.  The
  thread reads it once a step, so a cancel acts within one step; when there is nothing
  to decode the thread blocks on it.
- What may take long before a request can be decoded is done before it reaches the mailbox,
  by users' turns, so that nobody's request waits for the preparation of another user's.
  Requests of one user reach it in the order of arrival.
- All that a step brought reaches the loop in one `call_soon_threadsafe`, right before
  the next step: what the loop does with it, it does while llama.cpp decodes.  But with `tell`,
  tokens alone may wait for the next step of those who decode, for so many seconds: each time
  that the loop and the readers run they take a core from llama.cpp, whose threads wait for
  each other.
- The bound of the queue and the load are kept on the loop's side, so that they are
  right at once: ten submits in one tick see each other.
- A step that cannot be decoded is decoded again, each sequence alone, and only those
  that fail again are failed.
- The loop watches the thread (see `watchdog`).  When the thread dies, or a piece of its work
  takes too long, the host is lost: every request fails with the reason, so does every later
  `submit`, and `lost` tells the reason.  A thread that is stuck in C cannot be ended, so whoever
  started the engine must end the process.

It must never call a listener from the thread, nor the runner from the loop.
"""

from __future__ import annotations

import asyncio
import logging
import math
import queue
import threading
import time
from collections.abc import Callable, Hashable, Iterable
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial

from llambo9p import errors
from llambo9p.engine import watchdog
from llambo9p.engine.arrival import Arrival
from llambo9p.engine.base import Generated, Listener, Load, ModelInfo, Request, State, Usage
from llambo9p.engine.embeddings import Embeddings
from llambo9p.engine.fair import whose
from llambo9p.engine.memory import EMBED_CHUNK
from llambo9p.engine.pool import Pool
from llambo9p.engine.preparing import prepare
from llambo9p.engine.runner import Prepared, Runner
from llambo9p.engine.sandbox.compiler import Compiler
from llambo9p.engine.scheduler import Event, Failed, Finished, Plan, Progress, Scheduler, Tokens
from llambo9p.engine.structured.constraint import Constraint
from llambo9p.engine.watchdog import Pace, Piece, Watchdog

log = logging.getLogger(__name__)

STOPPED = "the engine was stopped"

BYTES_A_TOKEN = 4
"""to guess the length of a prompt before it is tokenized"""

PREPARING = 2
"""threads that prepare requests"""
CONSTRAINED = 4
"""threads that prepare those whose answers are held to a grammar; each waits for compilers"""


@dataclass(frozen=True, slots=True)
class _Embed:
    request: Request
    since: float


@dataclass(frozen=True, slots=True)
class _Submit:
    request: Request
    prepared: Prepared | Exception
    """or why the request cannot be decoded"""


@dataclass(frozen=True, slots=True)
class _Withdraw:
    """A request was cancelled before it was prepared."""

    request: Request
    since: float


@dataclass(frozen=True, slots=True)
class _Cancel:
    request: Request


@dataclass(frozen=True, slots=True)
class _Forget:
    conversation: Hashable


class _Wake:
    """A token may be known that was not."""


class _Stop:
    pass


_Message = _Embed | _Submit | _Withdraw | _Cancel | _Forget | _Wake | _Stop


@dataclass(slots=True)
class _Live:
    """What the loop knows of a request that is not over."""

    listener: Listener
    generated: Generated
    active: bool = False
    prefill: int = 0
    decode: int = 0


class DecodeThread:
    """`base.Engine` over a `Runner`.

    `start` and `stop` once each, on the event loop that listeners are to be called on;
    `submit` in between.  `max_queue` requests wait beyond the `slots` that run, and as many
    texts beyond the one whose embedding is made; `cache_ram`
    bytes hold what conversations have in the KV cache when others need its sequences; the
    loop is told of tokens once in `tell` seconds, 0 for each step.  A piece of work may always
    take `step_timeout` seconds, and more where steps are slow.
    """

    def __init__(
        self,
        runner: Runner,
        *,
        slots: int | None = None,
        max_queue: int = 64,
        cache_ram: int = 0,
        tell: float = 0.0,
        step_timeout: float = watchdog.LEAST_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._runner = runner
        self._clock = clock
        self._scheduler: Scheduler | None = None
        """made when the model is loaded"""
        self._embeddings = Embeddings(runner)
        self.slots = runner.n_seq if slots is None else slots
        self._max_queue = max_queue
        self._cache_ram = cache_ram
        self._tell_seconds = tell
        self._mailbox: queue.SimpleQueue[_Message] = queue.SimpleQueue()
        self._compiler = Compiler()
        self._preparing: Pool[None] = Pool("prepare", PREPARING, lambda: None)
        self._constrained: Pool[None] = Pool("constrain", CONSTRAINED, lambda: None, per_user=1)
        self._arrival: Arrival[Request, _Submit] = Arrival(self._mailbox.put)
        self._unprepared: dict[Request, float] = {}
        """since when each waits that the decode thread has not been given; whichever thread
        takes one out decides what becomes of it"""
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping = False
        self._ended: asyncio.Event | None = None
        self._refusal: Callable[[], errors.Error] | None = partial(
            errors.WorkerLost, "the engine is not started"
        )
        """why `submit` fails; None while the engine runs"""
        self._step_timeout = step_timeout
        self._pace = Pace(step_timeout)
        self._piece: Piece | None = None
        """the thread's present work; None while it waits or loads the model"""
        self._watchdog = Watchdog()
        self._looking: asyncio.TimerHandle | None = None
        self._live: dict[Request, _Live] = {}
        self._embeds = 0
        """of those, the ones that wait for an embedding"""
        self._active = 0
        self._prefill = 0
        self._decode = 0
        self.steps = 0
        """calls of llama_decode so far"""
        self.read_tokens = 0
        """tokens of prompts in these calls"""
        self._untold: list[Event] = []
        """for the loop"""
        self._told = -math.inf
        """when it was told last"""
        self._prompt_tokens = 0
        self._cached_tokens = 0
        self._generated_tokens = 0

    # On the event loop.

    async def start(self, progress: Callable[[float], None] | None = None) -> None:
        """Load the model on the decode thread; `progress` is told 0.0 to 1.0, once for
        each percent.

        Raises `ModelError`.  When the caller is cancelled the load is given up.
        """
        loop = asyncio.get_running_loop()
        self._loop = loop
        self.lost: asyncio.Future[str] = loop.create_future()
        """done with the reason when the engine will never work again, though nobody stopped it"""
        self._ended = asyncio.Event()
        loaded: asyncio.Future[None] = loop.create_future()
        self._thread = threading.Thread(
            target=self._main, args=(loaded, progress), name="decode", daemon=True
        )
        self._thread.start()
        try:
            await loaded
        except asyncio.CancelledError:
            self._stopping = True
            self._mailbox.put(_Stop())
            raise
        self._refusal = None
        self._look()

    async def stop(self) -> None:
        """End the thread and free the model; pending requests fail."""
        if self._thread is None or self._ended is None:
            return
        self._stopping = True
        self._refusal = partial(errors.WorkerLost, STOPPED)
        self._mailbox.put(_Stop())
        await self._ended.wait()
        self._thread.join()

    @property
    def info(self) -> ModelInfo:
        """The model; known once `start` returned."""
        return self._runner.info

    @property
    def load(self) -> Load:
        return Load(
            slots=self.slots,
            active=self._active,
            queued=len(self._live) - self._active,
            pending_prefill=self._prefill,
            pending_decode=self._decode,
            steps=self.steps,
            read_tokens=self.read_tokens,
            prompt_tokens=self._prompt_tokens,
            cached_tokens=self._cached_tokens,
            generated_tokens=self._generated_tokens,
        )

    def submit(self, request: Request, listener: Listener) -> None:
        if self._refusal is not None:
            raise self._refusal()
        room = self._max_queue + (1 if request.embed else self.slots)
        if (self._embeds if request.embed else len(self._live) - self._embeds) >= room:
            raise errors.Busy()
        self._embeds += request.embed
        live = _Live(listener, Generated(request))
        self._live[request] = live
        decode = 0 if request.embed else request.params.max_tokens
        self._account(live, _guess_tokens(request), decode)
        since = self._clock()
        if request.embed:
            self._mailbox.put(_Embed(request, since))
        else:
            self._unprepared[request] = since
            self._arrival.came(whose(request), request)
            free = request.params.constraint is None
            pool = self._preparing if free else self._constrained
            pool.submit(lambda _: self._prepare(request), request.user)

    def cancel(self, request: Request) -> None:
        if request in self._live:
            since = self._unprepared.pop(request, None)
            self._arrival.left(whose(request), request)
            self._mailbox.put(_Cancel(request) if since is None else _Withdraw(request, since))

    def forget(self, conversation: Hashable) -> None:
        self._mailbox.put(_Forget(conversation))

    def check(self, constraint: Constraint, user: str) -> Future[None]:
        return self._constrained.submit(lambda _: self._check(constraint, user), user)

    def _check(self, constraint: Constraint, user: str) -> None:
        self._runner.compile(self._compiler.grammar(constraint, user).result(), user)

    def _prepare(self, request: Request) -> None:
        """On a thread that prepares: make the request ready for the decode thread."""
        if request not in self._unprepared:
            return
        prepared: Prepared | Exception
        try:
            prepared = prepare(request, self._runner, self._runner.n_ctx, self._compiler)
        except Exception as error:  # the others go on, whatever it is
            prepared = error
        self._arrival.ready(whose(request), request, _Submit(request, prepared))

    def _deliver(self, events: list[Event]) -> None:
        for event in _joined(events):
            live = self._live.get(event.request)
            if live is None:
                continue
            try:
                self._tell(event, live)
            except Exception:
                log.exception("a listener failed")

    def _tell(self, event: Event, live: _Live) -> None:
        listener = live.listener
        match event:
            case Tokens(_, text, tokens):
                self._account(live, live.prefill, live.decode - len(tokens))
                self._generated_tokens += live.generated.count(tokens)
                listener.tokens(text, tokens)
            case Progress(_, state, position, pending):
                begun = state is not State.QUEUED
                self._active += begun - live.active
                live.active = begun
                if begun:
                    self._account(live, pending, live.decode)
                listener.progress(state, position)
            case Finished(request, usage):
                if not request.embed:
                    self._prompt_tokens += usage.prompt_tokens
                    self._cached_tokens += usage.cached_tokens
                self._remove(request, live)
                listener.done(usage)
            case Failed(request, error):
                if not isinstance(error, errors.Error):
                    log.error("a request could not be admitted", exc_info=error)
                self._remove(request, live)
                listener.failed(error)

    def _account(self, live: _Live, prefill: int, decode: int) -> None:
        self._prefill += prefill - live.prefill
        self._decode += decode - live.decode
        live.prefill, live.decode = prefill, decode

    def _remove(self, request: Request, live: _Live) -> None:
        self._account(live, 0, 0)
        self._active -= live.active
        self._embeds -= request.embed
        del self._live[request]

    def _look(self) -> None:
        """Ask the watchdog, now and then."""
        assert self._loop is not None
        wrong = self._watchdog.look(self._piece, self._loop.time())
        if wrong is None:
            self._looking = self._loop.call_later(watchdog.LOOK_S, self._look)
        else:
            self._lose(wrong)

    def _lose(self, why: str) -> None:
        """The engine will never work again."""
        why = f"{errors.HostLost.ename}: {why}"
        self._refuse(partial(errors.HostLost, why))
        if not self.lost.done():
            self.lost.set_result(why)

    def _refuse(self, refusal: Callable[[], errors.Error]) -> None:
        """Fail all requests, those of later `submit`s too."""
        self._refusal = refusal
        self._deliver([Failed(request, refusal()) for request in self._live])

    def _thread_ended(self, why: str) -> None:
        """The last thing the thread asks for; the mailbox is read by nobody now."""
        if self._looking is not None:
            self._looking.cancel()
        if self._refusal is None:
            self._lose(why)
        elif not self.lost.done():
            self._refuse(partial(errors.WorkerLost, why))
        assert self._ended is not None
        self._ended.set()

    # On the decode thread.

    def _main(self, loaded: asyncio.Future[None], progress: Callable[[float], None] | None) -> None:
        end = STOPPED
        try:
            self._runner.wake = lambda: self._mailbox.put(_Wake())
            self._load(progress)
            self._pace = Pace(self._step_timeout, self._runner.decode_seconds)
            scheduler = self._scheduler = self._make_scheduler()
            self._post(_settle, loaded, None)
            plan: Plan | None = None
            while self._read_mailbox(scheduler, wait=plan is None):
                plan = scheduler.plan(self._clock())
                self._publish(wait=plan is not None and not plan.prefill)
                if plan is not None:
                    self._execute(scheduler, plan)
                self._begin("a part of an embedding", EMBED_CHUNK)
                self._embeddings.step(self._clock)
                self._begin("the admission of requests", 0)
        except Exception as error:
            if not isinstance(error, errors.ModelError):
                log.exception("the decode thread died")
            end = f"the decode thread died: {error}"
            self._post(_settle, loaded, error)
        finally:
            self._piece = None
            self._publish()
            self._compiler.close()
            for pool in (self._preparing, self._constrained):
                pool.close()  # its threads read the model's vocabulary
            try:
                self._runner.close()
            finally:
                self._post(self._thread_ended, end)

    def _load(self, progress: Callable[[float], None] | None) -> None:
        told = -1

        def on_progress(fraction: float) -> bool:
            nonlocal told
            percent = int(fraction * 100)
            if progress is not None and percent > told:
                told = percent
                self._post(progress, fraction)
            return not self._stopping

        self._runner.load(on_progress)

    def _make_scheduler(self) -> Scheduler:
        return Scheduler(
            self._runner,
            n_seq=self._runner.n_seq,
            n_ctx=self._runner.n_ctx,
            prefill_chunk=self._runner.prefill_chunk,
            slots=self.slots,
            max_queue=self._max_queue,
            cache_ram=self._cache_ram,
            sizes=self._runner.sizes,
            retention=self._runner.retention,
            decode_seconds=self._runner.decode_seconds,
        )

    def _read_mailbox(self, scheduler: Scheduler, wait: bool) -> bool:
        """Take in all messages, waiting for one with `wait`, as there was nothing to decode;
        False when told to stop."""
        wait = wait and self._embeddings.idle
        if wait:
            self._publish()
            self._piece = None
        while wait or not self._mailbox.empty():
            wait = False
            match self._mailbox.get():
                case _Submit(request, prepared):
                    self._take_in(scheduler, request, prepared)
                case _Withdraw(request, since):
                    ms = (self._clock() - since) * 1000
                    usage = Usage(queue_ms=ms, total_ms=ms, finish_reason="cancelled")
                    self._untold.append(Finished(request, usage))
                case _Embed(request, since):
                    self._embeddings.submit(request, since)
                case _Cancel(request) if request.embed:
                    self._embeddings.cancel(request, self._clock())
                case _Cancel(request):
                    scheduler.cancel(request, self._clock())
                case _Forget(conversation):
                    scheduler.forget(conversation)
                case _Stop():
                    return False
        if self._piece is None:
            self._begin("the admission of requests", 0)
        return True

    def _take_in(
        self, scheduler: Scheduler, request: Request, prepared: Prepared | Exception
    ) -> None:
        since = self._unprepared.pop(request, None)
        if since is None:
            return  # it was withdrawn
        if isinstance(prepared, Prepared):
            scheduler.submit(prepared, since)
        else:
            self._untold.append(Failed(request, prepared))

    def _begin(self, what: str, rows: int) -> None:
        """Tell the watchdog of the next piece of work."""
        self._piece = Piece(what, self._pace.bound(rows))

    def _execute(self, scheduler: Scheduler, plan: Plan) -> None:
        try:
            self._decode_once(scheduler, plan)
        except errors.Error as error:
            log.warning("a step of %d sequences failed: %s", len(plan.parts), error)
            for alone in plan.apart():
                try:
                    self._decode_once(scheduler, alone)
                except errors.Error as reason:
                    scheduler.abort(alone, reason)

    def _decode_once(self, scheduler: Scheduler, plan: Plan) -> None:
        rows = len(plan.step.token)
        self._begin(f"a step of {rows} rows", rows)
        self.steps += 1
        self.read_tokens += plan.prefill
        began = self._clock()
        sampled = self._runner.run(plan.step)
        now = self._clock()
        self._pace.took(rows, now - began)
        scheduler.commit(plan, sampled, now, now - began)

    def _publish(self, wait: bool = False) -> None:
        """Tell the loop what happened; with `wait` tokens alone may wait."""
        if self._scheduler is not None:
            self._untold += self._scheduler.events()
        self._untold += self._embeddings.events()
        now = self._clock()
        soon = wait and now < self._told + self._tell_seconds
        if soon and all(isinstance(event, Tokens) for event in self._untold):
            return
        if self._untold:
            self._post(self._deliver, self._untold)
            self._told, self._untold = now, []

    def _post(self, call: Callable[..., object], *args: object) -> None:
        assert self._loop is not None
        try:
            self._loop.call_soon_threadsafe(call, *args)
        except RuntimeError:
            # The loop was closed without `stop`: nobody is left to tell.
            self._stopping = True
            self._mailbox.put(_Stop())


def _joined(events: Iterable[Event]) -> list[Event]:
    """The events, with the tokens that several steps brought to a request in one: whoever
    reads them is told once."""
    joined: list[Event] = []
    tokens: dict[Request, int] = {}
    """where those of a request are, when nothing else came for it since"""
    for event in events:
        if not isinstance(event, Tokens):
            tokens.pop(event.request, None)
        elif (at := tokens.get(event.request)) is not None:
            before = joined[at]
            assert isinstance(before, Tokens)
            joined[at] = Tokens(
                event.request, before.text + event.text, before.tokens + event.tokens
            )
            continue
        else:
            tokens[event.request] = len(joined)
        joined.append(event)
    return joined


def _settle(future: asyncio.Future[None], error: Exception | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(None)
    else:
        future.set_exception(error)


def _guess_tokens(request: Request) -> int:
    prompt = request.prompt
    size = len(prompt) if isinstance(prompt, str) else sum(len(m.content) for m in prompt)
    return size // BYTES_A_TOKEN + 1
