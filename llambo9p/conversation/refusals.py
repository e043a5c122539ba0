"""Which of the texts that were written counts, and which were refused.

Owns, for each text of a conversation that is replaced whole, the order of its writings: a
grammar is checked elsewhere, and of several the one that was written last counts, whenever its
check is over.  Owns the refusals, too: hardly any program sees an error of Tclunk, so that a
prompt after a refused text would be answered, with success, as if nobody had written it.

Rules it keeps:
- A writing counts unless a later one of the same text was accepted.
- A refusal stands until a later writing of the same text is accepted, or the text forgotten.

It must not know what the texts are for, nor keep them.
"""

from __future__ import annotations

from itertools import count

from ..errors import Error, InvalidArgument


class Refusals:
    """See the module.  A text is known by its name."""

    __slots__ = ("_accepted", "_numbers", "_refused")

    def __init__(self) -> None:
        self._numbers = count(1)
        self._accepted: dict[str, int] = {}
        """the newest accepted writing of each text"""
        self._refused: dict[str, tuple[int, str]] = {}
        """the newest refused one, where that is newer, and why"""

    def begin(self) -> int:
        """The number of a writing that begins to be accepted or refused."""
        return next(self._numbers)

    def is_superseded(self, text: str, number: int) -> bool:
        """Whether the writing does not count any more."""
        return number < self._accepted.get(text, 0)

    def accept(self, text: str, number: int) -> None:
        self._accepted[text] = number
        if text in self._refused and self._refused[text][0] < number:
            del self._refused[text]

    def refuse(self, text: str, number: int, error: Error) -> None:
        newest = max(self._accepted.get(text, 0), self._refused.get(text, (0, ""))[0])
        if number > newest:
            self._refused[text] = number, str(error)

    def forget(self, *texts: str) -> None:
        """They are as if nobody had written them."""
        for text in texts:
            self._refused.pop(text, None)

    def check(self, *texts: str) -> None:
        """Raises InvalidArgument with the oldest refusal that stands, of these or any texts."""
        standing = [each for each in self._refused.items() if not texts or each[0] in texts]
        if standing:
            text, (_, why) = min(standing, key=lambda each: each[1])
            raise InvalidArgument(
                f"what was written to {text} last was refused: write it again, or a blank line. "
                f"It was: {why}"
            )
