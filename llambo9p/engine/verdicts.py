"""What was found about the exactness of models, kept between runs.

Owns a directory, `$XDG_CACHE_HOME/llambo/exact`, with a file for each comparison that was made (see
`exactness`): named by all that the finding depends on, it says `yes` or `no`.  What was never
compared, or can not be read there, is `unknown`.

The file of a model is told by its path, size and time; the build of llama.cpp by its version and
the bytes of the library that computes; the CPU by its model and what it can; the way in which it
computes by `plain` (see `llama_model.ModelParams`).
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.metadata
import importlib.util
import os
import tempfile
from pathlib import Path

from llambo9p.engine.base import Exact


def directory() -> Path:
    """Where they are kept."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if not cache.is_absolute():  # which the XDG specification says to ignore
        cache = Path("~/.cache").expanduser()
    return cache / "llambo" / "exact"


def known(model: Path, kv_types: tuple[int, int], plain: bool = False) -> Exact:
    """What was found, for these types of K and V."""
    with contextlib.suppress(OSError, ValueError):
        text = (directory() / _name(model, kv_types, plain)).read_text().strip()
        if text in ("yes", "no"):
            return "yes" if text == "yes" else "no"
    return "unknown"


def keep(model: Path, kv_types: tuple[int, int], plain: bool, exact: bool) -> None:
    """Raises OSError."""
    where = directory()
    where.mkdir(mode=0o700, parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=where, delete=False) as file:
        file.write("yes\n" if exact else "no\n")
    Path(file.name).replace(where / _name(model, kv_types, plain))


def _name(model: Path, kv_types: tuple[int, int], plain: bool) -> str:
    status = model.stat()
    file = str(model.resolve()), status.st_size, status.st_mtime_ns
    parts = (*file, kv_types, plain, _cpu(), _build())
    return hashlib.sha256(repr(parts).encode()).hexdigest()


@functools.cache
def _cpu() -> str:
    """The lines of /proc/cpuinfo that tell what a core is."""
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().partition("\n\n")[0].splitlines()
        told = ("model name", "flags", "Features", "CPU implementer", "CPU part")
        return "\n".join(line for line in lines if line.startswith(told))
    return ""


@functools.cache
def _build() -> str:
    """The version of llama-cpp-python, and of its library that computes on a CPU the hash."""
    with contextlib.suppress(importlib.metadata.PackageNotFoundError, OSError):
        version = importlib.metadata.version("llama-cpp-python")
        spec = importlib.util.find_spec("llama_cpp")
        for folder in (spec and spec.submodule_search_locations) or ():
            library = Path(folder, "lib", "libggml-cpu.so")
            return f"{version} {hashlib.sha256(library.read_bytes()).hexdigest()}"
    return ""
