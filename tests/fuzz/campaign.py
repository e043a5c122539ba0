"""Runs the fuzzing process for a while and says what it did.

    python -m tests.fuzz.campaign [--minutes 1] [--directory DIR]

DIR keeps the corpus from one time to the next, and an input that failed.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
ANSWER_S = 60
"""how long it may take beyond the time it was given"""


@dataclass(frozen=True)
class Found:
    runs: int
    coverage_of_corpus: int
    """edges of llambo9p.p9 that the conversations reach with which it began"""
    coverage: int
    blocks_grown: int
    """Python's memory blocks, from the first sample after warming up to the last"""
    kilobytes_grown: int
    """resident memory, with what libFuzzer keeps"""
    failure: str
    """the output, if an input failed"""

    def __str__(self) -> str:
        return (
            f"{self.runs} runs, coverage {self.coverage_of_corpus} -> {self.coverage}, "
            f"memory +{self.blocks_grown} blocks, +{self.kilobytes_grown} KiB"
        )


def fuzz(directory: Path, seconds: int) -> Found:
    """Fuzz for so long, or until an input fails, which is then in `directory`."""
    command = [sys.executable, "-W", "error", "-m", "tests.fuzz.worker", str(directory)]
    done = subprocess.run(
        [*command, f"-max_total_time={seconds}"],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
        timeout=seconds + ANSWER_S,
    )  # fmt: skip
    output = done.stdout
    coverage = [int(n) for n in re.findall(r"^#\d+\s.*\bcov: (\d+)", output, re.MULTILINE)]
    inited = re.search(r"^#\d+\s+INITED cov: (\d+)", output, re.MULTILINE)
    runs = re.search(r"^stat::number_of_executed_units: (\d+)", output, re.MULTILINE)
    memory = [
        (int(blocks), int(kilobytes))
        for blocks, kilobytes in re.findall(r"^memory \d+ (\d+) (\d+)$", output, re.MULTILINE)
    ]
    failed = done.returncode != 0 or runs is None or inited is None or "ignored in" in output
    # the first samples are of caches that fill
    warm, last = (memory[len(memory) // 4], memory[-1]) if memory else ((0, 0), (0, 0))
    return Found(
        int(runs[1]) if runs else 0,
        int(inited[1]) if inited else 0,
        max(coverage, default=0),
        last[0] - warm[0],
        last[1] - warm[1],
        "\n".join(output.splitlines()[-60:]) if failed else "",
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=1)
    parser.add_argument("--directory", type=Path, help="[default: a temporary one]")
    args = parser.parse_args()
    directory = args.directory or Path(tempfile.mkdtemp(prefix="fuzz-"))
    found = fuzz(directory, int(args.minutes * 60))
    print(found)
    if found.failure:
        sys.exit(f"{found.failure}\nthe input that failed is in {directory}")


if __name__ == "__main__":
    main()
