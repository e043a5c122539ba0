"""The vocabularies of tiny models: a few hundred tokens, and a chat template.

`spm` is SentencePiece's: a leading space is `▁`, and what is in no token is spelled with tokens of
one byte.  Generation ends with `</s>` or `<end_of_turn>`.  `bpe` is byte-level BPE, split as
Qwen's.  Generation ends with `<|endoftext|>` or `<|im_end|>`.
"""

from __future__ import annotations

from collections.abc import Callable

from gguf import GGUFWriter, TokenType

WORDS = """
    the a of and to in is was that it for on with as his he be at by I had not are but from or have
    an they which one you were her all she there would their we him been has when who will more no
    if out so said what up its about into than them can only other new some could time these two may
    then do first any my now such like our over man me even most made after also did many must
    through years where much your way well down should because each just those people how too little
    state good very make world still own see men work long get here between both life being under
    never day same another know while last might us great old year off come since against go came
    right used take three name age city count list item value true false null red green blue
""".split()
JSON = ['{"', '":', '","', '"}', "},", "[{", "}]", '": "', '", "', "\\n", "00", "0.", "-1", "12"]


def _pieces(space: str) -> list[str]:
    """Texts that are tokens besides single characters, the shorter before the longer."""
    words = [*WORDS, *(space + word for word in WORDS), *JSON]
    prefixes = {word[:end] for word in words for end in range(2, len(word) + 1)}
    return sorted(prefixes, key=lambda piece: (len(piece), piece))


def spm(model: GGUFWriter) -> int:
    """Write the vocabulary; how many tokens it has."""
    special = ["<unk>", "<s>", "</s>", "<start_of_turn>", "<end_of_turn>"]
    singles = ["▁", *map(chr, range(33, 127)), *"éüß☃"]
    words = [*singles, *_pieces("▁")]
    tokens = [*special, *(f"<0x{byte:02X}>" for byte in range(256)), *words]
    types = [
        TokenType.UNKNOWN, *[TokenType.CONTROL] * 4, *[TokenType.BYTE] * 256,
        *[TokenType.NORMAL] * len(words),
    ]  # fmt: skip
    model.add_tokenizer_model("llama")
    model.add_token_list(tokens)
    # the longest piece is merged first
    model.add_token_scores([0.0] * 261 + [float(len(word)) for word in words])
    model.add_token_types(types)
    model.add_unk_token_id(0)
    model.add_bos_token_id(1)
    model.add_eos_token_id(2)
    model.add_eot_token_id(4)
    model.add_add_bos_token(True)
    model.add_add_space_prefix(True)
    model.add_chat_template(
        "{{ bos_token }}{% for message in messages %}"
        "<start_of_turn>{{ message.role }}\n{{ message.content }}<end_of_turn>\n{% endfor %}"
        "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
    )
    return len(tokens)


def _alphabet() -> dict[int, str]:
    """The character that stands for each byte in byte-level BPE (GPT-2's)."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [byte for byte in range(256) if byte not in plain]
    return {byte: chr(byte) for byte in plain} | {byte: chr(256 + i) for i, byte in enumerate(rest)}


def bpe(model: GGUFWriter) -> int:
    """Write the vocabulary; how many tokens it has."""
    alphabet = _alphabet()
    words = ["".join(alphabet[byte] for byte in piece.encode()) for piece in _pieces(" ")]
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    tokens = [*alphabet.values(), *words, *special]
    model.add_tokenizer_model("gpt2")
    model.add_tokenizer_pre("qwen2")
    model.add_token_list(tokens)
    model.add_token_types([TokenType.NORMAL] * (len(tokens) - 3) + [TokenType.CONTROL] * 3)
    model.add_token_merges([f"{word[:-1]} {word[-1]}" for word in words])
    model.add_bos_token_id(len(tokens) - 3)
    model.add_eos_token_id(len(tokens) - 3)
    model.add_eot_token_id(len(tokens) - 1)
    model.add_add_bos_token(False)
    model.add_chat_template(
        "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}"
        "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    return len(tokens)


Vocabulary = Callable[[GGUFWriter], int]
"""writes one, and says how many tokens it has"""
VOCABULARIES: dict[str, Vocabulary] = {"spm": spm, "bpe": bpe}
