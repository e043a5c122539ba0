"""What an orchestrator offers to another that mounts it: lines of its `status`.

Whoever mounts it takes it for one worker that has the slots of all its hosts, and reads
`status` as its heartbeat.  Every orchestrator has an id and says those of all below it: one
that finds its own there would mount itself.

Pure: `together` sums up, `text` and `parse` are each other's inverse.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from ..conversation import said
from ..errors import Error


@dataclass(frozen=True, slots=True)
class Offer:
    """Of an orchestrator, or of one host that can answer."""

    ids: frozenset[str] = frozenset()
    """of the orchestrator and of those below it"""
    engines: int = 0
    """hosts that can answer, wherever they are mounted"""
    slots: int = 0
    """of them all"""
    types: frozenset[str] = frozenset()
    """node types that they have"""
    models: frozenset[str] = frozenset()
    context: int | None = None
    """tokens of the longest sequence that one of them can hold; None if one does not say"""
    requests: int = 0
    """that are not over"""
    waiting: int = 0
    """of them, those that have no slot"""

    @property
    def model(self) -> str:
        """The models as one name, which no worker has if they are several: tokens of an answer
        mean nothing to another model."""
        return "+".join(sorted(self.models)) or "-"

    def text(self, figures: bool) -> str:
        """`attr value` lines; without `figures` nothing of requests, as if there were none."""
        requests = f"requests {self.requests}\nwaiting {self.waiting}\n" if figures else ""
        context = "" if self.context is None else f"context {self.context}\n"
        return (
            f"orchestrators {' '.join(sorted(self.ids))}\n"
            f"engines {self.engines}\n"
            f"slots {self.slots}\n"
            f"types {' '.join(sorted(self.types))}\n"
            f"models {' '.join(sorted(self.models))}\n"
            f"{context}"
            f"{requests}"
        )

    @classmethod
    def parse(cls, status: str) -> Offer | None:
        """What is among the lines of a `status`; None if it is no orchestrator's.  Raises
        Error for nonsense."""
        attrs = said.attributes(status)
        if "orchestrators" not in attrs:
            return None
        try:
            return cls(
                ids=_words(attrs["orchestrators"], said.identity),
                engines=said.whole(attrs["engines"], said.MANY),
                slots=said.whole(attrs["slots"], said.MANY),
                types=_words(attrs["types"], said.node_type),
                models=_words(attrs["models"], said.title),
                context=said.whole(attrs["context"], said.TOKENS) if "context" in attrs else None,
                requests=said.whole(attrs.get("requests", "0"), said.MANY),
                waiting=said.whole(attrs.get("waiting", "0"), said.MANY),
            )
        except KeyError as e:
            raise Error(f"the orchestrator's status file has no line {e}") from e
        except ValueError as e:
            raise Error(f"the orchestrator's status file is not understood: {e}") from e


def _words(value: str, check: Callable[[str], str]) -> frozenset[str]:
    return frozenset(map(check, said.each_of(value.split())))


def together(own: str, below: Iterable[Offer], requests: int, waiting: int) -> Offer:
    """The offer of the orchestrator with the id `own`, which knows of these requests itself."""
    below = list(below)
    contexts = [offer.context for offer in below if offer.engines]
    known = [context for context in contexts if context is not None]
    return Offer(
        ids=frozenset({own}).union(*(offer.ids for offer in below)),
        engines=sum(offer.engines for offer in below),
        slots=sum(offer.slots for offer in below),
        types=frozenset[str]().union(*(offer.types for offer in below)),
        models=frozenset[str]().union(*(offer.models for offer in below)),
        context=max(known) if known and len(known) == len(contexts) else None,
        requests=requests,
        waiting=waiting,
    )
