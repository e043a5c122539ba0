"""Schemas as people have them: from pydantic, zod, MCP servers, function calls, generators.

Each with instances that satisfy it (compact, in the schema's order) and texts that do not.
"""

from __future__ import annotations

from datetime import date, datetime
from enum import StrEnum
from typing import Annotated, Any, Literal, Optional
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, HttpUrl


class Colour(StrEnum):
    RED = "red"
    GREEN = "green"


class Address(BaseModel):
    """Where somebody lives."""

    street: str = Field(min_length=1, max_length=80)
    zip: str = Field(pattern=r"^\d{5}(-\d{4})?$")
    country: Literal["DE", "FR", "US"] = "DE"


class Person(BaseModel):
    model_config = ConfigDict(extra="forbid", title="A person")

    name: str
    age: int = Field(ge=0, le=150)
    score: float = Field(gt=0, lt=1)
    email: Optional[str] = None  # noqa: UP045  (as people write it)
    born: date | None = None
    seen: datetime
    id: UUID
    colours: list[Colour] = Field(default_factory=list, max_length=3)
    address: Address
    tags: dict[str, int] = {}
    pair: tuple[int, str]


class Cat(BaseModel):
    kind: Literal["cat"]
    lives: int


class Dog(BaseModel):
    kind: Literal["dog"]
    name: str


class Owner(BaseModel):
    pets: list[Annotated[Cat | Dog, Field(discriminator="kind")]]


class Node(BaseModel):
    value: int | str | None
    children: list[Node] = []


class Link(BaseModel):
    url: HttpUrl
    secret: str = Field(json_schema_extra={"format": "password", "writeOnly": True})


PERSON = (
    '{"name":"Ö","age":0,"score":0.5,"email":null,"born":"2024-02-29",'
    '"seen":"2024-02-29T12:00:00Z","id":"123e4567-e89b-12d3-a456-426614174000",'
    '"colours":["red"],"address":{"street":"x","zip":"12345"},"tags":{"a":1},"pair":[1,"x"]}'
)

ZOD = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "properties": {
        "count": {"type": "integer", "minimum": -9007199254740991, "maximum": 9007199254740991},
        "positive": {"type": "integer", "exclusiveMinimum": 0, "maximum": 9007199254740991},
        "mail": {
            "type": "string",
            "format": "email",
            "pattern": "^[A-Za-z0-9_'+\\-\\.]+@([A-Za-z0-9][A-Za-z0-9\\-]*\\.)+[A-Za-z]{2,}$",
        },
        "record": {
            "type": "object",
            "propertyNames": {"type": "string"},
            "additionalProperties": {"type": "number"},
        },
        "levels": {
            "type": "object",
            "propertyNames": {"type": "string", "enum": ["low", "high"]},
            "additionalProperties": {"type": "boolean"},
        },
        "union": {"anyOf": [{"type": "string"}, {"type": "number"}, {"type": "null"}]},
        "literal": {"type": "string", "const": "on"},
        "tuple": {"type": "array", "prefixItems": [{"type": "string"}, {"type": "number"}]},
        "any": {},
        "shape": {
            "oneOf": [
                {
                    "type": "object",
                    "properties": {
                        "type": {"type": "string", "const": "circle"},
                        "r": {"type": "number"},
                    },
                    "required": ["type", "r"],
                    "additionalProperties": False,
                },
                {
                    "type": "object",
                    "properties": {
                        "type": {"type": "string", "const": "square"},
                        "side": {"type": "number"},
                    },
                    "required": ["type", "side"],
                    "additionalProperties": False,
                },
            ]
        },
        "both": {
            "allOf": [
                {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]},
                {"type": "object", "properties": {"b": {"type": "number"}}, "required": ["b"]},
            ]
        },
    },
    "required": ["count"],
    "additionalProperties": False,
}

# As an MCP server that speaks for a code forge lists its tools.
MCP_ISSUE = {
    "type": "object",
    "properties": {
        "owner": {"description": "Repository owner", "type": "string"},
        "repo": {"description": "Repository name", "type": "string"},
        "title": {"type": "string", "description": "Issue title"},
        "labels": {"items": {"type": "string"}, "type": "array"},
        "state": {"enum": ["open", "closed", "all"], "type": "string"},
        "perPage": {"maximum": 100, "minimum": 1, "type": "number"},
        "page": {"minimum": 1, "type": "number"},
        "since": {"description": "ISO 8601", "type": "string"},
    },
    "required": ["owner", "repo", "title"],
}
MCP_FILES = {
    "type": "object",
    "properties": {
        "files": {
            "description": "Files to push",
            "items": {
                "additionalProperties": False,
                "properties": {"path": {"type": "string"}, "content": {"type": "string"}},
                "required": ["path", "content"],
                "type": "object",
            },
            "type": "array",
        }
    },
    "required": ["files"],
    "$schema": "http://json-schema.org/draft-07/schema#",
}

OPENAI = {
    "type": "object",
    "properties": {
        "location": {"type": "string", "description": "City and country"},
        "units": {"type": ["string", "null"], "enum": ["celsius", "fahrenheit", None]},
        "days": {"type": "array", "items": {"type": "integer"}, "minItems": 1, "maxItems": 7},
    },
    "required": ["location", "units", "days"],
    "additionalProperties": False,
}

GENERATED = {
    "$schema": "http://json-schema.org/draft-07/schema#",
    "$ref": "#/definitions/Config",
    "definitions": {
        "Config": {
            "type": "object",
            "properties": {
                "level": {"$ref": "#/definitions/Level", "description": "how loud"},
                "inner": {"$ref": "#/definitions/Config"},
                "size": {"type": "number", "multipleOf": 0.5, "default": 1},
                "at": {"type": ["array", "null"], "items": [{"type": "number"}], "minItems": 1},
            },
            "required": ["level"],
            "additionalProperties": False,
            "patternProperties": {"^x-": {}},
        },
        "Level": {"type": "string", "enum": ["debug", "error"]},
    },
}

OPEN_API = {
    "$ref": "#/components/schemas/Pet",
    "components": {
        "schemas": {
            "Pet": {
                "required": ["id"],
                "type": "object",
                "properties": {
                    "id": {"type": "integer", "format": "int64"},
                    "tag": {"$ref": "#/components/schemas/Tag"},
                    "price": {"type": "number", "format": "float", "minimum": 0},
                },
            },
            "Tag": {"type": "object", "properties": {"name": {"type": "string"}}},
        }
    },
}

PEOPLE: dict[str, tuple[Any, list[str], list[str]]] = {
    "pydantic": (
        Person.model_json_schema(),
        [PERSON],
        [PERSON.replace("0.5", "1"), PERSON.replace('"12345"', '"1234"'), "{}"],
    ),
    "pydantic union": (
        Owner.model_json_schema(),
        ['{"pets":[]}', '{"pets":[{"kind":"cat","lives":7},{"kind":"dog","name":"x"}]}'],
        ['{"pets":[{"kind":"cat","name":"x"}]}', '{"pets":[{"kind":"cow"}]}'],
    ),
    "pydantic tree": (
        Node.model_json_schema(),
        ['{"value":1}', '{"value":null,"children":[{"value":"x","children":[]}]}'],
        ['{"value":1,"children":[1]}', '{"children":[]}'],
    ),
    "pydantic url": (
        Link.model_json_schema(),
        ['{"url":"https://example.com/","secret":"x"}'],
        ['{"url":"https://example.com/"}', '{"url":"","secret":"x"}'],
    ),
    "zod": (
        ZOD,
        [
            '{"count":-9007199254740991}',
            '{"count":1,"positive":1,"mail":"a.b@c.de","record":{"x":1.5},"levels":{"low":true},'
            '"union":null,"literal":"on","tuple":["a",1],"any":[{}],'
            '"shape":{"type":"square","side":2},"both":{"a":"x","b":1}}',
        ],
        [
            '{"count":9007199254740992}',
            '{"count":1.5}',
            '{"count":1,"positive":0}',
            '{"count":1,"levels":{"other":true}}',
            '{"count":1,"shape":{"type":"square","r":2}}',
            '{"count":1,"both":{"a":"x"}}',
            '{"count":1,"z":1}',
        ],
    ),
    "mcp issue": (
        MCP_ISSUE,
        [
            '{"owner":"a","repo":"b","title":"c"}',
            '{"owner":"a","repo":"b","title":"c","labels":["x"],"state":"open","perPage":100}',
        ],
        [
            '{"owner":"a","repo":"b"}',
            '{"owner":"a","repo":"b","title":"c","state":"x"}',
            '{"owner":"a","repo":"b","title":"c","perPage":0.5}',
        ],
    ),
    "mcp files": (
        MCP_FILES,
        ['{"files":[]}', '{"files":[{"path":"a/b","content":"x\\ny"}]}'],
        ['{"files":[{"path":"a"}]}', '{"files":{}}'],
    ),
    "openai": (
        OPENAI,
        ['{"location":"Köln","units":null,"days":[1,2]}'],
        [
            '{"location":"x","units":"kelvin","days":[1]}',
            '{"location":"x","units":null,"days":[]}',
            '{"location":"x","days":[1],"units":null}',
        ],
    ),
    "draft-07 generator": (
        GENERATED,
        [
            '{"level":"debug"}',
            '{"level":"error","inner":{"level":"debug"},"size":1.5,"at":[1,"x"],"x-a":{}}',
        ],
        [
            '{"level":"loud"}',
            '{"level":"debug","y":1}',
            '{"level":"debug","size":0.3}',
            '{"level":"debug","at":[]}',
        ],
    ),
    "openapi": (
        OPEN_API,
        ['{"id":1}', '{"id":9007199254740993,"tag":{"name":"x"},"price":0}'],
        ['{"id":"1"}', '{"id":1,"price":-1}', '{"id":1,"tag":3}'],
    ),
}
