"""`llamboctl init` and `shutdown`: an orchestrator process comes up and goes away."""

from __future__ import annotations

import errno
import os
import shlex
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import BinaryIO, NoReturn

from llambo9p.cluster import environment
from llambo9p.net.address import Address

from .failure import Failure
from .remote import Remote, Unreachable
from .which_cluster import Cluster, read_state

_START_S = 60.0
_STOP_S = 30.0
_POLL_S = 0.05


def config_path(given: str | None) -> Path:
    """The configuration: `given`, what the environment says, or the one that came with us.
    Whether it is any good, the orchestrator says."""
    if given:
        return Path(given).absolute()
    return environment.config_path() or Path(__file__).with_name(environment.CONFIG_NAME)


def refuse_if_running(state: Path) -> None:
    """Raises Failure if the cluster that the state file names answers."""
    cluster = read_state(state)
    if cluster is None:
        return
    try:
        Remote(cluster.address).close()
    except Unreachable:
        return
    pid = "" if cluster.pid is None else f" (pid {cluster.pid})"
    raise Failure(
        f"a cluster runs already at {cluster.address}{pid}: stop it with "
        f"`llamboctl shutdown --addr {shlex.quote(str(cluster.address))}`, "
        "or set $LLAMBO_STATE to another path to run a second one"
    )


def command(
    listen: Address | None, config: Path, state: Path, engine: str | None, insecure: bool
) -> list[str]:
    """That starts an orchestrator."""
    return [
        *(sys.executable, "-m", "llambo9p_nodes.orchestrator"),
        *("--config", str(config), "--state", str(state)),
        *(("--listen", str(listen)) if listen is not None else ()),
        *(("--engine", engine) if engine is not None else ()),
        *(("--insecure",) if insecure else ()),
    ]


def run_in_foreground(command: list[str]) -> NoReturn:
    os.execv(command[0], command)


def start_in_background(command: list[str], state: Path) -> Cluster:
    """Start an orchestrator and wait until it answers.  Raises Failure, with its own
    words when it ends before."""
    log_path = Path(f"{state}.log")
    with open_log(log_path) as log:
        process = subprocess.Popen(
            [*command, "--log-file", str(log_path)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        return _wait_until_it_answers(process, state, log_path)
    except BaseException:
        process.terminate()
        process.wait()
        raise


def wait_until_gone(cluster: Cluster) -> None:
    """Until nothing answers at its address and its process, if known, has ended.
    Raises Failure when that takes too long."""
    deadline = time.monotonic() + _STOP_S
    while _answers(cluster.address) or (cluster.pid is not None and _runs(cluster.pid)):
        if time.monotonic() > deadline:
            pid = "" if cluster.pid is None else f"; its process is {cluster.pid}"
            raise Failure(
                f"the cluster at {cluster.address} took the order but is still there "
                f"after {_STOP_S:.0f} s{pid}"
            )
        time.sleep(_POLL_S)


def open_log(path: Path) -> BinaryIO:
    """Empty, ours alone, and to be appended to: the directory may be everybody's, so no link is
    followed."""
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        fd = os.open(path, flags, 0o600)
    except OSError as e:
        why = "it is a symbolic link" if e.errno == errno.ELOOP else e.strerror
        raise _no_log(path, why) from None
    st = os.fstat(fd)
    if not stat.S_ISREG(st.st_mode) or st.st_uid != os.geteuid():
        os.close(fd)
        raise _no_log(path, "it is not a file of yours")
    os.ftruncate(fd, 0)
    os.set_blocking(fd, True)
    return os.fdopen(fd, "ab")


def _no_log(path: Path, why: str | None) -> Failure:
    return Failure(
        f"cannot write the log {path}: {why}; set $LLAMBO_STATE to a path in a directory of yours"
    )


def _wait_until_it_answers(
    process: subprocess.Popen[bytes], state: Path, log_path: Path
) -> Cluster:
    deadline = time.monotonic() + _START_S
    why = "the orchestrator does not answer"
    while process.poll() is None:
        # the file may still be that of a cluster that crashed
        cluster = read_state(state)
        if cluster is not None and cluster.pid == process.pid:
            try:
                Remote(cluster.address).close()
                return cluster
            except Unreachable as e:
                why = e.message
        if time.monotonic() > deadline:
            raise Failure(f"{why}; its log is {log_path}")
        time.sleep(_POLL_S)
    raise Failure(last_words(process, log_path, "llambo-orchestrator"))


def last_words(process: subprocess.Popen[bytes], log_path: Path, program: str) -> str:
    """Why a program that ended did so: the last line of its log."""
    status = process.wait()
    lines = log_path.read_text(errors="replace").strip().splitlines()
    if not lines:
        return f"{program} ended with {status} and said nothing"
    return lines[-1].removeprefix(f"{program}: ")


def _answers(address: Address) -> bool:
    try:
        Remote(address).close()
    except Failure:
        return False
    return True


def _runs(pid: int) -> bool:
    """A zombie has ended: where PID 1 reaps nobody it stays for ever."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as f:
            return f.read().rpartition(b")")[2].split()[0] != b"Z"
    except FileNotFoundError:
        pass
    except (OSError, IndexError):
        return False
    if os.path.isdir("/proc/self"):
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
