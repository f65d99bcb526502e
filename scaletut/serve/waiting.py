"""The queue between requests and workers: bounded, first come first served, emptied a batch at a time."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from scaletut.serve.settings import Refused


@dataclass(frozen=True)
class Answer:
    """What a worker says about one image.

    Attributes:
        logits: float32 (K,).
        waited: seconds between the request and its batch.
        computed: seconds that the batch took in the worker.
        batch: images in it.
    """

    logits: np.ndarray
    waited: float
    computed: float
    batch: int


@dataclass(eq=False)
class Job:
    """One image, uint8 (side, side, 3), and the place of its answer."""

    image: np.ndarray
    answer: asyncio.Future[Answer]
    arrived: float = field(default_factory=time.monotonic)
    tries: int = 0


class Waiting:
    """Jobs that wait."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._jobs: deque[Job] = deque()
        self._turn = asyncio.Lock()
        self._wanted = 0
        self._enough: asyncio.Future[None] | None = None

    def __len__(self) -> int:
        return len(self._jobs)

    def put(self, jobs: Sequence[Job], retry_after: int = 1) -> None:
        """Accept all of the jobs, or none: Refused (503) when there is no room for them."""
        if len(self._jobs) + len(jobs) > self.limit:
            raise Refused(503, "too many requests are waiting; come again a little later", retry_after)
        self._jobs.extend(jobs)
        self._tell()

    def put_back(self, jobs: Sequence[Job]) -> None:
        """Jobs that were taken and not answered come first again. They were accepted, so no limit holds."""
        self._jobs.extendleft(reversed(jobs))
        self._tell()

    async def take(self, most: int, wait: float) -> list[Job]:
        """Wait for a job, and for the first one's sake no longer than `wait` for others; at most `most` of them.

        Jobs whose client has given up are dropped, so that the list may be empty.
        """
        async with self._turn:  # one worker collects at a time: two would share what is one batch
            await self._at_least(1, None)
            left = self._jobs[0].arrived + wait - time.monotonic()
            if len(self._jobs) < most and left > 0:
                await self._at_least(most, left)
            taken = [self._jobs.popleft() for _ in range(min(most, len(self._jobs)))]
        return [job for job in taken if not job.answer.done()]

    async def _at_least(self, count: int, seconds: float | None) -> None:
        if len(self._jobs) >= count:
            return
        self._wanted, self._enough = count, asyncio.get_running_loop().create_future()
        try:
            await asyncio.wait((self._enough,), timeout=seconds)
        finally:
            self._enough = None

    def _tell(self) -> None:
        if self._enough is not None and not self._enough.done() and len(self._jobs) >= self._wanted:
            self._enough.set_result(None)
