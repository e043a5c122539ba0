"""Prints what an input of the fuzzer does, and runs it.

    python -m tests.fuzz.show FILE
"""

from __future__ import annotations

import sys
from pathlib import Path

from . import script, target


def main() -> None:
    raw = Path(sys.argv[1]).read_bytes()
    for line in script.describe(script.unpack(raw)):
        print(line)
    target.run_bytes(raw)


if __name__ == "__main__":
    main()
