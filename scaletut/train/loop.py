"""One training loop for all chapters: seeded, resumable at any step, the same on CUDA, MPS and CPU."""

from __future__ import annotations

import contextlib
import copy
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from scaletut.data import Batches, ImageSet, channel_statistics, to_tensor
from scaletut.errors import ParameterError
from scaletut.files import digest_json
from scaletut.train.checkpoint import load_checkpoint, save_checkpoint
from scaletut.train.device import Execution, execution, peak_memory_bytes, synchronise
from scaletut.train.distributed import ALONE, Ranks, local, release_norms
from scaletut.train.metrics import report
from scaletut.train.optim import WeightAverage, make_optimizers, parameter_kinds, rate_share
from scaletut.train.recipe import Recipe
from scaletut.train.recompute import recompute_blocks

Status = Literal["finished", "stopped early", "diverged"]
Normalisation = tuple[tuple[float, ...], tuple[float, ...]]  # mean and deviation of each channel, in 0..1 units
# Normalised images (b, 3, h, w), logits float32 (b, K), labels as `backward` gets them -> their mean loss in nats.
Objective = Callable[[Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class EpochStats:
    """One epoch: means over its batches as they were trained on (augmented, weights moving).

    `loss` in nats (label smoothing included), `accuracy` 0 to 1, `seconds` since the start of the run;
    the validation figures are None without a validation set.
    """

    epoch: int
    loss: float
    accuracy: float
    rate: float
    seconds: float
    validation_loss: float | None = None
    validation_accuracy: float | None = None


@dataclass(frozen=True)
class Progress:
    """What a progress display may want to know after a step."""

    step: int
    steps: int
    epoch: int
    history: tuple[EpochStats, ...]


@dataclass(frozen=True)
class TrainingResult:
    """A finished run.

    Attributes:
        model: the trained network (averaged weights when the recipe asks for them), in evaluation mode.
        history: one entry an epoch.
        status: `finished`, `stopped early` (patience ran out; the best weights are kept) or `diverged`.
        seconds: wall seconds of training, evaluation on the validation set included, set-up excluded.
        flops: floating point operations of all training steps (2 a multiply-add), forward and backward.
        images_per_second: training images over `seconds`.
        peak_memory_bytes: peak of the allocator (CUDA) or of the whole process.
        steps: optimiser steps done.
        normalisation: channel means and deviations that the network expects.
        execution: device, number format and layout, in words.
    """

    model: nn.Module
    history: tuple[EpochStats, ...]
    status: Status
    seconds: float
    flops: float
    images_per_second: float
    peak_memory_bytes: int
    steps: int
    normalisation: Normalisation
    execution: str
    how: Execution = field(repr=False)

    def predict(self, data: ImageSet, *, views: int = 1, batch_size: int = 1000) -> np.ndarray:
        """Logits float32 (n, K) of the trained network on `data`; see `predict`."""
        return predict(self.model, data, self.normalisation, views=views, batch_size=batch_size, how=self.how)


def training_flops(model: nn.Module, side: int) -> float:
    """FLOPs of one training image (forward and backward, 2 a multiply-add) at `side` x `side` pixels.

    Counted by PyTorch's FlopCounterMode on two images in float32; operators that it does not know count 0.
    """
    twin = copy.deepcopy(model).float().cpu().train()
    images = torch.zeros(2, 3, side, side)
    with FlopCounterMode(display=False) as counter:
        twin(images).sum().backward()
    return counter.get_total_flops() / 2


def predict(
    model: nn.Module,
    data: ImageSet,
    normalisation: Normalisation,
    *,
    views: int = 1,
    batch_size: int = 1000,
    how: Execution | None = None,
) -> np.ndarray:
    """Logits float32 (n, K), averaged over `views` of each image.

    Args:
        model: the network; it is set to evaluation mode.
        data: n images.
        normalisation: channel means and deviations in 0..1 units.
        views: 1 as is; 2 adds the mirror image; 6 adds both once more moved by a pixel to either diagonal side,
            the untouched pair weighing half (Jordan 2024, section 3.5).
        batch_size: images at a time.
        how: device, type and layout; by default what `execution()` picks.
    """
    how = how or execution()
    how.place(model).eval()
    mean, std = normalisation
    logits = []
    with torch.inference_mode(), how.context():
        for first in range(0, len(data), batch_size):
            block = data.images[first : first + batch_size]
            images = to_tensor(block, mean, std, how.dtype, how.channels_last, how.device)
            logits.append(_views(model, images, views).float().cpu())
    return torch.cat(logits).numpy()


def _views(model: nn.Module, images: Tensor, views: int) -> Tensor:
    def mirrored(x: Tensor) -> Tensor:
        return 0.5 * model(x).float() + 0.5 * model(x.flip(-1)).float()

    if views == 1:
        return model(images)
    if views == 2:
        return mirrored(images)
    if views != 6:
        raise ValueError(f"views is {views}: give 1, 2 or 6")
    padded = F.pad(images, (1, 1, 1, 1), mode="reflect")
    height, width = images.shape[-2:]
    moved = [padded[:, :, :height, :width], padded[:, :, 2:, 2:]]
    return 0.5 * mirrored(images) + 0.25 * sum(mirrored(x) for x in moved)


def prepare(model: nn.Module, how: Execution, ranks: Ranks = ALONE) -> tuple[nn.Module, Callable[[Tensor], Tensor]]:
    """`model` placed in place as `how` says, and what to call for its forward pass in training.

    Raises:
        ParameterError: activation checkpointing for a network without blocks.
    """
    model = ranks.place(model, how)
    if how.recompute:
        recompute_blocks(model)
    forward = ranks.wrap(model)
    return model, torch.compile(forward) if how.compiled else forward


def backward(
    forward: Callable[[Tensor], Tensor],
    images: Tensor,
    labels: Tensor,
    recipe: Recipe,
    how: Execution,
    loss_scale: float = 1.0,
    ranks: Ranks = ALONE,
    objective: Objective | None = None,
) -> tuple[Tensor, Tensor]:
    """Add the gradients of the batch's mean loss, times `loss_scale`, to the parameters, a micro-batch at a time.

    Args:
        forward: images (b, 3, h, w) to logits (b, K).
        images: the batch (n, 3, h, w).
        labels: int64 (n,), or shares of the classes, float (n, K).
        ranks: of several, only the last micro-batch's backward pass exchanges gradients.
        objective: what is lowered; by default the cross-entropy with the recipe's label smoothing.

    Returns:
        The mean loss in nats, and the logits (n, K), both detached.
    """
    size = how.micro_batch or len(labels)
    losses, outputs = [], []
    micro_batches = list(zip(images.split(size), labels.split(size), strict=True))
    for number, (some, truth) in enumerate(micro_batches, 1):
        with contextlib.nullcontext() if number == len(micro_batches) else ranks.holding(forward)():
            with how.context():
                logits = forward(some)
            if objective is None:
                loss = F.cross_entropy(logits.float(), truth, label_smoothing=recipe.label_smoothing)
            else:
                loss = objective(some, logits.float(), truth)
            loss = loss * (len(truth) / len(labels))
            (loss * loss_scale).backward()
        losses.append(loss.detach())
        outputs.append(logits.detach())
    return torch.stack(losses).sum(), torch.cat(outputs)


def fit(
    model: nn.Module,
    train: ImageSet,
    recipe: Recipe,
    seed: int,
    *,
    validation: ImageSet | None = None,
    normalisation: Normalisation | None = None,
    device: str = "",
    how: Execution | None = None,
    checkpoint: Path | str | None = None,
    checkpoint_seconds: float = 30.0,
    progress: Callable[[Progress], None] | None = None,
    ranks: Ranks = ALONE,
    objective: Objective | None = None,
) -> TrainingResult:
    """Train `model` in place on `train` by `recipe`.

    The batches, the augmentation and any dropout are functions of (`seed`, step) alone, so a run that was killed and
    resumed from its checkpoint ends with the weights of a run that was not.

    With several `ranks` every one makes this call with the same arguments. `recipe.batch_size` remains that of a step,
    each rank taking its share, and the update that of one process, up to rounding (dropout excepted, whose masks
    differ). A checkpoint may be resumed with another number of ranks.

    Args:
        model: the network; its initial weights are the caller's choice (`scaletut.models.build(..., seed=...)`).
        train: images to learn from.
        recipe: how.
        seed: decides order, augmentation and dropout.
        validation: scored after each epoch; needed for early stopping.
        normalisation: channel means and deviations; by default those of `train`.
        device: `cuda`, `mps`, `cpu`, or empty for the best present.
        how: device, number format, layout and what else decides speed and memory; instead of `device` and of what the
            recipe says about it (`scaletut tune` finds one). A run may be resumed with another.
        checkpoint: file to save to every `checkpoint_seconds`, and to resume from when it exists. Ctrl-C saves it too,
            of a single process. It is deleted when the run finishes. The first of several ranks writes it.
        progress: called after each step.
        ranks: the processes that train together (`scaletut.train.distributed.join`). Sharded (`fsdp`), `model` is left
            in shards, and the result's is a complete one.
        objective: what is lowered, instead of the cross-entropy with the recipe's label smoothing: a function of
            images, logits and labels, such as `scaletut.compress.Distillation`. Its attribute `key`, plain JSON that
            tells it from others, is asked for with a checkpoint; its method `flops(side)`, FLOPs of an image of
            `side` pixels beyond the network's own, is added to the result's where there is one.

    Raises:
        ParameterError: recipe and network, device or ranks do not go together, or an objective without a `key` is to
            be resumed.
        CheckpointError: the checkpoint is damaged or belongs to another run.
    """
    how = how or execution(ranks.device or device, recipe.precision, recipe.channels_last)
    path = Path(checkpoint) if checkpoint else None
    if path and objective and not hasattr(objective, "key"):
        raise ParameterError("a checkpoint must not continue a run with another loss: give the objective a `key`")
    run = Run(model, train, recipe, seed, validation, normalisation, how, ranks, objective)
    if path:
        run.resume(path)
    try:
        status = run.train(progress, path, checkpoint_seconds)
    except KeyboardInterrupt:
        if path and ranks.alone:
            run.save(path)
        raise
    if path and ranks.main:
        path.unlink(missing_ok=True)
    return run.result(status)


class Run:
    """The state of one run: everything that a checkpoint must hold, and the step that changes it; `fit` drives it."""

    def __init__(
        self,
        model: nn.Module,
        train: ImageSet,
        recipe: Recipe,
        seed: int,
        validation: ImageSet | None,
        normalisation: Normalisation | None,
        how: Execution,
        ranks: Ranks = ALONE,
        objective: Objective | None = None,
    ) -> None:
        if ranks.shards and recipe.optimizer == "muon":
            raise ParameterError("Muon needs whole matrices and FSDP shards them: use mode='ddp' or optimizer='sgd'")
        if how.micro_batch and min(recipe.batch_size, len(train)) % ranks.size:
            raise ParameterError("micro-batches need shares of one size: give a batch that the ranks divide")
        self.recipe, self.seed, self.validation, self.how, self.ranks = recipe, seed, validation, how, ranks
        self.objective = objective
        self.normalisation = normalisation or _plain(channel_statistics(train))
        parameter_kinds(model)  # refuses a frozen network before its FLOPs are counted
        side = train.images.shape[1]
        self.flops_per_image = training_flops(model, side)
        if hasattr(objective, "flops"):
            self.flops_per_image += objective.flops(side)
        self.skeleton = ranks.skeleton(model)
        self.model, self.forward = prepare(model, how, ranks)
        self.batches = Batches(
            train,
            batch_size=recipe.batch_size,
            augment=recipe.augment,
            mean=self.normalisation[0],
            std=self.normalisation[1],
            seed=seed,
            device=how.device,
            dtype=how.dtype,
            channels_last=how.channels_last,
            drop_last=len(train) >= recipe.batch_size,
            rank=ranks.rank,
            ranks=ranks.size,
        )
        self.images_a_step = min(recipe.batch_size, len(train))  # of all ranks; a smaller last batch is dropped
        self.steps = max(1, math.ceil(recipe.epochs * len(self.batches)))
        self.optimizers = make_optimizers(self.model, recipe, fused=how.fused)
        # torch.manual_seed also asks each kind of accelerator that could be there, which takes 3 ms, a step's eighth.
        self.reseed = torch.default_generator.manual_seed if how.device.type == "cpu" else torch.manual_seed
        self.average: WeightAverage | None = None
        self.loss_scale = 2.0**12 if how.autocast == torch.float16 else 1.0
        self.step, self.images, self.seconds = 0, 0, 0.0
        self.totals = torch.zeros(3, device=how.device)  # loss sum, correct, images of the running epoch
        self.history: list[EpochStats] = []
        self.best: dict[str, Tensor] | None = None
        self.key = digest_json(
            {
                "recipe": recipe.to_dict(),
                "seed": seed,
                "data": train.digest,
                "network": [[name, list(value.shape)] for name, value in model.state_dict().items()],
                "trainable": [name for name, p in model.named_parameters() if p.requires_grad],
                "normalisation": self.normalisation,
                **({"objective": getattr(objective, "key", None)} if objective else {}),
            }
        )

    # --- one step

    def train_step(self, images: Tensor, labels: Tensor) -> None:
        share = rate_share(self.step, self.steps, self.recipe)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["peak"] * share
        at = (self.seed, self.step, *([] if self.ranks.main else [self.ranks.rank]))
        self.reseed(hash(at) % 2**63)  # dropout becomes a function of seed, step and rank
        # Ranks average their gradients; a share that is larger than the others weighs more, as its images are more.
        scale = self.loss_scale * len(labels) * self.ranks.size / self.images_a_step
        loss, logits = backward(self.forward, images, labels, self.recipe, self.how, scale, self.ranks, self.objective)
        if self.gradients_usable():
            for optimizer in self.optimizers:
                optimizer.step()
        self.model.zero_grad(set_to_none=True)
        with torch.no_grad():
            likeliest = labels if labels.ndim == 1 else labels.argmax(1)  # mix-up hands out shares of the classes
            correct = (logits.argmax(1) == likeliest).sum()
            self.totals += torch.stack([loss * len(labels), correct, torch.full_like(loss, len(labels))])
        self.step += 1
        self.images += self.images_a_step
        self.update_average()

    def gradients_usable(self) -> bool:
        """Undo the loss scale of fp16; an overflow halves it and skips the step (dynamic loss scaling)."""
        if self.loss_scale == 1.0:
            return True
        gradients = [local(p.grad) for p in self.model.parameters() if p.grad is not None]
        for gradient in gradients:
            gradient.div_(self.loss_scale)
        finite = self.ranks.all(bool(torch.stack([g.isfinite().all() for g in gradients]).all()))
        if not finite:
            self.loss_scale = max(1.0 + 1e-9, self.loss_scale / 2)
        return finite

    def update_average(self) -> None:
        horizon = self.recipe.averaging * self.steps
        if horizon and self.steps - self.step <= 3 * horizon:  # earlier weights would carry under 5 % in the end
            if self.average is None:
                self.average = WeightAverage(self.model, horizon)
            self.average.update(self.model)

    # --- the loop

    def train(self, progress: Callable[[Progress], None] | None, path: Path | None, every: float) -> Status:
        synchronise(self.how.device)
        started, before = time.perf_counter(), self.seconds
        saved = started
        with torch.random.fork_rng(devices=[self.how.device] if self.how.device.type == "cuda" else []):
            while True:
                if self.epoch_is_complete():  # also right after resuming a run that was cut off just here
                    self.end_epoch()
                    self.seconds = before + time.perf_counter() - started
                    if status := self.verdict():
                        return status
                    if path:
                        self.save(path)
                if self.step >= self.steps:
                    break
                epoch, offset = divmod(self.step, len(self.batches))
                self.model.train()
                for images, labels in self.batches.epoch(epoch, start=offset):
                    self.train_step(images, labels)
                    self.seconds = before + time.perf_counter() - started
                    if progress:
                        progress(Progress(self.step, self.steps, epoch, tuple(self.history)))
                    if path and self.ranks.from_main(lambda: time.perf_counter() - saved >= every):  # noqa: B023
                        self.save(path)
                        saved = time.perf_counter()
                    if self.step >= self.steps:
                        break
        synchronise(self.how.device)
        self.seconds = before + time.perf_counter() - started
        return "finished"

    def epoch_is_complete(self) -> bool:
        """Whether steps up to the end of an epoch, or of the run, still lack their entry in the history."""
        due = len(self.history) < math.ceil(self.step / len(self.batches))
        return due and (self.step % len(self.batches) == 0 or self.step >= self.steps)

    def end_epoch(self) -> None:
        loss, correct, images = (float(x) for x in self.ranks.total(self.totals))
        self.totals = torch.zeros_like(self.totals)
        scores: dict[str, float] = {}
        if self.validation is not None:
            network = self._averaged()
            logits = self.ranks.spread(
                lambda some: predict(network, some, self.normalisation, how=self.how), self.validation
            )
            outcome = report(np.nan_to_num(logits), self.validation.labels)
            scores["validation_loss"] = outcome.cross_entropy
            scores["validation_accuracy"] = outcome.accuracy
        rate = self.recipe.lr * rate_share(self.step - 1, self.steps, self.recipe)
        self.history.append(
            EpochStats(len(self.history), loss / images, correct / images, rate, self.seconds, **scores)
        )

    def _averaged(self) -> nn.Module:
        """The network as it would be handed over now; of a sharded one a complete copy."""
        model = self.ranks.whole(self.model, self.skeleton)
        if self.average is None:
            return model
        model = copy.deepcopy(model) if model is self.model else model
        model.load_state_dict(self.ranks.gathered(self.average.state), strict=False)
        return model

    def verdict(self) -> Status | None:
        """Whether the run ends here, and why."""
        if not math.isfinite(self.history[-1].loss):
            return "diverged"
        if not self.recipe.patience or self.validation is None:
            return None
        losses = [stats.validation_loss for stats in self.history]
        since_best = len(losses) - 1 - int(np.argmin(losses))
        if since_best == 0:
            self.best = {name: value.clone() for name, value in self._averaged().state_dict().items()}
        return "stopped early" if since_best >= self.recipe.patience else None

    # --- state

    def save(self, path: Path) -> None:
        """Write the checkpoint, the same with any number of ranks: whole tensors, sums over the ranks."""
        whole = self.ranks.gathered
        state = {
            "key": self.key,
            "model": whole(self.model.state_dict()),
            "optimizers": [whole(optimizer.state_dict()) for optimizer in self.optimizers],
            "average": whole(self.average.state) if self.average else None,
            "best": self.best,
            "loss_scale": self.loss_scale,
            "step": self.step,
            "images": self.images,
            "seconds": self.seconds,
            "totals": self.ranks.total(self.totals),
            "history": [asdict(stats) for stats in self.history],
        }
        if self.ranks.main:
            save_checkpoint(path, state)

    def resume(self, path: Path) -> None:
        where = self.how.device if self.ranks.alone else torch.device("cpu")
        state = self.ranks.from_main(lambda: load_checkpoint(path, self.key, where))
        if state is None:
            return
        self.model.load_state_dict(self.ranks.shared_out(state["model"], self.model))
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            self.ranks.load_optimizer(optimizer, saved)
        if state["average"] is not None:
            self.average = WeightAverage(self.model, self.recipe.averaging * self.steps)
            self.average.state = self.ranks.shared_out(state["average"], self.model)
        if state["best"] is not None:
            self.best = {name: value.to(self.how.device) for name, value in state["best"].items()}
        self.loss_scale = state["loss_scale"]
        self.step, self.images, self.seconds = state["step"], state["images"], state["seconds"]
        self.totals = state["totals"].to(self.how.device) * self.ranks.main  # the others start again from zero
        self.history = [EpochStats(**stats) for stats in state["history"]]

    def result(self, status: Status) -> TrainingResult:
        model = self.ranks.whole(self.model, self.skeleton)
        if self.best is not None:
            model.load_state_dict(self.best)
        elif self.average is not None:
            model.load_state_dict(self.ranks.gathered(self.average.state), strict=False)
        release_norms(model.eval())
        return TrainingResult(
            model=model,
            history=tuple(self.history),
            status=status,
            seconds=self.seconds,
            flops=self.flops_per_image * self.images,
            images_per_second=self.images / self.seconds,
            peak_memory_bytes=peak_memory_bytes(self.how.device),
            steps=self.step,
            normalisation=self.normalisation,
            execution=self.how.name,
            how=self.how,
        )


def _plain(statistics: tuple[Any, Any]) -> Normalisation:
    mean, std = statistics
    return tuple(float(x) for x in mean), tuple(float(x) for x in std)
