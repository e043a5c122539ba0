"""`llambo-orchestrator`: the process that mounts hosts and serves `/n/llambo`.

Composition only: configuration, the orchestrator's tree, the server, the exporter of metrics,
the state file.
"""

from __future__ import annotations

import asyncio
import functools
import os
from pathlib import Path

import click

from llambo9p.cluster import checkpoints, environment, state_file
from llambo9p.cluster import config as configuration
from llambo9p.cluster.exporter import Exporter
from llambo9p.cluster.logs import OwnLog
from llambo9p.cluster.namespace import Orchestrator
from llambo9p.conversation.metrics import Held, LongTurns
from llambo9p.net.address import Address
from llambo9p.net.guard import Guard
from llambo9p.net.server import Server

from . import logs, process

PROGRAM = "llambo-orchestrator"


@click.command()
@click.option("--listen", metavar="ADDR", multiple=True,
              help="May be repeated.  [default: network.listen of the configuration]")  # fmt: skip
@click.option(
    "--config",
    "config_path",
    type=click.Path(path_type=Path),
    help="[default: $CLUSTER_CONFIG, cluster-config.yaml in $LLAMBO_ROOT or here, or built-in "
    "defaults]",
)
@click.option("--state", "state_path", type=click.Path(path_type=Path), help="The state file.")
@click.option("--engine", type=click.Choice(configuration.ENGINES),
              help="What starts hosts where `spawn` does not say.  [default: orchestrator.engine "
              "of the configuration]")  # fmt: skip
@click.option("--insecure", is_flag=True, help="Allow plain TCP beyond loopback.")
@click.option("--trace", is_flag=True, help="Print every 9P message to stderr.")
@click.option("--log-file", type=click.Path(path_type=Path),
              help="The file that stderr goes to, opened to append: it is kept to 1 MiB, and as "
              "much of before in FILE.1.")  # fmt: skip
@click.option("--exit-with-stdin", is_flag=True, help="Stop at end of file on stdin.")
def main(
    listen: tuple[str, ...],
    config_path: Path | None,
    state_path: Path | None,
    engine: configuration.Engine | None,
    insecure: bool,
    trace: bool,
    log_file: Path | None,
    exit_with_stdin: bool,
) -> None:
    """Mount hosts and serve the cluster's tree over 9P."""
    log = OwnLog()

    async def serve(stop: asyncio.Event) -> None:
        if exit_with_stdin:
            process.stop_at_eof(stop)
        path = config_path or environment.config_path()
        config = configuration.load(path) if path else configuration.Cluster()
        config = config.overridden(environment.models(), environment.cluster_id())
        monitoring = config.monitoring
        logs.start(PROGRAM, monitoring.log_format, monitoring.log_level, log, file=log_file)
        if engine is not None:
            config = config.with_engine(engine)
        addresses = [
            process.listen_address(words, config.security, insecure)
            for words in listen or config.network.listen
        ]
        path = state_path or Path(os.environ.get("LLAMBO_STATE") or config.state.path)
        config = config.with_state(path.absolute())
        with state_file.locked(config.state.path):
            await serve_cluster(stop, config, addresses)

    async def serve_cluster(
        stop: asyncio.Event, config: configuration.Cluster, addresses: list[Address]
    ) -> None:
        before = checkpoints.load(config.state.path)
        security = process.security(config.security)
        limits = process.conversation_limits(config.limits, security.owner)
        orchestrator = Orchestrator(
            config,
            stop.set,
            limits,
            process.trust(config.security),
            process.first_path(),
            insecure,
            log,
            security.owner,
        )
        server = Server(
            orchestrator.attach,
            limits=process.server_limits(config.limits),
            security=security,
            trace=process.print_message if trace else None,
        )
        guard = Guard()
        orchestrator.monitor.metrics.register(Held(server, limits))
        orchestrator.monitor.metrics.register(LongTurns(guard))
        monitoring = config.monitoring
        figures = monitoring.export_figures
        if figures is None:
            figures = any(address.net == "tcp" for address in addresses)
        exporter = Exporter(functools.partial(orchestrator.monitor.page, figures))
        try:
            if monitoring.export_port is not None:
                url = await exporter.listen(monitoring.export_host, monitoring.export_port)
                process.tell(f"exporting {url}/metrics")
            addresses = [await server.listen(address) for address in addresses]
            # tools of this machine need no certificate where there is another way
            local = next((a for a in addresses if a.net != "tls"), addresses[0])
            await orchestrator.recovery.begin(local, before)
            for address in addresses:
                process.tell(f"listening {address}")
            os.chdir("/")  # or we and our hosts would keep a file system busy
            with guard.guarding():
                await stop.wait()
        finally:
            await exporter.close()
            await orchestrator.close()
            await server.close()

    process.run(PROGRAM, serve)


if __name__ == "__main__":
    main()
