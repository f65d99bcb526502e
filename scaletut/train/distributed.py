"""Several processes train one network: as replicas (DDP) or as shards (FSDP2), started by `torchrun`.

`join` makes a process one of the `Ranks`; `fit(..., ranks=ranks)` then takes its share of every batch, and the update
is that of one process with the whole batch. A single process is `ALONE`, for which everything here does nothing.
"""

from __future__ import annotations

import contextlib
import copy
import inspect
import json
import os
import re
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from scaletut.data import ImageSet
from scaletut.data.batches import share_of
from scaletut.errors import ParameterError, ScaletutError
from scaletut.files import canonical_json
from scaletut.train.device import Execution, pick_device
from scaletut.train.recompute import blocks

Mode = Literal["ddp", "fsdp"]


@dataclass(frozen=True)
class Ranks:
    """The processes of a run, seen from one of them; used as a context it leaves the group at the end.

    Attributes:
        rank: number of this process, from 0; the first one writes what is to be written.
        size: how many they are.
        mode: `ddp` (each holds the whole network, gradients are averaged) or `fsdp` (each holds a share of every
            parameter, its gradient and its optimiser state, and gathers a block when it computes it).
        device: of this process; None: whatever is asked for elsewhere.
        sync_norms: batch norms take mean and variance of the whole batch, as one process would. Without, each rank
            normalises by its own share, which is faster and learns a slightly different function.
    """

    rank: int = 0
    size: int = 1
    mode: Mode = "ddp"
    device: torch.device | None = None
    sync_norms: bool = True

    def __enter__(self) -> Ranks:
        return self

    def __exit__(self, *_: object) -> None:
        self.leave()

    def leave(self) -> None:
        """Leave the group; a rank that leaves by an error takes the others with it."""
        if not self.alone:
            dist.destroy_process_group()

    @property
    def main(self) -> bool:
        """Whether this is the process that writes and prints."""
        return self.rank == 0

    @property
    def alone(self) -> bool:
        return self.size == 1

    @property
    def shards(self) -> bool:
        """Whether the parameters are spread over the ranks."""
        return self.mode == "fsdp" and not self.alone

    # --- the network

    def place(self, model: nn.Module, how: Execution) -> nn.Module:
        """`model` where `how` wants it; FSDP2 shards contiguous parameters only, whatever the images' layout."""
        return model.to(how.device) if self.shards else how.place(model)

    def wrap(self, model: nn.Module) -> nn.Module:
        """What to call for the forward pass, once `model` is placed; shards and norms are changed in place."""
        if self.alone:
            return model
        if self.sync_norms:
            synchronise_norms(model)
        if self.mode == "fsdp":
            return _sharded(model)
        where = [self.device] if self.device.type == "cuda" else None
        return nn.parallel.DistributedDataParallel(model, where, gradient_as_bucket_view=True)

    def holding(self, forward: Callable[[Tensor], Tensor]) -> Callable[[], contextlib.AbstractContextManager]:
        """A context in which backward passes keep their gradients to themselves, for all micro-batches but the last."""
        if self.alone:
            return contextlib.nullcontext
        wrapped = getattr(forward, "_orig_mod", forward)  # what torch.compile was given
        return wrapped.no_sync if self.mode == "ddp" else lambda: _unreduced(wrapped)

    def skeleton(self, model: nn.Module) -> nn.Module | None:
        """A copy of `model` whose parameters take no memory, made before it is sharded, to be filled by `whole`."""
        if not self.shards:
            return None
        empty = {id(p): nn.Parameter(torch.empty_like(p, device="meta"), p.requires_grad) for p in model.parameters()}
        return copy.deepcopy(model, empty)

    def whole(self, model: nn.Module, skeleton: nn.Module | None) -> nn.Module:
        """`model`, or, of a sharded one, a complete copy on every rank (all ranks must ask)."""
        if skeleton is None:
            return model
        complete = copy.deepcopy(skeleton)
        complete.load_state_dict(self.gathered(model.state_dict()), assign=True)
        return complete

    # --- exchange

    def total(self, tensor: Tensor) -> Tensor:
        """The sum over all ranks."""
        if self.alone:
            return tensor
        result = tensor.clone()
        dist.all_reduce(result)
        return result

    def all(self, flag: bool) -> bool:
        """Whether `flag` is true on every rank."""
        return self.alone or bool(self.total(torch.tensor(float(flag), device=self.device)) == self.size)

    def from_main(self, make: Callable[[], Any]) -> Any:
        """What `make` gives on the first rank, on all of them; so is the error that it raises there."""
        if self.alone:
            return make()
        box: list[Any] = [None, None]
        if self.main:
            try:
                box[0] = make()
            except ScaletutError as error:
                box[1] = error
        dist.broadcast_object_list(box, 0, device=torch.device("cpu"))
        if box[1] is not None:
            raise box[1]
        return box[0]

    def spread(self, predict: Callable[[ImageSet], np.ndarray], data: ImageSet) -> np.ndarray:
        """`predict(data)`, (n, K), each rank doing its share of the images; all get the whole."""
        if self.alone:
            return predict(data)
        parts: list[Any] = [None] * self.size
        mine = range(*share_of(len(data), self.rank, self.size))
        dist.all_gather_object(parts, predict(data.take(mine)) if mine else None)
        return np.concatenate([part for part in parts if part is not None])

    # --- state that goes into a checkpoint, the same with any number of ranks

    def gathered(self, tree: Any) -> Any:
        """`tree` with every sharded tensor whole (all ranks must ask)."""
        return tree_map(_full, tree) if self.shards else tree

    def shared_out(self, state: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
        """The shares of a whole `state` that this rank's `model` holds, on its device."""
        own = model.state_dict()
        return {name: _like(value.to(own[name].device), own[name]) for name, value in state.items()}

    def load_optimizer(self, optimizer: Any, state: dict[str, Any]) -> None:
        """Load a whole state into `optimizer`, whose parameters may be sharded."""
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        shares = {
            number: {name: _like(value, parameters[number]) for name, value in kept.items()}
            for number, kept in state["state"].items()
        }
        optimizer.load_state_dict({**state, "state": shares})


ALONE = Ranks()


def join(mode: Mode = "ddp", *, device: str = "", sync_norms: bool = True, timeout_seconds: float = 600.0) -> Ranks:
    """Make this process, started by `torchrun`, one of the ranks of its run.

    gloo connects CPUs and nccl GPUs, one a process; nothing else needs to be said, since torchrun hands out addresses
    and numbers in the environment.

    Args:
        mode: `ddp` or `fsdp`.
        device: `cuda` or `cpu`; by default CUDA where it is, else the CPU.
        sync_norms: see `Ranks`.
        timeout_seconds: a collective that a rank does not join fails after so long. A rank that dies is noticed at
            once, by torchrun.

    Raises:
        ParameterError: not started by torchrun, an unknown mode, a device that does not do this, or more processes
            than GPUs.
    """
    if mode not in ("ddp", "fsdp"):
        raise ParameterError(f"unknown mode {mode!r}: use ddp (replicas) or fsdp (shards)")
    rank, size, local, here = (_told(name) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"))
    place = _rank_device(device, local, here)
    if place.type == "cuda":
        torch.cuda.set_device(place)
    # CPU tensors, such as a decision to be shared, go through gloo on GPUs too: no GPU has to be waited for.
    backend = "cpu:gloo,cuda:nccl" if place.type == "cuda" else "gloo"
    if size > 1:
        store = _store(alone_here=here == size)
        wait = timedelta(seconds=timeout_seconds)
        dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=wait)
    return Ranks(rank, size, mode, place, sync_norms)


def started_by_torchrun() -> bool:
    """Whether this process was started by torchrun."""
    return "TORCHELASTIC_RUN_ID" in os.environ and "RANK" in os.environ


def _told(name: str) -> int:
    if name not in os.environ:
        raise ParameterError(
            f"{name} is not set, so this process does not know the others: start it with "
            "`torchrun --nproc-per-node 2 SCRIPT`, which sets ranks and addresses"
        )
    return int(os.environ[name])


def _store(alone_here: bool) -> dist.Store:
    """Where the ranks leave their addresses for each other.

    On one machine torchrun keeps one store over all restarts, in which a rank can find the address of a dead one
    (torch 2.14: every other restart failed with "connection refused"), so each start gets names of its own.
    """
    store, _, _ = next(dist.rendezvous("env://"))
    start = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    return dist.PrefixStore(f"start {start}", store) if alone_here else store


def _rank_device(name: str, local: int, here: int) -> torch.device:
    """The device of process `local` of `here` on this machine."""
    kind = pick_device(name).type if name or torch.cuda.is_available() else "cpu"
    if kind == "mps":
        raise ParameterError("no backend of torch.distributed takes MPS tensors: use device='cpu' with gloo")
    if kind == "cpu":
        return torch.device("cpu")
    present = torch.cuda.device_count()
    if here > present:
        raise ParameterError(
            f"nccl needs a GPU for each process, and here are {here} processes and {present} GPU(s): "
            f"start with --nproc-per-node {present}, or use device='cpu' with gloo"
        )
    return torch.device("cuda", local)


# --- shards ------------------------------------------------------------------------


def _sharded(model: nn.Module) -> nn.Module:
    """Shard `model` in place, block by block: at any time one block is whole, the next one on its way."""
    try:
        from torch.distributed.fsdp import fully_shard
    except ImportError:
        raise ParameterError(
            f"mode='fsdp' needs torch 2.6 or newer and this is {torch.__version__}; upgrade torch or use mode='ddp'"
        ) from None
    for value in model.state_dict().values():  # replicas that were built apart must not become shards of two networks
        dist.broadcast(value, 0)
    for block in list(blocks(model)):
        fully_shard(block)
    return fully_shard(model)


@contextlib.contextmanager
def _unreduced(model: nn.Module) -> Iterator[None]:
    model.set_requires_gradient_sync(False)
    try:
        yield
    finally:
        model.set_requires_gradient_sync(True)


def local(tensor: Tensor) -> Tensor:
    """What this rank holds of `tensor`."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


def _full(leaf: Any) -> Any:
    return leaf.full_tensor() if hasattr(leaf, "full_tensor") else leaf


def _like(value: Any, model: Tensor) -> Any:
    """`value`, which all ranks hold, cut into shares as `model` is."""
    if not hasattr(model, "placements") or not isinstance(value, Tensor) or value.shape != model.shape:
        return value
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(value.to(model.device), model.device_mesh, model.placements, src_data_rank=None)


# --- batch norm over all ranks -----------------------------------------------------


def synchronise_norms(model: nn.Module) -> nn.Module:
    """Make every batch norm of `model` normalise by the batch of all ranks, in place.

    Weights and names stay. torch's SyncBatchNorm does the same on GPUs alone; this one runs on every backend.
    """
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.__class__ = _synchronised(type(module))
    return model


def release_norms(model: nn.Module) -> nn.Module:
    """Undo `synchronise_norms`, so that the network can be used outside the group."""
    for module in model.modules():
        if isinstance(module, _Synchronised):
            module.__class__ = type(module).__bases__[1]
    return model


class _Synchronised:
    """Mark of a norm that exchanges its sums."""


@cache
def _synchronised(kind: type[_BatchNorm]) -> type[_BatchNorm]:
    if issubclass(kind, _Synchronised):
        return kind

    def forward(self: _BatchNorm, x: Tensor) -> Tensor:
        return _normalise(self, x) if self.training else kind.forward(self, x)

    return type(f"Synchronised{kind.__name__}", (_Synchronised, kind), {"forward": forward})


def _normalise(norm: _BatchNorm, x: Tensor) -> Tensor:
    """Batch norm of x (b, C, ...) by mean and variance over all ranks' images."""
    weight = x.new_ones(x.shape[1], dtype=torch.float32) if norm.weight is None else norm.weight
    result, count, mean, variance = _GlobalNorm.apply(x, weight, norm.bias, norm.eps)
    if norm.track_running_stats:
        _track(norm, count, mean, variance)
    return result


@torch.no_grad()
def _track(norm: _BatchNorm, count: Tensor, mean: Tensor, variance: Tensor) -> None:
    norm.num_batches_tracked.add_(1)
    momentum = norm.momentum if norm.momentum is not None else 1 / float(norm.num_batches_tracked)
    norm.running_mean.lerp_(mean.to(norm.running_mean), momentum)
    norm.running_var.lerp_((variance * count / (count - 1)).to(norm.running_var), momentum)


class _GlobalNorm(torch.autograd.Function):
    """Batch norm in the kernels of a norm with known statistics, which is what they are once they are summed.

    The gradient through the statistics (Ioffe and Szegedy 2015, section 3) needs two sums over the batch, those that
    the gradients of weight and bias are; every rank's loss depends on all images, so they too are summed over ranks.
    """

    @staticmethod
    def forward(context: Any, x: Tensor, weight: Tensor, bias: Tensor | None, eps: float) -> tuple[Tensor, ...]:
        exact = x.to(torch.promote_types(x.dtype, torch.float32))
        # The norms' own kernel takes mean and (biased) variance ten times as fast as torch.var_mean does on a CPU.
        mean, variance = (one.double() for one in torch.batch_norm_update_stats(exact, None, None, 0.0))
        images = torch.full_like(mean[:1], x.numel() / x.shape[1])
        # In float64 E[x^2] - E[x]^2 loses nothing that float32 could show: one exchange instead of two.
        sums = torch.cat([images, images * mean, images * (variance + mean.square())])
        dist.all_reduce(sums)
        count, first, second = sums[:1], *(sums[1:] / sums[:1]).chunk(2)
        mean, variance = first.to(weight.dtype), (second - first.square()).clamp(min=0).to(weight.dtype)
        context.save_for_backward(x, weight, count, mean, variance)
        context.eps = eps
        context.mark_non_differentiable(count, mean, variance)
        return F.batch_norm(x, mean, variance, weight, bias, False, 0.0, eps), count, mean, variance

    @staticmethod
    def backward(context: Any, gradient: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        x, weight, count, mean, variance = context.saved_tensors
        through, to_weight, to_bias = torch.ops.aten.native_batch_norm_backward(
            gradient, x, weight, mean, variance, None, None, False, context.eps, [True, True, True]
        )
        sums = torch.stack([to_weight, to_bias])
        dist.all_reduce(sums)
        inverse = (variance + context.eps).rsqrt()
        slope, shift = -sums / count.to(sums) * weight * inverse
        slope = slope * inverse
        shape = [1, -1, *[1] * (x.ndim - 2)]
        shift = (shift - slope * mean).to(x.dtype).view(shape)
        through = torch.addcmul(through.add_(shift), x, slope.to(x.dtype).view(shape))
        return through, to_weight, to_bias, None


# --- are they still one network? ---------------------------------------------------


@dataclass(frozen=True)
class ReplicaDistance:
    """How far the ranks' parameters are from those of the first rank, the farthest rank counting.

    Attributes:
        largest: largest difference of a single parameter.
        relative: L2 norm of the difference over that of the parameters.
    """

    largest: float
    relative: float


@torch.no_grad()
def replica_distance(ranks: Ranks, model: nn.Module) -> ReplicaDistance:
    """Distance between the ranks' replicas: exactly 0 where gradients are exchanged as they should be.

    Raises:
        ParameterError: the network is sharded, so there are no replicas.
    """
    parameters = [p.detach() for p in model.parameters()]
    if any(hasattr(p, "placements") for p in parameters):
        raise ParameterError("this network is sharded: its ranks hold different parts, and no replicas to compare")
    if ranks.alone:
        return ReplicaDistance(0.0, 0.0)
    mine = torch.cat([p.double().flatten() for p in parameters])
    first = mine.clone()
    dist.broadcast(first, 0)
    apart = (mine - first).abs()
    found = torch.stack([apart.max(), apart.norm() / first.norm()])
    dist.all_reduce(found, dist.ReduceOp.MAX)
    return ReplicaDistance(*found.tolist())


# --- memory and bytes --------------------------------------------------------------


@dataclass(frozen=True)
class StateBytes:
    """Bytes that this rank keeps between steps, by what they hold; `total` is their sum."""

    parameters: int
    gradients: int
    optimizer: int

    @property
    def total(self) -> int:
        return self.parameters + self.gradients + self.optimizer


def state_bytes(model: nn.Module, optimizers: Sequence[Any] = ()) -> StateBytes:
    """What this rank holds of parameters, gradients and optimiser state, of a sharded network its shares.

    Scalars of an optimiser, such as a count of steps, are left out.
    """
    parameters = list(model.parameters())
    kept = [value for one in optimizers for value in tree_leaves(one.state_dict()["state"])]
    return StateBytes(
        sum(local(p).nbytes for p in parameters),
        sum(local(p.grad).nbytes for p in parameters if p.grad is not None),
        sum(local(value).nbytes for value in kept if isinstance(value, Tensor) and value.ndim),
    )


@dataclass(frozen=True)
class Collective:
    """Calls of one kind of collective, and the bytes of the whole tensor that they work on (summed over the calls)."""

    calls: int
    bytes: int


class CountTraffic(TorchDispatchMode):
    """Counts the collectives called inside, whoever calls them: DDP, FSDP2 or oneself.

    What is counted is the size S of the whole tensor: of an all-reduce its tensor, of an all-gather its output, of a
    reduce-scatter its input. `ring_bytes` tells what a ring sends for it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.seen: dict[str, Collective] = {}

    def __torch_dispatch__(self, operator: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if operator.namespace in ("c10d", "_c10d_functional"):
            kind = next((kind for mark, kind in _KINDS.items() if mark in operator._schema.name), None)
            if kind:
                sizes = [leaf.nbytes for leaf in tree_leaves(args) if isinstance(leaf, Tensor)]
                before = self.seen.get(kind, Collective(0, 0))
                self.seen[kind] = Collective(before.calls + 1, before.bytes + max(sizes, default=0))
        return operator(*args, **(kwargs or {}))

    @property
    def ring_bytes(self) -> float:
        """Bytes that each rank would send for all that was counted, with ring algorithms."""
        size = dist.get_world_size()
        return sum(ring_bytes(kind, one.bytes, size) for kind, one in self.seen.items())


# Marks in the operators' names; reduce_scatter before reduce, allgather before gather.
_KINDS = {
    "allreduce": "all_reduce",
    "all_reduce": "all_reduce",
    "reduce_scatter": "reduce_scatter",
    "allgather": "all_gather",
    "all_gather": "all_gather",
    "broadcast": "broadcast",
}


def ring_bytes(kind: str, size: float, ranks: int) -> float:
    """Bytes that each of `ranks` sends for a tensor of `size` bytes, by the ring algorithm.

    An all-reduce is a reduce-scatter, (p - 1) / p of the size, and an all-gather, as much again; no algorithm sends
    less (Patarasuk and Yuan 2009). A broadcast passes the tensor on, which the last rank
    need not: its figure is the mean over the ranks.

    Raises:
        ParameterError: an unknown kind.
    """
    share = (ranks - 1) / ranks
    shares = {"all_reduce": 2 * share, "reduce_scatter": share, "all_gather": share, "broadcast": share}
    if kind not in shares:
        raise ParameterError(f"unknown collective {kind!r}; known are {', '.join(shares)}")
    return shares[kind] * size


def loopback_bytes() -> int | None:
    """Bytes that this machine has sent to itself so far, all processes together; None where Linux does not tell."""
    counter = Path("/sys/class/net/lo/statistics/tx_bytes")
    return int(counter.read_text()) if counter.exists() else None


# --- starting processes ------------------------------------------------------------


@dataclass(frozen=True)
class Launch:
    """How a start of several processes ended.

    Attributes:
        code: exit code of torchrun, 0 when all ranks ended well.
        seconds: from the start to the end, of which Python and torch take several.
        output: what was printed, torchrun's report of a failure included.
    """

    code: int
    seconds: float
    output: str


def launch(
    command: Sequence[str | Path],
    processes: int = 2,
    *,
    restarts: int = 0,
    folder: Path | str | None = None,
    timeout_seconds: float = 600.0,
) -> Launch:
    """Start `command` in several processes on this machine by torchrun, and wait until all have ended.

    Args:
        command: a script and its arguments, or `-m`, a module and its arguments.
        processes: how many.
        restarts: so many times all are started again when one has failed.
        folder: working folder.
        timeout_seconds: after so long all are ended, and the code is not 0.

    Raises:
        ParameterError: less than one process.
    """
    if processes < 1:
        raise ParameterError(f"processes is {processes}: give 1 or more")
    words = ["--standalone", "--nproc-per-node", processes, "--max-restarts", restarts, *command]
    words = [sys.executable, "-m", "torch.distributed.run", *map(str, words)]
    environment = {"OMP_NUM_THREADS": "1", **os.environ}  # torchrun would set it, and say so
    started = time.perf_counter()
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    child = subprocess.Popen(words, cwd=folder, env=environment, **pipes)
    try:
        output, _ = child.communicate(timeout=timeout_seconds)
    except BaseException as error:  # torchrun ends its ranks, which have sessions of their own, before it ends itself
        child.terminate()
        output, _ = child.communicate()
        if not isinstance(error, subprocess.TimeoutExpired):
            raise
    return Launch(child.returncode, time.perf_counter() - started, output)


class LaunchFailed(ScaletutError):
    """A start of several processes did not end well; the text holds what they said last."""


def on_ranks(
    function: Callable[..., Any], processes: int = 2, *, restarts: int = 0, timeout_seconds: float = 600.0, **given: Any
) -> list[Any]:
    """Run `function(ranks, **given)` in several processes started by torchrun, as DDP ranks; what each returned.

    The function may be one of a notebook: its source is what the processes get, so it imports what it needs inside.
    What is given and returned passes as JSON. GPUs are used where each process has one, else CPUs; `restarts` and
    `timeout_seconds` are those of `launch`.

    Raises:
        LaunchFailed: a process ended with an error.
        ParameterError: less than one process, or a function without source.
    """
    try:
        source = textwrap.dedent(inspect.getsource(function))
    except (OSError, TypeError) as error:
        raise ParameterError("the processes get the function's source, and it has none: define it with def") from error
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder, "worker.py")
        device = "cuda" if torch.cuda.device_count() >= processes else "cpu"
        filled = _WORKER.format(source=source, name=function.__name__, device=device)
        script.write_text(filled, encoding="utf-8")
        ended = launch(
            [script, folder, canonical_json(given)], processes, restarts=restarts, timeout_seconds=timeout_seconds
        )
        if ended.code:
            raise LaunchFailed(f"{function.__name__} failed in {processes} processes: {reason(ended.output)}")
        return [json.loads(Path(folder, f"{rank}.json").read_text("utf-8")) for rank in range(processes)]


_WORKER = """\
from __future__ import annotations

import json
import sys
from pathlib import Path

from scaletut.train.distributed import join

{source}

if __name__ == "__main__":
    with join(device="{device}") as ranks:
        told = {name}(ranks, **json.loads(sys.argv[2]))
        Path(sys.argv[1], f"{{ranks.rank}}.json").write_text(json.dumps(told), encoding="utf-8")
"""


def reason(output: str) -> str:
    """What went wrong first, in a line, of all that several processes and torchrun printed."""
    if killed := re.search(r"\brank +: (\d+) .*\n +exitcode +: -9 ", output):  # its peers only complain that it left
        return f"rank {killed[1]} was killed (SIGKILL; by the system usually for want of memory)"
    lines = [line.partition("]: ")[2] if line.startswith("[rank") else line for line in output.splitlines()]
    errors = [line for line in lines if re.match(r"[\w.]*(Error|Exception|Failed)\b", line)]
    return (errors or lines[-1:] or ["nothing was printed"])[0]
