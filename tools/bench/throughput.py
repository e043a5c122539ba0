"""Aggregate tokens/s of N clients on N worker files, against what else could serve them.

The contenders are `files`, `server` and `lock` of `contenders`, and `bare`, the bare decode
loop (see `decode`), which serves nobody.  All have as many slots as there are clients at most.

Every contender answers the same N prompts greedily with the same number of tokens; the
time is from the first prompt given to the last token received, prefill included.
Printed are medians over the rounds, and the medians of the rounds' ratios.

    python -m llambo9p_tools.bench.throughput [--rounds 5] [--tokens 128] [--clients 1,4,16,64]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial

from .contenders import files, has_server, lock, server
from .decode import bare
from .turns import N_CTX, Contender, measure, print_table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--clients", default="1,4,16,64")
    options = parser.parse_args()
    clients = [int(n) for n in options.clients.split(",")]
    starts: dict[str, Callable[[], Contender]] = {
        "files": partial(Contender, files, max(clients), N_CTX),
        "bare": partial(Contender, bare, max(clients)),
        "lock": partial(Contender, lock, N_CTX),
    }
    if has_server():
        starts["server"] = partial(Contender, server, max(clients), N_CTX)
    print("tokens/s, medians of", options.rounds, "rounds in turns", flush=True)
    rates = measure(starts, clients, options.rounds, options.tokens)
    print_table("clients", rates, [("files", name) for name in starts if name != "files"])


if __name__ == "__main__":
    main()
