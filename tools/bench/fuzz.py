"""The fuzzing of `tests/fuzz` for an hour, where the tests do a minute.

Runs in a checkout, as it is made of the tests: framing, messages and `ServerConn` over a
tree that keeps books, led by coverage, from recorded conversations of real clients.

    python -m llambo9p_tools.bench.fuzz [--minutes 60] [--directory DIR]

DIR keeps what was found from one time to the next, and an input that failed.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--directory", type=Path, help="[default: a temporary one]")
    args = parser.parse_args()
    if not (ROOT / "tests" / "fuzz").is_dir():
        sys.exit(f"{ROOT} is no checkout: there is no tests/fuzz")
    command = [sys.executable, "-m", "tests.fuzz.campaign", "--minutes", str(args.minutes)]
    if args.directory:
        command += ["--directory", str(args.directory.absolute())]
    sys.exit(subprocess.run(command, cwd=ROOT).returncode)


if __name__ == "__main__":
    main()
