"""Batch norms that keep to their running statistics."""

from __future__ import annotations

from torch import nn

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


class FrozenBatchNorm(nn.Module):
    """Marks batch norms that keep to their running statistics in training mode too."""

    def train(self, mode: bool = True) -> FrozenBatchNorm:
        """Stay in evaluation mode, whatever a training loop asks for."""
        return super().train(False)


class FrozenBatchNorm1d(FrozenBatchNorm, nn.BatchNorm1d):
    """1-d batch norm with fixed statistics."""


class FrozenBatchNorm2d(FrozenBatchNorm, nn.BatchNorm2d):
    """2-d batch norm with fixed statistics."""


class FrozenBatchNorm3d(FrozenBatchNorm, nn.BatchNorm3d):
    """3-d batch norm with fixed statistics."""


FROZEN_KINDS = dict(zip(BATCH_NORMS, (FrozenBatchNorm1d, FrozenBatchNorm2d, FrozenBatchNorm3d), strict=True))
