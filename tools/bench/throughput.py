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
import statistics

from .contenders import files, has_server, lock, server
from .decode import bare
from .turns import N_CTX, Contender, measure, ratio


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--clients", default="1,4,16,64")
    options = parser.parse_args()
    clients = [int(n) for n in options.clients.split(",")]
    contenders = {
        "files": Contender(files, max(clients), N_CTX),
        "bare": Contender(bare, max(clients)),
        "lock": Contender(lock, N_CTX),
    }
    if has_server():
        contenders["server"] = Contender(server, max(clients), N_CTX)
    peers = [name for name in contenders if name != "files"]
    print("tokens/s, medians of", options.rounds, "rounds in turns")
    names = [f"{name:>8}" for name in contenders]
    print("clients", *names, *(f"files/{name:6}" for name in peers))
    for n in clients:
        rates = measure(contenders, n, options.rounds, options.tokens)
        medians = [f"{statistics.median(rates[name]):8.1f}" for name in contenders]
        ratios = [f"{ratio(rates, 'files', name):12.2f}" for name in peers]
        print(f"{n:7}", *medians, *ratios, flush=True)
    for contender in contenders.values():
        contender.end()


if __name__ == "__main__":
    main()
