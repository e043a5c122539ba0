"""How many sequences workers pay for, and what a machine cannot hold."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from llambo9p.engine import memory
from llambo9p.engine.gguf import Header
from llambo9p.errors import ModelError

MIB = 1 << 20
PATH = Path("/models/m.gguf")
F16 = 1
CACHE = memory.Cache(n_ctx=500, type_k=F16, type_v=F16)
HEADER = Header(
    architecture="llama", title="", quantisation="F16", context=4096, has_chat_template=True,
    size=101 * MIB, parameters=50 * MIB, weights=100 * MIB, vocabulary=MIB, width=1024,
    cell=(1024, 1024), head=(64, 64), latent=False,
)  # fmt: skip
"""a token's K and V take 4 KiB, 500 tokens' 2 MiB"""


def test_a_sequence_is_padded_as_llama_cpp_does() -> None:
    assert CACHE.bytes(HEADER) == 512 * 4096


@pytest.mark.parametrize(
    ("wanted", "workers", "each", "slots"),
    [(16, 4, 128, 16), (16, 4, 2, 4), (16, 4, 3, 6), (16, 1, 2, 1), (1, 1000, 128, 1)],
)
def test_slots_are_what_the_workers_pay_for(
    wanted: int, workers: int, each: int, slots: int
) -> None:
    assert memory.slots(HEADER, PATH, CACHE, wanted, workers, each * MIB) == slots


def test_workers_that_do_not_pay_for_one_sequence_are_told_the_arithmetic() -> None:
    with pytest.raises(ModelError) as caught:
        memory.slots(HEADER, PATH, CACHE, 16, 3, MIB // 2)
    assert str(caught.value) == (
        "/models/m.gguf: the KV cache of 500 tokens takes 2.0 MiB, more than 3 x 0.5 MiB, the "
        "memory of the workers"
    )


def test_a_model_that_fits_exactly_and_one_that_does_not() -> None:
    needed = 100 * MIB + 8 * 2 * MIB + memory.PROCESS + 8 * MIB * 8 + 72 * 1024 * 48
    memory.left(HEADER, PATH, CACHE, 8, 72, needed)
    with pytest.raises(ModelError) as caught:
        memory.left(HEADER, PATH, CACHE, 8, 72, needed - 1)
    assert str(caught.value) == (
        "/models/m.gguf: weights 100 MiB + 8 sequences x 500 tokens x 4.0 KiB + 131 MiB to work "
        "with = 247 MiB, more than the 247 MiB that are available"
    )


def test_a_model_without_attention_needs_no_cache() -> None:
    header = replace(HEADER, cell=(0, 0))
    assert memory.slots(header, PATH, CACHE, 16, 1, 1) == 16


@pytest.mark.parametrize(
    ("head", "latent", "types"),
    [
        ((64, 64), False, (memory.Q8_0, memory.F16)),
        ((64, 80), False, (memory.Q8_0, memory.F16)),
        ((80, 80), False, (memory.F16, memory.F16)),
        ((576, 512), True, (memory.Q8_0, memory.Q8_0)),
        ((576, 80), True, (memory.F16, memory.F16)),
    ],
)
def test_the_types_of_k_and_v_suit_the_model(
    head: tuple[int, int], latent: bool, types: tuple[int, int]
) -> None:
    assert memory.kv_types(replace(HEADER, head=head, latent=latent)) == types
