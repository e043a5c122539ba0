"""llamboctl: a cluster from the command line.

Every command but `init` reads and writes the cluster's files over 9P and nothing more:
what it does, `cat` and `echo` on a mount do as well.  Data goes to stdout, everything
else to stderr; a failure is one line there and exit code 1 (2 for a wrong command line,
130 after ^C).
"""

from __future__ import annotations

import contextlib
import importlib
import signal
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import click
from py9p.constants import DMDIR, ORDWR, OTRUNC, OWRITE
from py9p.messages import Dir

from llambo9p.cluster.config import absolute
from llambo9p.cluster.fusion import STRATEGIES
from llambo9p.fs.ctl import quote

from . import show, start
from .failure import Failure
from .options import addr_option, cluster, json_option
from .remote import Remote, Unreachable
from .which_cluster import Cluster, parse_address, state_path


def _connect() -> Remote:
    return Remote(cluster().address)


class _Commands(click.Group):
    """Commands with a module of their own are imported when they are asked for: some
    need much that the others do not."""

    elsewhere: ClassVar[dict[str, str]] = {
        "cert": "cert",
        "mount": "mount",
        "trace": "trace",
        "unmount": "mount",
    }
    """name -> module"""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted([*super().list_commands(ctx), *self.elsewhere])

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in self.elsewhere:
            return super().get_command(ctx, name)
        module = importlib.import_module(f".{self.elsewhere[name]}", __package__)
        command: click.Command = getattr(module, name)
        return command


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="llambo9p", prog_name="llamboctl")
@addr_option
def cli() -> None:
    """Run a Llambo cluster and use it: LLM inference as a 9P file system."""


# -- the cluster ------------------------------------------------------------------


@cli.command()
@click.option("--listen", metavar="ADDR",
              help="Where to serve; port 0 is a free one.  [default: what the configuration "
              "says, and that is tcp!127.0.0.1!5640 unless you changed it]")  # fmt: skip
@click.option("--config", metavar="FILE",
              help="[default: $CLUSTER_CONFIG, cluster-config.yaml in $LLAMBO_ROOT or here, or the "
              "one installed]")  # fmt: skip
@click.option("--engine", metavar="E",
              help="What starts hosts where `spawn` does not say, local or ray.")
@click.option("--foreground", is_flag=True, help="Become the orchestrator; ^C stops it.")
def init(
    listen: str | None, config: str | None, engine: str | None, foreground: bool
) -> None:
    """Start an orchestrator, without any worker, and print its address."""
    address = parse_address(listen, "--listen") if listen else None
    state = state_path()
    start.refuse_if_running(state)
    path = start.config_path(config)
    if foreground:
        start.run_in_foreground(address, path, state, engine)
    click.echo(start.start_in_background(address, path, state, engine).address)


@cli.command()
@click.option("--count", metavar="N", type=click.IntRange(min=1),
              help="How many.  [default: the type's count in the configuration]")  # fmt: skip
@click.option("--type", "type_name", metavar="T",
              help="A node type of the configuration.  [default: its first]")  # fmt: skip
@click.option("--model", metavar="M",
              help="A name in models/, or a path.  [default: the type's]")
@click.option("--engine", metavar="E",
              help="What starts them, local or ray.  [default: what the configuration says]")
@addr_option
def spawn(
    count: int | None, type_name: str | None, model: str | None, engine: str | None
) -> None:
    """Start workers; returns when they answer."""
    words = ["spawn"]
    if count is not None:
        words += ["--count", str(count)]
    if type_name is not None:
        words += ["--type", quote(type_name)]
    if model is not None:
        words += ["--model", quote(absolute(model, Path.cwd()))]
    if engine is not None:
        words += ["--engine", quote(engine)]
    where = cluster()
    with Remote(where.address) as remote:
        before = {entry.name for entry in remote.entries("nodes")}
        what = "starting workers" if type_name is None else f"starting {type_name} workers"
        with show.loading_bar(what, _Loading(where)):
            remote.write("ctl", (" ".join(words) + "\n").encode())
        new = [e.name for e in remote.entries("nodes") if e.name not in before]
    if sys.stderr.isatty() and new:
        names = new[0] if len(new) == 1 else f"{new[0]} to {new[-1]}"
        answer = "worker answers" if len(new) == 1 else "workers answer"
        click.echo(f"{len(new)} {answer}: {names}", err=True)


class _Loading:
    """What the cluster says is loading, asked over a connection of its own: the other
    one waits for the answer to `spawn`."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._remote: Remote | None = None

    def __call__(self) -> dict[str, float]:
        self._remote = self._remote or Remote(self._cluster.address)
        percents = {}
        for line in self._remote.text("status").splitlines():
            words = line.split()
            if words[:1] == ["loading"] and len(words) == 3:
                with contextlib.suppress(ValueError):
                    percents[words[1]] = float(words[2])
        return percents


@cli.command()
@json_option
@addr_option
def status(as_json: bool) -> None:
    """Show the cluster's state."""
    with _connect() as remote:
        text = remote.text("status")
    if as_json:
        show.as_json(show.attributes(text))
    else:
        click.echo(text, nl=not text.endswith("\n"))


@cli.group()
def nodes() -> None:
    """Look at the workers."""


@nodes.command("list")
@json_option
@addr_option
def nodes_list(as_json: bool) -> None:
    """Show a line for each worker."""
    with _connect() as remote:
        found = []
        for entry in remote.entries("nodes"):
            # a worker may go while we look
            with contextlib.suppress(_Gone):
                found.append(_node(remote, entry.name))
    if as_json:
        show.as_json(found)
        return
    header = [name for name in (found[0] if found else {}) if name not in ("epoch", "circuit")]
    rows = [[_cell(name, node.get(name, "-")) for name in header] for node in found]
    if rows:
        show.table(header, rows)
    else:
        click.echo("no workers; start some with `llamboctl spawn --count 4 --type tiny`", err=True)


class _Gone(Exception):
    pass


def _node(remote: Remote, name: str) -> dict[str, str]:
    try:
        text = remote.text(f"nodes/{name}")
    except Unreachable:
        raise
    except Failure:
        raise _Gone from None
    return {
        attr: value if isinstance(value, str) else " ".join(value)
        for attr, value in show.attributes(text).items()
    }


def _cell(attr: str, value: str) -> str:
    """For people: a model without its path, a heartbeat as the time since then."""
    if attr == "model":
        return value.rpartition("/")[2] or value
    if attr == "heartbeat":
        with contextlib.suppress(ValueError):
            return f"{max(time.time() - float(value), 0):.1f}s"
    return value


@cli.command()
@addr_option
def shutdown() -> None:
    """Stop the cluster and wait until it is gone."""
    where = cluster()
    with Remote(where.address) as remote, contextlib.suppress(Unreachable):
        # it may be gone before it answers
        remote.write("ctl", b"shutdown\n")
    start.wait_until_gone(where)


# -- files ------------------------------------------------------------------------


@cli.command()
@click.argument("path", default="/")
@click.option("-l", "--long", "long", is_flag=True, help="With mode, owner, length and time.")
@json_option
@addr_option
def ls(path: str, long: bool, as_json: bool) -> None:
    """List a directory (the root without PATH)."""
    with _connect() as remote:
        entries = remote.entries(path)
    if as_json:
        show.as_json([_as_dict(entry) for entry in entries])
        return
    for entry in entries:
        name = entry.name
        if entry.mode & DMDIR:
            name = click.style(name, fg="blue", bold=True)
        if long:
            when = time.strftime("%Y-%m-%d %H:%M", time.localtime(entry.mtime))
            name = f"{_mode(entry.mode)} {entry.uid:8} {entry.length:8} {when} {name}"
        click.echo(name)


def _mode(mode: int) -> str:
    bits = "".join(ch if mode >> 8 - i & 1 else "-" for i, ch in enumerate("rwxrwxrwx"))
    return ("d" if mode & DMDIR else "-") + bits


def _as_dict(entry: Dir) -> dict[str, Any]:
    return {
        "name": entry.name,
        "type": "directory" if entry.mode & DMDIR else "file",
        "mode": f"{entry.mode & 0o777:04o}",
        "uid": entry.uid,
        "gid": entry.gid,
        "length": entry.length,
        "mtime": entry.mtime,
        "qid": {"type": entry.qid.type, "vers": entry.qid.vers, "path": entry.qid.path},
    }


@cli.command()
@click.argument("paths", metavar="PATH...", nargs=-1, required=True)
@addr_option
def cat(paths: tuple[str, ...]) -> None:
    """Print files as they come; a file that waits for more is waited for."""
    with _connect() as remote:
        for path in paths:
            with remote.open(path) as f:
                if f.is_directory:
                    raise Failure(f"{path}: is a directory; `llamboctl ls {path}` lists it")
                _print_stream(f.chunks())


@cli.command()
@click.argument("path")
@click.argument("text", required=False)
@addr_option
def write(path: str, text: str | None) -> None:
    """Write TEXT, exactly, or standard input to a file.

    What a file does with it happens when it is closed: a `prompt` is submitted.
    """
    with _connect() as remote, remote.open(path, OWRITE | OTRUNC) as f:
        if text is not None:
            f.write(text.encode("utf-8", "surrogateescape"))
            return
        offset = 0
        while data := sys.stdin.buffer.read(f.iounit):
            f.write(data, offset)
            offset += len(data)


@cli.command()
@click.argument("text", required=False)
@click.option("--max-tokens", metavar="N", type=click.IntRange(min=1))
@click.option("--temperature", metavar="T", type=click.FloatRange(min=0), help="0 is greedy.")
@click.option("--seed", metavar="N", type=int)
@click.option("--system", metavar="TEXT", help="The system prompt.")
@addr_option
def infer(text: str | None, system: str | None, **options: float | None) -> None:
    """Ask the cluster one question and print the answer as it comes.

    Without TEXT the question is standard input.  Options hold for this question only.
    """
    query = _question(text)
    with _connect() as remote:
        if system is None and all(value is None for value in options.values()):
            _ask(remote, "data", query)
            return
        with _own_conversation(remote, "", options, system) as directory:
            _ask(remote, f"{directory}/data", query)


@cli.command()
@click.argument("text", required=False)
@click.option("--strategy", metavar="S", type=click.Choice(STRATEGIES), show_choices=False,
              help=f"{', '.join(STRATEGIES[:-1])} or {STRATEGIES[-1]}.")  # fmt: skip
@click.option("--n", "n_nodes", metavar="N", type=click.IntRange(min=1), help="Workers to ask.")
@click.option("--timeout", "timeout_ms", metavar="MS", type=click.IntRange(min=1),
              help="Who has not answered then is left out.")  # fmt: skip
@click.option("--min-consensus", "min_consensus_nodes", metavar="N", type=click.IntRange(min=1),
              help="Answers that there must be.")  # fmt: skip
@click.option("--max-tokens", metavar="N", type=click.IntRange(min=1))
@click.option("--temperature", metavar="T", type=click.FloatRange(min=0))
@click.option("--seed", metavar="N", type=int)
@click.option("--system", metavar="TEXT", help="The system prompt.")
@click.option("--votes", is_flag=True, help="Show every worker's answer, on standard error.")
@addr_option
def fuse(
    text: str | None, system: str | None, votes: bool, **options: float | str | None
) -> None:
    """Ask several workers one question and print one answer made of theirs.

    Without TEXT the question is standard input.
    """
    query = _question(text)
    with _connect() as remote, _own_conversation(remote, "fusion/", options, system) as directory:
        try:
            _ask(remote, f"{directory}/data", query)
        finally:
            if votes:
                click.echo(remote.text(f"{directory}/votes"), err=True, nl=False)


def _question(text: str | None) -> bytes:
    query = sys.stdin.buffer.read() if text is None else text.encode("utf-8", "surrogateescape")
    if not query:
        raise click.UsageError("the question is empty")
    return query


@contextlib.contextmanager
def _own_conversation(
    remote: Remote, place: str, options: Mapping[str, float | str | None], system: str | None
) -> Iterator[str]:
    """A conversation cloned in `place`, for the options belong to one; its directory, which
    is there as long as its clone file is open."""
    with remote.open(f"{place}clone", ORDWR) as ctl:
        directory = place + b"".join(ctl.chunks()).decode().strip()
        lines = [f"{name} {value}\n" for name, value in options.items() if value is not None]
        ctl.write("".join(lines).encode())
        if system is not None:
            remote.write(f"{directory}/system", system.encode("utf-8", "surrogateescape"))
        yield directory


def _ask(remote: Remote, path: str, query: bytes) -> None:
    with remote.open(path, ORDWR) as f:
        f.write(query)
        _print_stream(f.chunks(), newline=sys.stdout.isatty())


def _print_stream(chunks: Iterable[bytes], newline: bool = False) -> None:
    """Each piece at once; with `newline` the last line is ended if it is not."""
    last = b""
    out = sys.stdout.buffer
    for last in chunks:
        out.write(last)
        out.flush()
    if newline and not last.endswith(b"\n"):
        out.write(b"\n")
        out.flush()


def main() -> None:
    """The console script."""
    interrupted = False

    def interrupt(number: int, frame: object) -> None:
        nonlocal interrupted
        interrupted = True
        raise KeyboardInterrupt

    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, interrupt)
    try:
        code = cli.main(prog_name="llamboctl", standalone_mode=False)
        # click returns the code of --help and --version, and a command's None
        sys.exit(code if isinstance(code, int) else 0)
    except click.Abort:
        sys.exit(130)
    except Exception as e:
        if interrupted:  # ctypes, below py9p, makes an error of its own of KeyboardInterrupt
            sys.exit(130)
        if isinstance(e, click.ClickException):
            e.show()
            sys.exit(e.exit_code)
        if isinstance(e, OSError):  # standard output cannot be written, or a file not be read
            where = f"{e.filename}: " if e.filename else ""
            click.echo(f"llamboctl: {where}{e.strerror or e}", err=True)
            sys.exit(1)
        raise


if __name__ == "__main__":
    main()
