"""A vocabulary of single bytes and some control tokens, and what llguidance accepts with it."""

from __future__ import annotations

from collections.abc import Iterator

from llguidance import LLMatcher, LLTokenizer, TokenizerWrapper

EOS = 256
CONTROL = {257: b"<|im_start|>", 258: b"<tool>"}


class _Bytes:
    """A token for each byte, one for the end, and the control tokens."""

    eos_token_id = EOS
    bos_token_id = None
    tokens = [
        *(bytes([i]) for i in range(256)),
        b"\xff<eos>",
        *(b"\xff" + name for name in CONTROL.values()),
    ]
    special_token_ids = [EOS, *CONTROL]

    def __call__(self, text: str | bytes) -> list[int]:
        return list(text.encode() if isinstance(text, str) else text)


TOKENIZER = LLTokenizer(TokenizerWrapper(_Bytes()))


def compiled(lark: str) -> LLMatcher:
    return LLMatcher(TOKENIZER, LLMatcher.grammar_from_lark(lark), log_level=0)


def matcher(lark: str) -> LLMatcher:
    found = compiled(lark)
    assert not found.is_error(), found.get_error()
    return found


def accepts(lark: str, text: str) -> bool:
    tokens = list(text.encode())
    found = matcher(lark)
    return found.try_consume_tokens(tokens) == len(tokens) and found.is_accepting()


def accepted(lark: str, chars: str, longest: int) -> Iterator[str]:
    """All texts of these characters, up to a length, that llguidance accepts.

    Fails where the mask allows no token at all: there an answer could not go on.
    """
    found = matcher(lark)
    yield from _accepted(found, "", chars, longest)


def _accepted(found: LLMatcher, text: str, chars: str, longest: int) -> Iterator[str]:
    assert allowed(found), text
    if found.is_accepting():
        yield text
    for char in chars if longest else "":
        tokens = list(char.encode())
        done = found.try_consume_tokens(tokens)
        if done == len(tokens):
            yield from _accepted(found, text + char, chars, longest - 1)
        if done:
            assert found.rollback(done)


def allowed(found: LLMatcher) -> set[int]:
    """The tokens that the mask allows."""
    mask = found.compute_bitmask()
    return {token for token in range(TOKENIZER.vocab_size) if mask[token // 8] >> token % 8 & 1}
