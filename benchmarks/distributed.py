"""What a second process costs and buys: link, steps by mode against the cost model, pipeline bubbles, a death.

Processes are started by torchrun on this machine (gloo on CPUs, nccl where each process has a GPU).
Forms are timed in turns in the same processes, the slowest rank counts, the first round is a warm-up.
Medians of the rounds, with the least and the most.

    python benchmarks/distributed.py [--network resnet20] [--batch 128] [--rounds 9] [--processes 2] [--off 0.3]

Exits 1 when the step that the cost model predicts for replicas is off by more than `--off`, a share.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from tqdm import tqdm

from scaletut.resources.parallel import Link, step_time
from scaletut.train.distributed import launch, on_ranks
from scaletut.train.pipeline import expected_bubble

DEATH = """
import os, signal, sys, time
from pathlib import Path
import torch, torch.distributed as dist
from scaletut.train.distributed import join

with join() as ranks:
    for step in range(1000):
        dist.all_reduce(torch.ones(1000))
        if step == 20 and ranks.rank == 1:
            Path(sys.argv[1]).write_text(str(time.time()))
            os.kill(os.getpid(), signal.SIGKILL)
"""


def steps(ranks, network, batch, rounds):
    """Seconds of a step without exchange, with replicas, with synchronised norms, with shards; and the link."""
    from dataclasses import replace

    from scaletut.data import load
    from scaletut.models import build
    from scaletut.resources.parallel import in_turns, measure_link
    from scaletut.train import Recipe, execution
    from scaletut.train.distributed import ALONE
    from scaletut.train.loop import Run

    data = load("zipf10", n_train=max(1024, 2 * batch), n_test=100).train
    how = execution(ranks.device or "", "fp32")
    recipe = Recipe(epochs=1000, batch_size=batch, lr=0.01, precision="fp32")
    plain = replace(ranks, sync_norms=False)
    groups = {"alone": (ALONE, batch // ranks.size)}
    if not ranks.alone:
        groups |= {"ddp": (plain, batch), "ddp, norms of all": (ranks, batch)}
        groups |= {"fsdp": (replace(plain, mode="fsdp"), batch)}

    def form(group, size):
        run = Run(build(network), data, replace(recipe, batch_size=size), 0, None, None, how, group)
        batches = (one for epoch in range(10**6) for one in run.batches.epoch(epoch))
        return lambda: run.train_step(*next(batches))

    size = sum(p.numel() * 4 for p in build(network).parameters())
    link, timed = (None, {}) if ranks.alone else measure_link(ranks)
    taken = in_turns(ranks, {name: form(*one) for name, one in groups.items()}, rounds)
    return {
        "seconds": taken,
        "bytes": size,
        "link": link and [link.bandwidth, link.latency],
        "all_reduce": {str(one): seconds for one, seconds in timed.items()},
    }


def bubbles(ranks, rounds):
    """Bubble and in-flight micro-batches of both schedules, by the number of micro-batches."""
    import torch
    from torch import nn

    from scaletut.models.build import seeded
    from scaletut.train.pipeline import Pipeline

    with seeded(0):
        layers = [nn.Sequential(nn.Linear(512, 512), nn.Tanh()) for _ in range(8)]
        x, y = torch.randn(2048, 512), torch.randint(512, (2048,))
    found = {}
    for schedule, counts in (("gpipe", (1, 2, 4, 8, 16)), ("1f1b", (2, 4, 8, 16))):
        for count in counts:
            line = Pipeline(ranks, nn.Sequential(*layers), x[:1], count, schedule)
            told = [line.step(x, y) for _ in range(rounds + 1)][1:]
            found[f"{schedule} {count}"] = [[one.bubble for one in told], max(told[0].in_flight)]
    return found


def seconds_to_end_after_a_death(processes: int) -> float:
    with tempfile.TemporaryDirectory() as folder:
        script, stamp = Path(folder, "death.py"), Path(folder, "killed")
        script.write_text(DEATH, encoding="utf-8")
        ended = launch([script, stamp], processes)
        assert ended.code, "the run survived the death of a rank"
        return time.time() - float(stamp.read_text())


def row(name: str, values: list[float], unit: str, scale: float = 1.0) -> str:
    low, mid, high = (scale * value for value in (min(values), median(values), max(values)))
    return f"{name:<36}{mid:>10.3g} {unit:<4} ({low:.3g} to {high:.3g}, n = {len(values)})"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--network", default="resnet20")
    parser.add_argument("--batch", type=int, default=128, help="images a step, of all processes together")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--off", type=float, default=0.3, help="share by which the prediction may be off")
    options = parser.parse_args()
    given = {"network": options.network, "batch": options.batch, "rounds": options.rounds}
    jobs = {
        "one process": lambda: on_ranks(steps, 1, **given)[0],
        "processes": lambda: on_ranks(steps, options.processes, **given)[0],
        "pipeline": lambda: on_ranks(bubbles, options.processes, rounds=options.rounds)[0],
        "death": lambda: [seconds_to_end_after_a_death(options.processes) for _ in range(3)],
    }
    with tqdm(jobs.items(), unit="start") as bar:
        found = {name: job() for name, job in bar}
    one, many = found["one process"], found["processes"]
    link = Link(*many["link"])
    alone, ddp = (median(many["seconds"][name]) for name in ("alone", "ddp"))
    told = step_time(options.processes, alone, many["bytes"], link)
    off = abs(told.seconds / ddp - 1)

    print(f"{options.network}, {options.batch} images a step, {options.processes} processes\n")
    print(
        f"link under all-reduce               {link.bandwidth / 1e9:>10.3g} GB/s, {1e6 * link.latency:.0f} us a message"
    )
    print(row("one process, whole batch", one["seconds"]["alone"], "ms", 1e3))
    for name, values in many["seconds"].items():
        print(row(f"{options.processes} processes, {name}", values, "ms", 1e3))
    print(f"predicted step of ddp               {1e3 * told.seconds:>10.3g} ms   (off by {100 * off:.1f} %)")
    print(f"speed-up of ddp                     {median(one['seconds']['alone']) / ddp:>10.3g} times\n")
    for name, (values, in_flight) in found["pipeline"].items():
        theory = expected_bubble(options.processes, int(name.split()[1]))
        print(row(f"bubble, {name}", values, "") + f", theory {theory:.3g}, in flight {in_flight}")
    print("\n" + row("from a death to the end", found["death"], "s"))
    return int(off > options.off)


if __name__ == "__main__":
    sys.exit(main())
