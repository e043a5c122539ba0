"""`llambo-worker`: a host, the process that serves workers of one model.

Composition only: options, the engine, the host's tree, the server.  On stdout it
says `loading PERCENT` while the model loads and `listening ADDR` when its workers
answer; everything else goes to stderr.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import TypeVar

import click

from llambo9p.cluster import config as configuration
from llambo9p.cluster.launchers.base import PROGRAM
from llambo9p.conversation.metrics import Held, LongTurns
from llambo9p.engine import gguf, kinds, memory, probe, watchdog
from llambo9p.engine.memory import RopeScaling
from llambo9p.engine.runner import Runner
from llambo9p.engine.thread import DecodeThread
from llambo9p.errors import Busy, InvalidArgument
from llambo9p.fs.file import File
from llambo9p.fs.user import User
from llambo9p.net import address as addresses
from llambo9p.net.address import Address
from llambo9p.net.guard import Guard
from llambo9p.net.server import Server
from llambo9p.worker.host import Host
from llambo9p.worker.registration import Registration

from . import logs, process

log = logging.getLogger(__name__)

T = TypeVar("T")

_STEPS = 10
"""in which the time without clients is counted"""
REQUESTS, FIDS = 32_768, 1 << 20
"""the least that a connection may have: an orchestrator passes on what all its clients
do over one"""
_ANY_HOST = ("0.0.0.0", "::", "*")

TELL = 0.1
"""seconds in which readers get tokens once: often enough for eyes.  Decoding was faster by 1 to
2% than with 0.04, with 1, 4 and 16 who read on the machine that decodes, on 2 cores"""


@click.command()
@click.option("--listen", default="tcp!127.0.0.1!9000", show_default=True, metavar="ADDR")
@click.option(
    "--port-range",
    default=1,
    show_default=True,
    help="Ports to try, from that of --listen on, for a free one.",
)
@click.option(
    "--model",
    default="default",
    show_default=True,
    metavar="PATH|default|simulated",
    help="A GGUF file; the bundled SmolLM2; or scripted answers without a model.",
)
@click.option("--count", default=4, show_default=True, help="Workers to serve.")
@click.option("--first", default=0, show_default=True, help="Number of the first worker.")
@click.option("--type", "node_type", default="tiny", show_default=True, help="Node type to show.")
@click.option("--slots", default=16, show_default=True, help="Sequences decoded at once.")
@click.option("--context", default=512, show_default=True, help="Tokens of a sequence.")
@click.option(
    "--rope-scaling",
    type=click.Choice(("none", "linear", "yarn")),
    default="none",
    show_default=True,
    help="How positions beyond those that the model was trained for are spread over these.",
)
@click.option(
    "--kv-type",
    metavar="K/V",
    help="llama.cpp's types of K and V, as q8_0/f16, or one for both.  [default: what suits the "
    "model]",
)
@click.option(
    "--exact",
    type=click.Choice(("any", "required")),
    default="any",
    show_default=True,
    help="required: serve only a model whose answers are the same bit by bit however it is asked, "
    "by plain products of matrices when it must be; that is found out first.",
)
@click.option("--threads", type=int, help="Of the decode thread.  [default: usable cores]")
@click.option(
    "--cache-ram",
    default=512 * 2**20,
    show_default=True,
    help="Bytes for KV caches of conversations that lost their sequence to others.",
)
@click.option(
    "--memory",
    "bytes_each",
    type=int,
    help="Bytes of KV cache that each worker may use; of COUNT x as many there are as many slots "
    "as fit.  [default: no limit]",
)
@click.option(
    "--step-timeout",
    default=watchdog.LEAST_S,
    show_default=True,
    type=click.FloatRange(min=0.1),
    help="Seconds that a decode step may take at least, before the host says that it is lost and "
    "ends; ten times the slowest recent step, if that is more.",
)
@click.option(
    "--config",
    "config_path",
    type=click.Path(path_type=Path),
    help="Its sections `security`, `limits` and `monitoring` are used.",
)
@click.option(
    "--epoch",
    type=click.IntRange(0, 2**63 - 1),
    help="Tells this process from others at its address; later ones have more.  [default: the "
    "time, in nanoseconds]",
)
@click.option("--register", metavar="ADDR", help="Join the cluster of the orchestrator there.")
@click.option(
    "--announce",
    metavar="ADDR",
    help="Where the orchestrator reaches this host.  [default: where it listens]",
)
@click.option("--insecure", is_flag=True, help="Allow plain TCP beyond loopback.")
@click.option("--trace", is_flag=True, help="Print every 9P message to stderr.")
@click.option(
    "--orphan-timeout",
    type=click.FloatRange(min=0, min_open=True),
    help="Seconds without any client, after which it ends.  [default: none]",
)
@click.option("--log-file", type=click.Path(path_type=Path),
              help="The file that stderr goes to, opened to append: it is kept to 1 MiB, and as "
              "much of before in FILE.1.")  # fmt: skip
@click.option("--exit-with-stdin", is_flag=True, help="Stop at end of file on stdin.")
def main(
    listen: str,
    port_range: int,
    model: str,
    count: int,
    first: int,
    node_type: str,
    slots: int,
    context: int,
    rope_scaling: RopeScaling,
    kv_type: str | None,
    exact: str,
    threads: int | None,
    cache_ram: int,
    bytes_each: int | None,
    step_timeout: float,
    config_path: Path | None,
    epoch: int | None,
    register: str | None,
    announce: str | None,
    insecure: bool,
    trace: bool,
    orphan_timeout: float | None,
    log_file: Path | None,
    exit_with_stdin: bool,
) -> None:
    """Serve COUNT workers of one model over 9P."""
    # a failed assertion of ggml's ends the process; it would start a debugger first, which can
    # hang with it, and outlive it
    os.environ["GGML_NO_BACKTRACE"] = "1"

    async def serve(stop: asyncio.Event) -> None:
        config = configuration.load(config_path) if config_path else configuration.Cluster()
        monitoring = config.monitoring
        logs.start(PROGRAM, monitoring.log_format, monitoring.log_level, file=log_file)
        address = process.listen_address(listen, config.security, insecure)
        if register is None and announce is not None:
            raise InvalidArgument("--announce is for a host that is to --register")
        if register is not None and orphan_timeout is not None:
            raise InvalidArgument("--orphan-timeout is for a host that does not --register")
        orchestrator = addresses.parse(register) if register is not None else None
        announced = _announced(announce, address) if orchestrator is not None else None
        started = time.time_ns() if epoch is None else epoch
        if exit_with_stdin:
            process.stop_at_eof(stop)
        budget = (count, bytes_each) if bytes_each is not None else None
        progress = _Progress()
        made = await _until(
            stop,
            _runner(
                model, context, rope_scaling, kv_type, exact, progress, slots, threads, budget,
                cache_ram,
            ),
        )  # fmt: skip
        if made is None:
            return
        runner, ram = made
        engine = DecodeThread(
            runner,
            max_queue=config.limits.queue,
            cache_ram=ram,
            tell=TELL,
            step_timeout=step_timeout,
        )
        host: Host | None = None
        ending: asyncio.Future[None] | None = None
        guard: Guard | None = None

        def attach(user: User, aname: str) -> File:
            if host is None:
                raise Busy("the model is loading")
            return host.attach(user, aname)

        bounds = config.limits.model_copy(
            update={
                "requests": max(config.limits.requests, REQUESTS),
                "fids": max(config.limits.fids, FIDS),
            }
        )
        security = process.security(config.security)
        server = Server(
            attach,
            limits=process.server_limits(bounds),
            security=security,
            trace=process.print_message if trace else None,
        )
        address = await process.listen(server, address, port_range)
        try:
            await _until(stop, engine.start(progress.rest()))
            if stop.is_set():
                return
            limits = process.conversation_limits(config.limits, security.owner)
            host = Host(
                engine,
                engine.info,
                node_type=node_type,
                context_size=context,
                shutdown=stop.set,
                limits=limits,
                first_path=process.first_path(),
                epoch=started,
                owner=security.owner,
                knows_users=address.net != "tcp",
            )
            guard = Guard()
            host.metrics.register(Held(server, limits))
            host.metrics.register(LongTurns(guard))
            host.grow(count, first)
            process.tell(f"listening {address}")
            ending = asyncio.ensure_future(_end_when_lost(engine, host, server))
            guard.start()
            if orphan_timeout is not None:
                await _until(stop, _orphaned(server, orphan_timeout))
            elif orchestrator is not None:
                attrs = {
                    "type": node_type,
                    "model": engine.info.name,
                    "count": str(count),
                    "epoch": str(started),
                    "first": str(first),
                }
                trust = process.trust(config.security)
                registration = Registration(orchestrator, announced or address, attrs, trust)
                await _until(stop, registration.hold())
            else:
                await stop.wait()
        finally:
            if guard is not None:
                guard.stop()
            await server.close()
            await engine.stop()  # when the engine is lost meanwhile, `ending` ends the process
            if ending is not None:
                ending.cancel()

    process.run(PROGRAM, serve)


async def _runner(
    model: str,
    context: int,
    rope_scaling: RopeScaling,
    kv_type: str | None,
    exact: str,
    progress: _Progress,
    slots: int,
    threads: int | None,
    budget: tuple[int, int] | None,
    cache_ram: int,
) -> tuple[Runner, int]:
    """And the bytes of `cache_ram` that it may have.  `budget` is how many workers pay for the
    KV cache, and with how many bytes each."""
    if model == "simulated":
        from llambo9p.engine.simulated import SimulatedRunner

        return SimulatedRunner(n_ctx=context, n_seq=slots), cache_ram
    path = gguf.default_model() if model == "default" else Path(model)
    header = kinds.check(gguf.read(path), path)  # before llama.cpp is loaded, which takes longer
    types = memory.kv_types(header) if kv_type is None else memory.parse_kv_type(kv_type)
    plain = False
    if exact == "required":
        plain = await probe.find_way(path, types, progress.half)
    from llambo9p.engine import llama  # loads llama.cpp

    runner = llama.LlamaRunner(
        path, n_ctx=context, n_seq=slots, n_threads=threads, rope_scaling=rope_scaling,
        kv_types=types, plain=plain,
    )  # fmt: skip
    if budget is not None:
        runner.n_seq = memory.slots(path, context, runner.need, slots, *budget)
        cache_ram = min(cache_ram, budget[0] * budget[1] - runner.n_seq * runner.need.sequence)
    left = max(0, int(runner.memory_left()) - runner.need.embedder)
    return runner, min(cache_ram, left)


async def _end_when_lost(engine: DecodeThread, host: Host, server: Server) -> None:
    """End this process when the engine does not work any more.  The decode thread may be stuck in
    C, where nothing ends it but the end of the process."""
    why = await engine.lost
    host.lose()
    process.say(f"{PROGRAM}: {why}")
    await server.close()  # what clients are told leaves before, in a second at most
    os._exit(1)


def _announced(announce: str | None, listen: Address) -> Address | None:
    """Where others reach what listens at `listen`; None for just there.  Raises
    InvalidArgument."""
    if announce is not None:
        return addresses.parse(announce)
    if listen.host in _ANY_HOST:
        raise InvalidArgument(
            f"{listen} is no address to be reached at: say with --announce where this host is"
        )
    return None


class _Progress:
    """Of a start, told in percents.  Its parts follow each other."""

    def __init__(self) -> None:
        self._begun = 0.0

    def half(self) -> Callable[[float], None]:
        """A part that takes half of what is left; it is told 0.0 to 1.0."""
        return self._until((self._begun + 1) / 2)

    def rest(self) -> Callable[[float], None]:
        """The last part."""
        return self._until(1.0)

    def _until(self, end: float) -> Callable[[float], None]:
        begin, self._begun = self._begun, end
        return lambda done: process.tell(f"loading {int((begin + (end - begin) * done) * 100)}")


async def _orphaned(server: Server, seconds: float) -> None:
    """Until nobody has been connected for so long.  Counted in steps, as a machine that
    slept or was stopped would have missed a clock's time."""
    step = seconds / _STEPS
    alone = 0
    while alone < _STEPS:
        await asyncio.sleep(step)
        alone = 0 if server.connections else alone + 1
    log.warning("ended, as nobody was connected for %g s", seconds)


async def _until(stop: asyncio.Event, work: Coroutine[None, None, T]) -> T | None:
    """Wait for `work`; when `stop` comes first, cancel it, and None is the result."""
    task = asyncio.ensure_future(work)
    stopping = asyncio.ensure_future(stop.wait())
    await asyncio.wait((task, stopping), return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if not task.done():
        task.cancel()
        await asyncio.wait((task,))
        return None
    return task.result()


if __name__ == "__main__":
    main()
