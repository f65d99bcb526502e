"""What two stages of a pipeline find out: `torchrun pipeline_worker.py FOLDER`; the tests beside read it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from worker_cases import messages_of

from scaletut.models.build import seeded
from scaletut.train.distributed import Ranks, join
from scaletut.train.pipeline import Pipeline, ScheduleName

CASES: tuple[tuple[ScheduleName, int], ...] = (("gpipe", 1), ("gpipe", 8), ("1f1b", 8))


def net() -> nn.Sequential:
    """Eight equal layers and a head, in float64."""
    with seeded(0):
        layers = [nn.Sequential(nn.Linear(256, 256), nn.Tanh()) for _ in range(8)]
        return nn.Sequential(*layers, nn.Linear(256, 10)).double()


def one_step(ranks: Ranks, schedule: ScheduleName, micro_batches: int) -> dict[str, Any]:
    with seeded(1):
        inputs, targets = torch.randn(1024, 256).double(), torch.randint(10, (1024,))
    whole = net()
    loss = F.cross_entropy(whole(inputs), targets)
    loss.backward()
    pipeline = Pipeline(ranks, net(), inputs[:1], micro_batches, schedule)
    pipeline.step(inputs, targets)  # settles shapes
    pipeline.stage.zero_grad()
    step = pipeline.step(inputs, targets)
    own, every = list(pipeline.stage.parameters()), list(whole.parameters())
    pairs = zip(own, every[: len(own)] if ranks.main else every[-len(own) :], strict=True)
    return {
        "loss": [step.loss, float(loss.detach())],
        "apart": max(float((a.grad - b.grad).abs().max() / b.grad.abs().max()) for a, b in pairs),
        "parameters": len(own),
        "bubble": step.bubble,
        "in_flight": step.in_flight,
        "chunks": [[[chunk.kind, chunk.micro_batch] for chunk in stage] for stage in step.chunks],
    }


def refused(ranks: Ranks) -> dict[str, str]:
    inputs, targets = torch.randn(9, 256).double(), torch.zeros(9, dtype=torch.int64)
    calls = {
        "few": lambda: Pipeline(ranks, net(), inputs[:1], 1, "1f1b"),
        "name": lambda: Pipeline(ranks, net(), inputs[:1], 4, "2f2b"),
        "uneven": lambda: Pipeline(ranks, net(), inputs[:1], 4, "gpipe").step(inputs, targets),
    }
    return messages_of(calls)


def main() -> None:
    with join() as ranks:
        found = {f"{name}-{count}": one_step(ranks, name, count) for name, count in CASES} | {"refused": refused(ranks)}
        Path(sys.argv[1], f"pipeline-{ranks.rank}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main()
