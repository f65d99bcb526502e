"""Image sets, where they come from, and batches of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from scaletut.data.cifar10n import human_labels
from scaletut.data.imageset import ImageSet, TrainTest, Truth
from scaletut.data.sources import load
from scaletut.data.zipf import ZipfLaw

if TYPE_CHECKING:
    from scaletut.data.batches import Augment, Batches, channel_statistics, to_tensor

__all__ = [
    "Augment",
    "Batches",
    "ImageSet",
    "TrainTest",
    "Truth",
    "ZipfLaw",
    "channel_statistics",
    "human_labels",
    "load",
    "to_tensor",
]


def __getattr__(name: str) -> Any:
    """Import torch, which takes seconds, only when a name that needs it is asked for."""
    if name in {"Augment", "Batches", "channel_statistics", "to_tensor"}:
        from scaletut.data import batches

        return getattr(batches, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
