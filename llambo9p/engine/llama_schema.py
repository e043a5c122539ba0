"""From a JSON schema to a grammar: llama-cpp-python's converter, and what it lacks.

It must only be given what `json_schema.check` has seen.

- It converts again what is referred to by a name with other characters than letters, digits
  and hyphens, or by the name of one of its own rules; when that refers to itself, the rule
  does not exist.  Beside a `$ref` it sees no others.  Here each reference has one rule.
- Backslashes of constants and names were not escaped in the grammar's strings.
- It takes as long as it takes, and everybody's decoding waits: here there is a bound.
"""

from __future__ import annotations

import functools
import json
import re
from typing import Any
from urllib.parse import unquote

from llama_cpp.llama_grammar import SchemaConverter

from llambo9p import errors
from llambo9p.engine import gbnf

MAX_WORK = 100_000
"""about half a second: what is written out, where a part of the schema counts `_PART`, and an
object the square of its properties, which any of them may follow"""
_PART = 10
_ESCAPES = {"\\": r"\\", '"': r"\"", "\n": r"\n", "\r": r"\r"}


@functools.lru_cache(maxsize=64)
def grammar(schema: str) -> str:
    """The grammar of what satisfies a JSON schema.  Raises InvalidArgument."""
    try:
        parsed = json.loads(schema)
        converter = _Converter(parsed)
        converter.visit(parsed, "")
        text = str(converter.format_grammar())
    except errors.InvalidArgument:
        raise
    except Exception as error:  # whatever its author did not think of
        raise errors.InvalidArgument(
            f"schema: it cannot be made a grammar: {type(error).__name__}: {error}"
        ) from None
    try:
        gbnf.check(text)
    except errors.InvalidArgument as error:
        raise errors.InvalidArgument(f"schema: its {error}") from None
    return text


class _Targets(dict[str, Any]):
    """What references refer to, found when it is asked for."""

    def __init__(self, schema: Any) -> None:
        super().__init__()
        self._schema = schema

    def __missing__(self, ref: str) -> Any:
        start, *words = ref.split("/")
        if start != "#":
            raise errors.InvalidArgument(f"schema: a $ref begins with #/, not as {ref!r} does")
        target = self._schema
        for word in words:
            # RFC 6901, section 6
            name = unquote(word).replace("~1", "/").replace("~0", "~")
            try:
                target = target[int(name) if isinstance(target, list) else name]
            except (LookupError, ValueError, TypeError):
                raise errors.InvalidArgument(f"schema: there is no {ref!r}") from None
        return target


class _Converter(SchemaConverter):  # type: ignore[misc]
    def __init__(self, schema: Any) -> None:
        super().__init__(prop_order={}, allow_fetch=False, dotall=False, raw_pattern=False)
        self._refs = _Targets(schema)
        self._work = 0
        self._names: dict[str, str] = {}
        """of the rules of references"""

    def _spend(self, work: int) -> None:
        self._work += work
        if self._work > MAX_WORK:
            raise errors.InvalidArgument("schema: it is too large when it is written out")

    def visit(self, schema: Any, name: str) -> Any:
        self._spend(_PART)
        return super().visit(schema, name)

    def _build_object_rule(self, properties: Any, *args: Any, **options: Any) -> Any:
        self._spend(len(properties) ** 2)
        return super()._build_object_rule(properties, *args, **options)

    def _resolve_ref(self, ref: str) -> str:
        name = self._names.get(ref)
        if name is None:
            # taken before the rule is known: it may refer to itself
            name = self._names[ref] = self._add_rule(f"ref-{len(self._names)}", "")
            self._rules[name] = self.visit(self._refs[ref], name)
        return name

    def _format_literal(self, literal: str) -> str:
        """Of a value's JSON."""
        text = json.dumps(json.loads(literal), ensure_ascii=False)
        return '"' + re.sub(r'[\\"\r\n]', lambda found: _ESCAPES[found[0]], text) + '"'
