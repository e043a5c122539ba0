"""Tiny models with random weights: what holds for SmolLM2 must hold for other vocabularies, too.

Owns what is in their GGUF files.  `TINY` names them, `write` writes one; the fixture
`model_file` (tests/conftest.py) has each of them, and SmolLM2, by name.

- `spm`: a llama whose vocabulary is SentencePiece's: a leading space is `▁`, and what is in no
  token is spelled with tokens of one byte.  Generation ends with `</s>` or `<end_of_turn>`.
- `bpe`: a qwen2 with a byte-level BPE vocabulary that is split as Qwen's.  Generation ends with
  `<|endoftext|>` or `<|im_end|>`.

Rules kept here: the weights are those of a seed, so an answer is the same in every run; a file
takes 1.5 MB and a tenth of a second.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from gguf import GGUFWriter, TokenType

WIDTH, FEED_FORWARD, LAYERS, HEAD, HEADS = 64, 128, 2, 32, 2
CONTEXT = 4096

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


def _spm(model: GGUFWriter) -> int:
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


def _bpe(model: GGUFWriter) -> int:
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


def _write(path: Path, arch: str, vocabulary: Callable[[GGUFWriter], int]) -> None:
    model = GGUFWriter(path, arch)
    model.add_context_length(CONTEXT)
    model.add_embedding_length(WIDTH)
    model.add_block_count(LAYERS)
    model.add_feed_forward_length(FEED_FORWARD)
    model.add_head_count(HEADS)
    model.add_head_count_kv(1)
    model.add_rope_dimension_count(HEAD)
    model.add_layer_norm_rms_eps(1e-5)
    n_vocab = vocabulary(model)
    rng = np.random.default_rng(1)

    def add(name: str, *shape: int, scale: float = 0.0, bias: float = 0.0) -> None:
        """`shape` is ggml's order; a matrix keeps the size of what it is multiplied with."""
        values = rng.standard_normal(shape[::-1], np.float32)
        by = np.float32(scale or 1.6 / shape[0] ** 0.5)
        model.add_tensor(name, np.float32(bias) + by * values)

    add("token_embd.weight", WIDTH, n_vocab, scale=1.0)
    add("output_norm.weight", WIDTH, scale=0.1, bias=1.0)
    add("output.weight", WIDTH, n_vocab)
    for layer in range(LAYERS):
        block = f"blk.{layer}"
        for norm in ("attn_norm", "ffn_norm"):
            add(f"{block}.{norm}.weight", WIDTH, scale=0.1, bias=1.0)
        for part, size in (("q", HEADS * HEAD), ("k", HEAD), ("v", HEAD)):
            add(f"{block}.attn_{part}.weight", WIDTH, size)
            if arch == "qwen2":
                add(f"{block}.attn_{part}.bias", size, scale=0.3)
        add(f"{block}.attn_output.weight", HEADS * HEAD, WIDTH)
        add(f"{block}.ffn_gate.weight", WIDTH, FEED_FORWARD)
        add(f"{block}.ffn_up.weight", WIDTH, FEED_FORWARD)
        add(f"{block}.ffn_down.weight", FEED_FORWARD, WIDTH)
    model.write_header_to_file()
    model.write_kv_data_to_file()
    model.write_tensors_to_file()
    model.close()


_MODELS: dict[str, tuple[str, Callable[[GGUFWriter], int]]] = {
    "spm": ("llama", _spm),
    "bpe": ("qwen2", _bpe),
}
TINY = tuple(_MODELS)


def write(name: str, path: Path) -> None:
    """Raises KeyError when there is no model of that name."""
    _write(path, *_MODELS[name])
