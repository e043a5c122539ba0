"""`llamboctl config`: what the configuration says, whether it is right, and changing it.

An edit loses nothing: the file is replaced as a whole and only by what validates, and what is
not taken stays beside it.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import click
import yaml

from llambo9p.cluster import config as configuration
from llambo9p.cluster import environment
from llambo9p.errors import Error, InvalidArgument

from .. import show
from ..failure import Failure, NoCluster
from ..options import addr_option, beyond_files, cluster_is_named, connect, json_option
from ..start import config_path
from ..which_cluster import state_path


@click.command()
@click.option("--show", "what", flag_value="show", default=True,
              help="Show the configuration in force; this is the default.")  # fmt: skip
@click.option("--validate", "what", flag_value="validate", help="Tell all that is wrong in FILE.")
@click.option("--edit", "what", flag_value="edit",
              help="Change FILE with $VISUAL or $EDITOR.")  # fmt: skip
@click.argument("file", metavar="[FILE]", required=False, type=click.Path())
@json_option
@addr_option
def config(what: str, file: str | None, as_json: bool) -> None:
    """Look at the configuration, or change it.

    FILE is by default the one that `llamboctl init` would take. With FILE, or where no cluster
    runs, --show shows what FILE means, with all defaults. --validate prints FILE:LINE for each
    problem, and its exit code is 1 when there is any; --edit takes nothing that has problems.
    """
    if what == "validate":
        _validate(file, as_json)
    elif what == "edit":
        _edit(file)
    elif file is not None:
        _show_file(file, as_json)
    else:
        _show(_in_force(), as_json)


def _show(text: str, as_json: bool) -> None:
    if as_json:
        show.as_json(yaml.safe_load(text))
    else:
        click.echo(text, nl=False)


@beyond_files("reads a file that is not in the tree")
def _show_file(file: str, as_json: bool) -> None:
    _show(_meaning(file), as_json)


def _in_force() -> str:
    try:
        with connect() as tree:
            return tree.text("config")
    except NoCluster:
        if cluster_is_named():
            raise
    path = config_path(None)
    click.echo(f"no cluster runs: this is what {path} means", err=True)
    return _meaning(str(path))


def _meaning(file: str) -> str:
    try:
        loaded = configuration.load(Path(file))
        loaded = loaded.overridden(environment.models(), environment.cluster_id())
    except Error as e:
        raise Failure(str(e)) from None
    return configuration.dump(loaded.with_state(state_path()))


def _problems(path: Path) -> list[str]:
    try:
        configuration.load(path)
    except InvalidArgument as e:
        return str(e).splitlines()
    return []


@beyond_files("reads a file that is not in the tree")
def _validate(file: str | None, as_json: bool) -> None:
    path = Path(file) if file is not None else config_path(None)
    problems = _problems(path)
    if as_json:
        show.as_json({"file": str(path), "problems": problems})
    elif problems:
        for problem in problems:
            click.echo(problem, err=True)
    else:
        click.echo(f"{path}: no problems")
    click.get_current_context().exit(1 if problems else 0)


# -- editing ----------------------------------------------------------------------


@beyond_files("edits a file that is not in the tree")
def _edit(file: str | None) -> None:
    path = Path(file) if file is not None else environment.config_path()
    if path is None:  # nobody has one yet: it begins as the one that came with us
        path = environment.root() / environment.CONFIG_NAME
    path = Path(os.path.realpath(path))
    try:
        before = path.read_bytes() if path.exists() else None
        original = config_path(None).read_bytes() if before is None else before
        copy = _copy(path, original)
    except OSError as e:
        raise Failure(f"{path}: {e.strerror}") from None
    try:
        changed = _edited(copy, path, original)
        if changed:
            _replace(path, copy, before)
    except BaseException:
        _keep(copy, path, original)
        raise
    if changed:
        click.echo(f"{path} is saved; a cluster reads it when it is started", err=True)
    else:
        _keep(copy, path, original)


def _copy(path: Path, data: bytes) -> Path:
    """Beside it, as it takes its place in the end; with its mode and its owner."""
    fd, name = tempfile.mkstemp(prefix=f"{path.stem}-", suffix=path.suffix, dir=path.parent)
    with os.fdopen(fd, "wb") as f:
        f.write(data)
    if path.exists():
        shutil.copystat(path, name)
        status = path.stat()
        with contextlib.suppress(PermissionError):  # whose it is, only root can keep
            os.chown(name, status.st_uid, status.st_gid)
    else:
        os.chmod(name, 0o644)
    return Path(name)


def _edited(copy: Path, path: Path, original: bytes) -> bool:
    """Whether it was changed, to what has no problems.  Raises Failure when the user gives up."""
    while True:
        _run_editor(copy)
        if copy.read_bytes() == original:
            return False
        problems = _problems(copy)
        if not problems:
            return True
        for problem in problems:
            click.echo(problem.replace(str(copy), str(path), 1), err=True)
        if not sys.stdin.isatty() or not click.confirm("Edit it again?", default=True, err=True):
            raise Failure("what has problems is not saved")


def _keep(copy: Path, path: Path, original: bytes) -> None:
    """`path` stays; what was written stays, too."""
    where = ""
    if copy.read_bytes() == original:
        copy.unlink()
    else:
        where = f"; what you wrote is in {copy}"
    click.echo(f"{path} is {'as it was' if path.exists() else 'not made'}{where}", err=True)


def _run_editor(copy: Path) -> None:
    editor = os.environ.get("VISUAL") or os.environ.get("EDITOR") or "vi"
    # ^C is the editor's; a handler, and not SIG_IGN, for that it would inherit
    before = signal.signal(signal.SIGINT, lambda number, frame: None)
    try:
        status = subprocess.run([*shlex.split(editor), copy]).returncode
    except (OSError, ValueError) as e:
        why = e.strerror if isinstance(e, OSError) else e
        raise Failure(f"cannot run the editor {editor!r}: {why}; set $EDITOR to one") from None
    finally:
        signal.signal(signal.SIGINT, before)
    if status:
        raise Failure(f"the editor {editor!r} ended with {status}")


def _replace(path: Path, copy: Path, before: bytes | None) -> None:
    """`copy` takes its place, unless somebody else changed it meanwhile."""
    now = path.read_bytes() if path.exists() else None
    if now != before:
        raise Failure(f"{path} was changed by somebody else meanwhile")
    with copy.open("rb+") as f:
        os.fsync(f.fileno())
    os.replace(copy, path)
