"""Features of images that nothing is learned for: responses to whitened random patches, rectified and pooled.

What a picture shows can be told in part by which small patches occur in which third of it.
So the filters are patches of the images themselves, drawn at random and whitened, and a feature is how strongly one of
them is met in one cell of a 3 x 3 grid.
A linear classifier on such features is far from the best, but it needs no gradient descent: it is solved, not trained.

Source: A. Coates, A. Ng and H. Lee, "An Analysis of Single-Layer Networks in Unsupervised Feature Learning",
AISTATS 2011; random patches instead of centroids as in A. Coates and A. Ng, "The Importance of Encoding Versus
Training with Sparse Coding and Vector Quantization", ICML 2011.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from scaletut.errors import DataError

if TYPE_CHECKING:
    from torch import Tensor

SIDE = 32  # pixels; images of another size are brought to it
PATCH = 6  # pixels; with 32 there are 27 places for a patch along each side
GRID = 3  # cells along each side that responses are pooled over
CELL = (SIDE - PATCH + 1) // GRID  # places along the side of a cell: 9
FILTERS = 200  # random patches; each is used together with its mirror image
THRESHOLD = 0.5  # of the rectifier, in standard deviations of a response
CONTRAST = 10.0  # added to the variance of a patch, squared grey levels: flat patches stay small
WHITENING = 0.1  # added to the eigenvalues of the patch covariance, which are 1 on average
SAMPLED = 50_000  # patches that the whitening is computed from
BLOCK = 16  # images at a time: their responses, 19 MB, stay near the cache

Progress = Callable[[float], None]


@dataclass(frozen=True)
class PatchFilters:
    """Filters of contrast-normalised patches: `weights` float32 (108, 2 f), `offset` float32 (2 f,).

    Filter f + i is the mirror image of filter i.
    """

    weights: Tensor
    offset: Tensor

    @property
    def dimensions(self) -> int:
        """Features of an image."""
        return GRID * GRID * len(self.offset) // 2


def patch_features(
    images: np.ndarray, *, filters: int = FILTERS, seed: int = 0, progress: Progress | None = None
) -> np.ndarray:
    """Features of each image, float32 (n, 9 `filters`), equal for an image and its mirror image.

    `images` uint8 (n, height, width, 3). `seed` draws the patches. `progress` is told the share done, 0 to 1.
    The square root of each pooled response evens out its distribution.

    Raises `DataError` when there are no images, or images without pixels.
    """
    import torch

    images = at_side(images)
    bank = draw_filters(images, filters, seed)
    features = np.empty((len(images), bank.dimensions), np.float32)
    for first in range(0, len(images), BLOCK):
        block = torch.from_numpy(images[first : first + BLOCK].astype(np.float32))
        features[first : first + BLOCK] = _pooled(block, bank).numpy()
        if progress:
            progress(min(1.0, (first + BLOCK) / len(images)))
    return features


def at_side(images: np.ndarray, side: int = SIDE) -> np.ndarray:
    """Images brought to `side` x `side` pixels, smoothed where they shrink: uint8 (n, side, side, 3)."""
    if images.ndim != 4 or images.shape[3] != 3 or images.dtype != np.uint8 or not images.size:
        raise DataError(
            f"images are {images.dtype} {images.shape}; needed is uint8 (n, height, width, 3) with at least one pixel, "
            "so move the channels last and scale to 0..255"
        )
    if images.shape[1:3] == (side, side):
        return images
    import torch
    from torch.nn.functional import interpolate

    resized = np.empty((len(images), side, side, 3), np.uint8)
    for first in range(0, len(images), BLOCK):
        block = torch.from_numpy(images[first : first + BLOCK].astype(np.float32)).permute(0, 3, 1, 2)
        block = interpolate(block, size=(side, side), mode="bilinear", antialias=True)
        resized[first : first + BLOCK] = block.round().clamp(0, 255).permute(0, 2, 3, 1).numpy()
    return resized


def draw_filters(images: np.ndarray, filters: int, seed: int) -> PatchFilters:
    """Random patches of `images` uint8 (n, 32, 32, 3) as filters, whitened together with their mirror images.

    A response is ⟨d, z⟩ - `THRESHOLD` for the whitened patch z = W (x - m) and the unit vector d of a random z.
    W and m are folded into the filter, so a response costs one inner product with the normalised patch x.
    """
    import torch

    rng = np.random.default_rng(seed)
    row = rng.integers(0, len(images), SAMPLED)
    top, left = rng.integers(0, SIDE - PATCH + 1, (2, SAMPLED, 1, 1))
    step = np.arange(PATCH)
    sample = images[row[:, None, None], top + step[:, None], left + step]
    x = _normalised(torch.from_numpy(sample.reshape(SAMPLED, -1).astype(np.float32)))
    both = torch.cat([x, _mirrored(x)])
    mean = both.mean(0)
    both -= mean
    values, vectors = torch.linalg.eigh((both.T @ both).double() / len(both))
    whiten = ((vectors * (values + WHITENING).rsqrt()) @ vectors.T).float()
    chosen = (x[:filters] - mean) @ whiten
    chosen = chosen / chosen.norm(dim=1, keepdim=True).clamp(min=1e-6)
    weights = whiten @ torch.cat([chosen, _mirrored(chosen)]).T
    return PatchFilters(weights, -(mean @ weights) - THRESHOLD)


def _normalised(patches: Tensor) -> Tensor:
    """Patches (…, 108) with mean 0 and, where there is contrast, variance 1."""
    patches = patches - patches.mean(-1, keepdim=True)
    return patches * (patches.square().mean(-1, keepdim=True) + CONTRAST).rsqrt()


def _mirrored(patches: Tensor) -> Tensor:
    return patches.view(-1, PATCH, PATCH, 3).flip(2).flatten(1)


def _pooled(images: Tensor, bank: PatchFilters) -> Tensor:
    """Features float32 (b, 9 f) of images float32 (b, 32, 32, 3).

    A filter's response in a cell and its mirror image's response in the mirrored cell change places when the image is
    mirrored. Their sum is what both views of the image agree on, and half as many features.
    """
    patches = images.unfold(1, PATCH, 1).unfold(2, PATCH, 1).permute(0, 1, 2, 4, 5, 3)  # (b, 27, 27, 6, 6, 3)
    patches = _normalised(patches.reshape(-1, PATCH * PATCH * 3))
    responses = (patches @ bank.weights).add_(bank.offset).clamp_(min=0)
    pooled = responses.view(len(images), GRID, CELL, GRID, CELL, -1).sum(4).sum(2) / CELL**2
    own, mirror = pooled.chunk(2, dim=-1)
    return (own + mirror.flip(2)).sqrt_().flatten(1)
