"""Answers that are held to something, with models and vocabularies of three kinds: what they are,
that neighbours change nothing, and that they go on from any of their tokens."""

from __future__ import annotations

import asyncio
import json
import re

import pytest

from llambo9p.engine.base import Request, SamplingParams
from llambo9p.engine.llama import LlamaRunner
from tests.engine.harness import ask, running
from tests.zoo.species import USUAL

N_CTX = 512
PLACE = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 8},
        "kind": {"enum": ["town", "river", "hill"]},
        "size": {"type": "integer", "minimum": 1, "maximum": 999},
    },
    "required": ["name", "kind", "size"],
    "additionalProperties": False,
}
LIST = 'root ::= item ("," item){2}\nitem ::= "-"? [0-9]{1,3} | "\\"" [a-zé ]{1,5} "\\""\n'
LARK = 'start: word (" " word)~1..3 "."\nword: /[a-z]{1,4}/\n'


def is_place(text: str) -> bool:
    found = json.loads(text)
    return (
        list(found) == ["name", "kind", "size"]
        and len(found["name"]) <= 8
        and found["kind"] in PLACE["properties"]["kind"]["enum"]
        and 1 <= found["size"] <= 999
    )


HELD_TO = {
    "schema": ({"schema": json.dumps(PLACE)}, is_place),
    "regex": ({"regex": "[A-Z][a-z]{1,5}( [0-9]{2}|☃)?"},
              re.compile("[A-Z][a-z]{1,5}( [0-9]{2}|☃)?").fullmatch),
    "gbnf": ({"grammar": LIST},
             re.compile(r'(-?\d{1,3}|"[a-zé ]{1,5}")(,(-?\d{1,3}|"[a-zé ]{1,5}")){2}').fullmatch),
    "lark": ({"grammar": LARK}, re.compile(r"[a-z]{1,4}( [a-z]{1,4}){1,3}\.").fullmatch),
}  # fmt: skip


@pytest.fixture(scope="module", params=["smollm2", *USUAL])
def runner(request, model_file):
    return lambda: LlamaRunner(model_file(request.param), n_ctx=N_CTX, n_seq=4, n_threads=1)


@pytest.mark.slow
@pytest.mark.parametrize("name", HELD_TO)
def test_an_answer_is_what_it_is_held_to_and_the_same_wherever_it_is_made(runner, name):
    held_to, is_right = HELD_TO[name]

    def requests(answers=((),) * 4):
        return [
            Request(
                f"A list of {i} places:",
                SamplingParams(40, temperature=1.3, seed=i, **held_to),
                answer=tuple(answer),
            )
            for i, answer in enumerate(answers)
        ]

    async def answered(engine, asked):
        recorders = [ask(engine, request) for request in asked]
        usages = [await recorder.usage() for recorder in recorders]
        tokens = [[token.id for token in recorder.all_tokens] for recorder in recorders]
        return [recorder.text for recorder in recorders], tokens, usages

    async def main():
        async with running(runner()) as engine:
            texts, tokens, usages = await answered(engine, requests())
        whole = [
            text for text, usage in zip(texts, usages, strict=True) if usage.finish_reason == "stop"
        ]
        assert len(whole) >= 2 and len(set(whole)) >= 2
        for text in whole:
            assert is_right(text), text

        async with running(runner()) as engine:  # with an empty cache
            alone = [(await answered(engine, [request]))[0][0] for request in requests()[:2]]
            assert alone == texts[:2]
            begun = [answer[: len(answer) // 2] for answer in tokens]
            again, tokens_again, usages = await answered(engine, requests(begun))
            assert (again, tokens_again) == (texts, tokens)
            assert [usage.given_tokens for usage in usages] == [len(answer) for answer in begun]

    asyncio.run(main())
