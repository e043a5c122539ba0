"""The language: what is read is written so that it reads the same; what is wrong is told
with its place."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from llambo9p_tools.dish.syntax import (
    Assignment,
    At,
    Block,
    Each,
    Either,
    Misread,
    Output,
    Pipeline,
    Redirect,
    Script,
    Simple,
    Text,
    Variable,
    Word,
    parse,
    quote,
    unparse,
)

names = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,4}", fullmatch=True)
bare = st.text("abz09*?[]=!-./\\é~^", min_size=1, max_size=6).map(Text)
quoted = st.text("ab '\n$`{}|;<>#*\\", max_size=6).map(lambda text: Text(text, quoted=True))
variables = (names | st.sampled_from(["1", "23", "*"])).map(Variable)


def fits(parts):
    """Whether parts side by side stay the parts that they are."""
    for left, right in zip(parts, parts[1:], strict=False):
        match left, right:
            case Text(_, False), Text(_, False):
                return False
            case Text(_, True), Text(_, True):
                return False
            case Text(text, False), Text(_, True) if text[-1].isalnum():
                return False
            case Variable(), Text(text, False) if text[0].isalnum() or text[0] == "_":
                return False
    return True


def words(scripts):
    outputs = scripts.map(Output)
    part = st.one_of(bare, quoted, variables, outputs)
    return st.lists(part, min_size=1, max_size=3).filter(fits).map(lambda p: Word(tuple(p)))


def commands(scripts):
    word = words(scripts)
    redirects = st.lists(
        st.builds(Redirect, st.sampled_from(["<", ">", ">>"]), word), max_size=2
    ).map(tuple)
    several = st.lists(word, min_size=1, max_size=3).map(tuple)
    return st.one_of(
        st.builds(Simple, several.filter(is_simple), redirects),
        st.builds(Assignment, names, word | st.just(Word(()))),
        st.builds(Block, scripts, redirects),
        st.builds(Each, several, scripts, redirects),
    )


def is_simple(several):
    match several[0].parts[0]:
        case Text(text, False):
            return "=" not in text
    return True


def scripts(command):
    pipelines = st.lists(command, min_size=1, max_size=3).map(lambda c: Pipeline(tuple(c)))
    eithers = st.lists(pipelines, min_size=1, max_size=2).map(lambda p: Either(tuple(p)))
    return st.lists(eithers, max_size=3).map(lambda items: Script(tuple(items)))


whole = st.recursive(st.just(Script()), lambda inner: scripts(commands(inner)), max_leaves=6)


@given(whole)
def test_what_is_written_reads_the_same(script):
    assert parse(unparse(script)) == script


@given(st.text("ab'$`{}|;<>#= \n\\*é1") | st.text())
def test_any_text_is_a_script_or_told_to_be_none(text):
    try:
        script = parse(text)
    except Misread as e:
        lines = text.split("\n")
        assert 1 <= e.at.line <= len(lines)
        assert 1 <= e.at.column <= len(lines[e.at.line - 1]) + 1
    else:
        assert parse(unparse(script)) == script


@given(st.text())
def test_a_quoted_word_is_that_word(word):
    [either] = parse(f"echo {quote(word)}").items
    [command] = either.pipelines[0].commands
    assert isinstance(command, Simple)
    assert "".join(part.text for part in command.words[1].parts) == word


def words_of(text: str) -> list[str]:
    [either] = parse(text).items
    [command] = either.pipelines[0].commands
    assert isinstance(command, Simple)
    return ["".join(part.text for part in word.parts) for word in command.words]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("infer What is distributed computing?", "infer What is distributed computing?"),
        ("infer What's AI, and the dogs' food?", "infer What's AI, and the dogs' food?"),
        ("echo 'it''s one' two", "echo|it's one|two"),
        ("echo a#b # a comment", "echo|a#b"),
        ("echo a \\\n b", "echo|a|b"),
        ("echo x='a b'", "echo|x=a b"),
        ("echo ''", "echo|"),
    ],
)
def test_words(text, words):
    assert words_of(text) == words.split("|" if "|" in words else " ")


@pytest.mark.parametrize(
    ("text", "line", "column", "why", "incomplete"),
    [
        ("echo 'abc", 1, 6, "quote is never closed", True),
        ("ls\necho {", 2, 6, "only for each", False),
        ("each a", 1, 7, "needs a { block }", True),
        ("each a {\n ls", 1, 8, "never closed", True),
        ("ls |", 1, 5, "a command is missing", True),
        ("ls | | cat", 1, 6, "missing before '|'", False),
        ("ls }", 1, 4, "no { is open", False),
        ("cat >", 1, 6, "the name of a file", False),
        ("> file", 1, 7, "a command is missing", False),
        ("echo $", 1, 6, "name of a variable", False),
        ("echo `ls`", 1, 6, "{ commands }", False),
        ("x=a b", 1, 5, "takes one word", False),
        ("{ ls } {", 1, 8, "cannot stand here", False),
        ("{" * 51, 1, 51, "more than 50", False),
    ],
)
def test_what_is_wrong_is_told_with_its_place(text, line, column, why, incomplete):
    with pytest.raises(Misread, match=None) as caught:
        parse(text)
    assert why in caught.value.message
    assert (caught.value.at, caught.value.incomplete) == (At(line, column), incomplete)
