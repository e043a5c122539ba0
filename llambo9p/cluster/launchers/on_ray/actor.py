"""What runs on Ray's node: an actor that starts a host, and holds it.

The host dies with its actor, whose end of a pipe it reads; an actor that has no host for
`state.orphan_timeout` ends.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import ray
import ray.util

from ....errors import Error
from ..base import End
from ..log import FileLog, end, start_error
from .places import Places, listen_options

_STOP_S = 5.0
"""how long a host may take to stop by itself"""
_STEPS = 10
"""in which the time without a host is counted"""


class HostActor:
    """A host of its own at a time."""

    def __init__(self, orphan_s: float) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None
        self._epoch = 0
        self._address = ""
        self._directory = tempfile.TemporaryDirectory(prefix="llambo-")
        self._log = FileLog(Path(self._directory.name) / "log")
        threading.Thread(target=self._end_when_orphaned, args=(orphan_s,), daemon=True).start()

    def placed(self) -> None:
        """The reply says that there is a place for us."""

    def start(
        self, words: list[str], config: str, epoch: int, places: Places
    ) -> tuple[str, Error | None]:
        """Start the host of that epoch, in the place of another, and say where it listens, or
        why it does not.  Asked again, as Ray does, it is still that one."""
        with self._lock:
            if epoch == self._epoch and self._runs():
                return self._address, None
            self._end()
            try:
                listen = listen_options(places, ray.util.get_node_ip_address())
            except Error as e:
                return "", e
            path = Path(self._directory.name) / "host.yaml"
            path.write_text(config)
            with self._log.open() as stderr:
                self._process = subprocess.Popen(
                    [
                        *(sys.executable, "-m", "llambo9p_nodes.worker", "--exit-with-stdin"),
                        *(*words, "--config", str(path), *listen),
                    ],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=stderr,
                    text=True,
                )
            assert self._process.stdout is not None
            for line in self._process.stdout:
                if line.startswith("listening "):
                    self._epoch, self._address = epoch, line.partition(" ")[2].strip()
                    return self._address, None
            model = words[words.index("--model") + 1]
            return "", start_error(self._process.wait(), self._log, model)

    def listens(self, epoch: int) -> str:
        """Where the host of that epoch listens, "" when it is not here any more."""
        return self._address if epoch == self._epoch and self._runs() else ""

    def ended(self, epoch: int, seconds: float) -> End | None:
        """How the host of that epoch ended, None when it has not in so many seconds.  Whoever
        asks may be gone meanwhile, and an actor has few calls at once."""
        process = self._process
        if process is None or epoch != self._epoch:
            return End("another was started in its place")
        try:
            return end(process.wait(seconds), self._log)
        except subprocess.TimeoutExpired:
            return None

    def log_begin(self) -> int:
        return self._log.begin()

    def log_read(self, position: int, count: int) -> bytes | Error:
        try:
            return self._log.read(position, count)
        except Error as e:
            return e

    def _runs(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def _end(self) -> None:
        if self._process is not None:
            assert self._process.stdin is not None
            self._process.stdin.close()
            try:
                self._process.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()

    def _end_when_orphaned(self, seconds: float) -> None:
        alone = 0
        while alone < _STEPS:
            time.sleep(seconds / _STEPS)
            alone = 0 if self._runs() else alone + 1
        ray.kill(ray.get_runtime_context().current_actor, no_restart=True)
