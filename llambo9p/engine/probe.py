"""A model's exactness, found out by a process of its own.

Owns that process: it loads the model, compares (see `exactness`) and keeps what it finds (see
`verdicts`).  It is a process, as llama.cpp computes in one way for the whole life of a process (see
`llama_model.ModelParams`), and as a model that it aborts on must end nobody else.

The process must never outlive whoever waits for it: it ends with its standard input.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shlex
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from llambo9p import errors
from llambo9p.engine import exactness, gguf, kinds, verdicts
from llambo9p.engine.exactness import CONTEXT, NEIGHBOURS, VARIANTS

Progress = Callable[[float], None]
"""told 0.0 to 1.0"""


class Difference(NamedTuple):
    """From the logits of one whole piece."""

    chunk: int
    """tokens of the pieces that were read"""
    neighbours: int
    """sequences beside it"""
    cells: int


async def find_way(
    path: Path, kv_types: tuple[int, int], begin: Callable[[], Progress]
) -> bool:
    """Whether a model is exact only with plain products.  A way that was never compared is compared
    now; `begin` is called first, and gives what is told how far that is.  Raises `ModelError`
    when it is not exact with plain products either."""
    for plain in (False, True):
        known = verdicts.known(path, kv_types, plain)
        if known == "unknown":
            known = "no" if await compare(path, kv_types, plain, begin()) else "yes"
        if known == "yes":
            return plain
    raise errors.ModelError(
        f"{path}: exact is required, and its answers depend on how they are asked for: neither "
        "llama.cpp's usual products of matrices nor plain ones always have the same bits here; see "
        f"where with `llamboctl models --probe {shlex.quote(str(path))}`"
    )


async def compare(
    path: Path, kv_types: tuple[int, int], plain: bool, progress: Progress = lambda done: None
) -> list[Difference]:
    """What differs; it is kept, too.  Raises `ModelError`."""
    task = json.dumps({"path": str(path), "kv_types": kv_types, "plain": plain})
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", __name__, task),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "GGML_NO_BACKTRACE": "1"},
    )
    assert process.stdout is not None and process.stderr is not None
    complaints = asyncio.create_task(process.stderr.read())
    said: dict[str, Any] = {}
    try:
        async for line in process.stdout:
            said = json.loads(line)
            progress(said.get("done", 1.0))
        status = await process.wait()
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        last = (await complaints).decode(errors="replace").strip().rpartition("\n")[2]
    if "error" in said:
        raise errors.ModelError(said["error"])
    if "differs" not in said:
        how = signal.Signals(-status).name if status < 0 else f"exit status {status}"
        raise errors.ModelError(f"{path}: the comparison ended with {how}: {last or 'no word'}")
    return [Difference(*difference) for difference in said["differs"]]


def main(words: Sequence[str]) -> None:
    """The process: its argument, and its standard output, a line each, are JSON."""
    threading.Thread(target=_end_with_stdin, daemon=True).start()
    task = json.loads(words[0])
    path, types = Path(task["path"]), (task["kv_types"][0], task["kv_types"][1])
    try:
        found = _differences(path, types, task["plain"])
        verdicts.keep(path, types, task["plain"], not found)
    except (errors.Error, OSError) as error:
        _say(error=str(error))
    else:
        _say(differs=found)


def _differences(path: Path, kv_types: tuple[int, int], plain: bool) -> list[Difference]:
    kinds.check(gguf.read(path), path)  # before llama.cpp is loaded, which takes longer
    from llambo9p.engine.llama import LlamaRunner  # loads llama.cpp

    runner = LlamaRunner(
        path, n_ctx=CONTEXT, n_seq=NEIGHBOURS + 1, prefill_chunk=CONTEXT, kv_types=kv_types,
        plain=plain,
    )  # fmt: skip
    compared = 0

    def progress() -> None:
        nonlocal compared
        _say(done=compared / len(VARIANTS))
        compared += 1

    try:
        runner.load(lambda fraction: True)
        found = exactness.differing(runner, progress=progress)
    finally:
        runner.close()
    return [
        Difference(chunk, neighbours, cells)
        for (chunk, neighbours), where in found.items()
        for cells in where
    ]


def _say(**what: object) -> None:
    print(json.dumps(what), flush=True)


def _end_with_stdin() -> None:
    sys.stdin.buffer.read()
    os._exit(1)


if __name__ == "__main__":
    main(sys.argv[1:])
