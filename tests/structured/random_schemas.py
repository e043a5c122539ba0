"""Random schemas, made to meet one another: few names, few numbers, many combinations."""

from __future__ import annotations

import random
from typing import Any

NAMES = ["a", "b", "c", "x-1", "é", 'q"', "a\nb"]
NUMBERS: list[Any] = [0, 1, -1, 0.5, -0.5, 1.5, -1.5, 2, 10, -10, 0.1, 0.25, 99, 100, 1e3, 12.75]
DIVISORS = [1, 2, 3, 5, 10, 0.5, 0.1, 0.25, 1.5, 0.01, 100]
PATTERNS = [
    "a",
    "^a",
    "b$",
    "^[a-c]*$",
    "^a|b$",
    "^.{1,3}$",
    r"^\d+$",
    r"\s",
    r"^\w+$",
    r"^[^\s]+$",
    r"^\D\W$",
    r"^(a|bc)+$",
    r"^[A-Z]{2}-\d{2}$",
    r"\.",
    r"^\"$",
    r"^[\\\"]*$",
    r"^é",
    r"^$",
    r"^(?:x|y)?$",
    "^[^a]*$",
    r"[\d\s]",
    r"^\u00e9\t",
    "^[-a]+$",
    "^a+?b",
]
NAME_PATTERNS = ["^x", "^[ab]$", "c", r"^\d", "^é", r"-\d$"]
FORMATS = [
    "date",
    "time",
    "date-time",
    "duration",
    "email",
    "hostname",
    "ipv4",
    "ipv6",
    "uri",
    "uuid",
]
VALUES: list[Any] = [
    None,
    True,
    False,
    0,
    1,
    1.0,
    1.5,
    -2,
    0.1,
    100,
    "",
    "a",
    "b",
    "abc",
    'q"\\',
    "é😀",
    "1",
    [],
    [1],
    ["a", None],
    {},
    {"a": 1},
    {"b": "x", "a": [True]},
    9007199254740991,
    "\n",
]
TYPES = ["null", "boolean", "integer", "number", "string", "array", "object"]


class Maker:
    """Schemas of one document, which may refer to one another."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng

    def document(self) -> Any:
        root = self.schema(3)
        if isinstance(root, dict) and self.rng.random() < 0.7:
            root["$defs"] = {name: self.schema(2) for name in ("p", "q")}
        return root

    def schema(self, depth: int) -> Any:
        rng = self.rng
        choice = rng.random()
        if choice < 0.04:
            return rng.choice([True, True, False, {}])
        made: dict[str, Any] = {}
        for part in rng.sample(["type", "place", "type"], k=rng.choice([1, 1, 1, 2, 2])):
            if part == "type" and "type" not in made:
                self.typed(made, depth)
            else:
                self.in_place(made, depth)
        if rng.random() < 0.1:
            made["description"] = "a note"
        items = list(made.items())
        if rng.random() < 0.3:
            rng.shuffle(items)
        return dict(items)

    def in_place(self, made: dict[str, Any], depth: int) -> None:
        rng = self.rng
        keyword = rng.choice(["anyOf", "allOf", "oneOf", "const", "enum", "$ref", "anyOf"])
        if keyword == "const":
            made["const"] = rng.choice(VALUES)
        elif keyword == "enum":
            made["enum"] = rng.sample(VALUES, k=rng.randint(1, 4))
        elif keyword == "$ref":
            made["$ref"] = rng.choice(["#/$defs/p", "#/$defs/q", "#/$defs/p", "#"])
        elif depth > 0:
            made[keyword] = [self.schema(depth - 1) for _ in range(rng.randint(1, 3))]

    def typed(self, made: dict[str, Any], depth: int) -> None:
        rng = self.rng
        types = rng.sample(TYPES, k=rng.choice([1, 1, 1, 1, 2, 3]))
        if rng.random() < 0.9:
            made["type"] = types[0] if len(types) == 1 else types
        for name in types:
            getattr(self, name, lambda *_: None)(made, depth)

    def integer(self, made: dict[str, Any], depth: int) -> None:
        rng = self.rng
        for keyword in ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"):
            if rng.random() < 0.3:
                made[keyword] = (
                    rng.choice(NUMBERS) if rng.random() < 0.8 else round(rng.uniform(-20, 20), 2)
                )
        if rng.random() < 0.2:
            made["multipleOf"] = rng.choice(DIVISORS)

    number = integer

    def string(self, made: dict[str, Any], depth: int) -> None:
        rng = self.rng
        if rng.random() < 0.3:
            made["minLength"] = rng.randint(0, 4)
        if rng.random() < 0.3:
            made["maxLength"] = rng.randint(0, 6)
        if rng.random() < 0.35:
            made["pattern"] = rng.choice(PATTERNS)
        if rng.random() < 0.15:
            made["format"] = rng.choice(FORMATS)

    def array(self, made: dict[str, Any], depth: int) -> None:
        rng = self.rng
        if depth > 0 and rng.random() < 0.8:
            made["items"] = self.schema(depth - 1)
        if depth > 0 and rng.random() < 0.3:
            made["prefixItems"] = [self.schema(depth - 1) for _ in range(rng.randint(0, 3))]
        if rng.random() < 0.3:
            made["minItems"] = rng.randint(0, 3)
        if rng.random() < 0.3:
            made["maxItems"] = rng.randint(0, 4)
        if rng.random() < 0.03:
            made["uniqueItems"] = True

    def object(self, made: dict[str, Any], depth: int) -> None:
        rng = self.rng
        names = rng.sample(NAMES, k=rng.randint(0, 4))
        if depth > 0 and names:
            made["properties"] = {name: self.schema(depth - 1) for name in names}
        if rng.random() < 0.5:
            made["required"] = rng.sample(NAMES, k=rng.randint(0, 2))
        if depth > 0 and rng.random() < 0.25:
            made["patternProperties"] = {
                p: self.schema(depth - 1) for p in rng.sample(NAME_PATTERNS, k=rng.randint(1, 2))
            }
        if rng.random() < 0.5:
            made["additionalProperties"] = (
                rng.choice([False, False, True])
                if depth == 0
                else self.schema(depth - 1)
                if rng.random() < 0.4
                else False
            )
        if rng.random() < 0.1:
            made["minProperties"] = rng.randint(0, 3)
        if rng.random() < 0.1:
            made["maxProperties"] = rng.randint(0, 3)
        if rng.random() < 0.05:
            made["propertyNames"] = self.rng.choice(
                [{"type": "string"}, {"pattern": "^a"}, {"enum": ["a", "b"]}, {"maxLength": 3}]
            )


STRINGS = ["", "a", "b", "ab", "abc", "1", "12", "x", "é", "A", "AB-12", ".", '"', "\\", "- ", "\n"]


def instance(schema: Any, document: Any, rng: random.Random, depth: int = 4) -> Any:
    """A value that may satisfy the schema, with the properties in its order."""
    if not isinstance(schema, dict) or depth == 0:
        return rng.choice(VALUES)
    if "$ref" in schema and rng.random() < 0.7:
        name = schema["$ref"].rpartition("/")[2]
        target = document if name == "#" else document.get("$defs", {}).get(name)
        return instance(target, document, rng, depth - 1)
    for keyword in ("anyOf", "oneOf", "allOf"):
        if keyword in schema and rng.random() < 0.7:
            return instance(rng.choice(schema[keyword]), document, rng, depth - 1)
    if "const" in schema:
        return schema["const"]
    if "enum" in schema:
        return rng.choice(schema["enum"])
    types = schema.get("type", TYPES)
    kind = types if isinstance(types, str) else rng.choice(types)
    if kind == "object":
        return _object(schema, document, rng, depth)
    if kind == "array":
        prefix = schema.get("prefixItems", [])
        count = rng.randint(0, 3)
        rest = schema.get("items", True)
        return [
            instance(prefix[i] if i < len(prefix) else rest, document, rng, depth - 1)
            for i in range(count)
        ]
    if kind == "string":
        return rng.choice(STRINGS) + rng.choice(["", *STRINGS])
    if kind == "integer":
        return rng.randint(-12, 120)
    if kind == "number":
        return rng.choice([rng.randint(-3, 120), rng.randint(-30, 1300) / 10, 0.25, 0.75])
    return {"null": None, "boolean": rng.random() < 0.5}[kind]


def _object(schema: Any, document: Any, rng: random.Random, depth: int) -> Any:
    made: dict[str, Any] = {}
    required = schema.get("required", [])
    for name, part in schema.get("properties", {}).items():
        if name in required or rng.random() < 0.5:
            made[name] = instance(part, document, rng, depth - 1)
    others = schema.get("additionalProperties", True)
    for name in required:
        if name not in made:
            made[name] = instance(others, document, rng, depth - 1)
    for name in rng.sample([*NAMES, "x1", "1", "zz"], k=rng.choice([0, 0, 1, 2])):
        if name not in made and name not in schema.get("properties", {}):
            made[name] = instance(others, document, rng, depth - 1)
    return made


def spoiled(value: Any, keywords: list[str], rng: random.Random, share: float = 0.05) -> Any:
    """The same document with a few of its keywords and values replaced by others."""
    if rng.random() < share:
        return _nonsense(keywords, rng, 2)
    if isinstance(value, dict):
        return {
            (rng.choice(keywords) if rng.random() < share else name): spoiled(part, keywords, rng)
            for name, part in value.items()
        }
    if isinstance(value, list):
        return [spoiled(part, keywords, rng) for part in value]
    return value


def _nonsense(keywords: list[str], rng: random.Random, depth: int) -> Any:
    choice = rng.random()
    if depth == 0 or choice < 0.4:
        return rng.choice([*VALUES, 3.0, -1, 1e300, 10**30, "#", "#/$defs/p", "[", "object"])
    if choice < 0.6:
        return [_nonsense(keywords, rng, depth - 1) for _ in range(rng.randint(0, 3))]
    return {
        rng.choice(keywords): _nonsense(keywords, rng, depth - 1) for _ in range(rng.randint(0, 4))
    }
