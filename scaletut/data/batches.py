"""Augmented batches from memory: uint8 on the device, no worker processes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from scaletut.data.imageset import ImageSet
from scaletut.errors import ParameterError

BLOCK = 8192  # images augmented at a time: bounds the extra memory to about 25 MB at 32 x 32


@dataclass(frozen=True)
class Augment:
    """What is done at random to a training image.

    * `crop`: pad by so many pixels on each side (reflected) and cut a window of the old size at a random place;
    * `flip`: mirror left to right; "random" tosses a coin for each image and epoch, "alternate" tosses it once and
      mirrors every second epoch after, so that two epochs in a row show both views (Jordan 2024, arXiv:2404.00498);
    * `cutout`: side in pixels of a square at a random place that is set to the mean (DeVries and Taylor 2017).
    """

    crop: int = 0
    flip: Literal["none", "random", "alternate"] = "none"
    cutout: int = 0

    def __post_init__(self) -> None:
        if self.flip not in ("none", "random", "alternate"):
            raise ParameterError(f"unknown flip {self.flip!r}; use none, random or alternate")
        if self.crop < 0 or self.cutout < 0:
            raise ParameterError(f"crop={self.crop} and cutout={self.cutout} are pixels; use 0 or more")


class Batches:
    """Batches of an image set, shuffled and augmented anew each epoch.

    What comes out depends on `seed` and the epoch alone: not on `start`, nor on what was drawn before, nor on the device.
    """

    def __init__(
        self,
        data: ImageSet,
        *,
        batch_size: int,
        augment: Augment = Augment(),
        mean: Sequence[float] | np.ndarray | None = None,
        std: Sequence[float] | np.ndarray | None = None,
        seed: int = 0,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
        channels_last: bool = True,
        drop_last: bool = False,
    ) -> None:
        """`mean`, `std`: (3,) in 0..1 units, by default those of `data`; `drop_last` leaves out a last, smaller batch."""
        if batch_size < 1:
            raise ParameterError(f"batch_size={batch_size} must be 1 or more")
        if mean is None or std is None:
            measured = channel_statistics(data)
            mean, std = (measured[0] if mean is None else mean), (measured[1] if std is None else std)
        self.batch_size, self.augment, self.seed = batch_size, augment, seed
        self.dtype, self.channels_last, self.drop_last = dtype, channels_last, drop_last
        self.device = torch.device(device)
        self.height, self.width = data.images.shape[1:3]
        pad = augment.crop
        padded = np.pad(data.images, ((0, 0), (pad, pad), (pad, pad), (0, 0)), mode="reflect")
        self._images = torch.from_numpy(padded).to(self.device)
        self._labels = torch.tensor(data.labels, device=self.device)
        self._normalise = _Normalise(mean, std, self.device, dtype)

    def __len__(self) -> int:
        n = len(self._labels)
        return n // self.batch_size if self.drop_last else math.ceil(n / self.batch_size)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches `start`, `start` + 1, … of an epoch: images `dtype` (b, 3, h, w), labels int64 (b,)."""
        plan = self._plan(epoch)
        group = max(1, BLOCK // self.batch_size) * self.batch_size
        n = min(len(self) * self.batch_size, len(self._labels))
        for first in range(start * self.batch_size, n, group):
            rows = slice(first, min(first + group, n))
            images = self._crop(plan, rows)
            labels = self._labels[plan["order"][rows]]
            for at in range(0, len(labels), self.batch_size):
                one = slice(at, at + self.batch_size)
                yield self._finish(images[one], plan, rows.start + at), labels[one]

    def _plan(self, epoch: int) -> dict[str, Tensor]:
        """All random choices of an epoch, drawn on the CPU so that every device makes the same ones."""
        n = len(self._labels)
        draw = np.random.default_rng([self.seed, epoch])
        order = draw.permutation(n)
        plan = {"order": order}
        plan["offset"] = draw.integers(0, 2 * self.augment.crop + 1, (n, 2))
        if self.augment.flip == "random":
            plan["flip"] = draw.random(n) < 0.5
        elif self.augment.flip == "alternate":
            plan["flip"] = (np.random.default_rng([self.seed]).random(n) < 0.5)[order] ^ bool(epoch % 2)
        plan["corner"] = draw.integers(-self.augment.cutout // 2, [self.height, self.width], (n, 2))
        return {key: torch.from_numpy(value).to(self.device) for key, value in plan.items()}

    def _crop(self, plan: dict[str, Tensor], rows: slice) -> Tensor:
        """The windows of a block of images, uint8 (b, h, w, 3), copied by groups of equal offset."""
        order = plan["order"][rows]
        if not self.augment.crop:
            return self._images[order]
        side = 2 * self.augment.crop + 1
        offset = plan["offset"][rows]
        code = offset[:, 0] * side + offset[:, 1]
        by_offset = torch.argsort(code, stable=True)
        counts = torch.bincount(code, minlength=side * side).tolist()
        out = torch.empty((len(order), self.height, self.width, 3), dtype=torch.uint8, device=self.device)
        first = 0
        for place, count in enumerate(counts):
            if count:
                members = by_offset[first : first + count]
                y, x = divmod(place, side)
                out[members] = self._images[:, y : y + self.height, x : x + self.width][order[members]]
                first += count
        return out

    def _finish(self, images: Tensor, plan: dict[str, Tensor], first: int) -> Tensor:
        rows = slice(first, first + len(images))
        if "flip" in plan:
            images = torch.where(plan["flip"][rows, None, None, None], images.flip(2), images)
        result = self._normalise(images)
        if self.augment.cutout:
            result = result.masked_fill(self._hole(plan["corner"][rows])[:, :, :, None], 0)
        result = result.permute(0, 3, 1, 2)
        return result if self.channels_last else result.contiguous()

    def _hole(self, corner: Tensor) -> Tensor:
        """True inside each image's square, bool (b, h, w)."""
        y, x = (torch.arange(side, device=self.device) for side in (self.height, self.width))
        inside = [(line >= c[:, None]) & (line < c[:, None] + self.augment.cutout) for line, c in zip((y, x), corner.T)]
        return inside[0][:, :, None] & inside[1][:, None, :]


class _Normalise:
    """uint8 (…, 3) to (x / 255 - mean) / std in one multiply-add, computed in float32."""

    def __init__(self, mean: Sequence[float], std: Sequence[float], device: torch.device, dtype: torch.dtype) -> None:
        mean, std = np.asarray(mean, np.float64), np.asarray(std, np.float64)
        if mean.shape != (3,) or std.shape != (3,) or (std <= 0).any():
            raise ParameterError(f"mean {mean} and std {std} must be three numbers each, 0..1 units, std above 0")
        self.scale = torch.tensor(1 / (255 * std), dtype=torch.float32, device=device)
        self.shift = torch.tensor(-mean / std, dtype=torch.float32, device=device)
        self.dtype = dtype

    def __call__(self, images: Tensor) -> Tensor:
        return images.float().mul_(self.scale).add_(self.shift).to(self.dtype)


def channel_statistics(data: ImageSet) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of each colour channel over all pixels, float64 (3,), in 0..1 units.

    Exact: taken from the counts of the 256 levels. A constant channel gets the standard deviation 1/255.
    """
    levels = np.arange(256) / 255
    counts = np.stack([np.bincount(data.images[..., channel].ravel(), minlength=256) for channel in range(3)])
    weights = counts / counts.sum(axis=1, keepdims=True)
    mean = weights @ levels
    variance = (weights * (levels - mean[:, None]) ** 2).sum(axis=1)
    return mean, np.maximum(np.sqrt(variance), 1 / 255)


def to_tensor(
    images: np.ndarray,
    mean: Sequence[float] | np.ndarray,
    std: Sequence[float] | np.ndarray,
    dtype: torch.dtype = torch.float32,
    channels_last: bool = True,
    device: str | torch.device = "cpu",
) -> Tensor:
    """uint8 (n, h, w, 3) to normalised `dtype` (n, 3, h, w), as `Batches` makes them without augmentation."""
    device = torch.device(device)
    result = _Normalise(mean, std, device, dtype)(torch.tensor(images, device=device)).permute(0, 3, 1, 2)
    return result if channels_last else result.contiguous()
