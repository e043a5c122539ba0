"""What a schema lets through, by `jsonschema`: the judge of the tests.

Numbers are read as decimals, as JSON writes them: 0.3 is a multiple of 0.1 then.  A pattern
must match in both of Python's readings (classes of all scripts, and of ASCII only); a pattern
for names in the latter, as ECMA has it: `٩` is no `\\d` there, and goes by other keywords.  A text
with a name twice is judged by its first and by its last value.
"""

from __future__ import annotations

import json
import re
from decimal import Context, Decimal, localcontext
from typing import Any

from jsonschema.exceptions import ValidationError
from jsonschema.validators import Draft202012Validator, extend, validator_for

_FORMATS = Draft202012Validator.FORMAT_CHECKER


def _pattern(validator: Any, pattern: str, instance: Any, schema: Any) -> Any:
    if validator.is_type(instance, "string") and not _matches(pattern, instance):
        yield ValidationError(f"{instance!r} does not match {pattern!r}")


def _matches(pattern: str, text: str) -> bool:
    pattern = re.sub(r"(?<!\\)\$", r"\\Z", pattern)  # Python's $ also stands before a last newline
    return bool(re.search(pattern, text) and re.search(pattern, text, re.ASCII))


def read(text: bytes | str) -> list[Any]:
    """The values of a JSON text: one; two where it has a name twice."""
    doubled = False

    def pairs(last: bool) -> Any:
        def made(members: list[tuple[str, Any]]) -> dict[str, Any]:
            nonlocal doubled
            found = dict(members if last else members[::-1])
            doubled |= len(found) < len(members)
            return found

        return made

    def constant(name: str) -> Any:
        raise ValueError(name)

    def loaded(last: bool) -> Any:
        return json.loads(
            text, object_pairs_hook=pairs(last), parse_float=_number, parse_constant=constant
        )

    values = [loaded(True)]
    return [*values, loaded(False)] if doubled else values


_EXPONENT = re.compile("[eE]([+-]?[0-9]+)")


def _number(digits: str) -> Any:
    """The exact number; one of more than 400 digits (bounds let none through) only about."""
    exponent = _EXPONENT.search(digits)
    if exponent and (len(exponent[1]) > 4 or abs(int(exponent[1])) > 400):
        if not re.search("[1-9]", digits[: exponent.start()]) or exponent[1].startswith("-"):
            return 0
        return -(10**400) if digits.startswith("-") else 10**400
    exact = Decimal(digits)
    return int(exact) if exact == exact.to_integral_value() else exact


def _with_ascii_names(value: Any) -> Any:
    if isinstance(value, list):
        return [_with_ascii_names(part) for part in value]
    if not isinstance(value, dict):
        return value
    made = {name: _with_ascii_names(part) for name, part in value.items()}
    patterns = made.get("patternProperties")
    if isinstance(patterns, dict):
        # in a group, as the validator joins several
        made["patternProperties"] = {f"(?a:{name})": part for name, part in patterns.items()}
    return made


class Judge:
    def __init__(self, schema: str) -> None:
        document = _with_ascii_names(json.loads(schema, parse_float=_number))
        base = validator_for(document, default=Draft202012Validator)
        self._validator = extend(base, {"pattern": _pattern})(document, format_checker=_FORMATS)

    def error(self, text: bytes | str) -> str:
        """Why the text does not satisfy the schema; empty: it does."""
        with localcontext(Context(prec=1000)):
            for value in read(text):
                for error in self._validator.iter_errors(value):
                    return f"{error.json_path}: {error.message}"[:300]
        return ""
