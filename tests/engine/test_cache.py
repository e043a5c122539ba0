"""The book of cells: whose sequence, which prefix, how dense."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llambo9p.engine.cache import MIN_SHARE, Cache
from llambo9p.engine.runner import Copy, Remove, Restore, Save

LONG = list(range(100, 100 + 2 * MIN_SHARE))


def use(cache, conversation, prompt):
    """A whole request: its sequence, and the operations that seeded it."""
    sequence, ops = cache.acquire(conversation)
    ops += cache.seed(sequence, prompt)
    sequence.tokens = list(prompt)
    cache.release(sequence)
    return sequence, ops


def test_a_conversation_finds_its_sequence_again():
    cache = Cache(3)
    use(cache, "a", [1, 2])
    mine, _ = use(cache, "b", [3, 4])
    again, ops = cache.acquire("b")
    assert again is mine
    assert ops == []
    assert cache.seed(again, [3, 4, 5]) == [Remove(1, 2)]


def test_a_full_hit_leaves_the_last_token_to_be_decoded():
    cache = Cache(1)
    use(cache, "a", [1, 2, 3])
    assert cache.seed(cache.acquire("a")[0], [1, 2, 3]) == [Remove(0, 2)]


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
    assert cache.acquire("a")[0].tokens == [1]


def test_forget_frees_the_sequence_of_a_conversation():
    cache = Cache(2)
    use(cache, "a", [1])
    use(cache, "b", [2])
    cache.forget("b")
    assert use(cache, "c", [3])[0].seq_id == 1


def test_a_second_request_of_a_busy_conversation_gets_another_sequence():
    cache = Cache(2)
    first, _ = cache.acquire("a")
    second, _ = cache.acquire("a")
    assert first is not second
    cache.release(second)
    assert cache.acquire("a")[0] is second


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
    moved, _ = cache.acquire("c")
    save, copy, restore = cache.compact()
    assert (save.seq_id, copy, restore) == (0, Copy(2, 0), Restore(save.cells, 2))
    assert moved.seq_id == 0
    assert moved.tokens == [ord("c")]
    kept, _ = cache.acquire("a")
    assert (kept.seq_id, kept.tokens) == (2, [ord("a")])
    assert cache.acquire("b")[0].tokens == [ord("b")], "nobody loses anything"


def test_what_is_moved_where_nothing_is_kept_is_only_copied():
    cache = Cache(2)
    first, _ = cache.acquire(None)
    second, _ = cache.acquire(None)
    cache.seed(second, [1, 2])
    cache.release(first)
    assert cache.compact() == [Copy(1, 0)]


@pytest.mark.parametrize("n_seq", [1, 2, 5])
@given(data=st.data(), ram=st.sampled_from([0, 60, 1000]))
def test_busy_sequences_are_dense_and_the_book_tells_the_truth(n_seq, data, ram):
    cache = Cache(n_seq, ram=ram)
    cells = [[] for _ in range(n_seq)]
    busy = []
    tokens = st.lists(st.sampled_from([LONG, [1], [2]]), max_size=3).map(lambda x: sum(x, [7]))

    def carry_out(ops):
        for op in ops:
            match op:
                case Copy(src, dst):
                    assert src != dst
                    cells[dst] = list(cells[src])
                case Remove(seq_id, start):
                    del cells[seq_id][start:]
                case Save(seq_id, saved):
                    saved.data = list(cells[seq_id])
                case Restore(saved, seq_id):
                    cells[seq_id] = list(saved.data)

    for _ in range(data.draw(st.integers(1, 20))):
        action = data.draw(st.sampled_from(["ask", "ask", "grow", "release", "forget"]))
        if action == "forget":
            cache.forget(data.draw(st.sampled_from("abc")))
        elif action == "release" and busy:
            cache.release(busy.pop(data.draw(st.integers(0, len(busy) - 1))))
        elif action == "grow" and busy:
            # some tokens of the prompt, or of the answer after it
            sequence = data.draw(st.sampled_from(busy))
            held = len(sequence.tokens)
            new = list(sequence.plan[held : held + data.draw(st.integers(1, 40))]) or [9]
            sequence.tokens += new
            cells[sequence.seq_id] += new
        elif action == "ask" and len(busy) < n_seq:
            prompt = data.draw(tokens)
            user = data.draw(st.sampled_from(["alice", "bob"]))
            who = data.draw(st.sampled_from([None, "a", "b", "c"]))
            sequence, ops = cache.acquire(who and who + user, user)
            assert sequence not in busy
            busy.append(sequence)
            carry_out(ops + cache.seed(sequence, prompt) + cache.compact())
            assert sequence.tokens == prompt[: len(sequence.tokens)] != prompt
            assert sorted(s.seq_id for s in busy) == list(range(len(busy)))
        assert sorted(s.seq_id for s in cache.sequences) == list(range(n_seq))
        for s in cache.sequences:
            assert cells[s.seq_id][: len(s.tokens)] == s.tokens
        assert 0 <= cache.saved_bytes <= ram


def test_what_one_user_asked_is_of_no_use_to_another():
    cache = Cache(3)
    prompt = list(range(40))
    hers, _ = cache.acquire("a", "alice")
    cache.seed(hers, prompt)
    hers.tokens = list(prompt)
    his, _ = cache.acquire("b", "bob")
    assert cache.seed(his, prompt) == [Remove(his.seq_id, 0)], "nothing of a busy sequence"
    cache.release(hers)
    cache.forget("a")
    again, _ = cache.acquire("c", "bob")
    assert again is hers
    assert cache.seed(again, prompt) == [Remove(hers.seq_id, 0)], "nor of one that he is given"
    his.tokens = list(prompt)
    more, _ = cache.acquire("d", "bob")
    assert cache.seed(more, prompt)[0] == Copy(his.seq_id, more.seq_id), "but of his own"


def test_an_evicted_conversation_is_saved_and_comes_back():
    cache = Cache(1, ram=1000)
    use(cache, "a", [*LONG, 1])
    _, ops = use(cache, "b", [5])
    assert [type(op) for op in ops] == [Save, Remove]
    assert cache.saved_bytes == len(LONG) + 1
    sequence, ops = cache.acquire("a")
    assert ops == [], "what is short is not saved"
    saved, restored = ops_of(cache.seed(sequence, [*LONG, 1, 2]))
    assert (saved, restored) == (1, len(LONG) + 1)
    assert cache.saved_bytes == 0, "it is in the KV cache again"


def ops_of(ops):
    """How many restores, and what is left then."""
    *restores, remove = ops
    assert all(isinstance(op, Restore) for op in restores)
    return len(restores), remove.start


def test_what_is_saved_is_bounded_and_the_least_recently_used_goes():
    cache = Cache(1, ram=2 * len(LONG) + 1)
    for conversation in "abc":
        use(cache, conversation, [ord(conversation), *LONG[1:]])
    use(cache, "d", [1])
    assert cache.saved_bytes == 2 * len(LONG)
    for conversation, kept in (("a", False), ("c", True)):
        _, ops = use(cache, conversation, [ord(conversation), *LONG[1:], 1])
        assert any(isinstance(op, Restore) for op in ops) == kept


def test_what_another_conversation_restores_is_kept_longer():
    cache = Cache(1, ram=2 * len(LONG))
    for conversation in "ab":
        use(cache, conversation, [ord(conversation), *LONG[1:]])
    use(cache, None, [1])
    assert ops_of(use(cache, None, [ord("a"), *LONG[1:], 1])[1]) == (1, len(LONG))
    use(cache, "c", [ord("c"), *LONG[1:]])
    for conversation, kept in (("b", False), ("a", True), ("c", True)):
        _, ops = use(cache, None, [ord(conversation), *LONG[1:], 1])
        assert any(isinstance(op, Restore) for op in ops) == kept, conversation


def test_a_saved_prefix_serves_another_conversation_of_the_same_user_only():
    cache = Cache(1, ram=1000)
    use(cache, "a", [*LONG, 1])
    use(cache, None, [1])
    for user, shared in (("", True), ("bob", False), ("", True)):
        sequence, _ = cache.acquire(None, user)
        ops = cache.seed(sequence, [*LONG, 2, 3])
        assert any(isinstance(op, Restore) for op in ops) == shared
        cache.release(sequence)
        use(cache, None, [1])


def test_what_is_forgotten_is_not_kept_in_memory_either():
    cache = Cache(1, ram=1000)
    use(cache, "a", [*LONG, 1])
    use(cache, "b", [1])
    cache.forget("a")
    assert cache.saved_bytes == 0
    assert ops_of(use(cache, "a", [*LONG, 1])[1]) == (0, 0)


def test_cells_that_could_not_be_saved_are_not_restored():
    cache = Cache(1, ram=1000)
    use(cache, "a", [*LONG, 1])
    _, ops = use(cache, "b", [1])
    ops[0].cells.failed = True
    assert ops_of(use(cache, "a", [*LONG, 1])[1]) == (0, 0)


def test_who_comes_later_waits_for_a_prefix_that_is_being_prefilled():
    cache = Cache(3)
    first, _ = cache.acquire("a")
    cache.seed(first, [*LONG, 1])
    second, _ = cache.acquire("b")
    cache.seed(second, [*LONG, 2])
    assert second.ahead.sequence is first and second.ahead.length == len(LONG)
    assert first.ahead is None
    first.tokens += LONG[:-1]
    assert second.ahead.is_coming
    first.tokens += LONG[-1:]
    assert not second.ahead.is_coming
    assert cache.seed(second, [*LONG, 2])[0] == Copy(0, 1)
    third, _ = cache.acquire("c")
    cache.seed(third, [*LONG, 2, 3])
    assert third.ahead is None, "what there is saves it all but a token"


def test_nobody_waits_for_one_who_waits_for_him():
    cache = Cache(3)
    prompts = ([*LONG, 1], [*LONG, *LONG, 2], [*LONG, *LONG, 3])
    first, second, third = (cache.acquire(None)[0] for _ in prompts)
    for sequence, prompt in zip((first, second, third), prompts, strict=True):
        cache.seed(sequence, prompt)
    assert second.ahead.sequence is first
    assert third.ahead.sequence is second
    first.tokens += LONG
    assert cache.seed(second, prompts[1])[0] == Copy(0, 1)
    assert second.ahead is None
    assert third.ahead.is_coming


def test_nobody_waits_for_a_prefill_that_was_given_up():
    cache = Cache(2)
    first, _ = cache.acquire("a")
    cache.seed(first, [*LONG, 1])
    second, _ = cache.acquire("b")
    cache.seed(second, [*LONG, 2])
    cache.release(first)
    assert not second.ahead.is_coming
    again, _ = cache.acquire("c")
    cache.seed(again, [*LONG, 3])
    assert again is first
    assert not second.ahead.is_coming, "nor for another's in the same sequence"
