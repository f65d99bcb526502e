"""Networks by name."""

from __future__ import annotations

import difflib
import re
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from scaletut.errors import ParameterError
from scaletut.models.plain import TutorialNet
from scaletut.models.resnet import CifarResNet, near_depth, resnet18

if TYPE_CHECKING:
    from collections.abc import Iterator

# Channels of the three groups; m and l are the shapes that Jordan (2024) takes for 94 % and 95 %.
SPEEDNET_WIDTHS = {"s": (32, 128, 128), "m": (64, 256, 256), "l": (128, 384, 384)}
DEPTHS = (8, 14, 20, 26, 32, 38, 44, 56, 110)  # offered by `names`; any other 6n + 2 works too
BOTTLENECK_DEPTHS = (50, 101, 152)  # names that mean another family to most readers
NO_WIDTH = ("resnet18", "resnet18-imagenet", "efficientnet-lite0")


@dataclass(frozen=True)
class NetSpec:
    """What `build` was asked for: enough to build the same network again, without its weights.

    Attributes:
        name: as in `names()`.
        num_classes: outputs.
        width: width factor, None where the name alone decides.
        frozen: parameters that the design holds fixed, such as whitening filters computed from images.
    """

    name: str
    num_classes: int
    width: float | None = None
    frozen: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain values for a manifest; `frozen` follows from the name."""
        return {key: value for key, value in asdict(self).items() if key != "frozen"}


def names() -> tuple[str, ...]:
    """The names that `build` knows (any further depth 6n + 2 is built too)."""
    families = [f"{family}{depth}" for family in ("resnet", "plain") for depth in DEPTHS]
    speed = [f"speednet-{size}" for size in SPEEDNET_WIDTHS]
    return (*families, "resnet18", "resnet18-imagenet", *speed, "tutorial", "efficientnet-lite0")


def build(
    name: str,
    *,
    num_classes: int = 10,
    width: float | None = None,
    seed: int = 0,
    whiten: Tensor | None = None,
) -> nn.Module:
    """Build a network by name, with weights drawn from `seed`; the global random state is left as it was.

    Args:
        name: `resnet20` and other depths 6n + 2, `plain20` (the same without shortcuts), `resnet18`
            (torchvision, stem for 32 pixels), `resnet18-imagenet` (with ImageNet weights, downloaded),
            `speednet-s`, `-m`, `-l`, `tutorial`, `efficientnet-lite0` (with ImageNet weights, from the extra
            `transfer`).
        num_classes: outputs (> 0).
        width: factor on the channels (> 0, fractions too); None is 1. Refused by nets of fixed width.
        seed: of the initial weights, 0 or more.
        whiten: float (n, 3, height, width), normalised training images for the first layer of a speed net (a
            few thousand suffice); refused by other nets. Without them that layer stays random.

    Returns:
        The network on the CPU in float32, in training mode, with `.spec` (`NetSpec`); pre-trained ones also
        carry `.normalisation` (mean, std), the input statistics that their weights expect.

    Raises:
        ParameterError: an unknown name (the nearest one is named), a width or an argument that the net cannot
            use.
        DataError: pre-trained weights that cannot be had here.
    """
    _check_arguments(name, num_classes, width, seed, whiten)
    with seeded(seed):
        model = _construct(name, num_classes, width, whiten, pretrained=True)
    return _describe(model, NetSpec(name, num_classes, width))


def skeleton(spec: NetSpec, *, seed: int = 0) -> nn.Module:
    """The network of `spec` with random weights, also where the name stands for pre-trained ones."""
    _check_arguments(spec.name, spec.num_classes, spec.width, seed, None)
    with seeded(seed):
        model = _construct(spec.name, spec.num_classes, spec.width, None, pretrained=False)
    return _describe(model, spec)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Draw from `seed` inside; afterwards PyTorch's CPU generator continues as if nothing had happened."""
    with torch.random.fork_rng(devices=[]):
        # Not torch.manual_seed: it would reseed the GPUs too, which the fork leaves out.
        torch.default_generator.manual_seed(seed)
        yield


def count_parameters(model: nn.Module, *, trainable: bool = False) -> int:
    """Number of parameters, shared ones once; with `trainable` only those that training will change."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad or not trainable)


def _describe(model: nn.Module, spec: NetSpec) -> nn.Module:
    frozen = tuple(name for name, p in model.named_parameters() if not p.requires_grad)
    model.spec = NetSpec(spec.name, spec.num_classes, spec.width, frozen)
    return model


def _check_arguments(name: str, num_classes: int, width: float | None, seed: int, whiten: Tensor | None) -> None:
    _check_name(name)
    if num_classes < 1:
        raise ParameterError(f"num_classes is {num_classes}: a classifier needs at least 1 output")
    if seed < 0:
        raise ParameterError(f"seed is {seed}: give 0 or more")
    if width is not None and name in NO_WIDTH:
        raise ParameterError(f"{name} has one width: leave `width` out, or take 'resnet20' at any width")
    if width is not None and not 0 < width < float("inf"):
        raise ParameterError(f"width is {width}: give a factor on the channels above 0, such as 0.5")
    if whiten is not None and not name.startswith("speednet-"):
        raise ParameterError(f"{name} has no whitening layer: leave `whiten` out, or take 'speednet-s'")


def _check_name(name: str) -> None:
    known = names()
    family = re.fullmatch(r"(resnet|plain)(\d+)", name)
    if family and int(family[2]) in BOTTLENECK_DEPTHS:
        raise ParameterError(
            f"'{name}' usually means an ImageNet net with bottleneck blocks, which is not here: "
            f"of the CIFAR family take '{family[1]}56'"
        )
    if name in known or (family and int(family[2]) > 2 and (int(family[2]) - 2) % 6 == 0):
        return
    if family:
        near = f"{family[1]}{near_depth(int(family[2]))}"
        raise ParameterError(f"there is no network '{name}': depths are 6n + 2, the nearest is '{near}'")
    nearest = difflib.get_close_matches(name.lower(), known, n=1, cutoff=0.0)[0]
    raise ParameterError(f"there is no network '{name}': the nearest name is '{nearest}'; known are {', '.join(known)}")


def _construct(
    name: str, num_classes: int, width: float | None, whiten: Tensor | None, *, pretrained: bool
) -> nn.Module:
    factor = 1.0 if width is None else width
    if name in ("resnet18", "resnet18-imagenet"):
        return resnet18(num_classes, imagenet=pretrained and name == "resnet18-imagenet")
    if name == "tutorial":
        return TutorialNet(num_classes, factor)
    if name == "efficientnet-lite0":
        from scaletut.models.pretrained import efficientnet_lite0

        return efficientnet_lite0(num_classes, weights=pretrained)
    if name.startswith("speednet-"):
        from scaletut.models.speednet import SpeedNet

        widths = tuple(max(1, round(c * factor)) for c in SPEEDNET_WIDTHS[name.removeprefix("speednet-")])
        return SpeedNet(widths, num_classes, whiten)
    family, depth = re.fullmatch(r"(resnet|plain)(\d+)", name).groups()
    return CifarResNet(int(depth), num_classes, factor, residual=family == "resnet")
