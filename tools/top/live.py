"""The terminal of `top`: draws what a `Watch` sees, and obeys the keys.

It waits for three things at once: a look that is over, a key, and another size of the
terminal.  Whatever ends it, the terminal is as it was.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import time
from collections.abc import Callable

from rich.console import Console, ConsoleDimensions
from rich.live import Live
from rich.text import Text

from ..tree import Tree
from .keyboard import Keyboard
from .screen import Picture, Screen, View
from .watch import Watch

_SILENT_S = 3.0
"""without an answer, beyond the interval, after which the user is told"""
_SIZE = 80, 24
"""of a terminal that does not say"""


class _Bell:
    """Whoever rings it, on any thread or in a signal's handler, wakes who selects `fd`."""

    def __init__(self) -> None:
        # never closed: threads that end with the program may still ring
        self.fd, self._rope = os.pipe()
        os.set_blocking(self.fd, False)
        os.set_blocking(self._rope, False)

    def ring(self) -> None:
        with contextlib.suppress(BlockingIOError):  # it rings
            os.write(self._rope, b"!")

    def silence(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self.fd, 1 << 16)


class _Stopping:
    """While it is open, ^Z only asks us to stop: the terminal is to be put in order first."""

    def __init__(self, ring: Callable[[], None]) -> None:
        self.asked = False
        self._ring = ring

    def __enter__(self) -> None:
        signal.signal(signal.SIGTSTP, self._ask)

    def __exit__(self, *exc: object) -> None:
        signal.signal(signal.SIGTSTP, signal.SIG_DFL)

    def _ask(self, number: int, frame: object) -> None:
        self.asked = True
        self._ring()


def show(connect: Callable[[], Tree], address: str, interval: float) -> None:
    """Until the user quits.  `connect` raises Failure."""
    view, console, bell = View(), Console(highlight=False), _Bell()
    watch = Watch(connect, interval, bell.ring)
    watch.start()
    signal.signal(signal.SIGWINCH, lambda number, frame: bell.ring())
    quits = False
    while not quits:
        stopping = _Stopping(bell.ring)
        with (
            stopping,
            Keyboard(sys.stdin.fileno()) as keyboard,
            Live(console=console, screen=True, auto_refresh=False) as live,
        ):
            while not quits and not stopping.asked:
                console.size = _size()
                live.update(_drawn(watch, address, interval, view, console), refresh=True)
                ready, _, _ = select.select([bell.fd, keyboard.fd], [], [], _SILENT_S)
                if bell.fd in ready:
                    bell.silence()
                for key in keyboard.read() if keyboard.fd in ready else ():
                    quits = quits or key in ("q", "eof")
                    view.press(key)
        if stopping.asked:
            os.kill(0, signal.SIGTSTP)  # and here we go on when the shell lets us


def _drawn(
    watch: Watch, address: str, interval: float, view: View, console: Console
) -> Text:
    with watch.lock:
        load, trouble = watch.load, watch.trouble
        history, events = list(watch.history), list(watch.events)
        silent = time.monotonic() - watch.looked
    if not trouble and silent > interval + _SILENT_S:
        trouble = f"{address} has not answered for {silent:.0f} s"
    if load is None:
        return Text(trouble or f"looking at {address} ...", no_wrap=True)
    screen = Screen(*console.size, ascii=console.options.ascii_only)
    return screen.draw(Picture(address, load, history, events, trouble), view)


def _size() -> ConsoleDimensions:
    """Now, whatever $COLUMNS said when we began."""
    width = height = 0
    with contextlib.suppress(OSError):
        width, height = os.get_terminal_size(sys.stdout.fileno())
    return ConsoleDimensions(width or _SIZE[0], height or _SIZE[1])
