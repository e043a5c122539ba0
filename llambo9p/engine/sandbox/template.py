"""A chat template of a model, rendered as Hugging Face's Transformers and llama.cpp do.

The template is a program of the model's author: Jinja2's sandbox keeps it from the process's
objects, and the child process that this runs in bounds its time and memory.
"""

from __future__ import annotations

import functools
import json
from datetime import datetime
from typing import Any, NoReturn

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from llambo9p.errors import InvalidArgument


class _Generation(jinja2.ext.Extension):
    """`{% generation %}` marks what is trained on; what is in it is rendered as it is."""

    tags = {"generation"}

    def parse(self, parser: jinja2.parser.Parser) -> list[jinja2.nodes.Node]:
        parser.stream.skip(1)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def render(template: str, messages: list[dict[str, Any]], variables: dict[str, Any]) -> str:
    """The text of a chat, with the beginning of the answer.  Raises `InvalidArgument` with
    what the template raises."""
    try:
        return _compiled(template).render(
            messages=messages,
            add_generation_prompt=True,
            raise_exception=_refuse,
            strftime_now=lambda form: datetime.now().strftime(form),
            **variables,
        )
    except (MemoryError, RecursionError):
        raise
    except Exception as error:
        raise InvalidArgument(str(error) or type(error).__name__) from None


@functools.lru_cache(maxsize=4)
def _compiled(template: str) -> jinja2.Template:
    environment = ImmutableSandboxedEnvironment(
        loader=jinja2.BaseLoader(),
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=[_Generation, jinja2.ext.loopcontrols],
    )
    environment.filters["tojson"] = _tojson
    return environment.from_string(template)


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """As Transformers: no escapes for HTML."""
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


def _refuse(message: str) -> NoReturn:
    raise InvalidArgument(message)
