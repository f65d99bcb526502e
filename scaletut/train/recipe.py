"""A training recipe: everything that decides a run, besides the network, the data and the seed."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from scaletut.errors import ParameterError

if TYPE_CHECKING:
    from scaletut.data import Augment

Optimizer = Literal["sgd", "adam", "adamw", "muon"]
Schedule = Literal["one_cycle", "cosine", "constant"]
Flip = Literal["none", "random", "alternate"]


@dataclass(frozen=True)
class Recipe:
    """How to train. All learning rates are for the loss averaged over the batch.

    Attributes:
        epochs: passes over the training set (> 0).
        batch_size: images a step.
        optimizer: `sgd` (Nesterov), `adam`, `adamw`, or `muon` (orthogonalised momentum for the filters of
            convolutions, Nesterov SGD for all else).
        lr: peak rate of convolution filters, and of every group without a rate of its own.
        head_lr: peak rate of linear layers (None: `lr`).
        vector_lr: peak rate of biases and norm parameters (None: `lr`).
        momentum: of SGD and Muon.
        weight_decay: of matrices and filters. Vectors are not decayed.
        schedule: shape of the rate over the run; `one_cycle` rises linearly over `warmup` and falls linearly to 0
            (Smith and Topin 2019), `cosine` falls along a half cosine.
        warmup: share of the steps in which the rate rises (0 to 1).
        label_smoothing: probability mass spread over all classes (0 to 1).
        crop: pixels of reflecting padding for random crops; 0 for none.
        flip: horizontal flips, `alternate` shows each image in both orientations in every two epochs (Jordan 2024).
        cutout: side of a random blank square in pixels; 0 for none.
        rotation: largest random turn to either side in degrees; 0 for none.
        zoom: largest random change of size, as a share; 0 for none.
        mixup: parameter of the Beta distribution that images and labels are mixed by (Zhang et al. 2018); 0 for none.
        averaging: share of the run's steps over which the weights are averaged (exponential window that ends at the
            last step); 0 for none.
        precision: `auto` takes bf16 where the hardware computes it.
        channels_last: store activations as (n, height, width, channels).
        patience: epochs without a better validation loss before the run stops early; 0 never stops.
        normalise_filters: hold each filter bank at a Frobenius norm of sqrt(outputs) (with `muon`).
    """

    epochs: float = 8
    batch_size: int = 512
    optimizer: Optimizer = "sgd"
    lr: float = 0.1
    head_lr: float | None = None
    vector_lr: float | None = None
    momentum: float = 0.9
    weight_decay: float = 5e-4
    schedule: Schedule = "one_cycle"
    warmup: float = 0.2
    label_smoothing: float = 0.0
    crop: int = 0
    flip: Flip = "none"
    cutout: int = 0
    averaging: float = 0.0
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    channels_last: bool = True
    patience: int = 0
    normalise_filters: bool = False
    rotation: float = 0.0
    zoom: float = 0.0
    mixup: float = 0.0

    def __post_init__(self) -> None:
        positive = {name: getattr(self, name) for name in ("epochs", "batch_size", "lr")}
        for name, value in positive.items():
            if not value > 0:
                raise ParameterError(f"Recipe.{name} is {value!r}: give a number greater than 0")
        shares = {name: getattr(self, name) for name in ("warmup", "label_smoothing", "averaging", "momentum")}
        for name, value in shares.items():
            if not 0 <= value < 1:
                raise ParameterError(f"Recipe.{name} is {value!r}: give a share from 0 to below 1")
        if self.normalise_filters and self.optimizer != "muon":
            raise ParameterError("Recipe.normalise_filters goes with optimizer='muon' alone")

    def at_rate(self, share: float) -> Recipe:
        """The same with every learning rate times `share`; rates that follow `lr` go on to follow it."""
        rates = {name: getattr(self, name) for name in ("lr", "head_lr", "vector_lr")}
        return replace(self, **{name: rate * share for name, rate in rates.items() if rate is not None})

    @property
    def augment(self) -> Augment:
        """What is done at random to a training image."""
        from scaletut.data import Augment  # here, because it imports torch

        return Augment(self.crop, self.flip, self.cutout, self.rotation, self.zoom, self.mixup)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for records and digests."""
        values = asdict(self)
        # Left out when off: the digests and records of recipes from before these existed stay what they were.
        return {name: value for name, value in values.items() if value or name not in ("rotation", "zoom", "mixup")}
