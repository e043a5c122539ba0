"""python -m tests.zoo NAME PATH [TYPE]: write one of the zoo's models, for a look at it or a bench.

$LLAMBO_ZOO_SCALE makes it wider: 16 is as wide as a model of 100 million parameters.  TYPE is a mix
of types that llama.cpp quantizes to, as Q4_K_M; it needs a scale of 4.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from .quantizing import quantize
from .species import ZOO, write

if __name__ == "__main__":
    if len(sys.argv) not in (3, 4) or sys.argv[1] not in ZOO:
        raise SystemExit(f"{(__doc__ or '').splitlines()[0]}\nNAME is one of {' '.join(ZOO)}")
    name, path, *ftype = sys.argv[1:]
    if not ftype:
        write(name, Path(path))
    else:
        with tempfile.TemporaryDirectory() as directory:
            source = Path(directory, "source.gguf")
            write(name, source)
            quantize(source, Path(path), ftype[0])
