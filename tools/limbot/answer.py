"""One answer, over as many connections as it takes: what was shown is never shown again.

An `Answer` is given what each connection reads of it, from its start, and shows what is
new.  It knows no files; `chat.py` reads them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable


class Answer:
    def __init__(
        self,
        show: Callable[[bytes], None],
        differs: Callable[[], None],
        after: Answer | None = None,
    ) -> None:
        """`show` is given each piece; `differs` is called before an answer that is another
        one than what was shown of it, as when a lost worker's model is gone, too.  What is there
        of the one `after` which it goes on was shown."""
        self.shown: bytes = b"" if after is None else after.shown
        self.given: bytes = b"" if after is None else after.tokens
        """lines of `tokens` that the next connection's answer is to begin with"""
        self.usage: dict[str, str] = {}
        self.complete = False
        """it ended by itself, or the cluster ended it as it was told to"""
        self._show = show
        self._differs = differs
        self._text = b""
        self._tokens = b""

    @property
    def tokens(self) -> bytes:
        """Whole lines of `tokens`, of all that is known of it."""
        return max(self.given, self._tokens[: self._tokens.rfind(b"\n") + 1], key=len)

    @property
    def text(self) -> str:
        # where it was cut may be in the middle of a character
        return self.shown.decode(errors="ignore")

    @property
    def stopped(self) -> bool:
        return not self.complete or self.usage.get("finish_reason") == "cancelled"

    def begin(self) -> None:
        """What comes now comes from its start."""
        self.given = self.tokens
        self._text = self._tokens = b""

    def add(self, piece: bytes) -> None:
        self._text += piece
        if not self.shown.startswith(self._text):
            self._show_rest()

    def follow(self, pieces: Iterable[bytes]) -> None:
        """What is read of `tokens`; on a thread of its own."""
        for piece in pieces:
            self._tokens += piece

    def end(self) -> None:
        """The whole of it was read."""
        self.complete = True
        if self._text != self.shown:
            self._show_rest()

    def _show_rest(self) -> None:
        if self._text.startswith(self.shown):
            self._show(self._text[len(self.shown) :])
        else:
            self._differs()
            self._show(self._text)
        self.shown = self._text
