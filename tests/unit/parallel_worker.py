"""What two ranks find out together, in one start of two processes: `torchrun parallel_worker.py FOLDER`.

The first rank writes `findings.json`; the tests beside read it.
"""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F
from worker_cases import messages_of

from scaletut.data import Batches, ImageSet, load
from scaletut.errors import ParameterError
from scaletut.models import build
from scaletut.train import Execution, Progress, Recipe, TrainingResult, execution, fit
from scaletut.train.distributed import (
    ALONE,
    CountTraffic,
    Ranks,
    join,
    local,
    loopback_bytes,
    replica_distance,
    state_bytes,
)
from scaletut.train.loop import Run, backward

SGD = Recipe(epochs=2, batch_size=64, lr=0.05, crop=2, flip="random", label_smoothing=0.1, precision="fp32")
ADAM = replace(SGD, optimizer="adamw", lr=2e-3, averaging=0.2, patience=9)
MUON = replace(SGD, optimizer="muon", lr=0.1, normalise_filters=True)
MIXED = replace(SGD, batch_size=63, mixup=0.2)  # 31 images on one rank, 32 on the other
CPU = execution("cpu", "fp32")
STOP_AT = 3


class Double(nn.Module):
    """A network in float64, where rounding cannot hide a fault: in float32 eight steps grow it to per cents."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner.double()

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x.to(next(self.parameters()).dtype))


def net(seed: int = 0) -> nn.Module:
    return Double(build("resnet8", width=0.5, seed=seed))


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: value for name, value in model.state_dict().items() if value.is_floating_point()}


def apart(one: nn.Module, other: nn.Module) -> float:
    """Largest difference of a weight or a running statistic, over the largest of its tensor."""
    pairs = zip(weights(one).values(), weights(other).values(), strict=True)
    return max(float((a - b).abs().max() / b.abs().max()) for a, b in pairs)


class StoppedError(Exception):
    """Raised on all ranks after a step, where a real run would be killed."""


def stopping(progress: Progress) -> None:
    if progress.step > STOP_AT:
        raise StoppedError


def equality(data: ImageSet, ranks: Ranks, sharded: Ranks) -> dict[str, float]:
    """Final weights with two ranks against those of one process: relative, largest."""
    apart_ranks = replace(ranks, sync_norms=False)
    cases: dict[str, tuple[Recipe, Ranks, Execution]] = {
        "ddp": (SGD, ranks, CPU),
        "ddp_unsynced": (SGD, apart_ranks, CPU),
        "ddp_muon": (MUON, ranks, CPU),
        "ddp_uneven_mixed": (MIXED, ranks, CPU),
        "ddp_recompute": (SGD, ranks, replace(CPU, recompute=True)),
        "fsdp": (SGD, sharded, CPU),
        "fsdp_adam_averaged": (ADAM, sharded, CPU),
    }
    plain: dict[Recipe, TrainingResult] = {}
    found, held = {}, data.take(range(51))
    for name, (recipe, group, how) in cases.items():
        if recipe not in plain:
            plain[recipe] = fit(net(), data, recipe, 0, validation=held)
        result = fit(net(), data, recipe, 0, validation=held, ranks=group, how=how)
        found[name] = apart(result.model, plain[recipe].model)
        scores = zip(result.history, plain[recipe].history, strict=True)
        assert group is apart_ranks or all(abs(a.validation_loss - b.validation_loss) < 1e-5 for a, b in scores)
        assert replica_distance(ranks, result.model).largest == 0
        assert not any("Synchronised" in type(one).__name__ for one in result.model.modules())
    return found


def gradients(data: ImageSet, ranks: Ranks) -> dict[str, float]:
    """One step's gradients with two ranks against those of one process; micro-batches exchange once."""
    batches = [Batches(data, batch_size=64, rank=r, ranks=p) for r, p in ((0, 1), (ranks.rank, ranks.size))]
    (images, labels), (mine, truth) = (next(batch.epoch(0)) for batch in batches)
    one, several = CPU.place(net()), CPU.place(net())
    forward = ranks.wrap(several)
    backward(one, images, labels, SGD, CPU)
    with CountTraffic() as whole:
        backward(forward, mine, truth, SGD, CPU, ranks=ranks)
    differences = [
        (a.grad - b.grad).norm() / b.grad.norm() for a, b in zip(several.parameters(), one.parameters(), strict=True)
    ]
    several.zero_grad()
    plain = replace(ranks, sync_norms=False)  # so that nothing but gradients is counted
    forward = plain.wrap(CPU.place(net()))
    with CountTraffic() as held:
        backward(forward, mine, truth, SGD, replace(CPU, micro_batch=8), ranks=plain)
    return {
        "apart": float(max(differences)),
        "parameter_bytes": sum(p.nbytes for p in one.parameters()),
        "reduced_bytes": whole.seen["all_reduce"].bytes,
        "held_bytes": held.seen["all_reduce"].bytes,
        "held_calls": held.seen["all_reduce"].calls,
    }


def moving(data: ImageSet, ranks: Ranks, sharded: Ranks, folder: Path) -> dict[str, list[float]]:
    """A checkpoint written with some number of ranks, resumed with another, against an undisturbed run."""
    cases = {
        "ddp_to_one": (ranks, ALONE),
        "one_to_fsdp": (ALONE, sharded),
        "fsdp_to_ddp": (sharded, ranks),
        "fsdp_to_one": (sharded, ALONE),
    }
    whole, found = fit(net(), data, ADAM, 0), {}
    for name, (before, after) in cases.items():
        file = folder / f"{name}.pt"
        if ranks.main or not before.alone:
            with contextlib.suppress(StoppedError):
                fit(net(), data, ADAM, 0, ranks=before, checkpoint=file, checkpoint_seconds=0, progress=stopping)
        dist.barrier()
        if ranks.main or not after.alone:
            noted = _Noted()
            result = fit(net(), data, ADAM, 0, ranks=after, checkpoint=file, checkpoint_seconds=99, progress=noted)
            assert noted.steps[0] == STOP_AT + 1, f"{name} was not resumed"
            losses = zip(result.history, whole.history, strict=True)
            found[name] = [apart(result.model, whole.model), max(abs(a.loss - b.loss) for a, b in losses)]
        dist.barrier()
        assert not file.exists()
    return found


class _Noted:
    """The steps that a run makes."""

    def __init__(self) -> None:
        self.steps: list[int] = []

    def __call__(self, progress: Progress) -> None:
        self.steps.append(progress.step)


def replicas(ranks: Ranks) -> dict[str, list[float]]:
    """Relative distance between ranks after steps on different images, by what is done with the gradients."""

    def nothing(model: nn.Module) -> None:
        pass

    def zero(model: nn.Module) -> None:
        dist.all_reduce(torch.tensor(0.0))

    def mean(model: nn.Module) -> None:
        for parameter in model.parameters():
            dist.all_reduce(parameter.grad)
            parameter.grad /= ranks.size

    return {form.__name__: _distances(ranks, form) for form in (nothing, zero, mean)}


def _distances(ranks: Ranks, exchange: Callable[[nn.Module], None]) -> list[float]:
    model, found = net(), []
    draw = torch.Generator().manual_seed(ranks.rank)
    for _ in range(3):
        model.zero_grad()
        images, labels = torch.randn(16, 3, 32, 32, generator=draw), torch.randint(10, (16,), generator=draw)
        F.cross_entropy(model(images), labels).backward()
        exchange(model)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter -= 0.1 * parameter.grad
        found.append(replica_distance(ranks, model).relative)
    return found


def traffic(data: ImageSet, ranks: Ranks, sharded: Ranks) -> dict[str, Any]:
    """Bytes of two steps: counted, and seen by the kernel on the loopback device."""
    found = {}
    for name, group in {"ddp": ranks, "fsdp": sharded}.items():
        group = replace(group, sync_norms=False)
        run = Run(build("resnet8", width=2), data, SGD, 0, None, None, CPU, group)
        steps = run.batches.epoch(0)
        run.train_step(*next(steps))  # DDP arranges its buckets anew after the first
        dist.barrier()
        before = loopback_bytes()
        with CountTraffic() as count:
            for _ in range(2):
                run.train_step(*next(steps))
        dist.barrier()
        found[name] = {
            "parameter_bytes": sum(p.numel() * 4 for p in run.model.parameters()),
            "mine_bytes": sum(local(p).nbytes for p in run.model.parameters()),
            "seen": {kind: [one.calls, one.bytes] for kind, one in count.seen.items()},
            "ring_bytes": count.ring_bytes,
            "loopback": None if before is None else (loopback_bytes() - before) / ranks.size,
        }
    return found


def memory(data: ImageSet, ranks: Ranks, sharded: Ranks) -> dict[str, list[int]]:
    found = {}
    for name, group in {"ddp": ranks, "fsdp": sharded}.items():
        run = Run(net(), data, ADAM, 0, None, None, CPU, group)
        run.train_step(*next(run.batches.epoch(0)))
        found[name] = [
            state_bytes(run.model, run.optimizers).parameters,
            state_bytes(run.model, run.optimizers).optimizer,
        ]
    return found


def refusals(data: ImageSet, ranks: Ranks, sharded: Ranks) -> dict[str, str]:
    """Errors that every rank must raise alike."""

    def told() -> None:
        raise ParameterError("told by the first rank")

    calls = {
        "muon": lambda: fit(net(), data, MUON, 0, ranks=sharded),
        "micro": lambda: fit(net(), data, MIXED, 0, ranks=ranks, how=replace(CPU, micro_batch=8)),
        "main": lambda: ranks.from_main(told),
        "replicas": lambda: replica_distance(ranks, sharded.wrap(net())),
    }
    return messages_of(calls)


def main() -> None:
    folder = Path(sys.argv[1])
    data = load("zipf10", n_train=192, n_test=100).train.shrink(16)
    with join("ddp") as ranks:
        sharded = replace(ranks, mode="fsdp")
        steps = {
            "equality": lambda: equality(data, ranks, sharded),
            "gradients": lambda: gradients(data, ranks),
            "moving": lambda: moving(data, ranks, sharded, folder),
            "replicas": lambda: replicas(ranks),
            "traffic": lambda: traffic(data, ranks, sharded),
            "memory": lambda: memory(data, ranks, sharded),
            "refusals": lambda: refusals(data, ranks, sharded),
            "spread": lambda: (
                ranks.spread(lambda some: some.labels[:, None], data)[:, 0].tolist() == data.labels.tolist()
            ),
        }
        findings = {}
        for name, step in steps.items():
            started = time.perf_counter()
            findings[name] = step()
            print(ranks.rank, name, f"{time.perf_counter() - started:.1f} s", flush=True)
    (folder / f"findings-{ranks.rank}.json").write_text(json.dumps(findings))


if __name__ == "__main__":
    main()
