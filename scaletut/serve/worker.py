"""An inference process: reads batches of images from its standard input and answers on what was its standard output.

Started as `python -m scaletut.serve.worker MODEL`. It ends when the service closes the pipe, however the service ends.
A batch is its number of images as a little-endian uint32 and their bytes; an answer is the seconds of computation as
a float64 and the logits as float32. The first line is JSON: `{"ready": K}`, or `{"error": "..."}`.
"""

from __future__ import annotations

import json
import os
import signal
import struct
import sys
import time
from typing import Any, BinaryIO

import numpy as np

from scaletut.compress.program import Program

COUNT = struct.Struct("<I")
SECONDS = struct.Struct("<d")


def main(path: str) -> int:
    """Serve until the pipe is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the service says when it is over
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # whatever a library prints must not be taken for an answer
    try:
        predictor = Program.load(path).predictor(threads=1)
        side = predictor.manifest["side"]
        classes = predictor(np.zeros((1, side, side, 3), np.uint8)).shape[1]  # the first run is slower than others
    except Exception as error:
        _say(answers, {"error": " ".join(str(error).split())[:500] or type(error).__name__})
        return 1
    _say(answers, {"ready": classes})
    while (images := _read(sys.stdin.buffer, side)) is not None:
        started = time.perf_counter()
        logits = predictor(images, batch_size=len(images))
        seconds = time.perf_counter() - started
        answers.write(SECONDS.pack(seconds) + logits.astype("<f4", copy=False).tobytes())
        answers.flush()
    return 0


def _read(pipe: BinaryIO, side: int) -> np.ndarray | None:
    """The next batch, uint8 (n, side, side, 3); None at the end."""
    head = pipe.read(COUNT.size)
    count = COUNT.unpack(head)[0] if len(head) == COUNT.size else 0
    body = pipe.read(count * side * side * 3)
    return np.frombuffer(body, np.uint8).reshape(count, side, side, 3) if body else None


def _say(answers: BinaryIO, message: dict[str, Any]) -> None:
    answers.write(json.dumps(message).encode() + b"\n")
    answers.flush()


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1]))
