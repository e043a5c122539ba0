"""Models of the zoo with weights of other types, by llama.cpp's own quantizer.

Blocks of K-quants have 256 weights, so a model must be wider than usual for them: `wide` writes it
in a process of its own, whose `LLAMBO_ZOO_SCALE` is `WIDE`.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

WIDE = 4


def quantize(source: Path, path: Path, ftype: str) -> None:
    """`ftype` is llama.cpp's name of a mix of types, as Q4_K_M."""
    import llama_cpp.llama_cpp as lib  # not for every process of pytest

    from llambo9p.engine import llama_log

    params = lib.llama_model_quantize_default_params()
    params.ftype = getattr(lib, f"LLAMA_FTYPE_MOSTLY_{ftype}")
    params.allow_requantize = True
    params.nthread = 2
    llama_log.listen()
    if lib.llama_model_quantize(os.fsencode(source), os.fsencode(path), params):
        raise RuntimeError(f"{source} could not be quantized: {llama_log.said()}")


def wide(name: str, path: Path, ftype: str = "") -> None:
    """The zoo's model of that name; without an `ftype` in Q8_0."""
    subprocess.run(
        [sys.executable, "-m", "tests.zoo", name, str(path), *([ftype] if ftype else [])],
        env={**os.environ, "LLAMBO_ZOO_SCALE": str(WIDE)},
        cwd=Path(__file__).parents[2],
        check=True,
    )
