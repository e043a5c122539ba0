"""`llamboctl models --probe`: compares a model's logits here, and keeps what is found.

Everything happens on this machine, with all of its cores; no cluster is asked for anything but the
path of a model that is named.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import TypedDict

import click

from llambo9p.engine import gguf, kinds, memory, probe
from llambo9p.engine.base import Exact
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
    exact: Exact
    differs: list[str]
    """where, in words"""
    exact_required: Exact
    """with `exact: required`, which may choose another way to compute"""


def run(path: Path) -> Found:
    """What was found of the model there.  Raises Failure."""
    try:
        types = memory.kv_types(kinds.check(gguf.read(path), path))
        differences = _compare(path, types, False)
        still = bool(differences) and bool(_compare(path, types, True))
    except (Error, OSError) as error:
        raise Failure(str(error)) from None
    differs = [
        f"in pieces of {chunk}{' beside others' if neighbours else ''} at {cells} cells"
        for chunk, neighbours, cells in differences
    ]
    return {
        "path": str(path),
        "exact": "no" if differences else "yes",
        "differs": differs,
        "exact_required": "no" if still else "yes",
    }


def _compare(path: Path, kv_types: tuple[int, int], plain: bool) -> list[probe.Difference]:
    label = "comparing, plain products" if plain else "comparing"
    hidden = not sys.stderr.isatty()
    with click.progressbar(
        length=100, label=label, file=sys.stderr, show_eta=False, hidden=hidden
    ) as bar:

        def progress(done: float) -> None:
            bar.update(int(done * 100) - bar.pos)

        return asyncio.run(probe.compare(path, kv_types, plain, progress))
