"""A worker of a local sweep: reads specifications from its standard input, a JSON line each, and answers on the
descriptor that the driver opened. Started as `python -m scaletut.sweep.worker FOLDER`.

The driver's end of the pipe closes when the driver dies, however it dies; the worker then stops at once.
Nothing is lost by that: records are written whole, and a checkpoint is seconds old.
"""

from __future__ import annotations

import json
import os
import queue
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

from scaletut.sweep.plan import RunSpec, training_code_digest

TELL_EVERY = 0.5  # seconds between two reports of progress


def main(folder: str) -> int:
    """Work until the driver closes the pipe."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # whatever a library prints must not be taken for an answer
    waiting: queue.Queue[str] = queue.Queue()
    threading.Thread(target=_read, args=(waiting,), daemon=True).start()
    _tell(answers, kind="ready")
    while line := waiting.get():
        _work(json.loads(line), Path(folder), answers)
    return 0


def _read(waiting: queue.Queue[str]) -> None:
    for line in sys.stdin:
        waiting.put(line)
    os._exit(0)  # the driver is gone


def _work(message: dict[str, Any], folder: Path, answers: TextIO) -> None:
    from scaletut.sweep.store import Store, SweepError
    from scaletut.sweep.train import summary

    spec, store = RunSpec.from_dict(message), Store(folder)
    told = 0.0

    def progress(share: float) -> None:
        nonlocal told
        if time.monotonic() - told >= TELL_EVERY:
            told = time.monotonic()
            _tell(answers, kind="progress", share=share)

    kind, result = outcome(spec, store.checkpoint(spec), progress)
    if kind != "record":
        _tell(answers, kind=kind, error=result)
        return
    try:
        store.write(spec, result)
        _tell(answers, kind="done", **summary(result))
    except SweepError as error:
        _tell(answers, kind="fatal", error=str(error))


def outcome(spec: RunSpec, checkpoint: Path | None, progress: Callable[[float], None]) -> tuple[str, Any]:
    """Execute a run: ("record", Record), or what went wrong and a line on it.

    "out of memory": half the batch may fit. "failed": the run's own fault, others may work.
    "fatal": no run can work, because the disk is full, the data are absent, or the library is not the one that the
    sweep started with.
    `progress` is called after each step with the share of the run that is done.
    """
    from scaletut.errors import DataError, ScaletutError
    from scaletut.sweep.train import execute
    from scaletut.train.checkpoint import CheckpointError

    def step(now: Any) -> None:
        progress(now.step / now.steps)

    if spec.code != training_code_digest():
        return "fatal", (
            "the library's training code is not the one that the sweep was started with, so its records would not be "
            "what their keys say; start the sweep again, and on a cluster install the same scaletut on every node"
        )
    try:
        try:
            return "record", execute(spec, checkpoint, step)
        except CheckpointError:  # it was damaged after it had been written whole; a run costs less than a sweep
            checkpoint.unlink(missing_ok=True)
            return "record", execute(spec, checkpoint, step)
    except MemoryError as error:
        return "out of memory", _line(error)
    except DataError as error:  # the next run would want the same data
        return "fatal", _line(error)
    except ScaletutError as error:
        return "failed", _line(error)
    except OSError as error:
        return "fatal", f"a checkpoint or the data cannot be used ({_line(error)}); free some space or mend the folder"
    except Exception as error:  # a fault of ours: the sweep goes on, and the record tells
        return "failed", f"{type(error).__name__}: {_line(error)}"


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]


def _tell(answers: TextIO, **message: Any) -> None:
    answers.write(json.dumps(message) + "\n")
    answers.flush()


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1]))
