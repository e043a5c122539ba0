"""What can be proved of schemas: that two exclude each other, and that one has finite values.

A proof may fail to be found; one that is found is right.  The first serves `oneOf`: parts of
which no two can both match are kept as `anyOf`, and llguidance, which does not follow
references, finds few of them.  The second is about schemas that need themselves for ever,
which llguidance takes, and then lets an answer begin that cannot end.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from llambo9p.engine.structured.schema_refs import IN_LIST, IN_MAP, IN_ONE, References

_DEPTH = 12
_STEPS = 100_000
"""steps of all proofs about one document; beyond, nothing more is proved"""
_ALL_TYPES = frozenset({"null", "boolean", "integer", "fraction", "string", "array", "object"})
_TYPES = {name: frozenset({name}) for name in _ALL_TYPES} | {
    "number": frozenset({"integer", "fraction"})
}


class Proofs:
    """Proofs about the schemas of the user's document."""

    def __init__(self, references: References) -> None:
        self._references = references
        self._steps = _STEPS

    def exclusive(self, parts: list[Any]) -> bool:
        """Whether no value can satisfy two of these schemas."""
        if all(isinstance(part, dict) and ("const" in part or "enum" in part) for part in parts):
            constants = [{_canonical(v) for v in next(_values(part), ())} for part in parts]
            if sum(map(len, constants)) == len(set().union(*constants)):
                return True
        return all(
            self._disjoint(parts[i], parts[j], _DEPTH)
            for i in range(len(parts))
            for j in range(i + 1, len(parts))
        )

    def _disjoint(self, a: Any, b: Any, depth: int) -> bool:
        self._steps -= 1
        if depth <= 0 or self._steps < 0:
            return False
        if a is False or b is False:
            return True
        if not isinstance(a, dict) or not isinstance(b, dict):
            return False
        types = self._types(a) & self._types(b)
        if not types:
            return True
        if self._values_disjoint(a, b):
            return True
        if types == {"object"} and self._objects_disjoint(a, b, depth):
            return True
        return self._parts_disjoint(a, b, depth) or self._parts_disjoint(b, a, depth)

    def _types(self, node: dict[str, Any]) -> frozenset[str]:
        found = _ALL_TYPES
        if "type" in node:
            given = node["type"]
            names = given if isinstance(given, list) else [given]
            found = frozenset().union(
                *(_TYPES.get(n, _ALL_TYPES) if isinstance(n, str) else _ALL_TYPES for n in names)
            )
        for values in _values(node):
            found &= {_type_of(v) for v in values}
        return found

    def _values_disjoint(self, a: dict[str, Any], b: dict[str, Any]) -> bool:
        return any(
            {_canonical(v) for v in x}.isdisjoint({_canonical(v) for v in y})
            for x in _values(a)
            for y in _values(b)
        )

    def _objects_disjoint(self, a: dict[str, Any], b: dict[str, Any], depth: int) -> bool:
        for one, other in ((a, b), (b, a)):
            for name in _names(one):
                first = _property(one, name)
                second = _property(other, name)
                if self._disjoint(first, second, depth - 1):
                    return True
        return False

    def _parts_disjoint(self, a: dict[str, Any], b: dict[str, Any], depth: int) -> bool:
        reference = a.get("$ref")
        if isinstance(reference, str):
            place = self._references.target(reference, a)
            if place is not None and self._disjoint(place[0], b, depth - 1):
                return True
        parts = a.get("allOf")
        if isinstance(parts, list) and any(self._disjoint(p, b, depth - 1) for p in parts):
            return True
        for keyword in ("anyOf", "oneOf"):
            parts = a.get(keyword)
            if isinstance(parts, list) and all(self._disjoint(p, b, depth - 1) for p in parts):
                return True
        return False


def _values(node: dict[str, Any]) -> Iterator[list[Any]]:
    if "const" in node:
        yield [node["const"]]
    if isinstance(node.get("enum"), list):
        yield node["enum"]


def _type_of(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int) or (isinstance(value, float) and value.is_integer()):
        return "integer"
    if isinstance(value, float):
        return "fraction"
    if isinstance(value, str):
        return "string"
    return "array" if isinstance(value, list) else "object"


def _canonical(value: Any) -> Any:
    """Hashable, and equal for what JSON schema calls equal."""
    if isinstance(value, dict):
        return "object", frozenset((k, _canonical(v)) for k, v in value.items())
    if isinstance(value, list):
        return "array", tuple(map(_canonical, value))
    return _type_of(value), value


def _names(node: dict[str, Any]) -> list[str]:
    names = node.get("required")
    return [n for n in names if isinstance(n, str)] if isinstance(names, list) else []


def _property(node: dict[str, Any], name: str) -> Any:
    """A schema that the value of this name satisfies."""
    properties = node.get("properties")
    if isinstance(properties, dict) and name in properties:
        return properties[name]
    if "patternProperties" in node:
        return True
    return node.get("additionalProperties", True)


def without_endless(schema: dict[str, Any]) -> dict[str, Any] | bool:
    """A rewritten schema, in which each reference to what has no finite value is `false`."""
    definitions: dict[str, Any] = schema.get("$defs", {})
    finite: set[str] = set()
    waiting = list(reversed(definitions))  # a definition is made after the one that needs it
    found = True
    while found:
        found = False
        for name in waiting:
            if _finite(definitions[name], finite):
                finite.add(name)
                found = True
        waiting = [name for name in waiting if name not in finite]
    endless = {f"#/$defs/{name}" for name in definitions.keys() - finite}
    if not _finite(schema, finite):
        return False
    if endless:
        for reference in endless:
            del definitions[reference.rpartition("/")[2]]
        _cut(schema, endless)
    return schema


def _finite(node: Any, finite: set[str]) -> bool:
    if isinstance(node, bool):
        return node
    reference = node.get("$ref")
    if reference is not None and reference.rpartition("/")[2] not in finite:
        return False
    if not all(_finite(part, finite) for part in node.get("allOf", ())):
        return False
    for keyword in ("anyOf", "oneOf"):
        if keyword in node and not any(_finite(part, finite) for part in node[keyword]):
            return False
    if "const" in node or "enum" in node or "type" not in node:
        return True
    types = node["type"] if isinstance(node["type"], list) else [node["type"]]
    return any(
        _finite_object(node, finite)
        if name == "object"
        else _finite_array(node, finite)
        if name == "array"
        else True
        for name in types
    )


def _finite_object(node: dict[str, Any], finite: set[str]) -> bool:
    properties = node.get("properties", {})
    others = True if "patternProperties" in node else node.get("additionalProperties", True)
    return all(_finite(properties.get(name, others), finite) for name in node.get("required", ()))


def _finite_array(node: dict[str, Any], finite: set[str]) -> bool:
    least = node.get("minItems", 0)
    prefix = node.get("prefixItems", [])
    if least > len(prefix) and not _finite(node.get("items", True), finite):
        return False
    return all(_finite(item, finite) for item in prefix[:least])


def _cut(node: dict[str, Any], endless: set[str]) -> None:
    """Put false in the place of each reference to one of these."""
    for keyword, value in node.items():
        if keyword in IN_MAP and isinstance(value, dict):
            node[keyword] = {name: _without(part, endless) for name, part in value.items()}
        elif keyword in IN_LIST and isinstance(value, list):
            node[keyword] = [_without(part, endless) for part in value]
        elif keyword in IN_ONE:
            node[keyword] = _without(value, endless)


def _without(part: Any, endless: set[str]) -> Any:
    if isinstance(part, dict):
        if part.get("$ref") in endless:
            return False
        _cut(part, endless)
    return part
