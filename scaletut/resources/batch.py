"""How large a batch fits: solved from forecasts and confirmed by one real run, never searched for by running out.

A batch larger than that can be had in micro-batches whose gradients add up (`Execution.micro_batch`). To rounding they
are the gradients of the whole batch, but for batch norm: it normalises each micro-batch by its own mean and variance,
as "ghost batch norm" does on purpose (Hoffer et al. 2017, arXiv:1705.08741), and moves its running statistics once a
micro-batch. The smaller the micro-batches, the further their gradients are from the whole batch's.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import torch
from torch import nn

from scaletut.errors import ParameterError
from scaletut.resources.memory import MEASURED, measure_memory, predict_memory
from scaletut.train import Execution, Recipe, execution

PROBES = (32, 64)  # images of the first two forecasts
ATTEMPTS = 6  # at finding a line that holds where it is read
TOLERANCE = 0.01  # by which the third forecast may miss the line
UNLIMITED = 2**60  # cgroups without a limit name one near 2**63


@dataclass(frozen=True)
class BatchChoice:
    """The largest batch that fits.

    Attributes:
        batch_size: images a step, taken whole.
        line: (a, b) in bytes: a step of n images near `batch_size` needs a + b n at its peak.
        predicted: forecast peak at `batch_size`, in bytes.
        measured: peak of real steps at `batch_size`, in bytes; None when it was not asked for or the device does not
            tell.
        limit: bytes that there are.
        reserve: share of `limit` that is left free.
        micro_batch: what to take for `Execution.micro_batch`, so that steps of the recipe's batch size fit, in few and
            equal parts; 0 when the batch fits whole.
    """

    batch_size: int
    line: tuple[float, float]
    predicted: int
    measured: int | None
    limit: int
    reserve: float
    micro_batch: int


def largest_batch(
    model: nn.Module,
    recipe: Recipe,
    *,
    limit_bytes: int | None = None,
    side: int = 32,
    how: Execution | None = None,
    reserve: float = 0.1,
    most: int | None = None,
    confirm: bool = True,
) -> BatchChoice:
    """The largest batch of `recipe` for `model` that leaves `reserve` of the memory free.

    Two forecasts give the line peak = a + b x batch, which is solved for the limit; a third forecast checks the line
    there, and a new one is drawn beyond the bend where it does not hold (small batches may need most in the optimiser).
    Two real steps confirm. Where they need more than was forecast, a GPU's scratch space for instance, the batch is
    solved again for so much less.

    Args:
        model: the network; it is not touched.
        recipe: its optimiser and averaging count, its batch size for `micro_batch`.
        limit_bytes: memory for training; by default what `memory_limit` finds.
        side: height and width of the images in pixels.
        how: as for `predict_memory`; its micro-batches are left aside.
        reserve: share of the memory left free (0 to below 1), for what forecasts leave out.
        most: largest batch of interest, such as the number of training images.
        confirm: run two real steps of the batch found, where the device tells its peak.

    Raises:
        ParameterError: not even one image fits, the peak does not grow in line with the batch, or a value out of range.
    """
    how = replace(how or execution("", recipe.precision, recipe.channels_last), micro_batch=0)
    limit = memory_limit(how.device) if limit_bytes is None else limit_bytes
    if limit < 1 or not 0 <= reserve < 1 or (most is not None and most < 1):
        raise ParameterError(
            f"limit_bytes={limit}, reserve={reserve}, most={most}: give a limit above 0, a share from 0 to below 1, "
            "and 1 image or more"
        )

    def forecast(batch_size: int, micro_batch: int = 0) -> int:
        parts = replace(how, micro_batch=micro_batch)
        return predict_memory(model, recipe, batch_size=batch_size, side=side, how=parts).peak

    forecast = cache(forecast)
    allowed = room = limit * (1 - reserve)
    for _ in range(ATTEMPTS):
        batch_size, line = _solve(forecast, room, most)
        measured = None
        if confirm and how.device.type in MEASURED:
            measured = measure_memory(model, recipe, batch_size=batch_size, side=side, how=how)
        if measured is None or measured <= allowed:
            micro_batch = _micro_batch(forecast, recipe.batch_size, batch_size, line[1], room)
            return BatchChoice(batch_size, line, forecast(batch_size), measured, limit, reserve, micro_batch)
        room *= allowed / measured
    raise ParameterError(
        f"real steps keep taking more than forecast ({_megabytes(measured)} of {_megabytes(allowed)}): give a larger "
        "reserve, or choose the batch by hand with measure_memory"
    )


def _solve(peak: Callable[[int], int], room: float, most: int | None) -> tuple[int, tuple[float, float]]:
    """The largest batch whose `peak` is within `room`, and the line (a, b) that gave it."""
    if (least := peak(1)) > room:
        raise ParameterError(
            f"a step on one image needs {_megabytes(least)} and there are {_megabytes(room)}: take a smaller network "
            "or smaller images, optimizer='sgd', which keeps half of Adam's state, or a device with more memory"
        )
    first, second = PROBES
    batch, start = second, peak(second)
    for _ in range(ATTEMPTS):
        slope = (peak(second) - peak(first)) / (second - first)
        if slope <= 0:  # the optimiser needs more than batches of this size
            first, second = second, 4 * second
            continue
        start = peak(first) - slope * first
        batch = max(1, math.floor((room - start) / slope))
        if most is not None and batch >= most and peak(most) <= room:
            return most, (start, slope)
        on_line = abs(peak(batch) - start - slope * batch) <= TOLERANCE * peak(batch)
        if on_line and peak(batch) <= room:
            return batch, (start, slope)
        corner = batch if peak(batch) > room else second  # a bend lies before it: the next line starts there
        first, second = corner - 1, corner
    raise ParameterError(
        f"the peak memory does not grow in line with the batch ({batch} images: {_megabytes(peak(batch))} where a line "
        f"has {_megabytes(start + slope * batch)}), so the largest batch cannot be solved for: does the network treat "
        "large batches in another way? choose one with predict_memory"
    )


def _micro_batch(forecast: Callable[[int, int], int], batch_size: int, fits: int, per_image: float, room: float) -> int:
    """Images of a micro-batch, so that `batch_size` fits in few and equal parts; 0 for the whole.

    All micro-batches after the first need the same, so two and three of them tell what any number does.
    """
    if batch_size <= fits:
        return 0
    size = fits
    for _ in range(ATTEMPTS):
        size = math.ceil(batch_size / math.ceil(batch_size / max(1, size)))
        two, three = forecast(2 * size, size), forecast(3 * size, size)
        waiting = (three - two) / size  # bytes of an image whose turn has not come
        excess = two + (batch_size - 2 * size) * waiting - room
        if excess <= 0:
            return size
        if size == 1:
            break
        size -= math.ceil(excess / (per_image - waiting))
    raise ParameterError(
        f"a batch of {batch_size} images does not fit, not even in parts: it waits in memory itself; take a smaller one"
    )


def _megabytes(size: float) -> str:
    return f"{size / 1e6:,.1f} MB"


# --- how much memory there is


def memory_limit(device: torch.device) -> int:
    """Bytes that this process may still take on `device`, the memory that torch holds already included on a GPU.

    On a CPU: what Linux calls available, or less where a control group (a container) allows less; all memory elsewhere.

    Raises:
        ParameterError: the system does not tell.
    """
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device)
    if device.type == "mps":
        return torch.mps.recommended_max_memory()
    found = [*_available(Path("/proc/meminfo")), *_group_allowances()]
    if not found and {"SC_PHYS_PAGES", "SC_PAGE_SIZE"} <= os.sysconf_names.keys():
        found = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    if not found:
        raise ParameterError("this system does not tell how much memory there is: give a limit in bytes")
    return min(found)


def _available(meminfo: Path) -> list[int]:
    if not meminfo.is_file():
        return []
    lines = (line.split() for line in meminfo.read_text().splitlines())
    return [int(words[1]) * 1024 for words in lines if words and words[0] == "MemAvailable:"]


def _group_allowances(groups: Path = Path("/proc/self/cgroup"), root: Path = Path("/sys/fs/cgroup")) -> Iterator[int]:
    """Bytes left in each control group that this process is in, cached files counted as free (cgroups 1 and 2)."""
    if not groups.is_file():
        return
    for line in groups.read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        version2 = not controllers
        if not version2 and "memory" not in controllers.split(","):
            continue
        top = root if version2 else root / "memory"
        names = ("memory.max", "memory.current") if version2 else ("memory.limit_in_bytes", "memory.usage_in_bytes")
        cached = "inactive_file" if version2 else "total_inactive_file"
        inside = top / path.lstrip("/")
        for group in dict.fromkeys([inside, *inside.parents]):
            if group.is_relative_to(top):
                yield from _allowance(group, *names, cached)


def _allowance(group: Path, limit: str, usage: str, cached: str) -> Iterator[int]:
    try:
        allowed, used = (group / limit).read_text().strip(), int((group / usage).read_text())
        counters = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):  # a group without this controller, or one that may not be read
        return
    if allowed != "max" and int(allowed) < UNLIMITED:
        yield max(0, int(allowed) - used + int(counters.get(cached, 0)))
