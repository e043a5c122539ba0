"""Whatever the masks let through is JSON that satisfies the schema.

Random walks through the masks of people's schemas, of the tables and of random schemas, each
end read strictly and judged by `jsonschema`.  `LLAMBO_WALK_SECONDS=600` walks for so long
through ever new schemas; `LLAMBO_WALK_SEED` begins elsewhere.
"""

from __future__ import annotations

import json
import os
import random
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import llama_cpp
import pytest
from llguidance import LLTokenizer
from llguidance.llamacpp import lltokenizer_from_vocab

from llambo9p.engine import llama_log
from llambo9p.engine.structured.constraint import Constraint
from llambo9p.engine.structured.grammars import grammar_of
from llambo9p.errors import InvalidArgument
from tests.structured.harness import BYTES, Stuck, accepts, walk
from tests.structured.judge import Judge
from tests.structured.keywords import KEPT
from tests.structured.people import PEOPLE
from tests.structured.random_schemas import Maker, instance
from tests.tiers import either
from tests.zoo.species import USUAL

SECONDS = float(os.environ.get("LLAMBO_WALK_SECONDS", either("2", "600")))
SEED = int(os.environ.get("LLAMBO_WALK_SEED", "0"))


def text_of(schema: Any) -> str:
    return json.dumps(schema, ensure_ascii=False)


def judged_walks(
    text: str, rng: random.Random, tokenizer: LLTokenizer, count: int, **settings: bool
) -> int:
    """How many of so many walks ended; the judge agrees with each."""
    grammar = grammar_of(Constraint("schema", text, **settings))
    judge = Judge(text)
    ended = 0
    for _ in range(count):
        found = walk(grammar, rng, tokenizer, free=rng.choice([1, 30, 100]), most=600)
        if found is None:
            continue  # a repetition without bound, followed for too long
        ended += 1
        try:
            assert not judge.error(found), (text, found)
        except RecursionError:  # jsonschema follows {"anyOf": [{"$ref": "#"}, ...]} for ever
            return ended
    return ended


@pytest.fixture(scope="module")
def vocabularies(model_file: Callable[[str], Path]) -> Iterator[list[LLTokenizer]]:
    """SmolLM2's, those of the tiny models, and one of single bytes."""
    llama_log.listen()
    parameters = llama_cpp.llama_model_default_params()
    parameters.vocab_only = True
    models = [
        llama_cpp.llama_model_load_from_file(str(model_file(name)).encode(), parameters)
        for name in ("smollm2", *USUAL)
    ]
    assert all(models)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # llguidance calls an older name
        found = [lltokenizer_from_vocab(llama_cpp.llama_model_get_vocab(model)) for model in models]
    yield [*found, BYTES]
    for model in models:
        llama_cpp.llama_model_free(model)


@pytest.mark.parametrize("name", PEOPLE)
def test_people_s_schemas(name: str) -> None:
    schema, good, bad = PEOPLE[name]
    grammar = grammar_of(Constraint("schema", text_of(schema)))
    judge = Judge(text_of(schema))
    for text in good:
        assert not judge.error(text)
        assert accepts(grammar, text), text
    for text in bad:
        assert not accepts(grammar, text), text


@pytest.mark.parametrize("name", PEOPLE)
def test_walks_through_people_s_schemas(name: str, vocabularies: list[LLTokenizer]) -> None:
    text = text_of(PEOPLE[name][0])
    rng = random.Random(name)
    for vocabulary in vocabularies:
        assert judged_walks(text, rng, vocabulary, 4) > 1
        judged_walks(text, rng, vocabulary, 1, whitespace_flexible=True)  # white space has no end


def test_walks_through_the_tables(vocabularies: list[LLTokenizer]) -> None:
    rng = random.Random(1)
    for _, schema, _, _ in KEPT:
        for vocabulary in vocabularies:
            judged_walks(text_of(schema), rng, vocabulary, 1)


@pytest.mark.parametrize("part", range(8))
def test_walks_through_random_schemas(part: int, vocabularies: list[LLTokenizer]) -> None:
    for seed in range(part * 50, part * 50 + 50):
        random_schema(SEED + seed, vocabularies[seed % 4])


@pytest.mark.slow
@pytest.mark.timeout(SECONDS + 120)
def test_a_long_walk(vocabularies: list[LLTokenizer], capsys: pytest.CaptureFixture[str]) -> None:
    end = time.monotonic() + SECONDS
    seed = SEED + 10**6
    schemas = walks = 0
    while time.monotonic() < end:
        ended = random_schema(seed, vocabularies[seed % 4])
        schemas += ended is not None
        walks += ended or 0
        seed += 1
    with capsys.disabled():
        print(f"\n{walks} walks of {schemas} schemas; {seed - SEED - 10**6 - schemas} refused")


def random_schema(seed: int, tokenizer: LLTokenizer) -> int | None:
    """The walks of one random schema that ended; None: it is refused."""
    rng = random.Random(seed)
    document = Maker(rng).document()
    text = text_of(document)
    try:
        grammar = grammar_of(Constraint("schema", text))
    except InvalidArgument:
        return None
    try:
        ended = judged_walks(text, rng, tokenizer, 5)
    except Stuck:
        if _contradicts_itself(text):
            return 0
        raise
    judge = Judge(text)
    for _ in range(5):
        some = text_of_instance(instance(document, document, rng))
        try:
            satisfied = not judge.error(some)
        except RecursionError:
            break
        assert satisfied or not accepts(grammar, some), (text, some)
    return ended


def _contradicts_itself(text: str) -> bool:
    """Whether a number may have a divisor, and a range or constants without a multiple of it.

    llguidance sees that in some of them only while an answer is written, which ends there.
    """
    return "multipleOf" in text


def text_of_instance(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)
