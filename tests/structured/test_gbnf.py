"""GBNF grammars in llguidance's language: the same texts match, or the refusal names the line."""

from __future__ import annotations

import ctypes
import math
import re
import warnings
from collections.abc import Iterator
from typing import Any

import llama_cpp.llama_cpp as lib
import llama_cpp.llama_grammar as examples
import pytest
from hypothesis import HealthCheck, given, settings
from llguidance import LLMatcher, LLTokenizer
from llguidance.llamacpp import lltokenizer_from_vocab

from llambo9p.engine.gguf import default_model
from llambo9p.engine.llama_model import LlamaModel, ModelParams
from llambo9p.engine.structured import gbnf, lexemes
from llambo9p.engine.structured.gbnf import to_lark
from llambo9p.errors import InvalidArgument
from tests.structured import vocabulary
from tests.structured.random_gbnf import CHARS, LONGEST, Grammar, grammars, language, written


def check(rules: Grammar) -> None:
    expected = language(rules)
    try:
        lark = to_lark(written(rules))
    except InvalidArgument as e:
        assert "no finite text matches `root`" in str(e)
        assert not expected
        return
    assert set(vocabulary.accepted(lark, CHARS, LONGEST)) == expected


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(grammars)
def test_the_same_texts_match(rules: Grammar) -> None:
    check(rules)


@settings(max_examples=50, deadline=None, suppress_health_check=list(HealthCheck))
@given(grammars)
def test_the_same_texts_match_when_every_terminal_is_a_character(rules: Grammar) -> None:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(lexemes, "STEPS", 0)
        check(rules)


def test_terminals_in_the_way_are_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    grammar = 'root ::= "a" | "a"+ root "a"+'
    assert vocabulary.accepts(to_lark(grammar), "aaaaa")
    monkeypatch.setattr(lexemes, "_look_for_cuts", lambda *_: False)
    assert not vocabulary.accepts(to_lark(grammar), "aaaaa")


# -- llama.cpp says the same ------------------------------------------------------------

JSON = [
    '{"name": "Anna", "tags": ["a",\n {"x": [1, -2.5e7]}, null]}',
    '{"\u00e9\\u00e9\\n": true, "": {}} ',
]
NO_JSON = ['{"a": 01}', '{"a" "b"}', '{"a": "\n"}', "[1]", '{"a": 1,}', "{}}", '{"a": "\\x"}']

AS_USED = [
    (examples.JSON_GBNF, JSON, NO_JSON),
    (examples.JSON_ARR_GBNF, ['[\n{"a": 1},\n{}]'], ['{"a": 1}', '[\n"a" "b"]']),
    (
        examples.ARITHMETIC_GBNF,
        ["a=b\n", "x +y_1= 3 \n", "(a+(b) )*c=(1)\n\n\nx=1\n"],
        ["a=b", "a=\n", "A=1\n", "a b=c\n", "(a=b\n"],
    ),
    (
        examples.C_GBNF,
        ["int main(){}", "int f(char x){int xs = 5;while(xs<10){xs = xs+1;foo (x, -y);}return x;}"],
        ["intx main(){}", "int main(){", "int f(){return ;}"],
    ),
    (examples.LIST_GBNF, ["- a\n- b \u00e9\n"], ["", "a\n", "- \n", "- a", "- a\n\n"]),
    (
        'root ::= (word "\u3002")+\nword ::= [\u3041-\u3093]+ | [\u30a1-\u30f4]+ | "(" word ")"',
        ["\u3042\u3042\u3002\u30a2\u3002", "((\u3042))\u3002"],
        ["\u3042\u30a2\u3002", "\u3042", "\u3002", "(\u3042\u3002)"],
    ),
    (
        '# chess\nroot ::= move (" " move)* ("#" | root)?\nmove ::= (pawn | piece) [+#]?\n'
        'pawn ::= ([a-h] "x")? [a-h] [1-8] ("=" [NBQR])?\n'
        'piece ::= [NBKQR] [a-h]? [1-8]? "x"? [a-h] [1-8]',
        ["e4 Nf3", "exd5", "Nbd7+e8=Q#", "e4#"],
        ["e9", "e4  e5", "Nf"],
    ),
    ('root ::= ("a" | "ab") "bc"', ["abc", "abbc"], ["ab", "abb", "abcc"]),
    ('root ::= "x" root | [a-z]+ "a"', ["xa", "xxba", "aa"], ["a", "xab"]),
    (
        'root ::= a\na ::= "if" " " b | a1\na1 ::= [a-z]+ (" " b)?\nb ::= a',
        ["if if x", "iffy"],
        ["if "],
    ),
    ('root ::= .\nb ::= "c"', ["\n", "\u00e9", "\U0001f600"], ["", "ab"]),
    ('root ::= "(" root ")" | [^()\\n]*', ["", "((\u00e9\r))"], ["(\n)", "(()"]),
    (
        r'root ::= "\x41\u00e9\U0001F600\t\r\n\\\"\[\]" [^\]a-z-]',
        ['A\u00e9\U0001f600\t\r\n\\"[]!'],
        ["A"],
    ),
    (
        'root ::= "a"{2}"b"{2,}"c"{ 2 , 3 }"d"*?("e"|"f"+)+',
        ["aabbcce", "aabbbcccddfffe"],
        ["aabcce"],
    ),
    (
        'root ::= x{0,2} x{3}\nx ::= "(" x* ")"',
        ["()(())()", "()()()()()"],
        ["()()", "()()()()()()"],
    ),
    ("root ::= []", [""], ["a"]),
    ('root ::= "a" |\n  "b" | # or\n  ("c"\n"d")', ["a", "b", "cd"], ["c"]),
    ('root ::= "a"\nroot ::= "b"', ["b"], ["a"]),
    ('root ::= a-b a\na-b ::= "x"\na ::= "y" a?', ["xyy"], ["x"]),
]
"""Grammars as llama.cpp's users write them, texts that match and texts that do not."""


@pytest.fixture(scope="module")
def model() -> Iterator[LlamaModel]:
    found = LlamaModel(default_model(), ModelParams(vocab_only=True))
    found.load(lambda fraction: True)
    yield found
    found.close()


@pytest.fixture(scope="module")
def tokenizer(model: LlamaModel) -> LLTokenizer:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # llguidance calls an old function
        return lltokenizer_from_vocab(model.vocab)


def llama_accepts(model: LlamaModel, grammar: str, text: str) -> bool:
    sampler = lib.llama_sampler_init_grammar(model.vocab, grammar.encode(), b"root")
    assert sampler, "llama.cpp refuses this grammar"
    try:
        for token in model.tokens_of(text, add_special=False, parse_special=False):
            if not is_allowed(sampler, token):
                return False
            lib.llama_sampler_accept(sampler, token)
        return is_allowed(sampler, lib.llama_vocab_eos(model.vocab))
    finally:
        lib.llama_sampler_free(sampler)


def is_allowed(sampler: Any, token: int) -> bool:
    one = lib.llama_token_data(token, 0.0, 0.0)
    array = lib.llama_token_data_array(ctypes.pointer(one), 1, -1, False)
    lib.llama_sampler_apply(sampler, ctypes.byref(array))
    return math.isfinite(one.logit)


@pytest.mark.parametrize(("grammar", "texts", "others"), AS_USED)
def test_llama_cpp_accepts_the_same(
    grammar: str, texts: list[str], others: list[str], model: LlamaModel
) -> None:
    lark = to_lark(grammar)
    ours = {text: vocabulary.accepts(lark, text) for text in texts + others}
    assert ours == {text: text in texts for text in texts + others}
    assert ours == {text: llama_accepts(model, grammar, text) for text in texts + others}


@pytest.mark.parametrize(("grammar", "texts"), [(grammar, texts) for grammar, texts, _ in AS_USED])
def test_each_mask_allows_the_next_token(
    grammar: str, texts: list[str], model: LlamaModel, tokenizer: LLTokenizer
) -> None:
    for text in texts:
        found = LLMatcher(tokenizer, LLMatcher.grammar_from_lark(to_lark(grammar)), log_level=0)
        for token in model.tokens_of(text, add_special=False, parse_special=False):
            mask = found.compute_bitmask()
            assert mask[token // 8] >> token % 8 & 1
            assert found.try_consume_tokens([token]) == 1
        assert found.is_accepting()


@pytest.mark.parametrize(
    ("grammar", "texts", "others"),
    [
        ('root ::= root "a" | "b"', ["b", "baa"], ["a", ""]),
        ('root ::= ("a"? | "b"*)*', ["", "abba"], ["c"]),
        ('root ::= root root | "(" root ")" | ""', ["", "(())()"], ["(", ")("]),
        ("root ::= a_b\na_b ::= a-b\na-b ::= a-b | [x] a-b?", ["x", "xx"], [""]),
        ('root ::= "x" | a root\na ::= "y" a', ["x"], ["yx", "y"]),
        (r"root ::= [^\x00-\U0010FFFF]?", [""], ["a"]),
    ],
)
def test_what_llama_cpp_refuses_and_is_well_defined(
    grammar: str, texts: list[str], others: list[str]
) -> None:
    lark = to_lark(grammar)
    for text in texts + others:
        assert vocabulary.accepts(lark, text) == (text in texts), text


# -- what is refused --------------------------------------------------------------------

BAD = [
    ('root ::= "a" )', "line 1: the end of the line was expected, not ')'"),
    ('root ::= "a"\n\nb ::= foo | foo', "line 3: the rule `foo` is used and not defined"),
    ('x ::= "a"', "there is no rule `root`"),
    ("", "there is no rule `root`"),
    ('root ::= "a"\n  b" ::= "a"', "line 2: `::=` was expected after `b`, not '\"'"),
    ('root ::= "a"\n| "b"', "line 2: a rule's name was expected, not '|'"),
    ('root ::= "x"\n (a b)*\na ::= "b"\nb ::= a?', "line 2: a rule's name was expected"),
    ('root ::= "a"\n b ::= "a', "line 2: this string is not closed"),
    ('root ::= (\n"a" (\n"b")', "line 1: this parenthesis is not closed"),
    ("root ::= \n" + "(" * 50_000, "line 2: this parenthesis is not closed"),
    ("root ::= [a-", "line 1: this set of characters is not closed"),
    ("root ::= [z-a]", "line 1: the range 'z' to 'a' is empty"),
    (r'root ::= "\q"', r"line 1: unknown escape '\\q'"),
    (r'root ::= "\x4"', "line 1: unknown escape"),
    (r'root ::= "\U00110000"', r"line 1: \U00110000 is no character"),
    (r"root ::= [\ud800]", r"line 1: \ud800 is no character"),
    ('root ::= "\ud800"', r"'\ud800' is no character"),
    ('root ::= "\0"', r"a NUL is written \x00"),
    ("root ::= *", "line 1: there is nothing before '*' to repeat"),
    ('root ::= "a" | ?', "line 1: there is nothing before '?' to repeat"),
    ('root ::= "a"{,3}', r"line 1: a repetition is written {N}, {N,} or {N,M}"),
    ('root ::= "a"{3,2}', r"line 1: {3,2} ends before it begins"),
    ('root ::= "a"{100001}', "line 1: more than 100000 repetitions"),
    ('root ::= "a"{%s}' % ("9" * 5000), "line 1: more than 100000 repetitions"),
    ('root ::= "a"{\u0661}', "line 1: a repetition is written"),
    ("root ::=\n. !<[0]>", "line 2: tokens, <NAME> or <[ID]>, are not supported"),
    ("root ::= <|im_end|>", "line 1: tokens, <NAME> or <[ID]>, are not supported"),
    ('\nroot ::= "a" root', "line 2: no finite text matches `root`"),
    (r"root ::= [^\x00-\U0010FFFF]", "line 1: no finite text matches `root`"),
]


@pytest.mark.parametrize(("text", "why"), BAD)
def test_what_is_wrong_is_named_with_its_line(text: str, why: str) -> None:
    with pytest.raises(InvalidArgument, match=f"^grammar:? {re.escape(why)}"):
        to_lark(text)


def test_what_is_too_large_for_llguidance_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    grammar = 'root ::= "a"' + "".join(f'| "{i}" root "z"' for i in range(20))
    to_lark(grammar)
    monkeypatch.setattr(gbnf, "MAX_SYMBOLS", 40)
    with pytest.raises(InvalidArgument, match="^grammar: it is too large: more than 40 rules"):
        to_lark(grammar)


# -- what a hostile text costs ----------------------------------------------------------


def chain(count: int, rule: str, last: str) -> str:
    rules = (f"r{i} ::= {rule.format(i + 1)}\n" for i in range(count))
    return f"root ::= r0\n{''.join(rules)}r{count} ::= {last}\n"


HOSTILE = {
    "chain": lambda size: chain(size, "r{}", '"a"?'),
    "nullable": lambda size: chain(size, '"" r{} | ""', '"a"?'),
    "regular": lambda size: chain(size, '"x"? r{}', '"a"?'),
    "recursive": lambda size: chain(size, '"x"? r{}', '"(" root ")" | "a"'),
    "choices": lambda size: chain(size, 'r{} | "b"', '"(" root ")" | "a"'),
    "parentheses": lambda size: "root ::= " + "(" * size + '"a"' + ")" * size,
    "nested": lambda size: "root ::= " + '("b" root? ' * size + '"a"' + ")" * size,
    "operators": lambda size: 'root ::= "x"' + "{2}?*" * size + " root?",
    "alternatives": lambda size: 'root ::= "x" root "y"' + "".join(f'|"{i}"' for i in range(size)),
    "text": lambda size: 'root ::= "x" root "y" | "' + "abcdefgh" * size + '"',
    "sets": lambda size: (
        'root ::= "x" root "y" | '
        + " ".join(f"[{chr(0x4E00 + i)}-{chr(0x4E00 + 2 * i)}]" for i in range(size))
    ),
    "doubled": lambda size: (
        'root ::= x0 "." root?\n'
        + "".join(f"x{i} ::= x{i + 1} x{i + 1}\n" for i in range(size))
        + f'x{size} ::= "a"?'
    ),
    "states": lambda size: (
        " ".join(["root ::= root? ([a-z]{0,20} ' '?){0,50} [.]"] * 1).replace("'", '"')
        + ' [a-z]{0,20} "b"?' * size
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_is_written_is_linear(name: str) -> None:
    """Twice the text is at most twice the result, and a text of many levels does not recurse."""
    sizes = []
    for count in (1500, 3000):
        text = HOSTILE[name](count)
        sizes.append(len(to_lark(text)) / len(text))
    assert sizes[1] < 1.3 * sizes[0]
    assert sizes[1] < 20


@pytest.mark.parametrize(
    ("grammar", "text"),
    [
        ('root ::= ([a-z]{0,20} " "?){0,50} "."', "abc def."),
        (
            'root ::= x9 "."\n'
            + "".join(f"x{i} ::= x{i - 1} x{i - 1}\n" for i in range(9, 0, -1))
            + 'x0 ::= "a"?',
            "a" * 512 + ".",
        ),
        (chain(5350, "r{}", '"a"?'), "a"),
        ('root ::= (("a"{1000}){1000} root? "c")? "b"', "b"),
    ],
)
def test_what_stopped_a_host_is_answered(grammar: str, text: str) -> None:
    lark = to_lark(grammar)
    assert vocabulary.accepts(lark, text)
    assert not vocabulary.accepts(lark, text + "a")


# -- how large the terminals are --------------------------------------------------------


def test_a_grammar_without_recursion_is_one_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """However large it is: the budget does not matter."""
    monkeypatch.setattr(lexemes, "STEPS", 0)
    lark = to_lark('root ::= ("a" | "ab") b\nb ::= c{2} "x"\nc ::= [b-d]+ ws\nws ::= (" " ws)?')
    assert not re.search("^r", lark, re.MULTILINE)


def test_strings_and_numbers_of_json_are_terminals() -> None:
    """With a row of the parser for each character a mask takes a hundred times as long."""
    lark = to_lark(examples.JSON_GBNF)
    rules = [line for line in lark.splitlines() if line.startswith("r")]
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(lexemes, "STEPS", 0)
        characters = [line for line in to_lark(examples.JSON_GBNF).splitlines() if line[0] == "r"]
    assert len(rules) < 15 < 30 < len(characters)


@pytest.mark.parametrize(
    "grammar",
    [
        *(text for name, text in sorted(vars(examples).items()) if name.endswith("_GBNF")),
        'root ::= "a"?',
        'root ::= "(" root ")" | [^()]*',
        "root ::= .*",
    ],
)
def test_no_gbnf_grammar_names_a_control_token(grammar: str) -> None:
    found = vocabulary.matcher(to_lark(grammar))
    tokens = vocabulary.allowed(found)
    assert tokens.isdisjoint(vocabulary.CONTROL)
    assert (vocabulary.EOS in tokens) == found.is_accepting()
