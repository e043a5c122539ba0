"""Where the references of a schema lead.

Only what the document itself holds is found: nothing is fetched.  `$id` and `$anchor` are
followed as Draft 2020-12 and draft-07 say.  A place is a node of the document with its path;
nodes are known by their identity, so the document must stay alive and unchanged.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote, urljoin

from llambo9p.engine.structured.schema_text import Path

IN_ONE = frozenset(
    "additionalItems additionalProperties contains contentSchema else if items not propertyNames"
    " then unevaluatedItems unevaluatedProperties".split()
)
IN_LIST = frozenset("allOf anyOf oneOf prefixItems items".split())
IN_MAP = frozenset(
    "$defs definitions dependencies dependentSchemas patternProperties properties".split()
)

Place = tuple[Any, Path]


def children(node: dict[str, Any], path: Path) -> Iterator[Place]:
    """The schemas directly inside a schema."""
    for keyword, value in node.items():
        if keyword in IN_ONE and isinstance(value, (dict, bool)):
            yield value, (path, keyword)
        elif keyword in IN_LIST and isinstance(value, list):
            for i, part in enumerate(value):
                yield part, ((path, keyword), i)
        elif keyword in IN_MAP and isinstance(value, dict):
            for name, part in value.items():
                yield part, ((path, keyword), name)


class References:
    def __init__(self, document: Any) -> None:
        self._bases: dict[int, str] = {}
        """the base URI of each schema, by the identity of its node"""
        self._resources: dict[str, Place] = {"": (document, None)}
        self._anchors: dict[tuple[str, str], Place] = {}
        self._note((document, None), "")

    def _note(self, place: Place, base: str) -> None:
        todo = [(place, base)]
        while todo:
            (node, path), base = todo.pop()
            if not isinstance(node, dict) or id(node) in self._bases:
                continue
            name = node.get("$id")
            if isinstance(name, str) and name.startswith("#"):  # draft-07's way to anchor
                self._anchors.setdefault((base, name[1:]), (node, path))
            elif isinstance(name, str):
                base = urljoin(base, name).partition("#")[0]
                self._resources.setdefault(base, (node, path))
            self._bases[id(node)] = base
            anchor = node.get("$anchor")
            if isinstance(anchor, str):
                self._anchors.setdefault((base, anchor), (node, path))
            todo += ((child, base) for child in children(node, path))

    def target(self, reference: str, node: dict[str, Any]) -> Place | None:
        """What a `$ref` in this node means; None: nothing of this document."""
        base = self._bases.get(id(node), "")
        url, _, fragment = reference.partition("#")
        url = urljoin(base, url) if url else base
        if url not in self._resources:
            return None
        if fragment and not fragment.startswith("/"):
            return self._anchors.get((url, unquote(fragment)))
        place = self._resources[url]
        for name in unquote(fragment).split("/")[1:]:
            member = _member(place, name.replace("~1", "/").replace("~0", "~"))
            if member is None:
                return None
            place = member
            url = self._bases.get(id(place[0]), url)
        self._note(place, url)  # it may be a place that no keyword leads to, such as `components`
        return place


def _member(place: Place, name: str) -> Place | None:
    node, path = place
    if isinstance(node, dict):
        return (node[name], (path, name)) if name in node else None
    if isinstance(node, list) and re.fullmatch("0|[1-9][0-9]{0,8}", name, re.ASCII):
        return (node[int(name)], (path, int(name))) if int(name) < len(node) else None
    return None
