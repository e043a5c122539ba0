"""The language: text to a tree of commands and back.  No I/O.

    script    = { either ( ";" | newline ) }
    either    = pipeline { "||" pipeline }
    pipeline  = command { "|" command }
    command   = NAME "=" [ word ] | simple | block | each
    simple    = word { word | redirect }
    block     = "{" script "}" { redirect }
    each      = "each" { word } "{" script "}" { redirect }
    redirect  = ( "<" | ">" | ">>" ) word
    word      = part { part }, side by side
    part      = bare text | "'" text "'" | "$" NAME | "`{" script "}"

A quote inside quotes is doubled, as in rc and on `ctl`.  An apostrophe right after a letter or
a digit of bare text is only that: `What's that` needs no quotes.  `#` at the start of a word
begins a comment; a backslash at the end of a line goes on with the next.  Whatever is read,
`unparse` writes so that it reads the same.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from ..failure import Failure

_SPECIAL = "\n \t;|<>{}$`"
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*|[0-9]+|\*")
_ASSIGNMENT = re.compile(rf"({_NAME.pattern})=")
_DEPTH = 50
"""blocks inside blocks"""


@dataclass(frozen=True, slots=True)
class At:
    """Both from 1."""

    line: int
    column: int


@dataclass(frozen=True, slots=True)
class Text:
    text: str
    quoted: bool = False
    """then `*`, `?` and `[` in it are characters like others"""


@dataclass(frozen=True, slots=True)
class Variable:
    name: str


@dataclass(frozen=True, slots=True)
class Output:
    """What `script` prints."""

    script: Script


Part = Text | Variable | Output


@dataclass(frozen=True, slots=True)
class Word:
    parts: tuple[Part, ...]
    at: At = field(default=At(0, 0), compare=False)


@dataclass(frozen=True, slots=True)
class Redirect:
    kind: str
    """`<`, `>` or `>>`"""
    word: Word


@dataclass(frozen=True, slots=True)
class Assignment:
    name: str
    word: Word
    at: At = field(default=At(0, 0), compare=False)


@dataclass(frozen=True, slots=True)
class Simple:
    words: tuple[Word, ...]
    redirects: tuple[Redirect, ...] = ()
    at: At = field(default=At(0, 0), compare=False)


@dataclass(frozen=True, slots=True)
class Block:
    script: Script
    redirects: tuple[Redirect, ...] = ()
    at: At = field(default=At(0, 0), compare=False)


@dataclass(frozen=True, slots=True)
class Each:
    words: tuple[Word, ...]
    script: Script
    redirects: tuple[Redirect, ...] = ()
    at: At = field(default=At(0, 0), compare=False)


Command = Assignment | Simple | Block | Each


@dataclass(frozen=True, slots=True)
class Pipeline:
    commands: tuple[Command, ...]


@dataclass(frozen=True, slots=True)
class Either:
    """Each pipeline runs if the one before it failed."""

    pipelines: tuple[Pipeline, ...]


@dataclass(frozen=True, slots=True)
class Script:
    items: tuple[Either, ...] = ()


class Misread(Failure):
    """The text is no script."""

    def __init__(self, why: str, at: At, incomplete: bool = False) -> None:
        super().__init__(why)
        self.at = at
        self.incomplete = incomplete
        """more text may make it one"""


def parse(text: str) -> Script:
    """Raises Misread."""
    parser = _Parser(text)
    script = parser.script()
    if parser.here:
        raise parser.misread("no { is open that this } could close")
    return script


class _Parser:
    def __init__(self, text: str) -> None:
        self._text = text
        self._i = 0
        self._depth = 0

    @property
    def here(self) -> str:
        """The next character, empty at the end."""
        return self._text[self._i : self._i + 1]

    def at(self, i: int | None = None) -> At:
        i = self._i if i is None else i
        return At(self._text.count("\n", 0, i) + 1, i - self._text.rfind("\n", 0, i))

    def misread(self, why: str, i: int | None = None, incomplete: bool = False) -> Misread:
        return Misread(why, self.at(i), incomplete)

    def script(self) -> Script:
        items: list[Either] = []
        while True:
            self._skip(newlines=True, also=";")
            if self.here in ("", "}"):
                return Script(tuple(items))
            items.append(self._either())
            if self.here not in ("", "}", ";", "\n"):
                raise self.misread(f"{self.here!r} cannot stand here; quotes make it a word")

    def _either(self) -> Either:
        pipelines = [self._pipeline()]
        while self._takes("||"):
            pipelines.append(self._pipeline())
        return Either(tuple(pipelines))

    def _pipeline(self) -> Pipeline:
        commands = [self._command()]
        while not self._text.startswith("||", self._i) and self._takes("|"):
            commands.append(self._command())
        return Pipeline(tuple(commands))

    def _takes(self, sign: str) -> bool:
        if not self._text.startswith(sign, self._i):
            return False
        self._i += len(sign)
        self._skip(newlines=True)
        return True

    def _command(self) -> Command:
        at = self.at()
        if self.here == "{":
            return Block(self._braces(), self._redirects(), at)
        if found := _ASSIGNMENT.match(self._text, self._i):
            self._i = found.end()
            word = Word((), self.at()) if self._ends_a_word() else self._word()
            self._skip()
            if self.here not in ("", ";", "\n", "|", "}"):
                raise self.misread(f"{found[1]}= takes one word; quotes make several into one")
            return Assignment(found[1], word, at)
        words: list[Word] = []
        redirects: list[Redirect] = []
        while True:
            if self.here and self.here in "<>":
                redirects.append(self._redirect())
            elif self.here == "{" and words and words[0].parts == (Text("each"),):
                script = self._braces()
                return Each(tuple(words[1:]), script, (*redirects, *self._redirects()), at)
            elif self.here == "{":
                raise self.misread("a { after a command's name is only for each; quote it")
            elif self._ends_a_word():
                break
            else:
                words.append(self._word())
            self._skip()
        if words and words[0].parts == (Text("each"),):
            raise self.misread("each needs a { block }", incomplete=not self.here)
        if not words:
            if not self.here:
                raise self.misread("a command is missing", incomplete=not redirects)
            raise self.misread(f"a command is missing before {self.here!r}")
        return Simple(tuple(words), tuple(redirects), at)

    def _braces(self) -> Script:
        opened = self._i
        self._depth += 1
        if self._depth > _DEPTH:
            raise self.misread(f"more than {_DEPTH} blocks inside each other")
        self._i += 1
        script = self.script()
        if not self.here:
            raise self.misread("this { is never closed", opened, incomplete=True)
        self._i += 1
        self._depth -= 1
        return script

    def _redirects(self) -> tuple[Redirect, ...]:
        found = []
        self._skip()
        while self.here and self.here in "<>":
            found.append(self._redirect())
            self._skip()
        return tuple(found)

    def _redirect(self) -> Redirect:
        kind = ">>" if self._text.startswith(">>", self._i) else self.here
        self._i += len(kind)
        self._skip()
        if self._ends_a_word() or self.here in "<>{":
            raise self.misread(f"after {kind} comes the name of a file")
        return Redirect(kind, self._word())

    def _ends_a_word(self) -> bool:
        return self.here == "" or self.here in "\n \t;|}"

    def _word(self) -> Word:
        start = self._i
        parts: list[Part] = []
        while True:
            if self.here == "'":
                parts.append(Text(self._quoted(), quoted=True))
            elif self.here == "$":
                name = _VARIABLE.match(self._text, self._i + 1)
                if name is None:
                    raise self.misread("after $ comes the name of a variable; quote a $ to have it")
                self._i = name.end()
                parts.append(Variable(name[0]))
            elif self.here == "`":
                if not self._text.startswith("`{", self._i):
                    raise self.misread("after ` come { commands }; quote a ` to have it")
                self._i += 1
                parts.append(Output(self._braces()))
            elif bare := self._bare():
                parts.append(Text(bare))
            else:
                return Word(tuple(parts), self.at(start))

    def _quoted(self) -> str:
        opened = self._i
        pieces = []
        while True:
            end = self._text.find("'", self._i + 1)
            if end < 0:
                why = "this quote is never closed; '' is an apostrophe inside quotes"
                raise self.misread(why, opened, incomplete=True)
            pieces.append(self._text[self._i + 1 : end])
            self._i = end + 1
            if self.here != "'":
                return "'".join(pieces)

    def _bare(self) -> str:
        start = self._i
        while self.here and self.here not in _SPECIAL:
            after = self._text[self._i - 1] if self._i > start else ""
            if self.here == "'" and not after.isalnum() or self._continues():
                break
            self._i += 1
        return self._text[start : self._i]

    def _continues(self) -> bool:
        return self._text.startswith("\\\n", self._i)

    def _skip(self, newlines: bool = False, also: str = "") -> None:
        """Blanks and comments."""
        while self.here:
            if self._continues():
                self._i += 2
            elif self.here in " \t" or self.here in also or (newlines and self.here == "\n"):
                self._i += 1
            elif self.here == "#":
                end = self._text.find("\n", self._i)
                self._i = len(self._text) if end < 0 else end
            else:
                return


def quote(word: str) -> str:
    """A word that is read as `word`."""
    if word and word[0] != "#" and not any(ch in _SPECIAL + "'*?[\\" for ch in word):
        return word
    return "'" + word.replace("'", "''") + "'"


def unparse(script: Script) -> str:
    return "; ".join(" || ".join(map(_pipeline, item.pipelines)) for item in script.items)


def _pipeline(pipeline: Pipeline) -> str:
    return " | ".join(map(_command, pipeline.commands))


def _command(command: Command) -> str:
    match command:
        case Assignment(name, word):
            return f"{name}={_word(word)}"
        case Simple(words):
            pieces = [*map(_word, words)]
        case Block(script):
            pieces = [_braces(script)]
        case Each(words, script):
            pieces = ["each", *map(_word, words), _braces(script)]
    return " ".join([*pieces, *(f"{r.kind} {_word(r.word)}" for r in command.redirects)])


def _braces(script: Script) -> str:
    return f"{{ {unparse(script)} }}"


def _word(word: Word) -> str:
    return "".join(map(_part, word.parts))


def _part(part: Part) -> str:
    match part:
        case Text(text, quoted):
            return "'" + text.replace("'", "''") + "'" if quoted else text
        case Variable(name):
            return f"${name}"
        case Output(script):
            return f"`{_braces(script)}"
