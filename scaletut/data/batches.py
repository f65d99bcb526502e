"""Augmented batches from memory: uint8 on the device, no worker processes."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from scaletut.data.imageset import ImageSet
from scaletut.errors import ParameterError

CACHED = 32  # images normalised at a time on a CPU, so that their float32 copies stay in the cache


@dataclass(frozen=True)
class Augment:
    """What is done at random to a training image.

    * `crop`: pad by so many pixels on each side (reflected) and cut a window of the old size at a random place;
    * `flip`: mirror left to right; "random" tosses a coin for each image and epoch, "alternate" tosses it once and
      mirrors every second epoch after, so that two epochs in a row show both views (Jordan 2024, arXiv:2404.00498);
    * `rotation`: turn about the centre by an angle drawn from -`rotation` to `rotation` degrees, bilinear, with what
      lies outside reflected;
    * `zoom`: enlarge about the centre by a factor drawn from 1 - `zoom` to 1 + `zoom`, in the same interpolation;
    * `cutout`: side in pixels of a square at a random place that is set to the mean (DeVries and Taylor 2017);
    * `mixup`: mix each image, and its label, with its neighbour in the batch, by a share from Beta(`mixup`, `mixup`)
      (Zhang et al. 2018, arXiv:1710.09412); 0 leaves them alone.

    They follow one another in this order. Raises `ParameterError` for a value out of range.
    """

    crop: int = 0
    flip: Literal["none", "random", "alternate"] = "none"
    cutout: int = 0
    rotation: float = 0.0
    zoom: float = 0.0
    mixup: float = 0.0

    def __post_init__(self) -> None:
        if self.flip not in ("none", "random", "alternate"):
            raise ParameterError(f"unknown flip {self.flip!r}; use none, random or alternate")
        if self.crop < 0 or self.cutout < 0:
            raise ParameterError(f"crop={self.crop} and cutout={self.cutout} are pixels; use 0 or more")
        if not 0 <= self.rotation <= 180:
            raise ParameterError(f"rotation={self.rotation} is an angle to either side; use 0 to 180 degrees")
        if not 0 <= self.zoom < 1:
            raise ParameterError(f"zoom={self.zoom} is a share of the size; use 0 to below 1")
        if not 0 <= self.mixup < math.inf:
            raise ParameterError(f"mixup={self.mixup} is the parameter of a Beta distribution; use 0, or about 0.2")


class Batches:
    """Batches of an image set, shuffled and augmented anew each epoch.

    What comes out depends on `seed` and the epoch alone: not on `start`, on what was drawn before, or on the device.
    With several `ranks` each gets its share of every batch: put together they are the batch of one process.
    The images stay on the device as uint8, padded once; a batch is cut out of them, mirrored, and only then made float.
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
        rank: int = 0,
        ranks: int = 1,
    ) -> None:
        """`mean`, `std`: (3,) in 0..1 units, by default those of `data`; `drop_last` leaves out a last, smaller batch.

        `batch_size` is that of all `ranks` together; `rank`, from 0, is the one that these batches are for.
        Raises `ParameterError` for no images, a batch size below 1, a negative seed, a crop as large as the images, or
        a batch with fewer images than ranks.
        """
        if not len(data):
            raise ParameterError(f"{data.name} has no images to make batches of; check how it was selected")
        if batch_size < 1 or seed < 0:
            raise ParameterError(f"batch_size={batch_size} must be 1 or more and seed={seed} 0 or more")
        smallest = batch_size if drop_last else len(data) % batch_size or batch_size
        if not 0 <= rank < ranks <= smallest:
            raise ParameterError(
                f"a batch of {smallest} images cannot be shared by {ranks} ranks (rank {rank}, from 0): "
                "use fewer ranks or larger batches; drop_last leaves out a last, smaller one"
            )
        self.rank, self.ranks = rank, ranks
        self.height, self.width = data.images.shape[1:3]
        pad = augment.crop
        if pad >= min(self.height, self.width):
            raise ParameterError(f"crop={pad} pixels cannot be reflected in images of {self.height} x {self.width}")
        if mean is None or std is None:
            measured = channel_statistics(data)
            mean, std = (measured[0] if mean is None else mean), (measured[1] if std is None else std)
        self.batch_size, self.augment, self.seed = batch_size, augment, seed
        self.channels_last, self.drop_last = channels_last, drop_last
        self.device = torch.device(device)
        padded = np.pad(data.images, ((0, 0), (pad, pad), (pad, pad), (0, 0)), mode="reflect")
        self._padded = torch.from_numpy(padded).to(self.device)
        self._labels = torch.tensor(data.labels, device=self.device)
        self._classes = data.num_classes
        self._normalise = _Normalise(mean, std, self.height * self.width, self.device, dtype)

    def __len__(self) -> int:
        n = len(self._labels)
        return n // self.batch_size if self.drop_last else math.ceil(n / self.batch_size)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches `start`, `start` + 1, … of an epoch: images `dtype` (b, 3, h, w), labels int64 (b,).

        With mix-up the labels are shares of the classes, float32 (b, classes).
        Raises `ParameterError` when `start` is beyond the epoch's end; at its end there is nothing to give.
        """
        if not 0 <= start <= len(self):
            raise ParameterError(f"start={start} but an epoch has {len(self)} batches; use 0 to {len(self)}")
        plan = self._plan(epoch)
        for number in range(start, len(self)):
            at = self._share(number)
            if plan.share is not None:
                at = self._with_partner(at, number)
            rows = plan.rows[at]
            images = cut(self._padded, rows, plan.top[at], plan.left[at], self.height, self.width)
            if plan.mirror is not None:
                _mirror(images, plan.mirror[at])
            result, labels = self._normalise(images), self._labels[rows]
            if plan.warp is not None:
                result = self._warped(result, plan.warp[at])
            if plan.hole is not None:
                result.masked_fill_(self._inside(plan.hole[at])[..., None], 0)
            if plan.share is not None:
                result, labels = mixed(result, F.one_hot(labels, self._classes).float(), plan.share[at])
                result, labels = result[1:], labels[1:]
            result = result.permute(0, 3, 1, 2)
            yield result if self.channels_last else result.contiguous(), labels

    def _share(self, number: int) -> slice:
        """This rank's part of batch `number`, as places in the epoch."""
        first = number * self.batch_size
        low, high = share_of(min(self.batch_size, len(self._labels) - first), self.rank, self.ranks)
        return slice(first + low, first + high)

    def _with_partner(self, at: slice, number: int) -> Tensor:
        """The places `at`, with the one before in front (around the whole batch, not the share), to be mixed in."""
        first = number * self.batch_size
        end = min(first + self.batch_size, len(self._labels))
        before = at.start - 1 if at.start > first else end - 1
        return torch.tensor([before, *range(at.start, at.stop)], device=self.device)

    def endless(self) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches of one epoch after another."""
        for epoch in itertools.count():
            yield from self.epoch(epoch)

    def _plan(self, epoch: int) -> _Plan:
        """All random choices of an epoch, drawn by numpy on the CPU so that every device makes the same ones."""
        n, crop = len(self._labels), self.augment.crop
        draw = np.random.default_rng([self.seed, epoch, 0])
        rows = draw.permutation(n)
        top, left = draw.integers(0, 2 * crop + 1, (2, n))
        mirror = hole = warp = share = None
        if self.augment.flip == "random":
            mirror = draw.random(n) < 0.5
        elif self.augment.flip == "alternate":
            # One coin an image, the same in all epochs; the last 1 keeps its stream apart from those of the epochs.
            first = np.random.default_rng([self.seed, 0, 1]).random(n) < 0.5
            mirror = first[rows] ^ (epoch % 2 == 1)
        if self.augment.cutout:
            hole = draw.integers(0, (self.height, self.width), (n, 2)) - self.augment.cutout // 2
        if self.augment.rotation or self.augment.zoom:  # new choices come last: older ones keep their numbers
            angle, factor = draw.uniform(-1, 1, (2, n)) * [[math.radians(self.augment.rotation)], [self.augment.zoom]]
            warp = np.stack([np.cos(angle), np.sin(angle)], axis=1) / (1 + factor)[:, None]
        if self.augment.mixup:
            share = draw.beta(self.augment.mixup, self.augment.mixup, n).astype(np.float32)
        drawn = (rows, top, left, mirror, hole, warp, share)
        return _Plan(*(None if one is None else torch.from_numpy(one).to(self.device) for one in drawn))

    def _warped(self, images: Tensor, warp: Tensor) -> Tensor:
        """Turned and enlarged about the centre, (b, h, w, 3) both; `warp` (b, 2) is (cos, sin) over the factor."""
        cos, sin = warp.float().unbind(1)
        none, aspect = torch.zeros_like(cos), self.height / self.width  # the grid measures both sides from -1 to 1
        matrix = torch.stack([cos, -sin * aspect, none, sin / aspect, cos, none], 1).view(-1, 2, 3)
        grid = F.affine_grid(matrix, (len(images), 3, self.height, self.width), align_corners=False)
        planes = images.permute(0, 3, 1, 2).float()
        planes = F.grid_sample(planes, grid, "bilinear", "reflection", align_corners=False)
        return planes.to(images.dtype).permute(0, 2, 3, 1).contiguous()

    def _inside(self, hole: Tensor) -> Tensor:
        """Whether a pixel is in its image's square, bool (b, h, w), given the square's corner (b, 2)."""
        y, x = (torch.arange(side, device=self.device) for side in (self.height, self.width))
        end = hole + self.augment.cutout
        tall = (y >= hole[:, :1]) & (y < end[:, :1])
        wide = (x >= hole[:, 1:]) & (x < end[:, 1:])
        return tall[:, :, None] & wide[:, None, :]


def share_of(count: int, rank: int, ranks: int) -> tuple[int, int]:
    """First and last (exclusive) of `count` things that are the share of `rank`; shares differ by one at most."""
    return count * rank // ranks, count * (rank + 1) // ranks


@dataclass(frozen=True)
class _Plan:
    """An epoch's choices, one entry an image in the order of the epoch."""

    rows: Tensor  # int64 (n,), which image
    top: Tensor  # int64 (n,), pixels
    left: Tensor
    mirror: Tensor | None  # bool (n,)
    hole: Tensor | None  # int64 (n, 2), corner of the cut-out square, may lie outside
    warp: Tensor | None  # float64 (n, 2), cosine and sine of the angle over the factor of enlargement
    share: Tensor | None  # float32 (n,), what an image keeps of itself in mix-up


def cut(
    padded: Tensor, rows: Tensor, top: Tensor, left: Tensor, height: int, width: int, overlapping: bool | None = None
) -> Tensor:
    """Windows of `height` x `width` pixels of images, uint8 (b, height, width, 3).

    `padded` uint8 (n, H, W, 3) contiguous; `rows`, `top`, `left` int64 (b,).
    `overlapping`: each line of a window is one row of an overlapping view of the memory, so that a gather copies
    3 * width bytes at a time. By default only on the CPU; elsewhere such views are not to be relied on and pixels
    are gathered.
    """
    tall, wide = padded.shape[1:3]
    line = ((rows * tall + top) * wide + left)[:, None] + wide * torch.arange(height, device=padded.device)
    if padded.device.type == "cpu" if overlapping is None else overlapping:
        size = 3 * width
        lines = torch.as_strided(padded, ((padded.numel() - size) // 3 + 1, size), (3, 1))
        return lines.index_select(0, line.flatten()).view(-1, height, width, 3)
    pixel = line[:, :, None] + torch.arange(width, device=padded.device)
    return padded.view(-1, 3).index_select(0, pixel.flatten()).view(-1, height, width, 3)


def _mirror(images: Tensor, chosen: Tensor) -> None:
    """Mirror the `chosen` (bool, (b,)) of `images` uint8 (b, h, w, 3) left to right, in place."""
    if images.device.type == "cpu":  # numpy moves a pixel of three bytes as one item, twice as fast
        pixels, rows = images.numpy().view("V3")[..., 0], chosen.numpy()
        pixels[rows] = pixels[rows][:, :, ::-1]
    else:
        rows = chosen.nonzero()[:, 0]
        images[rows] = images[rows].flip(2)


def mixed(images: Tensor, targets: Tensor, share: Tensor) -> tuple[Tensor, Tensor]:
    """Mix-up of a batch: each image and its target keep `share` (b,) and take the rest from the one before.

    images: (b, …). targets: float (b, classes). The order of a batch is random, so neighbours are random pairs.
    Source: Zhang et al. 2018, section 2.
    """

    def blend(one: Tensor) -> Tensor:
        return torch.lerp(one.roll(1, 0), one, share.to(one.dtype).view(-1, *[1] * (one.ndim - 1)))

    return blend(images), blend(targets)


class _Normalise:
    """uint8 (b, h, w, 3) to (x / 255 - mean) / std in one multiply-add in float32, then to `dtype`."""

    def __init__(
        self, mean: Sequence[float], std: Sequence[float], pixels: int, device: torch.device, dtype: torch.dtype
    ) -> None:
        mean, std = np.asarray(mean, np.float64), np.asarray(std, np.float64)
        if mean.shape != (3,) or std.shape != (3,) or not (std > 0).all():
            raise ParameterError(f"mean {mean} and std {std} must be three numbers each, 0..1 units, std above 0")
        # Repeated for every pixel: one long inner loop is three times as fast as broadcasting over three channels.
        self.scale, self.shift = (
            torch.tensor(np.tile(one, pixels), dtype=torch.float32).to(device) for one in (1 / (255 * std), -mean / std)
        )
        self.dtype = dtype

    def __call__(self, images: Tensor) -> Tensor:
        result = torch.empty(images.shape, dtype=self.dtype, device=images.device)
        some = CACHED if images.device.type == "cpu" else max(1, len(images))
        for part, out in zip(images.flatten(1).split(some), result.flatten(1).split(some), strict=True):
            levels = part.float()
            out.copy_(torch.addcmul(self.shift, levels, self.scale, out=levels))
        return result


def channel_statistics(data: ImageSet) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of each colour channel over all pixels, float64 (3,), in 0..1 units.

    Exact: summed in integers. A constant channel gets the standard deviation 1/255.
    """
    flat = data.images.reshape(len(data), -1)
    total, squares = np.zeros((2, flat.shape[1]), np.int64)
    for first in range(0, len(flat), 64):  # blocks that stay in the cache
        block = flat[first : first + 64].astype(np.int32)
        total += block.sum(axis=0)
        squares += np.square(block).sum(axis=0)
    count = flat.size // 3
    mean = total.reshape(-1, 3).sum(axis=0) / count
    variance = squares.reshape(-1, 3).sum(axis=0) / count - mean**2
    return mean / 255, np.sqrt(np.maximum(variance, 1)) / 255


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
    normalise = _Normalise(mean, std, images.shape[1] * images.shape[2], device, dtype)
    result = normalise(torch.tensor(images, device=device)).permute(0, 3, 1, 2)
    return result if channels_last else result.contiguous()
