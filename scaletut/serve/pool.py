"""Inference processes that share one queue: each takes a batch, and one that dies loses nothing.

A batch whose worker has ended, however it ended, goes back to the head of the queue, and the worker is replaced.
An image on which several workers have died is given up, so that one poisonous request cannot stop the service.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
import time
from collections.abc import Sequence
from itertools import chain, repeat
from pathlib import Path

import numpy as np

from scaletut.compress.program import Program
from scaletut.serve.metrics import Metrics
from scaletut.serve.settings import Refused, ServeError, Settings
from scaletut.serve.waiting import Answer, Job, Waiting
from scaletut.serve.worker import COUNT, SECONDS

START = 60.0  # seconds that a worker may take to load the program
GRACE = 5.0  # seconds that it has to end by itself
PAUSES = (0.1, 0.5, 1.0, 2.0, 5.0)  # seconds before a worker that did not start is tried again


class WorkerEnded(Exception):
    """The process is gone, or does not answer."""


class Worker:
    """One inference process."""

    def __init__(self, process: asyncio.subprocess.Process, classes: int) -> None:
        self.process, self.classes = process, classes
        self.batches = 0

    @classmethod
    async def start(cls, path: Path) -> Worker:
        """Start a process and wait until it has run the program once. Raises ServeError when it cannot."""
        quiet = {**os.environ, "OMP_NUM_THREADS": "1"}
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "scaletut.serve.worker", str(path), stdin=-1, stdout=-1, env=quiet
        )  # fmt: skip
        try:
            line = await asyncio.wait_for(process.stdout.readline(), START)
            said = json.loads(line or '{"error": "it ended before it said anything"}')
        except (asyncio.TimeoutError, ValueError):
            said = {"error": f"it was not ready after {START:.0f} s"}
        except BaseException:  # the service is closing
            process.kill()
            raise
        worker = cls(process, said.get("ready", 0))
        if "error" in said:
            await worker.stop()
            raise ServeError(f"an inference process cannot start: {said['error']}")
        return worker

    async def logits(self, images: np.ndarray, within: float) -> tuple[np.ndarray, float]:
        """Logits float32 (n, K) of uint8 (n, side, side, 3), and the seconds of computation.

        Raises WorkerEnded when the process is gone, or has not answered `within` seconds, upon which it is ended.
        """
        try:
            return await asyncio.wait_for(self._exchange(images), within)
        except (OSError, asyncio.IncompleteReadError) as error:
            raise WorkerEnded from error
        except asyncio.TimeoutError as error:
            self.process.kill()
            raise WorkerEnded from error

    async def _exchange(self, images: np.ndarray) -> tuple[np.ndarray, float]:
        self.process.stdin.write(COUNT.pack(len(images)) + images.tobytes())
        await self.process.stdin.drain()
        body = await self.process.stdout.readexactly(SECONDS.size + 4 * len(images) * self.classes)
        self.batches += 1
        logits = np.frombuffer(body, "<f4", offset=SECONDS.size).reshape(len(images), self.classes)
        return logits, SECONDS.unpack_from(body)[0]

    async def stop(self) -> None:
        """Close the pipe, upon which the process ends; one that does not is killed."""
        with contextlib.suppress(OSError):
            self.process.stdin.close()
        try:
            await asyncio.wait_for(self.process.wait(), GRACE)
        except asyncio.TimeoutError:
            self.process.kill()
            await self.process.wait()


class Pool:
    """The workers of a service and their queue."""

    def __init__(self, program: Program, settings: Settings, metrics: Metrics) -> None:
        self.program, self.settings, self.metrics = program, settings, metrics
        self.waiting = Waiting(settings.queue)
        self.workers: dict[int, Worker] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._seconds = 0.01  # of an image, for a guess at when to come again

    async def start(self) -> None:
        """Start all workers. Raises ServeError when one cannot."""
        numbers = range(self.settings.workers)
        started = await asyncio.gather(*(Worker.start(self.program.path) for _ in numbers), return_exceptions=True)
        self.workers = {n: one for n, one in zip(numbers, started, strict=True) if isinstance(one, Worker)}
        if faults := [one for one in started if isinstance(one, BaseException)]:
            await self.close()
            raise faults[0]
        self._tasks = [asyncio.create_task(self._keep(number)) for number in numbers]

    async def close(self) -> None:
        """End all workers; whoever still waits is told to come again."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.gather(*(worker.stop() for worker in self.workers.values()))
        self.workers = {}

    async def answers(self, images: Sequence[np.ndarray]) -> list[Answer]:
        """One answer for each image, uint8 (side, side, 3).

        Raises Refused: no room (503), no answer in time (503), or workers died on it again and again (500).
        """
        loop = asyncio.get_running_loop()
        jobs = [Job(image, loop.create_future()) for image in images]
        self.waiting.put(jobs, self.come_again())
        try:
            late = (await asyncio.wait([job.answer for job in jobs], timeout=self.settings.patience))[1]
            if late:
                patience = f"{self.settings.patience:g} s"
                raise Refused(
                    503, f"no worker had time for this within {patience}; come again later", self.come_again()
                )
            return [job.answer.result() for job in jobs]
        finally:
            for job in jobs:
                job.answer.cancel()

    def come_again(self) -> int:
        """Seconds after which the queue of now should be empty."""
        return max(1, round(len(self.waiting) * self._seconds / max(1, len(self.workers))))

    async def _keep(self, number: int) -> None:
        """Feed a worker; when it ends, replace it."""
        while True:
            worker = self.workers[number]
            feeding = asyncio.create_task(self._feed(worker))
            ending = asyncio.create_task(worker.process.wait())
            try:
                await asyncio.wait((feeding, ending), return_when=asyncio.FIRST_COMPLETED)
            finally:
                feeding.cancel()
                ending.cancel()
                await asyncio.gather(feeding, ending, return_exceptions=True)
            del self.workers[number]
            await worker.stop()  # it has ended, unless the fault was ours
            self.metrics.restarts += 1
            self.workers[number] = await self._replacement()

    async def _replacement(self) -> Worker:
        for pause in chain(PAUSES, repeat(PAUSES[-1])):
            try:
                return await Worker.start(self.program.path)
            except ServeError:  # for want of memory, perhaps: it may pass
                await asyncio.sleep(pause)
        raise AssertionError("never reached")

    async def _feed(self, worker: Worker) -> None:
        """Give batches to a worker until it ends."""
        while True:
            jobs = await self.waiting.take(self.settings.max_batch, self.settings.max_wait)
            if not jobs:
                continue
            begun = time.monotonic()
            self.metrics.computing += len(jobs)
            try:
                logits, seconds = await worker.logits(np.stack([job.image for job in jobs]), self.settings.stuck)
            except WorkerEnded:
                return self._again(jobs)
            except BaseException:
                self._again(jobs)
                raise
            finally:
                self.metrics.computing -= len(jobs)
            self.metrics.computed(len(jobs), seconds)
            self._seconds += 0.1 * (seconds / len(jobs) - self._seconds)
            for job, row in zip(jobs, logits, strict=True):
                if not job.answer.done():
                    job.answer.set_result(Answer(row, begun - job.arrived, seconds, len(jobs)))

    def _again(self, jobs: Sequence[Job]) -> None:
        """Jobs whose worker ended go to the next one; those that have seen too many end are given up."""
        for job in jobs:
            job.tries += 1
            if job.tries >= self.settings.tries and not job.answer.done():
                fault = Refused(500, f"{job.tries} inference processes ended while they computed this; it is given up")
                job.answer.set_exception(fault)
        self.metrics.retried += sum(not job.answer.done() for job in jobs)
        self.waiting.put_back([job for job in jobs if not job.answer.done()])
