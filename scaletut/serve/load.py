"""Load for a service, and what came of it.

Latency is counted from when a request was due, not from when it could be sent: a generator that waits for slow
answers before it goes on leaves out the very requests that would have waited (Tene's "coordinated omission").

* Open loop: requests are due at random times whether or not earlier ones were answered, as from many independent users.
* Closed loop: so many clients, each of which sends its next request when it has its answer (Schroeder et al. 2006 on
  why the two must not be taken for each other).
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import urlsplit

import httptools
import numpy as np

from scaletut.errors import ParameterError
from scaletut.serve.queueing import knee, poisson_arrivals
from scaletut.serve.settings import ServeError

CONNECTIONS = (
    480  # at most: fewer than a service admits by default, more than its queue; others wait here, clock running
)
SAMPLE = 0.005  # seconds between two looks at how many requests are under way
LAST = 30.0  # seconds that the last answers may take
LOST = 0  # in place of a status: the connection broke, or no answer came

Looks = list[tuple[float, int]]


@dataclass(frozen=True)
class Load:
    """What a service did under a load.

    Attributes:
        offered: requests a second that were due; None for a closed loop.
        clients: of a closed loop; 0 for an open one.
        seconds: that were measured.
        statuses: how many requests ended with which HTTP status; 0: without one.
        latencies: seconds from due to answered, float64 (n,), of the answers with status 200, in the order in which
            they were due.
        throughput: answers with status 200 a second that arrived while it was measured.
        in_system: requests under way, the mean of looks every 5 ms, each weighted by the time since the one before.
        rate_times_latency: due requests a second times their mean latency, whatever their status: Little's law says
            that this is `in_system`.
        lateness: seconds by which the generator sent late, the 99th percentile; where it is not small against the
            latencies, the generator was the bottleneck.
    """

    offered: float | None
    clients: int
    seconds: float
    statuses: Mapping[int, int]
    latencies: np.ndarray = field(repr=False)
    throughput: float
    in_system: float
    rate_times_latency: float
    lateness: float

    @property
    def n(self) -> int:
        """Requests that were due."""
        return sum(self.statuses.values())

    @property
    def mean(self) -> float:
        """Mean latency in seconds; nan without an answer."""
        return float(self.latencies.mean()) if len(self.latencies) else float("nan")

    def quantile(self, share: float) -> float:
        """Latency in seconds that `share` of the answers undercut; nan without an answer."""
        return float(np.quantile(self.latencies, share)) if len(self.latencies) else float("nan")

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON; latencies as quantiles, in milliseconds."""
        quantiles = {f"p{round(100 * share)}": _milliseconds(self.quantile(share)) for share in (0.5, 0.95, 0.99)}
        return {
            "offered": self.offered,
            "clients": self.clients,
            "seconds": self.seconds,
            "n": self.n,
            "statuses": {str(status): count for status, count in sorted(self.statuses.items())},
            "throughput": self.throughput,
            "mean_ms": _milliseconds(self.mean),
            **{f"{name}_ms": value for name, value in quantiles.items()},
            "in_system": self.in_system,
            "rate_times_latency": self.rate_times_latency,
            "lateness_ms": _milliseconds(self.lateness),
        }


def open_loop(
    url: str,
    bodies: Sequence[bytes],
    *,
    rate: float,
    seconds: float = 5.0,
    warm_up: float = 0.5,
    seed: int = 0,
    content_type: str = "image/png",
) -> Load:
    """Requests that are due at random, `rate` a second on average.

    Args:
        url: of the service.
        bodies: what is sent, in turn.
        rate: of a Poisson process.
        seconds: that are measured.
        warm_up: seconds before, with the same load, that are not.
        seed: of the times of arrival.
        content_type: of the bodies.

    Raises:
        ServeError: nothing answers at `url`.
    """
    due = poisson_arrivals(rate, warm_up + seconds, seed)
    return _run(lambda client: client.open(due, warm_up, seconds, rate), url, bodies, content_type)


def closed_loop(
    url: str,
    bodies: Sequence[bytes],
    *,
    clients: int,
    seconds: float = 5.0,
    warm_up: float = 0.5,
    content_type: str = "image/png",
) -> Load:
    """`clients` that each send their next request when they have their answer; arguments as for `open_loop`."""
    if clients < 1 or not seconds > 0:
        raise ParameterError(f"clients={clients} must be 1 or more and seconds={seconds} above 0")
    return _run(lambda client: client.closed(clients, warm_up, seconds), url, bodies, content_type)


def sweep(
    url: str,
    bodies: Sequence[bytes],
    rates: Sequence[float],
    *,
    seconds: float = 5.0,
    rounds: int = 1,
    seed: int = 0,
    content_type: str = "image/png",
    report: Callable[[str], None] = lambda _: None,
) -> tuple[Load, ...]:
    """Open loops at several rates, `rounds` times, every second round backwards; the rounds' loads one after another.

    The rates of a round see the same machine, so that its moods do not pass for a property of a rate.
    """
    found = []
    for number in range(rounds):
        order = list(range(len(rates)))[:: -1 if number % 2 else 1]
        loads = {}
        for at in order:
            report(f"{rates[at]:g} requests/s, round {number + 1} of {rounds}")
            arrivals = seed + 1000 * number + at
            loads[at] = open_loop(
                url, bodies, rate=rates[at], seconds=seconds, seed=arrivals, content_type=content_type
            )  # fmt: skip
        found += [loads[at] for at in range(len(rates))]
    return tuple(found)


def join(loads: Sequence[Load]) -> tuple[Load, ...]:
    """The rounds of each offered rate (or number of clients) as one load, in rising order."""
    groups: dict[tuple[float, int], list[Load]] = {}
    for one in loads:
        groups.setdefault((one.offered or 0.0, one.clients), []).append(one)
    return tuple(_joined(groups[key]) for key in sorted(groups))


def knee_of(loads: Sequence[Load]) -> Load:
    """The one with the most throughput for its mean latency, see `queueing.knee`; ServeError when none answered."""
    able = [one for one in loads if one.throughput > 0 and len(one.latencies)]
    if not able:
        raise ServeError("no load was answered, so there is no knee; look at the statuses")
    return able[knee([one.throughput for one in able], [one.mean for one in able])]


def _joined(loads: Sequence[Load]) -> Load:
    seconds = np.array([one.seconds for one in loads])
    mean = lambda name: float(np.average([getattr(one, name) for one in loads], weights=seconds))  # noqa: E731
    statuses = {code for one in loads for code in one.statuses}
    return replace(
        loads[0],
        seconds=float(seconds.sum()),
        statuses={code: sum(one.statuses.get(code, 0) for one in loads) for code in sorted(statuses)},
        latencies=np.concatenate([one.latencies for one in loads]),
        throughput=mean("throughput"),
        in_system=mean("in_system"),
        rate_times_latency=mean("rate_times_latency"),
        lateness=max(one.lateness for one in loads),
    )


# --- the generator -----------------------------------------------------------------


@dataclass
class _Request:
    due: float  # seconds from the start, as all times here
    sent: float = 0.0
    done: float = 0.0
    status: int = LOST


class _Client:
    """Connections to one service, and the requests that were due."""

    def __init__(self, host: str, port: int, requests: Sequence[bytes]) -> None:
        self.host, self.port = host, port
        self._bodies = requests
        self._free: list[_Connection] = []
        self._open = 0
        self._no_connection: deque[asyncio.Future[None]] = deque()
        self._start = 0.0
        self.requests: list[_Request] = []
        self.under_way = 0

    async def open(self, due: np.ndarray, warm_up: float, seconds: float, rate: float) -> Load:
        """Send each request when it is due."""
        loop, tasks = asyncio.get_running_loop(), []
        last: asyncio.Future[None] = loop.create_future()

        def begin(at: float) -> None:
            tasks.append(loop.create_task(self.send(at)))

        with self._watched(warm_up, seconds) as looks:
            # The clock of an event loop has steps of a millisecond, that of a sleeping thread has not.
            pace = threading.Thread(target=self._pace, args=(due, loop, begin, last), daemon=True)
            pace.start()
            await last
            await asyncio.sleep(max(0.0, warm_up + seconds - self.now()))
        if tasks:
            await asyncio.wait(tasks, timeout=LAST)
        return self._load(warm_up, seconds, looks, rate, 0)

    async def closed(self, clients: int, warm_up: float, seconds: float) -> Load:
        """Each client sends when it has its answer."""

        async def client() -> None:
            while self.now() < warm_up + seconds:
                if await self.send(self.now()) == LOST:
                    await asyncio.sleep(0.1)  # whoever is refused a connection does not try a thousand times a second

        with self._watched(warm_up, seconds) as looks:
            await asyncio.wait([asyncio.create_task(client()) for _ in range(clients)], timeout=seconds + LAST)
        return self._load(warm_up, seconds, looks, None, clients)

    def now(self) -> float:
        """Seconds since the start."""
        return time.perf_counter() - self._start

    async def send(self, due: float) -> int:
        """Send one request and wait for its answer; its status."""
        request = _Request(due)
        self.requests.append(request)
        self.under_way += 1
        try:
            connection = await self._connection()
            request.sent = self.now()
            body = self._bodies[len(self.requests) % len(self._bodies)]
            request.status = await connection.ask(body)
            self._give_back(connection)
        except OSError:
            self._give_back(None)
        finally:
            request.done = self.now()
            self.under_way -= 1
        return request.status

    def close(self) -> None:
        """Close all connections."""
        for one in self._free:
            one.transport.close()

    async def _connection(self) -> _Connection:
        while True:
            while self._free:
                if (idle := self._free.pop()).keeps:
                    return idle
                self._open -= 1  # closed by the service meanwhile
            if self._open < CONNECTIONS:
                break
            turn = asyncio.get_running_loop().create_future()
            self._no_connection.append(turn)
            await turn
        self._open += 1
        make = asyncio.get_running_loop().create_connection(_Connection, self.host, self.port)
        return (await make)[1]

    def _give_back(self, connection: _Connection | None) -> None:
        if connection is None or not connection.keeps:
            self._open -= 1
        else:
            self._free.append(connection)
        if self._no_connection:
            self._no_connection.popleft().set_result(None)

    def _pace(self, due: np.ndarray, loop: Any, begin: Callable[[float], None], last: asyncio.Future[None]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop was closed: interrupted
            for at in due.tolist():
                time.sleep(max(0.0, at - self.now()))
                loop.call_soon_threadsafe(begin, at)
            loop.call_soon_threadsafe(lambda: last.done() or last.set_result(None))

    @contextlib.contextmanager
    def _watched(self, warm_up: float, seconds: float) -> Iterator[Looks]:
        """Looks (seconds since the last, requests under way), from the end of the warm-up to the end."""
        looks: Looks = []

        async def look() -> None:
            await asyncio.sleep(warm_up)
            last = self.now()
            while last < warm_up + seconds:
                await asyncio.sleep(SAMPLE)
                looks.append((self.now() - last, self.under_way))
                last = self.now()

        self._start = time.perf_counter()
        looking = asyncio.get_running_loop().create_task(look())
        try:
            yield looks
        finally:
            looking.cancel()

    def _load(self, warm_up: float, seconds: float, looks: Looks, rate: float | None, clients: int) -> Load:
        """What the requests that were due while it was measured say."""
        end = warm_up + seconds
        counted = [one for one in self.requests if warm_up <= one.due < end]
        for one in counted:
            one.done = one.done or self.now()
        answered = sum(one.status == 200 and warm_up <= one.done < end for one in self.requests)
        latencies = np.array([one.done - one.due for one in counted if one.status == 200], np.float64)
        late = [one.sent - one.due for one in counted if one.sent]
        codes = sorted({one.status for one in counted})
        return Load(
            offered=rate,
            clients=clients,
            seconds=seconds,
            statuses={code: sum(one.status == code for one in counted) for code in codes},
            latencies=latencies,
            throughput=answered / seconds,
            in_system=sum(gap * count for gap, count in looks) / max(sum(gap for gap, _ in looks), 1e-9),
            rate_times_latency=sum(one.done - one.due for one in counted) / seconds,
            lateness=float(np.quantile(late, 0.99)) if late else 0.0,
        )


class _Connection(asyncio.Protocol):
    """One connection that is kept open; one request at a time."""

    def __init__(self) -> None:
        self.keeps = True
        self.transport: asyncio.Transport
        self._parser = httptools.HttpResponseParser(self)
        self._answer: asyncio.Future[int] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]

    async def ask(self, request: bytes) -> int:
        """Send and wait for the status of the answer. Raises OSError when the connection breaks."""
        self._answer = asyncio.get_running_loop().create_future()
        if self.transport.is_closing():
            raise ConnectionResetError("closed by the service")
        self.transport.write(request)
        return await self._answer

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self.transport.close()

    def on_message_complete(self) -> None:
        """Called by the parser."""
        self.keeps = self._parser.should_keep_alive()
        status = self._parser.get_status_code()
        if not self.keeps:
            self.transport.close()
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(status)
        self._parser = httptools.HttpResponseParser(self)

    def connection_lost(self, error: Exception | None) -> None:
        self.keeps = False
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(ConnectionResetError("the connection broke"))


def _run(measure: Callable[[_Client], Any], url: str, bodies: Sequence[bytes], content_type: str) -> Load:
    """Measure in a thread with an event loop of its own: a notebook's own loop is running already."""
    parts = urlsplit(url)
    if parts.scheme != "http" or not parts.hostname:
        raise ParameterError(f"{url!r} is not an address such as http://127.0.0.1:8000")
    if not bodies:
        raise ParameterError("there is nothing to send; give one body or more")
    host, port = parts.hostname, parts.port or 80
    client = _Client(host, port, [_message(parts.netloc, one, content_type) for one in bodies])

    async def whole() -> Load:
        try:
            _, writer = await asyncio.open_connection(host, port)
            writer.close()
        except OSError as error:
            raise ServeError(f"nothing answers at {url} ({error.strerror or error}); is the service running?") from None
        try:
            return await measure(client)
        finally:
            client.close()

    with ThreadPoolExecutor(1, "load") as thread:
        return thread.submit(asyncio.run, whole()).result()


def _message(host: str, body: bytes, content_type: str) -> bytes:
    head = (
        f"POST /predict HTTP/1.1\r\nhost: {host}\r\ncontent-type: {content_type}\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    return head.encode("latin-1") + body


def _milliseconds(seconds: float) -> float | None:
    return None if np.isnan(seconds) else 1e3 * seconds
