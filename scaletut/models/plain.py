"""The baseline: the small network that introductory tutorials build for CIFAR-10."""

from __future__ import annotations

from torch import Tensor, nn

from scaletut.errors import ParameterError

WIDTHS = (32, 64, 128)  # channels of the three convolutions at width factor 1
HIDDEN = 128  # units of the first dense layer at width factor 1


class TutorialNet(nn.Module):
    """Three times convolution, ReLU, 2x2 max pool; then two dense layers.

    No normalisation, no shortcut, PyTorch's default initialisation: the recipe that most readers have met.
    The first dense layer ties the network to one image size.

    Args:
        num_classes: outputs (> 0).
        width: factor on all channels and hidden units; fractions are rounded.
        image_size: side of the square input in pixels, at least 8.

    Raises:
        ParameterError: a width that leaves a layer without channels, or images that three pools would use up.
    """

    def __init__(self, num_classes: int = 10, width: float = 1.0, image_size: int = 32) -> None:
        super().__init__()
        channels = [round(c * width) for c in WIDTHS]
        if channels[0] < 1:
            raise ParameterError(f"width {width} leaves the first layer without a channel: give at least 1/32 or so")
        if image_size < 8:
            raise ParameterError(f"image_size {image_size} vanishes in three 2x2 pools: give at least 8 pixels")
        layers: list[nn.Module] = []
        for before, after in zip([3, *channels], channels, strict=False):
            layers += [nn.Conv2d(before, after, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
        self.features = nn.Sequential(*layers)
        flat, hidden = channels[-1] * (image_size // 8) ** 2, max(1, round(HIDDEN * width))
        self.classifier = nn.Sequential(
            nn.Flatten(), nn.Linear(flat, hidden), nn.ReLU(), nn.Linear(hidden, num_classes)
        )

    def forward(self, x: Tensor) -> Tensor:
        """float (n, 3, image_size, image_size) -> logits (n, num_classes)."""
        return self.classifier(self.features(x))
