"""Tiny models with random weights: what holds for SmolLM2 must hold for other vocabularies, too.

Owns what is in their GGUF files.  `TINY` names them, `write` writes one; the fixture
`model_file` (tests/conftest.py) has each of them, and SmolLM2, by name.

`spm` is a llama, and `bpe` a qwen2, with the vocabularies of these names.

Rules kept here: the weights are those of a seed, so an answer is the same in every run; a file
takes 1.5 MB and a tenth of a second.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from gguf import GGUFWriter

from .vocabularies import VOCABULARIES, Vocabulary

WIDTH, FEED_FORWARD, LAYERS, HEAD, HEADS = 64, 128, 2, 32, 2
CONTEXT = 4096

def _write(path: Path, arch: str, vocabulary: Vocabulary) -> None:
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


_ARCHITECTURES = {"spm": "llama", "bpe": "qwen2"}
TINY = tuple(_ARCHITECTURES)


def write(name: str, path: Path) -> None:
    """Raises KeyError when there is no model of that name."""
    _write(path, _ARCHITECTURES[name], VOCABULARIES[name])
