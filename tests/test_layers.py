"""The layers of design.md section 7, enforced: imports go down only.

    nodes  tools                 imported by nobody below
    api
    worker | cluster | mount     do not see each other
    conversation
    net
    fs | engine                  do not see each other
    p9 -> errors

Every import of every module counts: inside functions, and under TYPE_CHECKING too.
Besides: llama_cpp belongs to engine/llama*.py (and to the benches, which measure
against it), ray to the processes that are no part of an orchestrator, py9p to the tools and
tests; each module says what it owns; no file of
more than 700 lines.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LAYERS = [
    {"errors", "standard_streams"},
    {"p9"},
    {"fs", "engine"},
    {"net"},
    {"conversation"},
    {"worker", "cluster", "mount"},
    {"api"},
]
PROGRAMS = {"nodes", "tools"}
INSTALLED_AS = {"llambo9p_nodes": "nodes", "llambo9p_tools": "tools"}
USES_RAY = {f"llambo9p.cluster.launchers.on_ray.{name}" for name in ("actor", "driver")}
LONGEST = 700

LEVEL = {package: i for i, layer in enumerate(LAYERS) for package in layer}
MODULES = sorted(
    path for top in ("llambo9p", *PROGRAMS) for path in (ROOT / top).rglob("*.py")
)


def parts_of(path: Path) -> list[str]:
    """The module's dotted name as a list: llambo9p/fs/tree.py -> llambo9p fs tree."""
    return list(path.relative_to(ROOT).with_suffix("").parts)


def imports(source: str, parts: list[str]) -> Iterator[list[str]]:
    """The dotted names that a module imports, relative ones made absolute."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = parts[: -node.level] if node.level else []
            base = base + (node.module.split(".") if node.module else [])
            yield from ([*base, alias.name] for alias in node.names)


def may_import_llama_cpp(parts: list[str]) -> bool:
    if parts[:2] == ["llambo9p", "engine"]:
        return parts[2].startswith("llama")
    return parts[:2] == ["tools", "bench"]


def faults(source: str, parts: list[str]) -> list[str]:
    """What a module may not import, and does."""
    found = []
    top, package = parts[0], parts[1] if len(parts) > 1 else ""
    for name in imports(source, parts):
        dotted = ".".join(name)
        target = INSTALLED_AS.get(name[0], name[0])
        if target in PROGRAMS and target != top and top != "tests":
            found.append(f"{dotted}: nobody imports {target}")
        if name[0] == "py9p" and top not in ("tools", "tests"):
            found.append(f"{dotted}: only tools and tests speak through py9p")
        if name[0] == "ray" and ".".join(parts) not in USES_RAY:
            found.append(f"{dotted}: it ends processes, and blocks their event loop")
        if name[0] == "llama_cpp" and not may_import_llama_cpp(parts):
            found.append(f"{dotted}: only engine/llama*.py imports llama_cpp")
        if name[0] == "llambo9p" and top == "llambo9p" and package != name[1]:
            if name[1] not in LEVEL:
                found.append(f"{dotted}: in no layer")
            elif LEVEL[name[1]] >= LEVEL.get(package, len(LAYERS)):
                found.append(f"{dotted}: not below {package}")
    return found


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


every_module = pytest.mark.parametrize("path", MODULES, ids=name_of)


@every_module
def test_imports_go_down_only(path: Path) -> None:
    assert not faults(path.read_text(), parts_of(path))


@every_module
def test_a_module_begins_with_what_it_owns(path: Path) -> None:
    source = path.read_text()
    assert ast.get_docstring(ast.parse(source)) or (path.name == "__init__.py" and not source)


@every_module
def test_a_file_has_one_idea(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= LONGEST


def test_every_package_has_a_layer() -> None:
    packages = {parts_of(path)[1] for path in MODULES if parts_of(path)[0] == "llambo9p"}
    assert packages - {"__init__"} <= set(LEVEL)


@pytest.mark.parametrize(
    ("module", "source", "fault"),
    [
        ("llambo9p/fs/tree", "from ..engine import base", "not below fs"),
        ("llambo9p/fs/tree", "from llambo9p.engine.base import Engine", "not below fs"),
        ("llambo9p/engine/base", "from ..fs.stream import Stream", "not below engine"),
        ("llambo9p/p9/server", "from .. import fs", "not below p9"),
        ("llambo9p/errors", "from .p9 import messages", "not below errors"),
        ("llambo9p/worker/host", "import llambo9p.cluster.config", "not below worker"),
        ("llambo9p/cluster/x", "def f():\n  from ..worker import host", "not below cluster"),
        ("llambo9p/net/server", "if TYPE_CHECKING:\n  from ..worker import w", "not below net"),
        ("llambo9p/net/server", "from ..novel import x", "in no layer"),
        ("llambo9p/cluster/x", "from ..api import model", "not below cluster"),
        ("llambo9p/worker/x", "from llambo9p_nodes import worker", "nobody imports nodes"),
        ("llambo9p/cluster/x", "import tools.llamboctl", "nobody imports tools"),
        ("nodes/worker", "from llambo9p_tools import start", "nobody imports tools"),
        ("llambo9p/net/client", "import py9p", "py9p"),
        ("nodes/worker", "from py9p.client import Client", "py9p"),
        ("llambo9p/engine/thread", "from llama_cpp import Llama", "llama_cpp"),
        ("tools/llamboctl", "import llama_cpp", "llama_cpp"),
    ],
)
def test_this_test_finds(module: str, source: str, fault: str) -> None:
    (found,) = faults(source, module.split("/"))
    assert fault in found


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("llambo9p/fs/tree", "from ..p9 import constants as c\nfrom .file import File"),
        ("llambo9p/p9/server", "from .. import errors"),
        ("llambo9p/engine/llama", "import llama_cpp.llama_cpp as lib"),
        ("llambo9p/engine/llama_model", "import llama_cpp.llama_cpp as lib"),
        ("llambo9p/worker/host", "from ..conversation import files\nfrom ..engine import base"),
        ("nodes/worker", "from llambo9p.worker.host import Host\nfrom .process import run"),
        ("tools/remote", "from py9p.client import Client\nfrom . import show"),
    ],
)
def test_this_test_lets_pass(module: str, source: str) -> None:
    assert faults(source, module.split("/")) == []
