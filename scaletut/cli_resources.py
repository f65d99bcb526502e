"""The commands of the resources room. They print; the room computes."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

from scaletut.cli_output import write_json
from scaletut.errors import ParameterError

if TYPE_CHECKING:
    from scaletut.resources.roofline import PlacedLayer, Roof
    from scaletut.resources.throughput import Ledger
    from scaletut.resources.trial import Task
    from scaletut.resources.tuner import Tuning

CONVENTION = "2 FLOP a multiply-accumulate, dense; GB are 10^9 bytes"
TUNING_BAR = "{desc} |{bar}| {n_fmt} of {total_fmt} s"


def run_roofline(options: argparse.Namespace) -> int:
    """`scaletut roofline`: what the device can do at most, and how near the layers of a network come."""
    from scaletut.models import build
    from scaletut.resources.roofline import measure_roof, place_layers

    model = build(options.model, seed=0) if options.model else None  # a wrong name is refused before the measurement
    roof = measure_roof(options.device, seconds=options.seconds)
    layers: Sequence[PlacedLayer] = ()
    if model is not None:
        shape = (3, options.side, options.side)
        layers = place_layers(model, shape, options.batch, roof, options.dtype, training=options.training)
    found = {"convention": CONVENTION, "roof": roof.to_dict(), "layers": [asdict(layer) for layer in layers]}
    if not write_json(found, options.json):
        print("\n".join(_roof_lines(roof)))
        if layers:
            print("\n".join(["", *_layer_lines(layers, options)]))
    return 0


def run_tune(options: argparse.Namespace) -> int:
    """`scaletut tune`: the setting that reaches the goal soonest on this device, and why."""
    from tqdm import tqdm

    from scaletut.resources.tuner import tune
    from scaletut.sizes import size_in_bytes

    task = _task(options)
    limit = size_in_bytes(options.memory_limit) if options.memory_limit else 0
    with tqdm(total=round(options.budget), unit="s", leave=False, bar_format=TUNING_BAR) as bar:
        started = time.monotonic()

        def report(stage: str) -> None:
            bar.set_description(stage, refresh=False)
            bar.n = min(bar.total, round(time.monotonic() - started))
            bar.refresh()

        found = tune(task, budget=options.budget, limit_bytes=limit, device=options.device, report=report)
    if not write_json({"convention": CONVENTION, **found.to_dict()}, options.json):
        print("\n".join(_tuning_lines(found)))
    return 0


def _task(options: argparse.Namespace) -> Task:
    """A preset brings its recipe; another network gets a plain one."""
    from scaletut.models import build
    from scaletut.resources.trial import Task
    from scaletut.train import Recipe
    from scaletut.train.presets import PRESETS

    preset = PRESETS.get(options.model)
    if preset is None and ":" not in options.model:
        build(options.model)  # a wrong name is refused before anything is measured
    changes = {"batch_size": options.batch_size, "optimizer": options.optimizer, "epochs": options.epochs}
    recipe = replace(preset.recipe if preset else Recipe(batch_size=128), **{k: v for k, v in changes.items() if v})
    return Task(options.model, recipe, options.data, options.images)


def _tuning_lines(found: Tuning) -> list[str]:
    chosen, planned = found.speedup, found.planned_images
    lines = [f"{found.task.network} on {found.device}, tuned in {found.seconds:.0f} s", ""]
    for ledger in (found.singles, found.joint):
        lines += [*_ledger_lines(ledger), ""]
    lines += ["why:", *(f"  {reason}" for reason in found.reasons), ""]
    rate = chosen.images_per_second.value
    plain = found.joint.rows[0].images_per_second.value
    lines += [
        f"the choice: {rate:,.0f} images/s, {chosen.ratio.value:.2f} times PyTorch's defaults "
        f"({chosen.ratio.low:.2f} to {chosen.ratio.high:.2f}, {chosen.ratio.n} rounds);",
        f"the planned {planned:,} images take {planned / rate / 60:.1f} min, not {planned / plain / 60:.1f}; "
        f"predicted peak {found.predicted_peak_bytes / 1e9:.2g} GB of {found.memory_limit / 1e9:.3g} GB",
        "",
        *found.code().splitlines(),
    ]
    return lines


def _ledger_lines(ledger: Ledger) -> list[str]:
    width = max(len(row.name) for row in ledger.rows)
    lines = [f"{'setting':<{width}} {'images/s':>9} {'times':>6} {'95 %':>13} {'peak MB':>8} {'set-up s':>8}"]
    for row in ledger.rows:
        if row.ratio is None:
            lines.append(f"{row.name:<{width}} {row.failure}")
            continue
        interval = f"{row.ratio.low:.2f} to {row.ratio.high:.2f}" if row.ratio.low is not None else ""
        lines.append(
            f"{row.name:<{width}} {row.images_per_second.value:>9,.0f} {row.ratio.value:>6.2f} {interval:>13} "
            f"{row.peak_bytes / 1e6:>8,.0f} {row.setup_seconds:>8.1f}"
        )
    return lines


def _roof_lines(roof: Roof) -> list[str]:
    threads = f", {roof.threads} thread{'s' if roof.threads > 1 else ''}" if roof.device == "cpu" else ""
    lines = [f"{roof.device} ({roof.name}{threads}); {CONVENTION}", ""]
    for dtype, peak in roof.peak.items():
        emulated = " (emulated: slower than fp32)" if peak < roof.peak.get("fp32", 0) else ""
        lines.append(
            f"peak {dtype:<5} {_rate(peak):>16}  by {roof.shape[dtype]}{_published(roof, dtype, peak)}{emulated}"
        )
    for size, rate in roof.bandwidth:
        lines.append(f"bandwidth  {rate / 1e9:>11.1f} GB/s  of {_size(size)}")
    lines.append(f"a call     {1e6 * roof.call_seconds:>13.1f} µs")
    if "fp32" in roof.peak:
        lines.append(f"memory limits what has fewer than {roof.ridge():.1f} FLOP a byte in fp32")
    return lines


def _published(roof: Roof, dtype: str, peak: float) -> str:
    """How much of the vendor's peak that is, where the table has it."""
    from scaletut.resources.peaks import published_peak

    try:
        known = published_peak(roof.name).dense
    except ParameterError:
        return ""
    by_tf32 = dtype == "fp32" and "tf32" in known and roof.shape[dtype].startswith("convolution")
    told = "tf32" if by_tf32 else dtype  # that is how PyTorch runs fp32 convolutions where it can
    return f", {peak / known[told]:.0%} of the published {_rate(known[told])} ({told})" if told in known else ""


def _layer_lines(layers: Sequence[PlacedLayer], options: argparse.Namespace) -> list[str]:
    how = "forward and backward" if options.training else "forward"
    width = max(len(layer.name) for layer in layers)
    lines = [
        f"{options.model}, {options.batch} images, {options.dtype}, {how}",
        f"{'layer':<{width}} {'kind':<17} {'MFLOP':>9} {'MB':>8} {'FLOP/B':>7} {'limit':>8} "
        f"{'bound ms':>9} {'ms':>8} {'share':>6}",
    ]
    for layer in layers:
        lines.append(
            f"{layer.name:<{width}} {layer.kind:<17} {layer.flops / 1e6:>9.1f} {layer.bytes / 1e6:>8.2f} "
            f"{layer.intensity:>7.1f} {layer.limit:>8} {1e3 * layer.bound_seconds:>9.3f} "
            f"{1e3 * layer.seconds:>8.3f} {layer.share:>6.0%}"
        )
    for limit in ("compute", "memory"):
        some = [layer for layer in layers if layer.limit == limit]
        bound, took = (sum(getattr(layer, name) for layer in some) for name in ("bound_seconds", "seconds"))
        if some:
            lines.append(
                f"{len(some)} layers limited by {limit}: {1e3 * took:.2f} ms, at least {1e3 * bound:.2f} ms "
                f"under the roof ({bound / took:.0%})"
            )
    return lines


def _rate(rate: float) -> str:
    return f"{rate / 1e12:.2f} TFLOP/s" if rate >= 1e12 else f"{rate / 1e9:.1f} GFLOP/s"


def _size(size: int) -> str:
    return f"{size // 2**20} MiB" if size >= 2**20 else f"{size // 2**10} KiB"
