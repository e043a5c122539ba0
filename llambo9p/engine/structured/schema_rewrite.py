"""A JSON schema, written anew so that llguidance keeps each of its words.

The result has the same meaning, and only keywords that llguidance keeps: each schema that a
`$ref` leads to lies in `$defs` under a number, and annotations are gone.  What cannot be kept
is refused with keyword and path; with `lenient on` it is left out.

Kept by another spelling: draft-04's boolean exclusive bounds, draft-07's `items` arrays with
`additionalItems`, `$id` and `$anchor`, `oneOf` of parts that exclude each other (`anyOf`),
`propertyNames` with an enum or a pattern, `unevaluatedProperties` with nothing beside it.
"""

from __future__ import annotations

import json
from typing import Any

from llambo9p.engine.structured import formats, pattern, schema_numbers
from llambo9p.engine.structured.schema_keywords import (
    CONSTRAINS,
    IN_PLACE,
    MANY,
    MOST_COUNTED,
    NEVER_KEPT,
    TYPES,
    Unwritable,
    about_strings,
    check_name,
    constant,
    is_number,
    name_pattern,
    says_nothing,
)
from llambo9p.engine.structured.schema_proofs import Proofs
from llambo9p.engine.structured.schema_refs import Place, References
from llambo9p.engine.structured.schema_text import Path, refusal, shown

Schema = dict[str, Any] | bool
_TRUE: dict[str, Any] = {}
_FALSE: dict[str, Any] = {"allOf": [False]}


class Rewriter:
    def __init__(self, document: Any, lenient: bool) -> None:
        self._lenient = lenient
        self._references = References(document)
        self._proofs = Proofs(self._references)
        self._document = document
        self._names: dict[int, str] = {}
        """the names in $defs, by the identities of the nodes they are made of"""
        self._waiting: list[Place] = []
        self._has_merges = False
        self._bounds: set[tuple[str, float]] = set()
        self._multiples: set[float] = set()
        self._numbers: list[dict[str, Any]] = []
        """the schemas of the result that may constrain a number"""
        self.paths: dict[int, Path] = {}
        """where each schema of the result comes from, by its identity"""

    def rewritten(self) -> dict[str, Any]:
        """The schema, as an object with `$defs`."""
        root = self._schema(self._document, None)
        definitions: dict[str, Schema] = {}
        while self._waiting:
            node, path = self._waiting.pop()
            definitions[self._names[id(node)]] = self._schema(node, path)
        self._check_merged_numbers()
        if isinstance(root, bool):
            root = {} if root else {"allOf": [False]}
        if definitions:
            root["$defs"] = definitions
        return root

    def _unkept(self, path: Path, keyword: str, why: str) -> None:
        """Refuse what cannot be kept; with lenient on, the caller leaves it out."""
        if not self._lenient:
            raise refusal(path, f"{keyword} cannot be kept; {why}; or set lenient on: leave it out")

    def _schema(self, node: Any, path: Path) -> Schema:
        if isinstance(node, bool):
            return node
        if not isinstance(node, dict):
            raise refusal(path, "a schema is an object, true or false")
        types = self._types(node, path)
        before: dict[str, Any] = {}
        group: dict[str, Any] = {}
        after: dict[str, Any] = {}
        if types is not None:
            group["type"] = types[0] if len(types) == 1 else types
        for keyword, value in node.items():
            about = CONSTRAINS.get(keyword)
            if about and types is not None and not self._concerns(about, types):
                continue
            if keyword in IN_PLACE:
                # The order of the keywords is the order of the properties in the answer.
                into = after if "properties" in group or "properties" not in node else before
                self._in_place(keyword, value, path, node, into)
            elif keyword in NEVER_KEPT:
                if keyword != "propertyNames":
                    self._never_kept(keyword, value, path, node, group)
            elif keyword == "if" and ("then" in node or "else" in node):
                self._unkept(path, "if", "write anyOf")
            elif about == "number":
                self._number(keyword, value, path, node, group)
            elif about == "string":
                self._string(keyword, value, path, group)
            elif about == "array":
                self._array(keyword, value, path, node, group)
            elif about == "object":
                self._object(keyword, value, path, node, group)
        if "propertyNames" in node and (types is None or "object" in types):
            self._never_kept("propertyNames", node["propertyNames"], path, node, group)
        if extra := group.pop("allOf", None):
            after["allOf"] = [*after.get("allOf", []), *extra]
        result = {**before, **group}
        for keyword, value in after.items():
            result[keyword] = [*result[keyword], *value] if keyword in result else value
        self._check_group(path, group, types)
        self._has_merges |= (
            len(result) - len(group) + bool(group) > 1
            or len(result.get("allOf", ())) > 1
            or {"properties", "patternProperties"} <= group.keys()
        )
        if types is None or self._concerns("number", types):
            self._numbers.append(result)
        self.paths[id(result)] = path
        return result

    @staticmethod
    def _concerns(about: str, types: list[str]) -> bool:
        return about in types or (about == "number" and "integer" in types)

    def _types(self, node: dict[str, Any], path: Path) -> list[str] | None:
        if "type" not in node:
            return None
        given = node["type"]
        types = given if isinstance(given, list) else [given]
        for name in types:
            if not isinstance(name, str) or name not in TYPES:
                given_name = shown(json.dumps(name), 50)
                raise refusal(path, f"type {given_name} is none of {' '.join(TYPES)}")
        if not types:
            raise refusal(path, "type lists no type")
        types = list(dict.fromkeys(types))
        return [t for t in types if t != "integer" or "number" not in types]

    def _check_group(self, path: Path, group: dict[str, Any], types: list[str] | None) -> None:
        """What depends on several keywords of one schema."""
        bounds = {(k, v) for k, v in group.items() if k.lower().endswith("imum")}
        if types is None or "number" in types:
            self._bounds |= bounds
            if schema_numbers.leaks(bounds):
                for keyword in ("exclusiveMinimum", "exclusiveMaximum"):
                    if keyword in group:
                        self._unkept(path, keyword, schema_numbers.LEAK)
                        del group[keyword]
        required = set(group.get("required", ()))
        if group.get("minProperties", 0) > len(required) + 1:
            # An answer may have one name twice among those that the schema does not list, and
            # who reads it counts them once.
            why = "list all but one of that many properties in required"
            self._unkept(path, "minProperties", why)
            del group["minProperties"]
        for keyword in ("minProperties", "maxProperties"):
            if (
                keyword in group
                and len(group.get("properties", {}).keys() - required) > MOST_COUNTED
            ):
                self._unkept(path, keyword, f"more than {MOST_COUNTED} properties are not required")
                del group[keyword]

    def _check_merged_numbers(self) -> None:
        if not self._has_merges:
            return
        if schema_numbers.leaks(self._bounds):
            why = f"{schema_numbers.LEAK}; allOf, anyOf, oneOf or $ref may bring them together"
            self._unkept(None, "exclusiveMinimum or exclusiveMaximum", why)
            for group in self._numbers:
                group.pop("exclusiveMinimum", None)
                group.pop("exclusiveMaximum", None)
        if not schema_numbers.multiples_fit(self._multiples):
            most = schema_numbers.LARGEST_DIVISOR
            why = f"allOf, anyOf, oneOf or $ref may bring several together, beyond {most}"
            self._unkept(None, "multipleOf", why)
            for group in self._numbers:
                group.pop("multipleOf", None)

    def _in_place(
        self, keyword: str, value: Any, path: Path, node: dict[str, Any], into: dict[str, Any]
    ) -> None:
        at: Path = (path, keyword)
        if keyword == "$ref":
            into["$ref"] = self._reference(value, path, node)
        elif keyword in ("const", "enum"):
            values = [value] if keyword == "const" else value
            if not isinstance(values, list):
                raise refusal(path, "enum is a list")
            if not values:
                raise refusal(path, "enum lists no value: nothing satisfies it")
            kept: list[Any] = []
            for i, v in enumerate(values):
                try:
                    kept.append(constant(v))
                except Unwritable as error:
                    self._unkept((at, i) if keyword == "enum" else path, keyword, str(error))
                    return
            into[keyword] = kept[0] if keyword == "const" else kept
            self._note_constants(kept)
        else:
            if not isinstance(value, list) or not value:
                raise refusal(path, f"{keyword} is a list of schemas, of one at least")
            if keyword == "oneOf" and self._proofs.exclusive(value):
                if "anyOf" in node:  # that name is taken
                    into.setdefault("allOf", []).append(self._wrapped("anyOf", value, at))
                    return
                keyword = "anyOf"
            parts = [self._schema(part, (at, i)) for i, part in enumerate(value)]
            into[keyword] = [*into.get(keyword, []), *parts]

    def _wrapped(self, keyword: str, value: list[Any], at: Path) -> dict[str, Any]:
        wrapped = {keyword: [self._schema(part, (at, i)) for i, part in enumerate(value)]}
        self.paths[id(wrapped)] = at
        return wrapped

    def _note_constants(self, values: list[Any]) -> None:
        for value in values:
            if isinstance(value, (int, float)) and not isinstance(value, bool):
                self._bounds |= {("minimum", value), ("maximum", value)}

    def _reference(self, value: Any, path: Path, node: dict[str, Any]) -> str:
        if not isinstance(value, str):
            raise refusal(path, "$ref is a string")
        place = self._references.target(value, node)
        if place is None:
            raise refusal(
                path, f"$ref {shown(value)} leads nowhere; only the schema itself is searched"
            )
        target, target_path = place
        if isinstance(target, bool):
            target = _TRUE if target else _FALSE
        elif not isinstance(target, dict):
            raise refusal(path, f"$ref {shown(value)} leads to what is no schema")
        if id(target) not in self._names:
            self._names[id(target)] = str(len(self._names))
            self._waiting.append((target, target_path))
        return f"#/$defs/{self._names[id(target)]}"

    def _never_kept(
        self, keyword: str, value: Any, path: Path, node: dict[str, Any], group: dict[str, Any]
    ) -> None:
        """What llguidance has no word for, and other words may say."""
        if says_nothing(keyword, value, node):
            return
        if keyword == "unevaluatedProperties" and not any(
            k in node for k in (*IN_PLACE, "if", "dependentSchemas", "additionalProperties")
        ):
            self._object("additionalProperties", value, path, node, group)
        elif keyword != "propertyNames" or not self._property_names(value, path, node, group):
            self._unkept(path, keyword, NEVER_KEPT[keyword])

    def _number(
        self, keyword: str, value: Any, path: Path, node: dict[str, Any], group: dict[str, Any]
    ) -> None:
        if keyword.startswith("exclusive") and isinstance(value, bool):  # draft 4
            inclusive = keyword.replace("exclusiveM", "m")
            if value and is_number(node.get(inclusive)):
                self._number(keyword, node[inclusive], path, node, group)
            return
        if not is_number(value):
            raise refusal(path, f"{keyword} is a number")
        if keyword == "multipleOf":
            if value <= 0:
                raise refusal(path, "multipleOf is greater than 0")
            divisor = schema_numbers.multiple_of(value)
            if divisor is None:
                self._unkept(
                    path,
                    keyword,
                    f"its digits without the point exceed {schema_numbers.LARGEST_DIVISOR}",
                )
                return
            group[keyword] = divisor
            self._multiples.add(divisor)
            return
        upper = keyword.endswith("aximum")
        if schema_numbers.outside(value, upper=upper):
            raise refusal(path, f"{keyword} leaves no number: beyond 9e18 none is written")
        keyword, kept = schema_numbers.bound(keyword, value)
        if keyword in group:
            kept = min(kept, group[keyword]) if upper else max(kept, group[keyword])
        group[keyword] = kept

    def _string(self, keyword: str, value: Any, path: Path, group: dict[str, Any]) -> None:
        if keyword in ("minLength", "maxLength"):
            self._count(keyword, value, path, group)
            return
        if not isinstance(value, str):
            raise refusal(path, f"{keyword} is a string")
        if keyword == "pattern":
            try:
                group["pattern"] = pattern.translated(value)
            except pattern.Unkept as error:
                self._unkept(path, f"pattern {shown(value, 60)}", str(error))
                return
        elif value in formats.PATTERNS:
            self._also(group, {"pattern": formats.PATTERNS[value]}, (path, keyword))
        elif value in formats.BY_LLGUIDANCE:
            group["format"] = value
            if value in formats.LONGEST:
                self._also(group, {"maxLength": formats.LONGEST[value]}, (path, keyword))
        elif value not in formats.WITHOUT_MEANING:
            known = " ".join(sorted([*formats.PATTERNS, *formats.BY_LLGUIDANCE]))
            self._unkept(path, f"format {shown(value, 40)}", f"known are {known}")

    def _also(self, group: dict[str, Any], schema: dict[str, Any], path: Path) -> None:
        """One more schema for the same value."""
        self.paths[id(schema)] = path
        group.setdefault("allOf", []).append(schema)

    def _count(self, keyword: str, value: Any, path: Path, group: dict[str, Any]) -> None:
        count = schema_numbers.whole(value)
        if count is None or count < 0:
            raise refusal(path, f"{keyword} is a whole number, 0 or more")
        if count > MANY and keyword.startswith("min"):
            raise refusal(path, f"{keyword} is more than {MANY}: no answer is so long")
        if count <= MANY:
            group[keyword] = count

    def _array(
        self, keyword: str, value: Any, path: Path, node: dict[str, Any], group: dict[str, Any]
    ) -> None:
        at: Path = (path, keyword)
        if keyword in ("minItems", "maxItems"):
            self._count(keyword, value, path, group)
        elif keyword == "prefixItems" or (keyword == "items" and isinstance(value, list)):
            if not isinstance(value, list):
                raise refusal(path, f"{keyword} is a list of schemas")
            if "prefixItems" in group or (keyword == "items" and "prefixItems" in node):
                raise refusal(path, "items is one schema where prefixItems stands beside it")
            group["prefixItems"] = [self._schema(part, (at, i)) for i, part in enumerate(value)]
        elif keyword == "items":
            group["items"] = self._schema(value, at)
        elif keyword == "additionalItems" and isinstance(node.get("items"), list):
            group["items"] = self._schema(value, at)

    def _object(
        self, keyword: str, value: Any, path: Path, node: dict[str, Any], group: dict[str, Any]
    ) -> None:
        at: Path = (path, keyword)
        if keyword in ("minProperties", "maxProperties"):
            self._count(keyword, value, path, group)
        elif keyword in ("properties", "patternProperties"):
            if not isinstance(value, dict):
                raise refusal(path, f"{keyword} is an object of schemas")
            members: dict[str, Schema] = {}
            for name, part in value.items():
                if keyword == "patternProperties":
                    try:
                        rewritten = pattern.translated(name, ecma=True)
                    except pattern.Unkept as error:
                        self._unkept(at, f"patternProperties {shown(name, 60)}", str(error))
                        return
                    if rewritten in members:
                        self._unkept(at, f"patternProperties {shown(name, 60)}", "it stands twice")
                        return
                    members[rewritten] = self._schema(part, (at, name))
                else:
                    check_name(name, at)
                    members[name] = self._schema(part, (at, name))
            group[keyword] = members
        elif keyword == "required":
            if not isinstance(value, list) or not all(isinstance(n, str) for n in value):
                raise refusal(path, "required is a list of names")
            for name in value:
                check_name(name, at)
            group["required"] = list(dict.fromkeys(value))
        elif keyword == "additionalProperties":
            group["additionalProperties"] = self._schema(value, at)

    def _property_names(
        self, value: Any, path: Path, node: dict[str, Any], group: dict[str, Any]
    ) -> bool:
        """Whether other keywords say the same."""
        if "properties" in node or "patternProperties" in node or not isinstance(value, dict):
            return False
        value = about_strings(value)
        others = node.get("additionalProperties", True)
        at: Path = (path, "additionalProperties") if "additionalProperties" in node else path
        if value.keys() == {"enum"} and isinstance(value["enum"], list):
            names = [name for name in value["enum"] if isinstance(name, str)]
            for name in names:
                check_name(name, path)
            group["properties"] = {name: self._schema(others, at) for name in names}
        elif name := name_pattern(value):
            group["patternProperties"] = {name: self._schema(others, at)}
        else:
            return False
        group["additionalProperties"] = False
        return True
