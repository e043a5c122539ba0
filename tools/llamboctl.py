"""llamboctl: a cluster from the command line.

Every command but those that start programs reads and writes the cluster's files over 9P and
nothing more: what it does, `cat` and `echo` on a mount do as well, and `--explain` says how.
"""

from __future__ import annotations

import importlib

import click

from .options import addr_option, explain_option
from .program import run

_COMMANDS = {
    "balancer": "balancer",
    "cat": "files",
    "cert": "cert",
    "checkpoint": "checkpoint",
    "completion": "completion",
    "config": "config",
    "dish": "dish",
    "events": "events",
    "fuse": "ask",
    "health": "look",
    "infer": "ask",
    "init": "life",
    "limbot": "limbot",
    "load": "life",
    "logs": "logs",
    "ls": "files",
    "metrics": "metrics",
    "models": "look",
    "mount": "mount",
    "nodes": "nodes",
    "scale": "life",
    "shutdown": "life",
    "spawn": "life",
    "status": "look",
    "top": "top",
    "trace": "trace",
    "unmount": "mount",
    "version": "look",
    "write": "files",
}
"""name -> module of `commands`, where the command has that name"""


class _Commands(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(_COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in _COMMANDS:
            return None
        module = importlib.import_module(f".commands.{_COMMANDS[name]}", __package__)
        command: click.Command = getattr(module, name)
        return command


@click.group(
    cls=_Commands,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: 0; 1 after a failure, which is told in one line; 2 for a wrong command "
    "line; 130 after ^C. `health` has some of its own.",
)
@click.version_option(package_name="llambo9p", prog_name="llamboctl")
@explain_option
@addr_option
def cli() -> None:
    """Run a Llambo cluster and use it: LLM inference as a 9P file system."""


def main() -> None:
    """The console script."""
    run(cli, "llamboctl")


if __name__ == "__main__":
    main()
