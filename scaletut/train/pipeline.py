"""A network cut into stages, one a process, and micro-batches that keep them busy.

torch's own pipelining (`torch.distributed.pipelining`) does the work; here a network is cut, and its steps are timed.
With one micro-batch the stages take turns: that is a model split over several devices and nothing more.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.pipelining import PipelineStage, Schedule1F1B, ScheduleGPipe
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from scaletut.errors import ParameterError
from scaletut.train.device import synchronise
from scaletut.train.distributed import Ranks

ScheduleName = Literal["gpipe", "1f1b"]
_SCHEDULES = {"gpipe": ScheduleGPipe, "1f1b": Schedule1F1B}


@dataclass(frozen=True)
class Chunk:
    """A stage's work on one micro-batch; `start` and `end` in seconds since the step's start."""

    kind: Literal["forward", "backward"]
    micro_batch: int
    start: float
    end: float


@dataclass(frozen=True)
class PipelineStep:
    """One step, seen from all stages.

    Attributes:
        loss: mean over the batch.
        chunks: of each stage, in the order of their work.
    """

    loss: float
    chunks: tuple[tuple[Chunk, ...], ...]

    @property
    def seconds(self) -> float:
        """From the first stage's first forward pass to the last backward pass."""
        every = [chunk for stage in self.chunks for chunk in stage]
        return max(chunk.end for chunk in every) - min(chunk.start for chunk in every)

    @property
    def bubble(self) -> float:
        """Share of the stages' time in which they wait, passing tensors on included."""
        busy = sum(chunk.end - chunk.start for stage in self.chunks for chunk in stage)
        return 1 - busy / (len(self.chunks) * self.seconds)

    @property
    def in_flight(self) -> tuple[int, ...]:
        """The most micro-batches whose activations each stage keeps at a time."""
        return tuple(max(accumulate(1 if chunk.kind == "forward" else -1 for chunk in stage)) for stage in self.chunks)


def expected_bubble(stages: int, micro_batches: int) -> float:
    """Share of idle time of equal stages that pass tensors on in no time: (p - 1) / (m + p - 1).

    Source: Huang et al. 2019, "GPipe", section 2.3; 1F1B has the same and keeps fewer activations (Narayanan et al.
    2021, section 2.2).
    """
    return (stages - 1) / (micro_batches + stages - 1)


def cut(layers: nn.Sequential, parts: int, example: Tensor) -> list[nn.Sequential]:
    """`layers` as `parts` stages of consecutive layers, the one with the most FLOPs as small as it can be.

    Args:
        layers: the network.
        parts: number of stages, at most that of the layers.
        example: an input (1, ...) to count FLOPs with.

    Raises:
        ParameterError: fewer layers than stages, or no stage asked for.
    """
    if not 1 <= parts <= len(layers):
        raise ParameterError(f"{len(layers)} layers cannot make {parts} stages: give 1 to {len(layers)}")
    ends = balanced(_layer_flops(layers, example), parts)
    return [layers[start:end] for start, end in zip([0, *ends], ends, strict=False)]


def balanced(costs: Sequence[float], parts: int) -> list[int]:
    """Ends of `parts` runs of consecutive `costs`, none empty, whose largest sum is as small as it can be."""
    sums = [0.0, *accumulate(costs)]
    best = [(sums[end], [end]) for end in range(len(sums))]  # with one part, up to each end
    for part in range(2, parts + 1):
        best = [
            min(
                ((max(best[cut][0], sums[end] - sums[cut]), [*best[cut][1], end]) for cut in range(part - 1, end)),
                default=(float("inf"), []),
            )
            for end in range(len(sums))
        ]
    return best[-1][1]


@torch.no_grad()
def _layer_flops(layers: nn.Sequential, x: Tensor) -> list[float]:
    flops = []
    training = layers.training
    layers.eval()  # running statistics stay
    for layer in layers:
        with FlopCounterMode(display=False) as counter:
            x = layer(x)
        flops.append(float(counter.get_total_flops()))
    layers.train(training)
    return flops


class Pipeline:
    """This rank's stage of a network, and the schedule that its micro-batches follow.

    Every rank builds the whole network, from the same seed, and keeps its own stage; parameters of `stage` get the
    gradients of the batch's mean loss, as those of the uncut network would (batch norms see micro-batches).
    """

    def __init__(
        self,
        ranks: Ranks,
        layers: nn.Sequential,
        example: Tensor,
        micro_batches: int,
        schedule: ScheduleName = "1f1b",
        loss: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy,
    ) -> None:
        """`example` (1, ...) is an input to count FLOPs with; `loss` takes outputs and targets to a mean.

        Raises `ParameterError` for a single rank, an unknown schedule, or with 1F1B fewer micro-batches than stages.
        """
        if ranks.alone:
            raise ParameterError("a pipeline needs two processes or more: start with `torchrun --nproc-per-node 2`")
        if schedule not in _SCHEDULES:
            raise ParameterError(f"unknown schedule {schedule!r}: use {' or '.join(_SCHEDULES)}")
        least = ranks.size if schedule == "1f1b" else 1
        if micro_batches < least:
            raise ParameterError(f"{schedule} with {ranks.size} stages needs {least} micro-batches or more")
        self.ranks, self.micro_batches = ranks, micro_batches
        self.device = ranks.device or torch.device("cpu")
        self.stage = cut(layers, ranks.size, example)[ranks.rank].to(self.device)
        self._timed = _TimedStage(self.stage, ranks.rank, ranks.size, self.device)
        self._schedule = _SCHEDULES[schedule](self._timed, micro_batches, loss)

    def step(self, inputs: Tensor, targets: Tensor) -> PipelineStep:
        """Forward and backward pass of a batch, which all ranks hold; the first step also settles shapes.

        Raises:
            ParameterError: micro-batches of unequal size.
        """
        if len(inputs) % self.micro_batches:
            raise ParameterError(f"{len(inputs)} examples do not make {self.micro_batches} equal micro-batches")
        losses: list[Tensor] = []
        last = self.ranks.rank == self.ranks.size - 1
        given = {"target": targets.to(self.device), "losses": losses} if last else {}
        dist.barrier()
        self._timed.begin()
        self._schedule.step(*([inputs.to(self.device)] if self.ranks.main else []), **given)
        told: list[Any] = [None] * self.ranks.size
        dist.all_gather_object(told, (self._timed.noted, float(torch.stack(losses).detach().mean()) if last else 0.0))
        return PipelineStep(told[-1][1], tuple(tuple(chunks) for chunks, _ in told))


class _TimedStage(PipelineStage):
    """A stage that notes when it works, not when it waits for a neighbour."""

    def begin(self) -> None:
        self.noted: list[Chunk] = []
        self.origin = time.perf_counter()

    def forward_one_chunk(self, fwd_chunk_id: int, *args: Any, **kwargs: Any) -> Any:
        return self._note("forward", fwd_chunk_id, super().forward_one_chunk, *args, **kwargs)

    def backward_one_chunk(self, bwd_chunk_id: int, *args: Any, **kwargs: Any) -> Any:
        return self._note("backward", bwd_chunk_id, super().backward_one_chunk, *args, **kwargs)

    def _note(self, kind: Any, number: int, work: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        start = time.perf_counter()
        result = work(number, *args, **kwargs)
        synchronise(self.device)
        self.noted.append(Chunk(kind, number, start - self.origin, time.perf_counter() - self.origin))
        return result
