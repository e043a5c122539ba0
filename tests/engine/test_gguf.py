"""GGUF files: what is read of good ones, and that bad ones are refused in bounded time.

The invariant of all bad input here: `gguf.read` gives a `Header` or raises `ModelError`
that names the file.
"""

from __future__ import annotations

import ctypes
import os
import random
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import llama_cpp
import llama_cpp.llama_cpp as lib
import pytest

from llambo9p.engine import gguf
from llambo9p.errors import ModelError

U8, U32, I32, F32, STRING, ARRAY, U64 = 0, 4, 5, 6, 8, 9, 10
F16, Q8_0 = 1, 8


def string(text: str | bytes) -> bytes:
    data = text.encode() if isinstance(text, str) else text
    return struct.pack("<Q", len(data)) + data


def entry(key: str, value: object) -> bytes:
    """A key and its value; bytes are given as they stand, with their type."""
    if isinstance(value, bytes):
        return string(key) + value
    if isinstance(value, str):
        return string(key) + struct.pack("<I", STRING) + string(value)
    return string(key) + struct.pack("<II", U32, value)


def array(kind: int, count: int, data: bytes) -> bytes:
    return struct.pack("<IIQ", ARRAY, kind, count) + data


def tensor(name: str, dims: tuple[int, ...], kind: int, offset: int) -> bytes:
    form = f"<I{len(dims)}QIQ"
    return string(name) + struct.pack(form, len(dims), *dims, kind, offset)


SMALL: dict[str, object] = {
    "general.architecture": "llama",
    "general.name": "Small",
    "general.file_type": 15,
    "llama.context_length": 4096,
    "llama.block_count": 2,
    "llama.embedding_length": 64,
    "llama.attention.head_count": 4,
    "llama.attention.head_count_kv": 2,
    "tokenizer.ggml.tokens": array(STRING, 3, string("a") + string("bc") + string("")),
    "tokenizer.ggml.scores": array(F32, 3, bytes(12)),
}
TENSORS = (tensor("a", (32, 3), Q8_0, 0), tensor("b", (5,), F16, 128))
SIZE = 128 + 10
"""bytes of their data"""


def model(
    changes: dict[str, object] | None = None,
    *,
    tensors: tuple[bytes, ...] = TENSORS,
    version: int = 3,
    size: int = SIZE,
) -> bytes:
    values = {**SMALL, **(changes or {})}
    data = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(values))
    data += b"".join(entry(*item) for item in values.items()) + b"".join(tensors)
    return data + bytes(-len(data) % 32) + bytes(size)


@pytest.fixture
def read(tmp_path: Path) -> Callable[[bytes], gguf.Header]:
    path = tmp_path / "model.gguf"

    def read(data: bytes) -> gguf.Header:
        path.write_bytes(data)
        return gguf.read(path)

    return read


@pytest.fixture
def refusal(tmp_path: Path, read: Callable[[bytes], gguf.Header]) -> Callable[[bytes], str]:
    def refusal(data: bytes) -> str:
        """Why it is refused, after the file's name."""
        with pytest.raises(ModelError) as caught:
            read(data)
        path, _, why = str(caught.value).partition(": ")
        assert path == str(tmp_path / "model.gguf")
        return why

    return refusal


def test_the_bundled_model_says_what_llama_cpp_says_of_it(llama) -> None:
    llama.load(lambda _: True)
    path = gguf.default_model()
    header = gguf.read(path)
    assert header.size == path.stat().st_size
    assert header.architecture == "llama" and header.title.startswith("Smollm2")
    assert header.quantisation == "Q4_1" and "Q4_1" not in header.title
    assert header.weights == llama.info.size
    assert header.parameters == llama.info.n_params
    assert header.context == llama.info.n_ctx_train
    assert header.vocabulary == llama.info.n_vocab
    assert header.has_chat_template == llama.info.has_chat_template


def test_the_tables_are_llama_cpps() -> None:
    base = ctypes.CDLL(str(Path(llama_cpp.__file__).parent / "lib" / "libggml-base.so"))
    base.ggml_type_size.restype = ctypes.c_size_t
    base.ggml_blck_size.restype = ctypes.c_int64
    known = {
        kind: (base.ggml_blck_size(kind), base.ggml_type_size(kind))
        for kind in range(lib.GGML_TYPE_COUNT)
        if base.ggml_blck_size(kind)
    }
    assert known == gguf.TYPES
    names = {
        getattr(lib, name): name.removeprefix("LLAMA_FTYPE_").replace("MOSTLY_", "")
        for name in dir(lib)
        if name.startswith("LLAMA_FTYPE_")
    }
    assert names.pop(1024) == "GUESSED"
    assert names.pop(0) == "ALL_F32"
    assert {0: "F32", **names} == gguf.FILE_TYPES


@pytest.mark.parametrize("version", [2, 3])
def test_a_small_model(read, version) -> None:
    assert read(model(version=version)) == gguf.Header(
        type="",
        architecture="llama",
        title="Small",
        quantisation="Q4_K_M",
        context=4096,
        layers=2,
        pooling=-1,
        has_chat_template=False,
        size=len(model()),
        parameters=32 * 3 + 5,
        weights=34 * 3 + 5 * 2,
        vocabulary=3,
        width=64,
        cell=(2 * 2 * 16, 2 * 2 * 16),
        head=(16, 16),
        latent=False,
    )


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"tokenizer.chat_template": "{{ x }}"}, {"has_chat_template": True}),
        ({"tokenizer.chat_template": "x" * 100_000}, {"has_chat_template": True}),
        ({"general.file_type": 15 | 1024}, {"quantisation": "Q4_K_M"}),
        ({"general.file_type": 999}, {"quantisation": "unknown"}),
        ({"general.name": ""}, {"title": ""}),
        ({"llama.attention.key_length": 24}, {"cell": (2 * 2 * 24, 2 * 2 * 16)}),
        ({"llama.attention.value_length": 8}, {"cell": (2 * 2 * 16, 2 * 2 * 8)}),
        (
            {"llama.attention.head_count_kv": array(U32, 2, struct.pack("<2I", 3, 0))},
            {"cell": (3 * 16, 3 * 16)},
        ),
        ({"llama.attention.head_count_kv": array(F32, 1, bytes(4))}, {"cell": (2 * 64, 2 * 64)}),
        ({"llama.attention.head_count": 0}, {"cell": (0, 0)}),
        ({"llama.context_length": struct.pack("<IQ", U64, 99)}, {"context": 99}),
        ({"general.alignment": 64}, {"parameters": 101}),
    ],
)
def test_what_values_mean(read, changes, found) -> None:
    header = read(model(changes, size=SIZE + 64))
    assert {name: getattr(header, name) for name in found} == found


def test_the_kv_cache_of_a_sequence(read) -> None:
    header = read(model())
    assert header.kv_bytes(256, Q8_0, F16) == 256 * 64 * 34 // 32 + 256 * 64 * 2


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "not a GGUF file (it begins with b'')"),
        (b"GG", "not a GGUF file (it begins with b'GG')"),
        (b"\x7fELF" + bytes(99), r"not a GGUF file (it begins with b'\x7fELF')"),
        (b"GGUF" + struct.pack(">IQQ", 3, 1, 1), "a big-endian GGUF file; only little-endian"),
        (model(version=1), "GGUF version 1; only 2 and 3 can be used"),
        (model(version=4), "GGUF version 4; only"),
        (model({"general.architecture": ""}), "no general.architecture"),
        (model({"general.architecture": 7}), "general.architecture is 7, no text"),
        (model({"llama.context_length": struct.pack("<If", F32, 8)}), "context_length is 8.0"),
        (model({"llama.context_length": 1 << 31}), "llama.context_length is 2147483648"),
        (model({"llama.block_count": 513}), "llama.block_count is 513, not 1 to 512"),
        (model({"llama.context_length": struct.pack("<Ii", I32, -1)}), "context_length is -1"),
        (
            model({"llama.attention.head_count_kv": array(I32, 2, struct.pack("<2i", 1, -2))}),
            "llama.attention.head_count_kv has -2 in it",
        ),
        (model({"general.alignment": 24}), "general.alignment is 24"),
        (model({"general.alignment": 0}), "general.alignment is 0"),
        (model({"x": struct.pack("<I", 13)}), "'x' is of the unknown type 13"),
        (model({"x": array(ARRAY, 1, b"")}), "'x' is an array of the unknown type 9"),
        (model(tensors=(tensor("t", (32,), 4, 0),)), "tensor 't' is of the unknown type 4"),
        (model(tensors=(tensor("t", (32,), 28, 0),)), "tensor 't' is of the type F64, which"),
        (model(tensors=(tensor("t", (31,), Q8_0, 0),)), "tensor 't' has rows of 31 values"),
        (model(tensors=(tensor("t", (1,) * 5, F16, 0),)), "tensor 't' has 5 dimensions"),
        (model(tensors=(tensor("t" * 64, (1,), F16, 0),)), "a tensor's name of 64 bytes"),
        (model(size=SIZE - 1), "it is not complete"),
        (model(tensors=(tensor("t", (2**63, 2**63), F16, 0),)), "it is not complete"),
        (model({"split.count": 2}), "the first part of a model, but not named"),
        (model({"split.count": 2, "split.no": 1}), "part 2 of 2 of a model"),
    ],
)  # fmt: skip
def test_a_bad_file_is_refused_with_the_reason(refusal, data, why) -> None:
    assert why in refusal(data)


@pytest.mark.parametrize(
    "claim",
    [
        struct.pack("<IQ", STRING, 2**64 - 1),
        struct.pack("<IQ", STRING, 2**40),
        array(STRING, 2**64 - 1, b""),
        array(STRING, 2**22, string("a") * 9),
        array(U8, 2**64 - 1, b""),
        array(U64, 2**61, b""),
    ],
)
def test_an_absurd_length_takes_neither_memory_nor_time(tmp_path, claim) -> None:
    """In a file of 4 TB, nearly all of it a hole."""
    path = tmp_path / "model.gguf"
    with path.open("wb") as file:
        file.write(model({"x": claim}))
        file.truncate(1 << 42)
    tracemalloc.start()
    try:
        with pytest.raises(ModelError, match="damaged"):
            gguf.read(path)
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(("n_tensors", "n_values"), [(2**63, 1), (1, 2**63), (2**16, 2**14)])
def test_absurd_counts(refusal, n_tensors, n_values) -> None:
    said = refusal(b"GGUF" + struct.pack("<IQQ", 3, n_tensors, n_values) + bytes(1000))
    assert "damaged" in said


def test_a_file_cut_anywhere_is_refused(refusal) -> None:
    whole = model()
    for size in range(len(whole)):
        said = refusal(whole[:size])
        assert "it is not complete" in said or size < 4 and "not a GGUF file" in said


def test_the_bundled_model_cut_anywhere_is_refused(tmp_path) -> None:
    path = tmp_path / "cut.gguf"
    path.write_bytes(gguf.default_model().read_bytes())
    rng = random.Random(4)
    size = path.stat().st_size
    for cut in sorted((rng.randrange(size) for _ in range(50)), reverse=True):
        os.truncate(path, cut)
        with pytest.raises(ModelError, match="complete"):
            gguf.read(path)


@pytest.mark.parametrize("seed", range(100))
def test_flipped_bits_are_refused_or_read(tmp_path, seed) -> None:
    rng = random.Random(seed)
    path = tmp_path / "model.gguf"
    data = bytearray(model())
    for _ in range(rng.choice((1, 2, 8))):
        data[rng.randrange(len(data) - SIZE)] ^= 1 << rng.randrange(8)
    path.write_bytes(data)
    try:
        header = gguf.read(path)
    except ModelError as error:
        assert str(error).startswith(f"{path}: ")
    else:
        assert header.kv_bytes(512, Q8_0, F16) >= 0


def test_what_is_no_file(tmp_path) -> None:
    def why(path: Path) -> str:
        with pytest.raises(ModelError) as caught:
            gguf.read(path)
        return str(caught.value)

    assert why(tmp_path) == f"{tmp_path}: Is a directory"
    assert why(tmp_path / "none") == f"{tmp_path}/none: no such file"
    os.mkfifo(tmp_path / "fifo")
    assert why(tmp_path / "fifo") == f"{tmp_path}/fifo: not a regular file"
    (tmp_path / "link").symlink_to("link")
    assert why(tmp_path / "link") == f"{tmp_path}/link: Too many levels of symbolic links"
    assert why(Path("/dev/zero")) == "/dev/zero: not a regular file"


def test_what_may_not_be_read(tmp_path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(model())
    path.chmod(0)
    me = os.geteuid()
    if me == 0:  # who may read everything
        os.seteuid(65534)
    try:
        with pytest.raises(ModelError) as caught:
            gguf.read(path)
    finally:
        os.seteuid(me)
    assert str(caught.value) == f"{path}: Permission denied"


def test_a_model_in_parts_is_counted_whole(tmp_path) -> None:
    def part(number: int) -> Path:
        return tmp_path / f"big-{number:05d}-of-00002.gguf"

    part(1).write_bytes(model({"split.count": 2}))
    with pytest.raises(ModelError, match=r"big-00002-of-00002.gguf: no such file"):
        gguf.read(part(1))
    part(2).write_bytes(model({"split.count": 2, "split.no": 1}))
    header = gguf.read(part(1))
    assert (header.parameters, header.weights) == (2 * 101, 2 * 112)
    assert header.size == sum(part(number).stat().st_size for number in (1, 2))
