"""The fuzzing itself for a while, what it once found, and that it can find something.

A failing input goes to `failed`, under a name that says what was wrong, and stays there.
`python -m tests.fuzz.show FILE` prints what an input does.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from llambo9p import errors
from llambo9p.p9 import messages as m
from llambo9p.p9 import server
from llambo9p.p9.fid import Fid, Request
from llambo9p.p9.framing import Framer
from llambo9p.p9.server import ServerConn
from tests.tiers import either

from . import script, target
from .campaign import fuzz
from .corpus import SCRIPTS
from .mutate import Mutator
from .tree import Opened

SECONDS = either(15, 600)
FAILED = Path(__file__).parent / "failed"


@pytest.mark.slow
@pytest.mark.timeout(SECONDS + 120)
@pytest.mark.skipif(find_spec("atheris") is None, reason="atheris has no wheel for this machine")
def test_fuzzing_for_a_while(tmp_path: Path) -> None:
    found = fuzz(tmp_path, SECONDS)
    print(found)
    assert not found.failure, found.failure
    assert found.runs >= 2_000 * SECONDS / 60, found
    assert found.coverage > found.coverage_of_corpus, found
    assert found.blocks_grown <= 200, found
    assert found.kilobytes_grown <= 16_384, found


def test_what_failed_once_does_not_again() -> None:
    for path in FAILED.glob("*"):
        target.run_bytes(path.read_bytes())


@pytest.mark.parametrize("begin", SCRIPTS.values(), ids=SCRIPTS)
def test_what_it_begins_with_holds(begin: script.Script) -> None:
    assert script.unpack(script.pack(begin)) == begin
    for settings in range(8):
        target.run(script.Script(settings, begin.steps))


def mutants(count: int) -> Iterator[script.Script]:
    """What fuzzing begins with, in all settings, and `count` more."""
    corpus = [
        script.Script(settings, begin.steps)
        for settings in range(len(target.LIMITS))
        for begin in SCRIPTS.values()
    ]
    yield from corpus
    mutator = Mutator(corpus)
    rng = random.Random(0)
    for _ in range(count):
        corpus.append(mutator.mutate(rng.choice(corpus), rng))
        yield corpus[-1]


def test_mutants_hold() -> None:
    for mutant in mutants(300):
        target.run(mutant)


# -- defects, put in: each must be found among the same mutants ------------------------

DEFECTS: dict[str, Callable[[pytest.MonkeyPatch], None]] = {}


def defect(put_in: Callable[[pytest.MonkeyPatch], None]) -> None:
    DEFECTS[put_in.__name__] = put_in


@defect
def a_clunk_does_not_release_the_file(patch: pytest.MonkeyPatch) -> None:
    end_fid = ServerConn.end_fid

    def keep(self: ServerConn, fid: Fid) -> None:
        end_fid(self, fid)
        assert fid.node is not None
        fid.node.retain()  # type: ignore[attr-defined]

    patch.setattr(ServerConn, "end_fid", keep)


@defect
def a_late_result_is_not_given_back(patch: pytest.MonkeyPatch) -> None:
    complete = ServerConn.complete

    def forget(self: ServerConn, request: Request, result: object) -> None:
        if not request.over:
            complete(self, request, result)

    patch.setattr(ServerConn, "complete", forget)


@defect
def a_lost_connection_does_not_drop_its_opens(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Opened, "drop", lambda self: None)


@defect
def a_reply_may_be_larger_than_msize(patch: pytest.MonkeyPatch) -> None:
    def unlimited(self: ServerConn, reply: m.Message) -> None:
        if self._trace is not None:
            self._trace("<-", reply)
        self._out.append(reply.pack())

    patch.setattr(ServerConn, "_send", unlimited)


@defect
def a_tag_in_use_is_taken_again(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(ServerConn, "_refusal", lambda self, msg: None)


@defect
def a_flush_is_answered_blindly(patch: pytest.MonkeyPatch) -> None:
    patch.setitem(
        ServerConn._CONNECTION, m.Tflush.number, lambda self, msg: m.Rflush(msg.tag)
    )


@defect
def a_bad_size_is_not_seen(patch: pytest.MonkeyPatch) -> None:
    feed = Framer.feed

    def lenient(self: Framer, data: bytes) -> list[bytes]:
        return feed(self, data) if not data.startswith(b"\0") else []

    patch.setattr(Framer, "feed", lenient)


@defect
def a_bug_is_answered_as_an_error(patch: pytest.MonkeyPatch) -> None:
    def fail(self: ServerConn, msg: m.Message, fid: Fid) -> m.Message:
        raise KeyError(msg)

    patch.setitem(server._ON_FID, m.Tstat.number, fail)


@defect
def an_error_is_swallowed(patch: pytest.MonkeyPatch) -> None:
    fail = ServerConn.fail

    def swallow(self: ServerConn, request: Request, error: BaseException) -> None:
        if not isinstance(error, errors.Error):
            fail(self, request, error)

    patch.setattr(ServerConn, "fail", swallow)


@pytest.mark.parametrize("put_in", DEFECTS.values(), ids=DEFECTS)
def test_a_defect_is_found(
    put_in: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    put_in(monkeypatch)
    with pytest.raises(Exception):  # noqa: B017 (whatever it shows itself by)
        for mutant in mutants(2000):
            target.run(mutant)
