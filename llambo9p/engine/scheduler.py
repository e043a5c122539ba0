"""Continuous batching: which rows the next llama_decode has, for which requests.

Owns the queue, the running requests and the book of the KV cache.  The decode thread
alternates `plan` and `commit` (or `abort`); `submit`, `cancel` and `forget` come
between a commit and the next plan.  What became of the requests is collected as events.

Rules it keeps:
- At most `slots` requests run at once.  Users take turns for the slots (see `fair`).
- A request that must give up its slot waits again, with all that it has: sampler, text, times.
  Its cells stay while nobody needs their place, then in host memory (see `cache`).  Later it
  reads what is missing of its prompt and answer, and goes on as if nothing had been.  It keeps
  the slot then until `KEEP` seconds after its next token, however often its cells were lost; and
  it keeps it while its next token is not known.
- A step holds one token of every decoding sequence, or tokens of prompts (see `prefill`).
- Rows are sorted by seq_id, and the busy seq_ids are dense (see `cache`).
- A request whose prompt begins like that of an earlier one which is still prefilling
  waits for those cells and copies them, and prefills only what differs.
- A sequence never grows past `n_ctx` cells; an answer that reaches it ends with
  `length`.  A cancelled request has no row in the next step.
- A slot whose next token is not known yet (`runner.Later`) has no row, either; the others go on.
- Every request ends with exactly one `Finished` or `Failed`.
- An answer that is given its first tokens (`Request.answer`) has them in its sequence like
  the prompt, and ends where it would have ended; they are told with the first new one.
- After an answer its sequence keeps prompt and answer, without the last token sampled:
  that one was never decoded.

It must never read a clock (it is given `now`, seconds), do I/O, or know llama.cpp.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from llambo9p import errors
from llambo9p.engine.base import FinishReason, Logprobs, Request, State, Token, Usage
from llambo9p.engine.cache import Cache, CachedSequence
from llambo9p.engine.fair import FairQueue, whose
from llambo9p.engine.prefill import STALL, Prefill, Waiting
from llambo9p.engine.retention import Retention, Sizes
from llambo9p.engine.runner import Later, Model, Op, Output, Prepared, Remove, Step
from llambo9p.engine.text import Answer

KEEP = 1.0
"""seconds, see above"""
FEW = 32
"""waiting requests whose positions are told whenever they change"""
TELL = 0.0002
"""seconds for each waiting request, until positions of more are told again: this takes less than
1% of the decode thread's time"""


@dataclass(frozen=True, slots=True)
class Progress:
    request: Request
    state: State
    position: int
    """in the queue, from 1; 0 when not queued"""
    pending_prefill: int
    """prompt tokens not yet in the KV cache; -1 while queued: not tokenized yet"""


@dataclass(frozen=True, slots=True)
class Tokens:
    request: Request
    text: bytes
    tokens: tuple[Token, ...]


@dataclass(frozen=True, slots=True)
class Finished:
    request: Request
    usage: Usage


@dataclass(frozen=True, slots=True)
class Failed:
    request: Request
    error: Exception


Event = Progress | Tokens | Finished | Failed


@dataclass(slots=True, eq=False)
class Queued:
    prepared: Prepared
    since: float
    slot: Slot | None = None
    """what it had when it was interrupted"""

    @property
    def request(self) -> Request:
        return self.prepared.request


class Slot:
    """One request that was begun: its sequence, its prompt and its answer so far."""

    def __init__(
        self,
        queued: Queued,
        prompt: list[int],
        sampler: object,
        sequence: CachedSequence,
        now: float,
    ) -> None:
        self.prepared = queued.prepared
        self.request = queued.request
        self.prompt = prompt
        """and what there was of the answer when the slot was given or got back"""
        self.sampler = sampler
        self.sequence = sequence
        self.scope = sequence.scope
        """of the request: who shares cells with it, also when it goes on after an interruption"""
        self.answer = Answer(queued.request.params.stop)
        self.end = 0
        """bytes of the answer that are final"""
        self.untold_text = b""
        self.untold: list[Token] = []
        """of the answer that was given, until there is more"""
        self.prompt_size = len(prompt)
        self.given = 0
        """of the sampled tokens, those that were given"""
        self.submitted = queued.since
        self.started = now
        """when it got the slot, also if that was again"""
        self.queued_seconds = now - queued.since
        """in the queue before its first token"""
        self.interrupted_seconds = 0.0
        """in the queue after its first token"""
        self.waits_since: float | None = None
        """when it gave up its slot; None while it has one"""
        self.was_interrupted = False
        self.progress: float | None = None
        """when its first token came since it got the slot"""
        self.first_token: float | None = None
        self.cached = 0
        self.sampled = 0
        self.next_token: int | None = None
        """sampled and not yet decoded; None while prefilling"""
        self.later: Later | None = None
        """the token after it, while that is not known"""

    @property
    def owner(self) -> Hashable:
        """For whom the cache keeps its cells."""
        conversation = self.request.conversation
        return self.request if conversation is None and self.was_interrupted else conversation

    @property
    def prefill_left(self) -> int:
        return max(0, len(self.prompt) - len(self.sequence.tokens))

    def waits_no_longer(self, now: float) -> None:
        """It gets a slot again, or is over."""
        assert self.waits_since is not None
        if self.first_token is None:
            self.queued_seconds += now - self.waits_since
        else:
            self.interrupted_seconds += now - self.waits_since
        self.waits_since = None

    def may_be_interrupted(self, now: float) -> bool:
        if self.later is not None:
            return False
        if not self.was_interrupted:
            return True
        return self.progress is not None and now - self.progress >= KEEP

    def output(self, row: int) -> Output:
        return Output(row, self.sampler, self.request.params.logprobs)


@dataclass(slots=True)
class Plan:
    """A step, and whose rows are in it: (slot, number of rows, whether it has an output)."""

    step: Step
    parts: list[tuple[Slot, int, bool]]
    prefill: int = 0
    """how many rows are of prompts"""

    def apart(self) -> list[Plan]:
        """The same rows, each sequence's in a step of its own; the first step's
        operations are taken as done, and half-decoded cells are removed."""
        plans = []
        row = 0
        step = self.step
        for slot, rows, wanted in self.parts:
            end = row + rows
            alone = Step(
                [Remove(slot.sequence.seq_id, step.pos[row])],
                step.token[row:end],
                step.pos[row:end],
                step.seq_id[row:end],
                [slot.output(rows - 1)] if wanted else [],
            )
            prefill = rows if slot.next_token is None else 0
            plans.append(Plan(alone, [(slot, rows, wanted)], prefill))
            row = end
        return plans


class Scheduler:
    """Plans steps for `n_seq` sequences of `n_ctx` cells.  See the module's rules."""

    def __init__(
        self,
        model: Model,
        *,
        n_seq: int,
        n_ctx: int,
        prefill_chunk: int,
        slots: int | None = None,
        max_queue: int = 64,
        stall: float | None = STALL,
        cache_ram: int = 0,
        sizes: Sizes | None = None,
        retention: Retention | None = None,
        decode_seconds: float = 0.0,
    ) -> None:
        """`cache_ram` bytes are for what is saved of sequences in host memory; for `sizes` and
        `retention` see `Cache`, for `prefill_chunk`, `stall` and `decode_seconds` `Prefill`."""
        self.slots = n_seq if slots is None else slots
        if not 1 <= self.slots <= n_seq:
            raise ValueError(f"slots must be 1 to {n_seq}, not {self.slots}")
        self._model = model
        self._n_ctx = n_ctx
        self._max_queue = max_queue
        self._prefill: Prefill[Slot] = Prefill(prefill_chunk, stall, decode_seconds)
        self._cache = Cache(n_seq, ram=cache_ram, sizes=sizes, retention=retention)
        self._queue: FairQueue[Request] = FairQueue()
        """of requests that wait, and of those that are active"""
        self._queued: dict[Request, Queued] = {}
        """those that wait"""
        self._now = 0.0
        """when the newest step was planned"""
        self._told = -math.inf
        """when positions were told"""
        self._active: list[Slot] = []
        self._ops: list[Op] = []
        """for the next step"""
        self._events: list[Event] = []

    @property
    def idle(self) -> bool:
        return not self._queued and not self._active

    def events(self) -> list[Event]:
        """What happened since the last call, in order."""
        events, self._events = self._events, []
        return events

    def submit(self, prepared: Prepared, now: float) -> None:
        """Queue a request, which came at `now`.  Raises `Busy` when no slot is free and the
        queue is full."""
        if len(self._queued) + len(self._active) >= self.slots + self._max_queue:
            raise errors.Busy()
        request = prepared.request
        self._queued[request] = Queued(prepared, now)
        self._queue.add(request, whose(request), now, request.priority)

    def cancel(self, request: Request, now: float) -> None:
        """End `request` with finish_reason `cancelled`; nothing if it is over."""
        queued = self._queued.pop(request, None)
        if queued is not None and queued.slot is not None:
            self._finish(queued.slot, "cancelled", now)
            return
        if queued is not None:
            self._queue.remove(request, now)
            ms = (now - queued.since) * 1000
            usage = Usage(queue_ms=ms, total_ms=ms, finish_reason="cancelled")
            self._events.append(Finished(request, usage))
            return
        for slot in self._active:
            if slot.request is request:
                self._finish(slot, "cancelled", now)
                return

    def forget(self, conversation: Hashable) -> None:
        self._cache.forget(conversation)

    def plan(self, now: float) -> Plan | None:
        """The next step, or None when there is nothing to decode: the scheduler is idle, or
        waits for tokens that are not known yet."""
        self._now = now
        self._take_known(now)
        if self._queued and len(self._active) == self.slots:
            self._exchange(now)
        while len(self._active) < self.slots and (request := self._queue.next()) is not None:
            self._give_slot(request, now)
        self._tell_positions(now)
        if not self._active:
            return None
        for slot in self._active:
            self._ops += self._cache.checkpoint(slot.sequence)
        # in this order: who waits for one that waits finds what that one has now
        followers = [slot for slot in self._active if slot.sequence.ahead is not None]
        for slot in sorted(followers, key=lambda slot: slot.sequence.since):
            ahead = slot.sequence.ahead
            if ahead is not None and not ahead.is_coming:
                self._seed(slot)
        self._ops += self._cache.compact()
        self._active.sort(key=lambda slot: slot.sequence.seq_id)
        return self._rows(now)

    def commit(
        self, plan: Plan, sampled: Sequence[int | Later], now: float, seconds: float
    ) -> None:
        """The step was decoded, which took `seconds`; `sampled` has a token for each of its
        outputs."""
        if plan.prefill:
            self._prefill.read(plan.prefill, seconds)
        else:
            self._prefill.decoded(seconds)
        outputs = iter(enumerate(sampled))
        row = 0
        for slot, rows, wanted in plan.parts:
            slot.sequence.tokens += plan.step.token[row : row + rows]
            row += rows
            if wanted:
                output, token = next(outputs)
                if isinstance(token, int):
                    self._take(slot, token, now, plan.step.logprobs.get(output))
                else:
                    slot.later = token
            else:
                self._tell_prefill(slot)

    def abort(self, plan: Plan, error: Exception) -> None:
        """The step could not be decoded: fail its requests, trust none of their cells."""
        for slot, _, _ in plan.parts:
            slot.sequence.tokens = []
            slot.sequence.owner = None
            self._fail(slot, error)

    def _take_known(self, now: float) -> None:
        """Take the tokens that have become known since the last step."""
        for slot in [slot for slot in self._active if slot.later is not None]:
            later = slot.later
            assert later is not None
            try:
                token = later.token()
            except errors.Error as error:
                self._fail(slot, error)
                continue
            if token is not None:
                slot.later = None
                self._take(slot, token, now, later.logprobs)

    def _give_slot(self, request: Request, now: float) -> None:
        """The waiting request has its turn."""
        self._queue.take(request)
        queued = self._queued.pop(request)
        if queued.slot is None:
            self._admit(queued, now)
        else:
            self._resume(queued.slot, now)

    def _exchange(self, now: float) -> None:
        """Let a user who has waited for long have the slot of another, if there are such."""
        slots = {slot.request: slot for slot in self._active}
        exchange = self._queue.exchange(now, lambda it: slots[it].may_be_interrupted(now))
        if exchange is not None:
            claim, interrupted = exchange
            self._interrupt(slots[interrupted], now)
            self._give_slot(claim, now)

    def _interrupt(self, slot: Slot, now: float) -> None:
        """Let the slot's request wait again."""
        slot.was_interrupted = True
        slot.waits_since = now
        slot.progress = None
        if slot.request.conversation is None:
            slot.sequence.owner = slot.request
        if slot.next_token is not None:
            slot.prompt = [*slot.sequence.tokens, slot.next_token]
            slot.next_token = None
        self._active.remove(slot)
        self._cache.release(slot.sequence)
        self._queued[slot.request] = Queued(slot.prepared, slot.submitted, slot)
        self._queue.interrupt(slot.request, now)

    def _resume(self, slot: Slot, now: float) -> None:
        """Go on where the request was interrupted."""
        slot.waits_no_longer(now)
        slot.started = now
        slot.sequence, ops = self._cache.acquire(slot.owner, slot.scope)
        self._ops += ops
        self._active.append(slot)
        self._seed(slot)
        self._tell_prefill(slot)

    def _admit(self, queued: Queued, now: float) -> None:
        request, prepared = queued.request, queued.prepared
        prompt = prepared.prompt.tolist()
        try:
            sampler = self._model.sampler(prepared)
        except Exception as error:  # the others go on, whatever it is
            self._queue.remove(request, now)
            self._events.append(Failed(request, error))
            return
        sequence, ops = self._cache.acquire(request.conversation, request.scope)
        self._ops += ops
        slot = Slot(queued, prompt, sampler, sequence, now)
        self._active.append(slot)
        reason = self._give(slot, prepared.given)
        self._seed(slot)
        if reason is None:
            self._tell_prefill(slot)
        else:
            self._finish(slot, reason, now)

    def _give(self, slot: Slot, tokens: Sequence[int]) -> FinishReason | None:
        """Let the answer begin with these tokens; why it ends there, if it does."""
        for token in tokens:
            text, reason = self._add(slot, token)
            slot.untold_text += text
            slot.untold.append(Token(token, slot.end))
            slot.given += 1
            if reason is not None:
                return reason
            slot.prompt.append(token)
        return None

    def _add(self, slot: Slot, token: int) -> tuple[bytes, FinishReason | None]:
        """One more token of the answer: the text that became final, and why it ends."""
        text = slot.answer.push(self._model.piece(token))
        slot.sampled += 1
        reason: FinishReason | None = None
        if slot.answer.stopped:
            reason = "stop"
        elif (
            slot.sampled >= slot.request.params.max_tokens
            or slot.prompt_size + slot.sampled > self._n_ctx
        ):
            reason = "length"
        if reason is not None:
            text += slot.answer.flush()
            if slot.answer.stopped:
                reason = "stop"
        slot.end += len(text)
        return text, reason

    def _seed(self, slot: Slot) -> None:
        self._ops += self._cache.seed(slot.sequence, slot.prompt, slot.prepared.marks)
        if not slot.was_interrupted:
            slot.cached = len(slot.sequence.tokens)

    def _rows(self, now: float) -> Plan | None:
        step = Step()
        parts: list[tuple[Slot, int, bool]] = []
        pieces = dict(self._pieces(now))
        for slot in self._active:
            start = len(slot.sequence.tokens)
            rows, wanted = pieces.get(slot, 0), True
            if rows:
                wanted = start + rows == len(slot.prompt)
                step.token += slot.prompt[start : start + rows]
            elif not pieces and slot.next_token is not None and slot.later is None:
                rows = 1
                step.token.append(slot.next_token)
            else:
                continue
            step.pos += range(start, start + rows)
            step.seq_id += [slot.sequence.seq_id] * rows
            if wanted:
                step.outputs.append(slot.output(len(step.token) - 1))
            parts.append((slot, rows, wanted))
        if not parts:
            return None
        step.ops, self._ops = self._ops, []
        return Plan(step, parts, sum(pieces.values()))

    def _pieces(self, now: float) -> list[tuple[Slot, int]]:
        """The tokens of prompts in the next step; none when it decodes."""
        left = self._left()
        waiting = [
            Waiting(
                slot,
                slot.prefill_left,
                left[slot.sequence],
                slot.sequence.since,
                slot.started,
                whose(slot.request),
                self._room(slot),
            )
            for slot in self._active
            if slot.prefill_left and slot.sequence.ahead is None
        ]
        began = [
            slot.first_token
            for slot in self._active
            if slot.first_token is not None and slot.next_token is not None and slot.later is None
        ]
        return self._prefill.next(waiting, now, min(began, default=None))

    def _room(self, slot: Slot) -> int | None:
        """Tokens of the slot's prompt until a checkpoint is to be made."""
        mark = self._cache.next_mark(slot.sequence)
        return None if mark is None else mark - len(slot.sequence.tokens)

    def _left(self) -> dict[CachedSequence, int]:
        """Tokens that each prefilling sequence needs until somebody can go on: it itself, or
        one that waits for it."""
        left = {slot.sequence: slot.prefill_left for slot in self._active}
        for slot in self._active:
            ahead = slot.sequence.ahead
            if ahead is not None:
                missing = ahead.length - len(ahead.sequence.tokens)
                left[ahead.sequence] = min(left[ahead.sequence], missing)
        return left

    def _take(self, slot: Slot, token: int, now: float, logprobs: Logprobs | None) -> None:
        """The next token of the answer was sampled."""
        if slot.next_token is None:
            self._events.append(Progress(slot.request, State.DECODE, 0, 0))
        slot.next_token = token
        if slot.progress is None:
            slot.progress = now
        if slot.first_token is None:
            slot.first_token = now
        if self._model.is_eog(token):
            self._finish(slot, "stop", now)
            return
        text, reason = self._add(slot, token)
        self._tell_tokens(slot, text, (Token(token, slot.end, logprobs),))
        if reason is not None:
            self._finish(slot, reason, now)

    def _finish(self, slot: Slot, reason: FinishReason, now: float) -> None:
        text = slot.answer.flush()
        if text or slot.untold:
            self._tell_tokens(slot, text, ())
        self._release(slot, now)
        first = slot.first_token
        usage = Usage(
            prompt_tokens=slot.prompt_size,
            given_tokens=slot.given,
            cached_tokens=min(slot.cached, slot.prompt_size),
            completion_tokens=slot.sampled,
            queue_ms=slot.queued_seconds * 1000,
            interrupted_ms=slot.interrupted_seconds * 1000,
            ttft_ms=0.0 if first is None else (first - slot.submitted) * 1000,
            total_ms=(now - slot.submitted) * 1000,
            trimmed_turns=slot.prepared.trimmed_turns,
            exact=self._model.info.exact,
            finish_reason=reason,
        )
        self._events.append(Finished(slot.request, usage))

    def _fail(self, slot: Slot, error: Exception) -> None:
        self._release(slot, self._now)
        self._events.append(Failed(slot.request, error))

    def _release(self, slot: Slot, now: float) -> None:
        self._queue.remove(slot.request, now)
        if slot.waits_since is None:
            self._active.remove(slot)
            self._cache.release(slot.sequence)
        else:
            slot.waits_no_longer(now)
        if slot.owner is slot.request:
            self._cache.forget(slot.request)

    def _tell_tokens(self, slot: Slot, text: bytes, tokens: tuple[Token, ...]) -> None:
        if slot.untold:
            text, slot.untold_text = slot.untold_text + text, b""
            tokens, slot.untold = (*slot.untold, *tokens), []
        self._events.append(Tokens(slot.request, text, tokens))

    def _tell_prefill(self, slot: Slot) -> None:
        self._events.append(Progress(slot.request, State.PREFILL, 0, slot.prefill_left))

    def _tell_positions(self, now: float) -> None:
        waiting = len(self._queue)
        if waiting > FEW and now < self._told + TELL * waiting:
            return
        self._told = now
        for request, position in self._queue.moved():
            self._events.append(Progress(request, State.QUEUED, position, -1))
