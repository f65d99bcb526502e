"""Distillation: a network learns what another one says of each image, besides the image's label.

Sources: G. Hinton, O. Vinyals, J. Dean, "Distilling the Knowledge in a Neural Network", 2015, section 2;
S. Zagoruyko, N. Komodakis, "Paying More Attention to Attention", ICLR 2017, equation 2, for feature matching.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from scaletut.data import ImageSet
from scaletut.errors import ParameterError
from scaletut.models.weights import weights_digest
from scaletut.train import Recipe, TrainingResult, fit


@dataclass(frozen=True, eq=False)
class Distillation:
    """An objective for `scaletut.train.fit`: what a student should lower to follow a teacher.

    weight * T^2 * KL(softmax(teacher / T) || softmax(student / T)) + (1 - weight) * cross-entropy of the labels, in
    nats, mean over the batch. The gradient of the soft part falls as 1 / T^2, which the factor undoes (Hinton et al.
    2015, section 2.1). The teacher sees the same augmented views as the student.

    Attributes:
        teacher: takes images normalised as the student's are; it is copied, and never changes.
        temperature: T, above 0; the higher, the more the wrong classes count against each other.
        weight: share of the soft part, 0 to 1; 0 is the student alone.
        label_smoothing: of the labels' part, 0 to below 1.
        match: layers whose attention maps are compared too, {student's: teacher's}; see `watching`.
        match_strength: factor on that part, 0 or more; the default is that of Zagoruyko and Komodakis (2017).

    Raises:
        ParameterError: a value out of range, or a layer that the teacher does not have.
    """

    teacher: nn.Module
    temperature: float = 4.0
    weight: float = 0.9
    label_smoothing: float = 0.0
    match: Mapping[str, str] = field(default_factory=dict)
    match_strength: float = 1000.0
    _seen: dict[str, Tensor] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        if not 0 < self.temperature < float("inf") or not 0 <= self.match_strength < float("inf"):
            raise ParameterError(
                f"temperature is {self.temperature} and match_strength {self.match_strength}: "
                "give a temperature above 0, such as 4, and a strength of 0 or more"
            )
        if not 0 <= self.weight <= 1 or not 0 <= self.label_smoothing < 1:
            raise ParameterError(
                f"weight is {self.weight} and label_smoothing {self.label_smoothing}: give shares from 0 to 1"
            )
        teacher = copy.deepcopy(self.teacher).eval().requires_grad_(False)
        object.__setattr__(self, "teacher", teacher)
        for name in self.match.values():
            _layer(teacher, name, "teacher")

    @cached_property
    def key(self) -> dict[str, Any]:
        """What tells this objective from others, for the key of a checkpoint."""
        values = (self.temperature, self.weight, self.label_smoothing, self.match_strength)
        return {"distillation": values, "match": dict(self.match), "teacher": weights_digest(self.teacher.state_dict())}

    def flops(self, side: int) -> float:
        """FLOPs of the teacher's forward pass on one image of `side` x `side` pixels (2 a multiply-add)."""
        twin = copy.deepcopy(self.teacher).float().cpu()
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            twin(torch.zeros(1, 3, side, side))
        return counter.get_total_flops()

    def __call__(self, images: Tensor, logits: Tensor, labels: Tensor) -> Tensor:
        """The loss in nats, a scalar.

        Args:
            images: (b, 3, h, w), normalised, in the number format of the training.
            logits: float32 (b, K), the student's for these images.
            labels: int64 (b,), or shares of the classes, float (b, K).
        """
        with _watched(self.teacher, self.match.values()) as taught:
            soft = self._teach(images)
        if soft.shape != logits.shape:
            raise ParameterError(
                f"the teacher tells {soft.shape[1]} classes and the student {logits.shape[1]}: "
                "a teacher must have been trained on the same classes"
            )
        hard = F.cross_entropy(logits, labels, label_smoothing=self.label_smoothing)
        loss = self.weight * soft_loss(logits, soft, self.temperature) + (1 - self.weight) * hard
        for mine, its in self.match.items():
            if mine not in self._seen:
                raise ParameterError(f"layer {mine!r} of the student is not watched: train it by `fit_student`")
            loss = loss + self.match_strength * attention_distance(self._seen[mine], taught[its])
        return loss

    @contextmanager
    def watching(self, student: nn.Module) -> Iterator[None]:
        """Inside, the layers of `student` that `match` names show this objective what they compute."""
        with _watched(student, self.match, self._seen):
            yield
        self._seen.clear()

    def _teach(self, images: Tensor) -> Tensor:
        """Logits float32 (b, K) of the teacher, in the images' number format."""
        half = images.dtype != torch.float32
        self.teacher.to(images.device)
        with torch.no_grad(), torch.autocast(images.device.type, images.dtype if half else None, enabled=half):
            return self.teacher(images).float()


def soft_loss(logits: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """T^2 KL(softmax(teacher / T) || softmax(logits / T)) in nats, mean over the rows of float32 (b, K) each."""
    mine, its = F.log_softmax(logits / temperature, 1), F.log_softmax(teacher / temperature, 1)
    return temperature**2 * F.kl_div(mine, its, reduction="batchmean", log_target=True)


def attention_map(features: Tensor) -> Tensor:
    """Where a layer is active: mean square over the channels of (b, c, h, w), each image's map of unit length.

    Returns float32 (b, h, w). Source: Zagoruyko and Komodakis 2017, section 3.1, with p = 2.
    """
    energy = features.float().square().mean(1)
    return F.normalize(energy.flatten(1)).view_as(energy)


def attention_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean square difference of two layers' attention maps; the finer one is averaged to the size of the other.

    student, teacher: (b, c, h, w), each with its own c, h and w.
    """
    side = min(student.shape[-2:], teacher.shape[-2:])
    maps = [attention_map(F.adaptive_avg_pool2d(features.float(), side)) for features in (student, teacher)]
    return F.mse_loss(*maps)


def fit_student(
    student: nn.Module, train: ImageSet, recipe: Recipe, seed: int, objective: Distillation, **options: Any
) -> TrainingResult:
    """Train `student` in place by `fit` with `objective`; `options` go to `fit`, `recipe.label_smoothing` is not used.

    The FLOPs of the result include the teacher's forward passes.

    Raises:
        ParameterError: as `fit` does, or a layer to be matched that the student does not have.
    """
    with objective.watching(student):
        return fit(student, train, recipe, seed, objective=objective, **options)


@contextmanager
def _watched(net: nn.Module, names: Any, seen: dict[str, Tensor] | None = None) -> Iterator[dict[str, Tensor]]:
    """Inside, the newest output of each named layer of `net` is in the dict."""
    seen = {} if seen is None else seen

    def keep(name: str) -> Any:
        return lambda _module, _inputs, output: seen.__setitem__(name, output)

    handles = [_layer(net, name, "student").register_forward_hook(keep(name)) for name in names]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def _layer(net: nn.Module, name: str, whose: str) -> nn.Module:
    known = dict(net.named_modules())
    if not name or name not in known:
        some = ", ".join(name for name in known if name and "." not in name)
        raise ParameterError(f"the {whose} has no layer {name!r} to match; at its top it has {some}")
    return known[name]
