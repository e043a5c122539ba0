"""Errors and help advise only what there is: commands, options, variables and keys.

The texts of the programs are found in their source, as string literals that are no docstrings,
but for those that are a command's help.  Each word of advice in them is held against the
program's own parser or the model of the configuration.  `test_following_advice.py` does what
the main ones advise.
"""

from __future__ import annotations

import ast
import importlib
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import click
import pytest
from llambo9p_nodes import orchestrator, worker
from llambo9p_tools import llamboctl
from llambo9p_tools.commands import dish, limbot
from pydantic import BaseModel

from llambo9p.cluster.config import Cluster

ROOT = Path(__file__).parents[2]
SOURCES = [
    path
    for top in ("llambo9p", "nodes", "tools")
    for path in sorted((ROOT / top).rglob("*.py"))
    if "bench" not in path.parts
]
PROGRAMS: dict[str, click.Command] = {
    "llamboctl": llamboctl.cli,
    "limbot": limbot.limbot,
    "dish": dish.dish,
    "llambo-worker": worker.main,
    "llambo-orchestrator": orchestrator.main,
}
OTHERS = {"ray", "modprobe"}
"""programs of others, whose commands are tried by who advises them"""
READERS = {
    "llambo9p/cluster/namespace.py": ["ctl"],
    "llambo9p/mount/mounting.py": ["llamboctl mount"],
    "nodes/orchestrator.py": ["llambo-orchestrator"],
    "nodes/process.py": ["llambo-orchestrator", "llambo-worker", "llamboctl init"],
    "nodes/worker.py": ["llambo-worker"],
    "tools/asking.py": ["limbot", "llamboctl infer", "llamboctl limbot"],
    "tools/commands/limbot.py": ["limbot", "llamboctl limbot"],
    "tools/which_cluster.py": ["llamboctl", "limbot", "dish"],
}
"""Source -> the commands whose users read its texts, which have every option that these name.  Of
`tools/commands/NAME.py` it is what it defines; elsewhere there is no such command, and an option
stands in a command between backquotes, or not at all."""
VARIABLES = {"EDITOR", "VISUAL", "RAY_ADDRESS"}
"""that others have given their meaning"""
SECTIONS = [name for name, field in Cluster.model_fields.items() if name != "nodes"]
KEY = re.compile(rf"(?<![/\w])(?:{'|'.join(SECTIONS)})\.[a-z_]+(?:\.[a-z_]+)*\b")
HALF = re.compile(r"(?<=[\s`])\.(?!txt|yaml|gguf|log)[a-z][a-z_]+\b")
"""`.ca`, where `security.ca` is meant"""


class Text(NamedTuple):
    source: str
    line: int
    text: str
    """{} stands for what is filled in"""

    def __str__(self) -> str:
        return f"{self.source}:{self.line}: {self.text}"


def texts() -> Iterator[Text]:
    for path in SOURCES:
        yield from texts_of(path.read_text(), str(path.relative_to(ROOT)))


def texts_of(code: str, source: str) -> Iterator[Text]:
    """Literals of several words: single ones are names, and no prose."""
    tree = ast.parse(code)
    skipped: set[ast.AST] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and any(map(_makes_command, node.decorator_list)):
            yield Text(source, node.lineno, ast.get_docstring(node) or "")
        if isinstance(node, ast.Expr):
            skipped.add(node.value)  # a docstring or an attribute's note
        if isinstance(node, ast.JoinedStr):
            skipped.update(node.values)
    for node in ast.walk(tree):
        if node in skipped:
            continue
        if isinstance(node, ast.JoinedStr):
            parts = [p.value if isinstance(p, ast.Constant) else "{}" for p in node.values]
            text = "".join(map(str, parts))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            text = node.value
        else:
            continue
        if len(text.split()) > 1:
            yield Text(source, node.lineno, text)


def _makes_command(decorator: ast.expr) -> bool:
    called = decorator.func if isinstance(decorator, ast.Call) else decorator
    return isinstance(called, ast.Attribute) and called.attr in ("command", "group")


def words_read() -> set[str]:
    """Single words in the source, where every variable is that is read."""
    found = set(VARIABLES)
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.add(node.value)
    return found


def fault_of_command(line: str) -> str | None:
    """Why it is no command of its program; None for one, and for what is no command at all."""
    words = shlex.split(line.replace("{}", "x"))
    words = ["7" if word == "N" else word for word in words]
    if not words or words[0] not in PROGRAMS:
        return None
    return _parse(PROGRAMS[words[0]], words[0], words[1:], None)


def _parse(
    command: click.Command, name: str, words: list[str], parent: click.Context | None
) -> str | None:
    try:
        with command.make_context(name, words, parent=parent) as context:
            rest = [*context._protected_args, *context.args]
            if not isinstance(command, click.Group) or not rest:
                return None
            sub_name, sub, rest = command.resolve_command(context, rest)
            assert sub is not None
            return _parse(sub, sub_name or "", rest, context)
    except click.UsageError as e:
        return e.format_message()


def command_of(line: str) -> click.Command:
    """A program, or its command, without arguments."""
    program, *names = line.split()
    command = PROGRAMS[program]
    for name in names:
        assert isinstance(command, click.Group)
        found = command.get_command(click.Context(command), name)
        assert found is not None
        command = found
    return command


def options_of_verbs() -> set[str]:
    """By their usage, as `ctl` shows it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse((ROOT / "llambo9p/cluster/namespace.py").read_text())):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Command":
            usage = ast.literal_eval(node.args[1])
            found.update(re.findall(r"--[a-z-]+", usage))
    return found


def options_of(command: click.Command) -> set[str]:
    return {"--help"}.union(
        *(option.opts for option in command.params if isinstance(option, click.Option))
    )


def options_for(source: str) -> set[str]:
    """That every reader of its texts has."""
    if source in READERS:
        each = [
            options_of_verbs() if name == "ctl" else options_of(command_of(name))
            for name in READERS[source]
        ]
        return set.intersection(*each)
    if source.startswith("tools/commands/"):
        module = importlib.import_module(f"llambo9p_tools.commands.{Path(source).stem}")
        defined = [each for each in vars(module).values() if isinstance(each, click.Command)]
        return set().union(*map(options_of, defined))
    return set()


def fault_of_key(key: str) -> str | None:
    model: object = Cluster
    for part in key.split("."):
        is_section = isinstance(model, type) and issubclass(model, BaseModel)
        fields = model.model_fields if is_section else {}
        if part not in fields:
            return f"no key {key} in the configuration"
        model = fields[part].annotation
    return None


def faults(found: Text, words: set[str]) -> Iterator[str]:
    """What the text advises and does not exist."""
    text = found.text
    for command in re.findall(r"`([^`\n]+)`", text):
        if fault := fault_of_command(command):
            yield f"`{command}`: {fault}"
    bare = re.sub(r"`[^`]*`", "", text)
    for option in re.findall(r"(?<![\w-])--[a-z][a-z-]+", bare):
        if option not in options_for(found.source):
            yield f"{option} is no option of all programs whose users read this"
    for variable in re.findall(r"\$([A-Z][A-Z_]+)", text):
        if variable not in words:
            yield f"${variable} is read nowhere"
    for key in KEY.findall(text):
        if fault := fault_of_key(key):
            yield fault
    for half in HALF.findall(bare):
        yield f"{half} is half a key"


def test_what_texts_advise_exists() -> None:
    words = words_read()
    found = [f"{text}\n    {fault}" for text in texts() for fault in faults(text, words)]
    assert not found, "\n".join(found)


def test_there_is_advice_to_be_checked() -> None:
    """The search itself works."""
    all_texts = list(texts())
    commands = {c for each in all_texts for c in re.findall(r"`(llamboctl [^`]+)`", each.text)}
    keys = {key for each in all_texts for key in KEY.findall(each.text)}
    assert len(commands) > 10 and len(keys) > 10


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("start one with `llamboctl init --insecurely`", "No such option"),
        ("stop it with `llamboctl stop`", "No such command"),
        ("`llamboctl cat` shows it", "Missing argument"),
        ("give --isnecure if that is meant", "--isnecure is no option"),
        ("let $LLAMBO_STAET be another", "$LLAMBO_STAET is read nowhere"),
        ("set security.cart", "no key security.cart"),
        ("set security.cert and .ca", ".ca is half a key"),
    ],
)  # fmt: skip
def test_a_fault_is_found(text: str, fault: str) -> None:
    [found] = texts_of(f"raise Error({text!r})", "nodes/process.py")
    [said] = faults(found, words_read())
    assert fault in said
