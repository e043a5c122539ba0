"""Looks at the cluster again and again, and comes back to it when it was away.

Two threads, each with a connection of its own, as what py9p waits for cannot be interrupted:
one reads the files of a `Sample`, the other `events`, where the user may.  They end
with the program.
"""

from __future__ import annotations

import json
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping

from ..failure import Failure
from ..tree import Tree, lines
from . import sample
from .sample import Load, Meter

_SAMPLES = 1000
"""whose rates are kept"""
_EVENTS = 50
_AGAIN_S = 1.0
"""between tries to connect"""


class Watch:
    """`connect` gives a tree, and raises Failure; `changed` is called after each look, on another
    thread.  What is here to be read changes at any time, but never within `lock`."""

    def __init__(
        self, connect: Callable[[], Tree], interval: float, changed: Callable[[], None]
    ) -> None:
        self.lock = threading.Lock()
        self.load: Load | None = None
        """the newest"""
        self.looked = time.monotonic()
        """when that was"""
        self.history: deque[float] = deque(maxlen=_SAMPLES)
        """tokens a second"""
        self.events: deque[Mapping[str, object]] = deque(maxlen=_EVENTS)
        self.trouble = ""
        """why there is nothing newer"""
        self._connect = connect
        self._interval = interval
        self._changed = changed

    def start(self) -> None:
        for run in (self._look, self._listen):
            threading.Thread(target=run, daemon=True).start()

    def _look(self) -> None:
        meter = Meter()
        while True:
            try:
                with self._connect() as tree:
                    while True:
                        began = time.monotonic()
                        load = meter.load(sample.read(tree, time.time()))
                        self._tell(load)
                        time.sleep(max(began + self._interval - time.monotonic(), 0))
            except Failure as e:
                with self.lock:
                    self.trouble = e.message
                self._changed()
            time.sleep(_AGAIN_S)

    def _tell(self, load: Load) -> None:
        with self.lock:
            if self.load is not None:
                self.history.append(load.tokens_per_second)
            self.load, self.looked, self.trouble = load, time.monotonic(), ""
        self._changed()

    def _listen(self) -> None:
        while True:
            try:
                with self._connect() as tree, tree.open("events") as f:
                    with self.lock:
                        self.events.clear()
                    for line in lines(f.chunks()):
                        event = json.loads(line)
                        with self.lock:
                            self.events.append(event)
            except Failure:
                pass  # nobody may read them, or the cluster is away, which is told already
            time.sleep(_AGAIN_S)
