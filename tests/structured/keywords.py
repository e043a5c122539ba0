"""Each keyword of JSON schema: what it lets through, what not, or that it is refused by name.

KEPT: keyword, schema, texts that satisfy it, texts that do not.  The judge is asked about each
text too, so that a wrong table fails.
"""

from __future__ import annotations

from typing import Any

OBJECT = {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "string"}}}
TREE = {
    "$ref": "#/$defs/n",
    "$defs": {
        "n": {
            "type": "object",
            "properties": {"v": {"type": "integer"}, "c": {"items": {"$ref": "#/$defs/n"}}},
            "required": ["v"],
            "additionalProperties": False,
        }
    },
}
CLOSED = {**OBJECT, "additionalProperties": False}

KEPT: list[tuple[str, Any, list[str], list[str]]] = [
    ("true", True, ["1", '"a"', "[]", '{"a":[null]}', "-0.5e-3"], ["", "nul", "[1,]", "{1:2}"]),
    ("type", {"type": "null"}, ["null"], ["0", '"null"']),
    ("type", {"type": "boolean"}, ["true", "false"], ["1", '"true"']),
    ("type", {"type": "integer"}, ["0", "-1", "123456789012345678901234567890"], ["1.5", "01"]),
    ("type", {"type": "number"}, ["0", "-1.5", "1e5", "1.25E-7"], ["1.", ".5", "+1", "0x1", "NaN"]),
    ("type", {"type": "string"}, ['""', '"é😀"', r'"\"\\\n"'], ['"', "'a'", '"a\nb"', '"\\x"']),
    ("type", {"type": "array"}, ["[]", '[1,"a",[]]'], ["[", "[1 2]", "{}"]),
    ("type", {"type": "object"}, ["{}", '{"a":{"b":1}}'], ["{", "[]", '{"a"}']),
    ("type", {"type": ["string", "null"]}, ['"a"', "null"], ["1", "true"]),
    ("type", {"type": ["integer", "number"]}, ["1", "1.5"], ['"1"']),
    ("const", {"const": 1}, ["1"], ["2", '"1"', "true", "1.5"]),
    ("const", {"const": 1.0}, ["1"], ["2"]),
    ("const", {"const": True}, ["true"], ["1", "false"]),
    ("const", {"const": -0.25}, ["-0.25"], ["0.25", "-0.2"]),
    ("const", {"const": {"b": [1, 'x"\\'], "a": None}}, [r'{"b":[1,"x\"\\"],"a":null}'], ["{}"]),
    ("enum", {"enum": ["a", 1, None, [2]]}, ['"a"', "1", "null", "[2]"], ['"b"', "2", "[]"]),
    ("enum", {"type": ["string", "null"], "enum": ["a", None, 3]}, ['"a"', "null"], ["3"]),
    ("multipleOf", {"type": "integer", "multipleOf": 3}, ["0", "3", "-6"], ["1", "4", "-5"]),
    ("multipleOf", {"type": "number", "multipleOf": 0.1}, ["0.3", "0.7", "2"], ["0.35", "0.01"]),
    ("maximum", {"type": "integer", "maximum": 10}, ["10", "-999"], ["11", "1999867888888888"]),
    ("maximum", {"type": "number", "maximum": 0.5}, ["0.5", "-3"], ["0.51", "1"]),
    ("minimum", {"type": "integer", "minimum": 1, "maximum": 10}, ["1", "10"], ["0", "11", "-1"]),
    ("minimum", {"type": "number", "minimum": -1.5}, ["-1.5", "0", "99.5"], ["-1.6", "-2"]),
    ("exclusiveMaximum", {"type": "number", "exclusiveMaximum": 1}, ["0.9", "0"], ["1", "1.0"]),
    ("exclusiveMaximum", {"type": "integer", "maximum": 3, "exclusiveMaximum": 3}, ["2"], ["3"]),
    (
        "exclusiveMinimum",
        {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1},
        ["0.5", "0.001"],
        ["0", "0.0", "1", "-0.5"],
    ),
    (
        "minLength",
        {"type": "string", "minLength": 2},
        ['"ab"', r'"\n\""', '"é😀"'],
        ['"a"', '"😀"'],
    ),
    ("maxLength", {"type": "string", "maxLength": 2}, ['""', r'"\\\\"', '"😀😀"'], ['"abc"']),
    ("maxLength", {"type": "string", "maxLength": 2, "pattern": "^a"}, ['"a"', '"ab"'], ['"abc"']),
    (
        "maxLength",
        {"type": "string", "maxLength": 5000},
        ['"' + "x" * 5000 + '"'],
        ['"' + "x" * 5001 + '"'],
    ),
    ("pattern", {"type": "string", "pattern": "b"}, ['"abc"', '"b"'], ['"ac"', '""']),
    (
        "pattern",
        {"type": "string", "pattern": "^yes|no$"},
        ['"yes!"', '"oh no"'],
        ['"no!"', '"oh yes"'],
    ),
    (
        "pattern",
        {"type": "string", "pattern": "^.{3}$"},
        ['"abc"', r'"a\"c"', '"😀😀😀"'],
        ['"a"c"', '"ab"', r'"a\nb"'],
    ),
    (
        "pattern",
        {"type": "string", "pattern": r"^\d+\.\w$"},
        ['"12.x"'],
        ['"12x"', '"1.é"', '"1.xy"'],
    ),
    ("pattern", {"type": "string", "pattern": "^a$"}, ['"a"'], [r'"a\n"', '"aa"']),
    ("pattern", {"pattern": "^a"}, ['"ab"', "1", "null"], ['"b"']),
    (
        "format",
        {"type": "string", "format": "date"},
        ['"2024-02-29"', '"1999-12-31"'],
        ['"2023-02-29"', '"2023-13-01"', '"0000-01-01"', '"1900-02-29"'],
    ),
    (
        "format",
        {"type": "string", "format": "date-time"},
        ['"2024-02-29T23:59:59.5Z"', '"2020-01-01t00:00:00+01:30"'],
        ['"2024-02-29 23:59:59Z"', '"2024-02-29T24:00:00Z"', '"2024-02-29T00:00:00"'],
    ),
    (
        "format",
        {"type": "string", "format": "time"},
        ['"23:59:59Z"', '"00:00:00.25-08:00"'],
        ['"24:00:00Z"', '"12:00"'],
    ),
    (
        "format",
        {"type": "string", "format": "duration"},
        ['"P1Y2M3DT4H5M6S"', '"PT5M"', '"P2W"'],
        ['"P"', '"1D"'],
    ),
    ("format", {"type": "string", "format": "email"}, ['"a.b@example.com"'], ['"a"', '"@b"']),
    (
        "format",
        {"type": "string", "format": "hostname"},
        ['"example.com"', '"a-b"'],
        ['"-a"', '"a..b"', '"a b"', '"' + ".".join(["x" * 60] * 5) + '"'],
    ),
    (
        "format",
        {"type": "string", "format": "ipv4"},
        ['"127.0.0.1"'],
        ['"256.0.0.1"', '"1.2.3"', '"01.2.3.4"'],
    ),
    (
        "format",
        {"type": "string", "format": "ipv6"},
        ['"::1"', '"2001:db8::8a2e:370:7334"'],
        ['"1::2::3"', '"12345::"'],
    ),
    (
        "format",
        {"type": "string", "format": "uri"},
        ['"https://example.com/a?b=c#d"', '"urn:x:y"'],
        ['"a b"', '"//x"', '"x"'],
    ),
    (
        "format",
        {"type": "string", "format": "uuid"},
        ['"123e4567-e89b-12d3-a456-426614174000"'],
        ['"123e4567"'],
    ),
    ("format", {"type": "integer", "format": "int32"}, ["1"], ['"1"']),
    (
        "items",
        {"type": "array", "items": {"type": "integer"}},
        ["[]", "[1,2]"],
        ['["a"]', '[1,"a"]'],
    ),
    ("items", {"type": "array", "items": False}, ["[]"], ["[1]"]),
    ("items", {"type": "array", "items": {}}, ['[1,"a",{}]'], ["1"]),
    (
        "prefixItems",
        {"type": "array", "prefixItems": [{"type": "integer"}, {"type": "string"}], "items": False},
        ["[]", "[1]", '[1,"a"]'],
        ['["a"]', '[1,"a",2]', "[1,2]"],
    ),
    (
        "prefixItems",
        {"type": "array", "items": {"type": "null"}, "prefixItems": [{"type": "integer"}]},
        ["[1,null]", "[]"],
        ["[null]", "[1,1]"],
    ),
    (
        "minItems",
        {"type": "array", "items": {"type": "integer"}, "minItems": 2},
        ["[1,2]", "[1,2,3]"],
        ["[]", "[1]"],
    ),
    (
        "maxItems",
        {"type": "array", "items": {"type": "integer"}, "maxItems": 2},
        ["[]", "[1,2]"],
        ["[1,2,3]"],
    ),
    (
        "properties",
        OBJECT,
        ["{}", '{"a":1}', '{"a":1,"b":"x","z":null}', '{"z":1}'],
        ['{"a":"x"}', '{"b":1}', '{"a":1,"a":2}', r'{"\u0061":"x"}', r'{"a":1,"\u0061":"x"}'],
    ),
    ("properties", {"properties": {"a": False}}, ["{}", '{"b":1}', "3"], ['{"a":1}']),
    (
        "additionalProperties",
        CLOSED,
        ["{}", '{"a":1,"b":"x"}', '{"b":""}'],
        ['{"c":1}', r'{"\u0061":1}'],
    ),
    (
        "additionalProperties",
        {**OBJECT, "additionalProperties": {"type": "null"}},
        ['{"a":1,"z":null}'],
        ['{"z":1}'],
    ),
    (
        "patternProperties",
        {
            "type": "object",
            "patternProperties": {"^x": {"type": "integer"}},
            "additionalProperties": False,
        },
        ["{}", '{"x1":1,"x":2}'],
        ['{"y":1}', '{"x":"a"}', r'{"\u0078":1}'],
    ),
    (
        "patternProperties",
        {
            "type": "object",
            "properties": {"xa": {"minimum": 5}},
            "patternProperties": {"^x": {"type": "integer"}},
        },
        ['{"xa":7}', '{"xb":1}', '{"y":"z"}'],
        ['{"xa":1}', '{"xa":"s"}', '{"xb":"s"}'],
    ),
    (
        "required",
        {**OBJECT, "required": ["b", "z"]},
        ['{"a":1,"b":"x","z":0}', '{"b":"","z":null,"y":1}'],
        ["{}", '{"b":""}', '{"z":1}', r'{"b":"","z":1,"\u0062":2}'],
    ),
    ("required", {**CLOSED, "required": ["a"]}, ['{"a":1}', '{"a":1,"b":""}'], ["{}", '{"b":""}']),
    ("minProperties", {"type": "object", "minProperties": 1}, ['{"a":1}', '{"a":1,"b":2}'], ["{}"]),
    (
        "minProperties",
        {**CLOSED, "minProperties": 1},
        ['{"a":1}', '{"b":""}', '{"a":1,"b":""}'],
        ["{}"],
    ),
    (
        "minProperties",
        {"type": "object", "required": ["a"], "minProperties": 2},
        ['{"a":1,"b":2}'],
        ['{"a":1}', "{}"],
    ),
    ("maxProperties", {"type": "object", "maxProperties": 1}, ["{}", '{"a":1}'], ['{"a":1,"b":2}']),
    (
        "maxProperties",
        {**CLOSED, "maxProperties": 1},
        ["{}", '{"a":1}', '{"b":""}'],
        ['{"a":1,"b":""}'],
    ),
    ("propertyNames", {"type": "object", "propertyNames": {"type": "string"}}, ['{"a":1}'], ["1"]),
    (
        "propertyNames",
        {
            "type": "object",
            "propertyNames": {"pattern": "^a"},
            "additionalProperties": {"type": "integer"},
        },
        ["{}", '{"a":1,"ab":2}'],
        ['{"b":1}', '{"a":""}'],
    ),
    (
        "propertyNames",
        {
            "type": "object",
            "propertyNames": {"enum": ["x", "y"]},
            "additionalProperties": {"type": "integer"},
        },
        ["{}", '{"x":1,"y":2}'],
        ['{"z":1}', '{"x":""}'],
    ),
    (
        "propertyNames",
        {"type": "object", "additionalProperties": True, "propertyNames": {"minLength": 2}},
        ["{}", '{"ab":1}'],
        ['{"a":1}'],
    ),
    (
        "unevaluatedProperties",
        {**OBJECT, "unevaluatedProperties": False},
        ["{}", '{"a":1}'],
        ['{"c":1}'],
    ),
    (
        "allOf",
        {"allOf": [{"type": "integer", "minimum": 2}, {"maximum": 4}]},
        ["2", "4"],
        ["1", "5", '"a"'],
    ),
    (
        "allOf",
        {
            "allOf": [
                {"$ref": "#/$defs/x"},
                {"properties": {"y": {"type": "null"}}, "required": ["y"]},
            ],
            "$defs": {
                "x": {"type": "object", "properties": {"x": {"type": "integer"}}, "required": ["x"]}
            },
        },
        ['{"x":1,"y":null}'],
        ['{"x":1}', '{"y":null}'],
    ),
    (
        "anyOf",
        {"anyOf": [{"type": "string", "maxLength": 2}, {"type": "string", "pattern": "^zz"}]},
        ['"ab"', '"zzz"'],
        ['"abc"'],
    ),
    (
        "anyOf",
        {
            "type": "object",
            "properties": {"a": {}, "b": {}},
            "anyOf": [{"required": ["a"]}, {"required": ["b"]}],
        },
        ['{"a":1}', '{"b":1}', '{"a":1,"b":2}'],
        ["{}", '{"c":1}'],
    ),
    ("oneOf", {"oneOf": [{"type": "integer"}, {"type": "string"}]}, ["1", '"a"'], ["1.5", "null"]),
    ("oneOf", {"oneOf": [{"const": 1}, {"const": 2}]}, ["1", "2"], ["3"]),
    (
        "oneOf",
        {
            "oneOf": [{"$ref": "#/$defs/c"}, {"$ref": "#/$defs/d"}],
            "$defs": {
                "c": {
                    "type": "object",
                    "properties": {"k": {"const": "c"}, "n": {"type": "integer"}},
                    "required": ["k", "n"],
                },
                "d": {
                    "type": "object",
                    "properties": {"k": {"enum": ["d", "e"]}},
                    "required": ["k"],
                },
            },
        },
        ['{"k":"c","n":1}', '{"k":"e"}'],
        ['{"k":"c"}', '{"k":"x"}', "{}"],
    ),
    (
        "oneOf",
        {
            "oneOf": [{"type": "integer"}, {"type": "string"}],
            "anyOf": [{"maximum": 3}, {"maxLength": 2}],
        },
        ["3", '"ab"'],
        ["null"],
    ),
    ("not", {"type": "integer", "not": False}, ["1"], ['"a"']),
    (
        "$ref",
        {"$ref": "#/$defs/s", "minLength": 2, "$defs": {"s": {"type": "string"}}},
        ['"ab"'],
        ['"a"', "1"],
    ),
    (
        "$ref",
        TREE,
        ['{"v":1}', '{"v":1,"c":[{"v":2},{"v":3,"c":[]}]}'],
        ['{"c":[]}', '{"v":1,"c":[{}]}'],
    ),
    ("$ref", {"$ref": "#/$defs/a%25b~1c", "$defs": {"a%b/c": {"type": "null"}}}, ["null"], ["1"]),
    (
        "$ref",
        {"anyOf": [{"type": "null"}, {"type": "array", "items": {"$ref": "#"}}]},
        ["null", "[]", "[[null],null]"],
        ["1", "[1]"],
    ),
    (
        "$id",
        {
            "$id": "http://e.com/root.json",
            "$ref": "other.json",
            "$defs": {
                "o": {"$id": "other.json", "$ref": "#/$defs/q", "$defs": {"q": {"type": "null"}}}
            },
        },
        ["null"],
        ["1"],
    ),
    (
        "$anchor",
        {
            "items": {"$ref": "#here"},
            "type": "array",
            "$defs": {"x": {"$anchor": "here", "type": "null"}},
        },
        ["[null]"],
        ["[1]"],
    ),
]

# What constrains nothing; each must let this object through, and take nothing away.
ANNOTATIONS: dict[str, Any] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "$comment": "x",
    "$defs": {"unused": {"uniqueItems": True}},
    "definitions": {"unused": {"not": {}}},
    "$vocabulary": {},
    "$dynamicAnchor": "x",
    "title": "x",
    "description": "x",
    "default": 1,
    "examples": [1],
    "deprecated": True,
    "readOnly": True,
    "writeOnly": True,
    "contentEncoding": "base64",
    "contentMediaType": "text/plain",
    "contentSchema": {"type": "null"},
    "minContains": 2,
    "maxContains": 3,
    "then": {"type": "null"},
    "else": {"type": "null"},
    "if": {"type": "null"},
    "x-guidance": {"lenient": True, "whitespace_flexible": True},
    "nullable": True,
    "discriminator": {"propertyName": "k"},
    "unknown": {"type": "null"},
}

# keyword, schema, the path in the refusal
REFUSED: list[tuple[str, Any, str]] = [
    ("not", {"properties": {"a": {"not": {"type": "null"}}}}, "#/properties/a"),
    ("if", {"if": {"type": "string"}, "then": {"minLength": 3}}, "#"),
    ("if", {"items": {"if": {"type": "string"}, "else": False}}, "#/items"),
    ("contains", {"type": "array", "contains": {"type": "integer"}}, "#"),
    ("uniqueItems", {"anyOf": [{"type": "array", "uniqueItems": True}]}, "#/anyOf/0"),
    ("unevaluatedItems", {"type": "array", "unevaluatedItems": False}, "#"),
    (
        "unevaluatedProperties",
        {"$ref": "#/$defs/o", "unevaluatedProperties": False, "$defs": {"o": OBJECT}},
        "#",
    ),
    ("propertyNames", {**OBJECT, "propertyNames": {"maxLength": 3}}, "#"),
    ("dependentRequired", {"dependentRequired": {"a": ["b"]}}, "#"),
    ("dependentSchemas", {"dependentSchemas": {"a": {"required": ["b"]}}}, "#"),
    ("dependencies", {"dependencies": {"a": ["b"]}}, "#"),
    ("$dynamicRef", {"items": {"$dynamicRef": "#x"}}, "#/items"),
    ("$recursiveRef", {"items": {"$recursiveRef": "#"}}, "#/items"),
    (
        "oneOf",
        {"properties": {"k": {"oneOf": [{"type": "number"}, {"type": "integer"}]}}},
        "#/properties/k",
    ),
    ("minProperties", {"properties": {"a": {**CLOSED, "minProperties": 2}}}, "#/properties/a"),
    ("minProperties", {"type": "object", "minProperties": 2}, "#"),
    ("maxProperties", {**OBJECT, "maxProperties": 2}, "#"),
    ("patternProperties", {"items": {"patternProperties": {"a": {}, "b": {}}}}, "#/items"),
    ("exclusiveMinimum", {"type": "number", "exclusiveMinimum": 0, "maximum": 0.5}, "#"),
    ("exclusiveMaximum", {"type": "number", "exclusiveMaximum": 0, "minimum": -0.5}, "#"),
    ("multipleOf", {"type": "number", "multipleOf": 0.12345678901}, "#"),
    ("const", {"properties": {"a": {"const": 9007199254740993}}}, "#/properties/a"),
    ("enum", {"enum": ["a", "\u0001"]}, "#/enum/1"),
    ("format", {"type": "string", "format": "iri"}, "#"),
    ("pattern", {"items": {"pattern": "(?=a)b"}}, "#/items"),
    ("pattern", {"pattern": r"\bfoo"}, "#"),
    ("pattern", {"pattern": r"^(a)\1$"}, "#"),
    ("pattern", {"pattern": "(?i)a"}, "#"),
    ("pattern", {"pattern": "a{,3}"}, "#"),
    ("exclusiveMinimum", {"allOf": [{"exclusiveMinimum": 0}, {"maximum": 0.5}]}, "#"),
    (
        "exclusiveMaximum",
        {
            "properties": {"xa": {"exclusiveMaximum": 0}},
            "patternProperties": {"^x": {"minimum": -0.5}},
        },
        "#",
    ),
    ("multipleOf", {"type": "integer", "multipleOf": 10_001}, "#"),
    ("multipleOf", {"allOf": [{"multipleOf": 251}, {"multipleOf": 257}]}, "#"),
    (
        "maxProperties",
        {
            "items": {
                "properties": {f"p{i}": {} for i in range(65)},
                "additionalProperties": False,
                "maxProperties": 1,
            }
        },
        "#/items",
    ),
    ("patternProperties", {"patternProperties": {"(?=a)": {}}}, "#/patternProperties"),
]
