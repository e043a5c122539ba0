"""What operators look at: `status`, `health`, `models/` and what runs here and there."""

from __future__ import annotations

import importlib.metadata

import click

from .. import probing, show
from ..failure import NoCluster
from ..options import addr_option, cluster_is_named, connect, explaining, json_option

_WORDS = ("error", "models", "orchestrators", "request", "unsaved", "version")
"""of `status`: what is no number even where it looks like one"""
_DEGRADED = 3
"""exit code of `health`, as documented in its help"""
_STATES = {
    "healthy": ("✓", "green"),
    "degraded": ("⚠", "yellow"),
    "draining": ("⚠", "yellow"),
    "lost": ("✗", "red"),
    "unhealthy": ("✗", "red"),
}
"""of workers, and of the cluster's parts: how each is marked"""


@click.command()
@json_option
@addr_option
def status(as_json: bool) -> None:
    """Show the cluster's state."""
    with connect() as tree:
        text = tree.text("status")
    if not as_json:
        click.echo(text, nl=not text.endswith("\n"))
        return
    show.as_json(
        {
            name: show.number(value) if isinstance(value, str) and name not in _WORDS else value
            for name, value in show.attributes(text).items()
        }
    )


@click.command()
@json_option
@addr_option
@click.pass_context
def health(ctx: click.Context, as_json: bool) -> None:
    """Show whether the cluster can answer.

    The exit code is 0 if it can and every worker is healthy, 3 if it can but not every worker
    is, and 1 if nothing can answer or there is no cluster.
    """
    with connect() as tree:
        said = show.numbers(tree.text("health"))
    if explaining():
        return
    total = int(said.get("nodes", 0))
    can_answer = said.get("load_balancer") == "healthy"
    if as_json:
        show.as_json(said)
    else:
        for title, part in (("Orchestrator", "orchestrator"), ("Load Balancer", "load_balancer")):
            _line(title, str(said.get(part, "unhealthy")))
        counts = {state: int(said.get(state, 0)) for state in _STATES}
        for state, count in counts.items():
            if count:
                _line("Node Health", state, f"{count}/{total} ")
        if not total:
            _line("Node Health", "no workers")
            click.echo("start some with `llamboctl spawn --count 4`", err=True)
    ctx.exit(1 if not can_answer else 0 if said.get("healthy") == total else _DEGRADED)


def _line(title: str, state: str, what: str = "") -> None:
    mark, colour = _STATES.get(state, ("✗", "red"))
    click.echo(f"{click.style(mark, fg=colour)} {title + ':':16} {what}{state.upper()}")


@click.command()
@click.option(
    "--probe",
    metavar="NAME",
    help="Find out, on this machine, whether the answers of this model, a name or a path, are the "
    "same bit by bit however it is asked, and keep it: `exact` in models/.  Takes seconds for a "
    "small model, minutes for a large one.",
)
@json_option
@addr_option
def models(probe: str | None, as_json: bool) -> None:
    """Show what models there are; what cannot be used says why."""
    if probe is not None:
        _probe(probe, as_json)
        return
    with connect() as tree:
        found = [show.attributes(text) for text in tree.texts("models")]
    if as_json:
        show.as_json(found)
        return
    if not found:
        click.echo("no models: put GGUF files where $LLAMBO_MODELS or models.path says", err=True)
        return
    header = [
        "name", "kind", "size", "architecture", "context", "quantisation", "chat_template", "exact",
    ]  # fmt: skip
    if any("error" in model for model in found):
        header.append("error")
    rows = [[_cell(name, model.get(name, "-")) for name in header] for model in found]
    show.table([name.removeprefix("chat_") for name in header], rows)


def _probe(name: str, as_json: bool) -> None:
    path = probing.path_of(name)
    if explaining():
        return
    found = probing.run(path)
    if as_json:
        show.as_json(found)
        return
    click.echo(f"exact {found['exact']}")
    for line in found["differs"]:
        click.echo(f"differs {line}")
    click.echo(f"exact_required {found['exact_required']}")


def _cell(attr: str, value: str | list[str]) -> str:
    word = value if isinstance(value, str) else " ".join(value)
    return show.size(int(word)) if attr == "size" and word.isdigit() else word


@click.command()
@json_option
@addr_option
def version(as_json: bool) -> None:
    """Show versions, here and of the cluster that runs."""
    found = {
        "llambo9p": importlib.metadata.version("llambo9p"),
        "llama-cpp-python": importlib.metadata.version("llama-cpp-python"),
        "protocol": "9P2000 9P2000.u 9P2000.L",
    }
    try:
        with connect() as tree:
            said = show.attributes(tree.text("status"))
        found["cluster"] = str(said.get("version", "older"))
    except NoCluster:
        if cluster_is_named():
            raise
    if as_json:
        show.as_json(found)
        return
    for name, value in found.items():
        click.echo(f"{name:18}{value}")
