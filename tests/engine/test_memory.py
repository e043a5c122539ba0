"""How many sequences workers pay for, and what a machine cannot hold."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from gguf import GGMLQuantizationType

from llambo9p.engine import memory
from llambo9p.engine.gguf import Header
from llambo9p.errors import InvalidArgument, ModelError

MIB = 1 << 20
PATH = Path("/models/m.gguf")
HEADER = Header(
    type="model", architecture="llama", title="", quantisation="F16", context=4096, layers=2,
    pooling=-1, has_chat_template=True, size=101 * MIB, parameters=50 * MIB, weights=100 * MIB,
    vocabulary=MIB, width=1024, cell=(1024, 1024), head=(80, 80), latent=False,
)  # fmt: skip
"""a token's K and V, in F16, take 4 KiB, 500 tokens' 2 MiB"""
NEED = memory.Need(sequence=2 * MIB, work=3 * MIB, logits=8 * MIB, embedder=MIB)


def test_what_a_header_tells_of_the_need() -> None:
    need = memory.estimate(HEADER, 500, 72)
    assert need.sequence == 512 * 4096, "padded as llama.cpp does"
    assert (need.work, need.logits) == (72 * 1024 * 48, 8 * MIB)
    assert need.embedder == need.sequence + memory.EMBED_CHUNK * (4 * MIB + 52 * 1024)


@pytest.mark.parametrize(
    ("wanted", "workers", "each", "slots"),
    [(16, 4, 128, 16), (16, 4, 2, 4), (16, 4, 3, 6), (16, 1, 2, 1), (1, 1000, 128, 1)],
)
def test_slots_are_what_the_workers_pay_for(
    wanted: int, workers: int, each: int, slots: int
) -> None:
    assert memory.slots(PATH, 500, NEED, wanted, workers, each * MIB) == slots


def test_workers_that_do_not_pay_for_one_sequence_are_told_the_arithmetic() -> None:
    with pytest.raises(ModelError) as caught:
        memory.slots(PATH, 500, NEED, 16, 3, MIB // 2)
    assert str(caught.value) == (
        "/models/m.gguf: the KV cache of 500 tokens takes 2.0 MiB, more than 3 x 0.5 MiB, the "
        "memory of the workers"
    )


def test_a_model_that_fits_exactly_and_one_that_does_not() -> None:
    needed = 100 * MIB + 8 * 2 * MIB + memory.PROCESS + 8 * 8 * MIB + 3 * MIB
    assert memory.left(PATH, 100 * MIB, NEED, 500, 8, needed) == 0
    with pytest.raises(ModelError) as caught:
        memory.left(PATH, 100 * MIB, NEED, 500, 8, needed - 1)
    assert str(caught.value) == (
        "/models/m.gguf: weights 100 MiB + 8 sequences of 500 tokens x 2.0 MiB + 131 MiB to work "
        "with = 247 MiB, more than the 247 MiB that are available"
    )


def test_a_model_without_attention_needs_no_cache() -> None:
    assert memory.slots(PATH, 500, replace(NEED, sequence=0), 16, 1, 1) == 16


@pytest.mark.parametrize(
    ("head", "latent", "types"),
    [
        ((64, 64), False, (memory.Q8_0, memory.F16)),
        ((64, 80), False, (memory.Q8_0, memory.F16)),
        ((80, 80), False, (memory.BF16, memory.F16)),
        ((576, 512), True, (memory.Q8_0, memory.Q8_0)),
        ((576, 80), True, (memory.BF16, memory.BF16)),
        ((80, 64), True, (memory.BF16, memory.BF16)),
    ],
)
def test_the_types_of_k_and_v_suit_the_model(
    head: tuple[int, int], latent: bool, types: tuple[int, int]
) -> None:
    assert memory.kv_types(replace(HEADER, head=head, latent=latent)) == types


def test_kv_types_are_named_as_llama_cpp_does() -> None:
    assert memory.parse_kv_type("q8_0/f16") == (memory.Q8_0, memory.F16)
    assert memory.parse_kv_type("f16") == (memory.F16, memory.F16)
    for name, number in memory.KV_TYPES.items():
        assert getattr(GGMLQuantizationType, name.upper()) == number


@pytest.mark.parametrize("text", ["", "q8", "Q8_0", "q8_0/", "/f16", "f16/f16/f16", "q8_0 f16"])
def test_what_is_no_kv_type_is_told_what_there_are(text: str) -> None:
    with pytest.raises(InvalidArgument, match=f"'{text}' is no type of K and V: they are f32 f16"):
        memory.parse_kv_type(text)
