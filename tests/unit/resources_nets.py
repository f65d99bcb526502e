"""Networks with a planted speed, for the tests of the measuring and of the tuner."""

from __future__ import annotations

import time

import torch
from torch import Tensor, nn

SLOW = 0.1  # seconds: far more than the rest of a step takes, also on a busy machine


class Net(nn.Module):
    """A small network that waits where it is told to."""

    def __init__(self, num_classes: int, waits: str = "") -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 8, 3, stride=4), nn.ReLU(), nn.Flatten(), nn.LazyLinear(num_classes))
        self.layers(torch.zeros(1, 3, 32, 32))
        self.waits = waits

    def forward(self, x: Tensor) -> Tensor:
        if (self.waits == "contiguous" and x.is_contiguous()) or self.waits == "always":
            time.sleep(SLOW)
        if self.waits == "image":
            time.sleep(SLOW * len(x) / 32)
        if self.waits == "channels-last" and not x.is_contiguous():
            raise RuntimeError("planted: this network takes one layout")
        return self.layers(x)


def plain(num_classes: int) -> Net:
    return Net(num_classes)


def slow_unless_channels_last(num_classes: int) -> Net:
    return Net(num_classes, "contiguous")


def slow(num_classes: int) -> Net:
    return Net(num_classes, "always")


def slow_by_image(num_classes: int) -> Net:
    return Net(num_classes, "image")


def refuses_channels_last(num_classes: int) -> Net:
    return Net(num_classes, "channels-last")
