"""What a step costs with many workers: a model of compute, bytes and bandwidth, and the measurements that feed it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Literal

import numpy as np
import torch
import torch.distributed as dist

from scaletut.errors import ParameterError
from scaletut.resources.memory import MemoryForecast
from scaletut.train.device import synchronise
from scaletut.train.distributed import Ranks

Mode = Literal["ddp", "fsdp"]
Algorithm = Literal["ring", "tree"]
# Tensors of the size of the parameters that pass all ranks: a reduce-scatter and an all-gather of the gradients (an
# all-reduce), or all-gathers of the parameters, forward and backward, and a reduce-scatter of the gradients.
_PASSES = {"ddp": 2, "fsdp": 3}
# Tensors of a block's size at the worst moment of FSDP2: parameters of this block and of the next one, each as received
# and unpacked, and this block's gradients as they come, packed, and as gloo adds them.
COPIES = 7


@dataclass(frozen=True)
class Link:
    """What connects the workers.

    Attributes:
        bandwidth: bytes a second that each worker can send while it receives as many. NCCL calls it bus bandwidth.
        latency: seconds until a message of no size arrives.
    """

    bandwidth: float
    latency: float = 0.0

    def __post_init__(self) -> None:
        if not self.bandwidth > 0 or not self.latency >= 0:
            raise ParameterError(
                f"bandwidth {self.bandwidth:g} B/s must be above 0 and latency {self.latency:g} s not below"
            )


@dataclass(frozen=True)
class StepTime:
    """Seconds of one step.

    Attributes:
        compute: forward pass, backward pass and update.
        communication: of the exchange, hidden or not.
        exposed: what of it the compute does not hide.
    """

    compute: float
    communication: float
    exposed: float

    @property
    def seconds(self) -> float:
        return self.compute + self.exposed

    @property
    def efficiency(self) -> float:
        """Images a second and worker, over those of a worker that exchanges nothing; 0 to 1."""
        return self.compute / self.seconds


def exchange_seconds(workers: int, size: float, link: Link, mode: Mode = "ddp", algorithm: Algorithm = "ring") -> float:
    """Seconds to exchange gradients (`ddp`), or parameters and gradients (`fsdp`), of `size` bytes.

    A pass moves (p - 1) / p of the size over each link, in p - 1 messages with a ring (Patarasuk and Yuan 2009), in
    about log2 p with two binary trees (Sanders, Speck and Träff 2009).

    Args:
        workers: p, 1 or more.
        size: bytes of all parameters in the type that is exchanged.
        link: what connects them.
        mode: `ddp` makes two passes, `fsdp` three.
        algorithm: `ring` or `tree`.

    Raises:
        ParameterError: an unknown mode or algorithm, less than one worker, or a negative size.
    """
    if mode not in _PASSES or algorithm not in ("ring", "tree"):
        raise ParameterError(f"unknown mode {mode!r} or algorithm {algorithm!r}: use ddp or fsdp, ring or tree")
    if workers < 1 or size < 0:
        raise ParameterError(f"{workers} workers exchange {size:g} bytes: give 1 or more, and 0 or more bytes")
    messages = workers - 1 if algorithm == "ring" else math.log2(workers)
    return _PASSES[mode] * (messages * link.latency + (workers - 1) / workers * size / link.bandwidth)


def step_time(
    workers: int,
    compute_seconds: float,
    size: float,
    link: Link,
    *,
    overlap: float = 0.0,
    mode: Mode = "ddp",
    algorithm: Algorithm = "ring",
) -> StepTime:
    """Seconds of a step that computes for `compute_seconds` on each worker and exchanges `size` bytes.

    `overlap` is the share of the compute that the exchange can hide behind: 0 when it starts after the backward pass,
    at most about 2/3, the backward pass, when each bucket of gradients leaves as soon as it is ready (Li et al. 2020).
    The other arguments are those of `exchange_seconds`.

    Raises:
        ParameterError: a share outside 0 to 1, or no compute.
    """
    _check_overlap(overlap)
    if not compute_seconds > 0:
        raise ParameterError(f"compute_seconds is {compute_seconds:g}: give more than 0")
    communication = exchange_seconds(workers, size, link, mode, algorithm)
    return StepTime(compute_seconds, communication, max(0.0, communication - overlap * compute_seconds))


def least_compute(
    workers: int,
    size: float,
    link: Link,
    *,
    efficiency: float = 0.9,
    overlap: float = 0.0,
    mode: Mode = "ddp",
    algorithm: Algorithm = "ring",
) -> float:
    """The shortest compute a step, in seconds on each worker, that keeps `efficiency`.

    With t the exchange and o the overlap: c / (c + t - o c) = e, so c = t / (1 / e - 1 + o). Over the seconds that an
    example takes this is the least batch of a worker.

    Raises:
        ParameterError: an efficiency that is not between 0 and 1.
    """
    _check_overlap(overlap)
    if not 0 < efficiency < 1:
        raise ParameterError(f"efficiency is {efficiency:g}: give a share above 0 and below 1")
    return exchange_seconds(workers, size, link, mode, algorithm) / (1 / efficiency - 1 + overlap)


def _check_overlap(overlap: float) -> None:
    if not 0 <= overlap <= 1:
        raise ParameterError(f"overlap is {overlap:g}: give the share of the compute that hides it, 0 to 1")


@dataclass(frozen=True)
class Cluster:
    """Workers on paper: assumptions, each to be replaced by a measurement of one's own.

    Attributes:
        peak: FLOP/s of a worker, dense, in the format that it computes in.
        mfu: share of the peak that training reaches without an exchange.
        link: what connects them.
        bytes_per_parameter: of what is exchanged, 2 for bf16 gradients.
        overlap, mode, algorithm: as for `step_time`.
    """

    peak: float
    mfu: float
    link: Link
    bytes_per_parameter: float = 2.0
    overlap: float = 0.5
    mode: Mode = "ddp"
    algorithm: Algorithm = "ring"

    def step(self, workers: int, parameters: float, flops: float) -> StepTime:
        """The step of a network of `parameters` that needs `flops` on each worker."""
        return step_time(
            workers, flops / (self.peak * self.mfu), parameters * self.bytes_per_parameter, self.link,
            overlap=self.overlap, mode=self.mode, algorithm=self.algorithm,
        )  # fmt: skip

    def least_batch(self, workers: int, parameters: float, flops_per_example: float, efficiency: float = 0.9) -> float:
        """Examples (images, tokens) a step and worker that keep `efficiency`; a language model's token needs 6 N."""
        seconds = least_compute(
            workers, parameters * self.bytes_per_parameter, self.link,
            efficiency=efficiency, overlap=self.overlap, mode=self.mode, algorithm=self.algorithm,
        )  # fmt: skip
        return seconds * self.peak * self.mfu / flops_per_example


def fit_link(sizes: Sequence[float], seconds: Sequence[float], workers: int, passes: int = 2) -> Link:
    """The link under a ring whose exchanges of `sizes` bytes took `seconds`: latency and bandwidth by least squares.

    Relative errors are squared, so that small messages, which tell the latency, count as much as large ones.

    Raises:
        ParameterError: fewer than two sizes, fewer than two workers, or times that do not grow with the size.
    """
    if len(set(sizes)) < 2 or workers < 2:
        raise ParameterError("a link is found from two sizes or more, exchanged by two workers or more")
    taken = np.asarray(seconds, float)
    moved = np.asarray(sizes, float) * (workers - 1) / workers
    columns = passes * np.stack([np.full(len(taken), workers - 1.0), moved], axis=1)
    (latency, inverse), *_ = np.linalg.lstsq(columns / taken[:, None], np.ones(len(taken)), rcond=None)
    if inverse <= 0:
        raise ParameterError("larger messages were not slower: take more repeats, or larger sizes")
    return Link(1 / inverse, max(0.0, float(latency)))


def rank_memory(forecast: MemoryForecast, workers: int, mode: Mode = "ddp", largest_block: float = 0.0) -> float:
    """Peak bytes of one worker, from the forecast of a single process with this worker's share of the batch.

    Replicas hold all of it, and all gradients at a time, since these live in the buffers that are exchanged. Shards
    hold their part of parameters, gradients and optimiser state (Rajbhandari et al. 2020, stage 3). What FSDP2 gathers
    comes on top, at most `COPIES` times the bytes of `largest_block`'s parameters: an upper bound, since it depends on
    the link's timing which copies live together.
    """
    state = forecast.parameters + forecast.gradients + forecast.optimizer
    if mode == "ddp":
        return forecast.peak - forecast.gradients + forecast.parameters
    return forecast.peak - state + (state - forecast.gradients + forecast.parameters) / workers + COPIES * largest_block


# --- measuring ---------------------------------------------------------------------


def in_turns(
    ranks: Ranks, forms: Mapping[str, Callable[[], object]], repeats: int, warm_up: int = 1
) -> dict[str, list[float]]:
    """Seconds of each form, `repeats` times, one after the other in turns; of several ranks the slowest counts.

    Every rank makes this call. A barrier stands before each reading, so none pays for what another did before.

    Raises:
        ParameterError: no repeats.
    """
    if repeats < 1:
        raise ParameterError(f"repeats is {repeats}: give 1 or more")
    device = ranks.device or torch.device("cpu")
    taken: dict[str, list[float]] = {name: [] for name in forms}
    for number in range(warm_up + repeats):
        for name, form in forms.items():
            synchronise(device)
            if not ranks.alone:
                dist.barrier()
            started = time.perf_counter()
            form()
            synchronise(device)
            seconds = torch.tensor(time.perf_counter() - started, dtype=torch.float64, device=device)
            if not ranks.alone:
                dist.all_reduce(seconds, dist.ReduceOp.MAX)
            if number >= warm_up:
                taken[name].append(float(seconds))
    return taken


def measure_link(
    ranks: Ranks, sizes: Sequence[int] = (1 << 12, 1 << 16, 1 << 20, 1 << 22, 1 << 24), repeats: int = 9
) -> tuple[Link, dict[int, float]]:
    """The link between the ranks under all-reduces, and the median seconds of each size in bytes.

    Raises:
        ParameterError: a single rank.
    """
    if ranks.alone:
        raise ParameterError("a single process has no link to measure: start two with `torchrun --nproc-per-node 2`")
    tensors = {size: torch.zeros(size // 4, device=ranks.device) for size in sizes}
    forms = {str(size): lambda tensor=tensor: dist.all_reduce(tensor) for size, tensor in tensors.items()}
    taken = in_turns(ranks, forms, repeats)
    seconds = {size: median(taken[str(size)]) for size in sizes}
    return fit_link(list(seconds), list(seconds.values()), ranks.size), seconds
