"""The process that speaks with Ray for an orchestrator, which is its parent.

Requests come on stdin and replies go to what was stdout, each a JSON object on a line:
`{"id", "verb", "with"}` or `{"cancel": id}`, and `{"id", "result"}`, `{"id", "error", "errno"}`
or, as the last words, `{"gone": why}`.  Verbs are the methods of `Verbs` without `_`.

It ends with its parent, and when its Ray cluster, or the node of it on this machine, is gone: the
parent starts another one then.  Until it is connected it is tried as often as it is asked.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import sys
from collections.abc import Mapping
from functools import partial
from typing import Any

import ray
import ray.exceptions
import ray.util

from ....errors import Busy, Error, NotFound
from ..base import End
from .actor import HostActor
from .places import Places

NAMESPACE = "llambo"
"""of all actors"""
_LINE_BYTES = 16 << 20
"""that a request may have"""
_LOOK_S = 2.0
"""between two looks whether Ray is there"""
_ANSWER_S = 5.0
"""for it to say so"""
_AGAIN_S = 0.2
"""to wait for Ray to forget an actor of the same name that has ended"""
_POLL_S = 10.0
"""that an actor waits for the end of its host in one call"""
_CALLS = 4
"""of an actor at once"""


class Verbs:
    """What can be asked for.  All raise Error."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        self._actors: dict[str, Any] = {}
        """by name"""

    async def connect(self) -> None:
        """To the cluster of `$RAY_ADDRESS`, or that of this machine."""
        if ray.is_initialized():
            return
        try:
            await asyncio.to_thread(
                ray.init,
                address="auto",
                namespace=NAMESPACE,
                log_to_driver=False,
                logging_level="ERROR",
            )
        except ConnectionError as e:
            at = os.environ.get("RAY_ADDRESS")
            where = f"answers at {at}, which is $RAY_ADDRESS" if at else "runs on this machine"
            raise Error(
                f"no Ray {where}: start one here with `ray start --head`, or make this machine a "
                "node of another's with `ray start --address HOST:PORT`"
            ) from e
        except (RuntimeError, OSError) as e:  # another version of Ray or Python, a full disk
            raise Error(f"Ray: {_first_line(e)}") from e
        self._driver.watch()

    async def start(
        self,
        name: str,
        need: dict[str, float],
        orphan_s: float,
        place_s: float,
        words: list[str],
        config: str,
        epoch: int,
        places: dict[str, Any],
    ) -> str:
        """Start a host of that epoch by the actor of that name, which Ray finds a place for in
        `place_s` seconds; where it listens.  When that fails or is cancelled there is no actor."""
        actor = await self._placed(name, need, orphan_s, place_s)
        self._actors[name] = actor
        try:
            call = actor.start.remote(words, config, epoch, Places(**places))
            address, error = await _reply(call)
            if error is not None:
                raise error
        except BaseException:
            await self.kill(name)
            raise
        return str(address)

    async def listens(self, name: str, epoch: int) -> str:
        """Where the host of that epoch listens, "" when it does not any more.  Raises NotFound."""
        actor = await self._actor(name)
        return str(await _reply(actor.listens.remote(epoch)))

    async def ended(self, name: str, epoch: int) -> End:
        """How the host of that epoch ended, when it has.  Raises NotFound."""
        # an actor that is started anew has no host to wait for
        ended = (await self._actor(name)).ended.options(max_task_retries=0)
        while (said := await _reply(ended.remote(epoch, _POLL_S))) is None:
            pass
        return End(*said)

    async def kill(self, name: str) -> None:
        with contextlib.suppress(NotFound):
            actor = await self._actor(name)
            del self._actors[name]
            await asyncio.to_thread(ray.kill, actor, no_restart=True)

    async def log_begin(self, name: str) -> int:
        # an actor that Ray is starting again has nothing to read
        asked = (await self._actor(name)).log_begin.options(max_task_retries=0)
        return int(await _reply(asked.remote()))

    async def log_read(self, name: str, position: int, count: int) -> str:
        """In base64."""
        asked = (await self._actor(name)).log_read.options(max_task_retries=0)
        said = await _reply(asked.remote(position, count))
        if isinstance(said, Error):
            raise said
        return base64.b64encode(said).decode()

    async def _actor(self, name: str) -> Any:
        """Raises NotFound."""
        if name not in self._actors:
            try:
                self._actors[name] = await asyncio.to_thread(ray.get_actor, name, NAMESPACE)
            except ValueError:
                raise NotFound(f"{NotFound.ename}: Ray's actor {name}") from None
        return self._actors[name]

    async def _placed(
        self, name: str, need: Mapping[str, float], orphan_s: float, place_s: float
    ) -> Any:
        options = {
            "name": name,
            "namespace": NAMESPACE,
            "get_if_exists": True,
            "lifetime": "detached",
            "max_restarts": -1,
            "max_task_retries": -1,
            "max_concurrency": _CALLS,
            "scheduling_strategy": "SPREAD",
        }
        make = ray.remote(HostActor).options(**options, **need)
        actor: Any = None
        try:
            async with asyncio.timeout(place_s):
                while True:
                    actor = await asyncio.to_thread(make.remote, orphan_s)
                    try:
                        await asyncio.wrap_future(actor.placed.remote().future())
                        return actor
                    except ray.exceptions.ActorDiedError:  # it was killed a moment ago
                        await asyncio.sleep(_AGAIN_S)
        except BaseException as e:
            if actor is not None:
                with contextlib.suppress(ValueError):
                    await asyncio.to_thread(ray.kill, actor, no_restart=True)
            if isinstance(e, TimeoutError):
                raise Busy(
                    f"{Busy.ename}: Ray found no place for {name.rpartition('/')[2]} in "
                    f"{place_s:g} s, which needs {need['num_cpus']:g} cores and "
                    f"{int(need['memory']) >> 20} MiB; `ray status` says what is in use"
                ) from None
            if isinstance(e, ray.exceptions.RayError):
                raise Error(f"Ray: {_first_line(e)}") from e
            raise


async def _reply(reference: Any) -> Any:
    """What an actor's method returned.  Raises Error."""
    try:
        return await asyncio.wrap_future(reference.future())
    except ray.exceptions.RayError as e:
        raise Error(f"Ray: {_first_line(e)}") from e


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


class Driver:
    """Reads requests and writes replies, in whatever order they come."""

    def __init__(self, replies: int) -> None:
        self._replies = replies
        """file descriptor"""
        self._verbs = Verbs(self)
        self._asked: dict[int, asyncio.Task[None]] = {}
        self._watching: asyncio.Task[None] | None = None

    async def serve(self) -> None:
        """Until end of file on stdin."""
        requests = asyncio.StreamReader(limit=_LINE_BYTES)
        await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(requests), sys.stdin
        )
        async for line in requests:
            request = json.loads(line)
            if "cancel" in request:
                if task := self._asked.get(request["cancel"]):
                    task.cancel()
                continue
            number = request["id"]
            task = asyncio.create_task(self._answer(number, request["verb"], request["with"]))
            self._asked[number] = task
            task.add_done_callback(partial(self._answered, number))
        if self._watching is None:
            os._exit(0)  # a thread may try to connect for minutes

    def _answered(self, number: int, task: asyncio.Task[None]) -> None:
        del self._asked[number]

    def watch(self) -> None:
        """End this process when Ray is gone, from now on."""
        self._watching = self._watching or asyncio.create_task(self._watch())

    async def _answer(self, number: int, verb: str, arguments: dict[str, Any]) -> None:
        try:
            result = await getattr(self._verbs, verb)(**arguments)
        except Error as e:
            self._tell({"id": number, "error": e.ename, "errno": e.errno})
        except Exception as e:
            self._tell({"id": number, "error": repr(e), "errno": Error.errno})
        else:
            self._tell({"id": number, "result": result})

    def _tell(self, message: dict[str, Any]) -> None:
        left = memoryview(json.dumps(message).encode() + b"\n")
        try:
            while left:
                left = left[os.write(self._replies, left) :]
        except BrokenPipeError:
            os._exit(0)

    async def _watch(self) -> None:
        node = ray.get_runtime_context().get_node_id()
        while True:
            await asyncio.sleep(_LOOK_S)
            try:
                async with asyncio.timeout(_ANSWER_S):
                    nodes = await asyncio.to_thread(ray.nodes)
                if any(each["NodeID"] == node and each["Alive"] for each in nodes):
                    continue
                why = "its node on this machine has ended"
            except TimeoutError:
                why = "it does not answer"
            except Exception as e:
                why = _first_line(e)
            self._tell({"gone": why})
            os._exit(1)  # an orderly end would ask Ray, too


def main() -> None:
    replies = os.dup(sys.stdout.fileno())
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # Ray prints
    asyncio.run(Driver(replies).serve())
    os._exit(0)  # actors are detached, and a thread may wait for Ray


if __name__ == "__main__":
    main()
