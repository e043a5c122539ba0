"""The process that fuzzes: libFuzzer through atheris, led by the coverage of `llambo9p.p9`.

    python -m tests.fuzz.worker DIRECTORY [libFuzzer's options]

Starts from `corpus`, and from what was found before in DIRECTORY/corpus, where it keeps
what it finds.  An input that fails ends it and is left in DIRECTORY.  Every
`SAMPLE` runs it says how much memory there is: lines of `memory RUNS BLOCKS KILOBYTES`,
the blocks being Python's, as libFuzzer's own memory grows with what it has found.
"""

from __future__ import annotations

import gc
import random
import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["llambo9p.p9"]):
    from . import target

from . import mutate, script
from .corpus import SCRIPTS

SAMPLE = 2000
LONGEST = 8192


class Runs:
    """Counts them, and looks at the memory."""

    def __init__(self) -> None:
        self._count = 0

    def one(self, raw: bytes) -> None:
        if self._count % SAMPLE == 0:
            gc.collect()
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            print("memory", self._count, sys.getallocatedblocks(), pages * 4, flush=True)
        self._count += 1
        target.run_bytes(raw)


def main() -> None:
    directory = Path(sys.argv[1])
    corpus = directory / "corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    for name, begin in SCRIPTS.items():
        (corpus / name).write_bytes(script.pack(begin))
    mutator = mutate.Mutator(list(SCRIPTS.values()))

    def change(raw: bytes, longest: int, seed: int) -> bytes:
        rng = random.Random(seed)
        if rng.random() < 0.1:
            return atheris.Mutate(raw, longest)  # type: ignore[no-any-return]
        return script.pack(mutator.mutate(script.unpack(raw), rng))[:longest]

    options = [f"-artifact_prefix={directory}/", f"-max_len={LONGEST}", "-print_final_stats=1"]
    argv = [sys.argv[0], *options, *sys.argv[2:], str(corpus)]
    atheris.Setup(argv, Runs().one, custom_mutator=change)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
