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
from pathlib import Path
from typing import Any, TextIO

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
    from scaletut.errors import ScaletutError
    from scaletut.sweep.plan import RunSpec
    from scaletut.sweep.store import Store
    from scaletut.sweep.train import execute, summary

    spec, store = RunSpec.from_dict(message), Store(folder)
    told = 0.0

    def progress(now: Any) -> None:
        nonlocal told
        if time.monotonic() - told >= TELL_EVERY:
            told = time.monotonic()
            _tell(answers, kind="progress", key=spec.key, share=now.step / now.steps)

    try:
        record = execute(spec, store.checkpoint(spec), progress)
        store.write(spec, record)
        _tell(answers, kind="done", key=spec.key, **summary(record))
    except MemoryError as error:
        store.checkpoint(spec).unlink(missing_ok=True)  # it belongs to the larger batch
        _tell(answers, kind="out of memory", key=spec.key, error=_line(error))
    except (ScaletutError, OSError) as error:
        _tell(answers, kind="failed", key=spec.key, error=_line(error), fatal=isinstance(error, OSError))
    except Exception as error:  # a fault of ours: the sweep goes on, and the record tells
        _tell(answers, kind="failed", key=spec.key, error=f"{type(error).__name__}: {_line(error)}", fatal=False)


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]


def _tell(answers: TextIO, **message: Any) -> None:
    answers.write(json.dumps(message) + "\n")
    answers.flush()


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1]))
