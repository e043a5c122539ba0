"""Starts hosts as subprocesses of this one, and says where they listen.

A host tells its progress on stdout, a line each: `loading PERCENT` while the model
loads, then `listening ADDR`.  Its log is on stderr; the last line of it is the
reason when it ends before it listens.  A host dies with its orchestrator: its stdin
is a pipe that nobody else holds, and end of file there is its order to stop.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import signal
import sys
from collections import deque
from collections.abc import Callable
from pathlib import Path

import yaml

from ..errors import Error, ModelError
from ..net.address import Address, parse
from .config import Limits, Monitoring, NodeType

PROGRAM = "llambo-worker"
"""what a host calls itself at the start of each line of its log"""
_STOP_S = 5.0
"""how long a host may take to stop by itself"""


class LocalHost:
    """A host process.  Make it with `start`."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.pid = process.pid
        self._log: deque[str] = deque(maxlen=50)
        self._log_task = asyncio.get_running_loop().create_task(self._read_log())

    @classmethod
    async def start(
        cls, directory: Path, type_name: str, node: NodeType, model: str, count: int, first: int,
        limits: Limits, admins: list[str], monitoring: Monitoring, progress: Callable[[int], None],
    ) -> tuple[LocalHost, Address]:
        """Start a host with `count` workers and wait until it listens.

        `model` is its node type's as the host knows it: a path, `default` or `simulated`.
        It listens on a unix socket in `directory`, which must be ours alone: so it knows
        us, and believes us as whom we attach; `admins` are administrators there, too.
        `progress` is told percents of the model's loading.  Raises Error with the host's
        own words when it ends before.
        """
        config = directory / "host.yaml"
        sections = {
            "limits": limits.model_dump(),
            "security": {"admins": admins},
            "monitoring": monitoring.model_dump(include={"log_format", "log_level"}),
        }
        config.write_text(yaml.safe_dump({"cluster": sections}))
        r = node.resources
        options = {
            "--listen": f"unix!{directory}/{first:04d}",
            "--config": config,
            "--model": model,
            "--count": count,
            "--first": first,
            "--type": type_name,
            "--context": r.context_size,
            "--slots": r.slots,
            "--memory": r.memory,
            "--cache-ram": r.cache_ram,
        }
        if r.threads is not None:
            options["--threads"] = r.threads
        words = [str(word) for option in options.items() for word in option]
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "llambo9p_nodes.worker", "--exit-with-stdin", *words,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
        )  # fmt: skip
        host = cls(process)
        try:
            return host, await host._wait_listening(model, progress)
        except BaseException:
            await host.stop()
            raise

    async def _wait_listening(self, model: str, progress: Callable[[int], None]) -> Address:
        assert self.process.stdout is not None
        async for line in self.process.stdout:
            words = line.decode(errors="replace").split()
            if words[:1] == ["loading"]:
                progress(int(words[1]))
            elif words[:1] == ["listening"]:
                return parse(words[1])
        code = await self.process.wait()
        await self._log_task
        if code < 0:
            raise ModelError(f"loading {model} crashed llama.cpp: {self._crash(-code)}")
        if not self._log:
            raise Error(f"host ended with {code}")
        raise Error(self._log[-1].removeprefix(f"{PROGRAM}: "))

    async def _read_log(self) -> None:
        assert self.process.stderr is not None
        async for line in self.process.stderr:
            text = line.decode(errors="replace").rstrip()
            self._log.append(text)
            print(f"host {self.pid}: {text}", file=sys.stderr, flush=True)

    def _crash(self, number: int) -> str:
        """The signal that ended it, and the assertion that failed, if one did."""
        name = {each.value: each.name for each in signal.Signals}.get(number, f"signal {number}")
        failed = (re.search(r"[^/]*GGML_ASSERT.*", line) for line in self._log)
        return ": ".join([name, *(found[0] for found in failed if found)])

    async def stop(self) -> None:
        """Ask it to stop, and kill it when it does not."""
        if self.process.returncode is None:
            assert self.process.stdin is not None
            self.process.stdin.close()
            try:
                await asyncio.wait_for(self.process.wait(), _STOP_S)
            except TimeoutError:
                with contextlib.suppress(ProcessLookupError):
                    self.process.kill()
                await self.process.wait()
        await self._log_task
