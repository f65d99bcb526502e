"""Latency of one network as PyTorch runs it, compiled, and as programs: float at each optimisation level, int8.

    python benchmarks/compress_programs.py resnet20 efficientnet-lite0 --seconds 60

Weights are untrained (but for ImageNet's of efficientnet-lite0) and images are noise: speed and bytes only. Run it on a
quiet machine; the load before each run is printed.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from scaletut.compress import (
    Program,
    compiled,
    eager,
    export,
    instruction_set,
    latencies,
    nodes,
    quantise_dynamic,
    quantise_static,
    runner,
)
from scaletut.models import build

NORMALISATION = ((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))


def programs(net: nn.Module, images: np.ndarray, folder: Path) -> dict[str, Program]:
    """The network in float, in int8, in int8 but for its first layer, and in dynamic int8."""
    names = [str(number) for number in range(net.spec.num_classes)]
    plain = export(net, folder / "float.onnx", normalisation=NORMALISATION, class_names=names, images=images)
    first = next(name for name, kind in nodes(plain).items() if kind == "Conv")
    how = {"tolerance": 1.0}  # untrained logits lie close together
    return {
        "onnx": plain,
        "int8 static": quantise_static(plain, folder / "static.onnx", images, **how),
        "int8 static, stem in float": quantise_static(plain, folder / "stem.onnx", images, exclude=[first], **how),
        "int8 dynamic": quantise_dynamic(plain, folder / "dynamic.onnx", check=images[:50], **how),
    }


def calls(net: nn.Module, made: dict[str, Program], images: np.ndarray, threads: int) -> dict[str, Callable[[], Any]]:
    """What is timed; the float program is the one that ratios are to."""
    plain = made["onnx"]
    return {
        "onnx": runner(plain, images, threads=threads),
        "eager": eager(net, images),
        "eager, channels last": eager(net, images, channels_last=True),
        "compiled": compiled(net, images),
        **{f"onnx, {level}": runner(plain, images, threads=threads, level=level) for level in ("off", "extended")},
        **{name: runner(one, images, threads=threads) for name, one in made.items() if name != "onnx"},
    }


def main() -> None:
    """One table a network and batch size."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("nets", nargs="+")
    parser.add_argument("--seconds", type=float, default=30.0, help="for each table")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    images = np.random.default_rng(0).integers(0, 256, (128, 32, 32, 3), dtype=np.uint8)
    for name in options.nets:
        net = build(name).train()
        with torch.no_grad():
            net(torch.randn(64, 3, 32, 32))  # statistics of the norms
        with tempfile.TemporaryDirectory() as folder:
            made = programs(net.eval(), images, Path(folder))
            for batch in (1, 64):
                table(name, net, made, images[:batch], options)


def table(name: str, net: nn.Module, made: dict[str, Program], images: np.ndarray, options: argparse.Namespace) -> None:
    """Time and print."""
    rows = latencies(
        calls(net, made, images, options.threads),
        images_a_call=len(images),
        threads=options.threads,
        seconds=options.seconds,
        rounds=10_000,
    )
    print(f"\n{name}, batch {len(images)}, {options.threads} thread(s), {instruction_set()}, load {rows[0].load}")
    print(f"{'':28}{'median ms':>10}{'p10':>9}{'p90':>9}{'p99':>9}{'times':>8}{'95 %':>15}{'CPU s/1000':>12}{'kB':>8}")
    for row in rows:
        milliseconds = "".join(f"{1000 * one:9.3f}" for one in (row.p10, row.p90, row.p99))
        size = f"{made[row.name].bytes / 1000:8.0f}" if row.name in made else ""
        interval = f"{row.ratio.low:.2f} to {row.ratio.high:.2f}"
        print(
            f"{row.name:28}{1000 * row.seconds.value:10.3f}{milliseconds}{row.ratio.value:8.2f}{interval:>15}"
            f"{row.cpu_seconds:12.2f}{size}"
        )


if __name__ == "__main__":
    main()
