"""A whitened network built for time to accuracy, after Jordan's airbench (2024).

The first layer is not learned: it whitens 2x2 patches of the training images, so that every later layer sees
decorrelated input from the first step. The other convolutions start as the identity (dirac) where the shapes allow.

Source: K. Jordan, "94% on CIFAR-10 in 3.29 Seconds on a Single GPU", 2024 (arXiv:2404.00498), sections 3.1 to 3.3.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

PATCH = 2  # side of the whitened patches in pixels
WHITEN_EPS = 5e-4  # keeps the weakest patch directions from being blown up to noise


def patch_whitening(images: Tensor, patch: int = PATCH, eps: float = WHITEN_EPS) -> Tensor:
    """Filters that whiten `patch` x `patch` patches, each with its negative.

    Args:
        images: float (n, 3, height, width), normalised as the network will see them; a few thousand suffice.
        patch: side of a patch in pixels.
        eps: added to the eigenvalues of the patch covariance.

    Returns:
        float32 (2 * 3 * patch**2, 3, patch, patch): eigenvectors scaled by 1 / sqrt(eigenvalue + eps), then the
        same with the opposite sign, so that the following non-linearity loses neither half.
    """
    channels = images.shape[1]
    patches = images.float().unfold(2, patch, 1).unfold(3, patch, 1)  # (n, c, h', w', patch, patch)
    patches = patches.permute(0, 2, 3, 1, 4, 5).reshape(-1, channels * patch * patch)
    covariance = patches.double().T @ patches.double() / len(patches)
    values, vectors = torch.linalg.eigh(covariance)
    filters = (vectors / (values + eps).sqrt()).T.flip(0)  # strongest direction first
    filters = filters.reshape(-1, channels, patch, patch).float()
    return torch.cat([filters, -filters])


class BiasNorm(nn.BatchNorm2d):
    """Batch norm that learns a bias only: the next convolution can take over any scale.

    The running statistics move fast (0.4 a step), since a whole run has only a few hundred steps.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels, eps=1e-12, momentum=0.4)
        self.weight.requires_grad_(False)


class Group(nn.Module):
    """conv - pool - norm - GELU - conv - norm - GELU: halves the side, sets the width."""

    def __init__(self, width_in: int, width_out: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width_in, width_out, 3, padding=1, bias=False)
        self.norm1 = BiasNorm(width_out)
        self.conv2 = nn.Conv2d(width_out, width_out, 3, padding=1, bias=False)
        self.norm2 = BiasNorm(width_out)
        self.pool = nn.MaxPool2d(2)
        self.activation = nn.GELU()
        for conv in (self.conv1, self.conv2):
            nn.init.dirac_(conv.weight.data[: conv.in_channels])

    def forward(self, x: Tensor) -> Tensor:
        x = self.activation(self.norm1(self.pool(self.conv1(x))))
        return self.activation(self.norm2(self.conv2(x)))


class SpeedNet(nn.Module):
    """Whitening layer, three groups, max pool, linear head.

    Args:
        widths: channels of the three groups, e.g. (64, 256, 256).
        num_classes: outputs of the head.
        whiten_images: float (n, 3, height, width) normalised training images for `patch_whitening`; without them the
            first layer keeps its random filters (useful only to count parameters or to load weights).
    """

    def __init__(
        self, widths: tuple[int, int, int], num_classes: int = 10, whiten_images: Tensor | None = None
    ) -> None:
        super().__init__()
        self.widths = tuple(widths)
        whitened = 2 * 3 * PATCH**2
        self.whiten = nn.Conv2d(3, whitened, PATCH, bias=True)
        self.whiten.weight.requires_grad_(False)
        self.activation = nn.GELU()
        self.groups = nn.Sequential(
            Group(whitened, widths[0]), Group(widths[0], widths[1]), Group(widths[1], widths[2])
        )
        self.pool = nn.AdaptiveMaxPool2d(1)
        self.head = nn.Linear(widths[2], num_classes, bias=False)
        nn.init.zeros_(self.whiten.bias)
        self.head.weight.data /= self.head.weight.data.std()
        if whiten_images is not None:
            self.whiten.weight.data.copy_(patch_whitening(whiten_images))

    def forward(self, x: Tensor) -> Tensor:
        """float (n, 3, height, width) -> logits (n, num_classes)."""
        x = self.groups(self.activation(self.whiten(x)))
        x = self.pool(x).flatten(1)
        return self.head(x) / x.shape[1]
