"""`llamboctl top`: the cluster on one screen, as it changes; off a terminal, what it does now."""

from __future__ import annotations

import sys
import time
from dataclasses import asdict
from typing import Any

import click

from .. import show
from ..options import addr_option, cluster, connect, connecting, explaining, json_option
from ..program import is_dumb_terminal
from ..top import sample
from ..top.sample import Load, Meter
from ..tree import Tree


@click.command()
@click.option("--interval", metavar="S", type=click.FloatRange(min=0.1), default=1.0,
              show_default=True, help="Seconds between two looks.")  # fmt: skip
@click.option("--once", is_flag=True, help="Print what it does now, as it does off a terminal.")
@json_option
@addr_option
def top(interval: float, once: bool, as_json: bool) -> None:
    """Show what the cluster does, and go on showing it.

    Keys: up, down, pgup, pgdn, home and end scroll the workers, s sorts them by something else, q
    quits.
    """
    with connect() as tree:
        if as_json or once or explaining() or not _on_terminal():
            load = _now(tree, interval)
            if as_json:
                show.as_json(_as_dict(load))
            else:
                _report(load)
            return
    from ..top import live  # rich takes a while to load

    live.show(connecting(), _address(), interval)


def _on_terminal() -> bool:
    return sys.stdin.isatty() and sys.stdout.isatty() and not is_dumb_terminal()


def _now(tree: Tree, interval: float) -> Load:
    """Two looks, or there would be no rates."""
    meter = Meter()
    load = meter.load(sample.read(tree, time.time()))
    if not explaining():
        time.sleep(interval)
        load = meter.load(sample.read(tree, time.time()))
    return load


def _address() -> str:
    return "" if explaining() else str(cluster().address)


def _as_dict(load: Load) -> dict[str, Any]:
    now = load.sample
    return {
        "address": _address(),
        "time": round(now.at, 3),
        "state": now.state,
        "strategy": now.strategy,
        "uptime": None if now.started is None else round(now.at - now.started, 1),
        "health": dict(now.health),
        "requests": {
            "active": now.active,
            "waiting": now.waiting,
            "done": now.done,
            "failed": now.failed,
        },
        "first_token": load.first_token,
        "tokens_per_second": load.tokens_per_second,
        "hosts": [asdict(host) for host in load.hosts],
        "workers": [
            {**asdict(worker), "tokens_per_second": load.rates[worker.name]}
            for worker in now.workers
        ],
    }


def _report(load: Load) -> None:
    now = load.sample
    states = ", ".join(f"{n} {state}" for state, n in now.health.items() if n)
    attrs = {
        "cluster": f"{_address()}, {now.state}, {now.strategy}",
        "workers": states or "none",
        "requests": f"{now.active} active, {now.waiting} waiting, {now.done} done, "
        f"{now.failed} failed",
        "tokens/s": f"{load.tokens_per_second:.1f}",
    }
    for name, value in attrs.items():
        click.echo(f"{name:10}{value}")
    hosts = [
        (h.name, h.type, f"{h.busy}/{h.slots}", str(h.waiting), f"{h.tokens_per_second:.1f}")
        for h in load.hosts
    ]
    if hosts:
        click.echo()
        show.table(["host", "type", "slots", "wait", "tok/s"], hosts)
        click.echo()
        show.table(
            ["worker", "state", "load", "wait", "tok/s", "requests", "tokens", "errors", "health"],
            (
                (w.name, w.does, str(w.load), str(w.queued), f"{load.rates[w.name]:.1f}",
                 str(w.requests), str(w.tokens), str(w.errors), w.health)
                for w in now.workers
            ),
        )  # fmt: skip
