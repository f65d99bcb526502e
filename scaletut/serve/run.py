"""Start a service and end it well; in this process, or in another one for as long as a block lasts."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import urlopen

import uvicorn

from scaletut.compress.program import Program
from scaletut.errors import ParameterError
from scaletut.serve.app import make_app
from scaletut.serve.guard import Lingering, guarded_protocol
from scaletut.serve.metrics import Metrics
from scaletut.serve.pool import Pool
from scaletut.serve.settings import ServeError, Settings

DRAIN = 60  # seconds that accepted requests have when the service is told to end
START = 120.0  # seconds that a service may take to start
ADDRESS = "http://"  # what its first line starts with, behind the model's name


def serve(
    program: Program,
    settings: Settings,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    ready: Callable[[str], None] = lambda _: None,
) -> None:
    """Serve a program until Ctrl-C or SIGTERM; then no connection is taken, and every accepted request is answered.

    Args:
        program: what is served.
        settings: how.
        host: address to listen on; 127.0.0.1 is this machine alone, 0.0.0.0 everybody who can reach it.
        port: 0 for any that is free.
        ready: called with the service's address when it can take requests.

    Raises:
        ParameterError: the address cannot be listened on, usually because another program does.
        ServeError: the inference processes cannot start.
    """
    with _listening(host, port) as listener:
        name = f"[{host}]" if ":" in host else host
        address = f"http://{name}:{listener.getsockname()[1]}"
        loop = _new_loop()
        try:
            loop.run_until_complete(_serve(program, settings, listener, lambda: ready(address)))
        finally:
            loop.close()


async def _serve(program: Program, settings: Settings, listener: socket.socket, ready: Callable[[], None]) -> None:
    metrics = Metrics()
    pool = Pool(program, settings, metrics)
    await pool.start()
    try:
        config = uvicorn.Config(
            Lingering(make_app(pool, metrics)),
            http=guarded_protocol(settings),
            ws="none",
            lifespan="off",
            log_level="error",
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=DRAIN,
        )
        server = uvicorn.Server(config)
        telling = asyncio.create_task(_tell(server, ready))
        with _signals_end_quietly():
            await server.serve(sockets=[listener])
        telling.cancel()
    finally:
        await pool.close()


async def _tell(server: uvicorn.Server, ready: Callable[[], None]) -> None:
    while not server.started:
        await asyncio.sleep(0.01)
    ready()


@contextlib.contextmanager
def _listening(host: str, port: int) -> Iterator[socket.socket]:
    if not 0 <= port <= 65535:
        raise ParameterError(f"port {port} does not exist; they go from 0 (any that is free) to 65535")
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(2048)
    except OSError as error:
        raise ParameterError(
            f"{host}:{port} cannot be listened on ({error.strerror}); choose another --port (0: any that is free)"
        ) from None
    with listener:
        yield listener


@contextlib.contextmanager
def _signals_end_quietly() -> Iterator[None]:
    """uvicorn raises the signal that ended it once more when all is answered; then nothing is left to end."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {one: signal.signal(one, lambda *_: None) for one in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)


def _new_loop() -> asyncio.AbstractEventLoop:
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


# --- in another process --------------------------------------------------------------


@dataclass(frozen=True)
class Service:
    """A service that runs in another process.

    Attributes:
        url: its address.
        pid: of its main process.
    """

    url: str
    pid: int

    def health(self) -> dict[str, Any]:
        """What `/health` says."""
        try:
            with urlopen(f"{self.url}/health", timeout=10) as answer:
                return json.load(answer)
        except HTTPError as error:  # not ready: that is an answer too
            return json.load(error)

    def metrics(self) -> dict[str, float]:
        """What `/metrics` says: each line's name, labels included, and number."""
        with urlopen(f"{self.url}/metrics", timeout=10) as answer:
            lines = answer.read().decode().splitlines()
        pairs = (line.rsplit(" ", 1) for line in lines if line and not line.startswith("#"))
        return {name: float(number) for name, number in pairs}

    def worker_pids(self) -> list[int]:
        """Of the inference processes that are ready."""
        return [one["pid"] for one in self.health()["workers"]]


@contextlib.contextmanager
def running(model: Path | str, **options: Any) -> Iterator[Service]:
    """A service in a process of its own, on a free port, for as long as the block lasts.

    Args:
        model: the exported program.
        options: of `scaletut serve`, such as `workers=2` or `max_wait="2ms"`.

    Raises:
        ServeError: it did not start; the message is what it said.
    """
    words = [f"--{name.replace('_', '-')}={value}" for name, value in {"port": 0, **options}.items()]
    command = [sys.executable, "-m", "scaletut", "serve", str(model), *words]
    quiet = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    with tempfile.TemporaryFile("w+b") as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, env=quiet, text=True)
        try:
            yield Service(_address(process, log), process.pid)
        finally:
            process.terminate()
            try:
                process.wait(DRAIN)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            process.stdout.close()


def _address(process: subprocess.Popen[str], log: Any) -> str:
    """The address in the service's first line."""
    timer = threading.Timer(START, process.kill)
    timer.start()
    try:
        line = process.stdout.readline()
    finally:
        timer.cancel()
    if ADDRESS not in line:
        time.sleep(0.1)  # its last words
        log.seek(0)
        said = log.read().decode(errors="replace").strip().splitlines() or ["it said nothing"]
        raise ServeError(f"the service did not start: {said[-1]}")
    return ADDRESS + line.split(ADDRESS)[1].split()[0]
