"""Every value that another server says is in its range, or refused; and whatever is not refused can
be saved, and loaded again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from llambo9p.cluster import state
from llambo9p.cluster.names import check_mount
from llambo9p.cluster.offer import Offer
from llambo9p.cluster.state import SavedHost, State
from llambo9p.conversation import said, texts
from llambo9p.conversation.worker_names import MAX_WORKERS, worker_name
from llambo9p.engine.base import Alternative, Logprobs, Token, Usage
from llambo9p.errors import Error

WORDS = st.one_of(
    st.text(max_size=30),
    st.integers().map(str),
    st.floats().map(str),
    st.integers(0, 20_000).map(worker_name),
    st.sampled_from(["ctl", "..", "", "a/b", "0x1", "1_0", "٣", "²", "-0", "+1", " 1", "1\n", "nan",
                     "inf", "1e9", "9" * 5000, "worker-0001", "worker-00001", "tiny"]),
)  # fmt: skip


@given(WORDS)
@example("9" * 5000)
def test_numbers_are_whole_and_in_range(word: str) -> None:
    for most in (0, said.MANY, said.TOKENS, said.EPOCHS - 1, said.COUNTED):
        try:
            number = said.whole(word, most)
        except ValueError as e:
            assert len(str(e)) < 200
        else:
            assert 0 <= number <= most and word.isascii() and int(word) == number


@given(st.integers(0, said.COUNTED))
def test_every_number_that_can_be_said_is_read(number: int) -> None:
    assert said.whole(str(number)) == number


@given(WORDS)
def test_times_are_finite_and_not_negative(word: str) -> None:
    try:
        time = said.milliseconds(word)
    except ValueError:
        return
    assert 0 <= time < 10**16


@given(WORDS)
def test_names_are_names(word: str) -> None:
    checks: list[Callable[[str], str]] = [
        said.worker, said.node_type, said.identity, said.title,
    ]  # fmt: skip
    for check in checks:
        try:
            assert check(word) == word
        except ValueError as e:
            assert len(str(e)) < 400
            continue
        assert word.isprintable() and 0 < len(word) <= 256
        if check is not said.title:
            assert not set(word) & set("/\0 \t\n") and word not in (".", "..") or check is (
                said.identity
            )
        if check is said.worker:
            check_mount(word)


@given(st.lists(st.lists(WORDS, min_size=1, max_size=8).map(" ".join), max_size=5))
def test_lines_about_workers_are_understood_or_refused(lines: list[str]) -> None:
    try:
        found = said.worker_lines(lines)
    except ValueError:
        return
    assert len(found) == len(lines)
    for name, line in found.items():
        assert said.worker(name) == name
        assert all(0 <= number <= said.COUNTED for number in line[1:])


@given(st.sets(st.integers(0, MAX_WORKERS - 1), max_size=20), st.integers(0, said.MANY))
def test_honest_lines_are_understood(numbers: set[int], count: int) -> None:
    lines = [f"{worker_name(n)} decode {count} 0 {count} {count} 0" for n in numbers]
    found = said.worker_lines(lines)
    assert found.keys() == {worker_name(n) for n in numbers}
    assert all(line == ("decode", count, 0, count, count, 0) for line in found.values())


STATUS = st.dictionaries(
    st.sampled_from(["type", "model", "context", "epoch", "slots", "other"]), WORDS
)


@given(STATUS, st.lists(WORDS, max_size=4))
def test_whatever_is_accepted_of_a_host_can_be_saved_and_loaded(
    status: dict[str, str], names: list[str]
) -> None:
    """As `Host.learn` reads it."""
    try:
        epoch = said.whole(status["epoch"], said.EPOCHS - 1) if "epoch" in status else None
        slots = said.whole(status.get("slots", "1"), said.MANY)
        node_type = said.node_type(status.get("type", "tiny"))
        model = said.title(status.get("model", "-"))
        workers = {name: name for name in map(said.worker, said.each_of(names))}
    except ValueError:
        return
    host = SavedHost("tcp!h!1", epoch, [node_type], model, slots, True, workers)
    whole = State("tcp!h!1", 1, hosts=[host])
    assert state.parse(state.dump(whole), "f") == whole


OFFER = ["orchestrators", "engines", "slots", "types", "models", "context", "requests", "waiting"]


@given(st.dictionaries(st.sampled_from(OFFER), WORDS))
def test_an_offer_is_understood_or_refused(attrs: dict[str, str]) -> None:
    try:
        offer = Offer.parse("".join(f"{name} {value}\n" for name, value in attrs.items()))
    except Error:
        return
    if offer is not None:
        for number in (offer.engines, offer.slots, offer.requests, offer.waiting):
            assert 0 <= number <= said.MANY
        assert Offer.parse(offer.text(True)) == offer


@given(st.dictionaries(st.sampled_from(texts.show_usage(Usage()).split()[::2]), WORDS))
def test_usage_is_understood_or_refused(attrs: dict[str, str]) -> None:
    honest = said.attributes(texts.show_usage(Usage(9, 4, 3, 1, 1.0, 2.0, 3.0)))
    try:
        usage = texts.parse_usage("".join(f"{n} {v}\n" for n, v in (honest | attrs).items()))
    except Error as e:
        assert len(str(e)) < 400
        return
    assert 0 <= usage.cached_tokens <= usage.prompt_tokens <= said.TOKENS
    assert 0 <= usage.given_tokens <= usage.completion_tokens <= said.TOKENS
    assert usage.finish_reason in ("stop", "length", "cancelled")
    assert 0 <= usage.tokens_per_second < 10**20


@given(st.integers(0, 2**31 - 1), st.integers(0, 10**12))
def test_tokens_are_read_back(id: int, end: int) -> None:
    assert texts.parse_token(texts.show_tokens([Token(id, end)]).strip()) == Token(id, end)


@given(st.lists(WORDS, max_size=4).map(" ".join))
def test_a_token_is_understood_or_refused(line: str) -> None:
    try:
        token = texts.parse_token(line)
    except Error:
        return
    assert 0 <= token.id < 2**31 and token.end >= 0


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4)
    | st.dictionaries(st.sampled_from(["id", "bytes", "logprob", "top_logprobs"]), inner),
)


@given(JSON)
def test_logprobs_are_understood_or_refused(value: Any) -> None:
    import json

    try:
        logprobs = texts.parse_logprobs(json.dumps(value))
    except Error as e:
        assert len(str(e)) < 400
        return
    assert logprobs.chosen.logprob <= 0.001


def test_honest_logprobs_are_read_back() -> None:
    chosen = Alternative(5, b"\xe2\x82", -0.5)
    logprobs = Logprobs(chosen, (chosen, Alternative(6, b"", float("-inf"))))
    line = texts.show_logprobs([Token(5, 2, logprobs)])
    assert texts.parse_logprobs(line) == logprobs


@pytest.mark.parametrize("size", [10**9, 10**15])
def test_a_number_for_a_tokens_bytes_takes_no_memory(size: int) -> None:
    line = f'{{"id":1,"bytes":{size},"logprob":-1,"top_logprobs":[]}}'
    with pytest.raises(Error, match="bytes are no list"):
        texts.parse_logprobs(line)
