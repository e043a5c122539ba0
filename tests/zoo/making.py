"""A tiny model while it is written: what most architectures have in common.

Rules kept here: the weights are those of a seed, so an answer is the same in every run; matrices
are Q8_0 where their rows allow it, for which exactness is promised; a matrix keeps the size of
what it is multiplied with, so that no layer drowns another.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType, GGUFWriter, quants

from .vocabularies import Vocabulary

SCALE = int(os.environ.get("LLAMBO_ZOO_SCALE", "1"))
"""more for benches, where a model should have something to compute"""
WIDTH, FEED_FORWARD = 64 * SCALE, 128 * SCALE
HEADS, HEAD = (2, 32) if SCALE == 1 else (4, 16 * SCALE)
CONTEXT = 4096
WINDOW = 64
"""tokens that a layer with a window sees"""

Value = bool | int | float | str | Sequence[int] | Sequence[bool]


class Making:
    """A model that is being written."""

    def __init__(self, path: Path, arch: str, vocabulary: Vocabulary) -> None:
        self._writer = GGUFWriter(path, arch)
        self._arch = arch
        self._rng = np.random.default_rng(1)
        self.n_vocab = vocabulary(self._writer)

    def say(self, **values: Value) -> None:
        """Hyperparameters of the architecture; `__` stands for a dot in a name."""
        for name, value in values.items():
            key = f"{self._arch}.{name.replace('__', '.')}"
            if isinstance(value, bool):
                self._writer.add_bool(key, value)
            elif isinstance(value, int):
                self._writer.add_uint32(key, value)
            elif isinstance(value, float):
                self._writer.add_float32(key, value)
            elif isinstance(value, str):
                self._writer.add_string(key, value)
            else:
                self._writer.add_array(key, list(value))

    def text_of_two_kinds(self) -> None:
        """As BERT's, whose tokens are of a first or a second text; there is a mark at its end."""
        self._writer.add_token_type_count(2)
        self._writer.add_add_eos_token(True)

    def shape(self, layers: int = 2, **more: Value) -> None:
        """What nearly all say; `more` may say it otherwise."""
        usual: dict[str, Value] = {
            "context_length": CONTEXT,
            "embedding_length": WIDTH,
            "block_count": layers,
            "feed_forward_length": FEED_FORWARD,
            "attention__head_count": HEADS,
            "attention__head_count_kv": 1,
            "attention__layer_norm_rms_epsilon": 1e-5,
            "vocab_size": self.n_vocab,
        }
        self.say(**usual | more)

    def add(
        self, name: str, *shape: int, size: float = 0.0, around: float = 0.0, plain: bool = False
    ) -> None:
        """A tensor; `shape` is in ggml's order.  Values are spread by `size` `around` a number; a
        `plain` one is never quantized."""
        values = self._rng.standard_normal(shape[::-1], np.float32)
        values *= np.float32(size or 1.6 / shape[0] ** 0.5)
        values += np.float32(around)
        if len(shape) == 1 or plain or shape[0] % 32:
            self._writer.add_tensor(name, values)
            return
        kind = GGMLQuantizationType.Q8_0
        self._writer.add_tensor(name, quants.quantize(values, kind), raw_dtype=kind)

    def norm(self, *names: str, width: int = WIDTH, bias: bool = False) -> None:
        for name in names:
            self.add(f"{name}.weight", width, size=0.1, around=1.0)
            if bias:
                self.add(f"{name}.bias", width, size=0.1)

    def embedding(self, output: bool = True, bias: bool = False) -> None:
        self.add("token_embd.weight", WIDTH, self.n_vocab, size=1.0)
        self.norm("output_norm", bias=bias)
        if output:
            self.add("output.weight", WIDTH, self.n_vocab)

    def attention(
        self, block: str, q: int = HEADS * HEAD, kv: int = HEAD, bias: bool = False
    ) -> None:
        for part, size in (("q", q), ("k", kv), ("v", kv)):
            self.add(f"{block}.attn_{part}.weight", WIDTH, size)
            if bias:
                self.add(f"{block}.attn_{part}.bias", size, size=0.3)
        self.add(f"{block}.attn_output.weight", q, WIDTH)

    def joined_attention(self, block: str, kv: int, bias: bool = False) -> None:
        """With one matrix for all three."""
        size = HEADS * HEAD + 2 * kv
        self.add(f"{block}.attn_qkv.weight", WIDTH, size)
        self.add(f"{block}.attn_output.weight", WIDTH, WIDTH)
        if bias:
            self.add(f"{block}.attn_qkv.bias", size, size=0.1)
            self.add(f"{block}.attn_output.bias", WIDTH, size=0.1)

    def feed_forward(self, block: str, gate: bool = True, bias: bool = False) -> None:
        if gate:
            self.add(f"{block}.ffn_gate.weight", WIDTH, FEED_FORWARD)
        self.add(f"{block}.ffn_up.weight", WIDTH, FEED_FORWARD)
        self.add(f"{block}.ffn_down.weight", FEED_FORWARD, WIDTH)
        if bias:
            self.add(f"{block}.ffn_up.bias", FEED_FORWARD, size=0.1)
            self.add(f"{block}.ffn_down.bias", WIDTH, size=0.1)

    def experts(self, block: str, count: int, bias: bool = False) -> None:
        self.add(f"{block}.ffn_gate_inp.weight", WIDTH, count, plain=True)
        for part in ("gate", "down", "up"):
            self.add(f"{block}.ffn_{part}_exps.weight", WIDTH, WIDTH, count)
        if bias:
            self.add(f"{block}.ffn_gate_inp.bias", count, size=0.1)
            for part in ("gate", "down", "up"):
                self.add(f"{block}.ffn_{part}_exps.bias", WIDTH, count, size=0.1, plain=True)

    def done(self) -> None:
        self._writer.write_header_to_file()
        self._writer.write_kv_data_to_file()
        self._writer.write_tensors_to_file()
        self._writer.close()
