"""Where a chat's lines come from off a terminal."""

from __future__ import annotations

import sys

from ..encoding import script


class Pipe:
    """Standard input as it is; a line that ends with a backslash goes on in the next."""

    def read(self) -> str | None:
        lines: list[str] = []
        while line := script(sys.stdin.buffer.readline()):
            lines.append(line.removesuffix("\n"))
            if not lines[-1].endswith("\\"):
                break
            lines[-1] = lines[-1][:-1]
        return "\n".join(lines) if lines else None

    def answer(self, question: str) -> str:
        return self.read() or ""

    def offer(self, names: list[str]) -> None:
        """Nothing completes here."""
