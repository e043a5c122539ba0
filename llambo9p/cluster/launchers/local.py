"""Starts hosts as processes of this machine.

A host outlives its orchestrator, which may come back for it (`adopt`); when nobody does, it
ends by itself (`--orphan-timeout`).  So it holds nothing of the orchestrator's but the pipe on
which it tells how its start goes, a line each: `loading PERCENT` while the model loads,
then `listening ADDR`.  What else it says goes to its `Log`.

Sockets and logs lie in a directory that is ours alone: so hosts on unix sockets know us,
and believe us as whom we attach.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import Mapping
from pathlib import Path

import yaml

from ...errors import Error
from ...net.address import Address, parse
from ...p9.words import whole_number
from ..config import Cluster
from ..state_file import make_private
from .base import End, HostSpec, Launched, Launcher, Log, Progress, host_config, listen_words
from .log import FileLog, end, start_error
from .orphan import Orphan

_LOOK_S = 10.0
"""between looks at the sizes of logs"""
_STOP_S = 5.0
"""how long a host may take to stop by itself"""


class LocalHost(Launched):
    engine = "local"

    def __init__(
        self, spec: HostSpec, address: Address, process: Process | Orphan, log: FileLog
    ) -> None:
        super().__init__(spec, address, asyncio.create_task(self._wait()))
        self._process = process
        self._log = log

    async def _wait(self) -> End:
        status = await self._process.wait()
        if self.address.net == "unix":
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.address.path)
        return end(status, self._log)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def handle(self) -> str:
        return str(self.pid)

    @property
    def log(self) -> str:
        return str(self._log.path)

    async def stop(self) -> None:
        await _stop(self._process)
        await asyncio.wait((self.ended,))

    async def kill(self) -> None:
        _signal(self._process, signal.SIGKILL)
        await asyncio.wait((self.ended,))


class LocalLauncher(Launcher):
    """`directory` is made when the first host is started."""

    def __init__(self, directory: Path, config: Cluster) -> None:
        super().__init__(os.cpu_count() or 1)  # a start takes a core for a while
        self._directory = directory
        self._config = config
        self._looking: asyncio.Task[None] | None = None
        self._logs: dict[str, FileLog] = {}
        """they outlive their hosts"""

    @property
    def logs(self) -> Mapping[str, Log]:
        return self._logs

    async def start(self, spec: HostSpec, progress: Progress) -> Launched:
        log = self._log_of(spec)
        timeout = self._config.state.orphan_timeout / 1000
        try:
            config = self._prepare()
            with log.open() as stderr:
                process = await asyncio.create_subprocess_exec(
                    *(sys.executable, "-m", "llambo9p_nodes.worker", *spec.words()),
                    *("--config", str(config), "--orphan-timeout", f"{timeout:g}"),
                    *listen_words(spec, self._directory, self._config.network),
                    stdin=DEVNULL,
                    stdout=PIPE,
                    stderr=stderr,
                    start_new_session=True,
                )
        except OSError as e:  # too many processes or files, a disk that is full
            where = f"{e.filename}: " if e.filename else ""
            raise Error(f"cannot start {spec.name}: {where}{e.strerror}") from e
        try:
            address = await _listening(process, progress)
            if address is None:
                raise start_error(await process.wait(), log, spec.model)
        except BaseException:
            await _stop(process)
            raise
        return self._started(LocalHost(spec, address, process, log))

    async def adopt(self, spec: HostSpec, address: Address, handle: str) -> Launched | None:
        self._prepare()
        orphan = Orphan.find(handle, ("--epoch", str(spec.epoch)))
        if orphan is None:
            if address.net == "unix":
                with contextlib.suppress(OSError):
                    (self._directory / Path(address.path).name).unlink()
            return None
        return self._started(LocalHost(spec, address, orphan, self._log_of(spec)))

    async def close(self) -> None:
        if self._looking is not None:
            self._looking.cancel()
        await super().close()

    def _prepare(self) -> Path:
        """Make the directory, and in it the configuration of hosts, which is given."""
        make_private(self._directory)
        if self._looking is None:
            self._looking = asyncio.get_running_loop().create_task(self._look_at_logs())
        path = self._directory / "host.yaml"
        path.write_text(yaml.safe_dump(host_config(self._config)))
        return path

    def _log_of(self, spec: HostSpec) -> FileLog:
        log = self._logs.get(spec.name)
        if log is None:
            log = self._logs[spec.name] = FileLog(self._directory / f"{spec.name}.log")
        return log

    async def _look_at_logs(self) -> None:
        while True:
            await asyncio.sleep(_LOOK_S)
            for log in self._logs.values():
                with contextlib.suppress(OSError):
                    log.bound()


async def _listening(process: Process, progress: Progress) -> Address | None:
    """Where it listens, None when it ends before."""
    assert process.stdout is not None
    async for line in process.stdout:
        word, _, rest = os.fsdecode(line).strip().partition(" ")
        if word == "loading":
            percent = whole_number(rest, 0, 100)
            if percent is not None:
                progress(percent)
        elif word == "listening":
            return parse(rest)  # a path may have spaces
    return None


async def _stop(process: Process | Orphan) -> None:
    if process.returncode is None:
        _signal(process, signal.SIGTERM)
        try:
            await asyncio.wait_for(process.wait(), _STOP_S)
        except TimeoutError:
            _signal(process, signal.SIGKILL)
            await process.wait()


def _signal(process: Process | Orphan, number: signal.Signals) -> None:
    """Not by asyncio's `send_signal`: that looks first whether it has ended, and so may take its
    status from who waits for that."""
    if isinstance(process, Orphan):
        process.send(number)
    elif process.returncode is None:
        with contextlib.suppress(ProcessLookupError):  # it has ended
            os.kill(process.pid, number)
