"""The service under load: what a request costs beside the computation, the knee, and what a second worker gives.

    python benchmarks/serving.py network.onnx [--seconds 8] [--rounds 5] [--json FILE]
    python benchmarks/serving.py network.onnx --waits 0s 1ms 2ms 5ms

* overhead: latency of a closed loop of one client, beside the program called in this process, in turns;
* capacity: a closed loop of 16 clients against one worker and two, in turns, and the ratio with its interval;
* knee: open loads at shares of the capacity of one worker, in interleaved rounds;
* `--waits`: also the latency at a tenth and the throughput at the most, by the time that a batch waits for others.

Pictures are noise of the program's size as PNG. Run it on a machine that does nothing else; the load is printed first.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import time
from pathlib import Path
from statistics import median

import numpy as np
from PIL import Image

from scaletut import serve
from scaletut.compress.program import Program
from scaletut.files import atomic_write

SHARES = (0.1, 0.25, 0.4, 0.55, 0.7, 0.8, 0.9, 1.0, 1.2)
CLIENTS = 16


def main() -> None:
    options = _options()
    program = Program.load(options.model)
    print(f"{program.path.name}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.2f}")
    images = np.random.default_rng(0).integers(0, 256, (32, program.side, program.side, 3), dtype=np.uint8)
    bodies = [_png(one) for one in images]
    found = {"load": os.getloadavg()[0]}
    with serve.running(program.path) as one, serve.running(program.path, workers=2) as two:
        found["overhead"] = overhead(program, one.url, images, bodies, options)
        found["capacity"] = capacity((one.url, two.url), bodies, options)
        found["knee"] = knee(one.url, bodies, found["capacity"]["one"], options)
    if options.waits:
        found["waits"] = waits(program, bodies, found["capacity"]["one"], options)
    if options.json:
        atomic_write(options.json, json.dumps(found, indent=1) + "\n")


def overhead(program: Program, url: str, images: np.ndarray, bodies: list[bytes], options) -> dict:
    """Milliseconds of the bare program and of a request, one image at a time."""
    run = program.predictor(threads=1)
    bare, asked = [], []
    for _ in range(options.rounds):
        for image in images[:, None]:
            begun = time.perf_counter()
            run(image)
            bare.append(time.perf_counter() - begun)
        asked.append(serve.closed_loop(url, bodies, clients=1, seconds=min(2.0, options.seconds)).quantile(0.5))
    told = {"program_ms": 1e3 * median(bare), "request_ms": 1e3 * median(asked)}
    print(f"program {told['program_ms']:.2f} ms, request {told['request_ms']:.2f} ms, 2 ms of it for others to come")
    return told


def capacity(urls: tuple[str, str], bodies: list[bytes], options) -> dict:
    """Requests a second of one worker and of two."""
    from scaletut.resources.throughput import summary

    reached: dict[str, list[float]] = {url: [] for url in urls}
    for turn in range(max(3, options.rounds)):
        for url in urls[:: -1 if turn % 2 else 1]:
            load = serve.closed_loop(url, bodies, clients=CLIENTS, seconds=options.seconds)
            reached[url].append(load.throughput)
    one, two = (reached[url] for url in urls)
    ratio = summary([b / a for a, b in zip(one, two, strict=True)])
    print(f"one worker {median(one):.0f} requests/s, two {median(two):.0f}")
    print(f"ratio {ratio.value:.2f} ({ratio.low:.2f} to {ratio.high:.2f}, {ratio.n} rounds)")
    return {"one": median(one), "two": median(two), "ratio": ratio.value, "low": ratio.low, "high": ratio.high}


def knee(url: str, bodies: list[bytes], most: float, options) -> dict:
    """Open loads, and the one with the most throughput for its latency."""
    rates = [share * most for share in SHARES]
    joined = serve.join(serve.sweep(url, bodies, rates, seconds=options.seconds, rounds=options.rounds))
    for share, one in zip(SHARES, joined, strict=True):
        tails = ", ".join(f"p{100 * at:.0f} {1e3 * one.quantile(at):.1f} ms" for at in (0.5, 0.95, 0.99))
        print(
            f"{share:5.0%} {one.offered:7.0f}/s offered {one.throughput:7.0f}/s answered, {tails}; "
            f"inside {one.in_system:.2f}, rate x latency {one.rate_times_latency:.2f}; n = {one.n:,}"
        )
    best = serve.knee_of(joined)
    print(f"the knee: {best.offered:.0f} requests/s, {best.in_system:.2f} inside")
    return {"loads": [one.to_dict() for one in joined], "knee": best.offered}


def waits(program: Program, bodies: list[bytes], most: float, options) -> list[dict]:
    """What waiting for others costs when few come, and gives when many do."""
    found = []
    for wait in options.waits:
        with serve.running(program.path, max_wait=wait) as service:
            few = serve.open_loop(service.url, bodies, rate=0.1 * most, seconds=options.seconds)
            many = serve.closed_loop(service.url, bodies, clients=64, seconds=options.seconds)
        found.append({"wait": wait, "p50_ms": 1e3 * few.quantile(0.5), "throughput": many.throughput})
        print(f"wait {wait}: p50 {found[-1]['p50_ms']:.1f} ms at a tenth, {many.throughput:.0f} requests/s at most")
    return found


def _png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="an exported program")
    parser.add_argument("--seconds", type=float, default=8.0, help="of each load")
    parser.add_argument("--rounds", type=int, default=5, help="of each comparison")
    parser.add_argument("--waits", nargs="*", default=[], help="times to wait for others, such as 0s 2ms")
    parser.add_argument("--json", type=Path, help="write what was found")
    return parser.parse_args()


if __name__ == "__main__":
    main()
