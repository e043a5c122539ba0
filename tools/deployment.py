"""What tools/deploy.sh asks of the configuration: whether this machine can do what it says, and
what each host of its section `deploy` is given.

`check` prints a line for each thing, ✓, ⚠ or ✗, and what to do about it; it fails when there is
a ✗.  `hosts` prints a line for each host, fields between tabs; `files` makes the directory that
is copied to one.
"""

from __future__ import annotations

import asyncio
import resource
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import click
import yaml

from llambo9p.cluster import config as configuration
from llambo9p.cluster import environment
from llambo9p.cluster.config import SIMULATED, Cluster, DeployedHost
from llambo9p.cluster.launchers.base import host_config, type_words
from llambo9p.cluster.models import Models
from llambo9p.engine import gguf, kinds, memory
from llambo9p.engine.machine import available_memory
from llambo9p.errors import Error
from llambo9p.fs.user import owner
from llambo9p.net.address import Address, parse
from llambo9p.net.security import certificate_name

from .failure import Failure
from .program import run
from .start import config_path
from .which_cluster import read_state, state_path

_OTHER_FILES = 256
"""that an orchestrator has open beside the connections of clients"""
_ROWS = 512
"""of prompts in a step, as hosts have it"""
_GOOD, _SO_SO, _BAD = "✓", "⚠", "✗"
_Line = tuple[str, str]
"""a mark, and what it is about"""

_config_option = click.option("--config", "given", metavar="FILE")


@click.group()
def cli() -> None:
    """What tools/deploy.sh asks of the configuration."""


@cli.command()
@_config_option
@click.pass_context
def check(ctx: click.Context, given: str | None) -> None:
    """Whether this machine can run the cluster."""
    try:
        config = _load(given)
    except Failure as e:
        for line in e.message.splitlines():
            click.echo(f"{_BAD} {line}")
        ctx.exit(1)
    lines = [(_GOOD, f"configuration: {config_path(given)}")]
    lines += [line for name in config.nodes for line in _node_type(config, name)]
    lines += [*_addresses(config), *_open_files(config)]
    for mark, text in lines:
        click.echo(f"{mark} {text}")
    ctx.exit(int(any(mark == _BAD for mark, _ in lines)))


@cli.command()
@_config_option
def hosts(given: str | None) -> None:
    """SSH, address, model, and the certificate that it needs (-: none), of each host."""
    config = _load(given)
    for ssh, host in config.deploy.hosts.items():
        certificate = _certificate(config, host) or "-"
        click.echo("\t".join((ssh, host.listen, _model(config, _type(config, host)),
                              str(certificate))))  # fmt: skip


@cli.command()
@_config_option
@click.argument("ssh")
@click.argument("directory", type=click.Path(path_type=Path))
def files(given: str | None, ssh: str, directory: Path) -> None:
    """Put into DIRECTORY the options of a host's `llambo-worker`, its configuration, and its
    certificate, if it has one."""
    config = _load(given)
    host = config.deploy.hosts[ssh]
    name = _type(config, host)
    node = config.nodes[name]
    words = type_words(name, node.resources, _model(config, name), host.count or node.count)
    where = ["--listen", host.listen, "--register", str(_orchestrator(config))]
    (directory / "options").write_text("".join(f"{word}\n" for word in (*words, *where)))
    told = host_config(config)
    # as who we are known there: its owner may be another user
    us = _name(config)
    told["cluster"]["security"] = {"admins": [us], "speaks_for": [us]}
    certificate = _certificate(config, host)
    if certificate is not None and config.security.ca is not None:
        shutil.copyfile(certificate, directory / "server.pem")
        shutil.copyfile(config.security.ca, directory / "ca.pem")
        told["cluster"]["security"] |= {"cert": "server.pem", "ca": "ca.pem"}
    (directory / "host.yaml").write_text(yaml.safe_dump(told))


def _name(config: Cluster) -> str:
    """Of the orchestrator's owner, as other servers know him.  Raises Failure."""
    if config.security.cert is None:
        return owner().name
    try:
        return certificate_name(config.security.cert)
    except Error as e:
        raise Failure(str(e)) from None


def _load(given: str | None) -> Cluster:
    """Raises Failure with a line for each problem."""
    try:
        config = configuration.load(config_path(given))
        return config.overridden(environment.models(), environment.cluster_id())
    except Error as e:
        raise Failure(str(e)) from None


def _type(config: Cluster, host: DeployedHost) -> str:
    return host.type or next(iter(config.nodes))


def _model(config: Cluster, node_type: str) -> str:
    """What `llambo-worker` is given for it.  Raises Failure."""
    try:
        return asyncio.run(Models(config.models.path).path(config.nodes[node_type].resources.model))
    except Error as e:
        raise Failure(f"node type {node_type}: {e}") from None


def _orchestrator(config: Cluster) -> Address:
    """Where hosts find it.  Raises Failure."""
    if config.deploy.orchestrator is not None:
        return parse(config.deploy.orchestrator)
    listened = [parse(address) for address in config.network.listen]
    for net in ("tls", "tcp"):
        for address in listened:
            if address.net == net and address.port:
                return address
    raise Failure("no address for hosts on other machines: say it as deploy.orchestrator")


def _certificate(config: Cluster, host: DeployedHost) -> Path | None:
    """The file with a host's certificate and key, beside that of the CA; made or not.  Raises
    Failure when TLS is asked for without a CA."""
    address = parse(host.listen)
    if "tls" not in (address.net, _orchestrator(config).net):
        return None
    if config.security.ca is None:
        raise Failure(
            f"{host.listen} needs certificates: make a CA with `llamboctl cert ca` and this "
            "machine's with `llamboctl cert server HOST`, and name them as security.ca and "
            "security.cert"
        )
    return config.security.ca.with_name(f"server-{address.host.replace(':', '_')}.pem")


# -- check -----------------------------------------------------------------------------


def _node_type(config: Cluster, name: str) -> Iterator[_Line]:
    """Its model, and memory for as many workers as `spawn` starts."""
    node = config.nodes[name]
    if node.resources.model == SIMULATED:
        yield _SO_SO, f"node type {name}: simulated, its answers are made up"
        return
    try:
        model = _model(config, name)
        path = gguf.default_model() if model == "default" else Path(model)
        header = kinds.check(gguf.read(path), path)
        needed, slots = _needed(config, name, header, path)
    except (Error, OSError, Failure) as e:
        said = e.message if isinstance(e, Failure) else str(e)
        yield _BAD, f"node type {name}: {said}"
        return
    workers = "worker" if node.count == 1 else "workers"
    text = (
        f"node type {name}: {node.count} {workers}, {slots} at once, need "
        f"{needed / memory.MIB:.0f} MiB for {path.name}"
    )
    left = available_memory()
    if needed <= left:
        yield _GOOD, text
        return
    yield _BAD, (
        f"{text}, and {left / memory.MIB:.0f} MiB are available: lower context_size or slots, or "
        "take a smaller model"
    )


def _needed(config: Cluster, name: str, header: gguf.Header, path: Path) -> tuple[int, int]:
    """Bytes of a host with the type's workers, and its slots.  Raises Error."""
    node = config.nodes[name]
    r = node.resources
    need = memory.estimate(header, r.context_size, _ROWS)
    slots = memory.slots(path, r.context_size, need, r.slots, node.count, r.memory)
    everything = 1 << 62
    left = memory.left(path, header.weights, need, r.context_size, slots, everything)
    return int(everything - left), slots


def _addresses(config: Cluster) -> Iterator[_Line]:
    """Those that nobody may listen at, unless it is our cluster that does."""
    ours = read_state(state_path())
    for text in config.network.listen:
        address = parse(text)
        if ours is not None and _is_taken(ours.address):
            yield _GOOD, f"{ours.address}: a cluster runs there"
            return
        if _is_taken(address):
            yield _BAD, f"{address} is in use: choose another as network.listen"
        else:
            yield _GOOD, f"{address} is free"
    if config.network.hosts == "tcp":
        first, count = config.network.base_port, config.network.port_range
        free = sum(
            not _is_taken(Address("tcp", "127.0.0.1", port)) for port in range(first, first + count)
        )
        mark = _GOOD if free == count else _SO_SO if free else _BAD
        hint = "" if free == count else ": choose others by base_port and port_range"
        yield mark, f"ports {first} to {first + count - 1}: {free} of {count} are free{hint}"


def _is_taken(address: Address) -> bool:
    """Whether something listens there; what cannot be asked is not taken."""
    try:
        if address.net == "unix":
            with socket.socket(socket.AF_UNIX) as sock:
                sock.connect(address.path)
        else:
            socket.create_connection((address.host, address.port), timeout=1).close()
    except OSError:
        return False
    return True


def _open_files(config: Cluster) -> Iterator[_Line]:
    """A connection is an open file; both programs raise their limit to the hard one."""
    _, limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = config.limits.connections + _OTHER_FILES
    if limit == resource.RLIM_INFINITY or limit >= wanted:
        yield _GOOD, f"open files: {wanted} for {config.limits.connections} connections"
        return
    most = max(limit - _OTHER_FILES, limit // 2)
    yield _SO_SO, (
        f"open files: {limit} at most, so no more than {most} of limits.connections "
        f"{config.limits.connections}: raise it as root by `ulimit -Hn {wanted}`, or in "
        "/etc/security/limits.conf"
    )


if __name__ == "__main__":
    run(cli, "deploy.sh")
