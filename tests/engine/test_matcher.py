"""What a grammar allows next, over vocabularies of three kinds, and how long others wait for it."""

from __future__ import annotations

import json
import random
import re
import subprocess
import sys
import textwrap
import threading

import pytest

from llambo9p import errors
from llambo9p.engine import llama_matcher
from llambo9p.engine.llama_matcher import Matcher
from llambo9p.engine.llama_model import LlamaModel, ModelParams
from llambo9p.engine.structured import grammars
from llambo9p.engine.structured.constraint import Constraint
from tests.zoo.species import USUAL

PERSON = json.dumps(
    {
        "type": "object",
        "properties": {"name": {"type": "string", "maxLength": 12}, "age": {"type": "integer"}},
        "required": ["name", "age"],
        "additionalProperties": False,
    }
)


@pytest.fixture(scope="module", params=["smollm2", *USUAL])
def model(request, model_file):
    model = vocabulary(model_file(request.param))
    yield model
    model.close()


def vocabulary(path):
    model = LlamaModel(path, ModelParams(vocab_only=True))
    model.load(lambda _: True)
    return model


def matcher(model, constraint, answer=(), wake=lambda: None):
    compiled = model.grammars.compile(grammars.grammar_of(constraint), "alice")
    return Matcher(compiled, answer, "alice", wake)


def spelled(model, text):
    """Tokens of these bytes and no space before them, which some vocabularies would add."""
    pieces = {model.piece(token): token for token in range(model.info.n_vocab)}
    left, tokens = text.encode(), []
    while left:
        piece = next(left[:end] for end in range(len(left), 0, -1) if left[:end] in pieces)
        tokens.append(pieces[piece])
        left = left.removeprefix(piece)
    return tokens


def walk(model, constraint, rng, most=200):
    """A random answer, with the tokens it is made of; None for one that did not end."""
    place = matcher(model, constraint)
    ids, text = [], b""
    while len(ids) < most:
        allowed = place.allowed(60).tolist()
        ends = [token for token in allowed if model.is_eog(token)]
        # an end is taken when there is one, sometimes: else an answer hardly ever ends
        token = rng.choice(ends if ends and rng.random() < 0.5 else allowed)
        if model.is_eog(token):
            return text.decode(), ids
        assert model.piece(token), "a token without bytes is never allowed"
        text += model.piece(token)
        ids.append(token)
        place.accept(token)
    return None


@pytest.mark.parametrize(
    ("constraint", "is_right"),
    [
        (Constraint("regex", "[a-f]{2,9}( [0-9]+)?"), re.compile("[a-f]{2,9}( [0-9]+)?").fullmatch),
        (Constraint("regex", "é+☃?"), re.compile("é+☃?").fullmatch),
        (Constraint("grammar", 'root ::= ("a" | "ab") "bc"'), ["abc", "abbc"].__contains__),
        (Constraint("schema", PERSON), lambda text: set(json.loads(text)) == {"name", "age"}),
    ],
    ids=["regex", "utf-8", "gbnf", "schema"],
)
def test_what_is_allowed_makes_what_was_asked_for(model, constraint, is_right):
    rng = random.Random(1)
    walks = [walk(model, constraint, rng) for _ in range(20)]
    texts = {text for text, _ in filter(None, walks)}
    assert texts and all(map(is_right, texts))


def test_an_answer_goes_on_from_its_tokens(model):
    constraint = Constraint("schema", PERSON)
    rng = random.Random(2)
    _, ids = next(filter(None, (walk(model, constraint, rng) for _ in range(50))))
    whole = matcher(model, constraint)
    for i, token in enumerate(ids):
        continued = matcher(model, constraint, ids[:i])
        assert continued.allowed(60).tolist() == whole.allowed(60).tolist()
        whole.accept(token)


def test_all_tokens_that_end_a_generation_are_allowed_where_the_text_may_end(model, monkeypatch):
    ends = [token for token in range(model.info.n_vocab) if model.is_eog(token)]
    more = {*ends, 317, 542}
    other = vocabulary(model.path)
    try:
        monkeypatch.setattr(other, "is_eog", more.__contains__)
        place = matcher(other, Constraint("regex", "(yes)?"))
        assert more < set(place.allowed(60).tolist())
        for token in spelled(model, "yes"):
            place.accept(token)
            place.allowed(60)
        assert set(place.allowed(60).tolist()) == more
    finally:
        other.close()


def test_tokens_that_break_the_grammar_are_named(model):
    right, wrong = spelled(model, "yes"), spelled(model, "no")
    place = matcher(model, Constraint("regex", "yes maybe"), right + wrong)
    named = f"token {len(right) + 1} of the answer, {wrong[0]}, is not"
    with pytest.raises(errors.InvalidArgument, match=named):
        place.allowed(60)


def test_a_mask_that_is_late_is_told_of_once(model, monkeypatch):
    gate, told = threading.Event(), threading.Event()
    calls = []

    def wake():
        calls.append(1)
        told.set()

    place = matcher(model, Constraint("regex", "[ab]+"), wake=wake)
    (token, *_) = place.allowed(60).tolist()
    monkeypatch.setattr(place, "_after", lambda tokens: gate.wait(60))
    place.accept(token)
    for _ in range(3):
        assert place.allowed() is None
    assert not told.is_set()
    gate.set()
    assert told.wait(60)
    assert place.allowed() is True and calls == [1]


def test_a_costly_mask_is_made_by_threads_that_decoding_goes_before(model, monkeypatch):
    monkeypatch.setattr(llama_matcher, "QUICK", 0.0)
    names = []
    place = matcher(model, Constraint("regex", "[ab]+"))
    place.allowed(60)
    after = place._after

    def noted(tokens):
        names.append(threading.current_thread().name)
        return after(tokens)

    monkeypatch.setattr(place, "_after", noted)
    place.accept(int(place.allowed(60)[0]))
    place.allowed(60)
    assert [name.rsplit("-", 1)[0] for name in names] == ["slow-mask"]


@pytest.mark.slow
def test_a_limit_that_is_hit_in_mid_answer_is_the_answers_own_error(model):
    """Whether the 40th byte from the end is an a: a state for each of 2**40 endings."""
    place = matcher(model, Constraint("regex", "[ab]*a[ab]{40}"))
    rng = random.Random(3)
    with pytest.raises(errors.InvalidArgument, match="^the grammar cannot be followed any further"):
        for _ in range(20_000):
            allowed = [t for t in place.allowed(60).tolist() if not model.is_eog(t)]
            place.accept(rng.choice(allowed))


PROGRAM = """
    import sys
    from llambo9p.engine.gguf import default_model
    from llambo9p.engine.llama_matcher import Matcher
    from llambo9p.engine.llama_model import LlamaModel, ModelParams
    from llambo9p.engine.sandbox.compiler import Compiler
    from llambo9p.engine.structured.constraint import Constraint
    from llambo9p.errors import InvalidArgument

    def nested(kind, depth):
        if kind == "schema":
            return '{"items":' * depth + "{}" + "}" * depth
        if kind == "regex":
            return "(" * depth + "a" + ")" * depth
        rules = "".join(f"r{i} ::= r{i + 1} | r{i + 1} r0\\\\n" for i in range(depth))
        return f'root ::= r0\\\\n{rules}r{depth} ::= "a"'

    kind = sys.argv[1]
    compiler = Compiler()
    low, high = 1, 50_000
    while high - low > low // 8 + 1:
        depth = (low + high) // 2
        try:
            grammar = compiler.grammar(Constraint(kind, nested(kind, depth)), "").result()
            low = depth
        except InvalidArgument:
            high = depth
    grammar = compiler.grammar(Constraint(kind, nested(kind, low)), "").result()
    compiler.close()
    model = LlamaModel(default_model(), ModelParams(vocab_only=True))
    model.load(lambda _: True)
    try:
        place = Matcher(model.grammars.compile(grammar, ""), (), "", lambda: None)
        place.accept(int(place.allowed(60)[0]))
        place.allowed(60)
    except InvalidArgument:
        pass
    del place  # here, where the stack is not large
    model.close()
    print("survived", low)
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["schema", "regex", "grammar"])
def test_the_deepest_text_that_a_child_survives_does_not_end_this_process(kind):
    program = textwrap.dedent(PROGRAM).replace("\\\\", "\\")
    done = subprocess.run(
        [sys.executable, "-c", program, kind], capture_output=True, text=True, timeout=500
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.startswith("survived")
