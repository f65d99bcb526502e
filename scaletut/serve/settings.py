"""How a service runs, and what it refuses."""

from __future__ import annotations

from dataclasses import dataclass

from scaletut.errors import ParameterError, ScaletutError


class Refused(Exception):
    """A request that is not answered with a prediction.

    Attributes:
        status: the HTTP status, 4xx where the client can mend it, 5xx where it should come again.
        reason: one line for whoever sent it.
        retry_after: seconds after which to come again; 0 where coming again does not help.
    """

    def __init__(self, status: int, reason: str, retry_after: int = 0) -> None:
        super().__init__(reason)
        self.status, self.reason, self.retry_after = status, reason, retry_after


class ServeError(ScaletutError):
    """The service cannot start or go on; the message says why."""


@dataclass(frozen=True)
class Settings:
    """How a service runs.

    Attributes:
        workers: inference processes, one thread each; more than there are cores gains nothing.
        max_batch: images that a worker takes at once, at most.
        max_wait: seconds that the first image of a batch waits for others while a worker is idle.
        queue: images that may wait; further requests are told to come again (503).
        max_bytes: of a request's body; larger ones are refused (413), from their header where it tells.
        max_images: in a request.
        max_pixels: width times height of a picture before it is made small.
        slow: seconds that a request may take to arrive, header and body each (408).
        patience: seconds that an accepted image may wait for its answer (503).
        stuck: seconds after which a worker that does not answer is ended; its batch goes to another.
        tries: workers that may die on an image before it is given up (500).
        connections: open ones; beyond them the one that has been sending for longest is closed.
    """

    workers: int = 1
    max_batch: int = 32
    max_wait: float = 0.002
    queue: int = 256
    max_bytes: int = 5_000_000
    max_images: int = 32
    max_pixels: int = 25_000_000
    slow: float = 10.0
    patience: float = 30.0
    stuck: float = 10.0
    tries: int = 3
    connections: int = 512

    def __post_init__(self) -> None:
        for name in ("workers", "max_batch", "queue", "max_bytes", "max_images", "max_pixels", "tries", "connections"):
            if getattr(self, name) < 1:
                raise ParameterError(f"{name}={getattr(self, name)} must be 1 or more")
        for name in ("slow", "patience", "stuck"):
            if not getattr(self, name) > 0:
                raise ParameterError(f"{name}={getattr(self, name)} must be more than 0 seconds")
        if not 0 <= self.max_wait <= 10:
            raise ParameterError(f"max_wait={self.max_wait} must be between 0 and 10 seconds; 2 ms is usual")
        if self.max_images > self.queue:
            raise ParameterError(
                f"max_images={self.max_images} is more than the queue of {self.queue} can ever hold; raise the queue"
            )
