"""`llamboctl mount` and `unmount`: the process that serves a FUSE mount, and its end.

Owns the composition (connection, mount, bridge) and how that process is started and
stopped.  It ends when the tree is unmounted, by whomever, and unmounts it when it is
told to end.
"""

from __future__ import annotations

import asyncio
import contextlib
import getpass
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import click

from llambo9p.errors import Error
from llambo9p.mount import mounting
from llambo9p.mount.attachment import Attachment
from llambo9p.mount.bridge import Bridge
from llambo9p.net.address import Address

from ..certificate import trust_for
from ..failure import Failure
from ..options import addr_option, beyond_files, cluster
from ..remote import Remote
from ..start import last_words, open_log
from ..which_cluster import state_path

_DIR = "/n/llambo"


class Served(NamedTuple):
    """What is mounted."""

    address: Address
    user: str
    """as whom we attach; "" for whom the connection shows us to be"""
    aname: str
    """which of the server's trees"""


_dir_argument = click.argument("directory", metavar="[DIR]", default=_DIR)


@click.command()
@_dir_argument
@click.option("--foreground", is_flag=True, help="Serve the mount in this process.")
@click.option("--allow-other", is_flag=True, help="Let other users in, as you.")
@click.option("--kernel", is_flag=True,
              help="By the kernel's 9P client: no streaming, TLS or reconnecting.")  # fmt: skip
@click.option("--user", default="", metavar="NAME",
              help="As whom to attach, where the server asks for it  [default: as yourself]")
@click.option("--aname", default="", metavar="TREE",
              help="Which of the server's trees  [default: the only one]")  # fmt: skip
@addr_option
@beyond_files("mounts the tree, so that the rest can be done there")
def mount(
    directory: str, foreground: bool, allow_other: bool, kernel: bool, user: str, aname: str
) -> None:
    """Mount the cluster's tree on DIR  [default: /n/llambo]."""
    served = Served(cluster().address, user, aname)
    if kernel:
        if foreground or allow_other:
            raise click.UsageError("--kernel goes with neither --foreground nor --allow-other")
        _mount_in_kernel(directory, served)
    elif foreground:
        _mount_in_foreground(directory, served, allow_other)
    else:
        _mount_in_background(directory, served, allow_other)


@click.command()
@_dir_argument
@beyond_files("unmounts the tree: fusermount3 -u, or umount")
def unmount(directory: str) -> None:
    """Unmount DIR  [default: /n/llambo], whatever state it is in."""
    with _failing():
        free = mounting.unmount(mounting.mount_point(directory))
    if not free:
        click.echo(f"{directory} is still in use: it ends with its last user", err=True)


def _mount_in_kernel(directory: str, served: Served) -> None:
    """By the kernel's own 9P client, which does not ask who serves a unix socket: we do, before.
    Raises Failure."""
    where = mounting.mount_point(directory)
    if served.address.net == "unix":
        Remote(served.address).close()
    uname = served.user or getpass.getuser()
    with _failing():
        mounting.prepare(where)
        mounting.mount_v9fs(where, served.address, uname, served.aname)


def _mount_in_background(directory: str, served: Served, allow_other: bool) -> None:
    """Start a process that serves the mount, and wait until it does.  Raises Failure, with
    that process's own words when it ends before."""
    where = mounting.mount_point(directory)
    with _failing():
        mounting.prepare(where)  # a mount that is there keeps its log
    log_path = Path(f"{state_path()}.mount{str(where).replace('/', '-')}.log")
    command = [sys.executable, "-m", "llambo9p_tools.llamboctl", "mount", str(where)]
    command += ["--foreground", "--addr", str(served.address)]
    command += ["--user", served.user, "--aname", served.aname]
    if allow_other:
        command.append("--allow-other")
    with open_log(log_path) as log:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            start_new_session=True,
        )
    assert process.stdout is not None
    try:
        serves = process.stdout.readline()
    except BaseException:
        process.terminate()
        process.wait()
        raise
    if not serves:
        raise Failure(last_words(process, log_path, "llamboctl"))


def _mount_in_foreground(directory: str, served: Served, allow_other: bool) -> None:
    """Serve the mount until it is unmounted or this process told to end.  Raises Failure."""
    logging.basicConfig(
        stream=sys.stderr, level=logging.INFO, format="llamboctl: %(levelname)s: %(message)s"
    )
    with _failing():
        asyncio.run(_serve(mounting.mount_point(directory), served, allow_other))


async def _serve(directory: Path, served: Served, allow_other: bool) -> None:
    mounting.prepare(directory)
    address = served.address
    attachment = Attachment(address, served.user, trust_for(address), served.aname)
    try:
        root = await attachment.root()
        stop = asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        device = mounting.mount(directory, address, allow_other)
        try:
            bridge = Bridge(device, attachment, root.qid, os.getuid(), os.getgid())
            await _until_unmounted(bridge, directory, address, stop)
        finally:
            os.close(device)
    finally:
        attachment.close()


async def _until_unmounted(
    bridge: Bridge, directory: Path, address: Address, stop: asyncio.Event
) -> None:
    """Run the bridge until it ends, or until `stop`, and then unmount."""
    running = asyncio.create_task(bridge.run())
    stopping = asyncio.create_task(stop.wait())
    ready = asyncio.create_task(bridge.ready.wait())
    await asyncio.wait((running, stopping, ready), return_when=asyncio.FIRST_COMPLETED)
    if ready.done():
        print(f"mounted {address} on {directory}", flush=True)
    await asyncio.wait((running, stopping), return_when=asyncio.FIRST_COMPLETED)
    if not running.done() or running.exception() is not None:
        with contextlib.suppress(Error):  # somebody may be unmounting it at this moment
            await asyncio.to_thread(mounting.unmount, directory)
    for task in (stopping, ready):
        task.cancel()
    running.cancel()
    await asyncio.wait((running,))
    if not running.cancelled():
        running.result()


@contextlib.contextmanager
def _failing() -> Iterator[None]:
    """Errors become Failures."""
    try:
        yield
    except Error as e:
        raise Failure(str(e)) from None
