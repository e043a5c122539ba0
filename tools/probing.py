"""`llamboctl models --probe`: compares a model's logits here, and keeps what is found.

Everything happens in this process, on this machine, with all of its cores; no cluster is asked
for anything but the path of a model that is named.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TypedDict

import click

from llambo9p.engine import exactness, verdicts
from llambo9p.engine.exactness import CONTEXT, NEIGHBOURS, VARIANTS
from llambo9p.errors import Error

from . import show
from .failure import Failure
from .options import connect


def path_of(name: str) -> Path:
    """The file of a model: a path, or what `models/NAME` says.  Raises Failure."""
    if "/" in name or name.endswith(".gguf"):
        return Path(name)
    with connect() as tree:
        said = show.attributes(tree.text(f"models/{name}"))
    if "error" in said:
        raise Failure(f"model {name}: {said['error']}")
    path = Path(str(said["path"]))
    if not path.exists():
        raise Failure(f"model {name} is not on this machine: {path}")
    return path


class Found(TypedDict):
    path: str
    exact: str
    differs: list[str]
    """where, in words"""


def probe(path: Path) -> Found:
    """What was found of the model there.  Raises Failure."""
    from llambo9p.engine.llama import LlamaRunner  # loads llama.cpp

    runner = LlamaRunner(path, n_ctx=CONTEXT, n_seq=NEIGHBOURS + 1, prefill_chunk=CONTEXT)
    try:
        runner.load(lambda fraction: True)
        with click.progressbar(
            length=len(VARIANTS) + 1, label="comparing", file=sys.stderr, show_eta=False,
            hidden=not sys.stderr.isatty(),
        ) as bar:  # fmt: skip
            found = exactness.differing(runner, progress=lambda: bar.update(1))
        exact = not any(found.values())
        verdicts.keep(path, runner.kv_types, exact)
    except (Error, OSError) as error:
        raise Failure(str(error)) from None
    finally:
        runner.close()
    differs = [
        f"in pieces of {chunk}{' beside others' if neighbours else ''} at {cells} cells"
        for (chunk, neighbours), where in found.items()
        for cells in where
    ]
    return {"path": str(path), "exact": "yes" if exact else "no", "differs": differs}
