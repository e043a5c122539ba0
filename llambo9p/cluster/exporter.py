"""Metrics over HTTP, for scrapers and probes: GET and HEAD of a few pages, and no more.

prometheus_client's own server makes texts on threads of its own, while the loop changes what
they are made of; this one answers on the loop.  It takes one request a connection and
`_CONNECTIONS` at once, and gives each `_EXCHANGE_S` seconds, after which it is aborted whether or
not the client reads.  A connection counts until its socket is closed, so that it costs little
whoever connects.  There is no authentication: it listens where the configuration says, by default
on loopback.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from http import HTTPStatus
from typing import NamedTuple

from ..errors import Error
from ..net.sockets import explain

log = logging.getLogger(__name__)

_CONNECTIONS = 64
_EXCHANGE_S = 10.0
_HEADER_BYTES = 16 * 1024


class Page(NamedTuple):
    content_type: str
    body: bytes
    status: int = 200


class _BadRequest(Exception):
    """With the status that answers it."""

    def __init__(self, status: HTTPStatus) -> None:
        self.status = status


class Exporter:
    """`page(path, accept)` makes what is served, or None: not found."""

    def __init__(self, page: Callable[[str, str], Page | None]) -> None:
        self._page = page
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def listen(self, host: str, port: int) -> str:
        """Serve there; 0 is any port.  Returns the URL of the root.  Raises Error naming the
        address."""
        host_in_url = f"[{host}]" if ":" in host else host
        try:
            self._server = await asyncio.start_server(
                self._serve, host, port, limit=_HEADER_BYTES
            )
        except OSError as e:
            raise Error(f"cannot export metrics at {host_in_url}:{port}: {explain(e)}") from None
        return f"http://{host_in_url}:{self._server.sockets[0].getsockname()[1]}"

    async def close(self) -> None:
        if self._server is None:
            return
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        if len(self._tasks) >= _CONNECTIONS:
            writer.transport.abort()
            return
        self._tasks.add(task)
        closed = asyncio.ensure_future(writer.wait_closed())
        try:
            with contextlib.suppress(TimeoutError, OSError, asyncio.IncompleteReadError):
                async with asyncio.timeout(_EXCHANGE_S):
                    writer.write(await self._answer(reader))
                    writer.close()
                    # until the client has read all of it
                    await asyncio.shield(closed)
        except Exception:
            log.exception("a page could not be made")
        finally:
            writer.transport.abort()
            await asyncio.wait((closed,))
            closed.cancelled() or closed.exception()
            self._tasks.discard(task)

    async def _answer(self, reader: asyncio.StreamReader) -> bytes:
        try:
            method, path, accept = _parse(await reader.readuntil(b"\r\n\r\n"))
            page = self._page(path, accept)
            if page is None:
                raise _BadRequest(HTTPStatus.NOT_FOUND)
        except asyncio.LimitOverrunError:
            return _response("GET", _refusal(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE))
        except _BadRequest as e:
            return _response("GET", _refusal(e.status))
        return _response(method, page)


def _parse(head: bytes) -> tuple[str, str, str]:
    """Method, path without its query, and the Accept header."""
    request, *lines = head.decode("latin-1").split("\r\n")
    words = request.split(" ")
    if len(words) != 3 or not words[2].startswith("HTTP/1."):
        raise _BadRequest(HTTPStatus.BAD_REQUEST)
    method, target, _ = words
    if method not in ("GET", "HEAD"):
        raise _BadRequest(HTTPStatus.METHOD_NOT_ALLOWED)
    headers = (line.partition(":") for line in lines)
    accept = next((value for name, _, value in headers if name.lower() == "accept"), "")
    return method, target.partition("?")[0], accept.strip()


def _refusal(status: HTTPStatus) -> Page:
    return Page("text/plain; charset=utf-8", f"{status.phrase}\n".encode(), status)


def _response(method: str, page: Page) -> bytes:
    status = HTTPStatus(page.status)
    allow = "Allow: GET, HEAD\r\n" if status is HTTPStatus.METHOD_NOT_ALLOWED else ""
    head = (
        f"HTTP/1.1 {status.value} {status.phrase}\r\n"
        f"Content-Type: {page.content_type}\r\n"
        f"Content-Length: {len(page.body)}\r\n"
        f"{allow}"
        "Connection: close\r\n\r\n"
    )
    return head.encode() + (b"" if method == "HEAD" else page.body)
