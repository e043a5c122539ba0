"""`llambo`, also `python -m llambo9p_nodes`: the program that `$LLAMBO_MODE` names, `worker` or
`orchestrator`; by default the latter.  For what starts every machine of a cluster alike."""

from __future__ import annotations

import os
import sys

from . import orchestrator, worker

_PROGRAMS = {"orchestrator": orchestrator.main, "worker": worker.main}


def main() -> None:
    """Exits with 2 when the mode is neither."""
    mode = os.environ.get("LLAMBO_MODE") or "orchestrator"
    if mode not in _PROGRAMS:
        print(f"llambo: $LLAMBO_MODE is {mode!r}; use {' or '.join(_PROGRAMS)}", file=sys.stderr)
        sys.exit(2)
    _PROGRAMS[mode](prog_name=f"llambo-{mode}")


if __name__ == "__main__":
    main()
