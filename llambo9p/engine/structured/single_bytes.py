"""A vocabulary of single bytes: grammars are compiled and tried on it where there is no model.

Token i is byte i; `EOS` ends a text.
"""

from __future__ import annotations

from llguidance import LLTokenizer, TokenizerWrapper

EOS = 256


class _Bytes:
    """As llguidance wants a tokenizer."""

    eos_token_id = EOS
    bos_token_id = None
    tokens = (*(bytes([byte]) for byte in range(256)), b"\xff<eos>")
    special_token_ids = (EOS,)

    def __call__(self, text: str | bytes) -> list[int]:
        return list(text.encode() if isinstance(text, str) else text)


BYTES = LLTokenizer(TokenizerWrapper(_Bytes()))
