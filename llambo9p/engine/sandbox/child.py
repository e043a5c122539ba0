"""The program of a child process: jobs come on stdin, results go to stdout.

A job is the message (`messages`) `{"job": NAME, "cpu": SECONDS, ...}`, a result `{"result": ...}`
or `{"error": TEXT}`.  The child ends with the end of its input, so it never outlives its parent.

Each job runs on a thread with a large stack, and SIGPROF ends the process when a job takes
more CPU time than it may.  The address space is bounded from the start.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import sys
import threading
from typing import Any, BinaryIO

from llambo9p.engine.sandbox.jobs import JOBS
from llambo9p.engine.sandbox.messages import LENGTH, decode, encode
from llambo9p.errors import Error


def receive(stream: BinaryIO) -> dict[str, Any] | None:
    """The next message; None at the end of the stream."""
    head = stream.read(LENGTH.size)
    if len(head) < LENGTH.size:
        return None
    return decode(head + stream.read(*LENGTH.unpack(head)))


def do(message: dict[str, Any]) -> dict[str, Any]:
    """The result of a job."""
    name, seconds = message.pop("job"), message.pop("cpu")
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        return {"result": JOBS[name](**message)}
    except Error as error:
        return {"error": str(error)}
    except MemoryError:
        return {"error": "it takes more memory than it may"}
    except RecursionError:
        return {"error": "it is nested too deeply"}
    except Exception as error:  # whatever the author of a text made a library raise
        return {"error": f"{type(error).__name__}: {error}"}
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def serve(jobs: BinaryIO, results: BinaryIO) -> None:
    while (message := receive(jobs)) is not None:
        results.write(encode(do(message)))
        results.flush()


def main() -> None:
    memory, stack, nice = map(int, sys.argv[1:])
    with contextlib.suppress(OSError):
        os.nice(nice)
    # a core file of a hostile text is of no use, and large
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    results = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a library prints is no result
    threading.stack_size(stack)
    worker = threading.Thread(target=serve, args=(sys.stdin.buffer, results))
    worker.start()
    worker.join()


if __name__ == "__main__":
    main()
