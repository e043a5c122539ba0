"""The book of cells: whose sequence, which prefix, how dense."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llambo9p.engine.cache import MIN_SHARE, Cache, common_prefix
from llambo9p.engine.runner import Copy, Remove

LONG = list(range(100, 100 + 2 * MIN_SHARE))


def use(cache, conversation, prompt):
    """A whole request: its sequence, and the operations that seeded it."""
    sequence = cache.acquire(conversation)
    ops = cache.seed(sequence, prompt)
    sequence.tokens = list(prompt)
    cache.release(sequence)
    return sequence, ops


@given(st.lists(st.integers(0, 1)), st.lists(st.integers(0, 1)), st.lists(st.integers(0, 1)))
def test_common_prefix(head, a, b):
    plain = 0
    for x, y in zip(head + a, head + b, strict=False):
        if x != y:
            break
        plain += 1
    assert common_prefix(head + a, head + b) == plain


def test_a_conversation_finds_its_sequence_again():
    cache = Cache(3)
    use(cache, "a", [1, 2])
    mine, _ = use(cache, "b", [3, 4])
    again = cache.acquire("b")
    assert again is mine
    assert cache.seed(again, [3, 4, 5]) == [Remove(1, 2)]


def test_a_full_hit_leaves_the_last_token_to_be_decoded():
    cache = Cache(1)
    use(cache, "a", [1, 2, 3])
    assert cache.seed(cache.acquire("a"), [1, 2, 3]) == [Remove(0, 2)]


def test_one_shots_take_the_lowest_sequence_that_is_kept_for_nobody():
    cache = Cache(3)
    use(cache, "a", [1])
    assert use(cache, None, [2])[0].seq_id == 1
    assert use(cache, None, [3])[0].seq_id == 1


def test_the_least_recently_used_conversation_is_evicted():
    cache = Cache(2)
    use(cache, "a", [1])
    use(cache, "b", [2])
    use(cache, "a", [1])
    assert use(cache, "c", [3])[0].seq_id == 1
    assert cache.acquire("a").tokens == [1]


def test_forget_frees_the_sequence_of_a_conversation():
    cache = Cache(2)
    use(cache, "a", [1])
    use(cache, "b", [2])
    cache.forget("b")
    assert use(cache, "c", [3])[0].seq_id == 1


def test_a_second_request_of_a_busy_conversation_gets_another_sequence():
    cache = Cache(2)
    first = cache.acquire("a")
    second = cache.acquire("a")
    assert first is not second
    cache.release(second)
    assert cache.acquire("a") is second


def test_a_long_prefix_of_another_sequence_is_copied():
    cache = Cache(2)
    use(cache, "a", [*LONG, 1])
    sequence, ops = use(cache, "b", [*LONG, 2])
    assert ops == [Copy(0, 1), Remove(1, len(LONG))]
    assert sequence.seq_id == 1


def test_a_short_one_is_not():
    cache = Cache(2)
    use(cache, "a", [1, 2, 3])
    assert use(cache, "b", [1, 2, 4])[1] == [Remove(1, 0)]


def test_compact_moves_the_busy_sequence_and_what_was_in_its_place():
    cache = Cache(4)
    for conversation in "abc":
        use(cache, conversation, [ord(conversation)])
    moved = cache.acquire("c")
    assert cache.compact() == [Copy(0, 3), Copy(2, 0)]
    assert moved.seq_id == 0
    assert moved.tokens == [ord("c")]
    kept = cache.acquire("a")
    assert (kept.seq_id, kept.tokens) == (3, [ord("a")])


def test_compact_evicts_the_oldest_when_there_is_no_room():
    cache = Cache(3)
    for conversation in "abc":
        use(cache, conversation, [ord(conversation)])
    moved = cache.acquire("c")
    assert cache.compact() == [Copy(2, 0)]
    assert moved.seq_id == 0
    assert cache.acquire("b").tokens == [ord("b")]
    assert cache.acquire("a").tokens == []


@pytest.mark.parametrize("n_seq", [1, 2, 5])
@given(data=st.data())
def test_busy_sequences_are_dense_and_the_book_tells_the_truth(n_seq, data):
    cache = Cache(n_seq)
    cells = [[] for _ in range(n_seq)]
    busy = []
    tokens = st.lists(st.sampled_from([LONG, [1], [2]]), max_size=3).map(lambda x: sum(x, [7]))
    for _ in range(data.draw(st.integers(1, 20))):
        if len(busy) == n_seq or (busy and data.draw(st.booleans())):
            cache.release(busy.pop(data.draw(st.integers(0, len(busy) - 1))))
            continue
        prompt = data.draw(tokens)
        sequence = cache.acquire(data.draw(st.sampled_from([None, "a", "b", "c"])))
        assert sequence not in busy
        busy.append(sequence)
        for op in cache.seed(sequence, prompt) + cache.compact():
            if isinstance(op, Copy):
                assert op.src != op.dst
                cells[op.dst] = list(cells[op.src])
            else:
                del cells[op.seq_id][op.start :]
        cells[sequence.seq_id] = sequence.tokens = list(prompt)
        assert sorted(s.seq_id for s in busy) == list(range(len(busy)))
        assert sorted(s.seq_id for s in cache.sequences) == list(range(n_seq))
        for s in cache.sequences:
            assert cells[s.seq_id][: len(s.tokens)] == s.tokens


def test_what_one_user_asked_is_of_no_use_to_another():
    cache = Cache(3)
    prompt = list(range(40))
    hers = cache.acquire("a", "alice")
    cache.seed(hers, prompt)
    hers.tokens = list(prompt)
    his = cache.acquire("b", "bob")
    assert cache.seed(his, prompt) == [Remove(his.seq_id, 0)], "nothing of a busy sequence"
    cache.release(hers)
    cache.forget("a")
    again = cache.acquire("c", "bob")
    assert again is hers
    assert cache.seed(again, prompt) == [Remove(hers.seq_id, 0)], "nor of one that he is given"
    his.tokens = list(prompt)
    more = cache.acquire("d", "bob")
    assert cache.seed(more, prompt)[0] == Copy(his.seq_id, more.seq_id), "but of his own"
