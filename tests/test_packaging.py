"""The wheel, installed where the checkout is not: every package is in it, and its
programs start.  The dependencies are those that the tests run with, put on the new
environment's path, as llama.cpp takes minutes to compile."""

from __future__ import annotations

import ast
import configparser
import importlib.metadata
import os
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PROGRAMS = ["llamboctl", "limbot", "llambo-worker", "llambo-orchestrator"]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built as `pip wheel` does for anybody, from a copy: a build leaves things behind."""
    source, wheels = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheels")
    names = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    files = subprocess.run(names, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    for name in files.split("\0"):
        # deleted files are listed until the deletion is committed
        if name and (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            if (ROOT / name).is_symlink():
                (source / name).symlink_to(os.readlink(ROOT / name))
            else:
                (source / name).write_bytes((ROOT / name).read_bytes())
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", wheels, source]
    subprocess.run(command, check=True)
    [found] = wheels.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def bin_path(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`bin` of a new environment with the wheel in it."""
    venv = tmp_path_factory.mktemp("venv")
    subprocess.run([sys.executable, "-m", "venv", venv], check=True)
    python = venv / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "-q", "--no-deps", wheel], check=True)
    where = "import sysconfig; print(sysconfig.get_path('purelib'))"
    site = subprocess.run([python, "-c", where], check=True, capture_output=True, text=True).stdout
    # .pth files in there have no effect, so an editable llambo9p of ours is not seen
    (Path(site.strip()) / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return venv / "bin"


def run(bin_path: Path, *command: str) -> str:
    """Far from the checkout; the output."""
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [bin_path / command[0], *command[1:]], cwd="/", env=env, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_every_file_of_every_package_is_in_the_wheel(wheel):
    wanted = {"llambo9p_tools/cluster-config.yaml"}
    places = {"llambo9p": "llambo9p", "nodes": "llambo9p_nodes", "tools": "llambo9p_tools"}
    for place, package in places.items():
        for path in (ROOT / place).rglob("*.py"):
            wanted.add(f"{package}/{path.relative_to(ROOT / place)}")
    with zipfile.ZipFile(wheel) as z:
        names = set(z.namelist())
    assert wanted - names == set()
    assert {name for name in names if name.endswith(".py")} - wanted == set()


def test_it_is_typed(wheel):
    with zipfile.ZipFile(wheel) as z:
        assert "llambo9p/py.typed" in z.namelist()


@pytest.mark.parametrize("program", PROGRAMS)
def test_programs_start(bin_path, program):
    assert run(bin_path, program, "--help").startswith(f"Usage: {program} [OPTIONS]")


def test_the_version_is_that_of_setup_cfg(bin_path):
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    version = config["metadata"]["version"]
    assert run(bin_path, "llamboctl", "--version") == f"llamboctl, version {version}\n"


def test_what_is_imported_is_the_wheel(bin_path):
    for package in ("llambo9p", "llambo9p_nodes", "llambo9p_tools"):
        path = run(bin_path, "python", "-c", f"import {package} as p; print(p.__file__, end='')")
        assert Path(path).is_relative_to(bin_path.parent)


def test_the_configuration_that_comes_along_is_the_checkout_s(bin_path):
    code = (
        "from llambo9p_tools.start import config_path; print(config_path(None).read_text(), end='')"
    )
    assert run(bin_path, "python", "-c", code) == (ROOT / "cluster-config.yaml").read_text()


# -- what it depends on ---------------------------------------------------------------


def requirements() -> list[Requirement]:
    """Those of setup.cfg, of every extra."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    texts = [config["options"]["install_requires"], *config["options.extras_require"].values()]
    lines = [line for text in texts for line in text.splitlines()]
    return [Requirement(line) for line in lines if line and not line.startswith("#")]


def pinned() -> dict[str, str]:
    """The versions that tools/setup.sh installs."""
    lines = (ROOT / "tools" / "constraints.txt").read_text().splitlines()
    pins = (line.split("==") for line in lines if line and not line.startswith("#"))
    return {canonicalize_name(name): version for name, version in pins}


def test_every_dependency_has_a_least_version_and_one_that_is_too_new() -> None:
    for requirement in requirements():
        operators = {spec.operator for spec in requirement.specifier}
        assert operators == {">=", "<"}, requirement


def test_every_dependency_but_those_of_benches_has_a_version_that_was_tested() -> None:
    pins = pinned()
    for requirement in requirements():
        if requirement.name != "xllamacpp":
            version = pins[canonicalize_name(requirement.name)]
            assert version in requirement.specifier, requirement


def test_what_is_imported_is_declared() -> None:
    """But for what an extra brings, which is imported where it may be missing."""
    declared = {canonicalize_name(requirement.name) for requirement in requirements()}
    providers = importlib.metadata.packages_distributions()
    ours = {"llambo9p", "llambo9p_nodes", "llambo9p_tools"}
    for top in ("llambo9p", "nodes", "tools"):
        for path in (ROOT / top).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                names = []
                if isinstance(node, ast.Import):
                    names = [alias.name for alias in node.names]
                elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                    names = [node.module]
                for name in {each.partition(".")[0] for each in names} - ours:
                    if name not in sys.stdlib_module_names and name in providers:
                        by = {canonicalize_name(each) for each in providers[name]}
                        assert by & declared, f"{path}: {name}"


def test_the_sandbox_of_chat_templates_is_declared() -> None:
    assert "jinja2" in {canonicalize_name(requirement.name) for requirement in requirements()}
