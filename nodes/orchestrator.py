"""`llambo-orchestrator`: the process that mounts hosts and serves `/n/llambo`.

Composition only: configuration, the orchestrator's tree, the server, the state file.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import click

from llambo9p.cluster import config as configuration
from llambo9p.cluster import state
from llambo9p.cluster.namespace import Orchestrator
from llambo9p.net.server import Server

from . import process


@click.command()
@click.option("--listen", metavar="ADDR", help="[default: network.listen of the configuration]")
@click.option(
    "--config",
    "config_path",
    type=click.Path(path_type=Path),
    help="[default: $CLUSTER_CONFIG, else built-in defaults]",
)
@click.option("--state", "state_path", type=click.Path(path_type=Path), help="The state file.")
@click.option("--insecure", is_flag=True, help="Allow plain TCP beyond loopback.")
@click.option("--trace", is_flag=True, help="Print every 9P message to stderr.")
def main(
    listen: str | None,
    config_path: Path | None,
    state_path: Path | None,
    insecure: bool,
    trace: bool,
) -> None:
    """Mount hosts and serve the cluster's tree over 9P."""

    async def serve(stop: asyncio.Event) -> None:
        path = config_path or os.environ.get("CLUSTER_CONFIG")
        config = configuration.load(Path(path)) if path else configuration.Cluster()
        address = process.listen_address(listen or config.network.listen, insecure)
        state_file = state_path or Path(os.environ.get("LLAMBO_STATE") or config.state.path)
        orchestrator = Orchestrator(config, stop.set)
        server = Server(orchestrator.attach, trace=process.print_message if trace else None)
        address = await server.listen(address)
        try:
            state.write(state_file, str(address))
            print(f"listening {address}", flush=True)
            await stop.wait()
        finally:
            state.remove(state_file)
            await orchestrator.close()
            await server.close()

    process.run("llambo-orchestrator", serve)


if __name__ == "__main__":
    main()
