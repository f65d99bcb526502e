"""The commands of the serving room. They print; the room computes."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from scaletut.errors import ParameterError

if TYPE_CHECKING:
    from scaletut.serve.load import Load


def run_serve(options: argparse.Namespace) -> int:
    """`scaletut serve`: answer requests with an exported program until Ctrl-C."""
    from scaletut.compress.program import Program
    from scaletut.serve.run import serve
    from scaletut.serve.settings import Settings
    from scaletut.sizes import size_in_bytes, time_in_seconds

    settings = Settings(
        workers=options.workers,
        max_batch=options.max_batch,
        max_wait=time_in_seconds(options.max_wait),
        queue=options.queue,
        max_bytes=size_in_bytes(options.max_bytes),
        max_images=min(options.max_images, options.queue),
        slow=time_in_seconds(options.slow),
        patience=time_in_seconds(options.patience),
        connections=options.connections,
    )
    program = Program.load(options.model)

    def ready(address: str) -> None:
        processes = f"{settings.workers} inference process{'es' if settings.workers > 1 else ''}"
        print(f"{program.path.name} at {address} with {processes}; Ctrl-C ends it", flush=True)

    serve(program, settings, host=options.host, port=options.port, ready=ready)
    print("ended; every accepted request was answered")
    return 0


def run_load(options: argparse.Namespace) -> int:
    """`scaletut load`: load for a service, what came of it, and the knee."""
    from scaletut.cli_output import write_json
    from scaletut.serve.load import closed_loop, join, knee_of, sweep

    rates, bodies = _rates(options.rate), [_read(path) for path in options.image]
    if bool(rates) == bool(options.clients):
        raise ParameterError("give either --rate for requests that come at random, or --clients for a closed loop")
    kind = "image/*"  # the service looks at the content
    if rates:
        loads = sweep(
            options.url, bodies, rates, seconds=options.seconds, rounds=options.rounds, seed=options.seed,
            content_type=kind, report=lambda text: print(text, file=sys.stderr),
        )  # fmt: skip
    else:
        loads = tuple(
            closed_loop(options.url, bodies, clients=options.clients, seconds=options.seconds, content_type=kind)
            for _ in range(options.rounds)
        )
    found = join(loads)
    best = knee_of(found) if len(found) > 2 else None
    told = {"loads": [one.to_dict() for one in found], "knee": best.offered if best else None}
    if not write_json(told, options.json):
        print("\n".join(_load_lines(found, best)))
    return 0


def _rates(text: str) -> list[float]:
    try:
        rates = [float(word) for word in text.split(",")] if text else []
    except ValueError:
        rates = [0.0]
    if any(not 0 < rate < float("inf") for rate in rates):
        raise ParameterError(f"--rate {text!r} must be numbers above 0 with commas between, such as 50,100,200")
    return rates


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ParameterError(f"{path} cannot be read ({error.strerror}); name a picture") from None


def _load_lines(found: Sequence[Load], best: Load | None) -> list[str]:
    heads = ("offered/s", "answered/s", "p50 ms", "p95 ms", "p99 ms", "in system", "rate x W", "n", "not answered")
    lines = ["  ".join(f"{head:>10}" for head in heads)]
    for one in found:
        offered = f"{one.offered:,.0f}" if one.offered else f"{one.clients} clients"
        times = (f"{1e3 * one.quantile(share):.1f}" for share in (0.5, 0.95, 0.99))
        inside = (f"{one.in_system:.2f}", f"{one.rate_times_latency:.2f}")
        counts = (f"{one.n:,}", f"{one.n - one.statuses.get(200, 0):,}")
        cells = (offered, f"{one.throughput:,.0f}", *times, *inside, *counts)
        lines.append("  ".join(f"{cell:>10}" for cell in cells))
    if best is not None:
        lines += ["", f"the knee: {best.offered:,.0f} requests/s, the most throughput for its latency"]
    return lines
