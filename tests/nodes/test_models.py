"""Real hosts on model files, good and bad: two models of one orchestrator, and what cannot be
loaded, which never disturbs a host that runs."""

from __future__ import annotations

import contextlib
import math
import random
import struct
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from llambo9p.cluster.config import Cluster
from llambo9p.engine import gguf
from llambo9p.errors import Error
from tests.cluster.harness import RunningCluster, cluster
from tests.engine.test_gguf import F16, F32, model, string, tensor
from tests.files import story
from tests.tiers import either
from tests.zoo import quantizing

DEFAULT = gguf.default_model()
METADATA = gguf.read(DEFAULT).size - gguf.read(DEFAULT).weights
"""bytes before the tensors"""
QUICK = {"count": 1, "resources": {"context_size": 64, "slots": 1, "threads": 1}}


def types(**models: str) -> Cluster:
    """A configuration with a node type for each of the models."""
    nodes = {
        name: {**QUICK, "resources": {**QUICK["resources"], "model": path}}
        for name, path in models.items()
    }
    return Cluster.model_validate({"nodes": {"s": {"resources": {"model": "simulated"}}, **nodes}})


@contextlib.asynccontextmanager
async def beside_a_running_host(config: Cluster, *models: Path) -> AsyncIterator[RunningCluster]:
    """A cluster with a worker, worker-0000, which answers still at the end."""
    async with cluster(config, models) as running:
        await running.files.write("ctl", "spawn --count 1 --type s")
        yield running
        assert await running.files.ask("still there?", "worker-0000") == "simulated: still there?"
        status = await running.files.attrs("status")
        assert (status["hosts"], status["lost"]) == ("1", "0")


async def refusal(running: RunningCluster, type_name: str = "bad") -> str:
    """What spawn says.  The host that is there answers."""
    with pytest.raises(Error) as caught:
        await running.files.write("ctl", f"spawn --type {type_name}")
    assert await running.files.ask("hello", "worker-0000") == "simulated: hello"
    assert await running.files.ls("nodes") == ["worker-0000"]
    assert (await running.files.attrs("status"))["error"] == str(caught.value)
    return str(caught.value)


@pytest.mark.timeout(60)
@story
async def test_two_models_one_a_host_by_node_type(tmp_path: Path) -> None:
    (tmp_path / "another.gguf").symlink_to(DEFAULT)
    async with cluster(types(one="default", two="another"), [tmp_path]) as running:
        files = running.files
        await files.write("ctl", "spawn --type one")
        await files.write("ctl", "spawn --type two")
        await files.write("ctl", "spawn --type one")
        assert (await files.attrs("status"))["hosts"] == "2"
        one, two = DEFAULT.stem, "another"
        models = {"worker-0000": one, "worker-0001": two, "worker-0002": one}
        for worker, name in models.items():
            node = await files.attrs(f"nodes/{worker}")
            assert (node["model"], (await files.attrs(f"{worker}/status"))["model"]) == (name, name)
            await files.write(f"{worker}/ctl", "max_tokens 3\ntemperature 0")
        answers = {worker: await files.ask("Name a colour.", worker) for worker in models}
        assert len(set(answers.values())) == 1 and answers["worker-0000"]


@pytest.mark.timeout(60)
@story
async def test_what_cannot_be_loaded_is_named_with_the_reason(tmp_path: Path) -> None:
    path = tmp_path / "bad.gguf"
    whole = DEFAULT.read_bytes()
    async with beside_a_running_host(types(bad=str(path), name="bad"), tmp_path) as running:
        assert await refusal(running, "name") == (
            "no model 'bad'; there are default simulated, and paths"
        )
        assert f"{path}: no such file" in await refusal(running)
        path.mkdir()
        assert f"{path}: Is a directory" in await refusal(running)
        path.rmdir()
        path.write_bytes(b"\x7fELF" + bytes(5000))
        assert rf"{path}: not a GGUF file (it begins with b'\x7fELF')" in await refusal(running)
        for size in (50, METADATA // 2, METADATA + 100, len(whole) - 1):
            path.write_bytes(whole[:size])
            said = await refusal(running)
            assert f"{path}: " in said and "it is not complete" in said
        assert str(path) in await refusal(running, "name")


@pytest.mark.timeout(60)
@story
async def test_what_the_machine_cannot_hold_is_refused_with_the_arithmetic(tmp_path: Path) -> None:
    path = tmp_path / "huge.gguf"
    with path.open("wb") as file:  # nearly all of it is a hole
        file.write(model(tensors=(tensor("t", (1 << 40,), F16, 0),), size=0))
        file.truncate((1 << 41) + 4096)
    async with beside_a_running_host(types(bad=str(path))) as running:
        said = await refusal(running)
        assert f"{path}: weights 2097152 MiB, more than the " in said
        assert "MiB that are available" in said


@pytest.mark.timeout(60)
@story
async def test_slots_follow_the_workers_memory() -> None:
    resources = {"memory": "20MB", "context_size": 512, "slots": 16, "threads": 1}
    nodes = {
        "fit": {"count": 3, "resources": resources},
        "bad": {"count": 3, "resources": {**resources, "memory": "2MB"}},
        "s": {"resources": {"model": "simulated"}},
    }
    async with beside_a_running_host(Cluster.model_validate({"nodes": nodes})) as running:
        said = await refusal(running)
        assert "the KV cache of 512 tokens takes 8.6 MiB, more than 3 x 2.0 MiB" in said
        await running.files.write("ctl", "spawn --type fit")
        # 60 MB of 8.6 MiB sequences
        assert (await running.files.attrs("nodes/worker-0001"))["capacity"] == "6"
        for number in (1, 2, 3):
            await running.files.write("ctl", f"unmount worker-{number:04d}")


def with_float(key: str, value: float) -> bytes:
    """The bundled model with one of its numbers changed."""
    data = bytearray(DEFAULT.read_bytes())
    at = data.index(string(key)) + len(string(key))
    struct.pack_into("<If", data, at, F32, value)
    return bytes(data)


@pytest.mark.timeout(60)
@story
async def test_a_model_that_loads_and_cannot_decode_is_refused_too(tmp_path: Path) -> None:
    path = tmp_path / "bad.gguf"
    async with beside_a_running_host(types(bad=str(path))) as running:
        path.write_bytes(with_float("llama.rope.freq_base", math.nan))
        said = await refusal(running)
        assert said == f"{path}: the model computed logits that are not numbers"
        path.write_bytes(with_float("llama.attention.layer_norm_rms_epsilon", -1.0))
        assert f"loading {path} crashed llama.cpp: SIGABRT: ops.cpp:" in await refusal(running)


@pytest.mark.timeout(60)
@story
async def test_a_file_that_crashes_llama_cpp_is_named_with_the_signal(tmp_path: Path) -> None:
    path = tmp_path / "bad.gguf"
    data = DEFAULT.read_bytes()
    assert data.count(string("ing")) == 1
    path.write_bytes(data.replace(string("ing"), string("the"), 1))  # a token twice
    async with beside_a_running_host(types(bad=str(path))) as running:
        said = await refusal(running)
        assert said.startswith(f"loading {path} crashed llama.cpp: SIGABRT: llama-vocab.cpp:")
        assert "GGML_ASSERT" in said


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(either(1, 6)))
@story
async def test_flipped_bytes_disturb_nobody(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    path = tmp_path / "bad.gguf"
    whole = DEFAULT.read_bytes()
    async with beside_a_running_host(types(bad=str(path))) as running:
        for _ in range(12):
            data = bytearray(whole)
            first, last = rng.choice(((4, 200), (0, 3000), (METADATA - 20_000, METADATA)))
            for _ in range(rng.choice((1, 2, 4))):
                data[rng.randrange(first, last)] ^= 1 << rng.randrange(8)
            path.write_bytes(data)
            try:
                await running.files.write("ctl", "spawn --type bad")
            except Error as error:
                assert str(path) in str(error), f"{error} does not name the file"
            else:
                await running.files.write("ctl", "unmount worker-0001")
            assert await running.files.ask("hello", "worker-0000") == "simulated: hello"


def exactly(model: Path, exact: str) -> Cluster:
    resources = {**QUICK["resources"], "context_size": 512, "model": str(model), "exact": exact}
    return Cluster.model_validate({"nodes": {"t": {**QUICK, "resources": resources}}})


@pytest.mark.timeout(60)
@story
async def test_what_must_be_exact_is_so_or_does_not_start(tmp_path: Path) -> None:
    quantizing.wide("qwen2", tmp_path / "k.gguf", "Q4_K_M")
    quantizing.wide("qwen2", tmp_path / "f16.gguf", "F16")
    async with cluster(exactly(tmp_path / "k.gguf", "any")) as running:
        await running.files.write("ctl", "spawn --type t")
        exact = (await running.files.attrs("worker-0000/status"))["exact"]
        assert exact in ("no", "unknown")
        await running.files.ask("Once upon a time")
        assert (await running.files.attrs("usage"))["exact"] == exact
    async with cluster(exactly(tmp_path / "k.gguf", "required")) as running:
        await running.files.write("ctl", "spawn --type t")
        assert (await running.files.attrs("worker-0000/status"))["exact"] == "yes"
        await running.files.ask("Once upon a time")
        assert (await running.files.attrs("usage"))["exact"] == "yes"
    async with cluster(exactly(tmp_path / "f16.gguf", "required")) as running:
        with pytest.raises(Error, match="f16.gguf: exact is required, and its answers depend"):
            await running.files.write("ctl", "spawn --type t")
        assert await running.files.ls("nodes") == []
