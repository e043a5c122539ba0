"""`llamboctl config`: what the configuration means, what is wrong with it, and editing it
without losing anything."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner
from llambo9p_tools.llamboctl import cli

from llambo9p.cluster import config as configuration

from .cluster import Terminal, llamboctl

GOOD = "cluster:\n  nodes:\n    tiny: {count: 7}\n"
BAD = """cluster:
  nods: {}
  load_balancer:
    strategy: fastest
    max_retries: -1
  nodes:
    tiny: {count: 0}
"""
LINES = (2, 4, 5, 7)
"""of what is wrong"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "cluster-config.yaml"
    path.write_text(GOOD)
    path.chmod(0o640)
    return path


def run(file: Path, *args: str, **env: str) -> tuple[int, str, str]:
    """Exit code, output and errors, in this process."""
    own = {"LLAMBO_ADDR": "", "LLAMBO_STATE": str(file.with_name("state"))}
    done = CliRunner().invoke(
        cli, ["config", *args], env={"CLUSTER_CONFIG": str(file), "VISUAL": "", **own, **env}
    )
    return done.exit_code, done.stdout, done.stderr.replace("Error: ", "llamboctl: ")


def editor(directory: Path, *lines: str) -> str:
    """A program that does that to the file it is given, a line each time it is run."""
    path = directory / "editor"
    turns = "\n".join(f"{i}) {line};;" for i, line in enumerate(lines, 1))
    path.write_text(
        f'#!/bin/sh\necho >>{directory}/turns\ncase $(wc -l <{directory}/turns) in\n{turns}\nesac\n'
    )
    path.chmod(0o755)
    return str(path)


def beside(file: Path) -> list[str]:
    """What an edit left there."""
    return [p.name for p in file.parent.glob("cluster-config-*")]


def test_without_a_cluster_it_is_what_the_file_means(file: Path) -> None:
    for args in ((), ("--show",)):
        code, out, err = run(file, *args)
        assert (code, err) == (0, f"no cluster runs: this is what {file} means\n")
        meant = configuration.parse(out, "shown")
        assert meant.nodes["tiny"].count == 7
        assert meant.state.path == file.with_name("state")
    code, out, err = run(file, "--show", str(file), "--json")
    assert (code, err) == (0, "") and json.loads(out)["cluster"]["nodes"]["tiny"]["count"] == 7
    code, out, err = run(file, LLAMBO_MODELS="/some/models")
    assert yaml.safe_load(out)["cluster"]["models"] == {"path": ["/some/models"]}


def test_a_cluster_that_was_named_is_asked_and_no_other(file: Path) -> None:
    code, out, err = run(file, LLAMBO_ADDR="tcp!127.0.0.1!1")
    assert (code, out) == (1, "") and err.startswith("llamboctl: no cluster answers at tcp!")


def test_all_that_is_wrong_is_told_by_its_line(file: Path) -> None:
    assert run(file, "--validate") == (0, f"{file}: no problems\n", "")
    file.write_text(BAD)
    code, out, err = run(file, "--validate")
    assert (code, out) == (1, "")
    told = err.splitlines()
    assert len(told) == len(LINES)
    for line, number in zip(told, LINES, strict=True):
        assert line.startswith(f"{file}:{number}: cluster.")
    code, out, err = run(file, "--validate", "--json")
    assert (code, json.loads(out), err) == (1, {"file": str(file), "problems": told}, "")
    file.write_text("cluster: [\n")
    assert run(file, "--validate")[2].startswith(f"{file}:2: ")
    code, _, err = run(file, "--validate", "/nowhere/at-all.yaml")
    assert (code, err) == (1, "/nowhere/at-all.yaml: No such file or directory\n")
    assert run(file, "--show", "/nowhere/at-all.yaml")[0] == 1


def test_an_edit_takes_the_file_s_place(file: Path, tmp_path: Path) -> None:
    (tmp_path / "link.yaml").symlink_to(file)
    before = file.stat()
    for name, was, will in (("link.yaml", 7, 8), ("cluster-config.yaml", 8, 9)):
        change = f'kill -INT $PPID; sed -i "s/count: {was}/count: {will}/" "$1"'
        (tmp_path / "turns").unlink(missing_ok=True)
        done = llamboctl("config", "--edit", name, cwd=tmp_path, EDITOR=editor(tmp_path, change))
        assert (done.returncode, done.stdout) == (0, b"")
        assert done.stderr.decode().startswith(f"{file} is saved")
        assert f"count: {will}" in file.read_text()
    assert (tmp_path / "link.yaml").is_symlink()
    after = file.stat()
    assert (after.st_mode, after.st_uid) == (before.st_mode, before.st_uid)
    assert beside(file) == []


def test_what_is_wrong_is_not_taken_and_not_lost(file: Path, tmp_path: Path) -> None:
    code, out, err = run(file, "--edit", VISUAL=editor(tmp_path, 'echo "  nods: {}" >>"$1"'))
    assert (code, out, file.read_text()) == (1, "", GOOD)
    problem, kept, said = err.splitlines()
    assert problem == f"{file}:4: cluster.nods: unknown key, did you mean 'nodes'?"
    [copy] = beside(file)
    assert kept == f"{file} is as it was; what you wrote is in {tmp_path / copy}"
    assert (tmp_path / copy).read_text() == GOOD + "  nods: {}\n"
    assert said == "llamboctl: what has problems is not saved"


def test_on_a_terminal_one_may_edit_it_again(file: Path, tmp_path: Path) -> None:
    program = editor(tmp_path, 'echo "  nods: {}" >>"$1"', 'sed -i "s/nods.*/models: {}/" "$1"')
    env = {"CLUSTER_CONFIG": str(file), "EDITOR": program}
    terminal = Terminal("config", "--edit", **env)
    terminal.wait_for(b"Edit it again? [Y/n]: ")
    assert file.read_text() == GOOD
    terminal.type(b"\n")
    code, screen = terminal.finish()
    assert code == 0 and b"is saved" in screen
    assert file.read_text() == GOOD + "  models: {}\n" and beside(file) == []

    terminal = Terminal("config", "--edit", **env | {"EDITOR": "sed -i s/models/nods/"})
    terminal.wait_for(b"Edit it again? [Y/n]: ")
    terminal.type(b"n\n")
    code, screen = terminal.finish()
    assert code == 1 and len(beside(file)) == 1
    assert file.read_text() == GOOD + "  models: {}\n"


@pytest.mark.parametrize(
    ("program", "said"),
    [
        ("true", "is as it was\n"),
        ("false", "llamboctl: the editor 'false' ended with 1\n"),
        ("/nowhere/vi", "llamboctl: cannot run the editor '/nowhere/vi': No such file or "
         "directory; set $EDITOR to one\n"),
        ("vi '", "llamboctl: cannot run the editor \"vi '\": No closing quotation; "
         "set $EDITOR to one\n"),
    ],
)  # fmt: skip
def test_an_editor_that_changes_nothing_leaves_nothing(
    file: Path, program: str, said: str
) -> None:
    code, _, err = run(file, "--edit", EDITOR=program)
    assert err.endswith(said) and code == (program != "true")
    assert file.read_text() == GOOD and beside(file) == []


def test_what_somebody_else_wrote_meanwhile_stays(file: Path, tmp_path: Path) -> None:
    change = f'echo "  models: {{}}" >>"$1"; echo "# theirs" >>{file}'
    code, _, err = run(file, "--edit", EDITOR=editor(tmp_path, change))
    assert code == 1 and "changed by somebody else meanwhile" in err
    assert file.read_text() == GOOD + "# theirs\n"
    assert len(beside(file)) == 1


def test_the_first_configuration_begins_as_the_one_installed(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    done = llamboctl(
        "config", "--edit", LLAMBO_ROOT=str(root), EDITOR=editor(tmp_path, 'echo "# mine" >>"$1"')
    )
    assert done.returncode == 0, done.stderr
    made = root / "cluster-config.yaml"
    assert made.read_text().endswith("# mine\n") and configuration.load(made).nodes
    assert os.listdir(root) == ["cluster-config.yaml"]


def test_where_nothing_can_be_written_nothing_is_edited(tmp_path: Path) -> None:
    file = tmp_path / "none/at-all.yaml"
    done = llamboctl("config", "--edit", str(file), EDITOR="false")
    assert done.returncode == 1
    assert done.stderr.decode() == f"llamboctl: {file}: No such file or directory\n"
