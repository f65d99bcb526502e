"""What keeps clients that are slow, endless or many from costing others anything.

Three bounds, each where the bytes come in: headers (`guarded_protocol`), bodies (`Bodies`), and what a client goes on
to send after it was answered (`Lingering`).
Where there are too many at once, the one that has been sending for longest is closed: an honest request is sent in
milliseconds, so it is never that one.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from uvicorn.protocols.http.auto import AutoHTTPProtocol

from scaletut.serve.settings import Refused, Settings

MOST_HEADER = 32_768  # bytes of a request's line and headers
LINGER = 1.0  # seconds in which a refused client may read the answer while it still sends
GONE = 499  # "client closed request", as nginx counts it; nobody is left to read it

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


class Bodies:
    """Reads bodies, of bounded size, in bounded time, holding a bounded number of bytes in all."""

    def __init__(self, settings: Settings) -> None:
        self.most, self.slow = settings.max_bytes, settings.slow
        self.most_held = 16 * settings.max_bytes
        self.held = 0
        self._reading: dict[asyncio.Future[Refused], None] = {}  # the oldest first

    async def read(self, headers: Any, receive: Receive) -> bytes:
        """The whole body of a request.

        Raises Refused: too large (413), too slow (408), or gone (499).
        """
        declared = headers.get("content-length", "")
        if declared.isdecimal() and int(declared) > self.most:
            raise self._too_large()
        loop = asyncio.get_running_loop()
        over = loop.create_future()
        timer = loop.call_later(self.slow, _end, over, f"the request took more than {self.slow:g} s to arrive")
        self._reading[over] = None
        parts: list[bytes] = []
        size = 0
        try:
            more = True
            while more:
                message = await _either(receive, over)
                if message["type"] == "http.disconnect":
                    raise Refused(GONE, "the client went away")
                part, more = message.get("body", b""), message.get("more_body", False)
                parts.append(part)
                size += len(part)
                self._hold(len(part))
                if size > self.most:
                    raise self._too_large()
            return b"".join(parts)
        finally:
            timer.cancel()
            self._reading.pop(over, None)
            self.held -= size

    def _hold(self, size: int) -> None:
        self.held += size
        if self.held > self.most_held and (oldest := next(iter(self._reading), None)):
            del self._reading[oldest]
            _end(oldest, "this request was the slowest of too many large ones")

    def _too_large(self) -> Refused:
        return Refused(413, f"more than {self.most:,} bytes in one request; send a smaller picture")


async def _either(receive: Receive, over: asyncio.Future[Refused]) -> Message:
    """The next message, or what `over` says."""
    if not over.done():
        coming = asyncio.ensure_future(receive())
        await asyncio.wait((coming, over), return_when=asyncio.FIRST_COMPLETED)
        if not over.done():
            return coming.result()
        coming.cancel()
    raise over.result()


def _end(over: asyncio.Future[Refused], why: str) -> None:
    if not over.done():
        over.set_result(Refused(408, f"{why}; send it faster, or a smaller picture"))


class Lingering:
    """An ASGI application that answers clients which are still sending so that they can read the answer.

    A connection that is closed while bytes come in is reset, and the answer is lost with it. So the answer is sent
    whole, what else comes is thrown away for a moment, and then the connection is closed.
    """

    def __init__(self, app: Callable[[Message, Receive, Send], Awaitable[None]]) -> None:
        self.app = app

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Serve one request."""
        headers = dict(scope.get("headers", ()))
        sending = headers.get(b"content-length", b"0") != b"0" or b"transfer-encoding" in headers
        asked = b"expect" not in headers  # a client that expects `100 Continue` sends nothing before it was asked

        async def heard() -> Message:
            nonlocal sending, asked
            asked = True
            message = await receive()
            sending = message["type"] == "http.request" and message.get("more_body", False)
            return message

        async def drained() -> None:
            while sending:
                await heard()

        async def said(message: Message) -> None:
            if sending and message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", ()), (b"connection", b"close")]}
            elif sending and asked and not message.get("more_body", False):
                await send({**message, "more_body": True})
                with contextlib.suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(drained(), LINGER)
                message = {"type": "http.response.body", "body": b""}
            await send(message)

        await self.app(scope, heard, said)


def guarded_protocol(settings: Settings) -> type[asyncio.Protocol]:
    """uvicorn's HTTP protocol with bounds on what comes before a request is complete.

    A header may take `settings.slow` seconds (408) and 32 KiB (431). Beyond `settings.connections` open connections,
    the one that has been sending, or silent, for longest is closed (408).
    """
    patient: dict[asyncio.Protocol, None] = {}  # connections that we wait for, the oldest first

    class Guarded(AutoHTTPProtocol):  # type: ignore[misc, valid-type]
        timer: asyncio.TimerHandle | None = None
        header = 0  # bytes

        def connection_made(self, transport: asyncio.Transport) -> None:
            super().connection_made(transport)
            self._wait()
            while len(self.connections) > settings.connections and patient:
                next(iter(patient))._close(408, "too many connections, and this one was the slowest")

        def data_received(self, data: bytes) -> None:
            self.header += len(data)
            super().data_received(data)
            if self.transport.is_closing():
                return
            if self._answering():
                self._come()
            elif self.header > MOST_HEADER:
                self._close(431, f"the header has more than {MOST_HEADER} bytes")
            elif self.timer is None:
                self._wait()

        def on_response_complete(self) -> None:
            super().on_response_complete()
            self.header = 0
            patient[self] = None

        def connection_lost(self, exc: Exception | None) -> None:
            self._come()
            patient.pop(self, None)
            super().connection_lost(exc)

        def _answering(self) -> bool:
            """Whether a header is complete and its answer is not; bodies have bounds of their own."""
            return self.cycle is not None and not self.cycle.response_complete

        def _wait(self) -> None:
            patient.setdefault(self)
            why = f"no whole header within {settings.slow:g} s"
            self.timer = self.loop.call_later(settings.slow, self._close, 408, why)

        def _come(self) -> None:
            if self.timer is not None:
                self.timer.cancel()
                self.timer = None
            if self.cycle is not None and not self.cycle.more_body:
                patient.pop(self, None)

        def _close(self, status: int, why: str) -> None:
            patient.pop(self, None)
            if self.transport.is_closing():
                return
            if self.header and not self._answering():
                self.transport.write(_plain_answer(status, why))
            self.transport.close()

    return Guarded


def _plain_answer(status: int, why: str) -> bytes:
    phrase = {408: "Request Timeout", 431: "Request Header Fields Too Large"}[status]
    body = f'{{"error": "{why}"}}'
    return (
        f"HTTP/1.1 {status} {phrase}\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n"
        f"connection: close\r\n\r\n{body}"
    ).encode()
