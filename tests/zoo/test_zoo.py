"""The zoo itself: llama.cpp has each of its models, and says of its memory what the zoo says.

In a process of its own, which llama.cpp may end.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from .species import ZOO, write

LOOK = """
import json, sys
import llama_cpp.llama_cpp as lib
import numpy as np

quiet = lib.llama_log_callback(lambda *said: None)
lib.llama_log_set(quiet, None)
for path in sys.argv[1:]:
    model = lib.llama_model_load_from_file(path.encode(), lib.llama_model_default_params())
    params = lib.llama_context_default_params()
    params.n_ctx, params.n_batch, params.n_ubatch, params.n_threads = 256, 128, 128, 1
    context = lib.llama_init_from_model(model, params)
    memory = lib.llama_get_memory(context)
    said = {
        "state": lib.llama_model_is_recurrent(model), "hybrid": lib.llama_model_is_hybrid(model),
        "encoder": lib.llama_model_has_encoder(model), "window": lib.llama_model_n_swa(model) > 0,
        "memory": bool(memory),
    }
    if memory and not said["encoder"]:
        tokens = (lib.llama_token * 100)(*range(270, 370))
        said["decoded"] = lib.llama_decode(context, lib.llama_batch_get_one(tokens, 100)) == 0
        n_vocab = lib.llama_vocab_n_tokens(lib.llama_model_get_vocab(model))
        logits = np.ctypeslib.as_array(lib.llama_get_logits_ith(context, -1), (n_vocab,))
        said["spread"] = float(logits.std())
    print(json.dumps(said), flush=True)
    lib.llama_free(context)
    lib.llama_model_free(model)
"""


@pytest.fixture(scope="module")
def looked(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, object]]:
    directory = tmp_path_factory.mktemp("zoo")
    paths = {name: directory / f"{name}.gguf" for name in ZOO}
    for name, path in paths.items():
        write(name, path)
    done = subprocess.run(
        [sys.executable, "-c", LOOK, *map(str, paths.values())],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    lines = done.stdout.splitlines()
    assert len(lines) == len(ZOO), f"{list(ZOO)[len(lines)]}: {done.stderr[-500:]}"
    return dict(zip(ZOO, map(json.loads, lines), strict=True))


@pytest.mark.parametrize("name", ZOO)
def test_llama_cpp_has_it(looked: dict[str, dict[str, object]], name: str) -> None:
    said, memory = looked[name], ZOO[name].memory
    assert (said["state"], said["hybrid"]) == (memory == "state", memory == "hybrid")
    if memory:
        assert said["decoded"] and 0.3 < float(str(said["spread"])) < 30
        assert said["window"] == (memory in ("window", "chunks"))
    else:
        assert said["encoder"] or not said["memory"]


def test_the_same_file_each_time(tmp_path: Path) -> None:
    for number in range(2):
        write("llama", tmp_path / str(number))
    assert (tmp_path / "0").read_bytes() == (tmp_path / "1").read_bytes()
