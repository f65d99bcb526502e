"""Load for a service: arrivals, latencies from when a request was due, Little's law, the knee; and the theory."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from serve_cases import picture

from scaletut import serve
from scaletut.cli import main
from scaletut.errors import ParameterError
from scaletut.serve.load import Load, knee_of
from scaletut.serve.queueing import poisson_arrivals

SERVICE = 0.02  # seconds of the service below, which serves one request at a time


@contextlib.contextmanager
def one_at_a_time(
    seconds: float = SERVICE, stall: tuple[float, float] = (0.0, 0.0), idle: float = 60.0
) -> Iterator[str]:
    """An HTTP service with a known time of service; in `stall` (from, to, seconds after the start) it does nothing.

    Connections that say nothing for `idle` seconds are closed.
    """
    loop, turn, ready = asyncio.new_event_loop(), asyncio.Lock(), threading.Event()
    begun, port = time.monotonic(), 0

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError, asyncio.TimeoutError):
            while head := (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), idle)).decode():
                await reader.readexactly(int(head.split("content-length:")[1].split()[0]))
                async with turn:
                    now = time.monotonic() - begun
                    await asyncio.sleep(seconds + (stall[1] - now if stall[0] < now < stall[1] else 0))
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
        writer.close()

    async def run() -> None:
        nonlocal port
        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        ready.set()

    loop.create_task(run())
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    ready.wait(10)
    yield f"http://127.0.0.1:{port}"
    loop.call_soon_threadsafe(loop.stop)
    thread.join(10)


# --- theory ----------------------------------------------------------------------------


def test_the_simulated_queue_waits_as_long_as_the_formula_says() -> None:
    for busy in (0.3, 0.6, 0.85):
        arrivals = poisson_arrivals(busy / SERVICE, 4000 * SERVICE / busy * 10, seed=0)
        waited = serve.simulate(arrivals, fixed=SERVICE).mean() - SERVICE
        assert waited == pytest.approx(serve.mean_wait(busy / SERVICE, SERVICE), rel=0.1)
    assert serve.mean_wait(1 / SERVICE, SERVICE) == float("inf")
    assert serve.mean_wait(10, 0.05, 1.0) == pytest.approx(2 * serve.mean_wait(10, 0.05))  # M/M/1 against M/D/1


def test_the_simulated_queue_is_lindleys_recursion() -> None:
    arrivals = poisson_arrivals(40, 20, seed=1)
    waits = [0.0]
    for gap in np.diff(arrivals):
        waits.append(max(0.0, waits[-1] + SERVICE - gap))
    np.testing.assert_allclose(serve.simulate(arrivals, fixed=SERVICE), np.array(waits) + SERVICE)


def test_batches_are_closed_when_full_or_when_the_first_has_waited() -> None:
    by_hand = serve.simulate([0.0, 0.001, 0.002, 0.003, 0.5], fixed=0.1, per_image=0.01, most=2, wait=0.01)
    np.testing.assert_allclose(by_hand, [0.121, 0.12, 0.239, 0.238, 0.12])
    both = serve.simulate([0.0, 0.001, 0.002, 0.003], fixed=0.1, per_image=0.01, most=2, wait=0.01, workers=2)
    np.testing.assert_allclose(both, [0.121, 0.12, 0.121, 0.12])
    arrivals = poisson_arrivals(200, 10, seed=2)  # twice what one at a time could serve
    alone = serve.simulate(arrivals, fixed=0.009, per_image=0.001)
    batched = serve.simulate(arrivals, fixed=0.009, per_image=0.001, most=32)
    assert batched.mean() < 0.05 < 1 < alone.mean()


def test_the_cost_of_a_batch_and_the_knee_are_found_again() -> None:
    sizes = [1, 2, 4, 8, 16]
    assert serve.batch_cost(sizes, [0.003 + 0.001 * n for n in sizes]) == pytest.approx((0.003, 0.001))
    assert serve.batch_cost([1, 8], [0.001, 0.009]) == (0.0, pytest.approx(0.001, rel=0.1))  # the cache was full
    rates = np.linspace(1, 49, 97)
    latencies = [SERVICE + serve.mean_wait(rate, SERVICE) for rate in rates]
    at = serve.knee(rates, latencies)
    assert rates[at] * SERVICE == pytest.approx(2 - 2**0.5, abs=0.02)  # of M/D/1, from the derivative by hand
    assert rates[at] * latencies[at] == pytest.approx(1, abs=0.04)  # Kleinrock: one in the system


def test_arrivals_at_random_are_poisson_and_come_from_the_seed() -> None:
    one = poisson_arrivals(50, 400, seed=3)
    gaps = np.diff(one)
    assert len(one) == pytest.approx(20_000, abs=600)
    assert gaps.std() / gaps.mean() == pytest.approx(1, abs=0.03)
    assert (one == poisson_arrivals(50, 400, seed=3)).all()
    assert len(one) != len(poisson_arrivals(50, 400, seed=4))


@pytest.mark.parametrize(
    "call",
    [
        lambda: serve.utilisation(-1, 1),
        lambda: serve.mean_wait(1, 0.1, -1),
        lambda: poisson_arrivals(0, 1, 0),
        lambda: serve.simulate([1.0, 0.0], fixed=1),
        lambda: serve.simulate([0.0], fixed=-1),
        lambda: serve.batch_cost([4, 4], [1, 1]),
        lambda: serve.knee([], []),
        lambda: serve.open_loop("127.0.0.1:1", [b"x"], rate=1),
        lambda: serve.open_loop("http://127.0.0.1:1", [], rate=1),
        lambda: serve.closed_loop("http://127.0.0.1:1", [b"x"], clients=0),
    ],
)
def test_what_makes_no_sense_is_refused(call) -> None:
    with pytest.raises(ParameterError):
        call()


# --- measured ---------------------------------------------------------------------------


def test_open_load_of_a_known_service() -> None:
    rate = 25.0
    with one_at_a_time() as url:
        found = serve.open_loop(url, [b"x"], rate=rate, seconds=3, warm_up=0.2, seed=5)
    expected = poisson_arrivals(rate, 3.2, seed=5)
    predicted = serve.simulate(expected, fixed=SERVICE)[expected >= 0.2]
    assert found.statuses == {200: len(predicted)}
    assert found.latencies.min() >= SERVICE * 0.95
    np.testing.assert_array_less(predicted * 0.95, found.latencies)  # no request is faster than the queue before it
    assert found.in_system == pytest.approx(found.rate_times_latency, rel=0.2, abs=0.1)  # Little


def test_a_stall_is_in_the_latencies_of_all_that_were_due_in_it() -> None:
    """A generator that waits for its answer would count one slow request; forty were due."""
    with one_at_a_time(0.001, stall=(0.5, 1.3)) as url:
        found = serve.open_loop(url, [b"x"], rate=50, seconds=1.5, warm_up=0, seed=6)
        due = poisson_arrivals(50, 1.5, seed=6)
    waited = (found.latencies > 0.1).sum()
    assert waited >= 0.5 * ((due > 0.6) & (due < 1.1)).sum() > 8
    assert found.statuses == {200: len(due)}


def test_a_closed_loop_keeps_its_clients_and_no_more() -> None:
    with one_at_a_time() as url:
        found = serve.closed_loop(url, [b"x"], clients=4, seconds=1)
    assert found.in_system == pytest.approx(4, abs=0.3)
    assert found.throughput < 1.1 / SERVICE
    assert np.median(found.latencies) > 3.5 * SERVICE
    assert found.offered is None


def test_connections_that_the_service_has_closed_lose_no_request() -> None:
    with one_at_a_time(0.001, idle=0.05) as url:
        found = serve.open_loop(url, [b"x"], rate=8, seconds=1.5, warm_up=0, seed=7)  # gaps of an eighth of a second
    assert found.statuses == {200: len(poisson_arrivals(8, 1.5, seed=7))}


def test_nobody_there() -> None:
    with pytest.raises(serve.ServeError, match="nothing answers at"):
        serve.open_loop("http://127.0.0.1:9", [b"x"], rate=10, seconds=0.1)


def load(rate: float, latency: float, count: int = 10) -> Load:
    return Load(rate, 0, 1.0, {200: count}, np.full(count, latency), rate, rate * latency, rate * latency, 0.0)


def test_rounds_are_joined_by_their_rate() -> None:
    few, many = serve.join([load(20, 0.01), load(10, 0.02), load(20, 0.03, 30)])
    assert (few.offered, many.offered, many.seconds, many.n) == (10, 20, 2.0, 40)
    assert many.mean == pytest.approx(0.025)
    assert knee_of([few, many, load(30, 0.5)]).offered == 20
    nothing = Load(5, 0, 1.0, {0: 3}, np.empty(0), 0.0, 0.0, 0.0, 0.0)
    assert nothing.to_dict()["p50_ms"] is None
    with pytest.raises(serve.ServeError, match="no load was answered"):
        knee_of([nothing])


def test_the_command_sweeps_and_names_the_knee(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    file = tmp_path / "red.png"
    file.write_bytes(picture())
    with one_at_a_time(0.005) as url:
        words = ["load", url, "--image", str(file), "--seconds", "0.3", "--rate", "20,40,80"]
        assert main([*words, "--json", "-"]) == 0
        told = json.loads(capsys.readouterr().out)
        assert [one["offered"] for one in told["loads"]] == [20, 40, 80]
        assert told["knee"] in (20, 40, 80)
        assert main(["load", url, "--image", str(file), "--seconds", "0.2", "--clients", "2"]) == 0
        assert "2 clients" in capsys.readouterr().out
        for wrong in (["--rate", "0"], ["--rate", "a"], [], ["--rate", "5", "--clients", "1"]):
            assert main(["load", url, "--image", str(file), *wrong]) == 2
        assert main(["load", url, "--image", str(tmp_path / "absent.png"), "--rate", "5"]) == 2
    assert main(["load", "nowhere", "--image", str(file), "--rate", "5"]) == 2
