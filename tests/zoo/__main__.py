"""python -m tests.zoo NAME PATH: write one of the zoo's models, for a look at it or for a bench.

$LLAMBO_ZOO_SCALE makes it wider: 16 is as wide as a model of 100 million parameters.
"""

from __future__ import annotations

import sys
from pathlib import Path

from .species import ZOO, write

if __name__ == "__main__":
    if len(sys.argv) != 3 or sys.argv[1] not in ZOO:
        raise SystemExit(f"{(__doc__ or '').splitlines()[0]}\nNAME is one of {' '.join(ZOO)}")
    write(sys.argv[1], Path(sys.argv[2]))
