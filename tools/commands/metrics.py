"""`llamboctl metrics`: the cluster's numbers, for people and for what collects them."""

from __future__ import annotations

import json
from typing import Any

import click

from .. import show
from ..options import addr_option, connect, json_option


@click.command()
@click.option("--export", "form", type=click.Choice(["prometheus", "json"]),
              help="All of them in this form.")  # fmt: skip
@json_option
@addr_option
def metrics(form: str | None, as_json: bool) -> None:
    """Show the cluster's metrics since it was started.

    `--export prometheus` begins with the six that Llambo had first (metrics.legacy);
    `--json` is `--export json`.
    """
    if form == "prometheus" and as_json:
        raise click.UsageError("--json goes with no --export prometheus")
    with connect() as tree:
        if form == "prometheus":
            for path in ("metrics.legacy", "metrics"):
                show.stream([tree.read(path)])
            return
        text = tree.text("metrics.json")
    if form == "json" or as_json:
        click.echo(text, nl=False)
    elif text:  # but not where it is only explained
        rows = [row for name, family in json.loads(text).items() for row in _rows(name, family)]
        show.table(("metric", "of", "value", "meaning"), rows)


def _rows(name: str, family: dict[str, Any]) -> list[tuple[str, str, str, str]]:
    """Of our own only: OpenTelemetry's say the same, and others are about the process."""
    if not name.startswith("llambo_"):
        return []
    samples, help_ = family["samples"], family["help"]
    if family["type"] == "histogram":
        totals = {s["name"].removeprefix(f"{name}_"): s["value"] for s in samples}
        count = totals["count"]
        mean = f"{totals['sum'] / count:.3g}" if count else "-"
        return [(name, f"mean of {count:.0f}", mean, help_)]
    return [
        (  # what it means, once
            sample["name"],
            " ".join(sample["labels"].values()),
            _shown(sample["value"]),
            "" if i else help_,
        )
        for i, sample in enumerate(samples)
    ]


def _shown(value: float) -> str:
    return str(int(value)) if value == int(value) else f"{value:.3g}"
