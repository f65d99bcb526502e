"""A run of two ranks of which one kills itself, once: `torchrun --max-restarts 1 killed_worker.py FOLDER`."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

import torch
from parallel_worker import ADAM, net

from scaletut.data import load
from scaletut.train import Progress, fit
from scaletut.train.distributed import join


def main() -> None:
    folder, steps = Path(sys.argv[1]), []
    restart = int(os.environ["TORCHELASTIC_RESTART_COUNT"])
    data = load("zipf10", n_train=256, n_test=100).train.shrink(16)

    def noted(progress: Progress) -> None:
        steps.append(progress.step)
        if progress.step == 4 and restart == 0 and ranks.rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)

    with join("ddp") as ranks:
        options = {"checkpoint": folder / "run.pt", "checkpoint_seconds": 0, "progress": noted, "ranks": ranks}
        killed = fit(net(), data, ADAM, 0, **options).model.state_dict()
        whole = fit(net(), data, ADAM, 0, ranks=ranks).model.state_dict()
        same = all(torch.equal(value, whole[name]) for name, value in killed.items())
        if ranks.main:
            (folder / "ended.json").write_text(json.dumps({"first_step": steps[0], "restart": restart, "same": same}))


if __name__ == "__main__":
    main()
